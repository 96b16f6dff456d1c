//! Letting go of programs on functions without waiting for it.
//!
//! The kernel waits for a grace period before it takes a program off a function, about 140 ms on 6.1
//! and 6.12, one after the other (`bpf_trampoline_unlink_prog`, kernel/bpf/trampoline.c): many
//! seconds for all of them. So a child process, which has the same descriptors, closes them last:
//! its end takes that time, and nobody waits for it.
//!
//! Invariant: the child does nothing but wait and end. If it can't be made, the descriptors are
//! closed here, and that takes its time.

use std::{fs::File, io::Read as _, os::fd::OwnedFd};

use nix::{
    fcntl::OFlag,
    unistd::{ForkResult, dup2_stderr, dup2_stdin, dup2_stdout, fork, pipe2, setsid},
};

/// A pipe. The child waits for its end, which comes when the parent closes `writer`: after all
/// descriptors that are dropped before this.
#[derive(Debug)]
pub(crate) struct Hold {
    reader: Option<OwnedFd>,
    writer: Option<OwnedFd>,
}

impl Hold {
    /// `None`: no pipe can be had.
    #[must_use]
    pub(crate) fn new() -> Option<Self> {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC).ok()?;
        Some(Self { reader: Some(reader), writer: Some(writer) })
    }

    /// Makes the child. To be called once, right before the descriptors are dropped.
    pub(crate) fn pass_on(&mut self) {
        let Some(reader) = self.reader.take() else { return };
        // SAFETY: another thread may ask runtimes for names, and hold what it likes; the child makes system
        // calls alone, and ends without running what is registered for the end.
        match unsafe { fork() } {
            Ok(ForkResult::Child) => {
                self.writer = None;
                wait_and_end(reader)
            }
            Ok(ForkResult::Parent { .. }) => {}
            Err(error) => log::info!("letting go of the programs will be waited for: {error}"),
        }
    }
}

fn wait_and_end(reader: OwnedFd) -> ! {
    // Whoever waits for the end of our output, or signals our group, is not to wait for this.
    let _ = setsid();
    if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
        let _ = dup2_stdin(&null);
        let _ = dup2_stdout(&null);
        let _ = dup2_stderr(&null);
    }
    let _ = File::from(reader).read(&mut [0]);
    // SAFETY: ends this process at once; the kernel closes its descriptors.
    unsafe { libc::_exit(0) }
}
