//! Gives up rights before untrusted bytes are decoded.

use std::{collections::BTreeMap, io};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// The calls that open files, sockets or programs, or other processes; but for openat.
const CALLS: &[libc::c_long] = &[
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_creat,
    libc::SYS_openat2,
    libc::SYS_open_by_handle_at,
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_connect,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_bpf,
];

/// Gives up the right to open anything: an attempt fails. The C library's allocator makes one (`check_may_shrink_heap`,
/// malloc/arena.c, glibc 2.36), and does without.
pub(super) fn seal() -> io::Result<()> {
    apply(Vec::new())
}

/// As [`seal`], but files that don't exist yet can be created: SQLite sorts in files of its own.
#[cfg(feature = "sqlite")]
pub(super) fn seal_but_new_files() -> io::Result<()> {
    let lacks = |flag: libc::c_int| {
        let flag = u64::try_from(flag).map_err(io::Error::other)?;
        let is_zero = SeccompCmpOp::MaskedEq(flag);
        let condition = SeccompCondition::new(2, SeccompCmpArgLen::Dword, is_zero, 0);
        let rule = condition.and_then(|condition| SeccompRule::new(vec![condition]));
        rule.map_err(io::Error::other)
    };
    apply(vec![lacks(libc::O_CREAT)?, lacks(libc::O_EXCL)?])
}

/// `openat`: the rules by which it fails; none: always.
fn apply(openat: Vec<SeccompRule>) -> io::Result<()> {
    let mut rules: BTreeMap<_, _> = CALLS.iter().map(|call| (*call, Vec::new())).collect();
    rules.insert(libc::SYS_openat, openat);
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(io::Error::other)?;
    let (others, these) = (SeccompAction::Allow, SeccompAction::Errno(libc::EPERM as u32));
    let filter = SeccompFilter::new(rules, others, these, arch).map_err(io::Error::other)?;
    let program: BpfProgram = filter.try_into().map_err(io::Error::other)?;
    seccompiler::apply_filter_all_threads(&program).map_err(io::Error::other)
}
