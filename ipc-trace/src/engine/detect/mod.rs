//! What was done, or tried, across namespaces: from events to findings.
//!
//! | module | its job |
//! | --- | --- |
//! | [`sighting`] | what classes work with |
//! | [`store`] | sightings folded into findings, counted, bounded, shown |
//! | [`judge`] | where an operator's word comes in |
//! | `found` | what a finding says of the object |
//! | `past` | where processes were, and what namespaces had |
//! | `channels` | ways that are no operations: what there is to say of each, a row each |
//! | `failed` | calls that failed, one by one or of a batch |
//! | [`foreign_object`] | an operation on another namespace's queue |
//! | [`foreign_mount`] | another namespace's queues by their paths |
//! | [`carried_mapping`] | shared memory that goes along into another namespace |
//! | [`foreign_view`] | another namespace's tables and settings |
//! | [`namespace_mismatch`] | a namespace entered that is neither one's own nor one's home |
//! | `attempts`, `argue` | what is the same for the next three: folding, and how sure one is |
//! | `probe_key` | a key that only another namespace has |
//! | `probe_id` | an id that only another namespace has |
//! | `probe_name` | a queue's name that only another namespace has |
//! | `shared` | what is the same for the next three: containers and users that meet |
//! | `cross_container` | two containers use one object |
//! | `host_ipc` | a container uses the host's namespace |
//! | `weak_mode` | an object that anybody may write, and several use |
//! | `cross_container_denied` | permission denied on another container's object |
//!
//! **To add a class**: a file with a type that holds its state, if it needs one, and a function for each
//! kind of event that it listens to, called from the function of [`Detect`] for that event. It
//! tells what it sees by [`Judging::saw`], with a [`sighting::Key`] that says what is the same finding,
//! an event as evidence, and a [`sighting::Draft`] that is only made when the finding is new; it can
//! [`store::Findings::amend`] what it said when it learns more. Names that others chose are escaped in
//! a title. State is bounded. An ordinary call, on an object of the caller's own namespace, must cost no
//! more than a few branches: see [`Detect::call`].
//!
//! Invariant: a class is a pure state machine: it knows no kernel, no output, and no clock but the
//! times of events. Lost and reordered events make it say less, or less surely; never something that did
//! not happen.

mod argue;
mod attempts;
pub(crate) mod carried_mapping;
mod channels;
mod cross_container;
mod cross_container_denied;
mod failed;
pub(crate) mod foreign_mount;
pub(crate) mod foreign_object;
pub(crate) mod foreign_view;
mod found;
mod host_ipc;
pub(crate) mod judge;
pub(crate) mod namespace_mismatch;
mod past;
mod probe_id;
mod probe_key;
mod probe_name;
mod shared;
pub(crate) mod sighting;
pub(crate) mod store;
#[cfg(test)]
mod tests;
mod weak_mode;

use std::rc::Rc;

use ipc_trace_common::record::{AccessRecord, BatchHead, Channel, ExitRecord, queue_flag};

use crate::{
    engine::track::{Tracker, contexts::Facts, objects},
    event::OtherNs,
    input::Call,
    input::batch::Group,
    input::process::{Mapped, ProcessKey, Request},
};
use attempts::Attempts;
use carried_mapping::Carried;
use channels::Reached;
use namespace_mismatch::Mismatch;
use shared::Meetings;
use sighting::{Access, Draft, Key, Moved, Seen, Trace, Who};
use store::Findings;

/// What a class tells of what it sees, and what it asks.
#[derive(Debug)]
pub(crate) struct Judging<'a> {
    /// All findings
    pub findings: &'a mut Findings,
    /// Questions about processes
    pub requests: &'a mut Vec<Request>,
}

impl Judging<'_> {
    /// A class saw something. `draft` is asked for when that is new.
    pub(crate) fn saw(&mut self, key: Key, trace: Trace, draft: impl FnOnce() -> Draft) {
        self.findings.saw(key, trace, draft);
    }
}

/// All classes, and what they found.
#[derive(Debug, Default)]
pub(crate) struct Detect {
    /// What was found
    pub findings: Findings,
    requests: Vec<Request>,
    /// This process, of which nothing is found
    own_pid: u32,
    /// Records of ways to objects whose namespace could not be told
    unjudged: u64,
    carried: Carried,
    mismatch: Mismatch,
    attempts: Attempts,
    meetings: Meetings,
}

impl Detect {
    /// Nothing was seen yet. `own_pid`: this process, of which nothing is found.
    #[must_use]
    pub(crate) fn new(own_pid: u32) -> Self {
        Self { own_pid, ..Self::default() }
    }

    /// What classes ask, since this was asked last.
    pub(crate) fn take_requests(&mut self) -> Vec<Request> {
        std::mem::take(&mut self.requests)
    }

    /// A call returned. `seq`: the number of the line that told of it. To be called after the tracker
    /// has learnt of it.
    #[inline]
    pub(crate) fn call(&mut self, call: &Call<'_>, seq: Option<u64>, tracker: &Tracker) {
        if call.record.pid == self.own_pid {
            drop(tracker.objects.take_met());
        } else {
            self.seen(&Seen::one(call, seq, tracker));
        }
    }

    /// Calls returned that came together.
    #[inline]
    pub(crate) fn group(&mut self, head: &BatchHead, group: &Group<'_>, tracker: &Tracker) {
        if head.pid == self.own_pid {
            drop(tracker.objects.take_met());
        } else {
            self.seen(&Seen::group(head, group, tracker));
        }
    }

    #[inline]
    fn seen(&mut self, seen: &Seen<'_>) {
        let to = &mut Judging { findings: &mut self.findings, requests: &mut self.requests };
        foreign_object::calls(seen, to);
        self.carried.calls(seen);
        self.mismatch.calls(seen, to);
        self.meetings.calls(seen, to);
        if failed::any(seen) {
            self.failed(seen);
        }
    }

    /// Some of the calls failed.
    fn failed(&mut self, seen: &Seen<'_>) {
        let to = &mut Judging { findings: &mut self.findings, requests: &mut self.requests };
        for failed in failed::all(seen) {
            let attempt = match failed.error {
                failed::ENOENT => {
                    probe_key::attempt(seen, failed).or_else(|| probe_name::attempt(seen, failed))
                }
                failed::EINVAL => probe_id::attempt(seen, failed),
                _ => {
                    cross_container_denied::failed(seen, failed, to);
                    None
                }
            };
            if let Some(attempt) = attempt {
                self.attempts.failed(seen, &attempt, to);
            }
        }
    }

    /// A thread reached something by a way that is no operation.
    pub(crate) fn access(&mut self, record: &AccessRecord, tracker: &Tracker) {
        let facts = tracker.contexts.get(record.tid, record.context);
        self.access_by(record, facts, tracker);
    }

    /// As [`Self::access`], by a thread that may be forgotten since.
    pub(crate) fn access_by(
        &mut self,
        record: &AccessRecord,
        facts: Option<&Rc<Facts>>,
        tracker: &Tracker,
    ) {
        let Some(channel) = channel(record) else {
            self.unjudged += 1;
            return;
        };
        if record.pid == self.own_pid {
            return;
        }
        let access = whose(record, channel, facts, tracker);
        let to = &mut Judging { findings: &mut self.findings, requests: &mut self.requests };
        foreign_object::access(&access, to);
        foreign_mount::access(&access, to);
        foreign_view::access(&access, to);
        let told = self.carried.access(&access, to);
        // Whose a segment is can be told by other means.
        if !told || access.foreign.is_none() && channels::row(channel).reached != Reached::Segment {
            self.unjudged += 1;
        }
    }

    /// A thread got into another namespace.
    pub(crate) fn moved(&mut self, moved: &Moved<'_>) {
        if moved.record.pid == self.own_pid {
            return;
        }
        let to = &mut Judging { findings: &mut self.findings, requests: &mut self.requests };
        self.attempts.moved(moved);
        self.carried.moved(moved, to);
        self.mismatch.moved(moved, to);
    }

    /// A thread ended. To be called before the tracker forgets it.
    pub(crate) fn ended(&mut self, record: &ExitRecord, tracker: &Tracker) {
        let to = &mut Judging { findings: &mut self.findings, requests: &mut self.requests };
        self.mismatch.ended(record, to);
        self.carried.ended(record, tracker.contexts.get(record.tid, record.context));
    }

    /// Whether there is something that [`Self::look`] may decide.
    #[inline]
    #[must_use]
    pub(crate) const fn waits(&self) -> bool {
        self.mismatch.waits()
    }

    /// A little time went on: what is to be looked at soon is looked at.
    #[cold]
    pub(crate) fn look(&mut self, boot_ns: u64) {
        let to = &mut Judging { findings: &mut self.findings, requests: &mut self.requests };
        self.mismatch.look(boot_ns, to);
    }

    /// Something happened to objects.
    pub(crate) fn objects(&mut self, changes: &[objects::Change]) {
        let to = &mut Judging { findings: &mut self.findings, requests: &mut self.requests };
        for change in changes {
            self.attempts.object(change, to);
            self.meetings.object(change, to);
        }
    }

    /// Time went on: all that happened before this moment has been told, as far as it will be.
    pub(crate) fn tick(&mut self, boot_ns: u64, tracker: &Tracker) {
        self.look(boot_ns);
        let to = &mut Judging { findings: &mut self.findings, requests: &mut self.requests };
        self.carried.tick(boot_ns, to);
        self.meetings.tick(boot_ns, tracker, to);
    }

    /// Nothing comes any more but answers.
    pub(crate) fn ending(&mut self, boot_ns: u64, tracker: &Tracker) {
        self.tick(boot_ns, tracker);
        let to = &mut Judging { findings: &mut self.findings, requests: &mut self.requests };
        self.mismatch.ending(to);
    }

    /// Nothing comes any more.
    pub(crate) fn finish(&mut self, boot_ns: u64, tracker: &Tracker) {
        let to = &mut Judging { findings: &mut self.findings, requests: &mut self.requests };
        self.mismatch.finish(to);
        self.meetings.finish(boot_ns, tracker, to);
    }

    /// Whether what a process has mapped is wanted to be known when it moves.
    #[must_use]
    pub(crate) fn wants_mapped(&self, process: ProcessKey, now: u64) -> bool {
        self.carried.wants_mapped(process, now)
    }

    /// The namespaces that a thread was in, when it was looked at; `ended`: nothing comes any more.
    pub(crate) fn namespaces_seen(
        &mut self,
        tid: u32,
        found: Option<(u32, OtherNs)>,
        (at, ended): (u64, bool),
    ) {
        let to = &mut Judging { findings: &mut self.findings, requests: &mut self.requests };
        self.mismatch.seen(tid, found, (at, ended), to);
    }

    /// What a process had mapped.
    pub(crate) fn mapped_seen(
        &mut self,
        process: ProcessKey,
        found: Option<&[Mapped]>,
        tracker: &Tracker,
    ) {
        let to = &mut Judging { findings: &mut self.findings, requests: &mut self.requests };
        self.carried.seen(process, found, tracker, to);
    }

    /// Accesses were seen of which nothing can be made.
    pub(crate) const fn unjudged_more(&mut self, count: u64) {
        self.unjudged += count;
    }

    /// Records of which nothing could be made.
    #[must_use]
    pub(crate) const fn unjudged(&self) -> u64 {
        self.unjudged
    }
}

fn channel(record: &AccessRecord) -> Option<Channel> {
    let at = usize::from(record.header.code).checked_sub(1)?;
    Channel::ALL.get(at).copied()
}

/// What a record says of whose it is that was reached.
fn whose<'a>(
    record: &'a AccessRecord,
    channel: Channel,
    facts: Option<&'a Rc<Facts>>,
    tracker: &'a Tracker,
) -> Access<'a> {
    let object = &record.object;
    let known = object.flags & queue_flag::KNOWN != 0;
    let dead = object.flags & queue_flag::DEAD != 0;
    // What is not known of a queue may be known of its file system.
    let ns = match known && !dead && object.ns.inum != 0 {
        true => Some(object.ns),
        false => Some(object.dev)
            .filter(|dev| *dev != 0)
            .and_then(|dev| tracker.queues.namespace_of(dev)),
    };
    let foreign = match (ns, dead) {
        // No thread is in a namespace that is dead.
        (_, true) => Some(true),
        (Some(ns), false) => Some(ns != record.ns),
        (None, false) => None,
    };
    let who = Who {
        pid: record.pid,
        tid: record.tid,
        uid: record.euid,
        gid: record.egid,
        comm: &record.comm,
        ns: record.ns,
        facts,
    };
    Access { record, channel, who, ns, foreign, dead, tracker }
}
