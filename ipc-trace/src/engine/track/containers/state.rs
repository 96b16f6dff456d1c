//! A container, and what runtimes say of it.

use std::{
    collections::BTreeMap,
    hash::{Hash, Hasher},
    rc::Rc,
    sync::Arc,
};

use ipc_trace_common::record::NsRef;

use super::identity::ContainerIdentity;
use crate::{
    event::{Container, value::OsBytes},
    input::container::{RuntimeKind, RuntimeMetadata},
};

/// Which container it is. As long as somebody has this, [`super::Containers`] has its state.
#[derive(Clone, Debug)]
pub(crate) struct ContainerHandle(Rc<usize>);

impl ContainerHandle {
    pub(super) fn new(index: usize) -> Self {
        Self(Rc::new(index))
    }

    /// Where its state is.
    pub(super) fn index(&self) -> usize {
        *self.0
    }

    /// Whether somebody else has it, too.
    pub(super) fn is_shared(&self) -> bool {
        Rc::strong_count(&self.0) > 1
    }
}

impl PartialEq for ContainerHandle {
    fn eq(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for ContainerHandle {}

impl Hash for ContainerHandle {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

/// What is known of a container. [`super::Containers`] alone has it.
#[derive(Debug)]
pub(super) struct ContainerState {
    pub(super) handle: ContainerHandle,
    pub(super) identity: ContainerIdentity,
    /// As it is shown now
    pub(super) container: Arc<Container>,
    /// Whether it was shown, so that a line has to tell what is learnt of it later
    pub(super) shown: bool,
    /// The IPC namespace that a thread of it was in last
    pub(super) ns: Option<NsRef>,
    /// The one that a thread of it was in first, and the context that told so
    pub(super) first: Option<(NsRef, u64)>,
    /// Whether its calls are wanted; `None`: what is known of it does not tell yet
    pub(super) wanted: Option<bool>,
    /// Numbers of its cgroups, and of some that are gone
    pub(super) cgroups: Vec<u64>,
}

impl ContainerState {
    pub(super) fn new(handle: ContainerHandle, identity: ContainerIdentity) -> Self {
        let named = matches!(identity.runtime, RuntimeKind::Lxc | RuntimeKind::Nspawn);
        let container = Container {
            runtime: identity.runtime.name(),
            id: identity.id.as_str().into(),
            name: named.then(|| identity.id.as_str().into()),
            image: None,
            pod: None,
            pod_uid: identity.pod_uid.as_deref().map(OsBytes::from),
            pod_namespace: None,
            labels: BTreeMap::new(),
            labels_lost: 0,
            ipc_mode: None,
        };
        Self {
            handle,
            identity,
            container: Arc::new(container),
            shown: false,
            ns: None,
            first: None,
            wanted: Some(true),
            cgroups: Vec::new(),
        }
    }

    /// Takes over what a runtime says. Whether that is something new.
    pub(super) fn amend(&mut self, named: &RuntimeMetadata) -> bool {
        if !self.identity.of_host {
            return false;
        }
        let take = |to: &mut Option<OsBytes<'static>>, from: &Option<String>| {
            if let Some(from) = from.as_deref() {
                *to = Some(from.into());
            }
        };
        let mut one = Container::clone(&self.container);
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
            let text =
                |(key, value): (&String, &String)| (key.as_str().into(), value.as_str().into());
            one.labels = labels.kept.iter().map(text).collect();
            one.labels_lost = labels.lost;
        }
        let is_new = *self.container != one;
        if is_new {
            self.container = Arc::new(one);
        }
        is_new
    }
}
