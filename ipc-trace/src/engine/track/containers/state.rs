//! The state of a container, and its handle.

use std::{
    collections::BTreeMap,
    hash::{Hash, Hasher},
    rc::Rc,
    sync::Arc,
};

use ipc_trace_common::{cbor::Encoded, record::NsRef};
use minicbor::{Decode, Decoder, Encode, Encoder, decode::Error, encode::Write};

use super::cgroup_path::ContainerIdentity;
use crate::event::shared::SharedState;
use crate::{
    event::{Container, value::OsBytes},
    input::container::{RuntimeKind, RuntimeMetadata},
};

/// A container's handle. While a handle exists, [`super::Containers`] keeps the state.
#[derive(Clone, Debug)]
pub(crate) struct ContainerHandle(Rc<usize>);

impl ContainerHandle {
    pub(super) fn new(index: usize) -> Self {
        Self(Rc::new(index))
    }

    /// The index of its state.
    pub(super) fn index(&self) -> usize {
        *self.0
    }

    /// Whether another handle exists besides the state's own.
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

/// Handles of a state that is decoded, by the indices of their states.
pub(super) type HandleTable = BTreeMap<usize, ContainerHandle>;

impl<C: SharedState> Encode<C> for ContainerHandle {
    fn encode<W: Write>(&self, to: &mut Encoder<W>, _: &mut C) -> Encoded<W> {
        to.u64(self.index() as u64)?;
        Ok(())
    }
}

impl<'b, C: SharedState> Decode<'b, C> for ContainerHandle {
    fn decode(from: &mut Decoder<'b>, context: &mut C) -> Result<Self, Error> {
        let index = usize::decode(from, context)?;
        let known = context.table::<HandleTable>().entry(index);
        Ok(known.or_insert_with(|| Self::new(index)).clone())
    }
}

impl Hash for ContainerHandle {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

/// The state of a container, owned by [`super::Containers`].
#[derive(Debug, Encode, Decode)]
#[cbor(context_bound = "SharedState")]
pub(super) struct ContainerState {
    #[n(0)]
    pub(super) handle: ContainerHandle,
    #[n(1)]
    pub(super) identity: ContainerIdentity,
    /// The container as it is shown now.
    #[cbor(n(2), with = "ipc_trace_common::cbor")]
    pub(super) container: Arc<Container>,
    /// Whether it was shown, so that later metadata is reported on a line.
    #[n(3)]
    pub(super) shown: bool,
    /// The IPC namespace that a thread of it was in last.
    #[n(4)]
    pub(super) ns: Option<NsRef>,
    /// The IPC namespace that a thread of it was in first, and the context that showed it.
    #[n(5)]
    pub(super) first: Option<(NsRef, u64)>,
    /// The container filter's decision; `None`: not yet known.
    #[n(6)]
    pub(super) wanted: Option<bool>,
    /// Numbers of its cgroups, and of some removed ones.
    #[n(7)]
    pub(super) cgroups: Vec<u64>,
}

impl ContainerState {
    pub(super) fn new(handle: ContainerHandle, identity: ContainerIdentity) -> Self {
        let named = matches!(identity.runtime, RuntimeKind::Lxc | RuntimeKind::Nspawn);
        let container = Container {
            runtime: identity.runtime.name().into(),
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

    /// Applies runtime metadata. Returns whether anything changed.
    pub(super) fn apply_metadata(&mut self, named: &RuntimeMetadata) -> bool {
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
            one.runtime = runtime.name().into();
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
