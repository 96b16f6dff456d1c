//! What looks at what exists add to the records.

use std::collections::{BTreeMap, BTreeSet};

use ipc_trace_common::record::{NsRef, QueueRef, queue_flag};

use super::Engine;
use crate::{
    engine::track::{Tracker, objects::looks::Holders},
    event::{
        Life, Reconciliation, Tell,
        ls::{Ls, NamespaceLook},
        objects::{ObjectLife, ObjectLook},
    },
    input::namespace_list::{Alive, NamespaceList},
};

/// What came of a snapshot after a loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reconciled {
    /// When the loss was noticed
    pub since: u64,
    /// Nothing more was lost meanwhile
    pub complete: bool,
    /// Namespaces
    pub namespaces: Reconciliation,
    /// Objects
    pub objects: Reconciliation,
}

/// What a look found, each with the life of the namespace's number that it is of: `before` and `after` are what
/// was listed before and after it. A namespace is what the look found under its number if both lists have the
/// same life of it, or if the kernel's own number says so.
fn identified<'a>(
    ls: &'a Ls,
    (before, after): (&NamespaceList, &NamespaceList),
) -> Vec<(NsRef, &'a NamespaceLook)> {
    if !before.complete || !after.complete {
        // Nobody counts the lives of a number then.
        let first = |look: &'a NamespaceLook| (NsRef { inum: look.inum, generation: 1 }, look);
        return ls.namespaces.iter().map(first).collect();
    }
    let looks: BTreeMap<u32, _> = ls.namespaces.iter().map(|look| (look.inum, look)).collect();
    let still: BTreeSet<NsRef> = after.alive.iter().map(|alive| alive.ns).collect();
    let same = |Alive { ns, ns_id }: &Alive| {
        let look = *looks.get(&ns.inum)?;
        let same = still.contains(ns) || ns_id.is_some() && *ns_id == look.ns_id;
        same.then_some((*ns, look))
    };
    before.alive.iter().filter_map(same).collect()
}

impl Engine {
    /// A look found what there was at the start. `before` and `after`: what was listed before and after
    /// it. No line tells of it yet: what happened meanwhile is told first.
    ///
    /// All that happened in a namespace that the first list does not have is told, since it was made meanwhile.
    pub(super) fn looked(
        &mut self,
        at: u64,
        ls: Option<&Ls>,
        lists: (&NamespaceList, &NamespaceList),
    ) {
        for (ns, look) in ls.iter().flat_map(|ls| identified(ls, lists)) {
            self.tracker.objects.found(ns, look, at);
        }
    }

    /// Calls are shown from now on, and what happened before was told.
    pub(super) fn opened(&mut self, at: u64, namespace_list: &NamespaceList, out: &mut impl Tell) {
        self.now = at;
        self.begin.at.boot_ns = at;
        let present = self.tracker.objects.present();
        self.changes(&present, out);
        self.listed(namespace_list);
        self.tracker.namespaces.were_there();
    }

    /// A list of what exists was made. What happened before it has been told.
    pub(super) fn listed(&mut self, namespace_list: &NamespaceList) {
        self.dying.extend(self.tracker.namespaces.listed(namespace_list));
        self.namespace_list = namespace_list.clone();
    }

    /// After a loss, a snapshot was taken, between two lists. All that happened until then has been told.
    pub(super) fn snapshot(
        &mut self,
        ls: Option<&Ls>,
        (before, after): (&NamespaceList, &NamespaceList),
        out: &mut impl Tell,
    ) {
        let Some((since, calm)) = self.resync.taken() else { return };
        let now = self.now;
        self.listed(before);
        self.listed(after);
        let Some(ls) = ls else {
            self.resync.failed(since, now);
            return;
        };
        // Else what was read may be of another life of the number; where nobody counts lives, they are not told apart.
        let identified = before.complete && after.complete;
        let complete = calm && (identified || !self.begin.namespace_list.complete);
        let found = self.reconcile(ls, (before, after), (since, complete), out);
        self.resync.done(complete, since, now);
        self.tell_resync(&found, out);
    }

    fn reconcile(
        &mut self,
        ls: &Ls,
        (before, after): (&NamespaceList, &NamespaceList),
        (since, complete): (u64, bool),
        out: &mut impl Tell,
    ) -> Reconciled {
        let now = self.now;
        let mut found = Reconciled { since, complete, ..Reconciled::default() };
        for ns in self.tracker.namespaces.take_untold() {
            found.namespaces.appeared += 1;
            self.tell_namespace(now, Life::Present, ns, None, None, out);
        }
        for (ns, look) in identified(ls, (before, after)) {
            self.names_of_queues(ns, look);
            let changes = self.tracker.objects.reconcile(ns, look, complete, now);
            for change in &changes {
                match change.life {
                    ObjectLife::Present => found.objects.appeared += 1,
                    ObjectLife::Destroyed => found.objects.ended += 1,
                    ObjectLife::Created | ObjectLife::Changed | ObjectLife::Removed => {}
                }
            }
            self.changes(&changes, out);
        }
        found.namespaces.present = self.tracker.namespaces.living() as u64;
        found.objects.present = self.tracker.objects.living() as u64;
        found
    }

    /// The names of queues, of which records may have been lost.
    fn names_of_queues(&mut self, ns: NsRef, look: &NamespaceLook) {
        let Some(dev) = look.mqueue_dev else { return };
        for object in &look.objects {
            if let (Some(ino), Some(name)) = (object.ino, object.name.as_ref()) {
                let queue = QueueRef { ns, ino, dev, flags: queue_flag::KNOWN };
                self.tracker.queues.listed(&queue, &name.0);
            }
        }
    }

    /// A look into a namespace with removed segments, at a moment.
    pub(super) fn lingered(
        &mut self,
        ns: NsRef,
        at: u64,
        found: &[ObjectLook],
        out: &mut impl Tell,
    ) {
        let changes = self.tracker.objects.lingered(ns, found, at);
        self.changes(&changes, out);
    }

    /// A look at the end, after all records.
    pub(super) fn settled(
        &mut self,
        ls: Option<&Ls>,
        namespace_list: &NamespaceList,
        out: &mut impl Tell,
    ) {
        self.listed(namespace_list);
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
        let looks: Vec<_> =
            ls.namespaces.iter().filter_map(|look| Some((found(look.inum)?, look))).collect();
        let changes = self.tracker.objects.settled(&looks, self.holders.as_ref(), self.now);
        self.changes(&changes, out);
    }
}
