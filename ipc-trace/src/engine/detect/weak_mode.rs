//! `weak-mode`: a world-writable object is used by more than one user or container.
//!
//! With a single user the mode is only bad style; with several, each depends on everyone who can reach the
//! namespace.

use ipc_trace_common::record::NsRef;

use super::{
    cross_container_denied::name,
    detector::{DetectCx, Detector},
    observation::{
        CallObservation, EvidenceEvent, FindingActor, FindingDraft, FindingKey, FindingOwner,
    },
    sharing::target,
};
use crate::{
    engine::track::objects::{
        CallerSnapshot, ObjectChange,
        tracked::{ObjectId, TrackedObject},
    },
    event::tag::NsTag,
    event::{
        finding::{Class, Severity},
        objects::ObjectEventKind,
    },
};

const BENIGN: &str = "a program that has no common group to give its object to, and checks what others write \
                        there";
/// `S_IWOTH` (include/uapi/linux/stat.h)
const OTHERS_WRITE: u32 = 0o002;

/// The detector.
#[derive(Debug, Default)]
pub(super) struct WeakMode;

impl Detector for WeakMode {
    fn new_user(
        &mut self,
        seen: &CallObservation<'_>,
        at: (NsRef, ObjectId),
        one: &TrackedObject,
        to: &mut DetectCx<'_>,
    ) {
        if let Some((key, draft)) = check_mode(&seen.who, at, one)
            && to.findings.draft(&key).is_none()
        {
            to.sharing.count(&key, at, one, to.findings);
            to.saw(key, seen.trace(), || draft);
        }
    }

    fn object(&mut self, change: &ObjectChange, to: &mut DetectCx<'_>) {
        if let Some((key, trace, draft)) = changed(change)
            && to.findings.draft(&key).is_none()
        {
            to.sharing.count(&key, (change.ns, change.local), &change.one, to.findings);
            to.saw(key, trace, || draft);
        }
    }
}

/// Checks an object that got a new user.
fn check_mode(
    who: &FindingActor<'_>,
    (ns, local): (NsRef, ObjectId),
    one: &TrackedObject,
) -> Option<(FindingKey, FindingDraft)> {
    let mode = one.mode().filter(|mode| mode & OTHERS_WRITE != 0)?;
    let several = several(one)?;
    let key = FindingKey {
        class: Class::WeakMode,
        whose: FindingOwner::Shared,
        target: target(ns, local),
    };
    let title = format!(
        "{} in namespace {} may be written by anybody (mode {mode:04o}), and is used by {several}",
        name(local, one),
        NsTag::new(ns.inum, ns.generation),
    );
    let mut draft = FindingDraft::by(who, Severity::Low, title)
        .about(Some(ns), Some(who.ns != ns), false)
        .because(90, "its mode is known, and calls of all of them were seen");
    draft.local = Some(local);
    draft.benign_explanation = BENIGN.into();
    Some((key, draft))
}

/// Checks a changed object: its mode may have become world-writable while several use it.
fn changed(change: &ObjectChange) -> Option<(FindingKey, EvidenceEvent, FindingDraft)> {
    if change.life != ObjectEventKind::Changed {
        return None;
    }
    let CallerSnapshot { tid, pid, uid, gid, comm, task_info } = change.by.as_ref()?;
    let (ns, task_info) = (change.ns, task_info.as_ref());
    let who = FindingActor { pid: *pid, tid: *tid, uid: *uid, gid: *gid, comm, ns, task_info };
    let (key, draft) = check_mode(&who, (change.ns, change.local), &change.one)?;
    let what = "mode changed".into();
    let boot_ns = change.boot_ns;
    Some((key, EvidenceEvent { boot_ns, seq: None, what, ret: None, error: None, count: 1 }, draft))
}

/// Describes the users of an object, if there are several.
fn several(one: &TrackedObject) -> Option<&'static str> {
    let accessors = one.accessors();
    let first = accessors.first()?;
    // The creator counts as a user.
    let maker = one.creator.as_ref().is_some_and(|maker| maker.uid != first.uid);
    if accessors.iter().any(|accessor| accessor.container != first.container) {
        Some("several containers, or by one and the host")
    } else if maker || accessors.iter().any(|accessor| accessor.uid != first.uid) {
        Some("several users")
    } else {
        None
    }
}
