//! `foreign-view`: another namespace's lists and settings in `/proc`.

use std::{
    fs::{File, OpenOptions},
    io::Write as _,
    os::fd::AsRawFd as _,
};

use anyhow::{Result, ensure};

use super::{
    acts::{read, segment, sysvipc, unshare_ipc},
    kind::{ExpectedFinding, ExpectedSeverity, Scenario},
    stage::Stage,
    wire::Wire,
};

const VIEW: ExpectedFinding =
    ExpectedFinding::new("foreign-view", ExpectedSeverity::Medium).confident(60, 100);

/// These scenarios.
pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "view-kept",
        what: "A process opens /proc/sysvipc/shm, makes itself a new namespace, and reads the old one's list.",
        play: kept,
        expected: &[VIEW],
        also: &[],
    },
    Scenario {
        name: "view-received",
        what: "A process is sent /proc/sysvipc/sem of another namespace over a socket, and reads it.",
        play: received,
        // That it arrives no call's return tells, and whose it is each read would have to be asked.
        expected: &[VIEW.by_function()],
        also: &["foreign-view"],
    },
    Scenario {
        name: "view-inherited",
        what: "A child that is cloned into a new namespace reads /proc/sysvipc/msg that its parent opened.",
        play: inherited,
        expected: &[VIEW],
        also: &[],
    },
    Scenario {
        name: "view-setting-written",
        what: "A process opens /proc/sys/kernel/msgmax, enters a new namespace, and writes the old one's.",
        play: setting_written,
        // Before 5.19 a setting is that of whoever writes it (ipc/ipc_sysctl.c).
        expected: &[VIEW.by_function().since((6, 1))],
        also: &["foreign-view"],
    },
];

fn kept(stage: &mut Stage) -> Result<()> {
    let key = stage.key(1);
    stage.act("reader", |me| {
        let mut caller = unshare_ipc()?;
        segment(&mut caller, key)?;
        let mut view = sysvipc("shm")?;
        caller.unshare("y")?;
        ensure!(read(&mut view)?.contains(&key.to_string()), "the list is not the old one's");
        me.stay()
    })
}

fn received(stage: &mut Stage) -> Result<()> {
    let wire = Wire::new()?;
    stage.act("owner", |me| {
        unshare_ipc()?;
        wire.pass(sysvipc("sem")?.as_raw_fd())?;
        me.stay()
    })?;
    stage.act("stranger", |me| {
        unshare_ipc()?;
        read(&mut File::from(wire.take()?))?;
        me.stay()
    })
}

fn inherited(stage: &mut Stage) -> Result<()> {
    stage.act("parent", |me| {
        unshare_ipc()?;
        let mut view = sysvipc("msg")?;
        me.clone_and_wait(libc::CLONE_NEWIPC, "child", |_| read(&mut view).map(drop))?;
        me.stay()
    })
}

fn setting_written(stage: &mut Stage) -> Result<()> {
    stage.act("writer", |me| {
        let mut caller = unshare_ipc()?;
        let mut setting = OpenOptions::new().write(true).open("/proc/sys/kernel/msgmax")?;
        // Else the settings may go before they are written, with their namespace.
        let _kept = File::open("/proc/thread-self/ns/ipc")?;
        caller.unshare("y")?;
        setting.write_all(b"4096")?;
        me.stay()
    })
}
