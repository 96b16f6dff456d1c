//! What was found, against what was to be found: pure.
//!
//! A finding belongs to the scenario whose process, or whose container, it is about.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use super::{
    kind::{ExpectedSeverity, Scenario, ScenarioKernel},
    stage::{Played, StagedProcessId},
};

/// What is read of a finding.
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
    fn is_by(&self, id: StagedProcessId) -> bool {
        self.subject.process.as_ref().is_some_and(|process| {
            process.pid == id.pid && process.start_boot_ns.is_none_or(|ns| ns / TICK_NS == id.ticks)
        })
    }

    fn is_of(&self, played: &Played) -> bool {
        let container = self.subject.container.as_ref();
        played.processes.iter().any(|id| self.is_by(*id))
            || container.is_some_and(|own| played.containers.contains(&own.id))
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
    pub(super) told: u64,
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
    /// How many were played
    pub(super) scenarios: u64,
    /// How many of them are benign
    pub(super) benign: u64,
    /// How many of those led to no finding but those that they may lead to
    pub(super) silent: u64,
    /// By class
    pub(super) classes: BTreeMap<String, ClassTally>,
    /// Those that were not played for want of something in the kernel, and of what
    pub(super) lacking: Vec<String>,
    /// What is not as it has to be, a sentence each
    pub(super) failures: Vec<String>,
}

impl KernelOutcome {
    /// Of nothing.
    pub(super) fn new(kernel: ScenarioKernel, backend: &str) -> Self {
        Self { kernel, backend: backend.to_owned(), ..Self::default() }
    }

    /// Adds a scenario that was played.
    pub(super) fn add(&mut self, scenario: &Scenario, played: &Played, all: &[ReportedFinding]) {
        let own: Vec<&ReportedFinding> = all.iter().filter(|found| found.is_of(played)).collect();
        let before = self.failures.len();
        self.scenarios += 1;
        match &played.lacks {
            Some(what) => self.lacking.push(format!("{}: {what}", scenario.name)),
            None => self.seek(scenario, &own),
        }
        self.check(scenario, &own);
        if scenario.is_benign() {
            self.benign += 1;
            self.silent += u64::from(self.failures.len() == before);
        }
    }

    /// Whether all that is expected is there.
    fn seek(&mut self, scenario: &Scenario, own: &[&ReportedFinding]) {
        for expected in scenario.expected {
            if !expected.is_due(&self.backend, self.kernel) {
                continue;
            }
            let such: Vec<_> = own.iter().filter(|found| found.class == expected.class).collect();
            let count: u64 = such.iter().map(|found| found.count).sum();
            let within = |found: &&&&ReportedFinding| {
                (expected.severity.0..=expected.severity.1).contains(&found.severity)
                    && (expected.confidence.0..=expected.confidence.1).contains(&found.confidence)
            };
            let counted = count >= expected.count && (!expected.exactly || count == expected.count);
            let tally = self.classes.entry(expected.class.to_owned()).or_default();
            tally.expected += 1;
            if such.iter().any(|found| within(&found)) && counted {
                tally.found += 1;
                continue;
            }
            let there = such.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
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

    /// Whether all that is there may be.
    fn check(&mut self, scenario: &Scenario, own: &[&ReportedFinding]) {
        for found in own {
            // Of several, none may be surer or more severe than what is expected.
            let expected = scenario.expected.iter().any(|one| {
                one.class == found.class
                    && found.confidence <= one.confidence.1
                    && found.severity <= one.severity.1
            });
            let mild = !scenario.is_benign() || found.severity < ExpectedSeverity::Medium;
            let right = expected || scenario.also.contains(&found.class.as_str()) && mild;
            let tally = self.classes.entry(found.class.clone()).or_default();
            tally.told += 1;
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
            let precision = format!("{}/{}", tally.right, tally.told);
            writeln!(f, "    {class:<24} {recall:>10} {precision:>10}")?;
        }
        for lacking in &self.lacking {
            writeln!(f, "    not here  {lacking}")?;
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
        Scenario { name: "s", what: "Something.", play: |_| Ok(()), expected, also }
    }

    fn played() -> Played {
        Played { processes: vec![StagedProcessId { pid: 5, ticks: 7 }], ..Played::default() }
    }

    fn outcome(scenario: &Scenario, all: &[ReportedFinding]) -> KernelOutcome {
        let mut outcome = KernelOutcome::new((6, 1), "syscall");
        outcome.add(scenario, &played(), all);
        outcome
    }

    #[test]
    fn what_is_expected_has_to_be_there_as_often_and_as_sure() {
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
    fn nothing_may_be_surer_than_what_is_expected() {
        const LOW: &[ExpectedFinding] =
            &[ExpectedFinding::new("probe-id", ExpectedSeverity::Info).confident(0, 20)];
        let sure = |confidence| ReportedFinding { confidence, ..found("probe-id", "info", 5, 1) };
        let right = |all: &[ReportedFinding]| outcome(&scenario(LOW, &[]), all).failures.is_empty();
        assert!(right(&[sure(15), sure(20)]));
        assert!(!right(&[sure(15), sure(21)]));
        assert!(!right(&[]));
    }

    #[test]
    fn the_benign_may_lead_to_nothing_of_medium() {
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
    fn what_a_backend_or_a_kernel_lacks_is_not_due() {
        const LATE: ExpectedFinding = ExpectedFinding::high("foreign-view").since((6, 2));
        const FUNCTION: ExpectedFinding = ExpectedFinding::high("foreign-view").by_function();
        assert!(!LATE.is_due("function", (6, 1)) && LATE.is_due("syscall", (6, 2)));
        assert!(!FUNCTION.is_due("syscall", (7, 0)) && FUNCTION.is_due("function", (5, 10)));
    }

    #[test]
    fn of_what_a_kernel_lacks_nothing_is_due_and_that_is_said() {
        const DUE: &[ExpectedFinding] = &[ExpectedFinding::high("foreign-mount")];
        let lacks = Some("io_uring (EPERM)".to_owned());
        let mut outcome = KernelOutcome::new((6, 12), "function");
        outcome.add(&scenario(DUE, &[]), &Played { lacks, ..played() }, &[]);
        assert!(outcome.failures.is_empty() && outcome.classes.is_empty(), "{outcome}");
        assert!(outcome.to_string().contains("not here  s: io_uring (EPERM)"), "{outcome}");
    }

    #[test]
    fn a_process_is_its_number_and_its_start() {
        let one = found("weak-mode", "low", 5, 1);
        assert!(one.is_of(&played()));
        let reused =
            Played { processes: vec![StagedProcessId { pid: 5, ticks: 8 }], ..Played::default() };
        assert!(!one.is_of(&reused));
    }
}
