//! `seccomp`: calls which a filter answers in place of the kernel's IPC code. Such a call
//! never reaches the system call's body, but its caller does see a result.

use anyhow::{Result, ensure};
use serde_json::json;

use super::calls::{CountingCaller, Route};
use super::oracle::WorkloadReport;
use super::process;
use super::sysv::SemStep;

/// `AUDIT_ARCH_X86_64`; the filter takes all else for i386.
const X86_64: u32 = 0xc000_003e;

const LOAD: u16 = 0x20;
const JUMP_IF_EQUAL: u16 = 0x15;
const AND: u16 = 0x54;
const RETURN: u16 = 0x06;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;

const fn op(code: u16, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt: 0, jf: 0, k }
}

const fn jump(k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code: JUMP_IF_EQUAL, jt, jf, k }
}

/// A filter that gives some calls an answer, by every route, and lets all others pass. The calls are named
/// by their numbers on x86-64, those on i386, and those of `ipc(2)`.
pub(super) fn filter(
    answer: u32,
    native: &[u32],
    i386: &[u32],
    through_ipc: &[u32],
) -> Vec<libc::sock_filter> {
    let answered = |numbers: &[u32]| {
        let pairs = numbers.iter().map(|number| [jump(*number, 0, 1), op(RETURN, answer)]);
        pairs.flatten().collect::<Vec<_>>()
    };
    let allow = op(RETURN, libc::SECCOMP_RET_ALLOW);
    let native = [vec![op(LOAD, NUMBER)], answered(native), vec![allow]].concat();
    let compat = [
        vec![op(LOAD, NUMBER)],
        answered(i386),
        vec![jump(117, 1, 0), allow, op(LOAD, FIRST_ARGUMENT), op(AND, 0xffff)],
        answered(through_ipc),
        vec![allow],
    ];
    let head = vec![op(LOAD, ARCH), jump(X86_64, 0, native.len() as u8)];
    [head, native, compat.concat()].concat()
}

/// Answers `semget` and `msgget` with EPERM, by every route.
static FILTER: [libc::sock_filter; 16] = [
    op(LOAD, ARCH),
    jump(X86_64, 0, 4),
    op(LOAD, NUMBER),
    jump(64, 11, 0),
    jump(68, 10, 0),
    op(RETURN, libc::SECCOMP_RET_ALLOW),
    op(LOAD, NUMBER),
    jump(393, 7, 0),
    jump(399, 6, 0),
    jump(117, 0, 4),
    op(LOAD, FIRST_ARGUMENT),
    op(AND, 0xffff),
    jump(2, 2, 0),
    jump(13, 1, 0),
    op(RETURN, libc::SECCOMP_RET_ALLOW),
    op(RETURN, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
];

/// Puts a filter into force for the thread. With the flag for a listener, its descriptor is returned.
pub(super) fn install(filter: &[libc::sock_filter], flags: libc::c_ulong) -> Result<i32> {
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: plain numbers; afterwards no exec can gain privileges.
    let ret = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    ensure!(ret == 0, "prctl: {}", std::io::Error::last_os_error());
    // SAFETY: the program is only read, and outlives the call.
    let ret = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
    };
    ensure!(ret >= 0, "seccomp: {}", std::io::Error::last_os_error());
    Ok(ret as i32)
}

pub(crate) fn run() -> Result<()> {
    process::spawn(b"filtered", filtered)?.join()?.print()
}

fn filtered() -> Result<WorkloadReport> {
    let mut caller = CountingCaller::new("home")?;
    caller.unshare("filtered")?;
    let sem = caller.semget(libc::IPC_PRIVATE, 1, 0o600) as i32;
    let msq = caller.msgget(libc::IPC_PRIVATE, 0o600) as i32;
    install(&FILTER, 0)?;
    let mut filtered = 0;
    for route in Route::ALL {
        caller.by(route);
        for ret in [caller.semget(libc::IPC_PRIVATE, 1, 0o600), caller.msgget(0x5ecc, 0o600)] {
            ensure!(ret == -i64::from(libc::EPERM), "the filter let a call pass: {ret}");
            filtered += 1;
        }
        caller.semop(sem, &[SemStep(0, 1, 0)]);
        caller.msgsnd(msq, 1, b"allowed", 0);
        caller.msgrcv(msq, 16, 0, libc::IPC_NOWAIT);
        caller.msgrcv(msq, 16, 0, libc::IPC_NOWAIT);
    }
    caller.by(Route::Native);
    caller.semctl(sem, 0, libc::IPC_RMID, 0);
    caller.msgctl(msq, libc::IPC_RMID);
    let half = filtered / 2;
    Ok(caller
        .report()
        .fact("tid", process::tid())
        .fact("filtered", json!({"semget": half, "msgget": half})))
}
