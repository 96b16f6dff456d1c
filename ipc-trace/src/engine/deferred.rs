//! Calls of containers for which the container filter can't decide yet. They are deferred until a runtime
//! sends the missing metadata, for at most [`MAX_DEFER_NS`].
//!
//! Invariant: the number of deferred calls is bounded; each one is emitted or counted as unwanted.

use std::{collections::VecDeque, rc::Rc};

use ipc_trace_common::op::Op;
use minicbor::{Decode, Encode};
use zerocopy::IntoBytes as _;

use super::Engine;
use crate::event::shared::SharedState;
use crate::{
    engine::track::{
        OrderedMap,
        containers::ContainerHandle,
        contexts::{KnownTask, TaskInfo},
    },
    event::EmitEvent,
    input::Call,
    steps::step,
};

/// How long a call waits for runtime metadata, nanoseconds.
const MAX_DEFER_NS: u64 = 1_000_000_000;
/// Number of calls deferred at a time, a few hundred bytes each.
const MAX_DEFERRED_CALLS: usize = 1 << 14;

/// A deferred call.
#[derive(Debug, Encode, Decode)]
#[cbor(context_bound = "SharedState")]
struct DeferredCall {
    #[n(0)]
    number: u64,
    #[n(1)]
    words: Box<[u64]>,
    /// The task as it was when the call was made.
    #[n(2)]
    tid: u32,
    #[n(3)]
    context: u64,
    #[cbor(n(4), with = "crate::event::shared::value")]
    task_info: Rc<TaskInfo>,
}

/// Deferred calls by container, in order of arrival.
#[derive(Debug, Default, Encode, Decode)]
#[cbor(context_bound = "SharedState")]
pub(super) struct DeferredCalls {
    #[n(0)]
    calls: OrderedMap<ContainerHandle, VecDeque<DeferredCall>>,
    /// Deadline, number and container of each call in order of arrival. Entries whose call has been released
    /// stay until they reach the front.
    #[n(1)]
    order: VecDeque<(u64, u64, ContainerHandle)>,
    /// Number of deferred calls.
    #[n(2)]
    count: usize,
    /// Number of calls ever deferred; the source of `number`.
    #[n(3)]
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

    /// Removes and returns all calls of a container.
    fn take(&mut self, of: &ContainerHandle) -> VecDeque<DeferredCall> {
        let taken = self.calls.remove(of).unwrap_or_default();
        self.count = self.count.saturating_sub(taken.len());
        taken
    }

    /// Deadline and container of the oldest call.
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
        self.count = self.count.saturating_sub(1);
        Some(call)
    }
}

impl Engine {
    /// Applies the container filter to a call: emits, defers or drops it. Returns the number of its line if
    /// it was emitted.
    #[cold]
    pub(super) fn call_of_filtered(
        &mut self,
        call: &Call<'_>,
        out: &mut impl EmitEvent,
    ) -> Option<u64> {
        let record = call.record;
        let task_info = self.tracker.contexts.get(record.tid, record.context);
        let found =
            task_info.and_then(|task_info| Some((task_info, task_info.container.as_ref()?)));
        let containers = &self.tracker.containers;
        match found.map(|(task_info, of)| (containers.is_wanted(of), task_info, of)) {
            Some((Some(true), ..)) => return self.emit_call(call, out),
            Some((None, task_info, of)) => {
                let due = record.boot_ns.saturating_add(MAX_DEFER_NS);
                let waiting = DeferredCall {
                    number: 0,
                    words: call.to_words(),
                    tid: record.tid,
                    context: record.context,
                    task_info: Rc::clone(task_info),
                };
                self.deferred.push(of, due, waiting);
                if self.deferred.count > MAX_DEFERRED_CALLS
                    && let Some(oldest) = self.deferred.pop_oldest()
                {
                    self.unwanted(&oldest.words);
                }
            }
            // The call comes from the host, from an excluded container, or from an unknown task.
            Some((Some(false), ..)) | None => self.count_unwanted(call.op, 1),
        }
        None
    }

    /// Emits the calls that the filter now accepts, and expires those whose deadline has passed at `now`.
    pub(crate) fn release(&mut self, now: u64, out: &mut impl EmitEvent) {
        self.release_decided(out);
        while let Some((due, of)) = self.deferred.oldest()
            && due <= now
            && self.tracker.containers.is_wanted(&of).is_none()
        {
            self.tracker.containers.expire_wait(&of);
            // The container counts as decided now.
            self.release_decided(out);
        }
    }

    fn release_decided(&mut self, out: &mut impl EmitEvent) {
        for of in self.tracker.containers.take_decided() {
            for waiting in self.deferred.take(&of) {
                step();
                match self.tracker.containers.is_wanted(&of) {
                    Some(true) => self.emit_deferred(waiting, out),
                    Some(false) | None => self.unwanted(&waiting.words),
                }
            }
        }
    }

    /// Emits a deferred call as its original task: the thread may have ended, or its number may have been
    /// reused.
    fn emit_deferred(&mut self, waiting: DeferredCall, out: &mut impl EmitEvent) {
        let DeferredCall { words, tid, context, task_info, .. } = waiting;
        let Ok(call) = Call::decode(words.as_bytes()) else { return };
        let now = self.tracker.contexts.replace(tid, Some(KnownTask { context, task_info }));
        self.emit_call(&call, out);
        self.tracker.contexts.replace(tid, now);
    }

    fn unwanted(&mut self, words: &[u64]) {
        // Decoding can't fail: the same words were decoded before.
        if let Ok(call) = Call::decode(words.as_bytes()) {
            self.count_unwanted(call.op, 1);
        }
    }

    /// Counts delivered calls that are not shown.
    pub(super) fn count_unwanted(&mut self, op: Op, calls: u64) {
        if let Some(count) = self.unwanted.get_mut(op as usize) {
            *count += calls;
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
    fn deferred_calls_of_many_containers_are_released_once() {
        let mut contexts = TaskCache::default();
        let context = ContextRecord::new_zeroed();
        let context = Context {
            record: Box::new(context),
            called: Called::default(),
            found: ProcInfo::default(),
        };
        contexts.insert(&context, &mut Containers::default());
        let task_info = contexts.get(0, 0).unwrap();
        let call = || DeferredCall {
            number: 0,
            words: [].into(),
            tid: 0,
            context: 0,
            task_info: Rc::clone(task_info),
        };
        crate::steps::assert_linear(4_000, |count| {
            let mut containers = Containers::default();
            let all: Vec<_> =
                (0..count as u64).map(|number| container(&mut containers, number)).collect();
            let mut deferred = DeferredCalls::default();
            for round in 0..4 {
                for (at, known) in all.iter().enumerate() {
                    deferred.push(known, (round * count + at) as u64, call());
                    assert!(deferred.oldest().is_some());
                }
            }
            // One container in four is decided; then the oldest calls expire.
            for known in all.iter().step_by(4) {
                assert_eq!(deferred.take(known).len(), 4);
                assert!(deferred.oldest().is_some());
            }
            assert_eq!(deferred.count, 3 * count);
            let mut before = 0;
            for _ in 0..3 * count {
                let (due, _) = deferred.oldest().unwrap();
                assert!(due >= before);
                before = due;
                assert!(deferred.pop_oldest().is_some());
            }
            assert!(
                deferred.oldest().is_none() && deferred.count == 0 && deferred.calls.is_empty()
            );
        });
    }
}
