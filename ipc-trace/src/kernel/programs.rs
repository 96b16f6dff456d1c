//! Programs and their links.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use ipc_trace_common::hooks::REACHED;

/// A function of `hooks::REACHED` that is watched. Dropped, its own program is let go of.
#[derive(Debug)]
pub(super) struct Way {
    /// Its row in `hooks::REACHED`
    pub(super) row: usize,
    /// Its link and its program, in the order in which they are let go of; `None`: it shares others'
    pub(super) own: Option<(OwnedFd, OwnedFd)>,
}

/// Descriptors; dropped, they are let go of: links first.
#[derive(Debug, Default)]
pub(super) struct Programs {
    links: Vec<OwnedFd>,
    /// Links by fprobe
    fprobes: Vec<OwnedFd>,
    programs: Vec<OwnedFd>,
    arrays: Vec<OwnedFd>,
    /// Functions that are watched beside those of the system calls
    pub(super) ways: Vec<Way>,
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

    /// A link and its program.
    pub(super) fn keep_attached(&mut self, (link, program): (OwnedFd, OwnedFd)) {
        self.keep_link(link);
        self.keep(program);
    }

    /// A link by fprobe and its program.
    pub(super) fn keep_fprobe(&mut self, (link, program): (OwnedFd, OwnedFd)) {
        self.fprobes.push(link);
        self.keep(program);
    }

    /// Arrays of programs, which are emptied when their last descriptor is closed
    /// (`prog_array_map_clear`, kernel/bpf/arraymap.c).
    pub(super) fn keep_arrays(&mut self, arrays: impl Iterator<Item = OwnedFd>) {
        self.arrays.extend(arrays);
    }

    /// The operations, by their bits, of whose calls it is known whether they made an object.
    pub(super) fn births(&self) -> u32 {
        let rows = self.ways.iter().filter_map(|way| REACHED.get(way.row)?.births_of);
        rows.fold(0, |bits, op| bits | op.bit())
    }

    /// Links by fprobe.
    pub(super) fn fprobes(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.fprobes.iter().map(|fd| fd.as_fd())
    }

    /// The programs.
    pub(super) fn all(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let ways = self.ways.iter().filter_map(|way| Some(way.own.as_ref()?.1.as_fd()));
        self.programs.iter().map(|fd| fd.as_fd()).chain(ways)
    }
}
