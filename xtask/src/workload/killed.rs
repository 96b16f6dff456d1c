//! `killed`: threads that are killed while a tracer stops them at the entry of a call. The kernel never
//! makes such a call.

use anyhow::{Result, ensure};
use nix::{
    sys::{
        ptrace,
        signal::{Signal, raise},
        wait::{WaitStatus, waitpid},
    },
    unistd::{ForkResult, Pid, fork},
};

use super::{
    calls::{CountingCaller, Route},
    oracle::{ExpectedCounts, WorkloadReport},
};

/// A key that no object has.
const FREE: i32 = 0x3fff_ffd0;

/// How a call is made, which one, and its number there.
type KilledCall = (Route, fn(&mut CountingCaller), u64);

/// The calls which are not made: one that could block, and one that could not.
const CALLS: [KilledCall; 4] = [
    (Route::Native, receive, 70),
    (Route::Native, get, 29),
    (Route::Int80Direct, receive, 401),
    (Route::Int80Direct, get, 395),
];

fn receive(caller: &mut CountingCaller) {
    caller.msgrcv(0, 16, 0, libc::IPC_NOWAIT);
}

fn get(caller: &mut CountingCaller) {
    caller.shmget(FREE, 1, 0);
}

/// Each thread makes a `semget` that fails, and then dies.
pub(crate) fn run() -> Result<()> {
    let mut killed = Vec::new();
    for (route, call, number) in CALLS {
        // SAFETY: this process has one thread.
        match unsafe { fork() }? {
            ForkResult::Child => {
                // The error is not reported: the parent sees that the child ended.
                let _ = tracee(route, call);
                // SAFETY: ends the child without running what belongs to the parent.
                unsafe { libc::_exit(1) }
            }
            ForkResult::Parent { child } => {
                kill_at_entry(child, number)?;
                killed.push(child.as_raw());
            }
        }
    }
    WorkloadReport::new(ExpectedCounts::default()).fact("killed", killed).print()
}

fn tracee(route: Route, call: fn(&mut CountingCaller)) -> Result<()> {
    let mut caller = CountingCaller::new("home")?;
    caller.by(route);
    ptrace::traceme()?;
    raise(Signal::SIGSTOP)?;
    caller.semget(FREE, 1, 0);
    call(&mut caller);
    Ok(())
}

/// The stops at a call's entry and at its return look the same, but this call never returns.
fn kill_at_entry(child: Pid, number: u64) -> Result<()> {
    let status = waitpid(child, None)?;
    ensure!(
        status == WaitStatus::Stopped(child, Signal::SIGSTOP),
        "the child did not stop: {status:?}"
    );
    ptrace::setoptions(
        child,
        ptrace::Options::PTRACE_O_TRACESYSGOOD | ptrace::Options::PTRACE_O_EXITKILL,
    )?;
    loop {
        ptrace::syscall(child, None)?;
        let status = waitpid(child, None)?;
        ensure!(
            status == WaitStatus::PtraceSyscall(child),
            "the child did not reach the call: {status:?}"
        );
        if ptrace::getregs(child)?.orig_rax == number {
            break;
        }
    }
    ptrace::kill(child)?;
    let status = waitpid(child, None)?;
    ensure!(
        status == WaitStatus::Signaled(child, Signal::SIGKILL, false),
        "the child was not killed: {status:?}"
    );
    Ok(())
}
