//! Calls of containers of which it is not known yet whether they are wanted: they are held back until a
//! runtime has told what tells, for a second at most.
//!
//! Invariant: what is held is bounded; each call is handed on, or counted as unwanted.

use std::{collections::VecDeque, rc::Rc};

use zerocopy::IntoBytes as _;

use super::{Pipeline, Sink, control::words};
use crate::{
    containers::Known,
    decode::{self, Call, Record},
    track::contexts::Facts,
};

/// So long a runtime may take to tell of a container.
const PATIENCE_NS: u64 = 1_000_000_000;
/// Calls that are held at most: some hundred bytes each.
const MOST: usize = 1 << 14;

/// A call that is held back.
#[derive(Debug)]
struct Waiting {
    known: Rc<Known>,
    due: u64,
    words: Box<[u64]>,
    /// Who the thread was
    tid: u32,
    context: u64,
    facts: Rc<Facts>,
}

/// Those, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Held {
    waiting: VecDeque<Waiting>,
}

impl Pipeline {
    /// A call, where the calls of some containers alone are wanted: the number of its line.
    #[cold]
    pub(super) fn of_container(
        &mut self,
        call: &Call<'_>,
        bytes: &[u8],
        sink: &mut impl Sink,
    ) -> Option<u64> {
        let record = call.record;
        let facts = self.tracker.contexts.get(record.tid, record.context);
        let found = facts.and_then(|facts| Some((facts, facts.container.as_ref()?)));
        match found.map(|(facts, known)| (known.is_wanted(), facts, known)) {
            Some((Some(true), ..)) => return sink.call(call, &self.tracker),
            Some((None, facts, known)) => {
                let waiting = Waiting {
                    known: Rc::clone(known),
                    due: record.boot_ns.saturating_add(PATIENCE_NS),
                    words: words(bytes),
                    tid: record.tid,
                    context: record.context,
                    facts: Rc::clone(facts),
                };
                self.held.waiting.push_back(waiting);
                if self.held.waiting.len() > MOST
                    && let Some(oldest) = self.held.waiting.pop_front()
                {
                    self.unwanted(&oldest.words);
                }
            }
            // On the host, in another container, or nobody knows where.
            Some((Some(false), ..)) | None => self.count_unwanted(call),
        }
        None
    }

    /// Hands on what is known to be wanted now, and gives up what was waited for until `now`.
    pub fn release(&mut self, now: u64, sink: &mut impl Sink) {
        if self.held.waiting.is_empty() {
            return;
        }
        let mut rest = VecDeque::new();
        for waiting in std::mem::take(&mut self.held.waiting) {
            if waiting.due <= now {
                self.tracker.containers.give_up(&waiting.known);
            }
            match waiting.known.is_wanted() {
                Some(true) => self.hand_on(waiting, sink),
                Some(false) => self.unwanted(&waiting.words),
                None => rest.push_back(waiting),
            }
        }
        self.held.waiting = rest;
    }

    /// The thread may have ended since, or be another.
    fn hand_on(&mut self, waiting: Waiting, sink: &mut impl Sink) {
        let Waiting { words, tid, context, facts, .. } = waiting;
        let Ok(Record::Call(call)) = decode::record(words.as_bytes()) else { return };
        let now = self.tracker.contexts.replace(tid, Some((context, facts)));
        sink.call(&call, &self.tracker);
        self.tracker.contexts.replace(tid, now);
    }

    fn unwanted(&mut self, words: &[u64]) {
        // It was decoded before.
        if let Ok(Record::Call(call)) = decode::record(words.as_bytes()) {
            self.count_unwanted(&call);
        }
    }

    fn count_unwanted(&mut self, call: &Call<'_>) {
        if let Some(count) = self.delivered.unwanted.get_mut(call.op as usize) {
            *count += 1;
        }
    }
}
