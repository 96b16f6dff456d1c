//! The operator's policy: which accesses are allowed, which findings are muted, and which severity they get.
//! A file in TOML; `docs/POLICY.md` describes it.
//!
//! | module | its job |
//! | --- | --- |
//! | [`finding_view`] | the attributes of a finding that rules match |
//! | [`conditions`] | conditions on subject and object, and their evaluation |
//! | [`parse`] | parses a file to rules or to a list of errors |
//! | [`suggest`] | the rule that would allow a finding |
//! | [`check`] | the output of `policy check` |
//! | [`engine`] | applies a policy to findings |
//!
//! Invariant: evaluation is pure: equal findings, rules and times give equal decisions. Unknown attributes
//! match no rule.

pub(crate) mod check;
pub(crate) mod conditions;
pub(crate) mod engine;
pub(crate) mod finding_view;
pub(crate) mod parse;
pub(crate) mod suggest;
#[cfg(test)]
mod tests;

use std::{path::Path, time::SystemTime};

use crate::event::finding::{Class, Severity};
use conditions::{Attribute, Condition};
use finding_view::FindingView;
use parse::PolicyError;

/// Maximal size of a policy file, in bytes.
pub(crate) const MAX_POLICY_BYTES: u64 = 256 << 10;
/// Maximal number of rules.
pub(crate) const MAX_RULES: usize = 1000;

/// The action of a rule on the findings that it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Allows them: their severity is `info`.
    Allow,
    /// Mutes them: they are counted but not shown.
    Mute,
    /// Sets their severity.
    Severity(Severity),
}

impl Action {
    /// The name of its TOML table.
    #[must_use]
    pub(crate) const fn table(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Mute => "mute",
            Self::Severity(_) => "severity",
        }
    }
}

/// The date or time at which a rule expires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expiry {
    /// As written in the file.
    pub text: String,
    /// The rule doesn't apply from then on.
    pub end: SystemTime,
}

/// A rule.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    /// Its name, unique in the file.
    pub name: String,
    /// Why the rule exists.
    pub reason: Option<String>,
    /// Its action.
    pub action: Action,
    /// The classes that it applies to; empty: all.
    pub classes: Vec<Class>,
    /// Conditions on the subject.
    pub subject: Vec<Condition>,
    /// Conditions on the object.
    pub object: Vec<Condition>,
    /// When it expires.
    pub until: Option<Expiry>,
    /// The line where it begins.
    pub line: usize,
}

impl Rule {
    /// Whether the rule hasn't expired.
    #[must_use]
    pub(crate) fn holds(&self, now: SystemTime) -> bool {
        self.until.as_ref().is_none_or(|until| now < until.end)
    }

    /// Whether the rule matches a finding.
    #[must_use]
    pub(crate) fn matches(&self, case: &FindingView<'_>) -> bool {
        let hides = match self.action {
            Action::Allow | Action::Mute => true,
            Action::Severity(severity) => severity < case.severity,
        };
        // A caller can make another name be read than that of the queue.
        if hides
            && !case.name_is_proven
            && self.object.iter().any(|one| one.what == Attribute::Name)
        {
            return false;
        }
        (self.classes.is_empty() || self.classes.contains(&case.class))
            && self.subject.iter().all(|one| one.holds(&case.subject, case))
            && self.object.iter().all(|one| one.holds(&case.owner, case))
    }
}

/// A policy's decision about a finding, with the rule's index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum PolicyDecision {
    /// No rule matches.
    #[default]
    Silent,
    /// The finding is muted.
    Muted(usize),
    /// The finding is allowed.
    Declared(usize),
    /// The finding gets this severity.
    Weighs(usize, Severity),
}

/// All rules of a file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Policy {
    /// In evaluation order: mute, allow, severity; each in the order of the file.
    rules: Vec<Rule>,
}

impl Policy {
    /// Parses a policy file. `user` resolves a user name to its number.
    ///
    /// # Errors
    /// The file isn't a valid policy; the error lists the problems with their positions.
    pub(crate) fn parse(
        file: &Path,
        bytes: &[u8],
        user: &dyn Fn(&str) -> Result<u32, String>,
    ) -> Result<Self, PolicyError> {
        let failed = |problems| PolicyError { file: file.to_owned(), problems };
        parse::policy(bytes, user).map_err(failed)
    }

    /// The rules in evaluation order.
    #[must_use]
    pub(crate) fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The decision of the first matching rule.
    #[must_use]
    pub(crate) fn evaluate(&self, case: &FindingView<'_>, now: SystemTime) -> PolicyDecision {
        let speaks = |rule: &Rule| rule.matches(case) && rule.holds(now);
        let Some(at) = self.rules.iter().position(speaks) else { return PolicyDecision::Silent };
        match self.rules.get(at).map(|rule| rule.action) {
            Some(Action::Mute) => PolicyDecision::Muted(at),
            Some(Action::Allow) => PolicyDecision::Declared(at),
            Some(Action::Severity(severity)) => PolicyDecision::Weighs(at, severity),
            None => PolicyDecision::Silent,
        }
    }
}
