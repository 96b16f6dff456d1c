//! A process of a scenario. It is entered in the registry when it starts, and reports when it is ready.

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

/// The environment variable with the descriptors' numbers, for a process that runs another program.
const FDS: &str = "XTASK_SCENARIO_FDS";
/// A process has done its work, but stays; has ended; has failed.
pub(super) const STAYS: u8 = b's';
pub(super) const ENDED: u8 = b'e';
pub(super) const FAILED: u8 = b'f';

/// The descriptors by which processes and fixture communicate.
#[derive(Debug)]
pub(super) struct FixtureFds {
    /// A file in memory, one line `PID TICKS NAME` for each process
    pub(super) registry: File,
    /// One byte for each process
    pub(super) ready: File,
    /// Closed when processes may end
    pub(super) hold: File,
}

/// A process of a scenario.
#[derive(Debug)]
pub(super) struct ScenarioProcess<'a> {
    pub(super) fds: &'a FixtureFds,
}

impl ScenarioProcess<'_> {
    /// Does the work, and reports how it ended.
    pub(super) fn run(&self, work: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        let result = work(self);
        self.send_status(if result.is_ok() { ENDED } else { FAILED })?;
        result
    }

    fn send_status(&self, status: u8) -> Result<()> {
        Ok((&self.fds.ready).write_all(&[status])?)
    }

    /// Stays until the scenario is over.
    pub(super) fn stay(&self) -> Result<()> {
        self.send_status(STAYS)?;
        // It ends without a byte.
        (&self.fds.hold).read_to_end(&mut Vec::new())?;
        // The fixture ignores its status from now on.
        Ok(())
    }

    /// Forks another process, which only its parent waits for.
    pub(super) fn fork(&self, name: &str, work: impl FnOnce(&Self) -> Result<()>) -> Result<Pid> {
        self.fork_with(name, || Ok(()), work)
    }

    /// As [`Self::fork`], and waits for its end.
    pub(super) fn fork_and_wait(
        &self,
        name: &str,
        work: impl FnOnce(&Self) -> Result<()>,
    ) -> Result<()> {
        wait_for_exit(self.fork(name, work)?)
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
            pid => wait_for_exit(Pid::from_raw(pid as i32)),
        }
    }

    /// As [`Self::fork`]; `first` is done before the process is entered in the registry.
    pub(super) fn fork_with(
        &self,
        name: &str,
        first: impl FnOnce() -> Result<()>,
        work: impl FnOnce(&Self) -> Result<()>,
    ) -> Result<Pid> {
        let parent = getpid();
        // SAFETY: drivers and scenario processes fork while they have one thread, so that the child may
        // allocate.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => Ok(child),
            ForkResult::Child => self.begin(parent, name, first, work),
        }
    }

    /// Runs a new process from its start to its end.
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
            .and_then(|()| self.register(name))
            .and_then(|()| work(self));
        if let Err(error) = &result {
            eprintln!("{name}: {error:#}");
            // In case the fixture waits for it to be ready.
            let _ = self.send_status(FAILED);
        }
        // SAFETY: ends the process without running what its parent registered for its own end.
        unsafe { libc::_exit(i32::from(result.is_err())) }
    }

    /// Enters the process in the registry, by its numbers in the host's `/proc`.
    fn register(&self, name: &str) -> Result<()> {
        let stat = fs::read_to_string("/proc/self/stat").context("/proc/self/stat")?;
        let (pid, rest) = stat.split_once(' ').context("/proc/self/stat")?;
        let fields = rest.rsplit_once(") ").context("/proc/self/stat")?.1;
        // Field 22; those after the name begin with the third.
        let ticks = fields.split(' ').nth(19).context("/proc/self/stat")?;
        // One write each, which others don't come between.
        Ok((&self.fds.registry).write_all(format!("{pid} {ticks} {name}\n").as_bytes())?)
    }

    /// Executes this program by another name: an executable of its own. With these arguments it can call
    /// [`inherited`] to be a process of the scenario again.
    pub(super) fn exec_image(&self, image: &Path, words: &[String]) -> Result<()> {
        let FixtureFds { registry, ready, hold } = self.fds;
        for fd in [registry, ready, hold] {
            nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()))?;
        }
        let fds = [registry, ready, hold].map(|file| file.as_raw_fd().to_string()).join(",");
        let error = Command::new(image).args(words).env(FDS, fds).exec();
        Err(error).with_context(|| format!("cannot run {}", image.display()))
    }
}

/// Continues as a process of a scenario in a program that one has executed.
///
/// # Errors
///
/// When it was not executed by one, or when `work` fails.
pub(super) fn inherited(work: impl FnOnce(&ScenarioProcess<'_>) -> Result<()>) -> Result<()> {
    let text = std::env::var(FDS).context("only a scenario runs this")?;
    let fds: Vec<RawFd> = text.split(',').map(str::parse).collect::<Result<_, _>>()?;
    let [registry, ready, hold] = fds.try_into().ok().context("three descriptors")?;
    // SAFETY: these numbers are those of descriptors that the process left open for this program, and
    // nothing else here has them.
    let file = |fd| unsafe { File::from_raw_fd(fd) };
    let fds = FixtureFds { registry: file(registry), ready: file(ready), hold: file(hold) };
    // Programs that this process runs are not part of the scenario.
    ScenarioProcess { fds: &fds }.run(work)
}

/// Links this program to another name, beside it: an image of its own, for as long as the value lives.
#[derive(Debug)]
pub(super) struct Image(PathBuf);

impl Image {
    /// A new one. The name is unique to this process.
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

/// Waits for a child, which must succeed.
pub(super) fn wait_for_exit(child: Pid) -> Result<()> {
    loop {
        match waitpid(child, None) {
            Err(nix::errno::Errno::EINTR) => {}
            Ok(WaitStatus::Exited(_, 0)) => return Ok(()),
            other => bail!("process {child} ended with {other:?}"),
        }
    }
}
