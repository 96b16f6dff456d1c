//! `cross-container-denied`: permission was denied to a container on an object that another container made.
//!
//! What is denied is in the caller's own namespace, so this happens where containers share one.

use ipc_trace_common::op::{Family, Op};

use super::{
    detector::{Detector, Judging},
    failed::{EACCES, EPERM, Failed},
    say::thread,
    shared::target,
    sighting::{Calls, Draft, Key, Seen},
};
use crate::{
    engine::track::objects::one::{Birth, Local, One},
    event::escape::escaped,
    event::tag::{ContainerTag, Key as KeyTag, NsTag},
    event::{
        finding::{Class, Severity},
        value::Hex32,
    },
};

const EXPLAINS: &str = "containers that share a namespace and run as different users, of which one looks at \
                        what the other has; a monitor";
/// Queues' names are shown so far.
const NAME_WIDTH: usize = 64;

/// The class.
#[derive(Debug, Default)]
pub(super) struct CrossContainerDenied;

impl Detector for CrossContainerDenied {
    fn failed(&mut self, seen: &Seen<'_>, failed: Failed, to: &mut Judging<'_>) {
        if matches!(failed.error, EACCES | EPERM) {
            denied(seen, failed, to);
        }
    }
}

/// Calls failed with `EACCES` or `EPERM`.
fn denied(seen: &Seen<'_>, failed: Failed, to: &mut Judging<'_>) {
    let who = &seen.who;
    let Some(own) = who.facts.and_then(|facts| facts.container.as_ref()) else { return };
    let Some((local, one)) = object(seen) else { return };
    let Some(creator) = one.creator.as_ref() else { return };
    let Some(owner) = creator.facts.as_ref().and_then(|facts| facts.container.as_ref()) else {
        return;
    };
    if own == owner {
        return;
    }
    let key = Key::of(Class::CrossContainerDenied, who.key(), target(who.ns, local));
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
        let mut draft = Draft::by(who, Severity::Medium, title)
            .of(Some(who.ns), Some(false), false)
            .because(90, "the kernel refused the call, and it is known who made the object");
        if matches!(one.birth, Birth::Inferred(_)) {
            draft.add(-20, "that it was made by that call is inferred");
        }
        (draft.local, draft.owner) = (Some(local), Some(owner.clone()));
        draft.explains = EXPLAINS;
        draft
    };
    to.saw(key, failed.trace(seen), draft);
}

/// The object that calls were refused on, in the caller's namespace.
fn object<'a>(seen: &Seen<'a>) -> Option<(Local, &'a One)> {
    let objects = &seen.tracker.objects;
    let (ns, kind) = (seen.who.ns, seen.op.family());
    let local = match (seen.op, seen.calls) {
        (Op::Shmget | Op::Semget | Op::Msgget, calls) => {
            let key = match calls {
                Calls::One(call) => call.record.args[0] as u32,
                Calls::Group(_, group) => group.id.cast_unsigned(),
            };
            Local::Sysv(kind, objects.of_key(ns, kind, key)?)
        }
        (Op::MqOpen | Op::MqUnlink, Calls::One(call)) => {
            objects.of_name(ns, &call.named().name?.0)?
        }
        // By its descriptor nothing is denied: who has that was let in.
        _ if kind == Family::Mq || seen.op == Op::Shmdt => return None,
        (_, Calls::One(call)) => {
            let named = call.named().id;
            // An index, of a command that looks through all, is no id; the result would have been.
            Local::Sysv(kind, named.filter(|id| *id >= 0)?)
        }
        (_, Calls::Group(_, group)) => Local::Sysv(kind, group.id),
    };
    let one = objects.get(ns, local).filter(|one| one.destroyed.is_none())?;
    Some((local, one))
}

/// An object, as a title says it.
pub(super) fn name(local: Local, one: &One) -> String {
    match (local, one.key.filter(|key| *key != 0), one.name.as_ref()) {
        (Local::Sysv(kind, id), Some(key), _) => {
            format!("{} {id}, key {}", kind.name(), KeyTag(Hex32(key)))
        }
        (Local::Sysv(kind, id), None, _) => format!("{} {id}", kind.name()),
        (Local::Queue(..), _, Some(name)) => format!("queue \"/{}\"", escaped(name, NAME_WIDTH)),
        (Local::Queue(..), _, None) => "a queue".to_owned(),
    }
}
