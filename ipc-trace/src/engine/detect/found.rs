//! What a finding says of the object: what is known of it now, and what was known before it was forgotten.

use std::sync::Arc;

use ipc_trace_common::{
    op::Family,
    record::{NsRef, QueueRef, queue_flag},
};

use super::observation::{FindingDraft, FindingKey, FindingTarget};
use crate::{
    engine::track::{
        Tracker,
        containers::ContainerHandle,
        contexts::TaskInfo,
        namespaces::is_host,
        objects::tracked::{ObjectId, ObjectOrigin, TrackedObject},
    },
    event::{
        Container, IpcNsRef, ReadFrom,
        finding::FoundObject,
        value::{FamilyName, Hex32, OsBytes},
    },
};

/// The object of a finding. `before`: as it was shown last. `shown`: containers that it shows, beside others.
pub(super) fn object_info(
    key: &FindingKey,
    draft: &FindingDraft,
    before: FoundObject,
    tracker: &Tracker,
    shown: &mut Vec<ContainerHandle>,
) -> FoundObject {
    let ns = draft.object_ns;
    let (kind, local) = match &key.target {
        FindingTarget::Sysv(_, kind, id) => (Some(*kind), Some(ObjectId::Sysv(*kind, *id))),
        FindingTarget::Queue(dev, ino) => (Some(Family::Mq), Some(ObjectId::Queue(*dev, *ino))),
        FindingTarget::Sought(kind, _) => (Some(*kind), draft.local),
        FindingTarget::Name(..) => (Some(Family::Mq), draft.local),
        FindingTarget::Namespace(_) | FindingTarget::View(..) => {
            (draft.local.map(ObjectId::kind), draft.local)
        }
    };
    let id = match local {
        Some(ObjectId::Sysv(_, id)) => Some(id),
        Some(ObjectId::Queue(..)) | None => None,
    };
    // A finding can come to be about another object, of which more is known.
    let named = draft.name.as_ref().map(|(name, _)| name);
    let same = before.id == id && named.is_none_or(|_| before.name.as_ref() == named);
    let before = if same { before } else { FoundObject::default() };
    let one = ns.zip(local).and_then(|(ns, local)| tracker.objects.get(ns, local));
    let look =
        one.zip(local).map(|(one, local)| one.info(local, &tracker.clock, &tracker.containers));
    let creator = look.as_ref().and_then(|look| look.creator.clone()).or(before.creator);
    let owner = match &draft.owner {
        Some(handle) => (Some(show(handle, tracker, shown)), Some(false)),
        None => owner(one, ns, tracker, shown),
    };
    let (owner, on_host) = match owner {
        (None, None) => (before.owner_container, before.owner_on_host),
        known => known,
    };
    let (name, name_from) = draft
        .name
        .clone()
        .or_else(|| Some((look.as_ref()?.name.clone()?, source(one?, local?, tracker))))
        .or_else(|| named_by(&key.target))
        .or_else(|| Some((before.name?, before.name_from.unwrap_or(ReadFrom::Return))))
        .unzip();
    let name_from = name_from.filter(|_| kind == Some(Family::Mq));
    FoundObject {
        kind: kind.map(FamilyName),
        id,
        key: look.as_ref().and_then(|look| look.key).or(draft.key.map(Hex32)).or(before.key),
        name,
        name_from,
        ipc_ns: ns.map(|ns| IpcNsRef { inum: ns.inum, r#gen: ns.generation }),
        foreign: draft.foreign,
        ipc_ns_dead: draft.dead,
        owner_container: owner,
        owner_on_host: on_host,
        creator,
    }
}

/// Where the name of a queue comes from.
fn source(one: &TrackedObject, local: ObjectId, tracker: &Tracker) -> ReadFrom {
    let ObjectId::Queue(dev, ino) = local else { return ReadFrom::Kernel };
    let queue = QueueRef { ino, dev, flags: queue_flag::KNOWN, ..QueueRef::default() };
    match tracker.queues.name(&queue) {
        Some((_, from)) => from,
        // A directory was listed.
        None if matches!(one.birth, ObjectOrigin::Found(_)) => ReadFrom::Kernel,
        None => ReadFrom::Return,
    }
}

fn named_by(target: &FindingTarget) -> Option<(OsBytes<'static>, ReadFrom)> {
    match target {
        FindingTarget::Name(_, name) | FindingTarget::View(_, name) => {
            Some((OsBytes(name.to_vec().into()), ReadFrom::Kernel))
        }
        FindingTarget::Namespace(_)
        | FindingTarget::Sysv(..)
        | FindingTarget::Sought(..)
        | FindingTarget::Queue(..) => None,
    }
}

type Owner = (Option<Arc<Container>>, Option<bool>);

fn show(
    handle: &ContainerHandle,
    tracker: &Tracker,
    shown: &mut Vec<ContainerHandle>,
) -> Arc<Container> {
    shown.push(handle.clone());
    tracker.containers.container(handle)
}

/// Whose an object is: of who made it, or else of who made its namespace, or is alone in it.
fn owner(
    one: Option<&TrackedObject>,
    ns: Option<NsRef>,
    tracker: &Tracker,
    shown: &mut Vec<ContainerHandle>,
) -> Owner {
    let of = |facts: &TaskInfo| {
        let container = facts.container(&tracker.containers);
        let on_host = container.is_none();
        (container, Some(on_host))
    };
    let creator = one.and_then(|one| one.creator.as_ref()).and_then(|who| who.facts.as_ref());
    if let Some(facts) = creator {
        return of(facts);
    }
    let Some(ns) = ns else { return (None, None) };
    if is_host(ns) {
        return (None, Some(true));
    }
    if let Some(alone) = tracker.containers.alone_in(ns) {
        return (Some(show(&alone, tracker, shown)), Some(false));
    }
    let birth = tracker.namespaces.get(ns).and_then(|info| info.birth.as_ref());
    match birth.and_then(|birth| birth.by.as_ref()).map(|facts| of(facts)) {
        // A runtime makes a container's namespace on the host.
        Some((None, _)) | None => (None, None),
        Some(known) => known,
    }
}
