//! Containers that meet in one namespace: `cross-container`, `host-ipc`, `cross-container-denied`,
//! `weak-mode`.

use anyhow::{Result, ensure};
use nix::unistd::{Uid, setuid};

use super::{
    acts::{semaphore, unshare_ipc, up},
    kind::{
        ExpectedFinding,
        ExpectedSeverity::{Info, Low, Medium},
        Scenario,
    },
    stage::{NamespaceSource, Stage, StagedContainer},
};
use crate::workload::calls::CountingCaller;

/// A user who is not root.
const SOMEBODY: u32 = 4242;

/// These scenarios.
pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "share-undeclared",
        what: "A container that was put into another's IPC namespace, as no runtime declares, uses its semaphore.",
        play: undeclared,
        expected: &[ExpectedFinding::new("cross-container", Medium).confident(60, 100)],
        also: &[],
    },
    Scenario {
        name: "share-of-a-pod",
        what: "Two containers of one pod use one semaphore.",
        play: of_a_pod,
        expected: &[ExpectedFinding::new("cross-container", Info).confident(60, 100)],
        also: &[],
    },
    Scenario {
        name: "share-the-host",
        what: "A container in the host's IPC namespace, as no runtime declares, makes a semaphore there.",
        play: the_host,
        expected: &[ExpectedFinding::new("host-ipc", Medium).confident(60, 100)],
        also: &[],
    },
    Scenario {
        name: "share-denied",
        what: "A container is denied a semaphore that another one made in the namespace that they share.",
        play: denied,
        expected: &[ExpectedFinding::new("cross-container-denied", Medium).confident(60, 100)],
        also: &["cross-container"],
    },
    Scenario {
        name: "share-with-anybody",
        what: "Two users use a semaphore that anybody may write.",
        play: with_anybody,
        expected: &[ExpectedFinding::new("weak-mode", Low).confident(60, 100)],
        also: &[],
    },
];

/// Plays two containers in one namespace, the first of which has a semaphore that the other tries to use.
fn two(
    stage: &mut Stage,
    make: impl Fn(&mut Stage) -> Result<StagedContainer>,
    user: u32,
    may: bool,
) -> Result<()> {
    let key = stage.key(1);
    let (first, second) = (make(stage)?, make(stage)?);
    stage.contain(&first, NamespaceSource::Fresh, "first", |me| {
        let mut caller = CountingCaller::new("first")?;
        let id = semaphore(&mut caller, key, 0o600)?;
        up(&mut caller, id);
        me.stay()
    })?;
    stage.settle()?;
    let with = NamespaceSource::With(stage.pid_of("first")?);
    stage.contain(&second, with, "second", |me| {
        let mut caller = CountingCaller::new("second")?;
        setuid(Uid::from_raw(user))?;
        let ret = caller.semget(key, 1, 0o600);
        if may {
            up(&mut caller, super::acts::made("semget", ret)?);
        } else {
            ensure!(ret == -i64::from(libc::EACCES), "it answers {ret}");
        }
        me.stay()
    })?;
    stage.keep(first);
    stage.keep(second);
    Ok(())
}

fn undeclared(stage: &mut Stage) -> Result<()> {
    two(stage, Stage::container, 0, true)
}

fn of_a_pod(stage: &mut Stage) -> Result<()> {
    two(stage, |stage| stage.container_of_pod(1), 0, true)
}

fn denied(stage: &mut Stage) -> Result<()> {
    two(stage, Stage::container, SOMEBODY, false)
}

fn the_host(stage: &mut Stage) -> Result<()> {
    let key = stage.key(1);
    let container = stage.container()?;
    stage.contain(&container, NamespaceSource::HostIpc, "guest", |me| {
        let mut caller = CountingCaller::new("host")?;
        let id = semaphore(&mut caller, key, 0o600)?;
        up(&mut caller, id);
        caller.semctl(id, 0, libc::IPC_RMID, 0);
        me.stay()
    })?;
    stage.keep(container);
    Ok(())
}

fn with_anybody(stage: &mut Stage) -> Result<()> {
    let key = stage.key(1);
    stage.act("first", |me| {
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
