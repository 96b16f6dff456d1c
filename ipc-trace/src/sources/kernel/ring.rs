//! A ring of the eBPF programs, with its read and write positions.
//!
//! Records are reserved in one order and committed in another. The reader stops at the first uncommitted record,
//! whatever is behind it. So a reader that has read nothing can't conclude that the ring is empty.

use std::{
    io,
    num::NonZeroUsize,
    os::fd::{AsFd, BorrowedFd},
    sync::atomic::{AtomicUsize, Ordering, fence},
};

use aya::maps::{MapData, RingBuf};
use nix::{
    sys::mman::ProtFlags,
    unistd::{SysconfVar, sysconf},
};

use super::mmap::MapMemory;

/// A source of records: a ring.
pub(crate) trait RecordSource {
    /// Passes the next record to `with`. `None`: there is none, or it is uncommitted.
    fn next<R>(&mut self, with: impl FnOnce(&[u8]) -> R) -> Option<R>;

    /// The records that can't be read yet, after `next` returned none. `None`: there are none.
    fn uncommitted(&self) -> Option<Uncommitted>;
}

/// Records that can't be read, because the first of them is still being written, by another CPU, or by a thread that
/// was preempted meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Uncommitted {
    /// The position of the first
    pub at: usize,
    /// The position after the last
    pub end: usize,
}

/// No ring.
#[derive(Debug)]
pub(crate) struct Nothing;

impl RecordSource for Nothing {
    fn next<R>(&mut self, _: impl FnOnce(&[u8]) -> R) -> Option<R> {
        None
    }

    fn uncommitted(&self) -> Option<Uncommitted> {
        None
    }
}

/// A ring.
pub(crate) struct KernelRing {
    ring: RingBuf<MapData>,
    /// Its first page holds the reader's position, its second page the writers' (`struct bpf_ringbuf`,
    /// kernel/bpf/ringbuf.c).
    read: Position,
    written: Position,
}

impl std::fmt::Debug for KernelRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("read", &self.read).field("written", &self.written).finish()
    }
}

impl KernelRing {
    /// Opens the ring.
    ///
    /// # Errors
    /// The kernel does not let its positions be read.
    pub(super) fn new(ring: RingBuf<MapData>) -> io::Result<Self> {
        let page = sysconf(SysconfVar::PAGE_SIZE)?
            .and_then(|page| NonZeroUsize::new(usize::try_from(page).ok()?))
            .ok_or_else(|| io::Error::other("sysconf does not report the size of a page"))?;
        let [read, written] = [0, page.get()].map(|at| Position::map(ring.as_fd(), at, page));
        Ok(Self { read: read?, written: written?, ring })
    }
}

impl AsFd for KernelRing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

impl RecordSource for KernelRing {
    fn next<R>(&mut self, with: impl FnOnce(&[u8]) -> R) -> Option<R> {
        self.ring.next().map(|item| with(&item))
    }

    fn uncommitted(&self) -> Option<Uncommitted> {
        let (read, written) = (self.read.get(), self.written.get());
        (read != written).then_some(Uncommitted { at: read, end: written })
    }
}

/// A position, at the start of a page of the ring.
#[derive(Debug)]
struct Position(MapMemory);

impl Position {
    fn map(ring: BorrowedFd<'_>, at: usize, page: NonZeroUsize) -> io::Result<Self> {
        Ok(Self(MapMemory::new(ring, at, page, ProtFlags::PROT_READ)?))
    }

    fn get(&self) -> usize {
        // Read-only memory: only relaxed loads of it are sound (std::sync::atomic, "Atomic accesses to read-only
        // memory").
        // SAFETY: the mapping exists and begins with an aligned `unsigned long`.
        let position =
            unsafe { self.0.at().cast::<AtomicUsize>().as_ref() }.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        position
    }
}
