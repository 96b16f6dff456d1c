//! `never-made`: calls that enter and return, and that the kernel never makes, since a filter answers them or a
//! tracer skips them. Some of the answers look like success.
//!
//! Each means has a process of its own in a namespace of its own. Afterwards the workload checks that the calls
//! created and removed nothing.

use std::arch::asm;
use std::sync::mpsc;

use anyhow::{Context as _, Result, ensure};
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::abi::is_error;
use super::calls::{CountingCaller, Route};
use super::oracle::{WorkloadOp, WorkloadReport, outcome};
use super::process;
use super::seccomp::{filter, install};
use super::sysv::SemStep;

/// `semget`, `shmget`, `msgget`, `semop`, `shmctl`, `mq_open`: how seccomp names them.
const NATIVE: [u32; 6] = [64, 29, 68, 65, 31, 240];
const I386: [u32; 6] = [393, 395, 399, 420, 396, 277];
const THROUGH_IPC: [u32; 5] = [2, 23, 13, 1, 24];

/// The means by which calls are prevented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Means {
    /// `SECCOMP_RET_TRAP`, with a handler that answers as an emulator would.
    Trap,
    /// `SECCOMP_RET_ERRNO` with that number.
    Errno(u16),
    /// `SECCOMP_RET_TRACE`, and there is no tracer.
    Trace,
    /// `SECCOMP_RET_USER_NOTIF`, with a supervisor who gives each of [`ANSWERS`] in turn.
    Notify,
    /// `PTRACE_SYSEMU`, with a tracer who does the same.
    Emulate,
    /// A tracer makes another call of each: the kernel makes that one.
    Renumber,
    /// A tracer makes each a call of no number at all.
    Unnumber,
}

const ALL: [(Means, &str); 8] = [
    (Means::Trap, "trap"),
    (Means::Errno(0), "errno 0"),
    (Means::Errno(libc::EACCES as u16), "errno"),
    (Means::Trace, "trace"),
    (Means::Notify, "notify"),
    (Means::Emulate, "emulate"),
    (Means::Renumber, "renumber"),
    (Means::Unnumber, "unnumber"),
];

/// What a supervisor or a tracer answers; `None`: it lets the kernel make the call, or sets no answer.
const ANSWERS: [Option<i64>; 4] = [Some(0), Some(7777), Some(-13), None];

/// What a handler of SIGSYS answers.
const HANDLED: i64 = -38;

pub(crate) fn run() -> Result<()> {
    let mut sum = WorkloadReport::default();
    for (means, name) in ALL {
        let is_traced = matches!(means, Means::Emulate | Means::Renumber | Means::Unnumber);
        let child = process::spawn(b"prevented", || prevented(means, name))?;
        if is_traced {
            trace(child.pid, means).with_context(|| format!("tracing of {name}"))?;
        }
        sum.absorb(child.join().with_context(|| name.to_owned())?);
    }
    sum.absorb(process::spawn(b"wide", wide)?.join()?);
    sum.print()
}

/// Stops the thread for its tracer, which then lets it continue to its next call.
fn stop_for_tracer() {
    // SAFETY: a breakpoint, at which only a tracer stops the thread.
    unsafe { asm!("int3", options(nomem, nostack)) };
}

extern "C" fn on_trap(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel gives a handler with SA_SIGINFO the thread's registers.
    unsafe {
        let context = context.cast::<libc::ucontext_t>();
        (*context).uc_mcontext.gregs[libc::REG_RAX as usize] = HANDLED;
    }
}

fn handle_traps() -> Result<()> {
    // SAFETY: all zero is a signal's plain disposition; the handler only writes registers.
    let ret = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_trap as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut())
    };
    ensure!(ret == 0, "sigaction: {}", std::io::Error::last_os_error());
    Ok(())
}

/// A process whose calls are prevented. Its report has them as `prevented`, with the `ret` that a line about each may
/// have.
fn prevented(means: Means, name: &str) -> Result<WorkloadReport> {
    let mut caller = CountingCaller::with_log("home")?;
    let inum = caller.unshare(name)?;
    let set = caller.semget(libc::IPC_PRIVATE, 1, 0o600) as i32;
    let segment = caller.shmget(libc::IPC_PRIVATE, 4096, 0o600);
    ensure!(!is_error(segment), "shmget: {}", outcome(segment));
    let answer = match means {
        Means::Trap => libc::SECCOMP_RET_TRAP,
        Means::Errno(number) => libc::SECCOMP_RET_ERRNO | u32::from(number),
        Means::Trace => libc::SECCOMP_RET_TRACE,
        Means::Notify => libc::SECCOMP_RET_USER_NOTIF,
        Means::Emulate | Means::Renumber | Means::Unnumber => libc::SECCOMP_RET_ALLOW,
    };
    let filter = filter(answer, &NATIVE, &I386, &THROUGH_IPC);
    caller.take_log();
    match means {
        Means::Notify => supervised(&mut caller, &filter, (set, segment as i32))?,
        Means::Emulate | Means::Renumber | Means::Unnumber => {
            ptrace::traceme()?;
            attempt(&mut caller, means, (set, segment as i32));
        }
        Means::Trap | Means::Errno(_) | Means::Trace => {
            if means == Means::Trap {
                handle_traps()?;
            }
            install(&filter, 0)?;
            attempt(&mut caller, means, (set, segment as i32));
        }
    }
    let calls = caller.take_log();
    let prevented =
        calls.into_iter().enumerate().filter_map(|(at, call)| expected_line(means, at, call));
    let prevented: Vec<Value> = prevented.collect();
    check_segments(means)?;
    let here = json!([{"inum": inum, "tid": process::tid(), "means": name, "segment": segment}]);
    Ok(caller.report().fact("prevented", prevented).fact("processes", here))
}

/// What a tracer must show of the call at that index of the log; `None`: it was made, or can't be seen.
fn expected_line(means: Means, at: usize, call: Value) -> Option<Value> {
    let ret = match means {
        // What the handler puts there, no tracer can know.
        Means::Trap => Value::Null,
        Means::Errno(_) | Means::Trace => call["ret"].clone(),
        Means::Notify => json!(ANSWERS[at % ANSWERS.len()]?),
        Means::Emulate => ANSWERS[at % ANSWERS.len()].map_or(Value::Null, Value::from),
        Means::Renumber | Means::Unnumber => return None,
    };
    Some(json!({"tid": call["tid"], "op": call["op"], "abi": call["abi"], "ret": ret}))
}

/// Makes the calls, by every route.
fn attempt(caller: &mut CountingCaller, means: Means, (set, segment): (i32, i32)) {
    let is_traced = matches!(means, Means::Emulate | Means::Renumber | Means::Unnumber);
    let mut at = 0;
    let mut each = |caller: &mut CountingCaller, call: &dyn Fn(&mut CountingCaller) -> i64| {
        let is_made = means == Means::Notify && ANSWERS[at % ANSWERS.len()].is_none();
        caller.set_prevented(!is_made);
        at += 1;
        if is_traced {
            stop_for_tracer();
        }
        let ret = call(caller);
        if means == Means::Renumber {
            caller.note_many(WorkloadOp::Shmget, ret, 1);
        }
    };
    for route in Route::ALL {
        caller.by(route);
        if means == Means::Renumber {
            // The tracer makes each a shmget of that size.
            each(caller, &|c| c.semget(libc::IPC_PRIVATE, 4096, 0o600));
            continue;
        }
        each(caller, &|c| c.semget(0x6b65, 1, libc::IPC_CREAT | 0o600));
        each(caller, &|c| c.shmget(libc::IPC_PRIVATE, 8192, 0o600));
        each(caller, &|c| c.msgget(libc::IPC_PRIVATE, 0o600));
        each(caller, &|c| c.semop(set, &[SemStep(0, 1, 0)]));
        // The supervisor lets none of these pass.
        each(caller, &|c| c.shmctl(segment, libc::IPC_RMID));
        let oflag = libc::O_CREAT | libc::O_RDWR;
        each(caller, &|c| c.mq_open(b"never-made", oflag, 0o600, None));
    }
    caller.by(Route::Native).set_prevented(false);
}

/// The kernel's own list of the namespace's segments.
fn check_segments(means: Means) -> Result<()> {
    let list = std::fs::read_to_string("/proc/sysvipc/shm")?;
    let there = list.lines().count() - 1;
    ensure!(there >= 1, "{means:?}: the segment was removed");
    Ok(())
}

/// `struct seccomp_notif` and `struct seccomp_notif_resp` (include/uapi/linux/seccomp.h).
#[repr(C)]
struct Notice {
    id: u64,
    pid: u32,
    flags: u32,
    data: [u64; 8],
}

#[repr(C)]
struct Response {
    id: u64,
    val: i64,
    error: i32,
    flags: u32,
}

const NOTIF_RECV: libc::c_ulong = 0xc050_2100;
const NOTIF_SEND: libc::c_ulong = 0xc018_2101;

/// Makes the calls while another thread of the process answers them.
fn supervised(
    caller: &mut CountingCaller,
    filter: &[libc::sock_filter],
    objects: (i32, i32),
) -> Result<()> {
    let (send, receive) = mpsc::channel::<i32>();
    // It has no filter, as it was there before.
    let supervisor = std::thread::spawn(move || {
        let Ok(listener) = receive.recv() else { return };
        let mut at = 0;
        loop {
            let mut notice = Notice { id: 0, pid: 0, flags: 0, data: [0; 8] };
            // SAFETY: the kernel fills a structure that it finds all zero.
            if unsafe { libc::ioctl(listener, NOTIF_RECV, &raw mut notice) } != 0 {
                return;
            }
            let mut response = Response { id: notice.id, val: 0, error: 0, flags: 0 };
            match ANSWERS[at % ANSWERS.len()] {
                Some(error) if is_error(error) => response.error = error as i32,
                Some(value) => response.val = value,
                // SECCOMP_USER_NOTIF_FLAG_CONTINUE
                None => response.flags = 1,
            }
            at += 1;
            // SAFETY: the kernel only reads the structure.
            unsafe { libc::ioctl(listener, NOTIF_SEND, &raw const response) };
        }
    });
    let listener = install(filter, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER)?;
    send.send(listener)?;
    attempt(caller, Means::Notify, objects);
    // It waits for the next call, and ends with the process.
    drop(supervisor);
    Ok(())
}

fn stop(child: Pid) -> Result<WaitStatus> {
    Ok(waitpid(child, None)?)
}

/// The tracer's side of [`attempt`].
fn trace(child: Pid, means: Means) -> Result<()> {
    let mut at = 0;
    loop {
        let status = stop(child)?;
        let trapped = WaitStatus::Stopped(child, Signal::SIGTRAP);
        ensure!(status == trapped, "the child did not reach a call: {status:?}");
        if means == Means::Emulate {
            ptrace::sysemu(child, None)?;
        } else {
            ptrace::syscall(child, None)?;
        }
        let status = stop(child)?;
        ensure!(status == trapped, "the child did not enter a call: {status:?}");
        let mut registers = ptrace::getregs(child)?;
        if means == Means::Emulate {
            if let Some(answer) = ANSWERS[at % ANSWERS.len()] {
                registers.rax = answer as u64;
            }
        } else if means == Means::Unnumber {
            registers.orig_rax = u64::MAX;
        } else {
            // shmget, by the number that the call has; of ipc(2), its own.
            match registers.orig_rax {
                64 => registers.orig_rax = 29,
                393 => registers.orig_rax = 395,
                _ => registers.rbx = 23,
            }
        }
        ptrace::setregs(child, registers)?;
        at += 1;
        if at == if means == Means::Renumber { 3 } else { 18 } {
            ptrace::detach(child, None)?;
            return Ok(());
        }
        ptrace::cont(child, None)?;
    }
}

/// `int 0x80` with bit 30 in its number: on x86-64 that bit means x32, here it is no call at all.
fn wide() -> Result<WorkloadReport> {
    let mut caller = CountingCaller::new("home")?;
    let inum = caller.unshare("wide")?;
    for number in [117, 393, 395, 277] {
        // SAFETY: there is no call of that number, so nothing is read.
        let ret = unsafe { super::abi::int80(number | 1 << 30, [2, 0, 1, 0o600, 0, 0]) };
        ensure!(ret == -i64::from(libc::ENOSYS), "the kernel knows the number: {}", outcome(ret));
    }
    let wide = json!({"inum": inum, "tid": process::tid()});
    Ok(caller.report().fact("wide", wide))
}
