//! Containers: which cgroup is whose, and what runtimes call them.
//!
//! | module | its job |
//! | --- | --- |
//! | `known` | a container, and what runtimes say of it |
//! | [`identity`] | from a cgroup's path to a container: pure |
//! | [`sharing`] | whether containers share a namespace because somebody said so: pure |
//! | `units` | from a cgroup's path to a systemd unit: pure |
//!
//! The kernel side tells of births and deaths of cgroups once, with path and number, and a thread's
//! context has the number, which is never given again. So the answer is right for a process that lived
//! a millisecond, in a container that lived a second. Names come from elsewhere, before or afterwards.
//!
//! Invariant: what is kept is bounded by the cgroups that exist and a fixed remainder; what falls out
//! is counted.

pub(crate) mod identity;
mod known;
pub(crate) mod sharing;
mod units;

use std::{
    collections::{HashSet, VecDeque},
    rc::{Rc, Weak},
    sync::Arc,
};

use ipc_trace_common::record::{CgroupRecord, NsRef, flag};

use crate::{
    engine::track::HashMap,
    event::{ls::Ls, value::Text},
    input::{container::Named, wanted::Wanted},
    steps::step,
};
use identity::Identity;
use known::amend;
pub(crate) use known::{Known, shown};

/// Cgroups that are kept, those that exist among them: some hundred bytes each.
const CGROUPS: usize = 1 << 17;
/// Removed cgroups that are kept: records of their threads may come late.
const REMOVED: usize = 1 << 13;
/// Containers whose names are kept though nothing else is known of them.
const NAMES: usize = 1 << 13;

/// Whose a cgroup is.
#[derive(Clone, Debug)]
enum Whose {
    /// A container's
    Container(Rc<Known>),
    /// The host's, and of which systemd unit
    Host(Option<Arc<Text<'static>>>),
}

impl Whose {
    fn container(&self) -> Option<Rc<Known>> {
        match self {
            Self::Container(known) => Some(Rc::clone(known)),
            Self::Host(_) => None,
        }
    }
}

/// A cgroup.
#[derive(Clone, Debug)]
struct Cgroup {
    whose: Whose,
    path: Arc<Text<'static>>,
}

/// All containers, by the cgroups that they are in.
#[derive(Debug, Default)]
pub(crate) struct Containers {
    cgroups: HashMap<u64, Cgroup>,
    order: VecDeque<u64>,
    removed: VecDeque<u64>,
    /// By id
    known: HashMap<String, Vec<Weak<Known>>>,
    swept: usize,
    names: HashMap<String, Named>,
    names_order: VecDeque<String>,
    forgotten: u64,
    /// What is asked of the containers whose calls are wanted
    wanted: Wanted,
    /// What the kernel side does not know yet of cgroups
    verdicts: Vec<(u64, Option<bool>)>,
    /// Containers of which it became known whether their calls are wanted
    decided: Vec<Rc<Known>>,
    /// Those whose threads were last in an IPC namespace, and some whose threads were there before
    inside: HashMap<NsRef, Vec<Weak<Known>>>,
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

    /// It was long enough to wait for what would tell: a container's calls are not wanted, unless more
    /// becomes known of it.
    pub(crate) fn give_up(&mut self, known: &Rc<Known>) {
        if known.is_wanted().is_none() {
            self.decide(known, Some(false));
        }
    }

    /// Judges a container by what is known of it now.
    fn judge(&mut self, known: &Rc<Known>) {
        if self.are_filtered() {
            let wanted = self.wanted.is(&known.container());
            if wanted.is_some() {
                self.decide(known, wanted);
            }
        }
    }

    fn decide(&mut self, known: &Rc<Known>, wanted: Option<bool>) {
        if known.wanted.replace(wanted) == wanted {
            return;
        }
        let its = known.cgroups.borrow();
        let exist = its.iter().inspect(|_| step()).filter(|one| self.cgroups.contains_key(one));
        self.verdicts.extend(exist.map(|number| (*number, wanted)));
        self.decided.push(Rc::clone(known));
    }

    /// Containers of which it became known, since this was asked last, whether their calls are wanted.
    pub(crate) fn take_decided(&mut self) -> Vec<Rc<Known>> {
        std::mem::take(&mut self.decided)
    }

    /// Those exist. From now on the kernel side tells of others.
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

    fn made(&mut self, number: u64, path: &[u8]) -> Option<Rc<Known>> {
        let whose = match identity::of_path(path) {
            Some(identity) => Whose::Container(self.known(identity)),
            None => Whose::Host(units::of_path(path)),
        };
        let known = whose.container();
        if self.are_filtered() {
            let wanted = known.as_ref().map_or(Some(false), |known| known.is_wanted());
            self.verdicts.extend(wanted.map(|wanted| (number, Some(wanted))));
        }
        if let Some(known) = &known {
            self.belongs(number, known);
        }
        let cgroup = Cgroup { whose, path: Arc::new(Text(path.to_vec().into())) };
        if self.cgroups.insert(number, cgroup).is_none() {
            self.order.push_back(number);
        }
        while self.cgroups.len() > CGROUPS {
            let Some(oldest) = self.order.pop_front() else { break };
            if self.cgroups.remove(&oldest).is_some() {
                self.forgotten += 1;
            }
        }
        known
    }

    /// A cgroup is a container's. Those that are gone are forgotten when there are twice as many.
    fn belongs(&self, number: u64, known: &Known) {
        let mut its = known.cgroups.borrow_mut();
        if its.len() >= 64 && its.len().is_power_of_two() {
            its.retain(|one| self.cgroups.contains_key(one));
        }
        its.push(number);
    }

    /// A thread of a container is in that namespace, as its context says.
    pub(crate) fn is_in(&mut self, known: &Rc<Known>, ns: NsRef, context: u64) {
        if known.ns() != Some(ns) {
            let inside = &mut self.inside;
            if inside.len() >= 64 && inside.len().is_power_of_two() {
                inside.retain(|ns, all| all.iter().any(|one| is_there(one, *ns).is_some()));
            }
            let all = inside.entry(ns).or_default();
            if all.len() >= 64 && all.len().is_power_of_two() {
                let mut met = HashSet::new();
                all.retain(|one| is_there(one, ns).is_some() && met.insert(one.as_ptr()));
            }
            all.push(Rc::downgrade(known));
        }
        known.is_in(ns, context);
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

    fn known(&mut self, identity: Identity) -> Rc<Known> {
        let mut same = self.of_id(&identity.id);
        if let Some(known) = same.find(|known| known.identity == identity) {
            return known;
        }
        drop(same);
        if self.known.len() > 2 * self.swept + REMOVED {
            self.known.retain(|_, known| known.iter().any(|one| one.strong_count() > 0));
            self.swept = self.known.len();
        }
        let known = Rc::new(Known::new(identity.clone()));
        if let Some(named) = self.names.get(&identity.id) {
            amend(&known, named);
        }
        if self.are_filtered() {
            known.wanted.set(self.wanted.is(&known.container()));
        }
        let same = self.known.entry(identity.id).or_default();
        same.retain(|one| one.strong_count() > 0);
        same.push(Rc::downgrade(&known));
        known
    }

    fn of_id(&self, id: &str) -> impl Iterator<Item = Rc<Known>> {
        self.known.get(id).into_iter().flatten().filter_map(Weak::upgrade)
    }

    /// The container that a cgroup is of. `None`: it is the host's, or is not known.
    #[must_use]
    pub(crate) fn of(&self, cgroup: u64) -> Option<Rc<Known>> {
        self.cgroups.get(&cgroup)?.whose.container()
    }

    /// The systemd unit that a cgroup is of.
    #[must_use]
    pub(crate) fn unit(&self, cgroup: u64) -> Option<Arc<Text<'static>>> {
        match &self.cgroups.get(&cgroup)?.whose {
            Whose::Host(unit) => unit.clone(),
            Whose::Container(_) => None,
        }
    }

    /// The path of a cgroup, from the root of the hierarchy.
    #[must_use]
    pub(crate) fn path(&self, cgroup: u64) -> Option<Arc<Text<'static>>> {
        self.cgroups.get(&cgroup).map(|known| Arc::clone(&known.path))
    }

    /// The container whose cgroup has this path.
    pub(crate) fn of_path(&mut self, path: &[u8]) -> Option<Rc<Known>> {
        identity::of_path(path).map(|identity| self.known(identity))
    }

    /// Hands to `each` which containers a look found in which namespace.
    pub(crate) fn each_in(&mut self, ls: &Ls, mut each: impl FnMut(u32, &Rc<Known>)) {
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
    pub(crate) fn fill(&mut self, ls: &mut Ls, mut each: impl FnMut(u32, &Rc<Known>)) {
        for namespace in &mut ls.namespaces {
            let mut all: Vec<Rc<Known>> = Vec::new();
            for process in &mut namespace.processes {
                let path = process.cgroup.as_deref();
                let Some(known) = path.and_then(|path| self.of_path(path)) else { continue };
                process.container = Some(known.container());
                if !all.iter().any(|one| Rc::ptr_eq(one, &known)) {
                    each(namespace.inum, &known);
                    all.push(known);
                }
            }
            namespace.containers = shown(&all);
            namespace.sharing = sharing::of(&namespace.containers, namespace.host);
        }
    }

    /// A runtime of the host said something. Returns the container if it was shown without that.
    pub(crate) fn named(&mut self, named: Named) -> Option<Rc<Known>> {
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
        for known in self.of_id(&id).collect::<Vec<_>>() {
            if amend(&known, &all) {
                self.judge(&known);
                if known.shown.get() {
                    told = Some(known);
                }
            }
        }
        told
    }

    /// Whether a container was seen that a runtime of the host may have a name for, and has not told.
    #[must_use]
    pub(crate) fn waits(&self) -> bool {
        let nameless =
            |known: Rc<Known>| known.identity.of_host && known.container.borrow().name.is_none();
        self.known.values().flatten().filter_map(Weak::upgrade).any(nameless)
    }

    /// The container whose threads were last in an IPC namespace, if there is one alone.
    #[must_use]
    pub(crate) fn alone_in(&self, ns: NsRef) -> Option<Rc<Known>> {
        let all = self.inside.get(&ns)?;
        let mut there = all.iter().inspect(|_| step()).filter_map(|one| is_there(one, ns));
        let first = there.next()?;
        there.all(|other| Rc::ptr_eq(&first, &other)).then_some(first)
    }

    /// What had to make room.
    #[must_use]
    pub(crate) const fn forgotten(&self) -> u64 {
        self.forgotten
    }
}

/// A container, if it is still there.
fn is_there(known: &Weak<Known>, ns: NsRef) -> Option<Rc<Known>> {
    known.upgrade().filter(|known| known.ns() == Some(ns))
}

#[cfg(test)]
mod tests;
