//! `foreign-mount`: queues reached by their paths in another namespace's mqueue file system.

use std::{
    ffi::CString,
    fs::{self, File, OpenOptions},
    os::{fd::AsRawFd as _, unix::ffi::OsStrExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    mount::{MsFlags, mount},
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use std::os::fd::AsFd as _;

use super::{
    actions::{self, file_of, open, open_queue, owner_with_queues, through_root, unshare_ipc},
    fixture::ScenarioFixture,
    kind::{ExpectedFinding, Scenario},
    pipe::HandoffPipe,
};
use crate::workload::{
    calls::CountingCaller,
    uring::{Submitter, Uring},
};

const FOREIGN: ExpectedFinding = ExpectedFinding::high("foreign-mount");

/// These scenarios.
pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "mount-by-root",
        what: "A process opens a container's queue through /proc/PID/root, and sends to it.",
        run: by_root,
        expected: &[FOREIGN, ExpectedFinding::high("foreign-object")],
        also: &[],
    },
    Scenario {
        name: "mount-by-bind",
        what: "A process opens a queue through a bind mount of another namespace's mqueue file system.",
        run: by_bind,
        expected: &[FOREIGN],
        also: &[],
    },
    Scenario {
        name: "mount-by-io-uring",
        what: "A process has io_uring open and read a queue of another namespace.",
        run: |fixture| by_io_uring(fixture, Submitter::Caller),
        expected: &[FOREIGN.by_function()],
        also: &[],
    },
    Scenario {
        name: "mount-by-io-uring-worker",
        what: "A process has a worker of io_uring open and read a queue of another namespace.",
        run: |fixture| by_io_uring(fixture, Submitter::Worker),
        expected: &[FOREIGN.by_function()],
        also: &[],
    },
    Scenario {
        name: "mount-by-openat2",
        what: "A process opens a container's queue by openat2.",
        run: by_openat2,
        expected: &[FOREIGN],
        also: &[],
    },
    Scenario {
        name: "mount-create",
        what: "A process makes a queue in a container's mqueue file system.",
        run: create,
        expected: &[FOREIGN],
        also: &["foreign-object"],
    },
    Scenario {
        name: "mount-read",
        what: "A process reads the state of a container's queue.",
        run: read,
        expected: &[FOREIGN],
        also: &[],
    },
    Scenario {
        name: "mount-poll",
        what: "A process waits for messages of a container's queue by poll.",
        run: poll_queue,
        expected: &[FOREIGN],
        also: &[],
    },
    Scenario {
        name: "mount-unlink",
        what: "A process unlinks a container's queue by its path.",
        run: unlink,
        expected: &[FOREIGN.by_function()],
        also: &[],
    },
    Scenario {
        name: "mount-reopen",
        what: "A process opens a queue that it was sent anew, through /proc/self/fd.",
        run: reopen,
        expected: &[FOREIGN],
        also: &["foreign-object"],
    },
    Scenario {
        name: "mount-fsopen",
        what: "A process prepares its mqueue file system, mounts it in another namespace, and opens a queue.",
        run: fsopen,
        expected: &[FOREIGN],
        also: &["foreign-object"],
    },
    Scenario {
        name: "mount-list",
        what: "A process lists the queues of a container.",
        run: list,
        expected: &[ExpectedFinding::new("foreign-mount", super::kind::ExpectedSeverity::Low)
            .up_to(super::kind::ExpectedSeverity::High)
            .by_function()],
        also: &[],
    },
];

/// Starts a container with a queue, and a process of the host that receives the path of the queue's file.
fn reached(fixture: &mut ScenarioFixture, work: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let queue = fixture.queue();
    let folder = owner_with_queues(fixture)?;
    let path = through_root(fixture.pid_of("owner")?, &file_of(&folder, &queue));
    fixture.spawn("intruder", |me| {
        work(&path)?;
        me.stay()
    })
}

fn by_root(fixture: &mut ScenarioFixture) -> Result<()> {
    reached(fixture, |path| {
        let queue = open(path)?;
        let ret =
            CountingCaller::new("home")?.mq_send(queue.as_raw_fd(), b"from the host", 1, None);
        ensure!(ret == 0, "mq_send: {ret}");
        Ok(())
    })
}

/// Starts a process with a queue, in which there is a message, in a namespace of its own: the path of the queue
/// in a bind mount of its mqueue file system.
fn bound(fixture: &mut ScenarioFixture) -> Result<PathBuf> {
    let (queue, folder) = (fixture.queue(), fixture.folder().to_owned());
    let bind = folder.join("bind");
    fs::create_dir_all(&bind)?;
    let none: Option<&str> = None;
    fixture.spawn("owner", |me| {
        let mut caller = unshare_ipc()?;
        let fd = open_queue(&mut caller, &queue)?;
        let ret = caller.mq_send(fd, b"for its own", 1, None);
        ensure!(ret == 0, "mq_send: {ret}");
        let from = actions::mount_queues(&folder, "queues")?;
        mount(Some(&from), &bind, none, MsFlags::MS_BIND, none)?;
        me.stay()
    })?;
    fixture.wait_ready()?;
    Ok(file_of(&bind, &queue))
}

fn by_bind(fixture: &mut ScenarioFixture) -> Result<()> {
    let path = bound(fixture)?;
    fixture.spawn("intruder", |me| {
        open(&path)?;
        me.stay()
    })
}

fn by_io_uring(fixture: &mut ScenarioFixture, by: Submitter) -> Result<()> {
    if let Err(refused) = Uring::new()? {
        fixture.mark_unsupported(&format!("io_uring ({refused:?})"));
        return Ok(());
    }
    let path = CString::new(bound(fixture)?.as_os_str().as_bytes())?;
    fixture.spawn("intruder", |me| {
        let mut uring = Uring::new()?.context("io_uring is refused")?;
        let queue = uring.open(&path, libc::O_RDONLY, by)?;
        // A request that can wait does so until there is a message (io_arm_poll_handler, io_uring/poll.c, 6.12).
        let mut state = [0; 64];
        uring.read(&queue, &mut state, by)?;
        ensure!(state.starts_with(b"QSIZE:"), "{state:?}");
        me.stay()
    })
}

fn by_openat2(fixture: &mut ScenarioFixture) -> Result<()> {
    reached(fixture, |path| {
        let path = CString::new(path.as_os_str().as_bytes())?;
        // `struct open_how`: flags, mode, resolve (include/uapi/linux/openat2.h).
        let how = [libc::O_RDONLY as u64, 0, 0];
        // SAFETY: a path that ends with NUL, and a structure of the given size.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_openat2,
                libc::AT_FDCWD,
                path.as_ptr(),
                how.as_ptr(),
                size_of_val(&how),
            )
        };
        ensure!(fd >= 0, "openat2: {}", std::io::Error::last_os_error());
        Ok(())
    })
}

fn create(fixture: &mut ScenarioFixture) -> Result<()> {
    reached(fixture, |path| {
        let path = path.with_file_name("made-by-another");
        OpenOptions::new().write(true).create_new(true).open(path)?;
        Ok(())
    })
}

fn read(fixture: &mut ScenarioFixture) -> Result<()> {
    reached(fixture, |path| {
        let state = fs::read_to_string(path)?;
        ensure!(state.starts_with("QSIZE:"), "{state}");
        Ok(())
    })
}

fn poll_queue(fixture: &mut ScenarioFixture) -> Result<()> {
    reached(fixture, |path| {
        let queue = File::open(path)?;
        let mut all = [PollFd::new(queue.as_fd(), PollFlags::POLLIN)];
        poll(&mut all, PollTimeout::ZERO)?;
        Ok(())
    })
}

fn unlink(fixture: &mut ScenarioFixture) -> Result<()> {
    reached(fixture, |path| Ok(fs::remove_file(path)?))
}

fn reopen(fixture: &mut ScenarioFixture) -> Result<()> {
    let (queue, pipe) = (fixture.queue(), HandoffPipe::new()?);
    fixture.spawn("owner", |me| {
        let mut caller = unshare_ipc()?;
        pipe.send_fd(open_queue(&mut caller, &queue)?)?;
        me.stay()
    })?;
    fixture.spawn("stranger", |me| {
        let _caller = unshare_ipc()?;
        let fd = pipe.receive_fd()?;
        open(Path::new(&format!("/proc/self/fd/{}", fd.as_raw_fd())))?;
        me.stay()
    })
}

fn fsopen(fixture: &mut ScenarioFixture) -> Result<()> {
    let queue = fixture.queue();
    fixture.spawn("mover", |me| {
        let mut caller = unshare_ipc()?;
        open_queue(&mut caller, &queue)?;
        let context = actions::descriptor("fsopen", {
            // SAFETY: a name that ends with NUL.
            unsafe { libc::syscall(libc::SYS_fsopen, c"mqueue".as_ptr(), 0) }
        })?;
        // Keeps the namespace and its queues alive when its first member leaves.
        me.fork("member", |_| {
            loop {
                nix::unistd::pause();
            }
        })?;
        caller.unshare("other")?;
        // FSCONFIG_CMD_CREATE (include/uapi/linux/mount.h); no key and no value.
        let null = std::ptr::null::<libc::c_char>();
        // SAFETY: a descriptor of ours, and no addresses.
        let ret =
            unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), 6, null, null, 0) };
        ensure!(ret == 0, "fsconfig: {}", std::io::Error::last_os_error());
        let root = actions::descriptor("fsmount", {
            // SAFETY: a descriptor of ours and numbers.
            unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), 0, 0) }
        })?;
        let name = CString::new(queue.as_slice())?;
        // SAFETY: a descriptor of ours, and a name that ends with NUL.
        let fd = unsafe { libc::openat(root.as_raw_fd(), name.as_ptr(), libc::O_RDWR) };
        ensure!(fd >= 0, "openat: {}", std::io::Error::last_os_error());
        me.stay()
    })
}

fn list(fixture: &mut ScenarioFixture) -> Result<()> {
    reached(fixture, |path| {
        let folder = path.parent().context("a queue is in a folder")?;
        ensure!(fs::read_dir(folder)?.count() > 0, "no queue is there");
        Ok(())
    })
}
