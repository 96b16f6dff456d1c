//! `carried-mapping`: shared memory of one namespace that a thread of another one has mapped.

use std::{fs, thread};

use anyhow::{Context as _, Result, ensure};

use super::{
    actions::{self, attach, segment, touch, unshare_ipc},
    fixture::ScenarioFixture,
    kind::{ExpectedFinding, Scenario},
};
use crate::workload::{calls::CountingCaller, process};

const CARRIED: ExpectedFinding = ExpectedFinding::high("carried-mapping");

/// These scenarios.
pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "memory-held-by-unshare",
        what: "A process makes itself a new namespace, and keeps shared memory attached.",
        run: held_by_unshare,
        expected: &[CARRIED],
        also: &[],
    },
    Scenario {
        name: "memory-held-by-setns",
        what: "A process enters another's namespace, and keeps shared memory attached.",
        run: held_by_setns,
        expected: &[CARRIED, ExpectedFinding::high("namespace-mismatch")],
        also: &[],
    },
    Scenario {
        name: "memory-held-by-clone",
        what: "A child that is cloned into a new namespace goes on with the memory that it inherited.",
        run: held_by_clone,
        expected: &[CARRIED],
        also: &[],
    },
    Scenario {
        name: "memory-touched-by-clone",
        what: "A child that is cloned into a new namespace writes to memory that it inherited, and ends.",
        run: touched_by_clone,
        expected: &[CARRIED.by_function()],
        also: &[],
    },
    Scenario {
        name: "memory-touched-by-thread",
        what: "A thread in a new namespace writes to memory that another thread of it attached in the old one.",
        run: touched_by_thread,
        expected: &[CARRIED.by_function()],
        also: &["carried-mapping"],
    },
    Scenario {
        name: "memory-by-map-files",
        what: "A process opens a segment of another namespace through /proc/PID/map_files.",
        run: by_map_files,
        expected: &[CARRIED],
        also: &[],
    },
    Scenario {
        name: "memory-destroyed-from-afar",
        what: "A process that has left by setns ends, and with it a segment that it made (shm_rmid_forced).",
        run: destroyed_from_afar,
        // Before 5.16 a process that ends searches only its present namespace for its segments
        // (exit_shm, ipc/shm.c).
        expected: &[CARRIED.by_function().since((6, 1))],
        also: &["carried-mapping"],
    },
];

fn held_by_unshare(fixture: &mut ScenarioFixture) -> Result<()> {
    let key = fixture.key(1);
    fixture.spawn("carrier", |me| {
        let mut caller = unshare_ipc()?;
        let id = segment(&mut caller, key)?;
        attach(&mut caller, id)?;
        caller.unshare("y")?;
        me.stay()
    })
}

fn held_by_setns(fixture: &mut ScenarioFixture) -> Result<()> {
    let key = fixture.key(1);
    fixture.spawn("owner", |me| {
        unshare_ipc()?;
        me.stay()
    })?;
    fixture.wait_ready()?;
    let owner = fixture.pid_of("owner")?;
    fixture.spawn("carrier", |me| {
        let mut caller = unshare_ipc()?;
        let id = segment(&mut caller, key)?;
        attach(&mut caller, id)?;
        actions::enter_ipc(&mut caller, owner)?;
        me.stay()
    })
}

fn held_by_clone(fixture: &mut ScenarioFixture) -> Result<()> {
    let key = fixture.key(1);
    fixture.spawn("parent", |me| {
        let mut caller = unshare_ipc()?;
        let id = segment(&mut caller, key)?;
        attach(&mut caller, id)?;
        me.clone_and_wait(libc::CLONE_NEWIPC, "child", |me| me.stay())
    })
}

fn touched_by_clone(fixture: &mut ScenarioFixture) -> Result<()> {
    let key = fixture.key(1);
    fixture.spawn("parent", |me| {
        let mut caller = unshare_ipc()?;
        let id = segment(&mut caller, key)?;
        let at = attach(&mut caller, id)?;
        me.clone_and_wait(libc::CLONE_NEWIPC, "child", |_| {
            touch(at);
            Ok(())
        })?;
        me.stay()
    })
}

fn touched_by_thread(fixture: &mut ScenarioFixture) -> Result<()> {
    let key = fixture.key(1);
    fixture.spawn("threads", |me| {
        let mut caller = unshare_ipc()?;
        let id = segment(&mut caller, key)?;
        let (send_address, receive_address) = std::sync::mpsc::channel();
        let (left, has_left) = std::sync::mpsc::channel();
        let other = thread::spawn(move || -> Result<()> {
            unshare_ipc()?;
            left.send(())?;
            touch(receive_address.recv()?);
            Ok(())
        });
        has_left.recv()?;
        send_address.send(attach(&mut caller, id)?)?;
        other.join().ok().context("the thread panicked")??;
        me.stay()
    })
}

fn by_map_files(fixture: &mut ScenarioFixture) -> Result<()> {
    let key = fixture.key(1);
    fixture.spawn("owner", |me| {
        let mut caller = unshare_ipc()?;
        let id = segment(&mut caller, key)?;
        attach(&mut caller, id)?;
        me.stay()
    })?;
    fixture.wait_ready()?;
    let owner = fixture.pid_of("owner")?;
    fixture.spawn("intruder", |me| {
        unshare_ipc()?;
        let name = format!("SYSV{key:08x}");
        let maps = fs::read_to_string(format!("/proc/{owner}/maps"))?;
        let line = maps.lines().find(|line| line.contains(&name)).context("it is not mapped")?;
        let range = line.split(' ').next().context("a range")?;
        actions::open(format!("/proc/{owner}/map_files/{range}").as_ref())?;
        me.stay()
    })
}

fn destroyed_from_afar(fixture: &mut ScenarioFixture) -> Result<()> {
    let (key, home) = (fixture.key(1), process::open_namespace()?);
    fixture.spawn("member", |me| {
        let mut caller = unshare_ipc()?;
        fs::write("/proc/sys/kernel/shm_rmid_forced", "1")?;
        let own = process::open_namespace()?;
        // The namespace outlives the process that made the segment.
        me.fork_and_wait("maker", |_| {
            let mut caller = CountingCaller::new("maker")?;
            segment(&mut caller, key)?;
            process::enter_namespace(&home)?;
            Ok(())
        })?;
        drop(own);
        let ret = caller.shmget(key, 0, 0);
        ensure!(ret < 0 || !is_since_5_16()?, "the segment is still there");
        me.stay()
    })
}

fn is_since_5_16() -> Result<bool> {
    Ok(super::kind::kernel()? >= (5, 16))
}
