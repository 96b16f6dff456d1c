//! Containers that share one namespace: `cross-container`, `host-ipc`, `cross-container-denied`,
//! `weak-mode`.

use anyhow::{Result, ensure};
use nix::unistd::{Uid, setuid};

use super::{
    actions::{semaphore, unshare_ipc, up},
    fixture::{NamespaceSource, ScenarioContainer, ScenarioFixture},
    kind::{
        ExpectedFinding,
        ExpectedSeverity::{Info, Low, Medium},
        Scenario,
    },
};
use crate::workload::calls::CountingCaller;

/// A user who is not root.
const SOMEBODY: u32 = 4242;

/// These scenarios.
pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "share-undeclared",
        what: "A container that was put into another's IPC namespace, as no runtime declares, uses its semaphore.",
        run: undeclared,
        expected: &[ExpectedFinding::new("cross-container", Medium).confident(60, 100)],
        also: &[],
    },
    Scenario {
        name: "share-of-a-pod",
        what: "Two containers of one pod use one semaphore.",
        run: of_a_pod,
        expected: &[ExpectedFinding::new("cross-container", Info).confident(60, 100)],
        also: &[],
    },
    Scenario {
        name: "share-the-host",
        what: "A container in the host's IPC namespace, as no runtime declares, makes a semaphore there.",
        run: the_host,
        expected: &[ExpectedFinding::new("host-ipc", Medium).confident(60, 100)],
        also: &[],
    },
    Scenario {
        name: "share-denied",
        what: "A container is denied a semaphore that another one made in the namespace that they share.",
        run: denied,
        expected: &[ExpectedFinding::new("cross-container-denied", Medium).confident(60, 100)],
        also: &["cross-container"],
    },
    Scenario {
        name: "share-with-anybody",
        what: "Two users use a semaphore that anybody may write.",
        run: with_anybody,
        expected: &[ExpectedFinding::new("weak-mode", Low).confident(60, 100)],
        also: &[],
    },
];

/// Starts two containers in one namespace, the first of which has a semaphore that the other tries to use.
fn two(
    fixture: &mut ScenarioFixture,
    make: impl Fn(&mut ScenarioFixture) -> Result<ScenarioContainer>,
    user: u32,
    may: bool,
) -> Result<()> {
    let key = fixture.key(1);
    let (first, second) = (make(fixture)?, make(fixture)?);
    fixture.spawn_contained(&first, NamespaceSource::Fresh, "first", |me| {
        let mut caller = CountingCaller::new("first")?;
        let id = semaphore(&mut caller, key, 0o600)?;
        up(&mut caller, id);
        me.stay()
    })?;
    fixture.wait_ready()?;
    let with = NamespaceSource::With(fixture.pid_of("first")?);
    fixture.spawn_contained(&second, with, "second", |me| {
        let mut caller = CountingCaller::new("second")?;
        setuid(Uid::from_raw(user))?;
        let ret = caller.semget(key, 1, 0o600);
        if may {
            up(&mut caller, super::actions::made("semget", ret)?);
        } else {
            ensure!(ret == -i64::from(libc::EACCES), "unexpected result {ret}");
        }
        me.stay()
    })?;
    fixture.keep(first);
    fixture.keep(second);
    Ok(())
}

fn undeclared(fixture: &mut ScenarioFixture) -> Result<()> {
    two(fixture, ScenarioFixture::container, 0, true)
}

fn of_a_pod(fixture: &mut ScenarioFixture) -> Result<()> {
    two(fixture, |fixture| fixture.container_of_pod(1), 0, true)
}

fn denied(fixture: &mut ScenarioFixture) -> Result<()> {
    two(fixture, ScenarioFixture::container, SOMEBODY, false)
}

fn the_host(fixture: &mut ScenarioFixture) -> Result<()> {
    let key = fixture.key(1);
    let container = fixture.container()?;
    fixture.spawn_contained(&container, NamespaceSource::HostIpc, "guest", |me| {
        let mut caller = CountingCaller::new("host")?;
        let id = semaphore(&mut caller, key, 0o600)?;
        up(&mut caller, id);
        caller.semctl(id, 0, libc::IPC_RMID, 0);
        me.stay()
    })?;
    fixture.keep(container);
    Ok(())
}

fn with_anybody(fixture: &mut ScenarioFixture) -> Result<()> {
    let key = fixture.key(1);
    fixture.spawn("first", |me| {
        let mut caller = unshare_ipc()?;
        let id = semaphore(&mut caller, key, 0o666)?;
        up(&mut caller, id);
        me.fork_and_wait("second", |_| {
            let mut caller = CountingCaller::new("second")?;
            setuid(Uid::from_raw(SOMEBODY))?;
            ensure!(up(&mut caller, id) == 0, "it may not");
            Ok(())
        })?;
        me.stay()
    })
}
