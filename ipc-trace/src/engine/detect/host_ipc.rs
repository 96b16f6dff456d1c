//! `host-ipc`: a container lives in the host's IPC namespace and uses it.
//!
//! Nothing keeps it there from the objects of the host, and of all others that live there, but their modes.

use std::rc::Rc;

use super::{
    cross_container::judge,
    shared::Shared,
    sighting::{Calls, Draft, Key, Seen, Target, Trace, Whose},
};
use crate::{
    engine::track::containers::Known,
    event::tag::ContainerTag,
    event::{
        Sharing,
        finding::{Class, Severity},
    },
};

const EXPLAINS: &str = "a container that was given the host's namespace on purpose by a runtime that can't be \
                        asked; a process that a supervisor of the host put into the container's cgroup";

/// A container's calls, made in the host's namespace, if they used an object of it.
pub(super) fn used(seen: &Seen<'_>) -> Option<Trace> {
    let trace = seen.trace();
    // A descriptor may lead elsewhere, which is another finding.
    if seen.queue.is_some_and(|_| seen.place().foreign != Some(false)) {
        return None;
    }
    match seen.calls {
        Calls::One(call) => (call.record.ret >= 0).then_some(trace),
        Calls::Group(_, group) => {
            (group.succeeded > 0).then_some(Trace { count: group.succeeded, ..trace })
        }
    }
}

/// A container uses the host's namespace for the first time.
pub(super) fn met(seen: &Seen<'_>, known: &Rc<Known>) -> Shared {
    let ns = seen.who.ns;
    let whose = Whose::Container(known.container().id.0.to_vec().into());
    let key = Key { class: Class::HostIpc, whose, target: Target::Namespace(ns) };
    let mut draft = Draft::by(&seen.who, Severity::Medium, String::new())
        .of(Some(ns), Some(false), false)
        .because(90, "the kernel side read cgroup and namespace of the thread that made the call");
    draft.explains = EXPLAINS;
    Shared { key, ns, subject: Rc::clone(known), other: None, object: String::new(), draft }
}

/// What there is to say, as the runtime's word stands.
pub(super) fn draft(shared: &Shared, sharing: Sharing) -> Draft {
    let mut draft = shared.draft.clone();
    let own = shared.subject.container();
    draft.title = format!("container {} uses the host's IPC namespace", ContainerTag(&own));
    judge(&mut draft, sharing, &own);
    draft
}
