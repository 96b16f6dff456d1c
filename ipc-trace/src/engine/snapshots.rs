//! Applies snapshots and namespace lists.

use std::collections::{BTreeMap, BTreeSet};

use ipc_trace_common::record::{NsRef, QueueRef, queue_flag};

use super::Engine;
use crate::{
    engine::track::{Tracker, objects::snapshots::Holders},
    event::{
        EmitEvent, NamespaceEventKind, Reconciliation,
        ls::{Ls, NamespaceSnapshot},
        objects::{ObjectEventKind, ObjectInfo},
    },
    input::namespace_list::{Alive, NamespaceList},
};

/// The result of a resync.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reconciled {
    /// When the loss was noticed, boot time in nanoseconds.
    pub since: u64,
    /// Whether nothing more was lost meanwhile.
    pub complete: bool,
    /// Namespaces
    pub namespaces: Reconciliation,
    /// Objects
    pub objects: Reconciliation,
}

/// The namespaces of a snapshot, each with the generation of its number. `before` and `after` are the lists
/// made before and after the snapshot. A namespace is identified if both lists have the same generation of
/// its number, or if the kernel's own number matches.
fn identified<'a>(
    ls: &'a Ls,
    (before, after): (&NamespaceList, &NamespaceList),
) -> Vec<(NsRef, &'a NamespaceSnapshot)> {
    if !before.complete || !after.complete {
        // Generations aren't tracked then.
        let first = |snapshot: &'a NamespaceSnapshot| {
            (NsRef { inum: snapshot.inum, generation: 1 }, snapshot)
        };
        return ls.namespaces.iter().map(first).collect();
    }
    let snapshots: BTreeMap<u32, _> =
        ls.namespaces.iter().map(|snapshot| (snapshot.inum, snapshot)).collect();
    let still: BTreeSet<NsRef> = after.alive.iter().map(|alive| alive.ns).collect();
    let same = |Alive { ns, ns_id }: &Alive| {
        let snapshot = *snapshots.get(&ns.inum)?;
        let same = still.contains(ns) || ns_id.is_some() && *ns_id == snapshot.ns_id;
        same.then_some((*ns, snapshot))
    };
    before.alive.iter().filter_map(same).collect()
}

impl Engine {
    /// Applies the initial snapshot. `lists` are the namespace lists made before and after it. No line
    /// reports its objects yet: records of the time meanwhile are applied first.
    ///
    /// A namespace that the first list doesn't have was created meanwhile, so records cover all its events.
    pub(super) fn on_initial_snapshot(
        &mut self,
        at: u64,
        ls: Option<&Ls>,
        lists: (&NamespaceList, &NamespaceList),
    ) {
        for (ns, snapshot) in ls.iter().flat_map(|ls| identified(ls, lists)) {
            self.tracker.objects.found(ns, snapshot, at);
        }
    }

    /// From now on calls are shown. All earlier records have been applied.
    pub(super) fn opened(
        &mut self,
        at: u64,
        namespace_list: &NamespaceList,
        out: &mut impl EmitEvent,
    ) {
        self.now = at;
        self.started = at;
        let present = self.tracker.objects.present();
        self.changes(&present, out);
        self.on_namespace_list(namespace_list);
        self.tracker.namespaces.were_there();
    }

    /// Applies a namespace list. All records from before it have been applied.
    pub(super) fn on_namespace_list(&mut self, namespace_list: &NamespaceList) {
        self.dying.extend(self.tracker.namespaces.on_namespace_list(namespace_list));
        self.namespace_list = namespace_list.clone();
    }

    /// Applies a snapshot taken after a loss, between two namespace lists. All records until then have been
    /// applied.
    pub(super) fn snapshot(
        &mut self,
        ls: Option<&Ls>,
        (before, after): (&NamespaceList, &NamespaceList),
        out: &mut impl EmitEvent,
    ) {
        let Some((since, calm)) = self.resync.taken() else { return };
        let now = self.now;
        self.on_namespace_list(before);
        self.on_namespace_list(after);
        let Some(ls) = ls else {
            self.resync.failed(since, now);
            return;
        };
        // Otherwise the snapshot may describe another generation of the number. Without namespace lists
        // generations aren't distinguished.
        let identified = before.complete && after.complete;
        let complete = calm && (identified || !self.begin.namespace_list.complete);
        let found = self.reconcile(ls, (before, after), (since, complete), out);
        self.resync.done(complete, since, now);
        self.emit_resync(&found, out);
    }

    fn reconcile(
        &mut self,
        ls: &Ls,
        (before, after): (&NamespaceList, &NamespaceList),
        (since, complete): (u64, bool),
        out: &mut impl EmitEvent,
    ) -> Reconciled {
        let now = self.now;
        let mut found = Reconciled { since, complete, ..Reconciled::default() };
        for ns in self.tracker.namespaces.take_unreported() {
            found.namespaces.appeared += 1;
            self.emit_namespace(now, NamespaceEventKind::Present, ns, None, None, out);
        }
        for (ns, snapshot) in identified(ls, (before, after)) {
            self.update_queue_names(ns, snapshot);
            let changes = self.tracker.objects.reconcile(ns, snapshot, complete, now);
            for change in &changes {
                match change.life {
                    ObjectEventKind::Present => found.objects.appeared += 1,
                    ObjectEventKind::Destroyed => found.objects.ended += 1,
                    ObjectEventKind::Created
                    | ObjectEventKind::Changed
                    | ObjectEventKind::Removed => {}
                }
            }
            self.changes(&changes, out);
        }
        found.namespaces.present = self.tracker.namespaces.living() as u64;
        found.objects.present = self.tracker.objects.living() as u64;
        found
    }

    /// Updates the names of queues, whose records may have been lost.
    fn update_queue_names(&mut self, ns: NsRef, snapshot: &NamespaceSnapshot) {
        let Some(dev) = snapshot.mqueue_dev else { return };
        for object in &snapshot.objects {
            if let (Some(ino), Some(name)) = (object.ino, object.name.as_ref()) {
                let queue = QueueRef { ns, ino, dev, flags: queue_flag::KNOWN };
                self.tracker.queues.insert_from_snapshot(&queue, &name.0);
            }
        }
    }

    /// Applies a scan of a namespace for removed segments.
    pub(super) fn on_removed_scan(
        &mut self,
        ns: NsRef,
        at: u64,
        found: &[ObjectInfo],
        out: &mut impl EmitEvent,
    ) {
        let changes = self.tracker.objects.on_removed_scan(ns, found, at);
        self.changes(&changes, out);
    }

    /// Applies the final snapshot, after all records.
    pub(super) fn on_final_snapshot(
        &mut self,
        ls: Option<&Ls>,
        namespace_list: &NamespaceList,
        out: &mut impl EmitEvent,
    ) {
        self.on_namespace_list(namespace_list);
        while let Some((ns, death)) = self.dying.pop_front() {
            self.end_one(ns, death, self.now, out);
        }
        let Some(ls) = ls else { return };
        if let Some(stats) = &mut self.stats {
            let Tracker { containers, namespaces, .. } = &mut self.tracker;
            containers.each_in(ls, |inum, known| {
                if let Some(ns) = namespaces.of_inum(inum) {
                    stats.lives(ns, known);
                }
            });
        }
        self.holders = Holders::new(ls);
        let found = |inum: u32| {
            let mut alive = namespace_list.alive.iter().map(|alive| alive.ns);
            alive.find(|ns| ns.inum == inum).or_else(|| self.tracker.namespaces.of_inum(inum))
        };
        let snapshots: Vec<_> = ls
            .namespaces
            .iter()
            .filter_map(|snapshot| Some((found(snapshot.inum)?, snapshot)))
            .collect();
        let changes =
            self.tracker.objects.on_final_snapshot(&snapshots, self.holders.as_ref(), self.now);
        self.changes(&changes, out);
    }
}
