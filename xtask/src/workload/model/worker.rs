//! A process that executes one command after the other.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sched::CloneFlags,
    sys::{
        signal::{Signal, kill},
        wait::waitpid,
    },
    unistd::{ForkResult, Pid, fork, getpid, pause},
};
use serde::{Deserialize, Serialize};

use crate::child::end_with;

use super::ModelKind;
use crate::workload::{
    calls::{CountingCaller, slot},
    mq, process,
    sysv::SemStep,
};

/// A command to a process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum ModelCommand {
    /// shmget, semget or msgget
    Get { kind: ModelKind, key: i32, flags: i32 },
    /// Any call that changes nothing
    Use { kind: ModelKind, id: i32 },
    /// `IPC_RMID`
    Remove { kind: ModelKind, id: i32 },
    /// `IPC_SET`
    Own { kind: ModelKind, id: i32, uid: u32, gid: u32, mode: u32 },
    /// shmat
    Attach { id: i32 },
    /// shmdt
    Detach { at: u64 },
    /// mq_open, and close
    Open { name: String, oflag: i32 },
    /// mq_unlink
    Unlink { name: String },
    /// A new namespace
    Unshare,
    /// The namespace of another process
    Enter { pid: i32 },
    /// A child that does nothing; it has what its parent has
    Fork,
    /// The end of that child
    Reap,
}

/// The outcome of a command.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct StepOutcome {
    /// The kernel's answer, or the child
    pub(super) ret: i64,
    /// The namespace that the process is in now
    pub(super) inum: u64,
}

/// Bytes of a segment, semaphores of a set.
pub(super) const SIZE: (usize, i32) = (8192, 3);
/// Messages of a queue, and their bytes.
pub(super) const ROOM: (i64, i64) = (2, 16);

/// The controlling end of a process.
#[derive(Debug)]
pub(super) struct ModelWorker {
    /// Its number
    pub(super) pid: Pid,
    stream: UnixStream,
    answers: BufReader<UnixStream>,
}

impl ModelWorker {
    /// Forks one, which ends with this process. This process has one thread.
    pub(super) fn start() -> Result<Self> {
        let (mine, its) = UnixStream::pair()?;
        let parent = getpid();
        // SAFETY: there is one thread.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => {
                let answers = BufReader::new(mine.try_clone()?);
                Ok(Self { pid: child, stream: mine, answers })
            }
            ForkResult::Child => {
                end_with(parent);
                drop(mine);
                let code = match work(its) {
                    Ok(()) => 0,
                    Err(error) => {
                        eprintln!("worker: {error:#}");
                        1
                    }
                };
                // SAFETY: ends the process without running what its parent registered.
                unsafe { libc::_exit(code) }
            }
        }
    }

    /// Sends a command and waits for its outcome.
    pub(super) fn execute(&mut self, command: &ModelCommand) -> Result<StepOutcome> {
        let mut line = serde_json::to_vec(command)?;
        line.push(b'\n');
        self.stream.write_all(&line)?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        serde_json::from_str(&answer).with_context(|| format!("{command:?}: {answer:?}"))
    }

    /// Ends it.
    pub(super) fn end(self) -> Result<()> {
        drop((self.stream, self.answers));
        waitpid(self.pid, None)?;
        Ok(())
    }
}

fn work(mut stream: UnixStream) -> Result<()> {
    // Other workers' ends, which this one has inherited, must not keep them from ending.
    let own = std::os::fd::AsRawFd::as_raw_fd(&stream) as u32;
    for (first, last) in [(3, own - 1), (own + 1, u32::MAX)] {
        // SAFETY: whoever owns these descriptors is not run in this process.
        unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    }
    let mut caller = CountingCaller::new("model")?;
    let mut child = None;
    let commands = BufReader::new(stream.try_clone()?);
    for line in commands.lines() {
        let command: ModelCommand = serde_json::from_str(&line?)?;
        let ret = execute(&mut caller, &mut child, command)?;
        let answer = StepOutcome { ret, inum: process::ipc_namespace()? };
        stream.write_all(format!("{}\n", serde_json::to_string(&answer)?).as_bytes())?;
    }
    reap(&mut child)
}

fn reap(child: &mut Option<Pid>) -> Result<()> {
    if let Some(pid) = child.take() {
        kill(pid, Signal::SIGKILL)?;
        waitpid(pid, None)?;
    }
    Ok(())
}

fn execute(
    caller: &mut CountingCaller,
    child: &mut Option<Pid>,
    command: ModelCommand,
) -> Result<i64> {
    Ok(match command {
        ModelCommand::Get { kind, key, flags } => match kind {
            ModelKind::Shm => caller.shmget(key, SIZE.0, flags),
            ModelKind::Sem => caller.semget(key, SIZE.1, flags),
            ModelKind::Msg => caller.msgget(key, flags),
            ModelKind::Mq => bail!("a queue has no key"),
        },
        ModelCommand::Use { kind, id } => match kind {
            ModelKind::Shm => caller.shmctl(id, libc::IPC_STAT),
            ModelKind::Sem => caller.semop(id, &[SemStep(0, 1, 0)]),
            ModelKind::Msg => caller.msgrcv(id, 8, 0, libc::IPC_NOWAIT),
            ModelKind::Mq => bail!("a queue has no id"),
        },
        ModelCommand::Remove { kind, id } => control(caller, kind, id, libc::IPC_RMID),
        ModelCommand::Own { kind, id, uid, gid, mode } => {
            ensure!(control(caller, kind, id, libc::IPC_STAT) == 0, "IPC_STAT");
            // struct ipc64_perm, include/uapi/asm-generic/ipcbuf.h
            for (at, value) in [(4, uid), (8, gid), (20, mode)] {
                caller.put(slot::OUT + at, &value.to_ne_bytes());
            }
            control(caller, kind, id, libc::IPC_SET)
        }
        ModelCommand::Attach { id } => caller.shmat(id, 0, 0),
        ModelCommand::Detach { at } => caller.shmdt(at),
        ModelCommand::Open { name, oflag } => {
            let fd = caller.mq_open(name.as_bytes(), oflag | libc::O_RDWR, 0o640, Some(ROOM));
            mq::close(fd);
            fd
        }
        ModelCommand::Unlink { name } => caller.mq_unlink(name.as_bytes()),
        ModelCommand::Unshare => {
            nix::sched::unshare(CloneFlags::CLONE_NEWIPC)?;
            0
        }
        ModelCommand::Enter { pid } => {
            process::enter_namespace(&std::fs::File::open(format!("/proc/{pid}/ns/ipc"))?)?;
            0
        }
        ModelCommand::Fork => {
            let parent = getpid();
            // SAFETY: there is one thread.
            match unsafe { fork() }? {
                ForkResult::Parent { child: pid } => {
                    *child = Some(pid);
                    i64::from(pid.as_raw())
                }
                ForkResult::Child => {
                    end_with(parent);
                    loop {
                        pause();
                    }
                }
            }
        }
        ModelCommand::Reap => {
            reap(child)?;
            0
        }
    })
}

fn control(caller: &mut CountingCaller, kind: ModelKind, id: i32, cmd: i32) -> i64 {
    match kind {
        ModelKind::Shm => caller.shmctl(id, cmd),
        ModelKind::Sem => caller.semctl(id, 0, cmd, 0),
        ModelKind::Msg => caller.msgctl(id, cmd),
        ModelKind::Mq => -i64::from(libc::EINVAL),
    }
}
