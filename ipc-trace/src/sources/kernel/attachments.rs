//! Attached programs and their links.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use ipc_trace_common::hooks::AUX_PROBES;

/// A hooked function of `hooks::AUX_PROBES`. Dropping it detaches its own program.
#[derive(Debug)]
pub(super) struct AttachedProbe {
    /// Its row in `hooks::AUX_PROBES`
    pub(super) row: usize,
    /// Its link and its program, in the order in which they are closed; `None`: it uses a shared program
    pub(super) own: Option<(OwnedFd, OwnedFd)>,
}

/// Descriptors of links and programs; dropping them detaches the programs: links are closed first.
#[derive(Debug, Default)]
pub(super) struct Attachments {
    links: Vec<OwnedFd>,
    /// Links by fprobe
    fprobes: Vec<OwnedFd>,
    programs: Vec<OwnedFd>,
    /// Programs whose misses are not losses, as copies do their work
    uncounted: Vec<OwnedFd>,
    /// Copies whose misses are compared with the meter's counts
    meters: Vec<OwnedFd>,
    arrays: Vec<OwnedFd>,
    /// Attached auxiliary probes
    pub(super) ways: Vec<AttachedProbe>,
    /// Functions that can't be hooked, and why
    pub(super) unseen: Vec<String>,
}

impl Attachments {
    /// Adds others.
    pub(super) fn append(&mut self, others: Self) {
        let Self { links, fprobes, programs, uncounted, meters, arrays, ways, unseen } = others;
        self.links.extend(links);
        self.fprobes.extend(fprobes);
        self.programs.extend(programs);
        self.uncounted.extend(uncounted);
        self.meters.extend(meters);
        self.arrays.extend(arrays);
        self.ways.extend(ways);
        self.unseen.extend(unseen);
    }

    pub(super) fn keep(&mut self, program: OwnedFd) {
        self.programs.push(program);
    }

    pub(super) fn keep_link(&mut self, link: OwnedFd) {
        self.links.push(link);
    }

    /// Keeps a link and its program.
    pub(super) fn keep_attached(&mut self, (link, program): (OwnedFd, OwnedFd)) {
        self.keep_link(link);
        self.keep(program);
    }

    /// Keeps a link by fprobe and its program.
    pub(super) fn keep_fprobe(&mut self, (link, program): (OwnedFd, OwnedFd)) {
        self.fprobes.push(link);
        self.keep(program);
    }

    /// Keeps a program whose misses are not losses.
    pub(super) fn keep_uncounted(&mut self, program: OwnedFd) {
        self.uncounted.push(program);
    }

    /// Keeps a copy of a program and its link.
    pub(super) fn keep_copy(&mut self, link: OwnedFd, program: OwnedFd, is_meter: bool) {
        self.keep_link(link);
        if is_meter {
            self.meters.push(program);
        } else {
            self.uncounted.push(program);
        }
    }

    /// Keeps a program by fprobe that copies back up, and its link.
    pub(super) fn keep_backed(&mut self, (link, program): (OwnedFd, OwnedFd)) {
        self.keep_link(link);
        self.keep_uncounted(program);
    }

    /// Meter copies, one of each program, whose misses are compared with how often other copies did the work.
    pub(super) fn meters(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.meters.iter().map(|fd| fd.as_fd())
    }

    /// Keeps arrays of programs, which are emptied when their last descriptor is closed (`prog_array_map_clear`,
    /// kernel/bpf/arraymap.c).
    pub(super) fn keep_arrays(&mut self, arrays: impl Iterator<Item = OwnedFd>) {
        self.arrays.extend(arrays);
    }

    /// The operations, as bits, for which it is known whether a call created its object.
    pub(super) fn creation_ops(&self) -> u32 {
        let rows = self.ways.iter().filter_map(|way| AUX_PROBES.get(way.row)?.creations_of);
        rows.fold(0, |bits, op| bits | op.bit())
    }

    /// Links by fprobe.
    pub(super) fn fprobes(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.fprobes.iter().map(|fd| fd.as_fd())
    }

    /// The programs, except those that come in copies.
    pub(super) fn all(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let ways = self.ways.iter().filter_map(|way| Some(way.own.as_ref()?.1.as_fd()));
        self.programs.iter().map(|fd| fd.as_fd()).chain(ways)
    }
}
