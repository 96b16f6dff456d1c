//! A process of a scenario, which plays a part: entered in the roll as it begins, heard of when it is ready.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    os::{
        fd::{AsRawFd as _, FromRawFd as _, RawFd},
        unix::process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::wait::{WaitStatus, waitpid},
    unistd::{ForkResult, Pid, fork, getpid},
};

use crate::{child::end_with, workload::process};

/// Before the descriptors' numbers in the environment of an actor that runs another program.
const FDS: &str = "XTASK_SCENARIO_FDS";
/// An actor has done all that it does, but stays; has ended; has failed.
pub(super) const STAYS: u8 = b's';
pub(super) const ENDED: u8 = b'e';
pub(super) const FAILED: u8 = b'f';

/// The descriptors by which actors and stage talk.
#[derive(Debug)]
pub(super) struct Fds {
    /// A file in memory, a line `PID TICKS NAME` an actor
    pub(super) roll: File,
    /// A byte an actor
    pub(super) ready: File,
    /// Ends when actors may go
    pub(super) hold: File,
}

/// A process that plays a part.
#[derive(Debug)]
pub(super) struct Actor<'a> {
    pub(super) fds: &'a Fds,
}

impl Actor<'_> {
    /// Plays the part, and says how it ended.
    pub(super) fn run(&self, work: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        let result = work(self);
        self.say(if result.is_ok() { ENDED } else { FAILED })?;
        result
    }

    fn say(&self, word: u8) -> Result<()> {
        Ok((&self.fds.ready).write_all(&[word])?)
    }

    /// Stays until the scenario is over.
    pub(super) fn stay(&self) -> Result<()> {
        self.say(STAYS)?;
        // It ends without a byte.
        (&self.fds.hold).read_to_end(&mut Vec::new())?;
        // Nobody counts what it says from now on.
        Ok(())
    }

    /// Forks another actor, which nobody waits for but its parent.
    pub(super) fn fork(&self, name: &str, work: impl FnOnce(&Self) -> Result<()>) -> Result<Pid> {
        self.fork_with(name, || Ok(()), work)
    }

    /// As [`Self::fork`], and waits for its end.
    pub(super) fn fork_and_wait(
        &self,
        name: &str,
        work: impl FnOnce(&Self) -> Result<()>,
    ) -> Result<()> {
        end_of(self.fork(name, work)?)
    }

    /// As [`Self::fork_and_wait`], with `clone(2)` and these flags.
    pub(super) fn clone_and_wait(
        &self,
        flags: i32,
        name: &str,
        work: impl FnOnce(&Self) -> Result<()>,
    ) -> Result<()> {
        let parent = getpid();
        // SAFETY: without CLONE_VM and with no stack of its own this is a fork, by a process of one
        // thread.
        let pid = unsafe { libc::syscall(libc::SYS_clone, flags | libc::SIGCHLD, 0, 0, 0, 0) };
        match pid {
            -1 => bail!("clone: {}", std::io::Error::last_os_error()),
            0 => self.begin(parent, name, || Ok(()), work),
            pid => end_of(Pid::from_raw(pid as i32)),
        }
    }

    /// As [`Self::fork`]; `first` is done before the process is entered in the roll.
    pub(super) fn fork_with(
        &self,
        name: &str,
        first: impl FnOnce() -> Result<()>,
        work: impl FnOnce(&Self) -> Result<()>,
    ) -> Result<Pid> {
        let parent = getpid();
        // SAFETY: directors and actors fork while they have one thread, so that the child may
        // allocate.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => Ok(child),
            ForkResult::Child => self.begin(parent, name, first, work),
        }
    }

    /// The beginning and the end of a new process.
    fn begin(
        &self,
        parent: Pid,
        name: &str,
        first: impl FnOnce() -> Result<()>,
        work: impl FnOnce(&Self) -> Result<()>,
    ) -> ! {
        end_with(parent);
        let comm = name.as_bytes().get(..15).unwrap_or(name.as_bytes());
        let result = process::set_comm(comm)
            .and_then(|()| first())
            .and_then(|()| self.enroll(name))
            .and_then(|()| work(self));
        if let Err(error) = &result {
            eprintln!("{name}: {error:#}");
            // Should its parent wait for it to be ready.
            let _ = self.say(FAILED);
        }
        // SAFETY: ends the process without running what its parent registered for its own end.
        unsafe { libc::_exit(i32::from(result.is_err())) }
    }

    /// Enters the process in the roll, by its numbers in the host's `/proc`.
    fn enroll(&self, name: &str) -> Result<()> {
        let stat = fs::read_to_string("/proc/self/stat").context("/proc/self/stat")?;
        let (pid, rest) = stat.split_once(' ').context("/proc/self/stat")?;
        let fields = rest.rsplit_once(") ").context("/proc/self/stat")?.1;
        // Field 22; those after the name begin with the third.
        let ticks = fields.split(' ').nth(19).context("/proc/self/stat")?;
        // One write each, which others don't come between.
        Ok((&self.fds.roll).write_all(format!("{pid} {ticks} {name}\n").as_bytes())?)
    }

    /// Becomes another program, which is this one by another name: an image of its own. It is given these
    /// words, and can be an actor as before by [`inherited`].
    pub(super) fn become_image(&self, image: &Path, words: &[String]) -> Result<()> {
        let Fds { roll, ready, hold } = self.fds;
        for fd in [roll, ready, hold] {
            nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()))?;
        }
        let fds = [roll, ready, hold].map(|file| file.as_raw_fd().to_string()).join(",");
        let error = Command::new(image).args(words).env(FDS, fds).exec();
        Err(error).with_context(|| format!("cannot run {}", image.display()))
    }
}

/// An actor in a program that one has become.
///
/// # Errors
///
/// When none has, or when `work` fails.
pub(super) fn inherited(work: impl FnOnce(&Actor<'_>) -> Result<()>) -> Result<()> {
    let text = std::env::var(FDS).context("this is a part of a scenario")?;
    let fds: Vec<RawFd> = text.split(',').map(str::parse).collect::<Result<_, _>>()?;
    let [roll, ready, hold] = fds.try_into().ok().context("three descriptors")?;
    // SAFETY: these numbers are those of descriptors that the actor left open for this program, and
    // nothing else here has them.
    let file = |fd| unsafe { File::from_raw_fd(fd) };
    let fds = Fds { roll: file(roll), ready: file(ready), hold: file(hold) };
    // Whatever this process runs is no part of the scenario.
    Actor { fds: &fds }.run(work)
}

/// Links this program to another name, beside it: an image of its own, for as long as the value lives.
#[derive(Debug)]
pub(super) struct Image(PathBuf);

impl Image {
    /// A new one. The name is of this stage alone.
    pub(super) fn new(name: &str) -> Result<Self> {
        let own = std::env::current_exe().context("/proc/self/exe")?;
        let path = own.with_file_name(format!("{name}-{}", std::process::id()));
        fs::hard_link(&own, &path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Waits for a child, which is to end well.
pub(super) fn end_of(child: Pid) -> Result<()> {
    loop {
        match waitpid(child, None) {
            Err(nix::errno::Errno::EINTR) => {}
            Ok(WaitStatus::Exited(_, 0)) => return Ok(()),
            other => bail!("actor {child} ended with {other:?}"),
        }
    }
}
