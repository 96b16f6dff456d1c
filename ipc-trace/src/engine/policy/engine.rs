//! Applies a policy to findings: converts a finding to its view, and the decision back.

use std::time::SystemTime;

use ipc_trace_common::state::HOST_INUM;

use super::{
    Policy, Rule,
    finding_view::{ContainerScope, FindingView, Party},
    suggest::suggest,
};
use crate::{
    engine::detect::finding_policy::{FindingDecision, FindingPolicy},
    event::{
        ReadFrom,
        finding::{Finding, FoundObject, Subject},
    },
};

/// A policy with its rules' names, as the detectors use it.
#[derive(Debug, Default)]
pub(crate) struct PolicyEngine {
    policy: Policy,
    /// The rules' names by index.
    names: Vec<Box<str>>,
}

impl PolicyEngine {
    /// Evaluates the rules of this policy. An empty policy only suggests rules.
    #[must_use]
    pub(crate) fn by(policy: Policy) -> Self {
        let names = policy.rules().iter().map(|rule| rule.name.as_str().into()).collect();
        Self { policy, names }
    }

    fn name(&self, rule: usize) -> Option<Box<str>> {
        self.names.get(rule).cloned()
    }
}

impl FindingPolicy for PolicyEngine {
    fn decide(&self, finding: &Finding, now: SystemTime) -> FindingDecision {
        let mut decision = FindingDecision::default();
        match self.policy.evaluate(&case(finding), now) {
            super::PolicyDecision::Silent => {}
            super::PolicyDecision::Muted(rule) => decision.muted = self.name(rule),
            super::PolicyDecision::Declared(rule) => {
                decision.declared_by = self.name(rule).map(|name| name.to_string());
            }
            super::PolicyDecision::Weighs(_, severity) => decision.severity = Some(severity),
        }
        decision
    }

    fn suggest(&self, finding: &Finding) -> Option<String> {
        suggest(&case(finding))
    }

    fn asks_names(&self) -> bool {
        !self.policy.rules().is_empty()
    }
}

/// The expired rules.
pub(crate) fn expired(policy: &Policy, now: SystemTime) -> impl Iterator<Item = &Rule> {
    policy.rules().iter().filter(move |rule| !rule.holds(now))
}

/// The view of a finding.
fn case(finding: &Finding) -> FindingView<'_> {
    let object = finding.object.as_ref();
    FindingView {
        class: finding.class,
        severity: finding.severity,
        subject: subject(&finding.subject),
        owner: object.map(owner).unwrap_or_default(),
        kind: object.and_then(|object| object.kind).map(|kind| kind.0),
        key: object.and_then(|object| object.key).map(|key| key.0),
        name: object.and_then(|object| object.name.as_ref()).map(|name| name.0.as_ref()),
        name_is_proven: object.and_then(|object| object.name_from) == Some(ReadFrom::Kernel),
    }
}

fn subject(subject: &Subject) -> Party<'_> {
    let Subject { process, container, cgroup, ipc_ns } = subject;
    let process = process.as_ref();
    let scope = match container {
        Some(container) => ContainerScope::Container(container),
        // Without its thread's task a process's container is unknown.
        None if process.is_some_and(|one| one.start_boot_ns.is_some()) => ContainerScope::Host,
        None => ContainerScope::Unknown,
    };
    Party {
        scope,
        uid: process.map(|one| one.uid),
        cgroup: cgroup.as_ref().map(|path| path.0.as_ref()),
        exe: process.and_then(|one| one.exe.as_ref()).map(|path| path.0.as_ref()),
        comm: process.map(|one| one.comm.0.as_ref()),
        ipc_ns: ipc_ns.map(|ns| (ns.inum, ns.host)),
    }
}

fn owner(object: &FoundObject) -> Party<'_> {
    let scope = match (&object.owner_container, object.owner_on_host) {
        (Some(container), _) => ContainerScope::Container(container),
        (None, Some(true)) => ContainerScope::Host,
        (None, Some(false) | None) => ContainerScope::Unknown,
    };
    let creator = object.creator.as_ref();
    Party {
        scope,
        uid: creator.map(|one| one.uid),
        exe: creator.and_then(|one| one.exe.as_ref()).map(|path| path.0.as_ref()),
        ipc_ns: object.ipc_ns.map(|ns| (ns.inum, ns.inum == HOST_INUM)),
        ..Party::default()
    }
}
