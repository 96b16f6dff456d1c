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
    io::Read as _,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::FileExt as _,
    },
    path::Path,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    mount::{MsFlags, mount},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::CloneFlags,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

use super::actor::{Actor, ENDED, Fds, STAYS, end_of};
use crate::{containers::TestCgroup, workload::process};

/// A process of a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct StagedProcessId {
    /// Its number on the host
    pub(super) pid: u64,
    /// When it started, after boot, in ticks of 10 ms (proc_pid_stat(5), field 22)
    pub(super) ticks: u64,
}

/// What a scenario was, once it has been played.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Played {
    /// Its processes, the one that directs them not included
    pub(super) processes: Vec<StagedProcessId>,
    /// The ids of its containers
    pub(super) containers: Vec<String>,
    /// What the kernel lacks or refuses that it is about: then nothing happened
    pub(super) lacks: Option<String>,
}

/// Where a container's namespaces come from.
#[derive(Clone, Copy, Debug)]
pub(super) enum NamespaceSource {
    /// New ones of its own: IPC, mounts, processes
    Fresh,
    /// The IPC namespace of that process, mounts and processes of its own: a container that shares
    With(u64),
    /// The IPC namespace of the host, mounts and processes of its own
    HostIpc,
}

/// A container: a cgroup, called as a runtime would call it.
#[derive(Debug)]
pub(super) struct StagedContainer {
    cgroup: TestCgroup,
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
    lacks: Option<String>,
    /// Those that are to last as long as it
    kept: Vec<TestCgroup>,
    folder: tempfile::TempDir,
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
        let folder = tempfile::Builder::new().prefix("scenario-").tempdir()?;
        Ok(Self {
            fds: Fds { roll: roll.into(), ready: say_ready.into(), hold: hold.into() },
            ready: ready.into(),
            release: Some(release),
            children: Vec::new(),
            awaited: 0,
            containers: Vec::new(),
            lacks: None,
            kept: Vec::new(),
            folder,
        })
    }

    /// A folder for its files and mounts.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
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
        cgroup: &TestCgroup,
        name: &str,
        work: impl FnOnce(&Actor<'_>) -> Result<()>,
    ) -> Result<()> {
        self.start_in(cgroup, name, |actor| actor.run(work))
    }

    /// A new container, as Docker makes one.
    pub(super) fn container(&mut self) -> Result<StagedContainer> {
        let id = self.new_id();
        self.called(&format!("docker/{id}"), id)
    }

    /// A new container in a pod of Kubernetes: those with the same number are in the same pod.
    pub(super) fn container_of_pod(&mut self, pod: u32) -> Result<StagedContainer> {
        let id = self.new_id();
        let own = std::process::id();
        let slice = format!("kubepods-burstable-pod{own:08x}_0000_4000_8000_{pod:012x}.slice");
        let path =
            format!("kubepods.slice/kubepods-burstable.slice/{slice}/cri-containerd-{id}.scope");
        self.called(&path, id)
    }

    /// Keeps a container's cgroup until the end.
    pub(super) fn keep(&mut self, container: StagedContainer) {
        self.kept.push(container.cgroup);
    }

    /// Keeps a cgroup until the end.
    pub(super) fn keep_cgroup(&mut self, cgroup: TestCgroup) {
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
        cgroup: &TestCgroup,
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

    fn called(&mut self, path: &str, id: String) -> Result<StagedContainer> {
        self.containers.push(id);
        Ok(StagedContainer { cgroup: TestCgroup::make(path)? })
    }

    /// The first process of a container, or another one that its runtime starts there: a process of the
    /// host joins the cgroup and the namespaces, as `runc init` does, and its child does `work`.
    pub(super) fn contain(
        &mut self,
        container: &StagedContainer,
        inside: NamespaceSource,
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
        cgroup: Option<&TestCgroup>,
        work: impl FnOnce(&Actor<'_>) -> Result<()>,
    ) -> Result<Pid> {
        let actor = Actor { fds: &self.fds };
        let release = &mut self.release;
        actor.fork_with(
            name,
            || {
                // The end that lets actors go is the director's alone.
                drop(release.take());
                cgroup.map_or(Ok(()), TestCgroup::join)
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
            if poll(&mut ready, patience)? != 1 {
                for child in &self.children {
                    // Fails for one that has ended.
                    let _ = kill(*child, Signal::SIGKILL);
                }
                bail!("an actor hangs");
            }
            let mut said = [0];
            self.ready.read_exact(&mut said)?;
            match said[0] {
                STAYS | ENDED => self.awaited -= 1,
                _ => bail!("an actor failed"),
            }
        }
        Ok(())
    }

    /// The kernel lacks, or was told to refuse, what the scenario is about.
    pub(super) fn lacks(&mut self, what: &str) {
        self.lacks = Some(what.to_owned());
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

    fn roll(&self) -> Result<BTreeMap<String, StagedProcessId>> {
        let lines = self.roll_lines()?;
        lines.lines().map(|line| line_of_roll(line).with_context(|| line.to_owned())).collect()
    }

    /// What was played so far.
    pub(super) fn played(&self) -> Result<Played> {
        let lines = self.roll_lines()?;
        let processes = lines.lines().filter_map(line_of_roll).map(|(_, id)| id).collect();
        Ok(Played { processes, containers: self.containers.clone(), lacks: self.lacks.clone() })
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
        // After a failure some are still there, and in the cgroups.
        drop(self.release.take());
        for child in std::mem::take(&mut self.children) {
            let _ = end_of(child);
        }
        // Mounts in it are this mount namespace's own, but keep their mount points from being removed.
        for entry in fs::read_dir(self.folder.path()).into_iter().flatten().flatten() {
            let _ = nix::mount::umount2(&entry.path(), nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

fn line_of_roll(line: &str) -> Option<(String, StagedProcessId)> {
    let mut words = line.splitn(3, ' ');
    let (pid, ticks) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    Some((words.next()?.to_owned(), StagedProcessId { pid, ticks }))
}

/// Makes what is mounted from now on nobody else's.
fn private() -> Result<()> {
    let none: Option<&str> = None;
    Ok(mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?)
}

impl NamespaceSource {
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
