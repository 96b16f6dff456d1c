//! Arrays of the kernel side, read and written in memory: without system calls, for while one of those
//! looks at a map, the kernel keeps programs of fprobe and perf events from running on that CPU, and
//! counts them as missed (`bpf_disable_instrumentation`, include/linux/bpf.h); the thread that makes it
//! may be preempted in its middle.

use std::{io, num::NonZeroUsize, ptr::NonNull};

use aya::maps::MapData;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// The first `len` words of an array that may be mapped (`BPF_F_MMAPABLE`).
pub(super) struct Words {
    at: NonNull<u64>,
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
        // SAFETY: a new mapping, at an address of the kernel's choice.
        let at = unsafe { mmap(None, bytes(len), access, MapFlags::MAP_SHARED, map.fd(), 0)? };
        Ok(Self { at: at.cast(), len, _map: map })
    }

    fn place(&self, at: usize) -> *mut u64 {
        assert!(at < self.len);
        // SAFETY: it lies within the mapping.
        unsafe { self.at.as_ptr().add(at) }
    }

    /// A word as it is now.
    pub(super) fn get(&self, at: usize) -> u64 {
        // SAFETY: the place is valid and aligned, and programs write whole words.
        unsafe { self.place(at).read_volatile() }
    }

    /// Writes a word, which programs see from now on.
    pub(super) fn set(&mut self, at: usize, value: u64) {
        // SAFETY: as in `get`.
        unsafe { self.place(at).write_volatile(value) }
    }
}

fn bytes(len: usize) -> NonZeroUsize {
    NonZeroUsize::new(len * size_of::<u64>()).unwrap_or(NonZeroUsize::MIN)
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`, and no place is used any more.
        let _ = unsafe { munmap(self.at.cast(), bytes(self.len).get()) };
    }
}
