//! A one-way pipe between processes of a scenario, for numbers and descriptors.

use std::os::fd::{OwnedFd, RawFd};

use anyhow::Result;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use crate::workload::queue_fd_passing;

/// A one-way pipe that survives `fork`: each process that has it may use either end.
#[derive(Debug)]
pub(super) struct HandoffPipe {
    from: OwnedFd,
    to: OwnedFd,
}

impl HandoffPipe {
    /// A new one.
    pub(super) fn new() -> Result<Self> {
        let (from, to) =
            socketpair(AddressFamily::Unix, SockType::Datagram, None, SockFlag::SOCK_CLOEXEC)?;
        Ok(Self { from, to })
    }

    /// Sends a number.
    pub(super) fn send_number(&self, number: u64) -> Result<()> {
        nix::unistd::write(&self.from, &number.to_ne_bytes())?;
        Ok(())
    }

    /// Waits for a number.
    pub(super) fn receive_number(&self) -> Result<u64> {
        let mut number = [0; 8];
        nix::unistd::read(&self.to, &mut number)?;
        Ok(u64::from_ne_bytes(number))
    }

    /// Sends a descriptor.
    pub(super) fn send_fd(&self, fd: RawFd) -> Result<()> {
        queue_fd_passing::send_fd(&self.from, fd, 0)
    }

    /// Waits for a descriptor.
    pub(super) fn receive_fd(&self) -> Result<OwnedFd> {
        Ok(queue_fd_passing::receive_fd(&self.to)?.0)
    }
}
