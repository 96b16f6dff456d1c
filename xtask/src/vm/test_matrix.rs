//! Which machine runs which of the live tests.
//!
//! An emulated processor needs six seconds to attach and detach all programs of backend `function`: all tests on
//! all kernels with both backends would take it more than an hour. So tests of what differs between kernels run on
//! each of them with both backends. [`crate::test`] runs the other tests on this machine with `syscall`, and each of
//! them runs with `function` in one of the machines. Kernels that preempt programs run the tests that preemption
//! might break, with the backend that `auto` chooses there.

use anyhow::{Result, ensure};

use super::platforms::Preemption;

/// The tracer's `--backend`, each in a machine of its own.
pub(super) const BACKENDS: [&str; 3] = ["syscall", "auto", "function"];

/// Tests that run on the host only: PostgreSQL, Docker and Podman need a disk, the documents' commands other programs.
const HOST_ONLY: &[&str] = &[
    "strace::postgresql_cluster",
    "containers::docker::",
    "containers::podman::",
    "documents::documented_commands",
];

/// Tests that do not depend on the backend.
const BACKEND_INDEPENDENT: &[&str] = &[
    "io_failures::",
    "cli_errors::",
    "containers::hundred_thousand",
    "counts::demo_has",
    "counts::lost_control_records",
    "doctor::doctor_is",
    "documents::",
    "filters::each_filter",
    "filters::ipc_ns",
    "filters::min_duration",
    "filters::only_command",
    "filters::uid",
    "floods::slow_reader",
    "live_output::run_with_a_duration",
    "live_output::lines_follow_their_schema",
    "ls::",
    "objects::report_has_the_final",
    "objects::object_without_living_users",
    "policy::finding_fails",
    "policy::policy_errors",
    "policy::lines_and_report",
    "policy::muted_findings",
    "policy::allowed_findings",
    "processes::hostile_names",
    "processes::short_lived",
    "processes::process_fields",
    "recording_files::",
    "recordings::",
    "scenarios::report_has",
    "seam::",
];

/// Tests of what differs between kernels: functions, fields, entry points, and cleanup.
const EACH_KERNEL: &[&str] = &[
    "args::",
    "budget::report_programs",
    "doctor::auxiliary_probes",
    "live_output::prevented_calls",
    "objects::creator_of_an_object",
    "policy::rule_ignores",
    "preemption::report_has",
    "processes::report_finds",
    "strace::every_operation",
    "cleanup::killed_tracer",
];

/// Such tests for which one backend is enough.
const EACH_KERNEL_ONE_BACKEND: &[&str] = &[
    "containers::moved_threads",
    "ls::",
    "namespaces::queue_belongs",
    "namespaces::creations_and_moves",
];

/// Tests of what might be lost where programs are preempted, and of fields that real-time kernels place elsewhere.
const SMOKE: &[&str] = &[
    "args::",
    "counts::report_counts_a_million",
    "counts::report_with_counts_is_exact",
    "live_output::each_entry_of_a_restarted",
    "namespaces::creations_and_moves",
    "objects::creator_of_an_object",
    "preemption::",
    "strace::every_operation",
    "cleanup::killed_tracer",
];

const TABLES: [&[&str]; 5] =
    [HOST_ONLY, BACKEND_INDEPENDENT, EACH_KERNEL, EACH_KERNEL_ONE_BACKEND, SMOKE];

/// Whether a table has a prefix of a test's name.
fn is_listed(test: &str, table: &[&str]) -> bool {
    table.iter().any(|named| test.starts_with(named))
}

/// What to run.
#[derive(Clone, Copy, Debug)]
pub(super) enum Selection<'a> {
    /// Tests whose names contain a text, on each kernel
    Named {
        /// Part of their names
        part: &'a str,
        /// Run backend-independent tests with every backend, too
        all: bool,
    },
    /// What each kernel must run, and a share of the other tests
    Share {
        /// The machine's number, from 0
        nth: usize,
        /// How many there are
        of: usize,
    },
    /// The few tests of a kernel that preempts programs
    Smoke,
}

/// The names of the tests that a machine runs with a backend.
///
/// # Errors
///
/// A table here names a test that is not among `tests`.
pub(super) fn select<'a>(
    tests: &'a [String],
    backend: &str,
    preemption: Preemption,
    selection: Selection<'_>,
) -> Result<Vec<&'a str>> {
    for named in TABLES.into_iter().flatten() {
        let is_there = tests.iter().any(|test| test.starts_with(named));
        ensure!(is_there, "xtask/src/vm/test_matrix.rs names {named}, and there is no such test");
    }
    let first = backend == BACKENDS[0];
    let smoke = backend == "auto" && preemption != Preemption::Default;
    let mut position = 0;
    let runs = |test: &&str| match selection {
        Selection::Smoke => smoke && is_listed(test, SMOKE),
        Selection::Named { part, .. } if smoke => test.contains(part) && is_listed(test, SMOKE),
        _ if !backends(preemption).contains(&backend) => false,
        Selection::Named { part, all } => {
            test.contains(part) && (all || first || !is_listed(test, BACKEND_INDEPENDENT))
        }
        Selection::Share { .. } if is_listed(test, EACH_KERNEL) => true,
        Selection::Share { .. } if first => is_listed(test, EACH_KERNEL_ONE_BACKEND),
        Selection::Share { .. } if is_listed(test, BACKEND_INDEPENDENT) => false,
        Selection::Share { nth, of } => {
            position += 1;
            // The last kernel is the newest one, which needs a third of the others' time for a session: it
            // gets three shares.
            (position % (of + 2)).min(of - 1) == nth
        }
    };
    let tests = tests.iter().map(String::as_str);
    Ok(tests.filter(|test| !is_listed(test, HOST_ONLY)).filter(runs).collect())
}

/// The backends that all tests run with. Where programs are preempted, `function` need not be exact.
fn backends(preemption: Preemption) -> &'static [&'static str] {
    match preemption {
        Preemption::Default => &["syscall", "function"],
        Preemption::Full | Preemption::RealTime => &["syscall"],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One of each name in the tables, and some more.
    fn all() -> Vec<String> {
        let named = TABLES.into_iter().flatten().map(|named| format!("{named}x"));
        let all = named.chain((0..7).map(|n| format!("counts::more_{n}")));
        // Some are in more than one table.
        all.collect::<std::collections::BTreeSet<_>>().into_iter().collect()
    }

    fn plain<'a>(tests: &'a [String], backend: &str, selection: Selection<'_>) -> Vec<&'a str> {
        select(tests, backend, Preemption::Default, selection).unwrap()
    }

    #[test]
    fn each_test_runs_on_one_machine_and_kernel_tests_on_all() {
        let all = all();
        let machines: Vec<_> =
            (0..4).map(|nth| plain(&all, "function", Selection::Share { nth, of: 4 })).collect();
        for test in &all {
            let runs = machines.iter().filter(|tests| tests.contains(&test.as_str())).count();
            let wanted = match () {
                () if is_listed(test, HOST_ONLY) => 0,
                () if is_listed(test, EACH_KERNEL) => 4,
                () if is_listed(test, BACKEND_INDEPENDENT) => 0,
                () => 1,
            };
            assert_eq!(runs, wanted, "{test}");
        }
        let syscall = plain(&all, "syscall", Selection::Share { nth: 1, of: 4 });
        assert!(syscall.contains(&"ls::x") && !syscall.contains(&"counts::more_1"), "{syscall:?}");
    }

    #[test]
    fn preempting_kernel_runs_smoke_tests_with_auto() {
        let all = all();
        let of = |backend, selection| select(&all, backend, Preemption::Full, selection).unwrap();
        let smoke = of("auto", Selection::Smoke);
        assert!(smoke.contains(&"preemption::x") && !smoke.contains(&"ls::x"), "{smoke:?}");
        assert!(of("syscall", Selection::Smoke).is_empty());
        let everything = Selection::Named { part: "", all: true };
        assert!(of("function", everything).is_empty());
        assert_eq!(of("auto", everything), smoke);
        assert_eq!(of("syscall", everything).len(), all.len() - HOST_ONLY.len());
        assert!(plain(&all, "auto", everything).is_empty());
    }

    #[test]
    fn named_test_runs_on_each_kernel() {
        let all = all();
        let names = |backend| plain(&all, backend, Selection::Named { part: "s::", all: false });
        assert!(names("syscall").contains(&"ls::x") && !names("function").contains(&"ls::x"));
        assert!(names("function").contains(&"counts::more_3"));
        let everything = plain(&all, "function", Selection::Named { part: "", all: true });
        assert_eq!(everything.len(), all.len() - HOST_ONLY.len());
    }

    #[test]
    fn table_entry_without_a_test_is_an_error() {
        let (tests, selection) = (["args::x".to_owned()], Selection::Share { nth: 0, of: 1 });
        let error = select(&tests, "syscall", Preemption::Default, selection).unwrap_err();
        assert!(error.to_string().contains("there is no such test"), "{error}");
    }
}
