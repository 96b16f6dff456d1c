//! `namespace-mismatch`: threads that enter a namespace alone.

use anyhow::Result;
use nix::sched::{CloneFlags, setns};

use super::{
    actions::{self, enter_ipc, owner_with_queues, semaphore, up},
    fixture::{self, NamespaceSource, ScenarioFixture},
    kind::{ExpectedFinding, Scenario},
    process::ScenarioProcess,
};
use crate::workload::{calls::CountingCaller, process};

const MISMATCH: ExpectedFinding = ExpectedFinding::high("namespace-mismatch");

/// These scenarios.
pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "enter-and-call",
        what: "A process of the host enters a container's IPC namespace alone, and uses a semaphore there.",
        run: and_call,
        expected: &[MISMATCH],
        also: &[],
    },
    Scenario {
        name: "enter-and-stay",
        what: "A process of the host enters a container's IPC namespace alone, and does nothing.",
        run: and_stay,
        expected: &[MISMATCH],
        also: &[],
    },
    Scenario {
        name: "enter-and-leave",
        what: "A process of the host enters a container's IPC namespace alone, and goes back at once.",
        run: and_leave,
        expected: &[MISMATCH],
        also: &[],
    },
    Scenario {
        name: "enter-and-fork",
        what: "A process of the host enters a container's IPC namespace alone, and a child of it calls there.",
        run: and_fork,
        expected: &[MISMATCH],
        also: &[],
    },
    Scenario {
        name: "enter-by-pidfd",
        what: "A process enters a container's IPC namespace by a descriptor of one of its processes.",
        run: by_pidfd,
        expected: &[MISMATCH],
        also: &[],
    },
    Scenario {
        name: "enter-the-host",
        what: "A process in a container enters the host's IPC namespace, and makes a semaphore there.",
        run: the_host,
        expected: &[MISMATCH],
        also: &["host-ipc"],
    },
];

fn intrude(
    fixture: &mut ScenarioFixture,
    work: impl FnOnce(u64, i32, &ScenarioProcess<'_>) -> Result<()>,
) -> Result<()> {
    let key = fixture.key(1);
    owner_with_queues(fixture)?;
    let owner = fixture.pid_of("owner")?;
    fixture.spawn("intruder", |me| {
        work(owner, key, me)?;
        me.stay()
    })
}

fn and_call(fixture: &mut ScenarioFixture) -> Result<()> {
    intrude(fixture, |owner, key, _| {
        let mut caller = CountingCaller::new("home")?;
        enter_ipc(&mut caller, owner)?;
        let id = semaphore(&mut caller, key, 0)?;
        up(&mut caller, id);
        Ok(())
    })
}

fn and_stay(fixture: &mut ScenarioFixture) -> Result<()> {
    intrude(fixture, |owner, _, _| fixture::enter(owner, "ipc"))
}

fn and_leave(fixture: &mut ScenarioFixture) -> Result<()> {
    intrude(fixture, |owner, _, _| {
        fixture::enter(owner, "ipc")?;
        fixture::enter(u64::from(std::os::unix::process::parent_id()), "ipc")
    })
}

fn and_fork(fixture: &mut ScenarioFixture) -> Result<()> {
    intrude(fixture, |owner, key, me| {
        fixture::enter(owner, "ipc")?;
        me.fork_and_wait("child", |_| {
            semaphore(&mut CountingCaller::new("child")?, key, 0)?;
            Ok(())
        })
    })
}

fn by_pidfd(fixture: &mut ScenarioFixture) -> Result<()> {
    intrude(fixture, |owner, _, _| Ok(setns(actions::pidfd(owner)?, CloneFlags::CLONE_NEWIPC)?))
}

fn the_host(fixture: &mut ScenarioFixture) -> Result<()> {
    let (key, host) = (fixture.key(2), process::open_namespace()?);
    let container = fixture.container()?;
    fixture.spawn_contained(&container, NamespaceSource::Fresh, "escaped", |me| {
        let mut caller = CountingCaller::new("container")?;
        setns(&host, CloneFlags::CLONE_NEWIPC)?;
        caller.moved("host")?;
        let id = semaphore(&mut caller, key, 0o600)?;
        caller.semctl(id, 0, libc::IPC_RMID, 0);
        me.stay()
    })?;
    fixture.keep(container);
    Ok(())
}
