//! Arrays of the eBPF programs, mapped into memory. Access without system calls matters: while a system call accesses
//! a map, the kernel keeps programs of fprobe and perf events from running on that CPU, and counts them as missed
//! (`bpf_disable_instrumentation`, include/linux/bpf.h); the calling thread may be preempted in its middle.

use std::{
    io,
    num::NonZeroUsize,
    os::fd::{AsFd as _, BorrowedFd},
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use aya::maps::MapData;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// Memory of a map, shared with the kernel.
#[derive(Debug)]
pub(super) struct MapMemory {
    at: NonNull<u64>,
    bytes: NonZeroUsize,
}

impl MapMemory {
    /// Maps that many bytes from `offset` on, which is a multiple of a page.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(super) fn new(
        map: BorrowedFd<'_>,
        offset: usize,
        bytes: NonZeroUsize,
        access: ProtFlags,
    ) -> io::Result<Self> {
        let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
        // SAFETY: a new mapping, at an address of the kernel's choice.
        let at = unsafe { mmap(None, bytes, access, MapFlags::MAP_SHARED, map, offset)? };
        Ok(Self { at: at.cast(), bytes })
    }

    /// Its start: valid for the mapped bytes and the requested access.
    pub(super) const fn at(&self) -> NonNull<u64> {
        self.at
    }
}

impl Drop for MapMemory {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`, and no word is used any more.
        let _ = unsafe { munmap(self.at.cast(), self.bytes.get()) };
    }
}

/// The first `len` words of an array that may be mapped (`BPF_F_MMAPABLE`).
pub(super) struct Words {
    mapping: MapMemory,
    len: usize,
    /// Programs that are loaded later refer to it by its descriptor.
    _map: MapData,
}

impl std::fmt::Debug for Words {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Words").field("len", &self.len).finish_non_exhaustive()
    }
}

impl Words {
    /// Maps them. The array must have at least that many.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(super) fn new(map: MapData, len: usize) -> io::Result<Self> {
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let mapping = MapMemory::new(map.fd().as_fd(), 0, bytes(len), access)?;
        Ok(Self { mapping, len, _map: map })
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at < self.len);
        // SAFETY: it lies within the mapping, which may be read and written, and is aligned; the eBPF programs, which
        // share it, read and write aligned words.
        unsafe { AtomicU64::from_ptr(self.mapping.at().as_ptr().add(at)) }
    }

    /// The current value of a word.
    pub(super) fn get(&self, at: usize) -> u64 {
        self.word(at).load(Ordering::Relaxed)
    }

    /// Writes a word if it has the value `before`. Returns whether it had.
    pub(super) fn exchange(&mut self, at: usize, before: u64, value: u64) -> bool {
        let (success, failure) = (Ordering::AcqRel, Ordering::Relaxed);
        self.word(at).compare_exchange(before, value, success, failure).is_ok()
    }

    /// Adds to a word, of which programs may write other bits meanwhile.
    pub(super) fn add(&mut self, at: usize, summand: u64) {
        self.word(at).fetch_add(summand, Ordering::AcqRel);
    }

    /// Writes a word; programs see the value from now on.
    pub(super) fn set(&mut self, at: usize, value: u64) {
        self.word(at).store(value, Ordering::Release);
    }
}

fn bytes(len: usize) -> NonZeroUsize {
    NonZeroUsize::new(len * size_of::<u64>()).unwrap_or(NonZeroUsize::MIN)
}
