//! Destruction of objects without a call: a removed segment is destroyed with its last attachment, a removed
//! queue when nobody has it open. A scan finds that it is gone.

use std::collections::BTreeSet;

use ipc_trace_common::op::ObjectKind;

use super::{
    HostObjects, ObjectChange,
    namespace_objects::NamespaceObjects,
    tracked::{ObjectId, TrackedObject},
};
use crate::{engine::track::namespaces::Death, event::objects::ObjectEventKind};

/// Maximal interval between scans for removed segments, nanoseconds.
const MAX_SCAN_INTERVAL_NS: u64 = 64_000_000_000;

impl NamespaceObjects {
    /// Processes related to removed segments, if a scan for these is due.
    pub(super) fn pending_removals(&mut self, now: u64) -> Option<BTreeSet<u32>> {
        if self.removed.is_empty() || now < self.ask_at {
            return None;
        }
        let segments = self.removed.iter().filter(|(local, _)| local.kind() == ObjectKind::Shm);
        let pids: Vec<BTreeSet<u32>> = segments.map(|(_, one)| one.pids()).collect();
        self.ask_at = now.saturating_add(self.ask_after);
        self.ask_after = self.ask_after.saturating_mul(2).min(MAX_SCAN_INTERVAL_NS);
        (!pids.is_empty()).then(|| pids.into_iter().flatten().collect())
    }

    /// Destroys removed objects that the scan found unused.
    pub(super) fn on_removed_scan(
        &mut self,
        still: &dyn Fn(ObjectId, &TrackedObject) -> bool,
        since: u64,
        host: &mut HostObjects,
        changes: &mut Vec<ObjectChange>,
    ) {
        let known = self
            .removed
            .iter()
            .filter(|(local, one)| !still(**local, one) && one.removed.is_none_or(|at| at < since));
        let ended = known.map(|(local, _)| *local).collect();
        self.have_ended(ended, since, host, changes);
    }

    /// Destroys objects that the final snapshot didn't find. One without an observed removal was removed just
    /// before it, or while it was created when the programs were attached.
    pub(super) fn end_missing(
        &mut self,
        still: &dyn Fn(ObjectId, &TrackedObject) -> bool,
        since: u64,
        host: &mut HostObjects,
        changes: &mut Vec<ObjectChange>,
    ) {
        let known = self.live.iter().chain(&self.removed);
        let ended = known.filter(|(local, one)| !still(**local, one)).map(|one| *one.0).collect();
        self.have_ended(ended, since, host, changes);
    }

    /// Destroys objects that a snapshot taken while records arrived didn't find, if they are known since
    /// before it began. All records until its end have been applied.
    pub(super) fn not_found(
        &mut self,
        still: &dyn Fn(ObjectId, &TrackedObject) -> bool,
        (began, since): (u64, u64),
        host: &mut HostObjects,
        changes: &mut Vec<ObjectChange>,
    ) {
        let earlier = |one: &TrackedObject| one.origin.known_since() < began;
        let known = self.live.iter().chain(&self.removed);
        let ended = known.filter(|(local, one)| earlier(one) && !still(**local, one));
        let ended = ended.map(|one| *one.0).collect();
        self.have_ended(ended, since, host, changes);
    }

    fn have_ended(
        &mut self,
        mut ended: Vec<ObjectId>,
        since: u64,
        host: &mut HostObjects,
        changes: &mut Vec<ObjectChange>,
    ) {
        ended.sort_unstable();
        for local in ended {
            let removed = self.removed.remove(&local);
            let Some(mut one) = removed.or_else(|| self.take(local, host)) else { continue };
            one.destroyed = Some(since);
            let change =
                ObjectChange::new(ObjectEventKind::Destroyed, since, self.ns, local, &mut one);
            let last = one.removed.or(one.last_seen());
            let death = Death { after: last, before: since };
            changes.push(ObjectChange { death: Some(death), ..change });
            host.gone.insert(self.ns, local, one);
        }
    }
}
