//! `foreign-view`: another namespace's lists and settings in `/proc`.

use std::{
    fs::{File, OpenOptions},
    io::Write as _,
    os::fd::AsRawFd as _,
};

use anyhow::{Result, ensure};

use super::{
    actions::{read, segment, sysvipc, unshare_ipc},
    fixture::ScenarioFixture,
    kind::{ExpectedFinding, ExpectedSeverity, Scenario},
    pipe::HandoffPipe,
};

const VIEW: ExpectedFinding =
    ExpectedFinding::new("foreign-view", ExpectedSeverity::Medium).confident(60, 100);

/// These scenarios.
pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "view-kept",
        what: "A process opens /proc/sysvipc/shm, makes itself a new namespace, and reads the old one's list.",
        run: kept,
        expected: &[VIEW],
        also: &[],
    },
    Scenario {
        name: "view-received",
        what: "A process is sent /proc/sysvipc/sem of another namespace over a socket, and reads it.",
        run: received,
        // No call's return shows that it arrived, and each read would have to be checked for its namespace.
        expected: &[VIEW.by_function()],
        also: &["foreign-view"],
    },
    Scenario {
        name: "view-inherited",
        what: "A child that is cloned into a new namespace reads /proc/sysvipc/msg that its parent opened.",
        run: inherited,
        expected: &[VIEW],
        also: &[],
    },
    Scenario {
        name: "view-setting-written",
        what: "A process opens /proc/sys/kernel/msgmax, enters a new namespace, and writes the old one's.",
        run: setting_written,
        // Before 5.19 a setting is that of whoever writes it (ipc/ipc_sysctl.c).
        expected: &[VIEW.by_function().since((6, 1))],
        also: &["foreign-view"],
    },
];

fn kept(fixture: &mut ScenarioFixture) -> Result<()> {
    let key = fixture.key(1);
    fixture.spawn("reader", |me| {
        let mut caller = unshare_ipc()?;
        segment(&mut caller, key)?;
        let mut view = sysvipc("shm")?;
        caller.unshare("y")?;
        ensure!(read(&mut view)?.contains(&key.to_string()), "the list is not the old one's");
        me.stay()
    })
}

fn received(fixture: &mut ScenarioFixture) -> Result<()> {
    let pipe = HandoffPipe::new()?;
    fixture.spawn("owner", |me| {
        unshare_ipc()?;
        pipe.send_fd(sysvipc("sem")?.as_raw_fd())?;
        me.stay()
    })?;
    fixture.spawn("stranger", |me| {
        unshare_ipc()?;
        read(&mut File::from(pipe.receive_fd()?))?;
        me.stay()
    })
}

fn inherited(fixture: &mut ScenarioFixture) -> Result<()> {
    fixture.spawn("parent", |me| {
        unshare_ipc()?;
        let mut view = sysvipc("msg")?;
        me.clone_and_wait(libc::CLONE_NEWIPC, "child", |_| read(&mut view).map(drop))?;
        me.stay()
    })
}

fn setting_written(fixture: &mut ScenarioFixture) -> Result<()> {
    fixture.spawn("writer", |me| {
        let mut caller = unshare_ipc()?;
        let mut setting = OpenOptions::new().write(true).open("/proc/sys/kernel/msgmax")?;
        // Otherwise the settings may be destroyed with their namespace before they are written.
        let _kept = File::open("/proc/thread-self/ns/ipc")?;
        caller.unshare("y")?;
        setting.write_all(b"4096")?;
        me.stay()
    })
}
