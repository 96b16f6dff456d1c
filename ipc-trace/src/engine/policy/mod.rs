//! What an operator says about findings: who may share what, what is not to be shown, what weighs how
//! much. A file in TOML; `docs/POLICY.md` describes it.
//!
//! | module | its job |
//! | --- | --- |
//! | [`case`] | what a policy judges |
//! | [`terms`] | the words of a rule |
//! | [`parse`] | from a file to rules, or to what is wrong with it |
//! | [`suggest`] | from a case to the rule that would declare it |
//! | [`check`] | what `policy check` says |
//! | [`judge`] | from a finding to a case, and what the policy says of it |
//!
//! Invariant: to judge is pure: the same case, rules and time give the same answer. What is not known of
//! a case matches no rule.

pub(crate) mod case;
pub(crate) mod check;
pub(crate) mod judge;
pub(crate) mod parse;
pub(crate) mod suggest;
pub(crate) mod terms;
#[cfg(test)]
mod tests;

use std::{path::Path, time::SystemTime};

use crate::event::finding::{Class, Severity};
use case::FindingView;
use parse::PolicyError;
use terms::{Attribute, Condition};

/// Bytes of a policy at most.
pub(crate) const LARGEST: u64 = 256 << 10;
/// Rules of a policy at most.
pub(crate) const RULES: usize = 1000;

/// What a rule does with the findings that it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Does {
    /// Says that they are deliberate: they are `info`
    Allow,
    /// Takes them out, and counts them
    Mute,
    /// Gives them this severity
    Severity(Severity),
}

impl Does {
    /// What its table is called.
    #[must_use]
    pub(crate) const fn table(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Mute => "mute",
            Self::Severity(_) => "severity",
        }
    }
}

/// The day or moment with which a rule ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expiry {
    /// As the file has it
    pub text: String,
    /// From then on it does not hold
    pub end: SystemTime,
}

/// A rule.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    /// What it is called: no other rule of the file is called so
    pub name: String,
    /// Why it is there
    pub reason: Option<String>,
    /// What it does
    pub does: Does,
    /// Of which classes; none: of all
    pub classes: Vec<Class>,
    /// What must be so of who did it
    pub subject: Vec<Condition>,
    /// What must be so of the object
    pub object: Vec<Condition>,
    /// When it ends
    pub until: Option<Expiry>,
    /// The line of the file where it begins
    pub line: usize,
}

impl Rule {
    /// Whether it still holds.
    #[must_use]
    pub(crate) fn holds(&self, now: SystemTime) -> bool {
        self.until.as_ref().is_none_or(|until| now < until.end)
    }

    /// Whether it speaks of a case.
    #[must_use]
    pub(crate) fn matches(&self, case: &FindingView<'_>) -> bool {
        let hides = match self.does {
            Does::Allow | Does::Mute => true,
            Does::Severity(severity) => severity < case.severity,
        };
        // Whoever makes a call can let another name be read than that of the queue.
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

/// What a policy says about a case: numbers of rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum PolicyDecision {
    /// Nothing
    #[default]
    Silent,
    /// It is not shown, and counted
    Muted(usize),
    /// It is deliberate
    Declared(usize),
    /// It weighs so much
    Weighs(usize, Severity),
}

/// All rules of a file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Policy {
    /// In the order in which they are asked: what is muted, what is declared, what weighs how much, each
    /// in the order of the file
    rules: Vec<Rule>,
}

impl Policy {
    /// The policy in the bytes of a file. `user`: the number of a user of that name.
    ///
    /// # Errors
    /// It is no policy; says where and why.
    pub(crate) fn parse(
        file: &Path,
        bytes: &[u8],
        user: &dyn Fn(&str) -> Result<u32, String>,
    ) -> Result<Self, PolicyError> {
        let failed = |problems| PolicyError { file: file.to_owned(), problems };
        parse::policy(bytes, user).map_err(failed)
    }

    /// The rules, in the order in which they are asked.
    #[must_use]
    pub(crate) fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// What it says about a case: the first rule that speaks of it.
    #[must_use]
    pub(crate) fn evaluate(&self, case: &FindingView<'_>, now: SystemTime) -> PolicyDecision {
        let speaks = |rule: &Rule| rule.matches(case) && rule.holds(now);
        let Some(at) = self.rules.iter().position(speaks) else { return PolicyDecision::Silent };
        match self.rules.get(at).map(|rule| rule.does) {
            Some(Does::Mute) => PolicyDecision::Muted(at),
            Some(Does::Allow) => PolicyDecision::Declared(at),
            Some(Does::Severity(severity)) => PolicyDecision::Weighs(at, severity),
            None => PolicyDecision::Silent,
        }
    }
}
