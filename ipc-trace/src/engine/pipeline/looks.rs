//! What looks at what exists add to the records.

use std::collections::{BTreeMap, BTreeSet};

use ipc_trace_common::record::{NsRef, QueueRef, queue_flag};

use super::{Change, Pipeline, Sink, Source};
use crate::{
    engine::track::{
        clock::boot_ns,
        objects::looks::{Holders, kernel_device},
    },
    event::{
        Found, Life,
        ls::{Ls, NamespaceLook},
        objects::{ObjectLife, ObjectLook},
    },
    sources::kernel::census::{Alive, Census},
};

/// What came of a snapshot after a loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reconciled {
    /// When the loss was noticed
    pub since: u64,
    /// Nothing more was lost meanwhile
    pub complete: bool,
    /// Namespaces
    pub namespaces: Found,
    /// Objects
    pub objects: Found,
}

/// What a look found, each with the life of the namespace's number that it is of: `before` and `after` are what
/// was listed before and after it. A namespace is what the look found under its number if both lists have the
/// same life of it, or if the kernel's own number says so.
fn identified<'a>(
    ls: &'a Ls,
    (before, after): (&Census, &Census),
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

impl Pipeline {
    /// A look found what there was at the start. `before` and `after`: what was listed before and after
    /// it; `opened`: when calls began to be reported. What happened meanwhile is in the control ring, and
    /// is told here, with what was there.
    ///
    /// All that happened in a namespace that the first list does not have is in the ring, since it was made
    /// meanwhile.
    pub(crate) fn looked(
        &mut self,
        ls: Option<&Ls>,
        (before, after): (&Census, &Census),
        opened: u64,
        control: &mut impl Source,
        sink: &mut impl Sink,
    ) {
        for (ns, look) in ls.iter().flat_map(|ls| identified(ls, (before, after))) {
            self.tracker.objects.found(ns, look, opened);
        }
        self.read_control(control);
        self.apply(opened, sink);
        let present = self.tracker.objects.present();
        self.changes(&present, sink);
        self.listed(after, sink);
        self.tracker.namespaces.were_there();
    }

    /// After a loss, noticed at `since`, a snapshot was taken, between two lists. All records of until then
    /// have been applied. `complete`: nothing more was lost meanwhile.
    pub(crate) fn reconcile(
        &mut self,
        ls: &Ls,
        (before, after): (&Census, &Census),
        (since, complete): (u64, bool),
        sink: &mut impl Sink,
    ) -> Reconciled {
        let now = boot_ns();
        let mut found = Reconciled { since, complete, ..Reconciled::default() };
        for ns in self.tracker.namespaces.take_untold() {
            found.namespaces.appeared += 1;
            let (life, boot_ns) = (Life::Present, now);
            let change = Change { boot_ns, life, ns, from: None, by: None, death: None };
            sink.namespace(&change, &self.tracker);
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
            self.changes(&changes, sink);
        }
        found.namespaces.present = self.tracker.namespaces.living() as u64;
        found.objects.present = self.tracker.objects.living() as u64;
        found
    }

    /// The names of queues, of which records may have been lost.
    fn names_of_queues(&mut self, ns: NsRef, look: &NamespaceLook) {
        let Some(dev) = look.mqueue_dev.map(kernel_device) else { return };
        for object in &look.objects {
            if let (Some(ino), Some(name)) = (object.ino, object.name.as_ref()) {
                let queue = QueueRef { ns, ino, dev, flags: queue_flag::KNOWN };
                self.tracker.queues.listed(&queue, &name.0);
            }
        }
    }

    /// A look into a namespace with removed segments, at a moment.
    pub(crate) fn lingered(
        &mut self,
        ns: NsRef,
        found: &[ObjectLook],
        boot_ns: u64,
        sink: &mut impl Sink,
    ) {
        let changes = self.tracker.objects.lingered(ns, found, boot_ns);
        self.changes(&changes, sink);
    }

    /// A look at the end, after all records.
    pub(crate) fn settled(
        &mut self,
        ls: &Ls,
        held: Option<&Holders>,
        census: &Census,
        sink: &mut impl Sink,
    ) {
        let found = |inum: u32| {
            let mut alive = census.alive.iter().map(|alive| alive.ns);
            alive.find(|ns| ns.inum == inum).or_else(|| self.tracker.namespaces.of_inum(inum))
        };
        let looks: Vec<_> =
            ls.namespaces.iter().filter_map(|look| Some((found(look.inum)?, look))).collect();
        let changes = self.tracker.objects.settled(&looks, held, boot_ns());
        self.changes(&changes, sink);
    }
}
