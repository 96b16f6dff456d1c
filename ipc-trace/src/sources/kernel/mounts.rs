//! File systems that are looked into without being mounted anywhere.

use std::{
    ffi::CStr,
    fs::File,
    io::{self, Read as _},
    os::fd::{AsRawFd as _, OwnedFd},
};

use super::owned;

/// A mount of a file system of that kind, which is gone with the descriptor: fsopen(2), fsmount(2),
/// which 5.2 and later have. The descriptor is one to open files from, and can't be read (`O_PATH`).
///
/// # Errors
/// The kernel refuses the mount.
pub(crate) fn detached(kind: &CStr) -> io::Result<OwnedFd> {
    const FSOPEN_CLOEXEC: u32 = 1;
    const FSCONFIG_CMD_CREATE: u32 = 6;
    const FSMOUNT_CLOEXEC: u32 = 1;
    // SAFETY: the name ends with NUL.
    let context = owned(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) })?;
    let null = std::ptr::null::<libc::c_char>();
    // SAFETY: this command takes neither key nor value.
    let made = unsafe {
        libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), FSCONFIG_CMD_CREATE, null, null, 0)
    };
    if made != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: takes numbers alone.
    owned(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, 0) })
}

/// What is in a file of a file system of that kind.
///
/// # Errors
/// The kernel refuses the mount or has no such file.
pub(super) fn read_detached(kind: &CStr, path: &str) -> io::Result<String> {
    let mount = detached(kind)?;
    let file = nix::fcntl::openat(
        &mount,
        path,
        nix::fcntl::OFlag::O_RDONLY | nix::fcntl::OFlag::O_CLOEXEC,
        nix::sys::stat::Mode::empty(),
    )?;
    let mut text = String::new();
    File::from(file).read_to_string(&mut text)?;
    Ok(text)
}
