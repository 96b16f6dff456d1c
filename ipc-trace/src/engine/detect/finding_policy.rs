//! The operator's policy: applied between an observation and the finding that is shown.

use std::{fmt, time::SystemTime};

use minicbor::{Decode, Encode};

use crate::event::finding::{Finding, Severity};

/// A policy's decision about a finding.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(crate) struct FindingDecision {
    /// The rule that mutes it: it is counted but not shown.
    #[n(0)]
    pub muted: Option<Box<str>>,
    /// The rule that allows it: it is shown as `info`.
    #[n(1)]
    pub declared_by: Option<String>,
    /// The severity that the policy sets.
    #[n(2)]
    pub severity: Option<Severity>,
}

/// Decides whether a finding is allowed, muted, or gets another severity.
///
/// Called each time a finding is shown: attributes such as a container's name may arrive late.
pub(crate) trait FindingPolicy: fmt::Debug {
    /// The decision about a finding.
    fn decide(&self, finding: &Finding, now: SystemTime) -> FindingDecision;

    /// The rule that would allow the finding.
    fn suggest(&self, finding: &Finding) -> Option<String>;

    /// Whether the decision can depend on a container's name.
    fn asks_names(&self) -> bool {
        false
    }
}

/// The empty policy.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NoPolicy;

impl FindingPolicy for NoPolicy {
    fn decide(&self, _: &Finding, _: SystemTime) -> FindingDecision {
        FindingDecision::default()
    }

    fn suggest(&self, _: &Finding) -> Option<String> {
        None
    }
}
