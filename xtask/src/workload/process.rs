//! Processes, threads and namespaces for the workloads: none of this makes an IPC call.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sched::CloneFlags;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

use crate::child::end_with;

use super::oracle::WorkloadReport;

/// How long a process waits for another one before it fails.
pub(crate) const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// The thread's number.
pub(crate) fn tid() -> i32 {
    nix::unistd::gettid().as_raw()
}

/// The inode number of the IPC namespace that the thread is in.
pub(crate) fn ipc_namespace() -> Result<u64> {
    Ok(fs::metadata("/proc/thread-self/ns/ipc").context("the IPC namespace")?.ino())
}

/// The thread's IPC namespace as a descriptor, which also keeps it alive.
pub(crate) fn open_namespace() -> Result<File> {
    File::open("/proc/thread-self/ns/ipc").context("the IPC namespace")
}

/// Moves the thread into an IPC namespace.
pub(crate) fn enter_namespace(ns: &File) -> Result<()> {
    Ok(nix::sched::setns(ns, CloneFlags::CLONE_NEWIPC)?)
}

/// Names the thread; the bytes may be anything but NUL, 15 at most.
pub(crate) fn set_comm(name: &[u8]) -> Result<()> {
    let mut comm = [0_u8; 16];
    ensure!(name.len() < comm.len(), "a thread name has at most 15 bytes");
    comm[..name.len()].copy_from_slice(name);
    // SAFETY: PR_SET_NAME reads up to 16 bytes, which there are, ending with NUL.
    let ret = unsafe { libc::prctl(libc::PR_SET_NAME, comm.as_ptr()) };
    ensure!(ret == 0, "prctl: {}", std::io::Error::last_os_error());
    Ok(())
}

/// Time that all threads of a process have spent on processors. `/proc/PID/stat` counts in ticks of
/// 10 ms, which is too coarse here.
pub(crate) fn processor_time(pid: u32) -> Result<Duration> {
    let mut total = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(task?.path().join("schedstat"))?;
        total += text.split(' ').next().context("schedstat")?.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(total))
}

/// A process started by [`spawn`].
#[derive(Debug)]
pub(crate) struct WorkloadChild {
    /// Its number, which is also that of its only thread.
    pub(crate) pid: Pid,
    pipe: File,
}

/// Forks a process that does `work` under the name `comm` and hands back a report. It dies
/// with the thread that started it. The caller must be the only thread of its process, or know that no other
/// thread holds a lock.
pub(crate) fn spawn(
    comm: &[u8],
    work: impl FnOnce() -> Result<WorkloadReport>,
) -> Result<WorkloadChild> {
    let parent = nix::unistd::getpid();
    let (read, write) = nix::unistd::pipe()?;
    // SAFETY: the callers keep to the condition above, so that the child may allocate.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(WorkloadChild { pid: child, pipe: File::from(read) }),
        ForkResult::Child => {
            drop(read);
            finish(parent, File::from(write), comm, work)
        }
    }
}

/// As [`spawn`], but the child starts in a new IPC namespace, made by `clone(2)` itself.
pub(crate) fn spawn_in_new_namespace(
    comm: &[u8],
    work: impl FnOnce() -> Result<WorkloadReport>,
) -> Result<WorkloadChild> {
    let parent = nix::unistd::getpid();
    let (read, write) = nix::unistd::pipe()?;
    let flags = libc::CLONE_NEWIPC | libc::SIGCHLD;
    // SAFETY: without CLONE_VM and with no stack of its own this is a fork, and what holds
    // for `spawn` holds here.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    match pid {
        -1 => bail!("clone: {}", std::io::Error::last_os_error()),
        0 => {
            drop(read);
            finish(parent, File::from(write), comm, work)
        }
        pid => Ok(WorkloadChild { pid: Pid::from_raw(pid as i32), pipe: File::from(read) }),
    }
}

fn finish(
    parent: Pid,
    mut pipe: File,
    comm: &[u8],
    work: impl FnOnce() -> Result<WorkloadReport>,
) -> ! {
    end_with(parent);
    let report = set_comm(comm).and_then(|()| work());
    let text = report.and_then(|report| Ok(serde_json::to_string(&report)?));
    let code = match text {
        Ok(text) => i32::from(pipe.write_all(text.as_bytes()).is_err()),
        Err(error) => {
            eprintln!("{}: {error:#}", String::from_utf8_lossy(comm).escape_debug());
            1
        }
    };
    drop(pipe);
    // SAFETY: ends the process without running what its parent registered for its own end.
    unsafe { libc::_exit(code) }
}

impl WorkloadChild {
    /// Waits for the process and takes its report.
    pub(crate) fn join(mut self) -> Result<WorkloadReport> {
        let mut text = String::new();
        let read = self.pipe.read_to_string(&mut text);
        let status = loop {
            match waitpid(self.pid, None) {
                Err(nix::errno::Errno::EINTR) => {}
                other => break other?,
            }
        };
        ensure!(matches!(status, WaitStatus::Exited(_, 0)), "a process ended with {status:?}");
        read?;
        serde_json::from_str(&text).with_context(|| format!("report of process {}", self.pid))
    }
}

/// Joins processes in order and adds their reports up.
pub(crate) fn join_all(
    children: impl IntoIterator<Item = WorkloadChild>,
) -> Result<WorkloadReport> {
    let mut sum = WorkloadReport::default();
    for child in children {
        sum.absorb(child.join()?);
    }
    Ok(sum)
}

/// A counter of permits that works across `fork`: an eventfd.
#[derive(Debug)]
pub(crate) struct Flag(OwnedFd);

impl Flag {
    /// A flag without permits.
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: eventfd takes no address.
        let fd = unsafe { libc::eventfd(0, libc::EFD_SEMAPHORE | libc::EFD_CLOEXEC) };
        ensure!(fd >= 0, "eventfd: {}", std::io::Error::last_os_error());
        // SAFETY: the descriptor is new and nobody else's.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Gives permits.
    pub(crate) fn raise(&self, permits: u64) -> Result<()> {
        nix::unistd::write(&self.0, &permits.to_ne_bytes())?;
        Ok(())
    }

    /// Takes a permit, and waits for one as long as needed (but not for ever).
    pub(crate) fn wait(&self) -> Result<()> {
        self.wait_within(WAIT_TIMEOUT)
    }

    /// As [`Flag::wait`], for up to a day: where something outside decides.
    pub(crate) fn wait_long(&self) -> Result<()> {
        self.wait_within(Duration::from_secs(86_400))
    }

    fn wait_within(&self, timeout: Duration) -> Result<()> {
        let mut poll =
            libc::pollfd { fd: self.0.as_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now()).as_millis() as i32;
            // SAFETY: one valid pollfd.
            match unsafe { libc::poll(&raw mut poll, 1, left) } {
                0 => bail!("another process did not answer in time"),
                1 => break,
                _ => {}
            }
        }
        nix::unistd::read(&self.0, &mut [0; 8])?;
        Ok(())
    }

    /// The descriptor's number, for signal handlers.
    pub(crate) fn raw(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

/// Waits until a thread sleeps inside of the native system call `number`.
pub(crate) fn wait_blocked(pid: i32, tid: i32, number: i64) -> Result<()> {
    let task = format!("/proc/{pid}/task/{tid}");
    let deadline = Instant::now() + WAIT_TIMEOUT;
    while Instant::now() < deadline {
        let stat = fs::read_to_string(format!("{task}/stat"))?;
        let sleeps = stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('S'));
        let call = fs::read_to_string(format!("{task}/syscall"))?;
        let inside = call.split(' ').next().and_then(|word| word.parse().ok()) == Some(number);
        if sleeps && inside {
            return Ok(());
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    bail!("thread {tid} did not block in system call {number}")
}
