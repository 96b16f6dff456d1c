//! Builds finished events: numbered, named, complete.

use std::{borrow::Cow, rc::Rc, time::SystemTime};

use ipc_trace_common::record::NsRef;

use super::{Engine, accounting, snapshots::Reconciled};
use crate::{
    engine::{
        detect::finding_store::{FindingSelection, ShownFinding},
        track::{
            containers::ContainerHandle,
            contexts::TaskInfo,
            losses::NewLosses,
            namespaces::Death,
            objects::{self, CallerSnapshot},
        },
    },
    event::{
        CommandOutcome, ContainerUpdate, EmitEvent, End, Event, IpcNsRef, Loss, NamespaceEvent,
        NamespaceEventKind, ResyncEvent, Start, Status, VERSION,
        finding::FindingLine,
        objects::{ObjectEvent, ObjectOfNs},
        report::Report,
    },
    input::Call,
};

impl Engine {
    /// The number of the next event.
    const fn next(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }

    /// Whether each occurrence is emitted as an event. Otherwise occurrences are only counted, and a report
    /// is the only event.
    #[inline]
    pub(crate) const fn has_lines(&self) -> bool {
        self.begin.lines
    }

    /// Emits the first event.
    pub(crate) fn start(&self, out: &mut impl EmitEvent) {
        if !self.has_lines() {
            return;
        }
        let begin = &self.begin;
        out.emit(&Event::Start(Start {
            time: self.tracker.clock.time(begin.at.boot_ns),
            host: begin.host.as_str().into(),
            boot_id: begin.boot_id.as_deref().map(Cow::from),
            run_id: begin.run_id.as_deref().map(Cow::from),
            kernel: begin.kernel.as_str().into(),
            arch: begin.arch.as_str().into(),
            backend: &begin.backends,
            version: begin.version.as_str().into(),
        }));
    }

    /// Emits a returned call. Returns the number of its event.
    #[inline]
    pub(super) fn emit_call(&mut self, call: &Call<'_>, out: &mut impl EmitEvent) -> Option<u64> {
        if call.made() != Some(false) {
            if let Some(stats) = &mut self.stats {
                stats.call(call, &self.tracker);
            }
            if let Some(counts) = &mut self.counts_by_second {
                counts.call(call, &self.tracker);
            }
        }
        if !self.has_lines() {
            return None;
        }
        let seq = self.next();
        if !out.wants_calls() {
            return Some(seq);
        }
        self.tracker.contexts.search_map(call.record);
        let container = self.tracker.show_container(call.record);
        out.emit(&Event::Ipc(self.tracker.ipc(call, container, seq)));
        Some(seq)
    }

    pub(super) fn emit_namespace(
        &mut self,
        boot_ns: u64,
        life: NamespaceEventKind,
        ns: NsRef,
        from: Option<NsRef>,
        by: Option<&(u32, Rc<TaskInfo>)>,
        out: &mut impl EmitEvent,
    ) -> Option<u64> {
        if !self.has_lines() {
            return None;
        }
        let seq = self.next();
        let container =
            by.and_then(|(_, task_info)| task_info.show_container(&mut self.tracker.containers));
        let namespaces = &self.tracker.namespaces;
        out.emit(&Event::Namespace(NamespaceEvent {
            seq,
            time: self.tracker.clock.time(boot_ns),
            event: life,
            ipc_ns: namespaces.show(ns),
            from: from.map(|ns| namespaces.show(ns)),
            process: by.map(|(tid, task_info)| task_info.process(*tid)),
            container,
            after: None,
            before: None,
        }));
        Some(seq)
    }

    pub(super) fn emit_death(
        &mut self,
        now: u64,
        ns: NsRef,
        death: Death,
        out: &mut impl EmitEvent,
    ) {
        if !self.has_lines() {
            return;
        }
        let seq = self.next();
        let time = |boot_ns| self.tracker.clock.time(boot_ns);
        out.emit(&Event::Namespace(NamespaceEvent {
            seq,
            time: time(now),
            event: NamespaceEventKind::Destroyed,
            ipc_ns: self.tracker.namespaces.show(ns),
            from: None,
            process: None,
            container: None,
            after: death.after.map(time),
            before: Some(time(death.before)),
        }));
    }

    pub(super) fn emit_objects(
        &mut self,
        changes: &[objects::ObjectChange],
        out: &mut impl EmitEvent,
    ) {
        // In report mode the tracker keeps the objects until the end.
        if !self.has_lines() {
            return;
        }
        for change in changes {
            let seq = self.next();
            let objects::ObjectChange { boot_ns, life, ns, local, one, by, death } = change;
            let task_info = by.as_ref().and_then(|by| by.task_info.as_ref());
            let container = task_info
                .and_then(|task_info| task_info.show_container(&mut self.tracker.containers));
            let tracker = &self.tracker;
            let time = |boot_ns| tracker.clock.time(boot_ns);
            out.emit(&Event::Object(ObjectEvent {
                seq,
                time: time(*boot_ns),
                event: *life,
                ipc_ns: tracker.namespaces.show(*ns),
                object: ObjectOfNs {
                    info: one.info(*local, &tracker.clock, &tracker.containers),
                    ipc_ns: IpcNsRef { inum: ns.inum, r#gen: ns.generation },
                },
                process: by.as_ref().map(CallerSnapshot::process),
                container,
                after: death.and_then(|death| death.after).map(time),
                before: death.map(|death| time(death.before)),
            }));
        }
    }

    /// Emits a container whose metadata arrived after it was shown without.
    pub(super) fn emit_container(&mut self, handle: &ContainerHandle, out: &mut impl EmitEvent) {
        if !self.has_lines() {
            return;
        }
        let seq = self.next();
        let containers = &self.tracker.containers;
        out.emit(&Event::Container(ContainerUpdate {
            seq,
            time: self.tracker.clock.time(self.now),
            container: containers.container(handle),
            ipc_ns: containers.ns(handle).map(|ns| self.tracker.namespaces.show(ns)),
        }));
    }

    pub(super) fn emit_loss(&mut self, losses: &NewLosses, out: &mut impl EmitEvent) {
        if !self.has_lines() {
            return;
        }
        let seq = Some(self.next());
        out.emit(&Event::Loss(Loss {
            seq,
            time: self.tracker.clock.time(self.now),
            dropped: losses.dropped,
            missed: losses.others.missed,
            metadata: losses.others.metadata.saturating_add(losses.others.withheld),
            by: &losses.by,
            sink: None,
            lost_other: None,
        }));
    }

    pub(super) fn emit_resync(&mut self, found: &Reconciled, out: &mut impl EmitEvent) {
        if !self.has_lines() {
            return;
        }
        let seq = self.next();
        let Reconciled { since, complete, namespaces, objects } = *found;
        out.emit(&Event::Resync(ResyncEvent {
            seq,
            time: self.tracker.clock.time(self.now),
            since: self.tracker.clock.time(since),
            complete,
            namespaces,
            objects,
        }));
    }

    /// Emits the selected findings.
    #[inline]
    pub(super) fn emit_findings(&mut self, which: FindingSelection, out: &mut impl EmitEvent) {
        if which != FindingSelection::New || self.detect.findings.has_new() {
            self.emit_all(which, out);
        }
    }

    #[cold]
    fn emit_all(&mut self, which: FindingSelection, out: &mut impl EmitEvent) {
        let time = self.time();
        let shown = self.detect.findings.show(which, &mut self.tracker, time);
        for ShownFinding { finding, .. } in shown.iter().filter(|one| one.new) {
            if finding.declared_by.is_none() && finding.confidence >= self.begin.min_confidence {
                self.new_severity = self.new_severity.max(Some(finding.severity));
            }
        }
        if !self.has_lines() {
            return;
        }
        for one in &shown {
            let seq = self.next();
            out.emit(&Event::Finding(FindingLine {
                seq,
                time: self.tracker.clock.time(self.now),
                new: one.new,
                finding: &one.finding,
            }));
        }
    }

    fn time(&self) -> SystemTime {
        self.tracker.clock.time(self.now).0
    }

    /// Emits the status. This also happens in report mode: it detects that no reader is left.
    pub(super) fn emit_status(&mut self, out: &mut impl EmitEvent) {
        let minute = self.has_lines() && self.now >= self.next_status;
        if minute {
            self.next_status = self.next_status.saturating_add(super::STATUS_NS);
        }
        let pending = accounting::pending(&self.namespace_list, &self.tracker, self.now);
        out.emit(&Event::Status(&Status {
            time: self.tracker.clock.time(self.now),
            accounting: self.accounting(),
            minute,
            pending,
        }));
    }

    /// Emits the last event.
    pub(super) fn finish(&mut self, command: Option<&CommandOutcome>, out: &mut impl EmitEvent) {
        let ended = self.ended.unwrap_or(self.now);
        self.release(u64::MAX, out);
        self.detect.finish(ended, &self.tracker);
        self.emit_findings(FindingSelection::Updated, out);
        let time = self.tracker.clock.time(ended);
        let findings = self.detect.findings.report(&mut self.tracker, time.0);
        let accounting = self.accounting();
        let pending = accounting::pending(&self.namespace_list, &self.tracker, ended);
        let Some(stats) = self.stats.as_ref().filter(|_| !self.has_lines()) else {
            let (seq, command) = (self.next(), command.cloned());
            return out.emit(&Event::End(&End {
                seq,
                time,
                accounting,
                command,
                pending,
                findings,
            }));
        };
        let (begin, tracker) = (&self.begin, &self.tracker);
        out.emit(&Event::Report(&Report {
            v: VERSION,
            host: begin.host.clone(),
            boot_id: begin.boot_id.clone(),
            run_id: begin.run_id.clone(),
            kernel: begin.kernel.clone(),
            backend: begin.backends.clone(),
            started: tracker.clock.time(self.started),
            ended: time,
            accounting,
            command: command.cloned(),
            pending,
            namespaces: stats.report(tracker, self.holders.as_ref()),
            unattributed: stats.unattributed().clone(),
            folded: stats.evicted(),
            objects_folded: tracker.objects.forgotten(),
            containers_folded: tracker.containers.forgotten(),
            findings,
        }));
    }
}
