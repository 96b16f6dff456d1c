//! `control-flood` and `foreign-sends`: an unprivileged user who floods a tracer's control ring, and calls that the
//! tracer must not miss meanwhile.

use std::ffi::CString;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::errno::Errno;
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, unshare};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Gid, Pid, Uid, setgid, setgroups, setuid};
use serde_json::json;

use super::abi::is_error;
use super::calls::CountingCaller;
use super::churn;
use super::oracle::{WorkloadReport, outcome};
use super::process::{self, Flag};

/// Options of `control-flood`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ControlFlood {
    /// What the control ring is flooded with
    #[arg(value_enum)]
    kind: FloodKind,
    /// How long
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// By which user
    #[arg(long, default_value_t = 65_534)]
    user: u32,
}

/// What a tracer's control ring is flooded with.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum FloodKind {
    /// Two queues by turns, whose inode numbers have the same low 12 bits
    Queues,
    /// Processes that make one call each
    Processes,
    /// A thread that could have got into other namespaces before each call
    Contexts,
    /// Namespaces, and the processes that make them
    Namespaces,
    /// Objects
    Objects,
}

/// Options of `foreign-sends`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Sends {
    /// How many
    #[arg(long, default_value_t = 1000)]
    count: u32,
    /// Milliseconds from one to the next
    #[arg(long, default_value_t = 0)]
    pause_ms: u64,
}

/// Calls between two reads of the clock.
const ROUND: u32 = 256;
/// No object has this key.
const KEY: i32 = 0x7f10_0d00;

pub(crate) fn run(options: &ControlFlood) -> Result<()> {
    let time = Duration::from_secs(options.seconds);
    let mut children = Vec::new();
    for cpu in 0..std::thread::available_parallelism()?.get() {
        let work = || {
            let mut one = CpuSet::new();
            one.set(cpu)?;
            sched_setaffinity(Pid::from_raw(0), &one)?;
            setgroups(&[])?;
            setgid(Gid::from_raw(options.user))?;
            setuid(Uid::from_raw(options.user))?;
            let mut queues = 0;
            let rounds = match options.kind {
                FloodKind::Queues => colliding_queues(cpu, time, &mut queues)?,
                FloodKind::Processes => repeated(time, || one_call_of_a_copy(CloneFlags::empty()))?,
                FloodKind::Contexts => contexts(time)?,
                FloodKind::Namespaces => {
                    // In its own user namespace it may create others.
                    unshare(CloneFlags::CLONE_NEWUSER)?;
                    repeated(time, || one_call_of_a_copy(CloneFlags::CLONE_NEWIPC))?
                }
                FloodKind::Objects => repeated(time, make_and_remove)?,
            };
            Ok(WorkloadReport::default()
                .fact("rounds", json!([rounds]))
                .fact("queues", json!([queues])))
        };
        children.push(process::spawn(b"control-flood", work)?);
    }
    process::join_all(children)?.print()
}

/// Does something for a while: how often.
fn repeated(time: Duration, mut work: impl FnMut() -> Result<()>) -> Result<u64> {
    let end = Instant::now() + time;
    let mut rounds = 0;
    while Instant::now() < end {
        for _ in 0..ROUND {
            work()?;
        }
        rounds += u64::from(ROUND);
    }
    Ok(rounds)
}

/// Asks for the attributes of two queues by turns, when so many were `made` that two collide.
fn colliding_queues(cpu: usize, time: Duration, made: &mut u64) -> Result<u64> {
    let (first, wanted) = queue(&format!("flood-{cpu}-0"))?;
    let mut others = (1..1_000_000).map(|number| {
        *made = number;
        queue(&format!("flood-{cpu}-{number}"))
    });
    let second = others.find_map(|other| match other {
        Ok((fd, ino)) => (ino & 0xfff == wanted & 0xfff).then_some(Ok(fd)),
        Err(error) => Some(Err(error)),
    });
    let second = second.context("no two queues with the same low bits")??;
    let mut turns = [first.as_raw_fd(), second.as_raw_fd()].into_iter().cycle();
    repeated(time, || {
        let fd = turns.next().unwrap_or(-1);
        // SAFETY: nothing is given or taken.
        let done = unsafe { libc::syscall(libc::SYS_mq_getsetattr, fd, 0, 0) };
        ensure!(done == 0, "mq_getsetattr: {}", Errno::last());
        Ok(())
    })
}

/// Makes a queue that only its descriptor leads to: it, and the inode number.
fn queue(name: &str) -> Result<(OwnedFd, u64)> {
    let name = CString::new(name)?;
    let flags = libc::O_CREAT | libc::O_EXCL | libc::O_RDWR;
    // SAFETY: names that end with a NUL, and no attributes; a descriptor that it gives is new.
    let fd = unsafe {
        let fd = libc::syscall(libc::SYS_mq_open, name.as_ptr(), flags, 0o600, 0);
        let fd = OwnedFd::from_raw_fd(Errno::result(fd).context("mq_open")? as i32);
        Errno::result(libc::syscall(libc::SYS_mq_unlink, name.as_ptr())).context("mq_unlink")?;
        fd
    };
    let ino = nix::sys::stat::fstat(&fd)?.st_ino;
    Ok((fd, ino))
}

/// A process that makes one call and ends.
fn one_call_of_a_copy(flags: CloneFlags) -> Result<()> {
    let flags = flags.bits() | libc::SIGCHLD;
    // SAFETY: without CLONE_VM and with no stack of its own this is a fork, and the child makes two system calls.
    let make = || unsafe {
        let pid = libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0);
        if pid == 0 {
            libc::syscall(libc::SYS_semget, KEY, 0, 0);
            libc::_exit(0);
        }
        Errno::result(pid)
    };
    let status = waitpid(Pid::from_raw(churn::retried(make)? as i32), None)?;
    ensure!(
        matches!(status, WaitStatus::Exited(_, 0)),
        "a process that makes one call: {status:?}"
    );
    Ok(())
}

/// Calls after each of which the thread could be in other namespaces.
fn contexts(time: Duration) -> Result<u64> {
    repeated(time, || {
        unshare(CloneFlags::empty())?;
        // SAFETY: numbers alone.
        unsafe { libc::syscall(libc::SYS_semget, KEY, 0, 0) };
        Ok(())
    })
}

fn make_and_remove() -> Result<()> {
    // SAFETY: numbers alone.
    unsafe {
        let id = libc::syscall(libc::SYS_semget, libc::IPC_PRIVATE, 1, 0o600);
        ensure!(id >= 0, "semget: {}", Errno::last());
        ensure!(
            libc::syscall(libc::SYS_semctl, id, 0, libc::IPC_RMID, 0) == 0,
            "{}",
            Errno::last()
        );
    }
    Ok(())
}

/// Sends to a queue of another namespace, which the sender took with it, and takes what it sent.
pub(crate) fn foreign_sends(options: &Sends) -> Result<()> {
    let mut caller = CountingCaller::new("home")?;
    caller.unshare("x")?;
    let made = libc::O_CREAT | libc::O_RDWR;
    let fd = caller.mq_open(b"sent-to", made, 0o600, Some((4, 64)));
    ensure!(!is_error(fd), "mq_open: {}", outcome(fd));
    // The namespace must stay alive.
    let over = Flag::new()?;
    let keeper = process::spawn(b"x-holder", || {
        over.wait_long()?;
        Ok(WorkloadReport::default())
    })?;
    caller.unshare("y")?;
    for _ in 0..options.count {
        let sent = caller.mq_send(fd as i32, b"from another namespace", 1, None);
        let taken = caller.mq_receive(fd as i32, 64, None);
        ensure!(!is_error(sent) && !is_error(taken), "{} {}", outcome(sent), outcome(taken));
        std::thread::sleep(Duration::from_millis(options.pause_ms));
    }
    over.raise(1)?;
    keeper.join()?;
    caller.report().fact("tid", process::tid()).print()
}
