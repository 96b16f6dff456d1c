//! Containers: which cgroup is whose, and what runtimes call them.
//!
//! | module | its job |
//! | --- | --- |
//! | [`hierarchy`] | the hierarchy of cgroups that counts, and what is in it |
//! | [`identity`] | from a cgroup's path to a container: pure |
//! | [`sharing`] | whether containers share a namespace because somebody said so: pure |
//! | `units` | from a cgroup's path to a systemd unit: pure |
//! | [`runtimes`] | what runtimes say of their containers |
//!
//! The kernel side tells of births and deaths of cgroups once, with path and number, and a thread's
//! context has the number, which is never given again. So the answer is right for a process that lived
//! a millisecond, in a container that lived a second. Names come from elsewhere, before or afterwards.
//!
//! Invariant: what is kept is bounded by the cgroups that exist and a fixed remainder; what falls out
//! is counted.

pub mod hierarchy;
pub mod identity;
pub mod runtimes;
pub mod sharing;
mod units;

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    rc::{Rc, Weak},
    sync::Arc,
};

use ipc_trace_common::record::{CgroupRecord, NsRef, flag};

use crate::{
    event::{Container, ls::Ls, value::Text},
    track::HashMap,
};
use hierarchy::Hierarchy;
use identity::Identity;

/// Cgroups that are kept, those that exist among them: some hundred bytes each.
const CGROUPS: usize = 1 << 17;
/// Removed cgroups that are kept: records of their threads may come late.
const REMOVED: usize = 1 << 13;
/// Containers whose names are kept though nothing else is known of them.
const NAMES: usize = 1 << 13;

/// A container that shows itself.
#[derive(Debug)]
pub struct Known {
    identity: Identity,
    container: RefCell<Arc<Container>>,
    /// Whether it was shown, so that a line has to tell what is learnt of it later
    shown: Cell<bool>,
    /// The IPC namespace that a thread of it was in last
    ns: Cell<Option<NsRef>>,
    /// The one that a thread of it was in first, and the context that told so
    home: Cell<Option<(NsRef, u64)>>,
}

impl Known {
    fn new(identity: Identity) -> Self {
        let named = matches!(identity.runtime, identity::Runtime::Lxc | identity::Runtime::Nspawn);
        let container = Container {
            runtime: identity.runtime.name(),
            id: identity.id.as_str().into(),
            name: named.then(|| identity.id.as_str().into()),
            image: None,
            pod: None,
            pod_uid: identity.pod_uid.as_deref().map(Text::from),
            pod_namespace: None,
            labels: BTreeMap::new(),
            labels_lost: 0,
            ipc_mode: None,
        };
        Self {
            identity,
            container: RefCell::new(Arc::new(container)),
            shown: Cell::new(false),
            ns: Cell::new(None),
            home: Cell::new(None),
        }
    }

    /// As it is shown now.
    #[must_use]
    pub fn container(&self) -> Arc<Container> {
        Arc::clone(&self.container.borrow())
    }

    /// As it is shown on a line, which a later one amends when there is more to say.
    #[must_use]
    pub fn show(&self) -> Arc<Container> {
        self.shown.set(true);
        self.container()
    }

    /// A thread of it is in that namespace, as its context says.
    pub fn is_in(&self, ns: NsRef, context: u64) {
        self.ns.set(Some(ns));
        if self.home.get().is_none() {
            self.home.set(Some((ns, context)));
        }
    }

    /// The IPC namespace that its processes live in, as far as threads were seen before one of them
    /// moved from `from`, which made its context anew.
    #[must_use]
    pub fn home_before(&self, context: u64, from: NsRef) -> Option<NsRef> {
        match self.home.get() {
            Some((_, told)) if told == context && context != 0 => {
                self.home.set(Some((from, 0)));
                Some(from)
            }
            known => known.map(|(ns, _)| ns),
        }
    }

    /// Its processes live in that namespace: one went over there as a whole.
    pub fn lives_in(&self, ns: NsRef) {
        self.home.set(Some((ns, 0)));
    }

    /// The IPC namespace that a thread of it was in last.
    #[must_use]
    pub fn ns(&self) -> Option<NsRef> {
        self.ns.get()
    }
}

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

/// What a runtime says of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// Its id
    pub id: String,
    /// What runs it, where the answer tells more than the cgroup
    pub runtime: Option<identity::Runtime>,
    /// Its name
    pub name: Option<String>,
    /// Its image
    pub image: Option<String>,
    /// Its pod's name
    pub pod: Option<String>,
    /// That pod's uid, which not every cgroup tells
    pub pod_uid: Option<String>,
    /// That pod's namespace
    pub pod_namespace: Option<String>,
    /// That pod's labels
    pub labels: Option<Labels>,
    /// Which IPC namespace it was given: `private`, `shareable`, `host`, `container:ID`, `pod`, …
    pub ipc_mode: Option<String>,
}

/// Labels of a pod, as far as they are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    /// Those
    pub kept: BTreeMap<String, String>,
    /// Others that there are, and those that are cut
    pub lost: u32,
}

impl Named {
    /// Takes over what a later answer knows.
    fn merge(&mut self, later: Self) {
        fn take<T>(to: &mut Option<T>, from: Option<T>) {
            if from.is_some() {
                *to = from;
            }
        }
        take(&mut self.runtime, later.runtime);
        take(&mut self.name, later.name);
        take(&mut self.image, later.image);
        take(&mut self.pod, later.pod);
        take(&mut self.pod_uid, later.pod_uid);
        take(&mut self.pod_namespace, later.pod_namespace);
        take(&mut self.labels, later.labels);
        take(&mut self.ipc_mode, later.ipc_mode);
    }
}

/// A cgroup.
#[derive(Clone, Debug)]
struct Cgroup {
    whose: Whose,
    path: Arc<Text<'static>>,
}

/// All containers, by the cgroups that they are in.
#[derive(Debug)]
pub struct Containers {
    hierarchy: Option<Hierarchy>,
    cgroups: HashMap<u64, Cgroup>,
    order: VecDeque<u64>,
    removed: VecDeque<u64>,
    /// By id
    known: HashMap<String, Vec<Weak<Known>>>,
    swept: usize,
    names: HashMap<String, Named>,
    names_order: VecDeque<String>,
    forgotten: u64,
    /// Where processes are that live
    proc: PathBuf,
}

impl Default for Containers {
    fn default() -> Self {
        Self {
            hierarchy: None,
            cgroups: HashMap::default(),
            order: VecDeque::new(),
            removed: VecDeque::new(),
            known: HashMap::default(),
            swept: 0,
            names: HashMap::default(),
            names_order: VecDeque::new(),
            forgotten: 0,
            proc: "/proc".into(),
        }
    }
}

impl Containers {
    /// For a look: nothing is known but where cgroups are.
    #[must_use]
    pub fn looking(hierarchy: Option<Hierarchy>) -> Self {
        Self { hierarchy, ..Self::default() }
    }

    /// Those that exist. From now on the kernel side tells of others.
    pub fn begin(&mut self, hierarchy: Hierarchy) {
        let all = hierarchy.walk(|number, path| {
            self.made(number, path);
        });
        if !all {
            log::info!("not all cgroups that exist are known: some containers are told later");
        }
        self.hierarchy = Some(hierarchy);
    }

    /// A cgroup was made or removed.
    pub fn record(&mut self, record: &CgroupRecord) {
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

    fn gone(&mut self, number: u64) {
        if !self.cgroups.contains_key(&number) {
            return;
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
        let same = self.known.entry(identity.id).or_default();
        same.retain(|one| one.strong_count() > 0);
        same.push(Rc::downgrade(&known));
        known
    }

    fn of_id(&self, id: &str) -> impl Iterator<Item = Rc<Known>> {
        self.known.get(id).into_iter().flatten().filter_map(Weak::upgrade)
    }

    /// The container of a process whose thread is in a cgroup. `None`: it is the host's.
    pub fn of(&mut self, cgroup: u64, pid: u32) -> Option<Rc<Known>> {
        if let Some(known) = self.cgroups.get(&cgroup) {
            return known.whose.container();
        }
        if cgroup == 0 {
            return None;
        }
        // It was forgotten, or the record of its birth was lost.
        let path = self.hierarchy.as_ref()?.path_of(&self.proc, pid, cgroup)?;
        self.made(cgroup, &path)
    }

    /// The systemd unit that a cgroup is of, after [`Self::of`] was asked for it.
    #[must_use]
    pub fn unit(&self, cgroup: u64) -> Option<Arc<Text<'static>>> {
        match &self.cgroups.get(&cgroup)?.whose {
            Whose::Host(unit) => unit.clone(),
            Whose::Container(_) => None,
        }
    }

    /// The path of a cgroup, from the root of the hierarchy, after [`Self::of`] was asked for it.
    #[must_use]
    pub fn path(&self, cgroup: u64) -> Option<Arc<Text<'static>>> {
        self.cgroups.get(&cgroup).map(|known| Arc::clone(&known.path))
    }

    /// The container whose cgroup has this path.
    pub fn of_path(&mut self, path: &[u8]) -> Option<Rc<Known>> {
        identity::of_path(path).map(|identity| self.known(identity))
    }

    /// The hierarchy that counts, if there are cgroups.
    #[must_use]
    pub const fn hierarchy(&self) -> Option<&Hierarchy> {
        self.hierarchy.as_ref()
    }

    /// Fills in the containers of a look. `each`: what is in which namespace.
    pub fn fill(&mut self, ls: &mut Ls, mut each: impl FnMut(u32, &Rc<Known>)) {
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
    pub fn named(&mut self, named: Named) -> Option<Rc<Known>> {
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
        for known in self.of_id(&id) {
            if amend(&known, &all) && known.shown.get() {
                told = Some(known);
            }
        }
        told
    }

    /// Whether a container was seen that a runtime of the host may have a name for, and has not told.
    #[must_use]
    pub fn waits(&self) -> bool {
        let nameless =
            |known: Rc<Known>| known.identity.of_host && known.container.borrow().name.is_none();
        self.known.values().flatten().filter_map(Weak::upgrade).any(nameless)
    }

    /// The container whose threads were last in an IPC namespace, if there is one alone.
    #[must_use]
    pub fn alone_in(&self, ns: NsRef) -> Option<Arc<Container>> {
        let all = self.known.values().flatten().filter_map(Weak::upgrade);
        let mut inside = all.filter(|known| known.ns() == Some(ns));
        let first = inside.next()?;
        inside.next().is_none().then(|| first.show())
    }

    /// What had to make room.
    #[must_use]
    pub const fn forgotten(&self) -> u64 {
        self.forgotten
    }
}

/// Containers as they are shown, by name.
#[must_use]
pub fn shown(all: &[Rc<Known>]) -> Vec<Arc<Container>> {
    let mut all: Vec<_> = all.iter().map(|known| known.container()).collect();
    all.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
    all
}

/// Takes over what a runtime says. Whether that is something new.
fn amend(known: &Known, named: &Named) -> bool {
    if !known.identity.of_host {
        return false;
    }
    let take = |to: &mut Option<Text<'static>>, from: &Option<String>| {
        if let Some(from) = from.as_deref() {
            *to = Some(from.into());
        }
    };
    let mut one = Container::clone(&known.container());
    if let Some(runtime) = named.runtime {
        one.runtime = runtime.name();
    }
    take(&mut one.name, &named.name);
    take(&mut one.image, &named.image);
    take(&mut one.pod, &named.pod);
    take(&mut one.pod_uid, &named.pod_uid);
    take(&mut one.pod_namespace, &named.pod_namespace);
    take(&mut one.ipc_mode, &named.ipc_mode);
    if let Some(labels) = &named.labels {
        let text = |(key, value): (&String, &String)| (key.as_str().into(), value.as_str().into());
        one.labels = labels.kept.iter().map(text).collect();
        one.labels_lost = labels.lost;
    }
    let mut container = known.container.borrow_mut();
    let is_new = **container != one;
    if is_new {
        *container = Arc::new(one);
    }
    is_new
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u64) -> String {
        format!("{n:064x}")
    }

    fn made(containers: &mut Containers, cgroup: u64, n: u64) {
        containers.made(cgroup, format!("/docker/{}", id(n)).as_bytes());
    }

    fn named(n: u64, name: &str) -> Named {
        Named { id: id(n), name: Some(name.to_owned()), ..Named::default() }
    }

    fn name(known: &Rc<Known>) -> Option<String> {
        known.container().name.as_ref().map(|name| name.to_string())
    }

    #[test]
    fn a_name_that_comes_late_is_told_once_and_shown_everywhere() {
        let mut containers = Containers::default();
        made(&mut containers, 5, 1);
        let known = containers.of(5, 1).unwrap();
        assert_eq!(known.show().name, None);
        assert!(containers.named(named(1, "app1")).is_some());
        assert!(containers.named(named(1, "app1")).is_none());
        assert_eq!(name(&known).as_deref(), Some("app1"));
        // It was removed, and its record comes late.
        containers.gone(5);
        assert_eq!(name(&containers.of(5, 1).unwrap()).as_deref(), Some("app1"));
    }

    #[test]
    fn a_name_that_comes_early_is_there_from_the_beginning() {
        let mut containers = Containers::default();
        assert!(containers.named(named(1, "app1")).is_none());
        made(&mut containers, 5, 1);
        assert_eq!(name(&containers.of(5, 1).unwrap()).as_deref(), Some("app1"));
    }

    #[test]
    fn what_is_learnt_of_a_shown_one_is_told_once_whatever_it_is() {
        let mut containers = Containers::default();
        let _ = containers.named(named(1, "app1"));
        made(&mut containers, 5, 1);
        let known = containers.of(5, 1).unwrap();
        let pod = |label: &str| {
            let kept = BTreeMap::from([("app".to_owned(), label.to_owned())]);
            let labels = Some(Labels { kept, lost: 2 });
            Named { id: id(1), pod: Some("web-0".to_owned()), labels, ..Named::default() }
        };
        // Nobody has seen it yet.
        assert!(containers.named(pod("shop")).is_none());
        let shown = known.show();
        assert_eq!(shown.labels, BTreeMap::from([("app".into(), "shop".into())]));
        assert_eq!(shown.labels_lost, 2);
        assert!(containers.named(pod("shop")).is_none());
        let told = containers.named(pod("bank")).unwrap().container();
        assert_eq!(told.labels, BTreeMap::from([("app".into(), "bank".into())]));
        assert_eq!(name(&known).as_deref(), Some("app1"));
    }

    #[test]
    fn two_containers_of_one_name_are_two() {
        let mut containers = Containers::default();
        for n in [1, 2] {
            made(&mut containers, n, n);
            let _ = containers.named(named(n, "app"));
        }
        let ids = [1, 2].map(|n| containers.of(n, 1).unwrap().container().id.to_string());
        assert_eq!(ids, [id(1), id(2)]);
    }

    #[test]
    fn a_name_is_not_for_one_who_calls_its_cgroup_so() {
        let mut containers = Containers::default();
        let path = format!("/docker/{}/docker-{}.scope", id(9), id(1));
        containers.made(5, path.as_bytes());
        made(&mut containers, 6, 1);
        let _ = containers.named(named(1, "app1"));
        assert_eq!(name(&containers.of(5, 1).unwrap()), None);
        assert_eq!(name(&containers.of(6, 1).unwrap()).as_deref(), Some("app1"));
    }

    #[test]
    fn a_hundred_thousand_containers_leave_little_behind() {
        let mut containers = Containers::default();
        for n in 0..100_000 {
            made(&mut containers, n + 1, n);
            let _ = containers.named(named(n, "app"));
            containers.gone(n + 1);
        }
        assert!(containers.cgroups.len() <= REMOVED);
        assert!(containers.order.len() <= 4 * REMOVED);
        assert!(containers.known.len() <= 4 * REMOVED);
        assert!(containers.names.len() <= NAMES && containers.names_order.len() <= NAMES);
        assert!(containers.forgotten() > 0);
    }
}
