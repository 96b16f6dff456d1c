//! `host-ipc`: a container lives in the host's IPC namespace and uses it.
//!
//! There only permission bits protect the objects of the host and of all other containers in the namespace.

use minicbor::{Decode, Encode};

use super::{
    detector::{DetectCx, Detector, keeps_state},
    observation::{
        CallObservation, EvidenceEvent, FindingDraft, FindingKey, FindingOwner, FindingTarget,
        ObservedCalls,
    },
    sharing::{SharedThing, SharedUse},
};
use crate::event::shared::SharedState;
use crate::{
    engine::track::{OrderedMap, containers::ContainerHandle, namespaces::is_host},
    event::finding::{Class, Severity},
};

const BENIGN: &str = "a container that was given the host's namespace on purpose by a runtime that can't be \
                        asked; a process that a supervisor of the host put into the container's cgroup";

/// The detector: containers in the host's namespace, with the finding of each while it can be amended.
#[derive(Debug, Default, Encode, Decode)]
#[cbor(context_bound = "SharedState")]
pub(super) struct HostIpc {
    #[n(0)]
    found: OrderedMap<ContainerHandle, FindingKey>,
    /// The eviction count of the sharing tracker at the last cleanup.
    #[n(1)]
    forgot: u64,
}

impl Detector for HostIpc {
    keeps_state!();

    #[inline]
    fn calls(&mut self, seen: &CallObservation<'_>, to: &mut DetectCx<'_>) {
        if is_host(seen.who.ns)
            && let Some(own) = seen.who.task_info.and_then(|task_info| task_info.container.as_ref())
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
        if key.is_some_and(|key| to.sharing.again(key, &trace)) {
            return;
        }
        to.sharing.make_room(to.findings);
        self.forget(to);
        let shared = first_use(seen, own);
        let key = shared.key.clone();
        if to.sharing.open(shared, trace, &seen.tracker.containers, to.findings) {
            self.found.insert(own.clone(), key);
        }
    }

    /// Removes containers whose findings can no longer be amended.
    fn forget(&mut self, to: &DetectCx<'_>) {
        if self.forgot != to.sharing.forgot() {
            self.forgot = to.sharing.forgot();
            self.found.retain(|_, key| to.sharing.is_open(key));
        }
    }
}

/// The evidence of a container's calls in the host's namespace, if they used an object of it.
fn used(seen: &CallObservation<'_>) -> Option<EvidenceEvent> {
    let trace = seen.trace();
    // A descriptor may refer to another namespace's queue, which is a separate finding.
    if seen.queue.is_some_and(|_| seen.place().foreign != Some(false)) {
        return None;
    }
    match seen.calls {
        ObservedCalls::One(call) => (call.record.ret >= 0).then_some(trace),
        ObservedCalls::Group(_, group) => {
            (group.succeeded() > 0).then_some(EvidenceEvent { count: group.succeeded(), ..trace })
        }
    }
}

/// The first use of the host's namespace by a container.
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
    draft.benign_explanation = BENIGN.into();
    SharedUse { key, ns, subject: own.clone(), shared: SharedThing::HostNamespace, draft }
}
