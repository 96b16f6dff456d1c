//! A policy as the judge of findings: from a finding to the case that rules speak of, and back.

use std::{rc::Rc, time::SystemTime};

use ipc_trace_common::state::HOST_INUM;

use super::{
    Policy, Rule,
    case::{FindingView, Home, Side},
    suggest::suggest,
};
use crate::{
    engine::detect::judge::{FindingDecision, FindingPolicy},
    event::{
        ReadFrom,
        finding::{Finding, FoundObject, Subject},
    },
};

/// Judges findings by a policy.
#[derive(Debug, Default)]
pub(crate) struct PolicyEngine {
    policy: Policy,
    /// The rules' names, by their numbers
    names: Vec<Rc<str>>,
}

impl PolicyEngine {
    /// By the rules of this one; without any, there is nothing but suggestions.
    #[must_use]
    pub(crate) fn by(policy: Policy) -> Self {
        let names = policy.rules().iter().map(|rule| rule.name.as_str().into()).collect();
        Self { policy, names }
    }

    fn name(&self, rule: usize) -> Option<Rc<str>> {
        self.names.get(rule).map(Rc::clone)
    }
}

impl FindingPolicy for PolicyEngine {
    fn decide(&self, finding: &Finding, now: SystemTime) -> FindingDecision {
        let mut verdict = FindingDecision::default();
        match self.policy.evaluate(&case(finding), now) {
            super::PolicyDecision::Silent => {}
            super::PolicyDecision::Muted(rule) => verdict.muted = self.name(rule),
            super::PolicyDecision::Declared(rule) => {
                verdict.declared_by = self.name(rule).map(|name| name.to_string());
            }
            super::PolicyDecision::Weighs(_, severity) => verdict.severity = Some(severity),
        }
        verdict
    }

    fn suggest(&self, finding: &Finding) -> Option<String> {
        suggest(&case(finding))
    }

    fn asks_names(&self) -> bool {
        !self.policy.rules().is_empty()
    }
}

/// Rules that hold no longer.
pub(crate) fn expired(policy: &Policy, now: SystemTime) -> impl Iterator<Item = &Rule> {
    policy.rules().iter().filter(move |rule| !rule.holds(now))
}

/// A finding, as rules see it.
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

fn subject(subject: &Subject) -> Side<'_> {
    let Subject { process, container, cgroup, ipc_ns } = subject;
    let process = process.as_ref();
    let home = match container {
        Some(container) => Home::Container(container),
        // Without the facts of its thread it is not known where a process is.
        None if process.is_some_and(|one| one.start_boot_ns.is_some()) => Home::Host,
        None => Home::Unknown,
    };
    Side {
        home,
        uid: process.map(|one| one.uid),
        cgroup: cgroup.as_ref().map(|path| path.0.as_ref()),
        exe: process.and_then(|one| one.exe.as_ref()).map(|path| path.0.as_ref()),
        comm: process.map(|one| one.comm.0.as_ref()),
        ipc_ns: ipc_ns.map(|ns| (ns.inum, ns.host)),
    }
}

fn owner(object: &FoundObject) -> Side<'_> {
    let home = match (&object.owner_container, object.owner_on_host) {
        (Some(container), _) => Home::Container(container),
        (None, Some(true)) => Home::Host,
        (None, Some(false) | None) => Home::Unknown,
    };
    let creator = object.creator.as_ref();
    Side {
        home,
        uid: creator.map(|one| one.uid),
        exe: creator.and_then(|one| one.exe.as_ref()).map(|path| path.0.as_ref()),
        ipc_ns: object.ipc_ns.map(|ns| (ns.inum, ns.inum == HOST_INUM)),
        ..Side::default()
    }
}
