//! `cross-container`: two containers use one object in a namespace that they share.
//!
//! Each container made a call on the object from that namespace, so the sharing isn't inferred. Their
//! runtimes know whether it was configured: `--ipc container:X`, `--ipc host`, a pod.

use ipc_trace_common::record::NsRef;

use super::{
    cross_container_denied::name,
    detector::{DetectCx, Detector},
    observation::{CallObservation, FindingDraft, FindingKey, FindingOwner},
    sharing::{SharedThing, SharedUse, target},
};
use crate::{
    engine::track::containers::ContainerHandle,
    engine::track::objects::{
        tracked::{ObjectId, TrackedObject},
        users::Accessor,
    },
    event::finding::{Class, Severity},
};

const BENIGN: &str = "containers that were made to work together without the runtime's knowing: by joining \
                        a namespace through /proc/PID/ns/ipc, or by a runtime that can't be asked";

/// The detector.
#[derive(Debug, Default)]
pub(super) struct CrossContainer;

impl Detector for CrossContainer {
    fn new_user(
        &mut self,
        seen: &CallObservation<'_>,
        at: (NsRef, ObjectId),
        one: &TrackedObject,
        to: &mut DetectCx<'_>,
    ) {
        let Some(shared) = shared_use(seen, at, one) else { return };
        let key = shared.key.clone();
        if !to.sharing.is_open(&key) && to.findings.draft(&key).is_none() {
            to.sharing.count(&key, at, one, to.findings);
            to.sharing.open(shared, seen.trace(), &seen.tracker.containers, to.findings);
        }
    }
}

/// The shared use, if the new user is a container and another container used the object before.
fn shared_use(
    seen: &CallObservation<'_>,
    (ns, local): (NsRef, ObjectId),
    one: &TrackedObject,
) -> Option<SharedUse> {
    let own = seen.who.task_info?.container.as_ref()?;
    // Used from another namespace, the object is reported as `foreign-object`.
    if seen.who.ns != ns {
        return None;
    }
    let other = other(own, ns, one)?;
    let whose =
        FindingOwner::Container(seen.tracker.containers.container(own).id.0.to_vec().into());
    let key = FindingKey { class: Class::CrossContainer, whose, target: target(ns, local) };
    let mut draft = FindingDraft::by(&seen.who, Severity::Medium, String::new())
        .about(Some(ns), Some(false), false)
        .because(90, "calls of both containers were seen on the object, from this namespace");
    (draft.local, draft.owner) = (Some(local), Some(other.clone()));
    draft.benign_explanation = BENIGN.into();
    let (subject, object) = (own.clone(), name(local, one));
    Some(SharedUse { key, ns, subject, shared: SharedThing::Object(object, other), draft })
}

/// Another container that uses the object from its namespace: its creator, or else the first user.
fn other(own: &ContainerHandle, ns: NsRef, one: &TrackedObject) -> Option<ContainerHandle> {
    let is_other = |accessor: &&Accessor| accessor.ns == ns && !accessor.is_in(Some(own));
    let mut others =
        one.accessors().iter().filter(is_other).filter_map(|one| one.container.as_ref());
    let creator = one.creator.as_ref().and_then(|one| one.task_info.as_ref()?.container.as_ref());
    let made = creator.and_then(|creator| others.clone().find(|one| *one == creator));
    made.or_else(|| others.next()).cloned()
}
