//! Checks what was found against what was expected: pure.
//!
//! A finding belongs to the scenario with the process, or the container, that it is about.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use super::{
    fixture::{ScenarioProcessId, ScenarioRun},
    kind::{ExpectedSeverity, Scenario, ScenarioKernel},
};

/// The parts of a finding that are checked.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct ReportedFinding {
    class: String,
    severity: ExpectedSeverity,
    confidence: u64,
    count: u64,
    title: String,
    subject: FoundSubject,
}

#[derive(Clone, Debug, Deserialize)]
struct FoundSubject {
    process: Option<FoundProcess>,
    container: Option<FoundContainer>,
}

#[derive(Clone, Debug, Deserialize)]
struct FoundProcess {
    pid: u64,
    start_boot_ns: Option<u64>,
}

#[derive(Clone, Debug, Deserialize)]
struct FoundContainer {
    id: String,
}

/// Nanoseconds of a tick of `/proc/PID/stat`, of which there are 100 a second.
const TICK_NS: u64 = 10_000_000;

impl ReportedFinding {
    fn is_by(&self, id: ScenarioProcessId) -> bool {
        self.subject.process.as_ref().is_some_and(|process| {
            process.pid == id.pid && process.start_boot_ns.is_none_or(|ns| ns / TICK_NS == id.ticks)
        })
    }

    fn is_of(&self, run: &ScenarioRun) -> bool {
        let container = self.subject.container.as_ref();
        run.processes.iter().any(|id| self.is_by(*id))
            || container.is_some_and(|own| run.containers.contains(&own.id))
    }

    /// Whether it is about a process of that number.
    pub(super) fn is_about(&self, pids: &[u64]) -> bool {
        self.subject.process.as_ref().is_some_and(|process| pids.contains(&process.pid))
    }
}

impl fmt::Display for ReportedFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { class, severity, confidence, count, title, subject: _ } = self;
        write!(f, "{class} ({severity:?}, {confidence} %, {count} times): {title}")
    }
}

/// Of one class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ClassTally {
    /// Scenarios that have to lead to such a finding
    pub(super) expected: u64,
    /// Those of them that did, as they have to
    pub(super) found: u64,
    /// Such findings in all scenarios
    pub(super) reported: u64,
    /// Those of them that are true
    pub(super) right: u64,
}

/// What scenarios led to on one kernel, with one backend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KernelOutcome {
    /// The kernel's version
    pub(super) kernel: ScenarioKernel,
    /// The tracer's backend
    pub(super) backend: String,
    /// How many were run
    pub(super) scenarios: u64,
    /// How many of them are benign
    pub(super) benign: u64,
    /// How many of those led to no finding but those that they may lead to
    pub(super) silent: u64,
    /// By class
    pub(super) classes: BTreeMap<String, ClassTally>,
    /// Those that the kernel does not support, and the reason
    pub(super) unsupported: Vec<String>,
    /// What is wrong, one sentence each
    pub(super) failures: Vec<String>,
}

impl KernelOutcome {
    /// Of nothing.
    pub(super) fn new(kernel: ScenarioKernel, backend: &str) -> Self {
        Self { kernel, backend: backend.to_owned(), ..Self::default() }
    }

    /// Adds a scenario that was run.
    pub(super) fn add(&mut self, scenario: &Scenario, run: &ScenarioRun, all: &[ReportedFinding]) {
        let own: Vec<&ReportedFinding> = all.iter().filter(|found| found.is_of(run)).collect();
        let before = self.failures.len();
        self.scenarios += 1;
        match &run.unsupported {
            Some(what) => self.unsupported.push(format!("{}: {what}", scenario.name)),
            None => self.check_expected(scenario, &own),
        }
        self.check_unexpected(scenario, &own);
        if scenario.is_benign() {
            self.benign += 1;
            self.silent += u64::from(self.failures.len() == before);
        }
    }

    /// Checks that all expected findings are there.
    fn check_expected(&mut self, scenario: &Scenario, own: &[&ReportedFinding]) {
        for expected in scenario.expected {
            if !expected.is_due(&self.backend, self.kernel) {
                continue;
            }
            let same_class: Vec<_> =
                own.iter().filter(|found| found.class == expected.class).collect();
            let count: u64 = same_class.iter().map(|found| found.count).sum();
            let within = |found: &&&&ReportedFinding| {
                (expected.severity.0..=expected.severity.1).contains(&found.severity)
                    && (expected.confidence.0..=expected.confidence.1).contains(&found.confidence)
            };
            let counted = count >= expected.count && (!expected.exactly || count == expected.count);
            let tally = self.classes.entry(expected.class.to_owned()).or_default();
            tally.expected += 1;
            if same_class.iter().any(|found| within(&found)) && counted {
                tally.found += 1;
                continue;
            }
            let there = same_class.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            self.failures.push(format!(
                "{}: expected {} ({:?} to {:?}, {} to {} %, {}{} times), found {}",
                scenario.name,
                expected.class,
                expected.severity.0,
                expected.severity.1,
                expected.confidence.0,
                expected.confidence.1,
                if expected.exactly { "" } else { "at least " },
                expected.count,
                if there.is_empty() { "none" } else { &there },
            ));
        }
    }

    /// Checks that all findings are allowed.
    fn check_unexpected(&mut self, scenario: &Scenario, own: &[&ReportedFinding]) {
        for found in own {
            // None of several may have more confidence or severity than expected.
            let expected = scenario.expected.iter().any(|one| {
                one.class == found.class
                    && found.confidence <= one.confidence.1
                    && found.severity <= one.severity.1
            });
            let mild = !scenario.is_benign() || found.severity < ExpectedSeverity::Medium;
            let right = expected || scenario.also.contains(&found.class.as_str()) && mild;
            let tally = self.classes.entry(found.class.clone()).or_default();
            tally.reported += 1;
            tally.right += u64::from(right);
            if !right {
                self.failures.push(format!("{}: unexpected {found}", scenario.name));
            }
        }
    }
}

impl fmt::Display for KernelOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = self.kernel;
        writeln!(
            f,
            "kernel {major}.{minor}, {}: {} scenarios; {} of {} benign ones silent",
            self.backend, self.scenarios, self.silent, self.benign
        )?;
        writeln!(f, "    {:<24} {:>10} {:>10}", "class", "recall", "precision")?;
        for (class, tally) in &self.classes {
            let recall = format!("{}/{}", tally.found, tally.expected);
            let precision = format!("{}/{}", tally.right, tally.reported);
            writeln!(f, "    {class:<24} {recall:>10} {precision:>10}")?;
        }
        for unsupported in &self.unsupported {
            writeln!(f, "    not here  {unsupported}")?;
        }
        self.failures.iter().try_for_each(|failure| writeln!(f, "    FAILED {failure}"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::kind::ExpectedFinding, *};

    fn found(class: &str, severity: &str, pid: u64, count: u64) -> ReportedFinding {
        let process = json!({"pid": pid, "start_boot_ns": 70_000_001});
        let subject = json!({"process": process, "container": null});
        let text = json!({"class": class, "severity": severity, "confidence": 90, "count": count,
                          "title": "t", "subject": subject, "id": 1});
        serde_json::from_value(text).unwrap()
    }

    fn scenario(expected: &'static [ExpectedFinding], also: &'static [&'static str]) -> Scenario {
        Scenario { name: "s", what: "Something.", run: |_| Ok(()), expected, also }
    }

    fn scenario_run() -> ScenarioRun {
        ScenarioRun {
            processes: vec![ScenarioProcessId { pid: 5, ticks: 7 }],
            ..ScenarioRun::default()
        }
    }

    fn outcome(scenario: &Scenario, all: &[ReportedFinding]) -> KernelOutcome {
        let mut outcome = KernelOutcome::new((6, 1), "syscall");
        outcome.add(scenario, &scenario_run(), all);
        outcome
    }

    #[test]
    fn expected_finding_must_match_class_severity_and_count() {
        const TWICE: &[ExpectedFinding] = &[ExpectedFinding::high("foreign-object").times(2)];
        let scenario = scenario(TWICE, &[]);
        let recall =
            |all: &[ReportedFinding]| outcome(&scenario, all).classes["foreign-object"].found;
        assert_eq!(recall(&[found("foreign-object", "high", 5, 2)]), 1);
        let one = || found("foreign-object", "high", 5, 1);
        assert_eq!(recall(&[one(), one()]), 1);
        assert_eq!(recall(&[one()]), 0);
        assert_eq!(recall(&[found("foreign-object", "medium", 5, 2)]), 0);
        assert_eq!(recall(&[found("foreign-object", "high", 6, 2)]), 0);
        assert_eq!(recall(&[found("foreign-mount", "high", 5, 2)]), 0);
    }

    #[test]
    fn more_confidence_than_expected_is_a_failure() {
        const LOW: &[ExpectedFinding] =
            &[ExpectedFinding::new("probe-id", ExpectedSeverity::Info).confident(0, 20)];
        let found_with =
            |confidence| ReportedFinding { confidence, ..found("probe-id", "info", 5, 1) };
        let right = |all: &[ReportedFinding]| outcome(&scenario(LOW, &[]), all).failures.is_empty();
        assert!(right(&[found_with(15), found_with(20)]));
        assert!(!right(&[found_with(15), found_with(21)]));
        assert!(!right(&[]));
    }

    #[test]
    fn medium_finding_of_a_benign_scenario_is_not_silent() {
        let scenario = scenario(&[], &["probe-id"]);
        let silent = |class: &str, severity: &str| {
            outcome(&scenario, &[found(class, severity, 5, 1)]).silent == 1
        };
        assert!(silent("probe-id", "low"));
        assert!(!silent("probe-id", "medium"));
        assert!(!silent("probe-key", "info"));
        assert_eq!(outcome(&scenario, &[found("probe-key", "high", 6, 1)]).silent, 1);
    }

    #[test]
    fn finding_is_not_due_without_backend_or_kernel_support() {
        const LATE: ExpectedFinding = ExpectedFinding::high("foreign-view").since((6, 2));
        const FUNCTION: ExpectedFinding = ExpectedFinding::high("foreign-view").by_function();
        assert!(!LATE.is_due("function", (6, 1)) && LATE.is_due("syscall", (6, 2)));
        assert!(!FUNCTION.is_due("syscall", (7, 0)) && FUNCTION.is_due("function", (5, 10)));
    }

    #[test]
    fn unsupported_scenario_has_no_expectations_and_is_listed() {
        const DUE: &[ExpectedFinding] = &[ExpectedFinding::high("foreign-mount")];
        let unsupported = Some("io_uring (EPERM)".to_owned());
        let mut outcome = KernelOutcome::new((6, 12), "function");
        outcome.add(&scenario(DUE, &[]), &ScenarioRun { unsupported, ..scenario_run() }, &[]);
        assert!(outcome.failures.is_empty() && outcome.classes.is_empty(), "{outcome}");
        assert!(outcome.to_string().contains("not here  s: io_uring (EPERM)"), "{outcome}");
    }

    #[test]
    fn process_is_identified_by_pid_and_start() {
        let one = found("weak-mode", "low", 5, 1);
        assert!(one.is_of(&scenario_run()));
        let reused = ScenarioRun {
            processes: vec![ScenarioProcessId { pid: 5, ticks: 8 }],
            ..ScenarioRun::default()
        };
        assert!(!one.is_of(&reused));
    }
}
