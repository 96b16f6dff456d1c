//! The queues of this thread's IPC namespace, read through a detached mount of its mqueue file system.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsFd, AsRawFd as _, OwnedFd},
};

use ipc_trace_common::op::ObjectKind;
use nix::{
    dir::Dir,
    errno::Errno,
    fcntl::{OFlag, openat},
    sys::stat::{FileStat, Mode as CreateMode, fstat},
};

use crate::{
    event::{
        objects::ObjectInfo,
        value::{FileMode, KindName, OsBytes},
    },
    sources::kernel::fsmount,
};

/// The root of the mqueue file system of this thread's namespace.
fn root() -> io::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    Ok(openat(fsmount::detached(c"mqueue")?, c".", flags, CreateMode::empty())?)
}

/// The queues of this thread's namespace, and the device number of its mqueue file system.
///
/// # Errors
/// The file system can't be mounted or read: mostly for lack of CAP_SYS_ADMIN.
pub(crate) fn queues() -> io::Result<(Vec<ObjectInfo>, libc::dev_t)> {
    let root = root()?;
    let device = fstat(&root)?.st_dev;
    let mut objects = Vec::new();
    let mut directory = Dir::from_fd(root.try_clone()?)?;
    for entry in directory.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        objects.extend(queue(&root, name)?);
    }
    Ok((objects, device))
}

/// The queue with that name. `None`: it is gone.
fn queue(root: &OwnedFd, name: &CStr) -> io::Result<Option<ObjectInfo>> {
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    match openat(root, name, flags, CreateMode::empty()) {
        Ok(queue) => Ok(Some(described(&queue, name.to_bytes())?)),
        Err(Errno::ENOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The queue behind a descriptor. Reading it changes nothing, not even its times.
///
/// # Errors
/// Its attributes can't be read.
pub(crate) fn described(queue: impl AsFd, name: &[u8]) -> io::Result<ObjectInfo> {
    let queue = queue.as_fd();
    let FileStat { st_mode, st_uid, st_gid, st_nlink, st_ino, .. } = fstat(queue)?;
    let mut attributes = std::mem::MaybeUninit::<libc::mq_attr>::zeroed();
    // SAFETY: there are no new attributes, and room for the old ones.
    let asked = unsafe {
        let none = std::ptr::null::<libc::mq_attr>();
        libc::syscall(libc::SYS_mq_getsetattr, queue.as_raw_fd(), none, attributes.as_mut_ptr())
    };
    Errno::result(asked)?;
    // SAFETY: the kernel wrote them, and zeros are attributes too.
    let libc::mq_attr { mq_maxmsg, mq_msgsize, mq_curmsgs, .. } =
        unsafe { attributes.assume_init() };
    let number = |value: i64| u64::try_from(value).unwrap_or(0);
    Ok(ObjectInfo {
        kind: KindName(ObjectKind::Mq),
        id: None,
        key: None,
        name: Some(OsBytes(name.to_vec().into())),
        mode: Some(FileMode(st_mode & 0o7777)),
        uid: Some(st_uid),
        gid: Some(st_gid),
        size: Some(number(mq_maxmsg).saturating_mul(number(mq_msgsize))),
        messages: Some(number(mq_curmsgs)),
        max_messages: Some(number(mq_maxmsg)),
        bytes: None,
        creator: None,
        last: None,
        attached: None,
        removed: st_nlink == 0,
        ino: Some(st_ino),
    })
}
/// The device number of a file system in the kernel's form (`MKDEV`, include/linux/kdev_t.h).
pub(crate) fn kernel_device(dev: libc::dev_t) -> u32 {
    libc::major(dev) << 20 | libc::minor(dev)
}
