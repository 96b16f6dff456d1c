//! Arrays of the eBPF programs, read and written in memory: without system calls, for while one of those
//! looks at a map, the kernel keeps programs of fprobe and perf events from running on that CPU, and
//! counts them as missed (`bpf_disable_instrumentation`, include/linux/bpf.h); the thread that makes it
//! may be preempted in its middle.

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
    /// Maps so many bytes from `offset` on, which is a multiple of a page.
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

    /// Its beginning: valid for as many bytes as were mapped, for what access was asked for.
    pub(super) const fn at(&self) -> NonNull<u64> {
        self.at
    }
}

impl Drop for MapMemory {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`, and no place is used any more.
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
    /// Maps them. The array must have that many.
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
        // SAFETY: it lies within the mapping, which may be read and written, and is aligned; programs of the kernel
        // side, which share it, read and write whole words.
        unsafe { AtomicU64::from_ptr(self.mapping.at().as_ptr().add(at)) }
    }

    /// A word as it is now.
    pub(super) fn get(&self, at: usize) -> u64 {
        self.word(at).load(Ordering::Relaxed)
    }

    /// Writes a word where it has the value `before`. Whether it had.
    pub(super) fn exchange(&mut self, at: usize, before: u64, value: u64) -> bool {
        let (success, failure) = (Ordering::AcqRel, Ordering::Relaxed);
        self.word(at).compare_exchange(before, value, success, failure).is_ok()
    }

    /// Writes a word, which programs see from now on.
    pub(super) fn set(&mut self, at: usize, value: u64) {
        self.word(at).store(value, Ordering::Release);
    }
}

fn bytes(len: usize) -> NonZeroUsize {
    NonZeroUsize::new(len * size_of::<u64>()).unwrap_or(NonZeroUsize::MIN)
}
