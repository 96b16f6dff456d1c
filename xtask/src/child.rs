//! Processes that must not outlive this one.

use std::{os::unix::process::CommandExt as _, process::Command};

use nix::{
    sys::{prctl, signal::Signal},
    unistd::{Pid, getppid},
};

/// Has the kernel send the command's process this signal when the thread that starts it ends, so also when
/// this process is killed and can't end it.
pub(crate) fn ends_with_us(command: &mut Command, signal: Signal) {
    // SAFETY: between fork and exec, one system call that takes no address.
    unsafe { command.pre_exec(move || Ok(prctl::set_pdeathsig(signal)?)) };
}

/// Ends this process when the thread ends that forked it, which is of process `parent`.
pub(crate) fn end_with(parent: Pid) {
    let asked = prctl::set_pdeathsig(Signal::SIGKILL);
    // It may have ended before this was asked for. Of a process outside of the pid namespace, the number is 0.
    if asked.is_err() || ![parent, Pid::from_raw(0)].contains(&getppid()) {
        // SAFETY: ends the process without running what its parent registered for its own end.
        unsafe { libc::_exit(1) };
    }
}
