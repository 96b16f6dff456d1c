//! A container, and what runtimes say of it.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
    sync::Arc,
};

use ipc_trace_common::record::NsRef;

use super::identity::Identity;
use crate::{
    event::{Container, value::Text},
    input::container::{Named, Runtime},
};

/// A container that shows itself.
#[derive(Debug)]
pub(crate) struct Known {
    pub(super) identity: Identity,
    pub(super) container: RefCell<Arc<Container>>,
    /// Whether it was shown, so that a line has to tell what is learnt of it later
    pub(super) shown: Cell<bool>,
    /// The IPC namespace that a thread of it was in last
    ns: Cell<Option<NsRef>>,
    /// The one that a thread of it was in first, and the context that told so
    home: Cell<Option<(NsRef, u64)>>,
    /// Whether its calls are wanted; `None`: what is known of it does not tell yet
    pub(super) wanted: Cell<Option<bool>>,
    /// Numbers of its cgroups, and of some that are gone
    pub(super) cgroups: RefCell<Vec<u64>>,
}

impl Known {
    pub(super) fn new(identity: Identity) -> Self {
        let named = matches!(identity.runtime, Runtime::Lxc | Runtime::Nspawn);
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
            wanted: Cell::new(Some(true)),
            cgroups: RefCell::default(),
        }
    }

    /// As it is shown now.
    #[must_use]
    pub(crate) fn container(&self) -> Arc<Container> {
        Arc::clone(&self.container.borrow())
    }

    /// As it is shown on a line, which a later one amends when there is more to say.
    #[must_use]
    pub(crate) fn show(&self) -> Arc<Container> {
        self.shown.set(true);
        self.container()
    }

    /// A thread of it is in that namespace, as its context says.
    pub(super) fn is_in(&self, ns: NsRef, context: u64) {
        self.ns.set(Some(ns));
        if self.home.get().is_none() {
            self.home.set(Some((ns, context)));
        }
    }

    /// The IPC namespace that its processes live in, as far as threads were seen before one of them
    /// moved from `from`, which made its context anew.
    #[must_use]
    pub(crate) fn home_before(&self, context: u64, from: NsRef) -> Option<NsRef> {
        match self.home.get() {
            Some((_, told)) if told == context && context != 0 => {
                self.home.set(Some((from, 0)));
                Some(from)
            }
            known => known.map(|(ns, _)| ns),
        }
    }

    /// Its processes live in that namespace: one went over there as a whole.
    pub(crate) fn lives_in(&self, ns: NsRef) {
        self.home.set(Some((ns, 0)));
    }

    /// Whether its calls are wanted; `None`: what is known of it does not tell yet.
    #[inline]
    #[must_use]
    pub(crate) fn is_wanted(&self) -> Option<bool> {
        self.wanted.get()
    }

    /// The IPC namespace that a thread of it was in last.
    #[must_use]
    pub(crate) fn ns(&self) -> Option<NsRef> {
        self.ns.get()
    }
}

/// Containers as they are shown, by name.
#[must_use]
pub(crate) fn shown(all: &[Rc<Known>]) -> Vec<Arc<Container>> {
    let mut all: Vec<_> = all.iter().map(|known| known.container()).collect();
    all.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
    all
}

/// Takes over what a runtime says. Whether that is something new.
pub(super) fn amend(known: &Known, named: &Named) -> bool {
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
