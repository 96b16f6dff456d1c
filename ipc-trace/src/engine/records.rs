//! What the eBPF programs tell takes effect: calls, moves of threads, changes of objects.

use std::rc::Rc;

use ipc_trace_common::record::{MoveRecord, NsRef, NsSwitchKind};

use super::Engine;
use crate::{
    engine::{
        detect::observation::NamespaceMove,
        track::{
            contexts::TaskInfo,
            namespaces::{Death, NamespaceCreation},
            objects,
        },
    },
    event::{Life, Tell},
    input::{Call, batch::CallBatch, process::MoveContext},
};

impl Engine {
    /// A call returned. One that the kernel never made is shown, and changes nothing: it is counted by the kernel
    /// side alone.
    #[inline]
    pub(super) fn call(&mut self, call: &Call<'_>, out: &mut impl Tell) {
        self.tracker.contexts.seek(call.record.tid);
        if call.made() == Some(false) {
            self.show_call(call, out);
            return;
        }
        self.tracker.queues.opened(call);
        let changes = self.tracker.act(call);
        let met = self.tracker.objects.take_met();
        let seq = self.show_call(call, out);
        self.detect.call(call, seq, &met, &self.tracker);
        self.changes(&changes, out);
    }

    /// Shows a call, unless it is of a container that is not wanted. The number of its line.
    #[inline]
    fn show_call(&mut self, call: &Call<'_>, out: &mut impl Tell) -> Option<u64> {
        match self.tracker.containers.are_filtered() {
            false => self.tell_call(call, out),
            true => self.of_container(call, out),
        }
    }

    /// Calls returned that came together.
    pub(super) fn batch(&mut self, batch: &CallBatch<'_>) {
        self.tracker.contexts.seek(batch.head.tid);
        for group in batch.groups().flatten() {
            self.tracker.act_all(batch.head, &group);
            if let Some(stats) = &mut self.stats {
                stats.group(batch.head, &group, &self.tracker);
            }
            let met = self.tracker.objects.take_met();
            self.detect.group(batch.head, &group, &met, &self.tracker);
        }
    }

    /// A call that is not to be shown changed objects.
    pub(super) fn changed(&mut self, call: &Call<'_>, out: &mut impl Tell) {
        self.tracker.queues.opened(call);
        let changes = self.tracker.act(call);
        let met = self.tracker.objects.take_met();
        self.detect.call(call, None, &met, &self.tracker);
        self.changes(&changes, out);
    }

    /// Something happened to objects, perhaps.
    #[inline]
    pub(super) fn changes(&mut self, changes: &[objects::ObjectChange], out: &mut impl Tell) {
        if !changes.is_empty() {
            self.tell_objects(changes, out);
            self.detect.objects(changes);
        }
    }

    /// A thread got into another namespace.
    pub(super) fn moved(&mut self, record: &MoveRecord, beside: &MoveContext, out: &mut impl Tell) {
        let facts = |tid, context| {
            self.tracker.contexts.get(tid, context).map(|facts| (tid, Rc::clone(facts)))
        };
        let mover = facts(record.tid, record.context);
        let child = facts(record.child_tid, record.child_context);
        let id = (record.ns_id != 0).then_some(record.ns_id);
        const CLONE: u32 = NsSwitchKind::Clone as u32;
        const UNSHARE: u32 = NsSwitchKind::Unshare as u32;
        let (from, to, at) = (record.from, record.to, record.boot_ns);
        let made = matches!(record.way, CLONE | UNSHARE);
        let namespaces = &mut self.tracker.namespaces;
        let ended = if made {
            let by = mover.as_ref().map(|m| Rc::clone(&m.1));
            namespaces.born(to, id, NamespaceCreation { boot_ns: at, tid: record.tid, by })
        } else {
            namespaces.found(to, id, at)
        };
        self.end_all(ended, at, out);
        if made {
            self.tracker.objects.born(to);
            self.tell_namespace(at, Life::Created, to, Some(from), mover.as_ref(), out);
        }
        let seq = if record.way == CLONE {
            self.tell_namespace(at, Life::Entered, to, Some(from), child.as_ref(), out)
        } else {
            self.tell_namespace(at, Life::Left, from, None, mover.as_ref(), out);
            self.tell_namespace(at, Life::Entered, to, Some(from), mover.as_ref(), out)
        };
        let facts =
            |of: &Option<(u32, Rc<TaskInfo>)>| of.as_ref().map(|(_, facts)| Rc::clone(facts));
        let (mover, child) = (facts(&mover), facts(&child));
        self.detect.moved(&NamespaceMove {
            record,
            mover: mover.as_ref(),
            child: child.as_ref(),
            seq,
            beside,
            tracker: &self.tracker,
        });
    }

    /// Namespaces have died, as was noticed at `now`.
    pub(super) fn end_all(
        &mut self,
        ended: impl IntoIterator<Item = (NsRef, Death)>,
        now: u64,
        out: &mut impl Tell,
    ) {
        for (ns, death) in ended {
            self.end_one(ns, death, now, out);
        }
    }

    pub(super) fn end_one(&mut self, ns: NsRef, death: Death, now: u64, out: &mut impl Tell) {
        if let Some(stats) = &mut self.stats {
            stats.died(ns);
        }
        self.tell_death(now, ns, death, out);
        let changes = self.tracker.objects.ended(ns, death);
        self.changes(&changes, out);
    }
}
