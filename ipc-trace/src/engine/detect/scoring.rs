//! How sure it is that an attempt was meant for another namespace: pure.
//!
//! What is likely by chance weighs little: ids count up from 0 in each namespace, and twins of an image
//! look for the same keys. What a process can only know from another namespace weighs much.

use ipc_trace_common::{op::Family, record::NsRef};

use super::{
    failed::FailedCalls,
    observation::{CallObservation, FindingActor, FindingDraft},
    say::thread,
};
use crate::{
    engine::track::{
        Tracker,
        objects::{
            index::{LookupKey, MANY},
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

/// Other namespaces whose objects are looked at for the same program.
const LOOKED_AT: usize = 8;
/// Queues' names are shown so far.
const NAME_WIDTH: usize = 64;
/// `CAP_IPC_OWNER` (include/uapi/linux/capability.h)
const CAP_IPC_OWNER: u32 = 15;
/// The initial user namespace (`PROC_USER_INIT_INO`, include/linux/proc_ns.h): over others', who is root
/// in one of its own has no capabilities.
const INITIAL_USER_NS: u32 = 0xEFFF_FFFD;

const EXPLAINS: &str = "programs of the same make that look for a key, id or name of their own; a client \
                        that starts before its server; a handle that was kept while its process moved to \
                        another namespace";

/// A lookup that failed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt<'a> {
    /// Which kind of finding it would be
    pub(super) class: Class,
    /// What was looked for
    pub(super) sought: LookupKey<'a>,
    /// How much it says that exactly one other namespace has that, and why
    pub(super) base: (i32, &'static str),
    /// Where a name comes from
    pub(super) name_from: ReadFrom,
    /// The access that was asked for: bits of `rwx`; `None`: another kind of permission counts
    pub(super) wants: Option<u32>,
    /// The size or number of semaphores that was asked for; `0`: any
    pub(super) size: u64,
    /// What else bears on it
    pub(super) doubt: Option<(i32, &'static str)>,
    /// More than this it is not, unless the caller was there
    pub(super) cap: Option<(i32, &'static str)>,
    /// The calls
    pub(super) failed: FailedCalls,
}

impl Attempt<'_> {
    /// The kind of object that was looked for.
    pub(super) const fn kind(&self) -> Family {
        match self.sought {
            LookupKey::Key(kind, _) | LookupKey::Id(kind, _) => kind,
            LookupKey::Name(_) => Family::Mq,
        }
    }
}

/// What can be said of an attempt.
#[derive(Debug)]
pub(super) struct Argued {
    pub(super) draft: FindingDraft,
    /// The caller was there before, or used the object
    pub(super) prior: bool,
}

/// The severity of an attempt. It reached nothing, so it is high only where there was more before it.
pub(super) const fn severity(confidence: u8, prior: bool) -> Severity {
    match confidence {
        0..40 => Severity::Info,
        40..60 => Severity::Low,
        60..80 => Severity::Medium,
        _ if prior => Severity::High,
        _ => Severity::Medium,
    }
}

/// Weighs an attempt. `found`: what other namespaces have, at least one; `target`: the one that was
/// meant, and what the caller had to do with it.
pub(super) fn argue(
    seen: &CallObservation<'_>,
    attempt: &Attempt<'_>,
    found: &[(NsRef, ObjectId)],
    target: Option<(NsRef, ObjectId, Option<&'static str>)>,
) -> Argued {
    let (who, tracker) = (&seen.who, seen.tracker);
    let count = found.len().max(1);
    let whose = match target {
        Some((ns, ..)) => format!("namespace {} has", NsTag::new(ns.inum, ns.generation)),
        None if count >= MANY => format!("{MANY} other namespaces have, or more"),
        None => format!("{count} other namespaces have"),
    };
    let own = NsTag::new(who.ns.inum, who.ns.generation);
    let title = format!(
        "{} in namespace {own} tried to look up {}, which {whose}",
        thread(who),
        name(attempt)
    );
    let mut draft = FindingDraft::by(who, Severity::Info, title);
    draft.benign_explanation = EXPLAINS;
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
    let (base, why) = attempt.base;
    let among = match count {
        1 => "one other namespace has it".to_owned(),
        count => format!("{count} other namespaces have it, so {base} is divided by that"),
    };
    let share = base / i32::try_from(count).unwrap_or(i32::MAX);
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
    // Who was there does not meet its twin by chance.
    if prior.is_none() && same_program(who, found, tracker) {
        let text =
            "the caller runs the same executable or image as whose it is: twins look for the same";
        draft.add(-30, text);
    }
    if let Some((weight, why)) = attempt.doubt {
        draft.add(weight, why);
    }
    if let (Some((cap, why)), None) = (attempt.cap, prior) {
        let sum = draft.reasons.iter().fold(0_i32, |sum, one| sum.saturating_add(one.weight));
        if sum > cap {
            draft.add(cap - sum, why);
        }
    }
    draft.severity = severity(draft.confidence(), prior.is_some());
    Argued { draft, prior: prior.is_some() }
}

/// What was looked for, as a title says it.
fn name(attempt: &Attempt<'_>) -> String {
    match attempt.sought {
        LookupKey::Key(kind, key) => format!("{} key {}", kind.name(), KeyTag(Hex32(key))),
        LookupKey::Id(kind, id) => format!("{} id {id}", kind.name()),
        LookupKey::Name(name) => format!("queue \"/{}\"", escaped(name, NAME_WIDTH)),
    }
}

/// Whether a caller would have access to an object in its namespace (`ipcperms`, ipc/util.c, 6.12).
fn may(who: &FindingActor<'_>, one: &TrackedObject, wants: u32) -> bool {
    let capable = who.facts.is_some_and(|facts| {
        let held = facts.identity_as(who.uid).capabilities;
        let initial = facts.ns.user == Some(INITIAL_USER_NS);
        initial && held.is_some_and(|held| held.0 & 1 << CAP_IPC_OWNER != 0)
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

/// Whether a caller runs what one of those runs that made or used what was found, or an image of
/// theirs.
fn same_program(who: &FindingActor<'_>, found: &[(NsRef, ObjectId)], tracker: &Tracker) -> bool {
    let Some(own) = who.facts else { return false };
    let image = own.container(&tracker.containers).and_then(|container| container.image.clone());
    let same_image = |other: Option<std::sync::Arc<crate::event::Container>>| {
        image.is_some() && other.is_some_and(|other| other.image == image)
    };
    found.iter().take(LOOKED_AT).any(|(ns, local)| {
        let one = tracker.objects.get(*ns, *local);
        let mut known = one.into_iter().flat_map(TrackedObject::accessors).peekable();
        if known.peek().is_none() {
            // It was there before: those who live there are all that is known.
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
