//! Processes that are not to outlive this one.

use std::{os::unix::process::CommandExt as _, process::Command};

use nix::sys::{prctl, signal::Signal};

/// Has the kernel send the command's process this signal when the thread that starts it ends, so also when
/// this process is killed and can't end it.
pub(crate) fn ends_with_us(command: &mut Command, signal: Signal) {
    // SAFETY: between fork and exec, one system call that takes no address.
    unsafe { command.pre_exec(move || Ok(prctl::set_pdeathsig(signal)?)) };
}
