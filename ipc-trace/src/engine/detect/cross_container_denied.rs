//! `cross-container-denied`: permission was denied to a container on an object that another container
//! created.
//!
//! A denied object is in the caller's own namespace, so this happens where containers share one.

use ipc_trace_common::op::{ObjectKind, Op};

use super::{
    detector::{DetectCx, Detector},
    failed::{EACCES, EPERM, FailedCalls},
    observation::{CallObservation, FindingDraft, FindingKey, ObservedCalls},
    phrases::thread,
    sharing::target,
};
use crate::{
    engine::track::objects::tracked::{ObjectId, ObjectOrigin, TrackedObject},
    event::escape::escaped,
    event::tag::{ContainerTag, NsTag, SysvKey as KeyTag},
    event::{
        finding::{Class, Severity},
        value::Hex32,
    },
};

const BENIGN: &str = "containers that share a namespace and run as different users, of which one inspects \
                        what the other has; a monitor";
/// Width of queue names in titles, in cells.
const NAME_WIDTH: usize = 64;

/// The detector.
#[derive(Debug, Default)]
pub(super) struct CrossContainerDenied;

impl Detector for CrossContainerDenied {
    fn failed(&mut self, seen: &CallObservation<'_>, failed: FailedCalls, to: &mut DetectCx<'_>) {
        if matches!(failed.error, EACCES | EPERM) {
            denied(seen, failed, to);
        }
    }
}

/// Calls failed with `EACCES` or `EPERM`.
fn denied(seen: &CallObservation<'_>, failed: FailedCalls, to: &mut DetectCx<'_>) {
    let who = &seen.who;
    let Some(own) = who.task_info.and_then(|task_info| task_info.container.as_ref()) else {
        return;
    };
    let Some((local, one)) = object(seen) else { return };
    let Some(creator) = one.creator.as_ref() else { return };
    let Some(owner) = creator.task_info.as_ref().and_then(|task_info| task_info.container.as_ref())
    else {
        return;
    };
    if own == owner {
        return;
    }
    let key =
        FindingKey::for_process(Class::CrossContainerDenied, who.key(), target(who.ns, local));
    let draft = || {
        let title = format!(
            "{} in container {} was denied {} on {} of container {} in namespace {}",
            thread(who),
            ContainerTag(&seen.tracker.containers.container(own)),
            seen.op.name(),
            name(local, one),
            ContainerTag(&seen.tracker.containers.container(owner)),
            NsTag::new(who.ns.inum, who.ns.generation),
        );
        let mut draft = FindingDraft::by(who, Severity::Medium, title)
            .about(Some(who.ns), Some(false), false)
            .because(90, "the kernel refused the call, and it is known who made the object");
        if matches!(one.origin, ObjectOrigin::Inferred(_)) {
            draft.add(-20, "that it was made by that call is inferred");
        }
        (draft.local, draft.owner) = (Some(local), Some(owner.clone()));
        draft.benign_explanation = BENIGN.into();
        draft
    };
    to.saw(key, failed.trace(seen), draft);
}

/// The object that calls were refused on, in the caller's namespace.
fn object<'a>(seen: &CallObservation<'a>) -> Option<(ObjectId, &'a TrackedObject)> {
    let objects = &seen.tracker.objects;
    let (ns, kind) = (seen.who.ns, seen.op.object_kind());
    let local = match (seen.op, seen.calls) {
        (Op::Shmget | Op::Semget | Op::Msgget, calls) => {
            let key = match calls {
                ObservedCalls::One(call) => call.record.args[0] as u32,
                ObservedCalls::Group(_, group) => group.id.cast_unsigned(),
            };
            ObjectId::Sysv(kind, objects.of_key(ns, kind, key)?)
        }
        (Op::MqOpen | Op::MqUnlink, ObservedCalls::One(call)) => {
            objects.of_name(ns, &call.named().name?.0)?
        }
        // Operations on a descriptor aren't denied: the check was at open.
        _ if kind == ObjectKind::Mq || seen.op == Op::Shmdt => return None,
        (_, ObservedCalls::One(call)) => {
            let named = call.named().id;
            // The argument of a command that takes an index is no id; the result would be the id.
            ObjectId::Sysv(kind, named.filter(|id| *id >= 0)?)
        }
        (_, ObservedCalls::Group(_, group)) => ObjectId::Sysv(kind, group.id),
    };
    let one = objects.get(ns, local).filter(|one| one.destroyed.is_none())?;
    Some((local, one))
}

/// The name of an object in a title.
pub(super) fn name(local: ObjectId, one: &TrackedObject) -> String {
    match (local, one.key.filter(|key| *key != 0), one.name.as_ref()) {
        (ObjectId::Sysv(kind, id), Some(key), _) => {
            format!("{} {id}, key {}", kind.name(), KeyTag(Hex32(key)))
        }
        (ObjectId::Sysv(kind, id), None, _) => format!("{} {id}", kind.name()),
        (ObjectId::Queue(..), _, Some(name)) => format!("queue \"/{}\"", escaped(name, NAME_WIDTH)),
        (ObjectId::Queue(..), _, None) => "a queue".to_owned(),
    }
}
