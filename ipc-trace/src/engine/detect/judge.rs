//! Where an operator's word comes in: between an observation and the finding that is shown.

use std::{fmt, rc::Rc, time::SystemTime};

use crate::event::finding::{Finding, Severity};

/// What is said of a finding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FindingDecision {
    /// It is not shown, but counted, by this rule
    pub muted: Option<Rc<str>>,
    /// It is deliberate, by this rule: it is shown as `info`
    pub declared_by: Option<String>,
    /// It weighs so much
    pub severity: Option<Severity>,
}

/// Who says whether a finding is deliberate, is not to be shown, or weighs more.
///
/// It is asked each time a finding is shown: what is known of one, as a container's name, can come late.
pub(crate) trait FindingPolicy: fmt::Debug {
    /// What there is to say of a finding.
    fn decide(&self, finding: &Finding, now: SystemTime) -> FindingDecision;

    /// What would have to be said to declare it deliberate.
    fn suggest(&self, finding: &Finding) -> Option<String>;

    /// Whether what there is to say can depend on a container's name.
    fn asks_names(&self) -> bool {
        false
    }
}

/// Nobody has anything to say.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Silent;

impl FindingPolicy for Silent {
    fn decide(&self, _: &Finding, _: SystemTime) -> FindingDecision {
        FindingDecision::default()
    }

    fn suggest(&self, _: &Finding) -> Option<String> {
        None
    }
}
