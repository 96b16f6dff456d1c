//! What was done, or tried, across namespaces: from events to findings.
//!
//! | module | its job |
//! | --- | --- |
//! | [`sighting`] | what classes work with |
//! | [`store`] | sightings folded into findings, counted, bounded, shown |
//! | [`judge`] | where an operator's word comes in |
//! | [`witness`] | what is looked up on the host, beside the events |
//! | [`foreign_object`] | an operation on another namespace's queue |
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

pub mod foreign_object;
pub mod judge;
pub mod sighting;
pub mod store;
#[cfg(test)]
mod tests;
pub mod witness;

use ipc_trace_common::record::{AccessRecord, BatchHead, Channel, NsRef, queue_flag};

use crate::{
    decode::{Call, batch::Group},
    track::{Tracker, objects},
};
use sighting::{Access, Draft, Key, Moved, Seen, Trace, Who};
use store::Findings;
use witness::{Nobody, Witness};

/// What a class tells of what it sees, and whom it can ask.
#[derive(Debug)]
pub struct Judging<'a> {
    /// All findings
    pub findings: &'a mut Findings,
    /// Who can be asked about processes
    pub witness: &'a dyn Witness,
}

impl Judging<'_> {
    /// A class saw something. `draft` is asked for when that is new.
    pub fn saw(&mut self, key: Key, trace: Trace, draft: impl FnOnce() -> Draft) {
        self.findings.saw(key, trace, draft);
    }
}

/// All classes, and what they found.
#[derive(Debug)]
pub struct Detect {
    /// What was found
    pub findings: Findings,
    witness: Box<dyn Witness>,
    /// This process, of which nothing is found
    own_pid: u32,
    /// Records of ways to objects whose namespace could not be told
    unjudged: u64,
}

impl Default for Detect {
    fn default() -> Self {
        Self { findings: Findings::default(), witness: Box::new(Nobody), own_pid: 0, unjudged: 0 }
    }
}

impl Detect {
    /// Who can be asked about processes, and which of them is this.
    pub fn ask(&mut self, witness: Box<dyn Witness>, own_pid: u32) {
        (self.witness, self.own_pid) = (witness, own_pid);
    }

    /// A call returned. `seq`: the number of the line that told of it. To be called after the tracker
    /// has learnt of it.
    #[inline]
    pub fn call(&mut self, call: &Call<'_>, seq: Option<u64>, tracker: &Tracker) {
        if call.record.pid != self.own_pid {
            self.seen(&Seen::one(call, seq, tracker));
        }
    }

    /// Calls returned that came together.
    #[inline]
    pub fn group(&mut self, head: &BatchHead, group: &Group<'_>, tracker: &Tracker) {
        if head.pid != self.own_pid {
            self.seen(&Seen::group(head, group, tracker));
        }
    }

    #[inline]
    fn seen(&mut self, seen: &Seen<'_>) {
        let to = &mut Judging { findings: &mut self.findings, witness: self.witness.as_ref() };
        foreign_object::calls(seen, to);
    }

    /// A thread reached something by a way that is no operation.
    pub fn access(&mut self, record: &AccessRecord, tracker: &Tracker) {
        let Some(channel) = channel(record) else {
            self.unjudged += 1;
            return;
        };
        if record.pid == self.own_pid {
            return;
        }
        let access = whose(record, channel, tracker);
        let to = &mut Judging { findings: &mut self.findings, witness: self.witness.as_ref() };
        if access.foreign.is_none() {
            self.unjudged += 1;
        }
        foreign_object::access(&access, to);
    }

    /// A thread got into another namespace.
    pub fn moved(&mut self, _moved: &Moved<'_>) {}

    /// A namespace died.
    pub fn died(&mut self, _ns: NsRef) {}

    /// Something happened to objects.
    pub fn objects(&mut self, _changes: &[objects::Change], _tracker: &Tracker) {}

    /// Time went on: all that happened before this moment has been told, as far as it will be.
    pub fn tick(&mut self, _boot_ns: u64, _tracker: &Tracker) {}

    /// Records of which nothing could be made.
    #[must_use]
    pub const fn unjudged(&self) -> u64 {
        self.unjudged
    }
}

fn channel(record: &AccessRecord) -> Option<Channel> {
    let at = usize::from(record.header.code).checked_sub(1)?;
    Channel::ALL.get(at).copied()
}

/// What a record says of whose it is that was reached.
fn whose<'a>(record: &'a AccessRecord, channel: Channel, tracker: &'a Tracker) -> Access<'a> {
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
        facts: tracker.contexts.get(record.tid, record.context),
    };
    Access { record, channel, who, ns, foreign, dead, tracker }
}
