//! Opens files that another process names: a namespace or a queue behind one of its descriptors or mount points.
//!
//! The process may replace the file at any time: by a device or a FIFO whose opening has effects, a terminal, a
//! symlink to a file of the host, a file of a server that never answers. So a handle is first obtained with `O_PATH`,
//! which opens nothing. Only if it has the device, the inode and the file system's magic number of the expected file
//! is it opened, through that handle, and never as a controlling terminal.
//!
//! `pidfd_getfd(2)` is no alternative: it requires permission to attach, which Yama may deny even to root, and
//! closing a shared file can block in its `flush` (fs/open.c, `filp_close`; a socket's `SO_LINGER`).
//!
//! Invariant: only IPC namespaces and message queues are ever opened here, and no symlink is followed except those of
//! `/proc` itself.

use std::{
    ffi::{CStr, CString, OsStr},
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
        unix::{ffi::OsStrExt as _, fs::OpenOptionsExt as _},
    },
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
    sys::statfs::{FsType, NSFS_MAGIC, fstatfs},
};

use super::lines::mountinfo;

/// `MQUEUE_MAGIC` (ipc/mqueue.c): it is in no header.
const MQUEUE_MAGIC: FsType = FsType(0x1980_0202);
/// `RESOLVE_CACHED` (include/uapi/linux/openat2.h, Linux 5.12 and later): fails instead of waiting.
const RESOLVE_CACHED: ResolveFlag = ResolveFlag::from_bits_retain(0x20);
/// How often a path is retried that changes while it is walked.
const CACHED_ATTEMPTS: usize = 4;

/// Identifies a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileId {
    /// The device number of its file system
    pub dev: libc::dev_t,
    /// Its inode number
    pub ino: u64,
}

/// The parts of a file's status that are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileStatus {
    /// Its identity
    pub id: FileId,
    /// Its number of names
    pub links: u32,
}

/// The expected file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ExpectedFile {
    id: FileId,
    magic: FsType,
}

impl ExpectedFile {
    /// The IPC namespace with that number.
    ///
    /// # Errors
    /// `/proc` doesn't show the device of namespaces.
    pub(crate) fn namespace(inum: u32) -> io::Result<Self> {
        let dev = status_of(Path::new("/proc/self/ns/ipc"))?.id.dev;
        Ok(Self { id: FileId { dev, ino: u64::from(inum) }, magic: NSFS_MAGIC })
    }

    /// The queue with that inode number, in the mqueue file system on that device.
    #[must_use]
    pub(crate) const fn queue(dev: libc::dev_t, ino: u64) -> Self {
        Self { id: FileId { dev, ino }, magic: MQUEUE_MAGIC }
    }
}

/// The status of a file behind a link of `/proc`, without opening the file, and without a request to a server that
/// its file system may have: the kernel's cached status is used.
///
/// # Errors
/// There is no such file.
pub(crate) fn status_of(path: &Path) -> io::Result<FileStatus> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: takes only a number.
    let here = unsafe { BorrowedFd::borrow_raw(libc::AT_FDCWD) };
    statx(here, &path, 0)
}

fn statx(directory: BorrowedFd<'_>, path: &CStr, flags: libc::c_int) -> io::Result<FileStatus> {
    let mut status = std::mem::MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the path ends with NUL, and there is room for a status.
    let ret = unsafe {
        libc::statx(
            directory.as_raw_fd(),
            path.as_ptr(),
            flags | libc::AT_STATX_DONT_SYNC | libc::AT_NO_AUTOMOUNT,
            libc::STATX_INO | libc::STATX_NLINK,
            status.as_mut_ptr(),
        )
    };
    Errno::result(ret)?;
    // SAFETY: the kernel wrote it, and zeros are a status too.
    let status = unsafe { status.assume_init() };
    let dev = libc::makedev(status.stx_dev_major, status.stx_dev_minor);
    Ok(FileStatus { id: FileId { dev, ino: status.stx_ino }, links: status.stx_nlink })
}

/// Opens the file behind a link of `/proc`, such as `/proc/PID/fd/N`. `None`: it leads to another file by now.
///
/// # Errors
/// There is no such link, or the file can't be opened.
pub(crate) fn open_link(link: &Path, expected: ExpectedFile) -> io::Result<Option<File>> {
    let handle = File::options().read(true).custom_flags(libc::O_PATH).open(link)?;
    open_handle(handle.as_fd(), expected)
}

/// Opens the file mounted at a process's mount point. `None`: it is another file by now.
///
/// # Errors
/// The mount point can't be walked to without leaving the process's root, following a symlink, or waiting for
/// a file system's server; or the file can't be opened.
pub(crate) fn open_mount(
    pid: u32,
    point: &[u8],
    expected: ExpectedFile,
) -> io::Result<Option<File>> {
    let process = Path::new("/proc").join(pid.to_string());
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    let root = File::options().read(true).custom_flags(flags).open(process.join("root"))?;
    let handle = match walk(root.as_fd(), point, RESOLVE_CACHED) {
        // Before Linux 5.12, or if the kernel has evicted names on the path.
        Err(Errno::EINVAL | Errno::EAGAIN) => {
            let mounts = fs::read(process.join("mountinfo"))?;
            if is_below_fuse(&mounts, point) {
                return Err(io::Error::other("a FUSE file system is on the way to it"));
            }
            walk(root.as_fd(), point, ResolveFlag::empty())
        }
        walked => walked,
    };
    match handle {
        Ok(handle) => open_handle(handle.as_fd(), expected),
        Err(Errno::ELOOP) => Err(io::Error::other("a symlink is on the way to it")),
        Err(error) => Err(error.into()),
    }
}

/// Walks to a file without opening it, from `root` on and never above.
fn walk(root: BorrowedFd<'_>, point: &[u8], resolve: ResolveFlag) -> nix::Result<OwnedFd> {
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(
        resolve
            | ResolveFlag::RESOLVE_IN_ROOT
            | ResolveFlag::RESOLVE_NO_SYMLINKS
            | ResolveFlag::RESOLVE_NO_MAGICLINKS,
    );
    let mut attempts = 1;
    loop {
        match openat2(root, OsStr::from_bytes(point), how) {
            Err(Errno::EAGAIN) if attempts < CACHED_ATTEMPTS => attempts += 1,
            walked => return walked,
        }
    }
}

/// Whether one of the mounts on the path to `point` depends on a process that may never answer.
fn is_below_fuse(mounts: &[u8], point: &[u8]) -> bool {
    mountinfo(mounts).any(|mount| {
        let above = mount.point();
        let rest = point.strip_prefix(above.strip_suffix(b"/").unwrap_or(&above));
        mount.kind.starts_with(b"fuse") && rest.is_some_and(|rest| rest.first() == Some(&b'/'))
    })
}

/// Opens the file of a handle, if it is the expected one.
fn open_handle(handle: BorrowedFd<'_>, expected: ExpectedFile) -> io::Result<Option<File>> {
    // In this order: so no other file system gets a request.
    if statx(handle, c"", libc::AT_EMPTY_PATH)?.id != expected.id
        || fstatfs(handle)?.filesystem_type() != expected.magic
    {
        return Ok(None);
    }
    let path = format!("/proc/self/fd/{}", handle.as_raw_fd());
    let flags = libc::O_NOCTTY | libc::O_NONBLOCK;
    File::options().read(true).custom_flags(flags).open(path).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn link_of(file: impl AsFd) -> std::path::PathBuf {
        format!("/proc/self/fd/{}", file.as_fd().as_raw_fd()).into()
    }

    #[test]
    fn only_expected_file_is_opened() {
        let own = File::open("/proc/self/ns/ipc").unwrap();
        let status = status_of(&link_of(&own)).unwrap();
        let expected = ExpectedFile::namespace(status.id.ino as u32).unwrap();
        assert!(open_link(&link_of(&own), expected).unwrap().is_some());
        // Another namespace, and other files.
        let user = File::open("/proc/self/ns/user").unwrap();
        let (reader, _writer) = nix::unistd::pipe().unwrap();
        assert!(open_link(&link_of(&user), expected).unwrap().is_none());
        assert!(open_link(&link_of(&reader), expected).unwrap().is_none());
        assert!(open_link(Path::new("/dev/null"), expected).unwrap().is_none());
        // The right inode in a file system of another kind.
        let queue = ExpectedFile::queue(status.id.dev, status.id.ino);
        assert!(open_link(&link_of(&own), queue).unwrap().is_none());
        assert!(open_link(Path::new("/proc/self/fd/4095"), expected).is_err());
    }

    #[test]
    fn handle_identifies_file() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let status = status_of(&fifo).unwrap();
        assert_eq!(status.links, 1);
        // It is the right inode, and opening it would wait for a writer.
        let expected = ExpectedFile::queue(status.id.dev, status.id.ino);
        assert!(open_link(&fifo, expected).unwrap().is_none());
    }

    #[test]
    fn walk_stays_below_root_and_follows_no_symlink() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("a/b")).unwrap();
        fs::write(folder.path().join("a/b/file"), "").unwrap();
        symlink("b", folder.path().join("a/link")).unwrap();
        symlink("/proc/self/ns/ipc", folder.path().join("a/magic")).unwrap();
        let root = File::open(folder.path()).unwrap();
        let walk = |point: &[u8]| walk(root.as_fd(), point, ResolveFlag::empty()).map(drop);
        assert_eq!(walk(b"/a/b/file"), Ok(()));
        assert_eq!(walk(b"/../../../a/b/file"), Ok(()));
        assert_eq!(walk(b"/../etc/passwd"), Err(Errno::ENOENT));
        for link in [b"/a/link/file".as_slice(), b"/a/link", b"/a/magic"] {
            assert_eq!(walk(link), Err(Errno::ELOOP), "{}", String::from_utf8_lossy(link));
        }
    }

    #[test]
    fn fuse_mounts_on_path_are_detected() {
        let mounts = b"30 1 8:1 / / rw - ext4 /dev/sda rw\n\
            31 30 0:40 / /home/me/cloud rw - fuse.sshfs me@there rw\n\
            32 30 0:41 / /run/ns rw - tmpfs tmpfs rw\n";
        assert!(is_below_fuse(mounts, b"/home/me/cloud/ns"));
        for other in [b"/run/ns/x".as_slice(), b"/home/me/clouds/ns", b"/home/me/cloud"] {
            assert!(!is_below_fuse(mounts, other), "{}", String::from_utf8_lossy(other));
        }
        let root = b"30 1 0:40 / / rw - fuse.root it rw\n";
        assert!(is_below_fuse(root, b"/run/ns/x"));
    }
}
