//! `namespace-mismatch`: threads that enter a namespace alone.

use anyhow::Result;
use nix::sched::{CloneFlags, setns};

use super::{
    actor::Actor,
    acts::{self, enter_ipc, owner_with_queues, semaphore, up},
    kind::{ExpectedFinding, Scenario},
    stage::{self, NamespaceSource, Stage},
};
use crate::workload::{calls::CountingCaller, process};

const MISMATCH: ExpectedFinding = ExpectedFinding::high("namespace-mismatch");

/// These scenarios.
pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "enter-and-call",
        what: "A process of the host enters a container's IPC namespace alone, and uses a semaphore there.",
        play: and_call,
        expected: &[MISMATCH],
        also: &[],
    },
    Scenario {
        name: "enter-and-stay",
        what: "A process of the host enters a container's IPC namespace alone, and does nothing.",
        play: and_stay,
        expected: &[MISMATCH],
        also: &[],
    },
    Scenario {
        name: "enter-and-leave",
        what: "A process of the host enters a container's IPC namespace alone, and goes back at once.",
        play: and_leave,
        expected: &[MISMATCH],
        also: &[],
    },
    Scenario {
        name: "enter-and-fork",
        what: "A process of the host enters a container's IPC namespace alone, and a child of it calls there.",
        play: and_fork,
        expected: &[MISMATCH],
        also: &[],
    },
    Scenario {
        name: "enter-by-pidfd",
        what: "A process enters a container's IPC namespace by a descriptor of one of its processes.",
        play: by_pidfd,
        expected: &[MISMATCH],
        also: &[],
    },
    Scenario {
        name: "enter-the-host",
        what: "A process in a container enters the host's IPC namespace, and makes a semaphore there.",
        play: the_host,
        expected: &[MISMATCH],
        also: &["host-ipc"],
    },
];

fn intrude(stage: &mut Stage, work: impl FnOnce(u64, i32, &Actor<'_>) -> Result<()>) -> Result<()> {
    let key = stage.key(1);
    owner_with_queues(stage)?;
    let owner = stage.pid_of("owner")?;
    stage.act("intruder", |me| {
        work(owner, key, me)?;
        me.stay()
    })
}

fn and_call(stage: &mut Stage) -> Result<()> {
    intrude(stage, |owner, key, _| {
        let mut caller = CountingCaller::new("home")?;
        enter_ipc(&mut caller, owner)?;
        let id = semaphore(&mut caller, key, 0)?;
        up(&mut caller, id);
        Ok(())
    })
}

fn and_stay(stage: &mut Stage) -> Result<()> {
    intrude(stage, |owner, _, _| stage::enter(owner, "ipc"))
}

fn and_leave(stage: &mut Stage) -> Result<()> {
    intrude(stage, |owner, _, _| {
        stage::enter(owner, "ipc")?;
        stage::enter(u64::from(std::os::unix::process::parent_id()), "ipc")
    })
}

fn and_fork(stage: &mut Stage) -> Result<()> {
    intrude(stage, |owner, key, me| {
        stage::enter(owner, "ipc")?;
        me.fork_and_wait("child", |_| {
            semaphore(&mut CountingCaller::new("child")?, key, 0)?;
            Ok(())
        })
    })
}

fn by_pidfd(stage: &mut Stage) -> Result<()> {
    intrude(stage, |owner, _, _| Ok(setns(acts::pidfd(owner)?, CloneFlags::CLONE_NEWIPC)?))
}

fn the_host(stage: &mut Stage) -> Result<()> {
    let (key, host) = (stage.key(2), process::open_namespace()?);
    let container = stage.container()?;
    stage.contain(&container, NamespaceSource::Fresh, "escaped", |me| {
        let mut caller = CountingCaller::new("container")?;
        setns(&host, CloneFlags::CLONE_NEWIPC)?;
        caller.moved("host")?;
        let id = semaphore(&mut caller, key, 0o600)?;
        caller.semctl(id, 0, libc::IPC_RMID, 0);
        me.stay()
    })?;
    stage.keep(container);
    Ok(())
}
