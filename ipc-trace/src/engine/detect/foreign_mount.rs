//! `foreign-mount`: a queue opened, created, read, polled or unlinked through another namespace's mqueue file
//! system.
//!
//! Each IPC namespace has one mqueue file system, which is reachable wherever it is mounted: by a bind mount,
//! by `/proc/PID/root`, by a descriptor of it, or by a mount made with fsopen in that namespace. The eBPF
//! programs compare the file system's namespace with the thread's, so this isn't inferred.

use super::{
    access_paths::{self, AccessPathRow, AccessTarget},
    detector::{DetectCx, Detector},
    observation::{AccessObservation, FindingDraft, FindingKey, FindingTarget},
    phrases::{namespace_phrase, thread},
};
use crate::{
    event::escape::escaped,
    event::tag::NsTag,
    event::{
        ReadFrom,
        finding::{Class, Severity},
        value::OsBytes,
    },
};

const BENIGN: &str = "a backup or indexing tool that walks another mount namespace, a container that is \
                        given another's /dev/mqueue on purpose, or an administrator who looks into it";
/// Width of queue names in titles, in cells.
const NAME_WIDTH: usize = 64;

/// The detector.
#[derive(Debug, Default)]
pub(super) struct ForeignMount;

impl Detector for ForeignMount {
    fn access(&mut self, access: &AccessObservation<'_>, to: &mut DetectCx<'_>) -> bool {
        found(access, to);
        true
    }
}

/// Reports an access to a queue or its file system.
fn found(access: &AccessObservation<'_>, to: &mut DetectCx<'_>) {
    let AccessPathRow { class, reached, extent: _, did, what, weight, reason } =
        access_paths::row(access.channel);
    if class != Class::ForeignMount || access.foreign != Some(true) {
        return;
    }
    let AccessObservation { who, ns, dead, record, .. } = *access;
    let object = &record.object;
    let a_queue = reached == AccessTarget::Queue;
    let target = match (a_queue, ns) {
        (true, _) if object.ino != 0 => FindingTarget::Queue(object.dev, object.ino),
        (true, _) => FindingTarget::Name(ns, access.name().unwrap_or_default().into()),
        (false, Some(ns)) => FindingTarget::Namespace(ns),
        (false, None) => FindingTarget::Queue(object.dev, 0),
    };
    let key = FindingKey::for_process(Class::ForeignMount, who.key(), target);
    let draft = || {
        let name = access.name().filter(|_| a_queue);
        let shown = match name {
            Some(name) => format!(" queue \"/{}\" of", escaped(name, NAME_WIDTH)),
            None if a_queue => " a queue of".to_owned(),
            None => String::new(),
        };
        let title = format!(
            "{} in namespace {} {did}{shown} {} by way of its mqueue file system",
            thread(&who),
            NsTag::new(who.ns.inum, who.ns.generation),
            namespace_phrase(ns, dead),
        );
        let mut draft = FindingDraft::by(&who, Severity::High, title)
            .about(ns, Some(true), dead)
            .because(weight, reason);
        draft.name = name.map(|name| (OsBytes(name.to_vec().into()), ReadFrom::Kernel));
        draft.benign_explanation = BENIGN.into();
        draft
    };
    to.saw(key, access.trace(what), draft);
}
