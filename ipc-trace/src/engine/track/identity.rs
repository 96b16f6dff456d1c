//! The further identity of a process: its arguments, its uid in its user namespace, its ancestors.
//!
//! Invariant: an executable's path belongs to exactly that process: equal pid, start time and name.

use std::{borrow::Cow, sync::Arc};

use ipc_trace_common::record::{ANCESTORS, AncestorRecord, ContextRecord, UidExtent, flag};
use minicbor::{Decode, Encode};

use super::OrderedMap;
use crate::event::{identity::Ancestor, shared::SharedState, value::OsBytes};

/// The uid map of a user namespace. It is written once (`map_write`, kernel/user_namespace.c), possibly after
/// a thread's context was read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(crate) struct UserMap(#[n(0)] Box<[UidExtent]>);

/// Interval between requests of a map that isn't written yet, nanoseconds: at first, and after `MAP_TIMES`
/// requests.
const MAP_AGAIN_NS: u64 = 1_000_000;
const MAP_TIMES: u32 = 64;
const MAP_SELDOM_NS: u64 = 1_000_000_000;

/// When a map is requested again.
#[derive(Clone, Copy, Debug, Default, Encode, Decode)]
pub(super) struct MapSearch {
    #[n(0)]
    times: u32,
    #[n(1)]
    not_before: u64,
}

impl MapSearch {
    /// Whether a request is due; if so, it counts as made.
    pub(super) const fn is_due(&mut self, now: u64) -> bool {
        if now < self.not_before {
            return false;
        }
        self.times += 1;
        let pause = if self.times < MAP_TIMES { MAP_AGAIN_NS } else { MAP_SELDOM_NS };
        self.not_before = now.saturating_add(pause);
        true
    }
}

impl UserMap {
    /// The map from a thread's record. Empty if it is unknown.
    #[must_use]
    pub(super) fn from_record(record: &ContextRecord) -> Self {
        let extents = record.uid_map.get(..record.uid_extents as usize);
        Self(extents.unwrap_or_default().into())
    }

    /// The map from `/proc`. Empty if it isn't written yet.
    #[must_use]
    pub(super) fn new(extents: &[UidExtent]) -> Self {
        Self(extents.into())
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The uid in this namespace of a uid of the initial one (`map_id_up`, kernel/user_namespace.c).
    #[must_use]
    pub(super) fn inside(&self, uid: u32) -> Option<u32> {
        let within = |extent: &&UidExtent| {
            uid.checked_sub(extent.lower_first).is_some_and(|above| above < extent.count)
        };
        let extent = self.0.iter().find(within)?;
        extent.first.checked_add(uid - extent.lower_first)
    }
}

/// Number of ancestors above which unreferenced ones are removed.
const SWEEP_AT: usize = 1 << 12;

/// The key of an ancestor: pid, start time and name. A process that executed another program has another
/// name.
type AncestorKey = (u32, u64, [u8; 16]);

/// An ancestor, shared with the tasks of its descendants.
#[derive(Debug, Encode, Decode)]
#[cbor(context_bound = "SharedState")]
struct KnownAncestor(#[cbor(n(0), with = "crate::event::shared::value")] Arc<Ancestor>);

/// The ancestors of all known processes, shared between descendants.
#[derive(Debug, Encode, Decode)]
#[cbor(context_bound = "SharedState")]
pub(crate) struct Ancestors {
    #[n(0)]
    known: OrderedMap<AncestorKey, KnownAncestor>,
    #[n(1)]
    sweep_at: usize,
}

impl Default for Ancestors {
    fn default() -> Self {
        Self { known: OrderedMap::default(), sweep_at: SWEEP_AT }
    }
}

impl Ancestors {
    /// The ancestors of a thread's process, and whether there are more. `belongs`: whether a cgroup belongs
    /// to the same container.
    pub(super) fn ancestry_for(
        &mut self,
        record: &ContextRecord,
        found: &[Option<Vec<u8>>],
        mut belongs: impl FnMut(&AncestorRecord) -> bool,
    ) -> (Arc<[Arc<Ancestor>]>, bool) {
        let count = (record.ancestor_count as usize).min(ANCESTORS);
        let all = record.ancestors.get(..count).unwrap_or_default();
        let inside: Vec<_> = all.iter().take_while(|one| belongs(one)).collect();
        let truncated = inside.len() == count && record.header.flags & flag::CUT != 0;
        let exes = found.iter().map(Option::as_deref).chain(std::iter::repeat(None));
        let ancestors = inside.into_iter().zip(exes).map(|(one, exe)| self.one(one, exe)).collect();
        if self.known.len() > self.sweep_at {
            self.known.retain(|_, one| Arc::strong_count(&one.0) > 1);
            self.sweep_at = SWEEP_AT.max(2 * self.known.len());
        }
        (ancestors, truncated)
    }

    fn one(&mut self, record: &AncestorRecord, exe: Option<&[u8]>) -> Arc<Ancestor> {
        let known = self.known.entry(key(record)).or_insert_with(|| {
            KnownAncestor(Arc::new(Ancestor {
                pid: record.pid,
                start_boot_ns: record.start_boot_ns,
                comm: OsBytes::until_nul(&record.comm).into_owned(),
                exe: exe.map(|path| OsBytes(Cow::Owned(path.to_vec()))),
            }))
        });
        Arc::clone(&known.0)
    }

    /// Whether an ancestor is known and needs no request.
    #[must_use]
    pub(super) fn knows(&self, record: &AncestorRecord) -> bool {
        self.known.contains_key(&key(record))
    }

    /// Number of ancestors kept.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }
}

const fn key(record: &AncestorRecord) -> AncestorKey {
    (record.pid, record.start_boot_ns, record.comm)
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros as _;

    #[test]
    fn uids_are_mapped_into_their_user_namespace() {
        let mut record = ContextRecord::new_zeroed();
        assert_eq!(UserMap::from_record(&record).inside(0), None);
        record.uid_extents = 2;
        record.uid_map[0] = UidExtent { first: 0, lower_first: 1000, count: 1 };
        record.uid_map[1] = UidExtent { first: 1, lower_first: 100_000, count: 65_536 };
        let inside = |uid| UserMap::from_record(&record).inside(uid);
        assert_eq!([999, 1000, 1001].map(inside), [None, Some(0), None]);
        assert_eq!(
            [99_999, 100_000, 165_535, 165_536].map(inside),
            [None, Some(1), Some(65_536), None]
        );
        // The extents are not in the record, so these bytes aren't any.
        record.uid_extents = 6;
        assert_eq!(UserMap::from_record(&record).inside(1000), None);
        record.uid_extents = 1;
        record.uid_map[0] = UidExtent { first: 0, lower_first: 0, count: u32::MAX };
        assert_eq!(UserMap::from_record(&record).inside(u32::MAX - 1), Some(u32::MAX - 1));
    }

    #[test]
    fn a_uid_map_is_requested_at_once_and_then_rarely() {
        let mut search = MapSearch::default();
        let mut reads = |from: u64, calls: u64, apart: u64| {
            (0..calls).filter(|at| search.is_due(from + at * apart)).count()
        };
        assert_eq!(reads(5, 1_000, 1_000), 1);
        assert_eq!(reads(2_000_000, 3, 1_000_000), 3);
        // A hundred seconds with one call per microsecond, in steps.
        assert!(reads(1_000_000_000, 1_000_000, 100_000) <= 64 + 100);
    }

    fn descendant(pid: u32, ancestors: &[(u32, u64)]) -> ContextRecord {
        let mut record = ContextRecord::new_zeroed();
        record.pid = pid;
        record.ancestor_count = ancestors.len() as u32;
        for (to, (pid, cgroup)) in record.ancestors.iter_mut().zip(ancestors) {
            (to.pid, to.cgroup) = (*pid, *cgroup);
        }
        record
    }

    #[test]
    fn ancestry_ends_at_the_container_boundary() {
        let mut ancestors = Ancestors::default();
        let mut record = descendant(9, &[(8, 5), (7, 5), (2, 1), (1, 1)]);
        record.header.flags = flag::CUT;
        let mut of = |cgroup: Option<u64>| {
            let belongs = |one: &AncestorRecord| cgroup.is_none_or(|cgroup| one.cgroup == cgroup);
            let (all, more) = ancestors.ancestry_for(&record, &[], belongs);
            (all.iter().map(|one| one.pid).collect::<Vec<_>>(), more)
        };
        assert_eq!(of(None), (vec![8, 7, 2, 1], true));
        assert_eq!(of(Some(5)), (vec![8, 7], false));
        assert_eq!(of(Some(3)), (vec![], false));
    }

    #[test]
    fn a_hundred_thousand_ancestors_use_bounded_memory() {
        let mut ancestors = Ancestors::default();
        let shell = descendant(1, &[(7, 0)]);
        let (kept, _) = ancestors.ancestry_for(&shell, &[], |_| true);
        for pid in 0..100_000 {
            let record = descendant(pid, &[(pid + 10, 0), (7, 0)]);
            let _ = ancestors.ancestry_for(&record, &[], |_| true);
        }
        assert!(ancestors.len() <= SWEEP_AT + 2);
        let (again, _) = ancestors.ancestry_for(&shell, &[], |_| true);
        assert!(Arc::ptr_eq(&kept[0], &again[0]), "who is in use stays");
    }
}
