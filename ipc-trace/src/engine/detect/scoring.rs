//! The confidence that an attempt was meant for another namespace: pure.
//!
//! Matches that are likely by chance weigh little: ids count up from 0 in each namespace, and instances of
//! one image look up the same keys. Knowledge that a process can only have from another namespace weighs
//! much.

use caps::Capability;
use ipc_trace_common::{op::ObjectKind, record::NsRef};

use super::{
    failed::FailedCalls,
    observation::{CallObservation, FindingActor, FindingDraft},
    phrases::thread,
};
use crate::{
    engine::track::{
        Tracker,
        objects::{
            index::{LookupKey, MAX_CANDIDATES},
            tracked::{ObjectId, TrackedObject},
        },
    },
    event::escape::escaped,
    event::tag::{NsTag, SysvKey as KeyTag},
    event::{
        ReadFrom,
        finding::{Class, Severity},
        value::{Hex32, OsBytes},
    },
};

/// Number of namespaces whose objects are checked for the same program.
const MAX_OBSERVED: usize = 8;
/// Width of queue names in titles, in cells.
const NAME_WIDTH: usize = 64;
/// The initial user namespace (`PROC_USER_INIT_INO`, include/linux/proc_ns.h): root of another user namespace
/// has no capabilities over objects of this one.
const INITIAL_USER_NS: u32 = 0xEFFF_FFFD;

const BENIGN: &str = "instances of one program that look for a key, id or name of their own; a client \
                        that starts before its server; a handle that was kept while its process moved to \
                        another namespace";

/// A failed lookup.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProbeAttempt<'a> {
    /// The class of the finding.
    pub(super) class: Class,
    /// The key, id or name.
    pub(super) sought: LookupKey<'a>,
    /// The weight if exactly one other namespace has it, and why.
    pub(super) base_weight: (i32, &'static str),
    /// The source of a name.
    pub(super) name_from: ReadFrom,
    /// The requested access: bits of `rwx`; `None`: another kind of permission applies.
    pub(super) wants: Option<u32>,
    /// The requested size or number of semaphores; `0`: any.
    pub(super) size: u64,
    /// A penalty with its reason.
    pub(super) penalty: Option<(i32, &'static str)>,
    /// The maximal confidence with its reason, unless the caller was in the namespace before.
    pub(super) max_confidence: Option<(i32, &'static str)>,
    /// The failed calls.
    pub(super) failed: FailedCalls,
}

impl ProbeAttempt<'_> {
    /// The kind of object that was looked up.
    pub(super) const fn kind(&self) -> ObjectKind {
        match self.sought {
            LookupKey::Key(kind, _) | LookupKey::Id(kind, _) => kind,
            LookupKey::Name(_) => ObjectKind::Mq,
        }
    }
}

/// A scored attempt.
#[derive(Debug)]
pub(super) struct Scored {
    pub(super) draft: FindingDraft,
    /// Whether the caller was in the namespace or used the object before.
    pub(super) prior: bool,
}

/// The severity of an attempt. It reached nothing, so it is high only after earlier contact.
pub(super) const fn severity(confidence: u8, prior: bool) -> Severity {
    match confidence {
        0..40 => Severity::Info,
        40..60 => Severity::Low,
        60..80 => Severity::Medium,
        _ if prior => Severity::High,
        _ => Severity::Medium,
    }
}

/// Scores an attempt. `found`: the matches in other namespaces, at least one; `target`: the match that was
/// probably meant, and the caller's relation to it.
pub(super) fn score(
    seen: &CallObservation<'_>,
    attempt: &ProbeAttempt<'_>,
    found: &[(NsRef, ObjectId)],
    target: Option<(NsRef, ObjectId, Option<&'static str>)>,
) -> Scored {
    let (who, tracker) = (&seen.who, seen.tracker);
    let count = found.len().max(1);
    let whose = match target {
        Some((ns, ..)) => format!("namespace {} has", NsTag::new(ns.inum, ns.generation)),
        None if count >= MAX_CANDIDATES => {
            format!("{MAX_CANDIDATES} other namespaces have, or more")
        }
        None => format!("{count} other namespaces have"),
    };
    let own = NsTag::new(who.ns.inum, who.ns.generation);
    let title = format!(
        "{} in namespace {own} tried to look up {}, which {whose}",
        thread(who),
        name(attempt)
    );
    let mut draft = FindingDraft::by(who, Severity::Info, title);
    draft.benign_explanation = BENIGN.into();
    match attempt.sought {
        LookupKey::Key(_, key) => draft.key = Some(key),
        LookupKey::Name(name) => {
            draft.name = Some((OsBytes(name.to_vec().into()), attempt.name_from));
        }
        LookupKey::Id(..) => {}
    }
    if let Some((ns, local, _)) = target {
        draft = draft.about(Some(ns), Some(true), false);
        draft.local = Some(local);
    }
    let (base_weight, why) = attempt.base_weight;
    let among = match count {
        1 => "one other namespace has it".to_owned(),
        count => format!("{count} other namespaces have it, so {base_weight} is divided by that"),
    };
    let share = base_weight / i32::try_from(count).unwrap_or(i32::MAX);
    draft.add(share, format!("{why}; {among}"));
    let prior = target.and_then(|target| target.2);
    if let Some(why) = prior {
        draft.add(40, why);
    }
    let meant = target.or_else(|| found.first().map(|(ns, local)| (*ns, *local, None)));
    let one = meant.and_then(|(ns, local, _)| tracker.objects.get(ns, local));
    if let (Some(one), Some(wants)) = (one, attempt.wants)
        && may(who, one, wants)
    {
        draft.add(10, "the caller's user would have had access");
    }
    if attempt.size > 0
        && one.and_then(TrackedObject::size).is_some_and(|size| attempt.size <= size)
    {
        draft.add(10, "the size that was asked for fits");
    }
    // A caller with earlier contact doesn't match an instance of its own program by chance.
    if prior.is_none() && same_program(who, found, tracker) {
        let text = "the caller runs the same executable or image as the owner: instances of one program look for the same";
        draft.add(-30, text);
    }
    if let Some((weight, why)) = attempt.penalty {
        draft.add(weight, why);
    }
    if let (Some((max_confidence, why)), None) = (attempt.max_confidence, prior) {
        let sum = draft.reasons.iter().fold(0_i32, |sum, one| sum.saturating_add(one.weight));
        if sum > max_confidence {
            draft.add(max_confidence - sum, why);
        }
    }
    draft.severity = severity(draft.confidence(), prior.is_some());
    Scored { draft, prior: prior.is_some() }
}

/// The key, id or name in a title.
fn name(attempt: &ProbeAttempt<'_>) -> String {
    match attempt.sought {
        LookupKey::Key(kind, key) => format!("{} key {}", kind.name(), KeyTag(Hex32(key))),
        LookupKey::Id(kind, id) => format!("{} id {id}", kind.name()),
        LookupKey::Name(name) => format!("queue \"/{}\"", escaped(name, NAME_WIDTH)),
    }
}

/// Whether the caller would have access to the object in its namespace (`ipcperms`, ipc/util.c, 6.12).
fn may(who: &FindingActor<'_>, one: &TrackedObject, wants: u32) -> bool {
    let capable = who.task_info.is_some_and(|task_info| {
        let held = task_info.identity_as(who.uid).capabilities;
        let initial = task_info.ns.user == Some(INITIAL_USER_NS);
        initial && held.is_some_and(|held| held.has(Capability::CAP_IPC_OWNER))
    });
    let Some(mode) = one.mode() else { return capable };
    let creator = one.creator.as_ref();
    let (uid, gid) = one.owner();
    let is = |own: u32, owner: Option<u32>, creator: Option<u32>| {
        owner == Some(own) || creator == Some(own)
    };
    let granted = if is(who.uid, uid, creator.map(|one| one.uid)) {
        mode >> 6
    } else if is(who.gid, gid, creator.map(|one| one.gid)) {
        mode >> 3
    } else {
        mode
    };
    capable || wants & !granted & 0o7 == 0
}

/// Whether the caller runs the same executable or image as a creator or user of the matches.
fn same_program(who: &FindingActor<'_>, found: &[(NsRef, ObjectId)], tracker: &Tracker) -> bool {
    let Some(own) = who.task_info else { return false };
    let image = own.container(&tracker.containers).and_then(|container| container.image.clone());
    let same_image = |other: Option<std::sync::Arc<crate::event::Container>>| {
        image.is_some() && other.is_some_and(|other| other.image == image)
    };
    found.iter().take(MAX_OBSERVED).any(|(ns, local)| {
        let one = tracker.objects.get(*ns, *local);
        let mut known = one.into_iter().flat_map(TrackedObject::known_tasks).peekable();
        if known.peek().is_none() {
            // An object without known users existed before tracing: only its namespace's container is known.
            return same_image(
                tracker.containers.alone_in(*ns).map(|one| tracker.containers.container(&one)),
            );
        }
        known.any(|other| {
            own.exe.is_some() && own.exe == other.exe
                || same_image(other.container(&tracker.containers))
        })
    })
}
