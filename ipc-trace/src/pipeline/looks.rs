//! What looks at what exists add to the records.

use std::collections::{BTreeMap, BTreeSet};

use ipc_trace_common::record::NsRef;

use super::{Pipeline, Sink, Source};
use crate::{
    event::{
        ls::{Ls, NamespaceLook},
        objects::ObjectLook,
    },
    kernel::census::{Alive, Census},
    track::{clock::boot_ns, objects::looks::Holders},
};

impl Pipeline {
    /// A look found what there was at the start. `before` and `after`: what was listed before and after
    /// it; `opened`: when calls began to be reported. What happened meanwhile is in the control ring, and
    /// is told here, with what was there.
    ///
    /// A namespace is what the look found under its number if both lists have the same life of it, or if
    /// the kernel's own number says so. All that happened in one that the first list does not have is in
    /// the ring, since it was made meanwhile.
    pub fn looked(
        &mut self,
        ls: Option<&Ls>,
        (before, after): (&Census, &Census),
        opened: u64,
        control: &mut impl Source,
        sink: &mut impl Sink,
    ) {
        let tracker = &mut self.tracker;
        let looks = ls.iter().flat_map(|ls| &ls.namespaces);
        if before.complete && after.complete {
            let looks: BTreeMap<u32, _> = looks.map(|look| (look.inum, look)).collect();
            let still: BTreeSet<NsRef> = after.alive.iter().map(|alive| alive.ns).collect();
            for Alive { ns, ns_id } in &before.alive {
                let same = |look: &&&NamespaceLook| {
                    still.contains(ns) || ns_id.is_some() && *ns_id == look.ns_id
                };
                if let Some(look) = looks.get(&ns.inum).filter(same) {
                    tracker.objects.found(*ns, look, opened);
                }
            }
        } else {
            for look in looks {
                // Nobody counts the lives of a number then.
                let ns = NsRef { inum: look.inum, generation: 1 };
                tracker.objects.found(ns, look, opened);
            }
        }
        self.read_control(control);
        self.apply(opened, sink);
        let present = self.tracker.objects.present();
        self.changes(&present, sink);
        self.listed(after, sink);
    }

    /// A look into a namespace with removed segments, at a moment.
    pub fn lingered(
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
    pub fn settled(
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
