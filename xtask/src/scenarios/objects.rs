//! `foreign-object`: descriptors of queues, and every way to get them into another namespace.

use std::{os::fd::AsRawFd as _, thread};

use anyhow::{Context as _, Result, ensure};

use super::{
    actions::{self, open_queue, unshare_ipc},
    fixture::ScenarioFixture,
    kind::{ExpectedFinding, Scenario},
    pipe::HandoffPipe,
};
use crate::workload::calls::{CountingCaller, Route};

const FOREIGN: ExpectedFinding = ExpectedFinding::high("foreign-object").confident(90, 100);

/// These scenarios.
pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "queue-kept-by-unshare",
        what: "A process opens a queue, makes itself a new namespace, and goes on to use the queue.",
        run: kept_by_unshare,
        expected: &[FOREIGN.times(3)],
        also: &[],
    },
    Scenario {
        name: "queue-kept-by-setns",
        what: "A process opens a queue, enters another's namespace, and goes on to use the queue.",
        run: kept_by_setns,
        expected: &[FOREIGN.times(2), ExpectedFinding::high("namespace-mismatch")],
        also: &[],
    },
    Scenario {
        name: "queue-kept-by-clone",
        what: "A child that is cloned into a new namespace uses a queue that its parent opened.",
        run: kept_by_clone,
        expected: &[FOREIGN.times(1)],
        also: &[],
    },
    Scenario {
        name: "queue-received",
        what: "A process is sent a queue of another namespace over a socket, and uses it.",
        run: received,
        expected: &[FOREIGN],
        also: &[],
    },
    Scenario {
        name: "queue-taken",
        what: "A process takes a queue of a process in another namespace by pidfd_getfd.",
        run: taken,
        expected: &[FOREIGN],
        also: &[],
    },
    Scenario {
        name: "queue-of-shared-table",
        what: "Two threads share descriptors; one in a new namespace uses the queue that the other opened.",
        run: shared_table,
        expected: &[FOREIGN.times(1)],
        also: &[],
    },
    Scenario {
        name: "queue-of-the-dead",
        what: "A process uses a queue whose namespace has died since.",
        run: of_the_dead,
        expected: &[FOREIGN],
        also: &[],
    },
    Scenario {
        name: "queue-by-every-operation",
        what: "A kept queue is used by all operations that take a descriptor, of 64 and of 32 bits.",
        run: by_every_operation,
        expected: &[FOREIGN.times(14)],
        also: &[],
    },
    Scenario {
        name: "queue-by-failing-calls",
        what: "A kept queue is used by calls that fail before they do anything.",
        run: by_failing_calls,
        expected: &[FOREIGN.times(3)],
        also: &[],
    },
];

fn kept_by_unshare(fixture: &mut ScenarioFixture) -> Result<()> {
    let name = fixture.queue();
    fixture.spawn("carrier", |me| {
        let mut caller = unshare_ipc()?;
        let fd = open_queue(&mut caller, &name)?;
        caller.unshare("y")?;
        caller.mq_send(fd, b"from another namespace", 1, None);
        caller.mq_receive(fd, 64, None);
        caller.mq_getsetattr(fd, None);
        me.stay()
    })
}

fn kept_by_setns(fixture: &mut ScenarioFixture) -> Result<()> {
    let name = fixture.queue();
    fixture.spawn("owner", |me| {
        unshare_ipc()?;
        me.stay()
    })?;
    fixture.wait_ready()?;
    let owner = fixture.pid_of("owner")?;
    fixture.spawn("carrier", |me| {
        let mut caller = unshare_ipc()?;
        let fd = open_queue(&mut caller, &name)?;
        actions::enter_ipc(&mut caller, owner)?;
        caller.mq_send(fd, b"from another namespace", 1, None);
        caller.mq_receive(fd, 64, None);
        me.stay()
    })
}

fn kept_by_clone(fixture: &mut ScenarioFixture) -> Result<()> {
    let name = fixture.queue();
    fixture.spawn("parent", |me| {
        let mut caller = unshare_ipc()?;
        let fd = open_queue(&mut caller, &name)?;
        me.clone_and_wait(libc::CLONE_NEWIPC, "child", |_| {
            CountingCaller::new("child")?.mq_send(fd, b"inherited", 1, None);
            Ok(())
        })?;
        me.stay()
    })
}

fn received(fixture: &mut ScenarioFixture) -> Result<()> {
    let (name, pipe) = (fixture.queue(), HandoffPipe::new()?);
    fixture.spawn("owner", |me| {
        let mut caller = unshare_ipc()?;
        pipe.send_fd(open_queue(&mut caller, &name)?)?;
        me.stay()
    })?;
    fixture.spawn("stranger", |me| {
        let mut caller = unshare_ipc()?;
        let fd = pipe.receive_fd()?;
        caller.mq_send(fd.as_raw_fd(), b"from a stranger", 1, None);
        me.stay()
    })
}

fn taken(fixture: &mut ScenarioFixture) -> Result<()> {
    let (name, pipe) = (fixture.queue(), HandoffPipe::new()?);
    fixture.spawn("owner", |me| {
        let mut caller = unshare_ipc()?;
        pipe.send_number(open_queue(&mut caller, &name)?.try_into()?)?;
        me.stay()
    })?;
    fixture.wait_ready()?;
    let owner = fixture.pid_of("owner")?;
    fixture.spawn("thief", |me| {
        let mut caller = unshare_ipc()?;
        let fd = actions::take_descriptor(owner, pipe.receive_number()?)?;
        caller.mq_receive(fd.as_raw_fd(), 64, Some(actions::now()));
        caller.mq_getsetattr(fd.as_raw_fd(), None);
        me.stay()
    })
}

fn shared_table(fixture: &mut ScenarioFixture) -> Result<()> {
    let name = fixture.queue();
    fixture.spawn("threads", |me| {
        let mut caller = unshare_ipc()?;
        let fd = open_queue(&mut caller, &name)?;
        let other = thread::spawn(move || -> Result<()> {
            let mut caller = unshare_ipc()?;
            let ret = caller.mq_send(fd, b"by a thread", 1, None);
            ensure!(ret == 0, "mq_send: {ret}");
            Ok(())
        });
        other.join().ok().context("the thread panicked")??;
        me.stay()
    })
}

fn of_the_dead(fixture: &mut ScenarioFixture) -> Result<()> {
    let name = fixture.queue();
    fixture.spawn("heir", |me| {
        let mut caller = unshare_ipc()?;
        let fd = open_queue(&mut caller, &name)?;
        caller.unshare("y")?;
        // A kernel worker destroys the namespace asynchronously; the tracer reports the namespace in either
        // case.
        thread::sleep(std::time::Duration::from_millis(50));
        caller.mq_send(fd, b"to a queue of nowhere", 1, None);
        me.stay()
    })
}

fn by_every_operation(fixture: &mut ScenarioFixture) -> Result<()> {
    let name = fixture.queue();
    fixture.spawn("carrier", |me| {
        let mut caller = unshare_ipc()?;
        let fd = open_queue(&mut caller, &name)?;
        caller.unshare("y")?;
        for route in Route::ALL {
            caller.by(route).mq_send(fd, b"text", 1, None);
            caller.mq_receive(fd, 64, None);
            caller.mq_getsetattr(fd, None);
            caller.mq_getsetattr(fd, Some(0));
        }
        caller.by(Route::Native).mq_notify(fd, Some((libc::SIGEV_NONE, 0, 1)));
        caller.mq_notify(fd, None);
        me.stay()
    })
}

fn by_failing_calls(fixture: &mut ScenarioFixture) -> Result<()> {
    let name = fixture.queue();
    fixture.spawn("carrier", |me| {
        let mut caller = unshare_ipc()?;
        let fd = open_queue(&mut caller, &name)?;
        caller.unshare("y")?;
        let bad_time = crate::workload::calls::TimeLimit { sec: 0, nsec: -1 };
        let failed = [
            caller.fault().mq_send(fd, b"text", 1, None),
            // Shorter than a message may be.
            caller.mq_receive(fd, 1, None),
            caller.mq_send(fd, b"text", 1, Some(bad_time)),
        ];
        ensure!(failed.iter().all(|ret| *ret < 0), "{failed:?}");
        me.stay()
    })
}
