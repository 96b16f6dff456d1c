//! Containers: which cgroup is whose, and what runtimes call them.
//!
//! | module | its job |
//! | --- | --- |
//! | `state` | a container, and what runtimes say of it |
//! | [`identity`] | from a cgroup's path to a container: pure |
//! | [`sharing`] | whether containers share a namespace because somebody said so: pure |
//! | `units` | from a cgroup's path to a systemd unit: pure |
//!
//! The eBPF programs tell of births and deaths of cgroups once, with path and number, and a thread's
//! context has the number, which is never given again. So the answer is right for a process that lived
//! a millisecond, in a container that lived a second. Names come from elsewhere, before or afterwards.
//!
//! Invariant: what is kept is bounded by the cgroups that exist and a fixed remainder; what falls out
//! is counted.

pub(crate) mod identity;
pub(crate) mod sharing;
mod state;
mod units;

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

use ipc_trace_common::record::{CgroupRecord, NsRef, flag};

use crate::{
    engine::track::HashMap,
    event::{Container, ls::Ls, value::OsBytes},
    input::{container::RuntimeMetadata, container_filter::Wanted},
    steps::step,
};
use identity::ContainerIdentity;
pub(crate) use state::ContainerHandle;
use state::ContainerState;

/// Cgroups that are kept, those that exist among them: some hundred bytes each.
const CGROUPS: usize = 1 << 17;
/// Removed cgroups that are kept: records of their threads may come late.
const REMOVED: usize = 1 << 13;
/// Containers whose names are kept though nothing else is known of them.
const NAMES: usize = 1 << 13;

/// Whose a cgroup is.
#[derive(Clone, Debug)]
enum CgroupOwner {
    /// A container's
    Container(ContainerHandle),
    /// The host's, and of which systemd unit
    Host(Option<Arc<OsBytes<'static>>>),
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
#[derive(Clone, Debug)]
struct TrackedCgroup {
    whose: CgroupOwner,
    path: Arc<OsBytes<'static>>,
}

/// All containers, by the cgroups that they are in.
#[derive(Debug, Default)]
pub(crate) struct Containers {
    cgroups: HashMap<u64, TrackedCgroup>,
    order: VecDeque<u64>,
    removed: VecDeque<u64>,
    /// Those that somebody has the handle of, and some others, whose places are free
    states: Vec<ContainerState>,
    free: Vec<usize>,
    /// Their places, by id
    by_id: HashMap<String, Vec<usize>>,
    /// With how many states those are looked for next that nobody has the handle of
    sweep_at: usize,
    names: HashMap<String, RuntimeMetadata>,
    names_order: VecDeque<String>,
    forgotten: u64,
    /// What is asked of the containers whose calls are wanted
    wanted: Wanted,
    /// What the eBPF programs do not know yet of cgroups
    verdicts: Vec<(u64, Option<bool>)>,
    /// Containers of which it became known whether their calls are wanted
    decided: Vec<ContainerHandle>,
    /// Places of those whose threads were last in an IPC namespace, and of some others
    inside: HashMap<NsRef, Vec<usize>>,
}

impl Containers {
    /// The calls of these alone are wanted. To be said first.
    pub(crate) fn want(&mut self, wanted: Wanted) {
        self.wanted = wanted;
    }

    /// Whether the calls of some containers alone are wanted.
    #[inline]
    #[must_use]
    pub(crate) fn are_filtered(&self) -> bool {
        !self.wanted.is_empty()
    }

    /// What became known of cgroups since this was asked last: whether the calls of threads in them are
    /// wanted; `None`: nobody is in them any more.
    pub(crate) fn take_verdicts(&mut self) -> Vec<(u64, Option<bool>)> {
        std::mem::take(&mut self.verdicts)
    }

    #[expect(clippy::indexing_slicing, reason = "who has a handle keeps its state where it is")]
    fn state(&self, handle: &ContainerHandle) -> &ContainerState {
        &self.states[handle.index()]
    }

    /// A container as it is shown now.
    #[must_use]
    pub(crate) fn container(&self, handle: &ContainerHandle) -> Arc<Container> {
        Arc::clone(&self.state(handle).container)
    }

    /// As [`Self::container`], on a line, which a later one amends when there is more to say.
    #[must_use]
    pub(crate) fn show(&mut self, handle: &ContainerHandle) -> Arc<Container> {
        self.note_shown(handle);
        self.container(handle)
    }

    /// A container was shown on a line.
    pub(crate) fn note_shown(&mut self, handle: &ContainerHandle) {
        state_of(&mut self.states, handle).shown = true;
    }

    /// Containers as they are shown, by name.
    #[must_use]
    pub(crate) fn sorted(&self, all: &[ContainerHandle]) -> Vec<Arc<Container>> {
        let mut all: Vec<_> = all.iter().map(|handle| self.container(handle)).collect();
        all.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        all
    }

    /// Whether a container's calls are wanted; `None`: what is known of it does not tell yet.
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

    /// The IPC namespace that a thread of a container was in first, and the context that told so.
    #[must_use]
    pub(crate) fn first_ns(&self, handle: &ContainerHandle) -> Option<(NsRef, u64)> {
        self.state(handle).first
    }

    /// It was long enough to wait for what would tell: a container's calls are not wanted, unless more
    /// becomes known of it.
    pub(crate) fn give_up(&mut self, handle: &ContainerHandle) {
        if self.is_wanted(handle).is_none() {
            self.decide(handle, Some(false));
        }
    }

    /// Judges a container by what is known of it now.
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
        let exist = its.filter(|one| self.cgroups.contains_key(one));
        self.verdicts.extend(exist.map(|number| (*number, wanted)));
        self.decided.push(handle.clone());
    }

    /// Containers of which it became known, since this was asked last, whether their calls are wanted.
    pub(crate) fn take_decided(&mut self) -> Vec<ContainerHandle> {
        std::mem::take(&mut self.decided)
    }

    /// Those exist. From now on the eBPF programs tell of others.
    pub(crate) fn exist(&mut self, all: &[(u64, Vec<u8>)]) {
        for (number, path) in all {
            self.made(*number, path);
        }
    }

    /// A cgroup has that path, as was asked since it was not known.
    pub(crate) fn is_at(&mut self, number: u64, path: &[u8]) {
        if !self.knows(number) {
            self.made(number, path);
        }
    }

    /// Whether a cgroup is known. It is not if it was forgotten, or if the record of its birth was lost.
    #[must_use]
    pub(crate) fn knows(&self, cgroup: u64) -> bool {
        cgroup == 0 || self.cgroups.contains_key(&cgroup)
    }

    /// A cgroup was made or removed.
    pub(crate) fn record(&mut self, record: &CgroupRecord) {
        if record.header.flags & flag::DELETED != 0 {
            self.gone(record.id);
        } else {
            let path = record.path.get(..record.path_len as usize).unwrap_or_default();
            self.made(record.id, path);
        }
    }

    fn made(&mut self, number: u64, path: &[u8]) {
        let whose = match identity::of_path(path) {
            Some(identity) => CgroupOwner::Container(self.handle(identity)),
            None => CgroupOwner::Host(units::of_path(path)),
        };
        let handle = whose.container();
        if self.are_filtered() {
            let wanted = handle.as_ref().map_or(Some(false), |handle| self.is_wanted(handle));
            self.verdicts.extend(wanted.map(|wanted| (number, Some(wanted))));
        }
        if let Some(handle) = &handle {
            self.belongs(number, handle);
        }
        let cgroup = TrackedCgroup { whose, path: Arc::new(OsBytes(path.to_vec().into())) };
        if self.cgroups.insert(number, cgroup).is_none() {
            self.order.push_back(number);
        }
        while self.cgroups.len() > CGROUPS {
            let Some(oldest) = self.order.pop_front() else { break };
            if self.cgroups.remove(&oldest).is_some() {
                self.forgotten += 1;
            }
        }
    }

    /// A cgroup is a container's. Those that are gone are forgotten when there are twice as many.
    fn belongs(&mut self, number: u64, handle: &ContainerHandle) {
        let its = &mut state_of(&mut self.states, handle).cgroups;
        if its.len() >= 64 && its.len().is_power_of_two() {
            its.retain(|one| self.cgroups.contains_key(one));
        }
        its.push(number);
    }

    /// A thread of a container is in that namespace, as its context says.
    pub(crate) fn is_in(&mut self, handle: &ContainerHandle, ns: NsRef, context: u64) {
        if self.ns(handle) != Some(ns) {
            let Self { inside, states, .. } = self;
            if inside.len() >= 64 && inside.len().is_power_of_two() {
                inside.retain(|ns, all| all.iter().any(|one| is_there(states, *one, *ns)));
            }
            let all = inside.entry(ns).or_default();
            if all.len() >= 64 && all.len().is_power_of_two() {
                let mut met = HashSet::new();
                all.retain(|one| is_there(states, *one, ns) && met.insert(*one));
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
            self.verdicts.push((number, None));
        }
        self.removed.push_back(number);
        while self.removed.len() > REMOVED {
            if let Some(oldest) = self.removed.pop_front() {
                self.cgroups.remove(&oldest);
            }
        }
        if self.order.len() > 2 * self.cgroups.len() + REMOVED {
            self.order.retain(|number| self.cgroups.contains_key(number));
        }
    }

    /// The handle of a container, which is known from now on.
    fn handle(&mut self, identity: ContainerIdentity) -> ContainerHandle {
        let mut same = self.by_id.get(&identity.id).into_iter().flatten();
        let known = same.find_map(|at| self.states.get(*at).filter(|one| one.identity == identity));
        let place = match known {
            Some(state) if state.handle.is_shared() => return state.handle.clone(),
            // Nobody knew it any more: it begins anew.
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
            state.amend(named);
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

    /// Forgets the states of which nobody has the handle, when there are many more than there were of those that
    /// somebody has.
    fn sweep(&mut self) {
        let kept = self.states.len() - self.free.len();
        if kept <= self.sweep_at.max(REMOVED) {
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
        self.sweep_at = 2 * (self.states.len() - self.free.len()) + REMOVED;
    }

    /// The container that a cgroup is of. `None`: it is the host's, or is not known.
    #[must_use]
    pub(crate) fn lookup_container(&self, cgroup: u64) -> Option<ContainerHandle> {
        self.cgroups.get(&cgroup)?.whose.container()
    }

    /// The systemd unit that a cgroup is of.
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
        identity::of_path(path).map(|identity| self.handle(identity))
    }

    /// Hands to `each` which containers a look found in which namespace.
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

    /// Fills in the containers of a look. `each`: what is in which namespace.
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

    /// A runtime of the host said something. Returns the container if it was shown without that.
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
        while self.names.len() > NAMES {
            let Some(oldest) = self.names_order.pop_front() else { break };
            self.names.remove(&oldest);
            self.forgotten += 1;
        }
        let mut told = None;
        for at in self.by_id.get(&id).cloned().unwrap_or_default() {
            let Some(state) = self.states.get_mut(at).filter(|one| one.handle.is_shared()) else {
                continue;
            };
            if state.amend(&all) {
                let (handle, shown) = (state.handle.clone(), state.shown);
                self.evaluate_filter(&handle);
                told = shown.then_some(handle).or(told);
            }
        }
        told
    }

    /// Whether a container was seen that a runtime of the host may have a name for, and has not told.
    #[must_use]
    pub(crate) fn waits(&self) -> bool {
        self.states.iter().any(|state| {
            state.identity.of_host && state.container.name.is_none() && state.handle.is_shared()
        })
    }

    /// The container whose threads were last in an IPC namespace, if there is one alone.
    #[must_use]
    pub(crate) fn alone_in(&self, ns: NsRef) -> Option<ContainerHandle> {
        let all = self.inside.get(&ns)?.iter().inspect(|_| step());
        let mut there = all.filter(|one| is_there(&self.states, **one, ns));
        let first = there.next()?;
        let alone = there.all(|other| other == first);
        self.states.get(*first).filter(|_| alone).map(|state| state.handle.clone())
    }

    /// What had to make room.
    #[must_use]
    pub(crate) const fn forgotten(&self) -> u64 {
        self.forgotten
    }
}

/// The state of a container, to be changed.
#[expect(clippy::indexing_slicing, reason = "who has a handle keeps its state where it is")]
fn state_of<'a>(
    states: &'a mut [ContainerState],
    handle: &ContainerHandle,
) -> &'a mut ContainerState {
    &mut states[handle.index()]
}

/// Whether the threads of the container at a place were last in a namespace.
fn is_there(states: &[ContainerState], at: usize, ns: NsRef) -> bool {
    states.get(at).is_some_and(|one| one.ns == Some(ns) && one.handle.is_shared())
}

#[cfg(test)]
mod tests;
