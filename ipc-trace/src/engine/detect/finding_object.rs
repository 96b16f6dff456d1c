//! The object of a finding: merges what is known now with what was known before the object was evicted.

use std::sync::Arc;

use ipc_trace_common::{
    op::ObjectKind,
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
        value::{Hex32, KindName, OsBytes},
    },
};

/// The object of a finding. `before`: as it was last shown. `shown` collects the containers that are
/// displayed.
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
        FindingTarget::Queue(dev, ino) => (Some(ObjectKind::Mq), Some(ObjectId::Queue(*dev, *ino))),
        FindingTarget::Sought(kind, _) => (Some(*kind), draft.local),
        FindingTarget::Name(..) => (Some(ObjectKind::Mq), draft.local),
        FindingTarget::Namespace(_) | FindingTarget::View(..) => {
            (draft.local.map(ObjectId::kind), draft.local)
        }
    };
    let id = match local {
        Some(ObjectId::Sysv(_, id)) => Some(id),
        Some(ObjectId::Queue(..)) | None => None,
    };
    // The finding may now be about another object with more known attributes.
    let named = draft.name.as_ref().map(|(name, _)| name);
    let same = before.id == id && named.is_none_or(|_| before.name.as_ref() == named);
    let before = if same { before } else { FoundObject::default() };
    let one = ns.zip(local).and_then(|(ns, local)| tracker.objects.get(ns, local));
    let info =
        one.zip(local).map(|(one, local)| one.info(local, &tracker.clock, &tracker.containers));
    let creator = info.as_ref().and_then(|info| info.creator.clone()).or(before.creator);
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
        .or_else(|| Some((info.as_ref()?.name.clone()?, source(one?, local?, tracker))))
        .or_else(|| named_by(&key.target))
        .or_else(|| Some((before.name?, before.name_from.unwrap_or(ReadFrom::Return))))
        .unzip();
    let name_from = name_from.filter(|_| kind == Some(ObjectKind::Mq));
    FoundObject {
        kind: kind.map(KindName),
        id,
        key: info.as_ref().and_then(|info| info.key).or(draft.key.map(Hex32)).or(before.key),
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
        None if matches!(one.origin, ObjectOrigin::Found(_)) => ReadFrom::Kernel,
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

/// The owner of an object: its creator's container, or else that of the namespace's creator, or else the only
/// container in the namespace.
fn owner(
    one: Option<&TrackedObject>,
    ns: Option<NsRef>,
    tracker: &Tracker,
    shown: &mut Vec<ContainerHandle>,
) -> Owner {
    let of = |task_info: &TaskInfo| {
        let container = task_info.container(&tracker.containers);
        let on_host = container.is_none();
        (container, Some(on_host))
    };
    let creator = one.and_then(|one| one.creator.as_ref()).and_then(|who| who.task_info.as_ref());
    if let Some(task_info) = creator {
        return of(task_info);
    }
    let Some(ns) = ns else { return (None, None) };
    if is_host(ns) {
        return (None, Some(true));
    }
    if let Some(alone) = tracker.containers.alone_in(ns) {
        return (Some(show(&alone, tracker, shown)), Some(false));
    }
    let creation = tracker.namespaces.get(ns).and_then(|info| info.creation.as_ref());
    match creation.and_then(|creation| creation.by.as_ref()).map(|task_info| of(task_info)) {
        // Runtimes create a container's namespace from the host.
        Some((None, _)) | None => (None, None),
        Some(known) => known,
    }
}
