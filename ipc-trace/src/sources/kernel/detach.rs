//! Detaches programs from functions in the background.
//!
//! The kernel waits for a grace period before it detaches a program from a function, about 140 ms on 6.1 and 6.12,
//! one after the other (`bpf_trampoline_unlink_prog`, kernel/bpf/trampoline.c): many seconds for all of them. So a
//! child process, which has the same descriptors, closes them last: its exit takes that time, and no process waits
//! for it.
//!
//! Invariant: the child does nothing but wait and exit. If it can't be created, the descriptors are closed here,
//! which takes that time.

use std::{fs::File, io::Read as _, os::fd::OwnedFd};

use nix::{
    fcntl::OFlag,
    unistd::{ForkResult, dup2_stderr, dup2_stdin, dup2_stdout, fork, pipe2, setsid},
};

/// A pipe. The child waits for its end, which comes when the parent closes `writer`: after all descriptors that are
/// dropped before this one.
#[derive(Debug)]
pub(crate) struct DetachGuard {
    reader: Option<OwnedFd>,
    writer: Option<OwnedFd>,
}

impl DetachGuard {
    /// `None`: the pipe can't be created.
    #[must_use]
    pub(crate) fn new() -> Option<Self> {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC).ok()?;
        Some(Self { reader: Some(reader), writer: Some(writer) })
    }

    /// Forks the child. Call it once, right before the descriptors are dropped.
    pub(crate) fn detach_in_background(&mut self) {
        let Some(reader) = self.reader.take() else { return };
        // SAFETY: another thread may be asking runtimes for names, and hold any lock; the child only makes system
        // calls, and exits without running exit handlers.
        match unsafe { fork() } {
            Ok(ForkResult::Child) => {
                self.writer = None;
                wait_and_end(reader)
            }
            Ok(ForkResult::Parent { .. }) => {}
            Err(error) => log::info!("the programs can't be detached in the background: {error}"),
        }
    }
}

fn wait_and_end(reader: OwnedFd) -> ! {
    // A process that waits for the end of our output, or signals our group, must not wait for this child.
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
