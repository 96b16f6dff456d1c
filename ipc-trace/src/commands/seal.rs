//! Gives up rights before untrusted bytes are decoded.

use std::{collections::BTreeMap, io};

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, SeccompRule, TargetArch};

/// Gives up the right to open anything: an attempt fails. The C library's allocator makes one (`check_may_shrink_heap`,
/// malloc/arena.c, glibc 2.36), and does without.
pub(super) fn seal() -> io::Result<()> {
    apply(Vec::new())
}

/// Gives up the right to open anything but files that it makes: `O_CREAT` with `O_EXCL`, which follows no symbolic link.
#[cfg(any(feature = "sqlite", feature = "parquet"))]
pub(super) fn seal_but_new_files() -> io::Result<()> {
    use seccompiler::{SeccompCmpArgLen, SeccompCmpOp, SeccompCondition};
    /// Which argument of openat(2) is its flags.
    const FLAGS: u8 = 2;
    let without = |flag: libc::c_int| {
        let none = SeccompCmpOp::MaskedEq(flag as u64);
        SeccompRule::new(vec![SeccompCondition::new(FLAGS, SeccompCmpArgLen::Dword, none, 0)?])
    };
    let rules = [libc::O_CREAT, libc::O_EXCL].map(without).into_iter().collect::<Result<_, _>>();
    apply(rules.map_err(io::Error::other)?)
}

/// `openat`: which calls of it are refused; if there are no rules, all.
fn apply(openat: Vec<SeccompRule>) -> io::Result<()> {
    let calls = [
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
    let mut rules: BTreeMap<_, _> = calls.into_iter().map(|call| (call, Vec::new())).collect();
    rules.insert(libc::SYS_openat, openat);
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(io::Error::other)?;
    let (others, these) = (SeccompAction::Allow, SeccompAction::Errno(libc::EPERM as u32));
    let filter = SeccompFilter::new(rules, others, these, arch).map_err(io::Error::other)?;
    let program: BpfProgram = filter.try_into().map_err(io::Error::other)?;
    seccompiler::apply_filter_all_threads(&program).map_err(io::Error::other)
}
