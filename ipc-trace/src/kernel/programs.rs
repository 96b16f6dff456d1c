//! Programs and their links.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

/// Descriptors; dropped, they are let go of: links first.
#[derive(Debug, Default)]
pub(super) struct Programs {
    links: Vec<OwnedFd>,
    programs: Vec<OwnedFd>,
    arrays: Vec<OwnedFd>,
    /// How many ways to objects are watched that are no operations
    pub(super) watched: usize,
    /// The operations, by their bits, of whose calls it is known whether they made an object
    pub(super) births: u32,
    /// What is not seen, and why
    pub(super) unseen: Vec<String>,
}

impl Programs {
    pub(super) fn keep(&mut self, program: OwnedFd) {
        self.programs.push(program);
    }

    pub(super) fn keep_link(&mut self, link: OwnedFd) {
        self.links.push(link);
    }

    /// Arrays of programs, which are emptied when their last descriptor is closed
    /// (`prog_array_map_clear`, kernel/bpf/arraymap.c).
    pub(super) fn keep_arrays(&mut self, arrays: impl Iterator<Item = OwnedFd>) {
        self.arrays.extend(arrays);
    }

    /// The programs.
    pub(super) fn all(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.programs.iter().map(|fd| fd.as_fd())
    }
}
