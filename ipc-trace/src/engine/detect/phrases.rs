//! Phrases for titles: actors and namespaces. Names that others chose are escaped.

use ipc_trace_common::record::NsRef;

use super::observation::FindingActor;
use crate::event::{
    escape::escaped,
    tag::{COMM_WIDTH, NsTag},
};

/// The actor in a title.
pub(super) fn thread(who: &FindingActor<'_>) -> String {
    let name = who.comm.split(|byte| *byte == 0).next().unwrap_or_default();
    format!("{}[{}]", escaped(name, COMM_WIDTH), who.pid)
}

/// The namespace in a title.
pub(super) fn namespace_phrase(ns: Option<NsRef>, dead: bool) -> String {
    match (ns, dead) {
        (Some(ns), false) => format!("namespace {}", NsTag::new(ns.inum, ns.generation)),
        (Some(ns), true) => {
            format!("namespace {}, which is dead", NsTag::new(ns.inum, ns.generation))
        }
        (None, _) => "a namespace that is dead".to_owned(),
    }
}
