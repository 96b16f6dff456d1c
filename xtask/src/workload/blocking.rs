//! `blocked` and `restart`: calls that sleep until something wakes them or a signal arrives.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::FromRawFd as _;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::json;

use super::abi::is_error;
use super::calls::CountingCaller;
use super::mq::close;
use super::oracle::{ExpectedCounts, WorkloadReport, outcome};
use super::process::{self, Flag};
use super::sysv::SemStep;

/// An operation which can sleep.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Sleeper {
    /// `semop(2)` on a semaphore which is 0.
    Semop,
    /// `msgrcv(2)` from an empty queue.
    Msgrcv,
    /// `mq_timedreceive(2)` from an empty queue, without a timeout.
    MqReceive,
}

/// Options of `blocked`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Blocked {
    /// What the thread sleeps in.
    #[arg(long, value_enum)]
    op: Sleeper,
    /// For how long.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Not for some time, but until this descriptor yields a byte or ends.
    #[arg(long, conflicts_with = "seconds")]
    until_fd: Option<i32>,
    /// Leave for a new IPC namespace first.
    #[arg(long)]
    fresh: bool,
}

/// An object to sleep on.
#[derive(Clone, Copy, Debug)]
struct SleepObject {
    kind: Sleeper,
    id: i32,
}

impl SleepObject {
    fn make(kind: Sleeper, caller: &mut CountingCaller) -> Result<Self> {
        let id = match kind {
            Sleeper::Semop => caller.semget(libc::IPC_PRIVATE, 1, 0o600),
            Sleeper::Msgrcv => caller.msgget(libc::IPC_PRIVATE, 0o600),
            Sleeper::MqReceive => {
                let name = format!("ipc-trace-blocked-{}", process::tid());
                let oflag = libc::O_CREAT | libc::O_EXCL | libc::O_RDWR;
                let fd = caller.mq_open(name.as_bytes(), oflag, 0o600, Some((4, 64)));
                caller.mq_unlink(name.as_bytes());
                fd
            }
        };
        ensure!(!is_error(id), "cannot create an object to sleep on: {}", outcome(id));
        Ok(Self { kind, id: id as i32 })
    }

    fn sleep(self, caller: &mut CountingCaller) -> i64 {
        match self.kind {
            Sleeper::Semop => caller.semop(self.id, &[SemStep(0, -1, 0)]),
            Sleeper::Msgrcv => caller.msgrcv(self.id, 64, 0, 0),
            Sleeper::MqReceive => caller.mq_receive(self.id, 64, None),
        }
    }

    fn wake(self, caller: &mut CountingCaller) -> i64 {
        match self.kind {
            Sleeper::Semop => caller.semop(self.id, &[SemStep(0, 1, 0)]),
            Sleeper::Msgrcv => caller.msgsnd(self.id, 1, b"wake up", 0),
            Sleeper::MqReceive => caller.mq_send(self.id, b"wake up", 0, None),
        }
    }

    fn remove(self, caller: &mut CountingCaller) {
        match self.kind {
            Sleeper::Semop => {
                caller.semctl(self.id, 0, libc::IPC_RMID, 0);
            }
            Sleeper::Msgrcv => {
                caller.msgctl(self.id, libc::IPC_RMID);
            }
            Sleeper::MqReceive => close(i64::from(self.id)),
        }
    }

    /// The native number of the call that sleeps.
    fn number(self) -> i64 {
        match self.kind {
            Sleeper::Semop => libc::SYS_semop,
            Sleeper::Msgrcv => libc::SYS_msgrcv,
            Sleeper::MqReceive => libc::SYS_mq_timedreceive,
        }
    }

    fn name(self) -> &'static str {
        match self.kind {
            Sleeper::Semop => "semop",
            Sleeper::Msgrcv => "msgrcv",
            Sleeper::MqReceive => "mq_receive",
        }
    }
}

pub(crate) fn blocked(options: &Blocked) -> Result<()> {
    let seconds = Duration::try_from_secs_f64(options.seconds)?;
    if options.fresh {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWIPC)?;
    }
    let mut caller = CountingCaller::new(if options.fresh { "fresh" } else { "home" })?;
    let object = SleepObject::make(options.op, &mut caller)?;
    let mut sleeper = caller.sibling()?;
    let tid = AtomicI32::new(0);
    let (sleeper, ret) = std::thread::scope(|scope| -> Result<_> {
        let thread =
            std::thread::Builder::new().name("sleeper".into()).spawn_scoped(scope, || {
                tid.store(process::tid(), Ordering::Release);
                let ret = object.sleep(&mut sleeper);
                (sleeper, ret)
            })?;
        while tid.load(Ordering::Acquire) == 0 {
            std::thread::yield_now();
        }
        let tid = tid.load(Ordering::Acquire);
        let is_blocked = process::wait_blocked(std::process::id() as i32, tid, object.number());
        println!(
            "{}",
            json!({"tid": tid, "pid": std::process::id(), "inum": caller.inum(), "op": object.name(),
                   "blocked": is_blocked.is_ok()})
        );
        match options.until_fd {
            // SAFETY: the option says that the descriptor is there for this process to use.
            Some(fd) => drop(unsafe { File::from_raw_fd(fd) }.read(&mut [0])),
            None => std::thread::sleep(seconds),
        }
        // Wake it in any case: otherwise the join below would never return.
        object.wake(&mut caller);
        let done = thread.join().expect("the sleeper panicked");
        is_blocked.map(|()| done)
    })?;
    object.remove(&mut caller);
    caller.absorb(sleeper);
    let tid = tid.into_inner();
    caller.report().fact("tid", tid).fact("op", object.name()).fact("ret", outcome(ret)).print()
}

/// What disturbs a sleeper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Disturbance {
    /// A handler installed without `SA_RESTART`.
    Plain,
    /// A handler installed with `SA_RESTART`.
    Restart,
    /// `SIGSTOP` and `SIGCONT`, for which there is no handler.
    Stop,
}

/// How often each sleeper is disturobject.
const SIGNALS: usize = 2;

static HANDLED: AtomicI32 = AtomicI32::new(-1);

extern "C" fn handler(_: libc::c_int) {
    let one = 1_u64;
    // SAFETY: writes the 8 bytes of a live integer; write(2) is async-signal-safe.
    unsafe { libc::write(HANDLED.load(Ordering::Relaxed), (&raw const one).cast(), 8) };
}

pub(crate) fn restart() -> Result<()> {
    let mut caller = {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWIPC)?;
        CountingCaller::new("restart")?
    };
    let mut counts = ExpectedCounts::default();
    let mut steps = Vec::new();
    for kind in [Sleeper::Msgrcv, Sleeper::MqReceive, Sleeper::Semop] {
        for disturbance in [Disturbance::Plain, Disturbance::Restart, Disturbance::Stop] {
            let object = SleepObject::make(kind, &mut caller)?;
            let report = disturb(object, disturbance, &mut caller)?;
            steps.push(serde_json::Value::Object(report.facts));
            counts.merge(report.counts);
            object.remove(&mut caller);
        }
    }
    let mut report = caller.report();
    report.counts.merge(counts);
    report.fact("steps", steps).print()
}

/// Disturbs one sleeper, a process of its own, and then wakes it. It calls again whenever it
/// gets EINTR.
fn disturb(
    object: SleepObject,
    disturbance: Disturbance,
    caller: &mut CountingCaller,
) -> Result<WorkloadReport> {
    let handled = Flag::new()?;
    let child = process::spawn(b"sleeper", || {
        HANDLED.store(handled.raw(), Ordering::Relaxed);
        let flags = if disturbance == Disturbance::Restart {
            SaFlags::SA_RESTART
        } else {
            SaFlags::empty()
        };
        let action = SigAction::new(SigHandler::Handler(handler), flags, SigSet::empty());
        // SAFETY: the handler makes one async-signal-safe call.
        unsafe { sigaction(Signal::SIGUSR1, &action) }?;
        let mut caller = CountingCaller::new("restart")?;
        let mut results = Vec::new();
        while results.last().is_none_or(|&ret| ret == -i64::from(libc::EINTR)) {
            results.push(object.sleep(&mut caller));
        }
        // Each signal either ended a call or made the kernel enter it once more.
        let restarts = SIGNALS - (results.len() - 1);
        Ok(caller
            .report()
            .fact("op", object.name())
            .fact("signal", format!("{disturbance:?}").to_lowercase())
            .fact("tid", process::tid())
            .fact("results", results.iter().map(|&ret| outcome(ret)).collect::<Vec<_>>())
            .fact("signals", SIGNALS)
            .fact("restarts", restarts))
    })?;
    let pid = child.pid;
    for _ in 0..SIGNALS {
        process::wait_blocked(pid.as_raw(), pid.as_raw(), object.number())?;
        send(pid, disturbance, &handled)?;
    }
    process::wait_blocked(pid.as_raw(), pid.as_raw(), object.number())?;
    object.wake(caller);
    child.join()
}

fn send(pid: Pid, disturbance: Disturbance, handled: &Flag) -> Result<()> {
    match disturbance {
        Disturbance::Plain | Disturbance::Restart => {
            nix::sys::signal::kill(pid, Signal::SIGUSR1)?;
            handled.wait()
        }
        Disturbance::Stop => {
            nix::sys::signal::kill(pid, Signal::SIGSTOP)?;
            let status = waitpid(pid, Some(WaitPidFlag::WUNTRACED))?;
            ensure!(matches!(status, WaitStatus::Stopped(..)), "not stopped: {status:?}");
            nix::sys::signal::kill(pid, Signal::SIGCONT)?;
            Ok(())
        }
    }
}
