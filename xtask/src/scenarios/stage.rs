//! Where a scenario is played: its processes, its containers, and what is known of them afterwards.
//!
//! Each process of a scenario (an *actor*) enters itself in the roll, by the numbers that it has on the
//! host. An actor that is to be seen for longer than its calls take stays until the runner lets it go.
//!
//! Invariant: a stage leaves nothing behind: actors die with it, mounts are in its own mount namespace,
//! cgroups and files are removed.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Read as _, Write as _},
    os::{
        fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::{fs::FileExt as _, process::CommandExt as _},
    },
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    mount::{MsFlags, mount},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::CloneFlags,
    sys::wait::{WaitStatus, waitpid},
    unistd::{ForkResult, Pid, fork},
};
use serde::{Deserialize, Serialize};

use super::cgroup::Cgroup;
use crate::workload::process;

/// Before the descriptors' numbers in the environment of an actor that runs another program.
const FDS: &str = "XTASK_SCENARIO_FDS";
/// An actor has done all that it does, but stays; has ended; has failed.
const STAYS: u8 = b's';
const ENDED: u8 = b'e';
const FAILED: u8 = b'f';

/// A process of a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Id {
    /// Its number on the host
    pub(super) pid: u64,
    /// When it started, after boot, in ticks of 10 ms (proc_pid_stat(5), field 22)
    pub(super) ticks: u64,
}

/// What a scenario was, once it has been played.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Played {
    /// Its processes, the one that directs them not included
    pub(super) processes: Vec<Id>,
    /// The ids of its containers
    pub(super) containers: Vec<String>,
}

/// The descriptors by which actors and stage talk.
#[derive(Debug)]
struct Fds {
    /// A file in memory, a line `PID TICKS NAME` an actor
    roll: File,
    /// A byte an actor
    ready: File,
    /// Ends when actors may go
    hold: File,
}

/// Where a container's namespaces come from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Inside {
    /// New ones of its own: IPC, mounts, processes
    Fresh,
    /// The IPC namespace of that process, mounts and processes of its own: a container that shares
    With(u64),
    /// The IPC namespace of the host, mounts and processes of its own
    HostIpc,
}

/// A container: a cgroup, called as a runtime would call it.
#[derive(Debug)]
pub(super) struct Container {
    cgroup: Cgroup,
}

/// A scenario's stage.
#[derive(Debug)]
pub(super) struct Stage {
    fds: Fds,
    ready: File,
    release: Option<OwnedFd>,
    /// Direct children
    children: Vec<Pid>,
    /// How many actors have not said yet that they are ready
    awaited: usize,
    containers: Vec<String>,
    /// Those that are to last as long as it
    kept: Vec<Cgroup>,
    folder: PathBuf,
}

impl Stage {
    /// An empty stage. To be made by the only thread of a process.
    ///
    /// # Errors
    ///
    /// When this process isn't root's.
    pub(super) fn new() -> Result<Self> {
        nix::sched::unshare(CloneFlags::CLONE_NEWNS).context("a mount namespace")?;
        private()?;
        let roll = nix::sys::memfd::memfd_create(c"roll", nix::sys::memfd::MFdFlags::empty())?;
        nix::fcntl::fcntl(&roll, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_APPEND))?;
        // Not closed by exec: actors may run other programs.
        let (ready, say_ready) = nix::unistd::pipe()?;
        let (hold, release) = nix::unistd::pipe()?;
        nix::fcntl::fcntl(&release, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
        let folder = std::env::temp_dir().join(format!("ipc-scenario-{}", std::process::id()));
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self {
            fds: Fds { roll: roll.into(), ready: say_ready.into(), hold: hold.into() },
            ready: ready.into(),
            release: Some(release),
            children: Vec::new(),
            awaited: 0,
            containers: Vec::new(),
            kept: Vec::new(),
            folder,
        })
    }

    /// A folder for its files and mounts.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// A key of 32 bits that nobody else has: `n` tells those of a scenario apart.
    pub(super) fn key(&self, n: u32) -> i32 {
        let mixed = std::process::id().wrapping_mul(0x9e37_79b9).wrapping_add(n * 0x0101_6b2d);
        // Neither small nor negative.
        (mixed >> 1 | 0x4000_0000) as i32
    }

    /// A queue's name that nobody else has, without the slash.
    pub(super) fn queue(&self) -> Vec<u8> {
        format!("scenario-{}", std::process::id()).into_bytes()
    }

    /// A process of the host, in the director's namespaces, that does `work`.
    ///
    /// # Errors
    ///
    /// When it can't be started; what goes wrong in it, [`Self::settle`] tells.
    pub(super) fn act(
        &mut self,
        name: &str,
        work: impl FnOnce(&Actor<'_>) -> Result<()>,
    ) -> Result<()> {
        self.awaited += 1;
        let child = self.child(name, None, |actor| actor.run(work))?;
        self.children.push(child);
        Ok(())
    }

    /// A process of the host in this cgroup, as a service or a session has one.
    pub(super) fn act_in(
        &mut self,
        cgroup: &Cgroup,
        name: &str,
        work: impl FnOnce(&Actor<'_>) -> Result<()>,
    ) -> Result<()> {
        self.start_in(cgroup, name, |actor| actor.run(work))
    }

    /// A new container, as Docker makes one.
    pub(super) fn container(&mut self) -> Result<Container> {
        let id = self.new_id();
        self.called(&format!("docker/{id}"), id)
    }

    /// A new container in a pod of Kubernetes: those with the same number are in the same pod.
    pub(super) fn container_of_pod(&mut self, pod: u32) -> Result<Container> {
        let id = self.new_id();
        let own = std::process::id();
        let slice = format!("kubepods-burstable-pod{own:08x}_0000_4000_8000_{pod:012x}.slice");
        let path =
            format!("kubepods.slice/kubepods-burstable.slice/{slice}/cri-containerd-{id}.scope");
        self.called(&path, id)
    }

    /// Keeps a container's cgroup until the end.
    pub(super) fn keep(&mut self, container: Container) {
        self.kept.push(container.cgroup);
    }

    /// Keeps a cgroup until the end.
    pub(super) fn keep_cgroup(&mut self, cgroup: Cgroup) {
        self.kept.push(cgroup);
    }

    /// A process that a runtime starts in the cgroup of the container that was kept last, in the host's
    /// namespaces yet.
    pub(super) fn act_in_last_container(
        &mut self,
        name: &str,
        work: impl FnOnce(&Actor<'_>) -> Result<()>,
    ) -> Result<()> {
        let cgroup = self.kept.pop().context("no container is kept")?;
        let done = self.start_in(&cgroup, name, work);
        self.kept.push(cgroup);
        done
    }

    fn start_in(
        &mut self,
        cgroup: &Cgroup,
        name: &str,
        work: impl FnOnce(&Actor<'_>) -> Result<()>,
    ) -> Result<()> {
        self.awaited += 1;
        let child = self.child(name, Some(cgroup), work)?;
        self.children.push(child);
        Ok(())
    }

    fn new_id(&self) -> String {
        format!("{:08x}{:08x}", std::process::id(), self.containers.len() + 1).repeat(4)
    }

    fn called(&mut self, path: &str, id: String) -> Result<Container> {
        self.containers.push(id);
        Ok(Container { cgroup: Cgroup::make(path)? })
    }

    /// The first process of a container, or another one that its runtime starts there: a process of the
    /// host joins the cgroup and the namespaces, as `runc init` does, and its child does `work`.
    pub(super) fn contain(
        &mut self,
        container: &Container,
        inside: Inside,
        name: &str,
        work: impl FnOnce(&Actor<'_>) -> Result<()>,
    ) -> Result<()> {
        self.awaited += 1;
        let child = self.child("runc:[1:CHILD]", Some(&container.cgroup), |runtime| {
            inside.enter()?;
            runtime.fork(name, |actor| actor.run(work)).and_then(end_of)
        })?;
        self.children.push(child);
        Ok(())
    }

    fn child(
        &mut self,
        name: &str,
        cgroup: Option<&Cgroup>,
        work: impl FnOnce(&Actor<'_>) -> Result<()>,
    ) -> Result<Pid> {
        let actor = Actor { fds: &self.fds };
        let release = &mut self.release;
        actor.fork_with(
            name,
            || {
                // The end that lets actors go is the director's alone.
                drop(release.take());
                cgroup.map_or(Ok(()), Cgroup::join)
            },
            work,
        )
    }

    /// Waits until all actors so far stay or have ended.
    ///
    /// # Errors
    ///
    /// When one has failed, whose message is on standard error, or hangs.
    pub(super) fn settle(&mut self) -> Result<()> {
        while self.awaited > 0 {
            let mut ready = [PollFd::new(self.ready.as_fd(), PollFlags::POLLIN)];
            let patience = PollTimeout::try_from(process::PATIENCE).unwrap_or(PollTimeout::NONE);
            ensure!(poll(&mut ready, patience)? == 1, "an actor hangs");
            let mut said = [0];
            self.ready.read_exact(&mut said)?;
            match said[0] {
                STAYS | ENDED => self.awaited -= 1,
                _ => bail!("an actor failed"),
            }
        }
        Ok(())
    }

    /// The number, on the host, of the actor of that name.
    pub(super) fn pid_of(&self, name: &str) -> Result<u64> {
        let roll = self.roll()?;
        Ok(roll.get(name).with_context(|| format!("no actor {name}"))?.pid)
    }

    fn roll_lines(&self) -> Result<String> {
        let mut text = vec![0; self.fds.roll.metadata()?.len() as usize];
        self.fds.roll.read_exact_at(&mut text, 0)?;
        Ok(String::from_utf8(text)?)
    }

    fn roll(&self) -> Result<BTreeMap<String, Id>> {
        let lines = self.roll_lines()?;
        lines.lines().map(|line| line_of_roll(line).with_context(|| line.to_owned())).collect()
    }

    /// What was played so far.
    pub(super) fn played(&self) -> Result<Played> {
        let lines = self.roll_lines()?;
        let processes = lines.lines().filter_map(line_of_roll).map(|(_, id)| id).collect();
        Ok(Played { processes, containers: self.containers.clone() })
    }

    /// Lets all actors go, and waits for them.
    ///
    /// # Errors
    ///
    /// When one has not ended well.
    pub(super) fn end(mut self) -> Result<()> {
        drop(self.release.take());
        for child in std::mem::take(&mut self.children) {
            end_of(child)?;
        }
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Mounts in it are this mount namespace's own, but keep their mount points from being removed.
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let _ = nix::mount::umount2(&entry.path(), nix::mount::MntFlags::MNT_DETACH);
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn line_of_roll(line: &str) -> Option<(String, Id)> {
    let mut words = line.splitn(3, ' ');
    let (pid, ticks) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    Some((words.next()?.to_owned(), Id { pid, ticks }))
}

/// Makes what is mounted from now on nobody else's.
fn private() -> Result<()> {
    let none: Option<&str> = None;
    Ok(mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?)
}

/// Waits for a child, which is to end well.
fn end_of(child: Pid) -> Result<()> {
    loop {
        match waitpid(child, None) {
            Err(nix::errno::Errno::EINTR) => {}
            Ok(WaitStatus::Exited(_, 0)) => return Ok(()),
            other => bail!("actor {child} ended with {other:?}"),
        }
    }
}

impl Inside {
    fn enter(self) -> Result<()> {
        let own = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID;
        match self {
            Self::Fresh => nix::sched::unshare(own | CloneFlags::CLONE_NEWIPC)?,
            Self::HostIpc => nix::sched::unshare(own)?,
            Self::With(pid) => {
                enter(pid, "ipc")?;
                nix::sched::unshare(own)?;
            }
        }
        private()
    }
}

/// Enters a namespace of a process: `ipc`, `mnt`, `pid` and so on.
pub(super) fn enter(pid: u64, kind: &str) -> Result<()> {
    let path = format!("/proc/{pid}/ns/{kind}");
    let file = File::open(&path).with_context(|| path.clone())?;
    nix::sched::setns(file, CloneFlags::empty()).with_context(|| format!("cannot enter {path}"))
}

/// A process that plays a part.
#[derive(Debug)]
pub(super) struct Actor<'a> {
    fds: &'a Fds,
}

impl Actor<'_> {
    fn run(&self, work: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
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
        // SAFETY: without CLONE_VM and with no stack of its own this is a fork, by a process of one
        // thread.
        let pid = unsafe { libc::syscall(libc::SYS_clone, flags | libc::SIGCHLD, 0, 0, 0, 0) };
        match pid {
            -1 => bail!("clone: {}", std::io::Error::last_os_error()),
            0 => self.begin(name, || Ok(()), work),
            pid => end_of(Pid::from_raw(pid as i32)),
        }
    }

    fn fork_with(
        &self,
        name: &str,
        first: impl FnOnce() -> Result<()>,
        work: impl FnOnce(&Self) -> Result<()>,
    ) -> Result<Pid> {
        // SAFETY: directors and actors fork while they have one thread, so that the child may
        // allocate.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => Ok(child),
            ForkResult::Child => self.begin(name, first, work),
        }
    }

    /// The beginning and the end of a new process.
    fn begin(
        &self,
        name: &str,
        first: impl FnOnce() -> Result<()>,
        work: impl FnOnce(&Self) -> Result<()>,
    ) -> ! {
        // SAFETY: PR_SET_PDEATHSIG takes a signal number and no address.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
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
