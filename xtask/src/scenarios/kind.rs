//! What a scenario is, and which findings it must lead to.

use std::fs;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::fixture::ScenarioFixture;

/// A finding's severity, lowest first: the tracer's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "each is the tracer's word")]
pub(crate) enum ExpectedSeverity {
    Info,
    Low,
    Medium,
    High,
    Critical,
}

/// A kernel's version, by its first two numbers.
pub(super) type ScenarioKernel = (u32, u32);

/// The running kernel's version.
///
/// # Errors
///
/// When the kernel does not report it.
pub(super) fn kernel() -> Result<ScenarioKernel> {
    let release =
        fs::read_to_string("/proc/sys/kernel/osrelease").context("the kernel's release")?;
    let mut parts = release.split(['.', '-']);
    let mut number =
        || parts.next().context("a release has two numbers")?.parse().context("a number");
    Ok((number()?, number()?))
}

/// A finding that a scenario leads to.
#[derive(Clone, Copy, Debug)]
pub(super) struct ExpectedFinding {
    /// Its class, by the tracer's name
    pub(super) class: &'static str,
    /// The least and the greatest severity that it may have
    pub(super) severity: (ExpectedSeverity, ExpectedSeverity),
    /// The least and the greatest confidence that it may have
    pub(super) confidence: (u64, u64),
    /// How often it was seen, at least, over all findings of the class; exactly, if that is so
    pub(super) count: u64,
    /// Whether it is exactly so often
    pub(super) exactly: bool,
    /// Whether the backend `syscall` can't see it
    pub(super) function_only: bool,
    /// Kernels before this one have no such way
    pub(super) since: Option<ScenarioKernel>,
}

impl ExpectedFinding {
    /// A finding of that class and severity, of some confidence.
    pub(super) const fn new(class: &'static str, severity: ExpectedSeverity) -> Self {
        Self {
            class,
            severity: (severity, severity),
            confidence: (1, 100),
            count: 1,
            exactly: false,
            function_only: false,
            since: None,
        }
    }

    /// A finding of a crossed boundary, with high confidence.
    pub(super) const fn high(class: &'static str) -> Self {
        Self::new(class, ExpectedSeverity::High).confident(60, 100)
    }

    /// Sets the range of confidence.
    pub(super) const fn confident(self, least: u64, most: u64) -> Self {
        Self { confidence: (least, most), ..self }
    }

    /// Sets the maximum severity.
    pub(super) const fn up_to(self, most: ExpectedSeverity) -> Self {
        Self { severity: (self.severity.0, most), ..self }
    }

    /// Sets the exact count.
    pub(super) const fn times(self, count: u64) -> Self {
        Self { count, exactly: true, ..self }
    }

    /// Backend `syscall` can't see it.
    pub(super) const fn by_function(self) -> Self {
        Self { function_only: true, ..self }
    }

    /// Only kernels since that version can see it.
    pub(super) const fn since(self, version: ScenarioKernel) -> Self {
        Self { since: Some(version), ..self }
    }

    /// Whether it has to be found with that backend on that kernel.
    pub(super) fn is_due(&self, backend: &str, kernel: ScenarioKernel) -> bool {
        (backend == "function" || !self.function_only)
            && self.since.is_none_or(|since| kernel >= since)
    }
}

/// A small event on a host.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scenario {
    /// Its name
    pub(super) name: &'static str,
    /// What happens, in one sentence
    pub(super) what: &'static str,
    /// Runs it
    pub(super) run: fn(&mut ScenarioFixture) -> Result<()>,
    /// The findings that it must lead to; none: it is benign
    pub(super) expected: &'static [ExpectedFinding],
    /// Classes of further findings that are allowed, but not required: of any severity where findings are
    /// expected, up to `low` where none are
    pub(super) also: &'static [&'static str],
}

impl Scenario {
    /// Whether no finding is expected.
    pub(super) const fn is_benign(&self) -> bool {
        self.expected.is_empty()
    }
}
