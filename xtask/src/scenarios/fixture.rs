//! A scenario's fixture: its processes, its containers, and what is known of them afterwards.
//!
//! Each process of a scenario enters itself in the registry, by its PID and start on the host. A process that must
//! be visible for longer than its calls take stays until the runner releases it.
//!
//! Invariant: a fixture leaves nothing behind: processes die with it, mounts are in its own mount namespace,
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

use super::process::{ENDED, FixtureFds, STAYS, ScenarioProcess, wait_for_exit};
use crate::{containers::TestCgroup, workload::process};

/// A process of a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct ScenarioProcessId {
    /// Its number on the host
    pub(super) pid: u64,
    /// When it started, after boot, in ticks of 10 ms (proc_pid_stat(5), field 22)
    pub(super) ticks: u64,
}

/// What a scenario consisted of, once it has run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ScenarioRun {
    /// Its processes, without the driver
    pub(super) processes: Vec<ScenarioProcessId>,
    /// The ids of its containers
    pub(super) containers: Vec<String>,
    /// The feature that it needs and that the kernel lacks or refuses: then nothing happened
    pub(super) unsupported: Option<String>,
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
pub(super) struct ScenarioContainer {
    cgroup: TestCgroup,
}

/// A scenario's fixture.
#[derive(Debug)]
pub(super) struct ScenarioFixture {
    fds: FixtureFds,
    ready: File,
    release: Option<OwnedFd>,
    /// Direct children
    children: Vec<Pid>,
    /// How many processes are not ready yet
    awaited: usize,
    containers: Vec<String>,
    unsupported: Option<String>,
    /// Cgroups that exist until its end
    kept: Vec<TestCgroup>,
    folder: tempfile::TempDir,
}

impl ScenarioFixture {
    /// An empty fixture. The process must have one thread.
    ///
    /// # Errors
    ///
    /// When this process isn't root's.
    pub(super) fn new() -> Result<Self> {
        nix::sched::unshare(CloneFlags::CLONE_NEWNS).context("a mount namespace")?;
        make_mounts_private()?;
        let registry =
            nix::sys::memfd::memfd_create(c"registry", nix::sys::memfd::MFdFlags::empty())?;
        nix::fcntl::fcntl(&registry, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_APPEND))?;
        // Not closed by exec: processes may run other programs.
        let (ready, ready_writer) = nix::unistd::pipe()?;
        let (hold, release) = nix::unistd::pipe()?;
        nix::fcntl::fcntl(&release, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
        let folder = tempfile::Builder::new().prefix("scenario-").tempdir()?;
        Ok(Self {
            fds: FixtureFds {
                registry: registry.into(),
                ready: ready_writer.into(),
                hold: hold.into(),
            },
            ready: ready.into(),
            release: Some(release),
            children: Vec::new(),
            awaited: 0,
            containers: Vec::new(),
            unsupported: None,
            kept: Vec::new(),
            folder,
        })
    }

    /// A folder for its files and mounts.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A unique key of 32 bits: `n` distinguishes those of one scenario.
    pub(super) fn key(&self, n: u32) -> i32 {
        let mixed = std::process::id().wrapping_mul(0x9e37_79b9).wrapping_add(n * 0x0101_6b2d);
        // Neither small nor negative.
        (mixed >> 1 | 0x4000_0000) as i32
    }

    /// A unique queue name, without the slash.
    pub(super) fn queue(&self) -> Vec<u8> {
        format!("scenario-{}", std::process::id()).into_bytes()
    }

    /// Starts a process of the host, in the driver's namespaces, that does `work`.
    ///
    /// # Errors
    ///
    /// When it can't be started. [`Self::wait_ready`] reports what fails in it.
    pub(super) fn spawn(
        &mut self,
        name: &str,
        work: impl FnOnce(&ScenarioProcess<'_>) -> Result<()>,
    ) -> Result<()> {
        self.awaited += 1;
        let child = self.child(name, None, |process| process.run(work))?;
        self.children.push(child);
        Ok(())
    }

    /// Starts a process of the host in this cgroup, as a service or a session has one.
    pub(super) fn spawn_in(
        &mut self,
        cgroup: &TestCgroup,
        name: &str,
        work: impl FnOnce(&ScenarioProcess<'_>) -> Result<()>,
    ) -> Result<()> {
        self.start_in(cgroup, name, |process| process.run(work))
    }

    /// A new container, as Docker makes one.
    pub(super) fn container(&mut self) -> Result<ScenarioContainer> {
        let id = self.new_id();
        self.create_container(&format!("docker/{id}"), id)
    }

    /// A new container in a pod of Kubernetes: those with the same number are in the same pod.
    pub(super) fn container_of_pod(&mut self, pod: u32) -> Result<ScenarioContainer> {
        let id = self.new_id();
        let own = std::process::id();
        let slice = format!("kubepods-burstable-pod{own:08x}_0000_4000_8000_{pod:012x}.slice");
        let path =
            format!("kubepods.slice/kubepods-burstable.slice/{slice}/cri-containerd-{id}.scope");
        self.create_container(&path, id)
    }

    /// Keeps a container's cgroup until the end.
    pub(super) fn keep(&mut self, container: ScenarioContainer) {
        self.kept.push(container.cgroup);
    }

    /// Keeps a cgroup until the end.
    pub(super) fn keep_cgroup(&mut self, cgroup: TestCgroup) {
        self.kept.push(cgroup);
    }

    /// Starts a process of a runtime in the cgroup of the container that was kept last, still in the host's
    /// namespaces.
    pub(super) fn spawn_in_last_container(
        &mut self,
        name: &str,
        work: impl FnOnce(&ScenarioProcess<'_>) -> Result<()>,
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
        work: impl FnOnce(&ScenarioProcess<'_>) -> Result<()>,
    ) -> Result<()> {
        self.awaited += 1;
        let child = self.child(name, Some(cgroup), work)?;
        self.children.push(child);
        Ok(())
    }

    fn new_id(&self) -> String {
        format!("{:08x}{:08x}", std::process::id(), self.containers.len() + 1).repeat(4)
    }

    fn create_container(&mut self, path: &str, id: String) -> Result<ScenarioContainer> {
        self.containers.push(id);
        Ok(ScenarioContainer { cgroup: TestCgroup::make(path)? })
    }

    /// Starts the first process of a container, or another one of its runtime: a process of the host
    /// joins the cgroup and the namespaces, as `runc init` does, and its child does `work`.
    pub(super) fn spawn_contained(
        &mut self,
        container: &ScenarioContainer,
        inside: NamespaceSource,
        name: &str,
        work: impl FnOnce(&ScenarioProcess<'_>) -> Result<()>,
    ) -> Result<()> {
        self.awaited += 1;
        let child = self.child("runc:[1:CHILD]", Some(&container.cgroup), |runtime| {
            inside.enter()?;
            runtime.fork(name, |process| process.run(work)).and_then(wait_for_exit)
        })?;
        self.children.push(child);
        Ok(())
    }

    fn child(
        &mut self,
        name: &str,
        cgroup: Option<&TestCgroup>,
        work: impl FnOnce(&ScenarioProcess<'_>) -> Result<()>,
    ) -> Result<Pid> {
        let process = ScenarioProcess { fds: &self.fds };
        let release = &mut self.release;
        process.fork_with(
            name,
            || {
                // Only the driver keeps the end that releases processes.
                drop(release.take());
                cgroup.map_or(Ok(()), TestCgroup::join)
            },
            work,
        )
    }

    /// Waits until all processes so far stay or have ended.
    ///
    /// # Errors
    ///
    /// When one has failed, whose message is on standard error, or hangs.
    pub(super) fn wait_ready(&mut self) -> Result<()> {
        while self.awaited > 0 {
            let mut ready = [PollFd::new(self.ready.as_fd(), PollFlags::POLLIN)];
            let timeout = PollTimeout::try_from(process::WAIT_TIMEOUT).unwrap_or(PollTimeout::NONE);
            if poll(&mut ready, timeout)? != 1 {
                for child in &self.children {
                    // Fails for one that has ended.
                    let _ = kill(*child, Signal::SIGKILL);
                }
                bail!("a process hangs");
            }
            let mut status = [0];
            self.ready.read_exact(&mut status)?;
            match status[0] {
                STAYS | ENDED => self.awaited -= 1,
                _ => bail!("a process failed"),
            }
        }
        Ok(())
    }

    /// Records that the kernel lacks, or refuses, a feature that the scenario needs.
    pub(super) fn mark_unsupported(&mut self, what: &str) {
        self.unsupported = Some(what.to_owned());
    }

    /// The PID, on the host, of the process of that name.
    pub(super) fn pid_of(&self, name: &str) -> Result<u64> {
        let registry = self.registry()?;
        Ok(registry.get(name).with_context(|| format!("no process {name}"))?.pid)
    }

    fn registry_lines(&self) -> Result<String> {
        let mut text = vec![0; self.fds.registry.metadata()?.len() as usize];
        self.fds.registry.read_exact_at(&mut text, 0)?;
        Ok(String::from_utf8(text)?)
    }

    fn registry(&self) -> Result<BTreeMap<String, ScenarioProcessId>> {
        let lines = self.registry_lines()?;
        lines
            .lines()
            .map(|line| parse_registry_line(line).with_context(|| line.to_owned()))
            .collect()
    }

    /// What has run so far.
    pub(super) fn run_so_far(&self) -> Result<ScenarioRun> {
        let lines = self.registry_lines()?;
        let processes = lines.lines().filter_map(parse_registry_line).map(|(_, id)| id).collect();
        Ok(ScenarioRun {
            processes,
            containers: self.containers.clone(),
            unsupported: self.unsupported.clone(),
        })
    }

    /// Releases all processes, and waits for them.
    ///
    /// # Errors
    ///
    /// When one has failed.
    pub(super) fn end(mut self) -> Result<()> {
        drop(self.release.take());
        for child in std::mem::take(&mut self.children) {
            wait_for_exit(child)?;
        }
        Ok(())
    }
}

impl Drop for ScenarioFixture {
    fn drop(&mut self) {
        // After a failure some are still there, and in the cgroups.
        drop(self.release.take());
        for child in std::mem::take(&mut self.children) {
            let _ = wait_for_exit(child);
        }
        // Mounts in it are this mount namespace's own, but keep their mount points from being removed.
        for entry in fs::read_dir(self.folder.path()).into_iter().flatten().flatten() {
            let _ = nix::mount::umount2(&entry.path(), nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

fn parse_registry_line(line: &str) -> Option<(String, ScenarioProcessId)> {
    let mut words = line.splitn(3, ' ');
    let (pid, ticks) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    Some((words.next()?.to_owned(), ScenarioProcessId { pid, ticks }))
}

/// Makes all mounts private: later mounts are visible in this namespace only.
fn make_mounts_private() -> Result<()> {
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
        make_mounts_private()
    }
}

/// Enters a namespace of a process: `ipc`, `mnt`, `pid` and so on.
pub(super) fn enter(pid: u64, kind: &str) -> Result<()> {
    let path = format!("/proc/{pid}/ns/{kind}");
    let file = File::open(&path).with_context(|| path.clone())?;
    nix::sched::setns(file, CloneFlags::empty()).with_context(|| format!("cannot enter {path}"))
}
