//! Reads file systems without attaching them to the mount tree.

use std::{
    ffi::CStr,
    fs::File,
    io::{self, Read as _},
    os::fd::{AsRawFd as _, OwnedFd},
};

use super::owned;

/// Mounts a file system of that kind without attaching it; it is unmounted with the descriptor: fsopen(2),
/// fsmount(2), since 5.2. The descriptor is for opening files, and can't be read (`O_PATH`).
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
    // SAFETY: takes only numbers.
    owned(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, 0) })
}

/// The contents of a file in a file system of that kind.
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
