//! `foreign-view`: another namespace's tables were read through a descriptor of `/proc/sysvipc`, or its
//! settings were written.
//!
//! A file of `/proc/sysvipc` shows the namespace in which it was opened, in whatever namespace it is read.

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

const BENIGN: &str = "a monitor that opens the tables of each namespace and reads them later, or a \
                        service that opened them before it was sandboxed";
const NAME_WIDTH: usize = 32;

/// The detector.
#[derive(Debug, Default)]
pub(super) struct ForeignView;

impl Detector for ForeignView {
    fn access(&mut self, access: &AccessObservation<'_>, to: &mut DetectCx<'_>) -> bool {
        found(access, to);
        true
    }
}

/// Reports an access to tables or settings.
fn found(access: &AccessObservation<'_>, to: &mut DetectCx<'_>) {
    let AccessPathRow { class, reached, extent, did, what, weight, reason } =
        access_paths::row(access.channel);
    if class != Class::ForeignView || access.foreign != Some(true) {
        return;
    }
    let AccessObservation { who, ns, dead, .. } = *access;
    let name = access.name().unwrap_or_default();
    let key = FindingKey::for_process(
        Class::ForeignView,
        who.key(),
        FindingTarget::View(ns, name.into()),
    );
    let draft = || {
        let shown = match (name, reached) {
            ([], _) => "a table".to_owned(),
            (name, AccessTarget::Setting) => format!("{}", escaped(name, NAME_WIDTH)),
            (name, _) => format!("/proc/sysvipc/{}", escaped(name, NAME_WIDTH)),
        };
        let title = format!(
            "{} in namespace {} {did} {shown} of {}",
            thread(&who),
            NsTag::new(who.ns.inum, who.ns.generation),
            namespace_phrase(ns, dead),
        );
        let mut draft = FindingDraft::by(&who, Severity::Medium, title)
            .about(ns, Some(true), dead)
            .because(weight, reason);
        draft.name = Some((OsBytes(name.to_vec().into()), ReadFrom::Kernel));
        draft.benign_explanation = BENIGN.into();
        draft
    };
    to.saw_as(extent, key, access.trace(what), draft);
}
