//! Legitimate behaviour of containers and their runtimes, which must lead to no finding.

use std::fs::File;

use anyhow::Result;
use nix::{
    sched::{CloneFlags, setns},
    sys::wait::waitpid,
};

use super::{
    actions::{self, attach, open_queue, owner_with_queues, segment, semaphore, touch, up},
    benign::benign,
    fixture::{self, NamespaceSource, ScenarioFixture},
    kind::Scenario,
};
use crate::workload::calls::CountingCaller;

/// These scenarios.
pub(super) const ALL: &[Scenario] = &[
    benign(
        "benign-postgresql-same-image",
        "Databases of one image in two containers have the same keys, and look them up first.",
        two_postgresql,
    ),
    Scenario {
        // The same key of 32 bits in two containers of one image is reported, with its benign explanation.
        also: &["probe-key", "probe-name"],
        ..benign(
            "benign-same-image-apart",
            "Of two containers of one image only one has created what both look up by a well-known key.",
            two_in_own_namespaces,
        )
    },
    benign(
        "benign-docker-exec",
        "A runtime enters all namespaces of a container one after the other, and starts a shell there.",
        docker_exec,
    ),
    benign(
        "benign-kubectl-exec",
        "A runtime enters all namespaces of a container at once, and starts a shell there.",
        kubectl_exec,
    ),
    Scenario {
        also: &["cross-container"],
        ..benign(
            "benign-pod",
            "Two containers of a pod join the namespace of a third, and use a queue together.",
            pod,
        )
    },
    benign(
        "benign-idle-on-the-host",
        "A container in the host's IPC namespace uses no IPC.",
        idle_on_the_host,
    ),
    benign(
        "benign-file-scanner",
        "A scanner reads files of a container through /proc/PID/root, but no queues.",
        file_scanner,
    ),
    benign(
        "benign-churn",
        "Containers of a CI come and go, with the same keys and names in each.",
        churn,
    ),
    benign(
        "benign-many-workers",
        "A container with memory, semaphores and queues forks workers that use them.",
        many_workers,
    ),
];

/// PostgreSQL's for port 5432, and the next.
const POSTGRESQL: [i32; 2] = [5_432_001, 5_432_002];

fn two_postgresql(fixture: &mut ScenarioFixture) -> Result<()> {
    for name in ["postgres-1", "postgres-2"] {
        let container = fixture.container()?;
        fixture.spawn_contained(&container, NamespaceSource::Fresh, name, |me| {
            let mut caller = CountingCaller::new(name)?;
            for key in POSTGRESQL {
                // As InternalIpcMemoryCreate and IpcSemaphoreCreate do: made exclusively, or the next.
                semaphore(&mut caller, key, 0o600 | libc::IPC_EXCL)?;
                let id = segment(&mut caller, key)?;
                touch(attach(&mut caller, id)?);
            }
            me.stay()
        })?;
        fixture.wait_ready()?;
        fixture.keep(container);
    }
    Ok(())
}

fn two_in_own_namespaces(fixture: &mut ScenarioFixture) -> Result<()> {
    let well_known = 0x5354_4154;
    for (name, makes) in [("same-1", true), ("same-2", false)] {
        let container = fixture.container()?;
        fixture.spawn_contained(&container, NamespaceSource::Fresh, name, |me| {
            let mut caller = CountingCaller::new(name)?;
            if makes {
                segment(&mut caller, well_known)?;
                open_queue(&mut caller, b"statistics")?;
            } else {
                caller.shmget(well_known, 0, 0);
                caller.mq_open(b"statistics", libc::O_RDWR, 0, None);
            }
            me.stay()
        })?;
        fixture.wait_ready()?;
        fixture.keep(container);
    }
    Ok(())
}

fn docker_exec(fixture: &mut ScenarioFixture) -> Result<()> {
    exec(fixture, |owner| {
        for kind in ["ipc", "uts", "net", "pid", "mnt"] {
            fixture::enter(owner, kind)?;
        }
        Ok(())
    })
}

fn kubectl_exec(fixture: &mut ScenarioFixture) -> Result<()> {
    exec(fixture, |owner| {
        let all = CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID;
        Ok(setns(actions::pidfd(owner)?, all)?)
    })
}

/// Starts a container, and a process of its runtime that enters it and starts another one there.
fn exec(fixture: &mut ScenarioFixture, enter: impl FnOnce(u64) -> Result<()>) -> Result<()> {
    let key = fixture.key(1);
    owner_with_queues(fixture)?;
    let owner = fixture.pid_of("owner")?;
    fixture.spawn_in_last_container("runc:[2:INIT]", |me| {
        enter(owner)?;
        let shell = me.fork("sh", |me| {
            let mut caller = CountingCaller::new("inside")?;
            let id = actions::made("semget", caller.semget(key, 1, 0))?;
            up(&mut caller, id);
            me.stay()
        })?;
        // It is killed if the container's first process ends before it does.
        waitpid(shell, None)?;
        Ok(())
    })
}

fn pod(fixture: &mut ScenarioFixture) -> Result<()> {
    let queue = fixture.queue();
    let pause = fixture.container_of_pod(1)?;
    fixture.spawn_contained(&pause, NamespaceSource::Fresh, "pause", |me| me.stay())?;
    fixture.wait_ready()?;
    fixture.keep(pause);
    let with = NamespaceSource::With(fixture.pid_of("pause")?);
    for name in ["app", "sidecar"] {
        let container = fixture.container_of_pod(1)?;
        fixture.spawn_contained(&container, with, name, |me| {
            let mut caller = CountingCaller::new(name)?;
            let fd = open_queue(&mut caller, &queue)?;
            caller.mq_send(fd, b"to the pod", 1, None);
            caller.mq_receive(fd, 64, None);
            me.stay()
        })?;
        fixture.wait_ready()?;
        fixture.keep(container);
    }
    Ok(())
}

fn idle_on_the_host(fixture: &mut ScenarioFixture) -> Result<()> {
    let container = fixture.container()?;
    fixture.spawn_contained(&container, NamespaceSource::HostIpc, "idle", |me| me.stay())?;
    fixture.wait_ready()?;
    fixture.keep(container);
    Ok(())
}

fn file_scanner(fixture: &mut ScenarioFixture) -> Result<()> {
    owner_with_queues(fixture)?;
    let owner = fixture.pid_of("owner")?;
    fixture.spawn("scanner", |me| {
        File::open(format!("/proc/{owner}/root"))?;
        std::fs::read_dir(format!("/proc/{owner}/root/"))?.for_each(drop);
        std::fs::read_to_string(format!("/proc/{owner}/root/proc/self/mountinfo"))?;
        me.stay()
    })
}

/// How many containers.
const CONTAINERS: u32 = 12;

fn churn(fixture: &mut ScenarioFixture) -> Result<()> {
    let (key, queue) = (fixture.key(1), fixture.queue());
    for number in 0..CONTAINERS {
        let container = fixture.container()?;
        fixture.spawn_contained(
            &container,
            NamespaceSource::Fresh,
            &format!("job-{number}"),
            |_| {
                let mut caller = CountingCaller::new("job")?;
                let id = segment(&mut caller, key)?;
                touch(attach(&mut caller, id)?);
                let id = semaphore(&mut caller, key, 0o600)?;
                up(&mut caller, id);
                let fd = open_queue(&mut caller, &queue)?;
                caller.mq_send(fd, b"done", 1, None);
                Ok(())
            },
        )?;
        fixture.wait_ready()?;
        fixture.keep(container);
    }
    Ok(())
}

fn many_workers(fixture: &mut ScenarioFixture) -> Result<()> {
    let (key, queue) = (fixture.key(1), fixture.queue());
    let container = fixture.container()?;
    fixture.spawn_contained(&container, NamespaceSource::Fresh, "master", |me| {
        let mut caller = CountingCaller::new("master")?;
        let id = segment(&mut caller, key)?;
        let at = attach(&mut caller, id)?;
        let sem = semaphore(&mut caller, key, 0o600)?;
        let fd = open_queue(&mut caller, &queue)?;
        for _ in 0..5 {
            me.fork_and_wait("worker", |_| {
                let mut caller = CountingCaller::new("worker")?;
                touch(at);
                up(&mut caller, sem);
                caller.mq_send(fd, b"done", 1, None);
                Ok(())
            })?;
        }
        me.stay()
    })?;
    fixture.wait_ready()?;
    fixture.keep(container);
    Ok(())
}
