//! `foreign-object`: an operation on a queue of another namespace than the caller's.
//!
//! A queue's descriptor refers to the queue in whatever namespace its holder is: it can be kept across setns
//! and unshare, inherited by a child in a new namespace, received over a socket, or taken by pidfd_getfd. The
//! eBPF programs compare the namespace of the queue's file system with the caller's at each operation, so
//! this isn't inferred.

use ipc_trace_common::record::queue_flag;

use super::phrases::{namespace_phrase, thread};
use super::{
    access_paths::{self, AccessPathRow},
    detector::{DetectCx, Detector},
    observation::{
        AccessObservation, CallObservation, Extent, FindingDraft, FindingKey, FindingTarget,
    },
};
use crate::{
    event::escape::escaped,
    event::finding::{Class, Severity},
    event::tag::NsTag,
};

const BENIGN: &str = "a service that hands its queue to a sandboxed or contained helper, or that \
                        moves itself to another namespace and goes on using its own queue";
/// Width of queue names in titles, in cells.
const NAME_WIDTH: usize = 64;

/// The detector.
#[derive(Debug, Default)]
pub(super) struct ForeignObject;

impl Detector for ForeignObject {
    #[inline]
    fn calls(&mut self, seen: &CallObservation<'_>, to: &mut DetectCx<'_>) {
        calls(seen, to);
    }

    fn access(&mut self, access: &AccessObservation<'_>, to: &mut DetectCx<'_>) -> bool {
        handed(access, to);
        true
    }
}

/// Accesses without an operation are descriptors that were received.
fn received(
    key: &FindingKey,
    access: &AccessObservation<'_>,
    row: &AccessPathRow,
    to: &mut DetectCx<'_>,
) {
    let AccessObservation { who, ns, dead, .. } = *access;
    let draft = || {
        let title = format!(
            "{} {} a queue of {}, and has not been seen to use it",
            thread(&who),
            row.did,
            namespace_phrase(ns, dead),
        );
        let mut draft = FindingDraft::by(&who, Severity::Low, title)
            .about(ns, Some(true), dead)
            .because(row.weight, row.reason)
            .because(-20, "a descriptor alone does nothing to the queue");
        draft.benign_explanation = BENIGN.into();
        draft
    };
    to.saw_as(row.extent, key.clone(), access.trace(row.what), draft);
}

/// Reports operations on queues of other namespaces.
fn calls(seen: &CallObservation<'_>, to: &mut DetectCx<'_>) {
    let Some(queue) = seen.queue else { return };
    const KNOWN: u32 = queue_flag::KNOWN;
    let foreign = queue_flag::FOREIGN | queue_flag::DEAD;
    if queue.flags & KNOWN == 0 || queue.flags & foreign == 0 {
        return;
    }
    let CallObservation { who, tracker, .. } = *seen;
    let key = FindingKey::for_process(
        Class::ForeignObject,
        who.key(),
        FindingTarget::Queue(queue.dev, queue.ino),
    );
    let place = seen.place();
    let draft = || {
        let called = tracker.queues.name(queue);
        let shown = called.as_ref().map_or_else(
            || "a queue".to_owned(),
            |(called, _)| format!("queue \"/{}\"", escaped(&called.0, NAME_WIDTH)),
        );
        let title = format!(
            "{} in namespace {} used {shown} of {}",
            thread(&who),
            NsTag::new(who.ns.inum, who.ns.generation),
            namespace_phrase(place.ns, place.dead),
        );
        let mut draft = FindingDraft::by(&who, Severity::High, title)
            .about(place.ns, Some(true), place.dead)
            .because(95, "the eBPF programs read both namespaces in the call itself");
        draft.name = called.map(|(name, from)| (name.into_owned(), from));
        draft.benign_explanation = BENIGN.into();
        draft
    };
    to.saw_as(Extent::Used, key, seen.trace(), draft);
}

/// Reports a received descriptor of a queue.
fn handed(access: &AccessObservation<'_>, to: &mut DetectCx<'_>) {
    let row = access_paths::row(access.channel);
    if row.class != Class::ForeignObject || access.foreign != Some(true) {
        return;
    }
    let object = &access.record.object;
    let target = FindingTarget::Queue(object.dev, object.ino);
    let key = FindingKey::for_process(Class::ForeignObject, access.who.key(), target);
    received(&key, access, &row, to);
}
