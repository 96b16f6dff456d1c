//! Programs and their links.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use ipc_trace_common::hooks::AUX_PROBES;

/// A function of `hooks::AUX_PROBES` that is watched. Dropped, its own program is let go of.
#[derive(Debug)]
pub(super) struct AttachedProbe {
    /// Its row in `hooks::AUX_PROBES`
    pub(super) row: usize,
    /// Its link and its program, in the order in which they are let go of; `None`: it shares others'
    pub(super) own: Option<(OwnedFd, OwnedFd)>,
}

/// Descriptors; dropped, they are let go of: links first.
#[derive(Debug, Default)]
pub(super) struct Attachments {
    links: Vec<OwnedFd>,
    /// Links by fprobe
    fprobes: Vec<OwnedFd>,
    programs: Vec<OwnedFd>,
    /// Programs whose misses are no losses, as copies do their work
    uncounted: Vec<OwnedFd>,
    /// Copies whose misses are known to be losses or not
    meters: Vec<OwnedFd>,
    arrays: Vec<OwnedFd>,
    /// Functions that are watched beside those of the system calls
    pub(super) ways: Vec<AttachedProbe>,
    /// What is not seen, and why
    pub(super) unseen: Vec<String>,
}

impl Attachments {
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

    /// A program whose misses are no losses.
    pub(super) fn keep_uncounted(&mut self, program: OwnedFd) {
        self.uncounted.push(program);
    }

    /// A copy of a program and its link.
    pub(super) fn keep_copy(&mut self, link: OwnedFd, program: OwnedFd, is_meter: bool) {
        self.keep_link(link);
        if is_meter {
            self.meters.push(program);
        } else {
            self.uncounted.push(program);
        }
    }

    /// A program by fprobe that copies are put beside, and its link.
    pub(super) fn keep_backed(&mut self, (link, program): (OwnedFd, OwnedFd)) {
        self.keep_link(link);
        self.keep_uncounted(program);
    }

    /// Copies of programs, one of each, whose misses are to be compared with how often others did their work.
    pub(super) fn meters(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.meters.iter().map(|fd| fd.as_fd())
    }

    /// Arrays of programs, which are emptied when their last descriptor is closed
    /// (`prog_array_map_clear`, kernel/bpf/arraymap.c).
    pub(super) fn keep_arrays(&mut self, arrays: impl Iterator<Item = OwnedFd>) {
        self.arrays.extend(arrays);
    }

    /// The operations, by their bits, of whose calls it is known whether they made an object.
    pub(super) fn births(&self) -> u32 {
        let rows = self.ways.iter().filter_map(|way| AUX_PROBES.get(way.row)?.births_of);
        rows.fold(0, |bits, op| bits | op.bit())
    }

    /// Links by fprobe.
    pub(super) fn fprobes(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.fprobes.iter().map(|fd| fd.as_fd())
    }

    /// The programs, but for those that come in copies.
    pub(super) fn all(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let ways = self.ways.iter().filter_map(|way| Some(way.own.as_ref()?.1.as_fd()));
        self.programs.iter().map(|fd| fd.as_fd()).chain(ways)
    }
}
