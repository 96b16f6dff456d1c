//! Containers: the container of each cgroup, and the runtimes' metadata.
//!
//! | module | its job |
//! | --- | --- |
//! | `state` | the state of a container, and its handle |
//! | [`cgroup_path`] | parses a cgroup's path to a container: pure |
//! | [`sharing`] | whether containers share a namespace by configuration: pure |
//! | `systemd_unit` | parses a cgroup's path to a systemd unit: pure |
//!
//! The eBPF programs send the creation and removal of each cgroup, with path and number. A thread's context
//! has the cgroup's number, which is never reused. So the container is known for a process that lived a
//! millisecond, in a container that lived a second. Metadata comes from the runtimes, earlier or later.
//!
//! Invariant: state is bounded by the cgroups that exist plus a fixed remainder; evictions are counted.

pub(crate) mod cgroup_path;
pub(crate) mod sharing;
mod state;
pub(crate) mod systemd_unit;

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

use ipc_trace_common::record::{CgroupRecord, NsRef, flag};
use minicbor::{Decode, Encode};

use crate::event::shared::SharedState;
use crate::{
    engine::track::OrderedMap,
    event::{Container, ls::Ls, value::OsBytes},
    input::{container::RuntimeMetadata, container_filter::ContainerFilter},
    steps::step,
};
use cgroup_path::ContainerIdentity;
pub(crate) use state::ContainerHandle;
use state::{ContainerState, HandleTable};

/// Number of cgroups kept, existing ones included: a few hundred bytes each.
const MAX_CGROUPS: usize = 1 << 17;
/// Number of removed cgroups kept: records of their threads may arrive late.
const MAX_REMOVED_CGROUPS: usize = 1 << 13;
/// Number of containers whose metadata is kept without any other state.
const MAX_NAMES: usize = 1 << 13;

/// The owner of a cgroup.
#[derive(Clone, Debug, Encode, Decode)]
#[cbor(context_bound = "SharedState")]
enum CgroupOwner {
    /// A container.
    #[n(0)]
    Container(#[n(0)] ContainerHandle),
    /// The host, with the systemd unit.
    #[n(1)]
    Host(#[cbor(n(0), with = "ipc_trace_common::cbor")] Option<Arc<OsBytes<'static>>>),
}

impl CgroupOwner {
    fn container(&self) -> Option<ContainerHandle> {
        match self {
            Self::Container(handle) => Some(handle.clone()),
            Self::Host(_) => None,
        }
    }
}

/// A cgroup.
#[derive(Clone, Debug, Encode, Decode)]
#[cbor(context_bound = "SharedState")]
struct TrackedCgroup {
    #[n(0)]
    whose: CgroupOwner,
    #[cbor(n(1), with = "ipc_trace_common::cbor")]
    path: Arc<OsBytes<'static>>,
}

/// All containers, by the cgroups that they are in.
#[derive(Debug, Default, Encode, Decode)]
#[cbor(context_bound = "SharedState")]
pub(crate) struct Containers {
    #[n(0)]
    cgroups: OrderedMap<u64, TrackedCgroup>,
    #[n(1)]
    order: VecDeque<u64>,
    #[n(2)]
    removed: VecDeque<u64>,
    /// The states, with free slots among them.
    #[n(3)]
    states: Vec<ContainerState>,
    #[n(4)]
    free: Vec<usize>,
    /// Indices of states by container id.
    #[n(5)]
    by_id: OrderedMap<String, Vec<usize>>,
    /// Number of states at which unused ones are collected next.
    #[n(6)]
    sweep_at: usize,
    #[n(7)]
    names: OrderedMap<String, RuntimeMetadata>,
    #[n(8)]
    names_order: VecDeque<String>,
    #[n(9)]
    forgotten: u64,
    /// The container filter.
    #[cbor(skip)]
    wanted: ContainerFilter,
    /// Filter decisions by cgroup that the eBPF programs don't have yet.
    #[cbor(skip)]
    filter_decisions: Vec<(u64, Option<bool>)>,
    /// Containers decided since the last call.
    #[n(10)]
    decided: Vec<ContainerHandle>,
    /// Indices of the containers whose threads were last in an IPC namespace, with some outdated ones.
    #[n(11)]
    inside: OrderedMap<NsRef, Vec<usize>>,
}

impl Containers {
    /// Whether all handles lead to states, those that were decoded with this context among them.
    pub(crate) fn is_whole(&self, context: &mut impl SharedState) -> bool {
        let len = self.states.len();
        let last = context.table::<HandleTable>().last_key_value();
        last.is_none_or(|(last, _)| *last < len)
            && self.free.len() <= len
            && self.free.iter().all(|at| *at < len)
    }

    /// Takes the filter from the containers before, and decides about all anew.
    pub(crate) fn restored(&mut self, before: Self) {
        self.wanted = before.wanted;
        if self.are_filtered() {
            for state in &mut self.states {
                state.wanted = self.wanted.is(&state.container);
            }
        }
    }

    /// Sets the container filter, before any input.
    pub(crate) fn want(&mut self, wanted: ContainerFilter) {
        self.wanted = wanted;
    }

    /// Whether there is a container filter.
    #[inline]
    #[must_use]
    pub(crate) fn are_filtered(&self) -> bool {
        !self.wanted.is_empty()
    }

    /// Removes and returns the filter's decisions by cgroup: whether calls of its threads are wanted; `None`
    /// if the cgroup was removed.
    pub(crate) fn take_filter_decisions(&mut self) -> Vec<(u64, Option<bool>)> {
        std::mem::take(&mut self.filter_decisions)
    }

    #[expect(clippy::indexing_slicing, reason = "who has a handle keeps its state where it is")]
    fn state(&self, handle: &ContainerHandle) -> &ContainerState {
        &self.states[handle.index()]
    }

    /// A container as it is shown now.
    #[must_use]
    pub(crate) fn container(&self, handle: &ContainerHandle) -> Arc<Container> {
        Arc::clone(self.borrowed(handle))
    }

    /// The same, borrowed: for each call, and for its address.
    #[inline]
    #[must_use]
    pub(crate) fn borrowed(&self, handle: &ContainerHandle) -> &Arc<Container> {
        &self.state(handle).container
    }

    /// As [`Self::container`], for a line: later metadata is then reported.
    #[must_use]
    pub(crate) fn show(&mut self, handle: &ContainerHandle) -> Arc<Container> {
        self.note_shown(handle);
        self.container(handle)
    }

    /// Marks a container as shown.
    pub(crate) fn note_shown(&mut self, handle: &ContainerHandle) {
        state_of(&mut self.states, handle).shown = true;
    }

    /// Containers as they are shown, sorted by name.
    #[must_use]
    pub(crate) fn sorted(&self, all: &[ContainerHandle]) -> Vec<Arc<Container>> {
        let mut all: Vec<_> = all.iter().map(|handle| self.container(handle)).collect();
        all.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        all
    }

    /// The filter's decision about a container; `None`: not yet known.
    #[inline]
    #[must_use]
    pub(crate) fn is_wanted(&self, handle: &ContainerHandle) -> Option<bool> {
        self.state(handle).wanted
    }

    /// The IPC namespace that a thread of a container was in last.
    #[must_use]
    pub(crate) fn ns(&self, handle: &ContainerHandle) -> Option<NsRef> {
        self.state(handle).ns
    }

    /// The IPC namespace that a thread of a container was in first, and the context that showed it.
    #[must_use]
    pub(crate) fn first_ns(&self, handle: &ContainerHandle) -> Option<(NsRef, u64)> {
        self.state(handle).first
    }

    /// Ends the wait for metadata: the container's calls aren't wanted unless more arrives.
    pub(crate) fn expire_wait(&mut self, handle: &ContainerHandle) {
        if self.is_wanted(handle).is_none() {
            self.decide(handle, Some(false));
        }
    }

    /// Evaluates the container filter with the current metadata.
    fn evaluate_filter(&mut self, handle: &ContainerHandle) {
        if self.are_filtered() {
            let wanted = self.wanted.is(&self.state(handle).container);
            if wanted.is_some() {
                self.decide(handle, wanted);
            }
        }
    }

    fn decide(&mut self, handle: &ContainerHandle, wanted: Option<bool>) {
        let state = state_of(&mut self.states, handle);
        if std::mem::replace(&mut state.wanted, wanted) == wanted {
            return;
        }
        let its = state.cgroups.iter().inspect(|_| step());
        let exist = its.filter(|one| self.cgroups.contains_key(*one));
        self.filter_decisions.extend(exist.map(|number| (*number, wanted)));
        self.decided.push(handle.clone());
    }

    /// Removes and returns the containers decided since the last call.
    pub(crate) fn take_decided(&mut self) -> Vec<ContainerHandle> {
        std::mem::take(&mut self.decided)
    }

    /// Adds the existing cgroups. The eBPF programs report later ones.
    pub(crate) fn exist(&mut self, all: &[(u64, Vec<u8>)]) {
        for (number, path) in all {
            self.made(*number, path);
        }
    }

    /// Adds a cgroup whose path was requested because its record was missing.
    pub(crate) fn is_at(&mut self, number: u64, path: &[u8]) {
        if !self.knows(number) {
            self.made(number, path);
        }
    }

    /// Whether a cgroup is known. It isn't if it was evicted or its creation record was lost.
    #[must_use]
    pub(crate) fn knows(&self, cgroup: u64) -> bool {
        cgroup == 0 || self.cgroups.contains_key(&cgroup)
    }

    /// A cgroup was created or removed.
    pub(crate) fn record(&mut self, record: &CgroupRecord) {
        if record.header.flags & flag::DELETED != 0 {
            self.gone(record.id);
        } else {
            let path = record.path.get(..record.path_len as usize).unwrap_or_default();
            self.made(record.id, path);
        }
    }

    fn made(&mut self, number: u64, path: &[u8]) {
        let whose = match cgroup_path::of_path(path) {
            Some(identity) => CgroupOwner::Container(self.handle(identity)),
            None => CgroupOwner::Host(systemd_unit::of_path(path)),
        };
        let handle = whose.container();
        if self.are_filtered() {
            let wanted = handle.as_ref().map_or(Some(false), |handle| self.is_wanted(handle));
            self.filter_decisions.extend(wanted.map(|wanted| (number, Some(wanted))));
        }
        if let Some(handle) = &handle {
            self.belongs(number, handle);
        }
        let cgroup = TrackedCgroup { whose, path: Arc::new(OsBytes(path.to_vec().into())) };
        if self.cgroups.insert(number, cgroup).is_none() {
            self.order.push_back(number);
        }
        while self.cgroups.len() > MAX_CGROUPS {
            let Some(oldest) = self.order.pop_front() else { break };
            if self.cgroups.remove(&oldest).is_some() {
                self.forgotten += 1;
            }
        }
    }

    /// Adds a cgroup to a container. Removed cgroups are cleaned up when they are the majority.
    fn belongs(&mut self, number: u64, handle: &ContainerHandle) {
        let its = &mut state_of(&mut self.states, handle).cgroups;
        if its.len() >= 64 && its.len().is_power_of_two() {
            its.retain(|one| self.cgroups.contains_key(one));
        }
        its.push(number);
    }

    /// A thread of a container is in this namespace, according to its context.
    pub(crate) fn is_in(&mut self, handle: &ContainerHandle, ns: NsRef, context: u64) {
        if self.ns(handle) != Some(ns) {
            let Self { inside, states, .. } = self;
            if inside.len() >= 64 && inside.len().is_power_of_two() {
                inside.retain(|ns, all| all.iter().any(|one| is_there(states, *one, *ns)));
            }
            let all = inside.entry(ns).or_default();
            if all.len() >= 64 && all.len().is_power_of_two() {
                let mut seen = HashSet::new();
                all.retain(|one| is_there(states, *one, ns) && seen.insert(*one));
            }
            all.push(handle.index());
        }
        let state = state_of(&mut self.states, handle);
        state.ns = Some(ns);
        state.first.get_or_insert((ns, context));
    }

    fn gone(&mut self, number: u64) {
        if !self.cgroups.contains_key(&number) {
            return;
        }
        if self.are_filtered() {
            self.filter_decisions.push((number, None));
        }
        self.removed.push_back(number);
        while self.removed.len() > MAX_REMOVED_CGROUPS {
            if let Some(oldest) = self.removed.pop_front() {
                self.cgroups.remove(&oldest);
            }
        }
        if self.order.len() > 2 * self.cgroups.len() + MAX_REMOVED_CGROUPS {
            self.order.retain(|number| self.cgroups.contains_key(number));
        }
    }

    /// The handle of a container, whose state is created if necessary.
    fn handle(&mut self, identity: ContainerIdentity) -> ContainerHandle {
        let mut same = self.by_id.get(&identity.id).into_iter().flatten();
        let known = same.find_map(|at| self.states.get(*at).filter(|one| one.identity == identity));
        let place = match known {
            Some(state) if state.handle.is_shared() => return state.handle.clone(),
            // No handle was left, so the container starts again without state.
            Some(state) => Some(state.handle.index()),
            None => {
                self.sweep();
                self.free.pop()
            }
        };
        let handle = ContainerHandle::new(place.unwrap_or(self.states.len()));
        let id = identity.id.clone();
        let mut state = ContainerState::new(handle.clone(), identity);
        if let Some(named) = self.names.get(&id) {
            state.apply_metadata(named);
        }
        if self.are_filtered() {
            state.wanted = self.wanted.is(&state.container);
        }
        match place.and_then(|at| self.states.get_mut(at)) {
            Some(free) => *free = state,
            None => self.states.push(state),
        }
        let same = self.by_id.entry(id).or_default();
        if !same.contains(&handle.index()) {
            same.push(handle.index());
        }
        handle
    }

    /// Frees states without handles when there are many more states than there were handles.
    fn sweep(&mut self) {
        let kept = self.states.len() - self.free.len();
        if kept <= self.sweep_at.max(MAX_REMOVED_CGROUPS) {
            return;
        }
        self.free.clear();
        for (at, state) in self.states.iter_mut().enumerate() {
            if state.handle.is_shared() {
                continue;
            }
            state.ns = None;
            self.free.push(at);
            if let Some(same) = self.by_id.get_mut(&state.identity.id) {
                same.retain(|one| *one != at);
                if same.is_empty() {
                    self.by_id.remove(&state.identity.id);
                }
            }
        }
        self.sweep_at = 2 * (self.states.len() - self.free.len()) + MAX_REMOVED_CGROUPS;
    }

    /// The container of a cgroup. `None`: the host, or unknown.
    #[must_use]
    pub(crate) fn lookup_container(&self, cgroup: u64) -> Option<ContainerHandle> {
        self.cgroups.get(&cgroup)?.whose.container()
    }

    /// The systemd unit of a cgroup.
    #[must_use]
    pub(crate) fn unit(&self, cgroup: u64) -> Option<Arc<OsBytes<'static>>> {
        match &self.cgroups.get(&cgroup)?.whose {
            CgroupOwner::Host(unit) => unit.clone(),
            CgroupOwner::Container(_) => None,
        }
    }

    /// The path of a cgroup, from the root of the hierarchy.
    #[must_use]
    pub(crate) fn path(&self, cgroup: u64) -> Option<Arc<OsBytes<'static>>> {
        self.cgroups.get(&cgroup).map(|known| Arc::clone(&known.path))
    }

    /// The container whose cgroup has this path.
    pub(crate) fn of_path(&mut self, path: &[u8]) -> Option<ContainerHandle> {
        cgroup_path::of_path(path).map(|identity| self.handle(identity))
    }

    /// Calls `each` with the containers of each namespace of a snapshot.
    pub(crate) fn each_in(&mut self, ls: &Ls, mut each: impl FnMut(u32, &ContainerHandle)) {
        for namespace in &ls.namespaces {
            for process in &namespace.processes {
                let path = process.cgroup.as_deref();
                if let Some(known) = path.and_then(|path| self.of_path(path)) {
                    each(namespace.inum, &known);
                }
            }
        }
    }

    /// Fills in the containers of a snapshot, and calls `each` with them.
    pub(crate) fn fill(&mut self, ls: &mut Ls, mut each: impl FnMut(u32, &ContainerHandle)) {
        for namespace in &mut ls.namespaces {
            let mut all: Vec<ContainerHandle> = Vec::new();
            for process in &mut namespace.processes {
                let path = process.cgroup.as_deref();
                let Some(known) = path.and_then(|path| self.of_path(path)) else { continue };
                process.container = Some(self.container(&known));
                if !all.contains(&known) {
                    each(namespace.inum, &known);
                    all.push(known);
                }
            }
            namespace.containers = self.sorted(&all);
            namespace.sharing = sharing::classify_sharing(&namespace.containers, namespace.host);
        }
    }

    /// Applies runtime metadata. Returns the container if it was shown without it.
    pub(crate) fn named(&mut self, named: RuntimeMetadata) -> Option<ContainerHandle> {
        let id = named.id.clone();
        let all = match self.names.get_mut(&id) {
            Some(known) => {
                known.merge(named);
                known.clone()
            }
            None => {
                self.names.insert(id.clone(), named.clone());
                self.names_order.push_back(id.clone());
                named
            }
        };
        while self.names.len() > MAX_NAMES {
            let Some(oldest) = self.names_order.pop_front() else { break };
            self.names.remove(&oldest);
            self.forgotten += 1;
        }
        let mut reported = None;
        for at in self.by_id.get(&id).cloned().unwrap_or_default() {
            let Some(state) = self.states.get_mut(at).filter(|one| one.handle.is_shared()) else {
                continue;
            };
            if state.apply_metadata(&all) {
                let (handle, shown) = (state.handle.clone(), state.shown);
                self.evaluate_filter(&handle);
                reported = shown.then_some(handle).or(reported);
            }
        }
        reported
    }

    /// Whether a known container is still waiting for metadata of a host's runtime.
    #[must_use]
    pub(crate) fn waits(&self) -> bool {
        self.states.iter().any(|state| {
            state.identity.of_host && state.container.name.is_none() && state.handle.is_shared()
        })
    }

    /// The only container whose threads were last in an IPC namespace.
    #[must_use]
    pub(crate) fn alone_in(&self, ns: NsRef) -> Option<ContainerHandle> {
        let all = self.inside.get(&ns)?.iter().inspect(|_| step());
        let mut there = all.filter(|one| is_there(&self.states, **one, ns));
        let first = there.next()?;
        let alone = there.all(|other| other == first);
        self.states.get(*first).filter(|_| alone).map(|state| state.handle.clone())
    }

    /// Number of evicted entries.
    #[must_use]
    pub(crate) const fn forgotten(&self) -> u64 {
        self.forgotten
    }
}

/// The mutable state of a container.
#[expect(clippy::indexing_slicing, reason = "who has a handle keeps its state where it is")]
fn state_of<'a>(
    states: &'a mut [ContainerState],
    handle: &ContainerHandle,
) -> &'a mut ContainerState {
    &mut states[handle.index()]
}

/// Whether the container at an index was last in a namespace.
fn is_there(states: &[ContainerState], at: usize, ns: NsRef) -> bool {
    states.get(at).is_some_and(|one| one.ns == Some(ns) && one.handle.is_shared())
}

#[cfg(test)]
mod tests;
