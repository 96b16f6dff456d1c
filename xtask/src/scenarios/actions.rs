//! Actions that scenarios are made of.

use std::{
    fs::{self, File, OpenOptions},
    io::Read as _,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use nix::mount::{MsFlags, mount};

use super::fixture::{self, ScenarioFixture};
use crate::workload::{
    abi::is_error,
    calls::{CountingCaller, TimeLimit},
    oracle::outcome,
    sysv::SemStep,
};

/// A caller in a new namespace.
pub(super) fn unshare_ipc() -> Result<CountingCaller> {
    let mut caller = CountingCaller::new("home")?;
    caller.unshare("own")?;
    Ok(caller)
}

/// Enters the IPC namespace of a process, and no other of it.
pub(super) fn enter_ipc(caller: &mut CountingCaller, pid: u64) -> Result<()> {
    fixture::enter(pid, "ipc")?;
    caller.moved("entered")
}

/// What a call returned, which must have succeeded.
pub(super) fn made(what: &str, ret: i64) -> Result<i32> {
    ensure!(!is_error(ret), "{what}: {}", outcome(ret));
    i32::try_from(ret).with_context(|| format!("{what}: {ret}"))
}

/// The address of a segment that was attached.
pub(super) fn attach(caller: &mut CountingCaller, id: i32) -> Result<u64> {
    let ret = caller.shmat(id, 0, 0);
    ensure!(!is_error(ret), "shmat: {}", outcome(ret));
    Ok(ret as u64)
}

/// Opens a new queue for eight messages of 64 bytes.
pub(super) fn open_queue(caller: &mut CountingCaller, name: &[u8]) -> Result<i32> {
    let flags = libc::O_CREAT | libc::O_RDWR | libc::O_NONBLOCK;
    made("mq_open", caller.mq_open(name, flags, 0o600, Some((8, 64))))
}

/// Makes a segment of a page.
pub(super) fn segment(caller: &mut CountingCaller, key: i32) -> Result<i32> {
    made("shmget", caller.shmget(key, 4096, libc::IPC_CREAT | 0o600))
}

/// Makes a semaphore.
pub(super) fn semaphore(caller: &mut CountingCaller, key: i32, mode: i32) -> Result<i32> {
    made("semget", caller.semget(key, 1, libc::IPC_CREAT | mode))
}

/// Adds one to a semaphore.
pub(super) fn up(caller: &mut CountingCaller, id: i32) -> i64 {
    caller.semtimedop(id, &[SemStep(0, 1, libc::IPC_NOWAIT as i16)], None)
}

/// A time in the past.
pub(super) fn now() -> TimeLimit {
    TimeLimit::in_millis(0)
}

/// Reads or writes the first byte of attached memory.
pub(super) fn touch(at: u64) {
    // SAFETY: the callers have just attached a segment of a page there, and nothing of Rust's lies in it.
    unsafe { std::ptr::write_volatile(at as *mut u8, 1) };
}

/// A descriptor of a process (pidfd_open(2), Linux 5.3).
pub(super) fn pidfd(pid: u64) -> Result<OwnedFd> {
    // SAFETY: pidfd_open takes numbers alone.
    descriptor("pidfd_open", unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

/// Duplicates the descriptor of that number from a process (pidfd_getfd(2), Linux 5.6).
pub(super) fn take_descriptor(pid: u64, fd: u64) -> Result<OwnedFd> {
    let of = pidfd(pid)?;
    // SAFETY: pidfd_getfd takes numbers alone.
    descriptor("pidfd_getfd", unsafe {
        libc::syscall(libc::SYS_pidfd_getfd, of.as_raw_fd(), fd, 0)
    })
}

/// What a system call returned that makes a descriptor, and has just returned.
pub(super) fn descriptor(call: &str, ret: libc::c_long) -> Result<OwnedFd> {
    ensure!(ret >= 0, "{call}: {}", std::io::Error::last_os_error());
    // SAFETY: it is new, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(ret as i32) })
}

/// Mounts the thread's own mqueue file system at a new folder of the fixture.
pub(super) fn mount_queues(parent: &Path, name: &str) -> Result<PathBuf> {
    let folder = parent.join(name);
    fs::create_dir_all(&folder)?;
    mount(Some("mqueue"), &folder, Some("mqueue"), MsFlags::empty(), None::<&str>)
        .with_context(|| format!("cannot mount mqueue at {}", folder.display()))?;
    Ok(folder)
}

/// Where a file is, as a process sees it from its root.
pub(super) fn through_root(pid: u64, path: &Path) -> PathBuf {
    let inside = path.strip_prefix("/").unwrap_or(path);
    PathBuf::from(format!("/proc/{pid}/root")).join(inside)
}

/// The path of a queue in a mounted mqueue file system.
pub(super) fn file_of(folder: &Path, queue: &[u8]) -> PathBuf {
    folder.join(std::ffi::OsStr::from_bytes(queue))
}

/// Opens a file for reading and writing.
pub(super) fn open(path: &Path) -> Result<File> {
    let file = OpenOptions::new().read(true).write(true).open(path);
    file.with_context(|| format!("cannot open {}", path.display()))
}

/// Reads all of a file.
pub(super) fn read(file: &mut File) -> Result<String> {
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(text)
}

/// Opens one of `/proc/sysvipc`, that of the namespace that the thread is in.
pub(super) fn sysvipc(kind: &str) -> Result<File> {
    let path = format!("/proc/sysvipc/{kind}");
    File::open(&path).with_context(|| format!("cannot open {path}"))
}

/// A container that stays, with a queue, a semaphore and a segment of these keys in a namespace of its
/// own, and its mqueue file system mounted at a folder of the fixture, which is returned. Its process's name is
/// `owner`.
pub(super) fn owner_with_queues(fixture: &mut ScenarioFixture) -> Result<PathBuf> {
    let (queue, key, folder) = (fixture.queue(), fixture.key(1), fixture.folder().to_owned());
    let container = fixture.container()?;
    let mounted = folder.join("queues");
    fixture.spawn_contained(&container, fixture::NamespaceSource::Fresh, "owner", |me| {
        let mut caller = CountingCaller::new("owner")?;
        open_queue(&mut caller, &queue)?;
        semaphore(&mut caller, key, 0o600)?;
        mount_queues(&folder, "queues")?;
        me.stay()
    })?;
    fixture.wait_ready()?;
    fixture.keep(container);
    Ok(mounted)
}
