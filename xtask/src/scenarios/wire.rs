//! What actors tell each other: numbers and descriptors, one way.

use std::os::fd::{OwnedFd, RawFd};

use anyhow::Result;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use crate::workload::carried;

/// A one-way wire that survives `fork`: whoever has it may use either end.
#[derive(Debug)]
pub(super) struct Wire {
    from: OwnedFd,
    to: OwnedFd,
}

impl Wire {
    /// A new one.
    pub(super) fn new() -> Result<Self> {
        let (from, to) =
            socketpair(AddressFamily::Unix, SockType::Datagram, None, SockFlag::SOCK_CLOEXEC)?;
        Ok(Self { from, to })
    }

    /// Tells a number.
    pub(super) fn send(&self, number: u64) -> Result<()> {
        nix::unistd::write(&self.from, &number.to_ne_bytes())?;
        Ok(())
    }

    /// Waits for a number.
    pub(super) fn hear(&self) -> Result<u64> {
        let mut number = [0; 8];
        nix::unistd::read(&self.to, &mut number)?;
        Ok(u64::from_ne_bytes(number))
    }

    /// Passes a descriptor on.
    pub(super) fn pass(&self, fd: RawFd) -> Result<()> {
        carried::give(&self.from, fd, 0)
    }

    /// Waits for a descriptor.
    pub(super) fn take(&self) -> Result<OwnedFd> {
        Ok(carried::take(&self.to)?.0)
    }
}
