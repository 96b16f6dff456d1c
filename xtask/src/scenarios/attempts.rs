//! `probe-key`, `probe-id`, `probe-name`: failed lookups of something that exists in another
//! namespace, each with the confidence that it deserves.

use anyhow::{Context as _, Result, ensure};

use super::{
    actions::{open_queue, semaphore, unshare_ipc, up},
    fixture::ScenarioFixture,
    kind::{
        ExpectedFinding,
        ExpectedSeverity::{High, Info, Low, Medium},
        Scenario,
    },
    own::database,
    process::ScenarioProcess,
};
use crate::workload::calls::{CountingCaller, Route};

/// A key of many bits, that exists in exactly one other namespace.
const fn strong(class: &'static str) -> ExpectedFinding {
    ExpectedFinding::new(class, Medium).confident(60, 100)
}

/// For a name, which is read before the kernel copies it: limited confidence.
const fn name() -> ExpectedFinding {
    ExpectedFinding::new("probe-name", Low).confident(40, 59)
}

/// By a process that was in the other namespace.
const fn stale(class: &'static str) -> ExpectedFinding {
    ExpectedFinding::new(class, High).confident(80, 100)
}

/// These scenarios.
pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "probe-key-of-memory",
        what: "A process looks up a segment by a random key that a container has.",
        run: |fixture| probe_by_key(fixture, |caller, key| caller.shmget(key, 4096, 0)),
        expected: &[strong("probe-key").times(1)],
        also: &[],
    },
    Scenario {
        name: "probe-key-of-semaphores",
        what: "A process looks up semaphores by a random key that a container has.",
        run: |fixture| probe_by_key(fixture, |caller, key| caller.semget(key, 0, 0)),
        expected: &[strong("probe-key").times(1)],
        also: &[],
    },
    Scenario {
        name: "probe-key-of-messages",
        what: "A 32-bit process looks up a message queue by a random key that a container has.",
        run: |fixture| {
            probe_by_key(fixture, |caller, key| caller.by(Route::Int80Ipc).msgget(key, 0))
        },
        expected: &[strong("probe-key").times(1)],
        also: &[],
    },
    Scenario {
        name: "probe-key-in-a-burst",
        what: "A process looks up twenty keys that a container has, again and again.",
        run: in_a_burst,
        expected: &[strong("probe-key").times(60)],
        also: &[],
    },
    Scenario {
        name: "probe-key-small",
        what: "A process looks up a key of four digits that a container has.",
        run: small,
        expected: &[ExpectedFinding::new("probe-key", Info).confident(1, 40).up_to(Low)],
        also: &[],
    },
    Scenario {
        name: "probe-key-stale",
        what: "A process looks up the key of a semaphore that it used in the namespace that it left.",
        run: key_stale,
        expected: &[stale("probe-key").times(1)],
        also: &[],
    },
    Scenario {
        name: "probe-name",
        what: "A process looks up a queue whose name exists in a container alone.",
        run: |fixture| {
            probe_by_name(fixture, |caller, name| caller.mq_open(name, libc::O_RDWR, 0, None))
        },
        expected: &[name().times(1)],
        also: &[],
    },
    Scenario {
        name: "probe-name-to-unlink",
        what: "A process tries to unlink a queue whose name exists in a container alone.",
        run: |fixture| probe_by_name(fixture, CountingCaller::mq_unlink),
        expected: &[name().times(1)],
        also: &[],
    },
    Scenario {
        name: "probe-name-stale",
        what: "A process looks up the name of a queue that it used in the namespace that it left.",
        run: name_stale,
        expected: &[stale("probe-name").times(1)],
        also: &[],
    },
    Scenario {
        name: "probe-id-low",
        what: "A program tries all ids below 64, which others have.",
        run: low_ids,
        // Such ids alone never raise confidence.
        expected: &[ExpectedFinding::new("probe-id", Info).confident(0, 20)],
        also: &[],
    },
    Scenario {
        name: "probe-id-far",
        what: "A process uses an id that has been given out in one container alone.",
        run: id_far,
        expected: &[ExpectedFinding::new("probe-id", Low).confident(40, 79).up_to(Medium)],
        also: &[],
    },
    Scenario {
        name: "probe-id-stale",
        what: "A process uses the id of a semaphore that it used in the namespace that it left.",
        run: id_stale,
        // It is one of the first, which every namespace gives out: having been there makes up for some.
        expected: &[ExpectedFinding::new("probe-id", Low).confident(21, 79).up_to(Medium).times(1)],
        also: &[],
    },
];

/// A process in a namespace of its own.
fn prober(
    fixture: &mut ScenarioFixture,
    work: impl FnOnce(&mut CountingCaller) -> Result<()>,
) -> Result<()> {
    fixture.spawn("prober", |me: &ScenarioProcess<'_>| {
        work(&mut unshare_ipc()?)?;
        me.stay()
    })
}

fn is_absent(ret: i64) -> Result<()> {
    ensure!(ret == -i64::from(libc::ENOENT), "unexpected result {ret}");
    Ok(())
}

fn probe_by_key(
    fixture: &mut ScenarioFixture,
    probe: impl FnOnce(&mut CountingCaller, i32) -> i64,
) -> Result<()> {
    let key = fixture.key(1);
    database(fixture, key, 0, 0)?;
    prober(fixture, |caller| is_absent(probe(caller, key)))
}

fn probe_by_name(
    fixture: &mut ScenarioFixture,
    probe: impl FnOnce(&mut CountingCaller, &[u8]) -> i64,
) -> Result<()> {
    let (key, name) = (fixture.key(1), fixture.queue());
    database(fixture, key, 0, 0)?;
    prober(fixture, |caller| is_absent(probe(caller, &name)))
}

fn in_a_burst(fixture: &mut ScenarioFixture) -> Result<()> {
    let key = fixture.key(1);
    database(fixture, key, 19, 0)?;
    prober(fixture, |caller| {
        for key in (0..3).flat_map(|_| key..key + 20) {
            is_absent(caller.semget(key, 1, 0))?;
        }
        Ok(())
    })
}

fn small(fixture: &mut ScenarioFixture) -> Result<()> {
    let key = 1024 + fixture.key(1) % 8192;
    database(fixture, key, 0, 0)?;
    prober(fixture, |caller| is_absent(caller.semget(key, 1, 0)))
}

/// A process that has done something in a namespace, which lives on, and then something in the next one.
fn mover(
    fixture: &mut ScenarioFixture,
    before: impl FnOnce(&mut CountingCaller) -> Result<i32>,
    after: impl FnOnce(&mut CountingCaller, i32) -> Result<()>,
) -> Result<()> {
    fixture.spawn("mover", |me| {
        let mut caller = unshare_ipc()?;
        let made = before(&mut caller)?;
        me.fork("member", |_| {
            loop {
                nix::unistd::pause();
            }
        })?;
        caller.unshare("y")?;
        after(&mut caller, made)?;
        me.stay()
    })
}

fn key_stale(fixture: &mut ScenarioFixture) -> Result<()> {
    let key = fixture.key(1);
    mover(
        fixture,
        |caller| semaphore(caller, key, 0o600),
        |caller, _| is_absent(caller.semget(key, 1, 0)),
    )
}

fn name_stale(fixture: &mut ScenarioFixture) -> Result<()> {
    let name = fixture.queue();
    mover(
        fixture,
        |caller| {
            let fd = open_queue(caller, &name)?;
            crate::workload::mq::close(i64::from(fd));
            Ok(fd)
        },
        |caller, _| is_absent(caller.mq_open(&name, libc::O_RDWR, 0, None)),
    )
}

fn id_stale(fixture: &mut ScenarioFixture) -> Result<()> {
    let key = fixture.key(1);
    mover(
        fixture,
        |caller| semaphore(caller, key, 0o600),
        |caller, id| {
            ensure!(up(caller, id) < 0, "the id exists in a new namespace");
            Ok(())
        },
    )
}

fn low_ids(fixture: &mut ScenarioFixture) -> Result<()> {
    let key = fixture.key(1);
    database(fixture, key, 0, 0)?;
    fixture.spawn("guesser", |me| {
        // It has been in this namespace: ids that it could know from here are left out.
        let [sem, msg, shm] = ["sem", "msg", "shm"].map(ids_here);
        let (sem, msg, shm) = (sem?, msg?, shm?);
        let mut caller = unshare_ipc()?;
        for id in 0..64 {
            if !sem.contains(&id) {
                up(&mut caller, id);
            }
            if !msg.contains(&id) {
                caller.msgctl(id, libc::IPC_STAT);
            }
            if !shm.contains(&id) {
                caller.shmctl(id, libc::IPC_STAT);
            }
        }
        me.stay()
    })
}

/// The ids of a kind that exist in the namespace of this process (proc_sysvipc(5): after a line of titles, each has
/// its id in the second column).
fn ids_here(kind: &str) -> Result<Vec<i32>> {
    let table = std::fs::read_to_string(format!("/proc/sysvipc/{kind}"))?;
    let ids = table.lines().skip(1).map(|line| line.split_ascii_whitespace().nth(1));
    ids.map(|id| Ok(id.context("a table without ids")?.parse()?)).collect()
}

/// How many semaphores are made before the one with the id.
const BURNT: u32 = 64 * 7 + 13;

fn id_far(fixture: &mut ScenarioFixture) -> Result<()> {
    let key = fixture.key(1);
    database(fixture, key, 0, BURNT)?;
    // The index is given out in turn, up to 64 of them, and the sequence number grows with each turn
    // (ipc_idr_alloc, ipc/util.c, 6.12).
    let id = (((BURNT / 64) << 15) | (BURNT % 64)) as i32;
    prober(fixture, |caller| {
        let ret = up(caller, id);
        ensure!(ret == -i64::from(libc::EINVAL), "unexpected result {ret}");
        Ok(())
    })
}
