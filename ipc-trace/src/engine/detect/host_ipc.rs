//! `host-ipc`: a container lives in the host's IPC namespace and uses it.
//!
//! Nothing keeps it there from the objects of the host, and of all others that live there, but their modes.

use super::{
    cross_container::apply_sharing,
    detector::{DetectCx, Detector},
    observation::{
        CallObservation, EvidenceEvent, FindingDraft, FindingKey, FindingOwner, FindingTarget,
        ObservedCalls,
    },
    shared::SharedUse,
};
use crate::{
    engine::track::{
        HashMap,
        containers::{ContainerHandle, Containers},
        namespaces::is_host,
    },
    event::tag::ContainerTag,
    event::{
        Sharing,
        finding::{Class, Severity},
    },
};

const EXPLAINS: &str = "a container that was given the host's namespace on purpose by a runtime that can't be \
                        asked; a process that a supervisor of the host put into the container's cgroup";

/// The class: containers in the host's namespace, each with its finding, as long as that is followed.
#[derive(Debug, Default)]
pub(super) struct HostIpc {
    found: HashMap<ContainerHandle, FindingKey>,
    /// How often findings had been forgotten when these were looked through
    forgot: u64,
}

impl Detector for HostIpc {
    #[inline]
    fn calls(&mut self, seen: &CallObservation<'_>, to: &mut DetectCx<'_>) {
        if is_host(seen.who.ns)
            && let Some(own) = seen.who.facts.and_then(|facts| facts.container.as_ref())
        {
            self.on_host(seen, own, to);
        }
    }
}

impl HostIpc {
    fn on_host(
        &mut self,
        seen: &CallObservation<'_>,
        own: &ContainerHandle,
        to: &mut DetectCx<'_>,
    ) {
        let Some(trace) = used(seen) else { return };
        self.forget(to);
        let key = self.found.get(own);
        if key.is_some_and(|key| to.meetings.again(key, &trace)) {
            return;
        }
        to.meetings.make_room(to.findings);
        self.forget(to);
        let shared = first_use(seen, own);
        let key = shared.key.clone();
        if to.meetings.open(shared, trace, &seen.tracker.containers, to.findings) {
            self.found.insert(own.clone(), key);
        }
    }

    /// Forgets containers whose findings are not followed any more.
    fn forget(&mut self, to: &DetectCx<'_>) {
        if self.forgot != to.meetings.forgot() {
            self.forgot = to.meetings.forgot();
            self.found.retain(|_, key| to.meetings.is_open(key));
        }
    }
}

/// A container's calls, made in the host's namespace, if they used an object of it.
fn used(seen: &CallObservation<'_>) -> Option<EvidenceEvent> {
    let trace = seen.trace();
    // A descriptor may lead elsewhere, which is another finding.
    if seen.queue.is_some_and(|_| seen.place().foreign != Some(false)) {
        return None;
    }
    match seen.calls {
        ObservedCalls::One(call) => (call.record.ret >= 0).then_some(trace),
        ObservedCalls::Group(_, group) => {
            (group.succeeded > 0).then_some(EvidenceEvent { count: group.succeeded, ..trace })
        }
    }
}

/// A container uses the host's namespace for the first time.
fn first_use(seen: &CallObservation<'_>, own: &ContainerHandle) -> SharedUse {
    let ns = seen.who.ns;
    let whose =
        FindingOwner::Container(seen.tracker.containers.container(own).id.0.to_vec().into());
    let key = FindingKey { class: Class::HostIpc, whose, target: FindingTarget::Namespace(ns) };
    let mut draft = FindingDraft::by(&seen.who, Severity::Medium, String::new())
        .about(Some(ns), Some(false), false)
        .because(
            90,
            "the eBPF programs read cgroup and namespace of the thread that made the call",
        );
    draft.benign_explanation = EXPLAINS;
    SharedUse {
        key,
        ns,
        subject: own.clone(),
        other: None,
        object: String::new(),
        draft,
        say: self::draft,
    }
}

/// What there is to say, as the runtime's word stands.
fn draft(shared: &SharedUse, containers: &Containers, sharing: Sharing) -> FindingDraft {
    let mut draft = shared.draft.clone();
    let own = containers.container(&shared.subject);
    draft.title = format!("container {} uses the host's IPC namespace", ContainerTag(&own));
    apply_sharing(&mut draft, sharing, &own);
    draft
}
