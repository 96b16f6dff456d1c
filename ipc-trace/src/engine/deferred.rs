//! Calls of containers of which it is not known yet whether they are wanted: they are held back until a
//! runtime has told what tells, for a second at most.
//!
//! Invariant: what is held is bounded; each call is handed on, or counted as unwanted.

use std::{collections::VecDeque, rc::Rc};

use zerocopy::IntoBytes as _;

use super::Engine;
use crate::{
    engine::track::{HashMap, containers::ContainerHandle, contexts::TaskInfo},
    event::Tell,
    input::Call,
    steps::step,
};

/// So long a runtime may take to tell of a container.
const PATIENCE_NS: u64 = 1_000_000_000;
/// Calls that are held at most: some hundred bytes each.
const MOST: usize = 1 << 14;

/// A call that is held back.
#[derive(Debug)]
struct DeferredCall {
    number: u64,
    words: Box<[u64]>,
    /// Who the thread was
    tid: u32,
    context: u64,
    facts: Rc<TaskInfo>,
}

/// Those, by container, each in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct DeferredCalls {
    calls: HashMap<ContainerHandle, VecDeque<DeferredCall>>,
    /// Until when each is waited for, in the order in which they came; of some it is known since
    order: VecDeque<(u64, u64, ContainerHandle)>,
    /// How many wait
    count: usize,
    /// How many have come
    entered: u64,
}

impl DeferredCalls {
    fn push(&mut self, of: &ContainerHandle, due: u64, mut waiting: DeferredCall) {
        self.entered += 1;
        self.count += 1;
        waiting.number = self.entered;
        self.order.push_back((due, waiting.number, of.clone()));
        self.calls.entry(of.clone()).or_default().push_back(waiting);
    }

    /// All calls of a container.
    fn take(&mut self, of: &ContainerHandle) -> VecDeque<DeferredCall> {
        let taken = self.calls.remove(of).unwrap_or_default();
        self.count -= taken.len();
        taken
    }

    /// The container of the oldest call, and until when that is waited for.
    fn oldest(&mut self) -> Option<(u64, ContainerHandle)> {
        while let Some((due, number, of)) = self.order.front() {
            step();
            let first = self.calls.get(of).and_then(VecDeque::front);
            if first.is_some_and(|call| call.number == *number) {
                return Some((*due, of.clone()));
            }
            self.order.pop_front();
        }
        None
    }

    fn pop_oldest(&mut self) -> Option<DeferredCall> {
        let (_, of) = self.oldest()?;
        self.order.pop_front();
        let calls = self.calls.get_mut(&of)?;
        let call = calls.pop_front()?;
        if calls.is_empty() {
            self.calls.remove(&of);
        }
        self.count -= 1;
        Some(call)
    }
}

impl Engine {
    /// A call, where the calls of some containers alone are wanted: the number of its line.
    #[cold]
    pub(super) fn of_container(&mut self, call: &Call<'_>, out: &mut impl Tell) -> Option<u64> {
        let record = call.record;
        let facts = self.tracker.contexts.get(record.tid, record.context);
        let found = facts.and_then(|facts| Some((facts, facts.container.as_ref()?)));
        let containers = &self.tracker.containers;
        match found.map(|(facts, of)| (containers.is_wanted(of), facts, of)) {
            Some((Some(true), ..)) => return self.tell_call(call, out),
            Some((None, facts, of)) => {
                let due = record.boot_ns.saturating_add(PATIENCE_NS);
                let waiting = DeferredCall {
                    number: 0,
                    words: call.to_words(),
                    tid: record.tid,
                    context: record.context,
                    facts: Rc::clone(facts),
                };
                self.held.push(of, due, waiting);
                if self.held.count > MOST
                    && let Some(oldest) = self.held.pop_oldest()
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
    pub(crate) fn release(&mut self, now: u64, out: &mut impl Tell) {
        self.release_decided(out);
        while let Some((due, of)) = self.held.oldest()
            && due <= now
            && self.tracker.containers.is_wanted(&of).is_none()
        {
            self.tracker.containers.give_up(&of);
            // It is among those that are decided now.
            self.release_decided(out);
        }
    }

    fn release_decided(&mut self, out: &mut impl Tell) {
        for of in self.tracker.containers.take_decided() {
            for waiting in self.held.take(&of) {
                step();
                match self.tracker.containers.is_wanted(&of) {
                    Some(true) => self.hand_on(waiting, out),
                    Some(false) | None => self.unwanted(&waiting.words),
                }
            }
        }
    }

    /// The thread may have ended since, or be another.
    fn hand_on(&mut self, waiting: DeferredCall, out: &mut impl Tell) {
        let DeferredCall { words, tid, context, facts, .. } = waiting;
        let Ok(call) = Call::decode(words.as_bytes()) else { return };
        let now = self.tracker.contexts.replace(tid, Some((context, facts)));
        self.tell_call(&call, out);
        self.tracker.contexts.replace(tid, now);
    }

    fn unwanted(&mut self, words: &[u64]) {
        // It was decoded before.
        if let Ok(call) = Call::decode(words.as_bytes()) {
            self.count_unwanted(&call);
        }
    }

    fn count_unwanted(&mut self, call: &Call<'_>) {
        if let Some(count) = self.unwanted.get_mut(call.op as usize) {
            *count += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use ipc_trace_common::record::{CgroupRecord, ContextRecord};
    use zerocopy::FromZeros as _;

    use super::*;
    use crate::{
        engine::track::containers::Containers,
        engine::track::contexts::TaskCache,
        input::process::{Called, Context, ProcInfo},
    };

    fn container(containers: &mut Containers, number: u64) -> ContainerHandle {
        let mut record = CgroupRecord::new_zeroed();
        let path = format!("/docker/{number:064x}");
        record.id = number + 1;
        record.path_len = path.len() as u32;
        record.path[..path.len()].copy_from_slice(path.as_bytes());
        containers.record(&record);
        containers.lookup_container(number + 1).unwrap()
    }

    #[test]
    fn calls_of_many_containers_are_held_and_let_go_each_once() {
        let mut contexts = TaskCache::default();
        let context = ContextRecord::new_zeroed();
        let context = Context {
            record: Box::new(context),
            called: Called::default(),
            found: ProcInfo::default(),
        };
        contexts.insert(&context, &mut Containers::default());
        let facts = contexts.get(0, 0).unwrap();
        let call = || DeferredCall {
            number: 0,
            words: [].into(),
            tid: 0,
            context: 0,
            facts: Rc::clone(facts),
        };
        crate::steps::assert_linear(4_000, |count| {
            let mut containers = Containers::default();
            let all: Vec<_> =
                (0..count as u64).map(|number| container(&mut containers, number)).collect();
            let mut held = DeferredCalls::default();
            for round in 0..4 {
                for (at, known) in all.iter().enumerate() {
                    held.push(known, (round * count + at) as u64, call());
                    assert!(held.oldest().is_some());
                }
            }
            // One in four has come to be known; then the oldest call goes.
            for known in all.iter().step_by(4) {
                assert_eq!(held.take(known).len(), 4);
                assert!(held.oldest().is_some());
            }
            assert_eq!(held.count, 3 * count);
            let mut before = 0;
            for _ in 0..3 * count {
                let (due, _) = held.oldest().unwrap();
                assert!(due >= before);
                before = due;
                assert!(held.pop_oldest().is_some());
            }
            assert!(held.oldest().is_none() && held.count == 0 && held.calls.is_empty());
        });
    }
}
