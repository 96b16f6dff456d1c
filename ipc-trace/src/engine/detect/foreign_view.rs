//! `foreign-view`: another namespace's tables were read by a descriptor of `/proc/sysvipc`, or its
//! settings were written.
//!
//! A file of `/proc/sysvipc` shows the namespace in which it was opened, wherever it is read afterwards.

use super::{
    channels::{self, Reached, Row},
    detector::{Detector, Judging},
    say::{of, thread},
    sighting::{Access, Draft, Key, Target},
};
use crate::{
    event::escape::escaped,
    event::tag::NsTag,
    event::{
        ReadFrom,
        finding::{Class, Severity},
        value::Text,
    },
};

const EXPLAINS: &str = "a monitor that opens the tables of each namespace and reads them later, or a \
                        service that opened them before it was sandboxed";
const NAME_WIDTH: usize = 32;

/// The class.
#[derive(Debug, Default)]
pub(super) struct ForeignView;

impl Detector for ForeignView {
    fn access(&mut self, access: &Access<'_>, to: &mut Judging<'_>) -> bool {
        found(access, to);
        true
    }
}

/// Tables or settings were reached.
fn found(access: &Access<'_>, to: &mut Judging<'_>) {
    let Row { class, reached, extent, did, what, weight, reason } = channels::row(access.channel);
    if class != Class::ForeignView || access.foreign != Some(true) {
        return;
    }
    let Access { who, ns, dead, .. } = *access;
    let name = access.name().unwrap_or_default();
    let key = Key::of(Class::ForeignView, who.key(), Target::View(ns, name.into()));
    let draft = || {
        let shown = match (name, reached) {
            ([], _) => "a table".to_owned(),
            (name, Reached::Setting) => format!("{}", escaped(name, NAME_WIDTH)),
            (name, _) => format!("/proc/sysvipc/{}", escaped(name, NAME_WIDTH)),
        };
        let title = format!(
            "{} in namespace {} {did} {shown} of {}",
            thread(&who),
            NsTag::new(who.ns.inum, who.ns.generation),
            of(ns, dead),
        );
        let mut draft = Draft::by(&who, Severity::Medium, title)
            .of(ns, Some(true), dead)
            .because(weight, reason);
        draft.name = Some((Text(name.to_vec().into()), ReadFrom::Kernel));
        draft.explains = EXPLAINS;
        draft
    };
    to.saw_as(extent, key, access.trace(what), draft);
}
