//! Applies the records of the eBPF programs: calls, namespace switches, changes of objects.

use std::rc::Rc;

use ipc_trace_common::record::{NsRef, NsSwitchKind, NsSwitchRecord};

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
    event::{EmitEvent, NamespaceEventKind},
    input::{
        Call,
        batch::{BatchGroup, CallBatch},
        process::MoveContext,
    },
};

impl Engine {
    /// A call returned. A call that the kernel never made (seccomp, ptrace) is shown but changes no state:
    /// only the eBPF programs count it.
    #[inline]
    pub(super) fn call(&mut self, call: &Call<'_>, out: &mut impl EmitEvent) {
        self.tracker.contexts.seek(call.record.tid);
        if call.made() == Some(false) {
            self.show_call(call, out);
            return;
        }
        self.count_calls(call.op, 1);
        self.tracker.queues.opened(call);
        let changes = self.tracker.apply(call);
        let new_users = self.tracker.objects.take_new_users();
        let seq = self.show_call(call, out);
        self.detect.call(call, seq, &new_users, &self.tracker);
        self.changes(&changes, out);
    }

    /// Emits a call unless the container filter excludes it. Returns the number of its line.
    #[inline]
    fn show_call(&mut self, call: &Call<'_>, out: &mut impl EmitEvent) -> Option<u64> {
        if let Some(filter) = &self.call_filter {
            if !filter.wants_time(call.record.boot_ns) {
                return None;
            }
            if !filter.wants(call) {
                self.count_unwanted(call.op, 1);
                return None;
            }
        }
        match self.tracker.containers.are_filtered() {
            false => self.emit_call(call, out),
            true => self.call_of_filtered(call, out),
        }
    }

    /// A batch of calls returned.
    pub(super) fn batch(&mut self, batch: &CallBatch<'_>) {
        self.tracker.contexts.seek(batch.head.tid);
        for group in batch.groups().flatten() {
            self.count_calls(group.op, group.count);
            self.tracker.apply_group(batch.head, &group);
            self.count_group(batch, &group);
            let new_users = self.tracker.objects.take_new_users();
            self.detect.group(batch.head, &group, &new_users, &self.tracker);
        }
    }

    /// Counts a group of batched calls, unless a filter excludes it.
    #[inline]
    fn count_group(&mut self, batch: &CallBatch<'_>, group: &BatchGroup<'_>) {
        if self.stats.is_none() && self.counts_by_second.is_none() {
            return;
        }
        if let Some(filter) = &self.call_filter {
            if !filter.wants_time(batch.boot_ns()) {
                return;
            }
            if !filter.wants_group(batch, group) {
                if self.stats.is_some() {
                    self.count_unwanted(group.op, group.count);
                }
                return;
            }
        }
        if let Some(stats) = &mut self.stats {
            stats.group(batch.head, group, &self.tracker);
        }
        if let Some(counts) = &mut self.counts_by_second {
            counts.group(batch.head, group, &self.tracker);
        }
    }

    /// A call that isn't shown changed objects.
    pub(super) fn changed(&mut self, call: &Call<'_>, out: &mut impl EmitEvent) {
        self.tracker.queues.opened(call);
        let changes = self.tracker.apply(call);
        let new_users = self.tracker.objects.take_new_users();
        self.detect.call(call, None, &new_users, &self.tracker);
        self.changes(&changes, out);
    }

    /// Handles changes of objects; there may be none.
    #[inline]
    pub(super) fn changes(&mut self, changes: &[objects::ObjectChange], out: &mut impl EmitEvent) {
        if !changes.is_empty() {
            self.emit_objects(changes, out);
            self.detect.objects(changes);
        }
    }

    /// A thread switched to another namespace.
    pub(super) fn moved(
        &mut self,
        record: &NsSwitchRecord,
        beside: &MoveContext,
        out: &mut impl EmitEvent,
    ) {
        let task_info = |tid, context| {
            self.tracker.contexts.get(tid, context).map(|task_info| (tid, Rc::clone(task_info)))
        };
        let mover = task_info(record.tid, record.context);
        let child = task_info(record.child_tid, record.child_context);
        let id = (record.ns_id != 0).then_some(record.ns_id);
        const CLONE: u32 = NsSwitchKind::Clone as u32;
        const UNSHARE: u32 = NsSwitchKind::Unshare as u32;
        let (from, to, at) = (record.from, record.to, record.boot_ns);
        let made = matches!(record.way, CLONE | UNSHARE);
        let namespaces = &mut self.tracker.namespaces;
        let ended = if made {
            let by = mover.as_ref().map(|m| Rc::clone(&m.1));
            namespaces.insert_created(
                to,
                id,
                NamespaceCreation { boot_ns: at, tid: record.tid, by },
            )
        } else {
            namespaces.found(to, id, at)
        };
        self.end_all(ended, at, out);
        if made {
            self.tracker.objects.namespace_created(to);
            self.emit_namespace(
                at,
                NamespaceEventKind::Created,
                to,
                Some(from),
                mover.as_ref(),
                out,
            );
        }
        let seq = if record.way == CLONE {
            self.emit_namespace(
                at,
                NamespaceEventKind::Entered,
                to,
                Some(from),
                child.as_ref(),
                out,
            )
        } else {
            self.emit_namespace(at, NamespaceEventKind::Left, from, None, mover.as_ref(), out);
            self.emit_namespace(
                at,
                NamespaceEventKind::Entered,
                to,
                Some(from),
                mover.as_ref(),
                out,
            )
        };
        let task_info = |of: &Option<(u32, Rc<TaskInfo>)>| {
            of.as_ref().map(|(_, task_info)| Rc::clone(task_info))
        };
        let (mover, child) = (task_info(&mover), task_info(&child));
        self.detect.moved(&NamespaceMove {
            record,
            mover: mover.as_ref(),
            child: child.as_ref(),
            seq,
            beside,
            tracker: &self.tracker,
        });
    }

    /// Ends namespaces whose death was noticed at `now`.
    pub(super) fn end_all(
        &mut self,
        ended: impl IntoIterator<Item = (NsRef, Death)>,
        now: u64,
        out: &mut impl EmitEvent,
    ) {
        for (ns, death) in ended {
            self.end_one(ns, death, now, out);
        }
    }

    pub(super) fn end_one(&mut self, ns: NsRef, death: Death, now: u64, out: &mut impl EmitEvent) {
        if let Some(stats) = &mut self.stats {
            stats.died(ns);
        }
        self.emit_death(now, ns, death, out);
        let changes = self.tracker.objects.ended(ns, death);
        self.changes(&changes, out);
    }
}
