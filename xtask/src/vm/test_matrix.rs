//! Which machine runs which of the live tests.
//!
//! An emulated processor works for six seconds to attach and let go of all programs of backend `function`: all
//! tests on all kernels with both backends are more than an hour of its work. So what kernels differ in is
//! tested on each of them with both backends; and of the others, which [`crate::test`] runs on this machine
//! with `syscall`, each is run with `function` in one of the machines. Kernels that preempt programs run what
//! that might break, with the backend that `auto` takes there.

use anyhow::{Result, ensure};

use super::platforms::Preemption;

/// What the tracer is told as `--backend`, each time in a machine of its own.
pub(super) const BACKENDS: [&str; 3] = ["syscall", "auto", "function"];

/// Tests for which a machine's files would be too many: PostgreSQL, Docker and Podman need a disk.
const OF_THE_HOST: &[&str] =
    &["strace::a_postgresql_cluster", "containers::docker::", "containers::podman::"];

/// Tests of what is the same for every backend.
const OF_NO_BACKEND: &[&str] = &[
    "bad_days::",
    "bad_input::",
    "containers::a_hundred_thousand",
    "counts::the_demo",
    "counts::what_is_lost_of",
    "doctor::doctor_is",
    "filters::each_filter",
    "filters::ipc_ns",
    "filters::min_duration",
    "filters::only_command",
    "filters::uid",
    "floods::who_reads",
    "lines::a_run_of_a_given_duration",
    "lines::lines_follow_their_schema",
    "ls::",
    "objects::a_report_tells",
    "objects::an_object_whose_users",
    "policy::a_finding",
    "policy::a_mistake",
    "policy::lines_have",
    "policy::what_is",
    "processes::hostile_names",
    "processes::processes_that_live",
    "processes::the_facts",
    "scenarios::a_report_has",
    "seam::",
];

/// Tests of what kernels differ in: functions, fields, ways in, and what they let go of.
const OF_EACH_KERNEL: &[&str] = &[
    "args::",
    "budget::no_program_of_report",
    "doctor::functions_on_other_ways",
    "lines::calls_that_seccomp",
    "objects::who_made",
    "policy::a_rule_is_not_talked",
    "preemption::a_report",
    "processes::a_report_finds",
    "strace::every_operation",
    "traces_left::not_even",
];

/// Such tests that one backend is enough for.
const OF_EACH_KERNEL_ONCE: &[&str] = &[
    "containers::threads_that_are_moved",
    "ls::",
    "namespaces::a_queue_belongs",
    "namespaces::births_and_moves",
];

/// Tests of what might be lost where programs are preempted, and of what real-time kernels lay out otherwise.
const SMOKE: &[&str] = &[
    "args::",
    "counts::a_report_has_the_exact",
    "lines::each_entry_of_a_restarted",
    "namespaces::births_and_moves",
    "objects::who_made",
    "preemption::",
    "strace::every_operation",
    "traces_left::not_even",
];

const TABLES: [&[&str]; 5] =
    [OF_THE_HOST, OF_NO_BACKEND, OF_EACH_KERNEL, OF_EACH_KERNEL_ONCE, SMOKE];

/// Whether a table names a test.
fn is(test: &str, table: &[&str]) -> bool {
    table.iter().any(|named| test.starts_with(named))
}

/// What is to be run.
#[derive(Clone, Copy, Debug)]
pub(super) enum Selection<'a> {
    /// Tests whose names contain that, on each kernel
    Named {
        /// Part of their names
        part: &'a str,
        /// Those of no backend, too, with every backend
        all: bool,
    },
    /// What each kernel is to run, and of the rest each so-and-so-many-th test, from that one on
    Dealt {
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
    let mut dealt = 0;
    let runs = |test: &&str| match selection {
        Selection::Smoke => smoke && is(test, SMOKE),
        Selection::Named { part, .. } if smoke => test.contains(part) && is(test, SMOKE),
        _ if !backends(preemption).contains(&backend) => false,
        Selection::Named { part, all } => {
            test.contains(part) && (all || first || !is(test, OF_NO_BACKEND))
        }
        Selection::Dealt { .. } if is(test, OF_EACH_KERNEL) => true,
        Selection::Dealt { .. } if first => is(test, OF_EACH_KERNEL_ONCE),
        Selection::Dealt { .. } if is(test, OF_NO_BACKEND) => false,
        Selection::Dealt { nth, of } => {
            dealt += 1;
            // The last kernel is the newest one, which takes a third of the others' time for a session: it
            // gets three shares.
            (dealt % (of + 2)).min(of - 1) == nth
        }
    };
    let tests = tests.iter().map(String::as_str);
    Ok(tests.filter(|test| !is(test, OF_THE_HOST)).filter(runs).collect())
}

/// The backends that all tests are run with. Where programs are preempted `function` need not be exact.
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
    fn every_test_of_a_backend_is_run_by_some_machine_and_those_of_each_kernel_by_all() {
        let all = all();
        let machines: Vec<_> =
            (0..4).map(|nth| plain(&all, "function", Selection::Dealt { nth, of: 4 })).collect();
        for test in &all {
            let runs = machines.iter().filter(|tests| tests.contains(&test.as_str())).count();
            let wanted = match () {
                () if is(test, OF_THE_HOST) => 0,
                () if is(test, OF_EACH_KERNEL) => 4,
                () if is(test, OF_NO_BACKEND) => 0,
                () => 1,
            };
            assert_eq!(runs, wanted, "{test}");
        }
        let syscall = plain(&all, "syscall", Selection::Dealt { nth: 1, of: 4 });
        assert!(syscall.contains(&"ls::x") && !syscall.contains(&"counts::more_1"), "{syscall:?}");
    }

    #[test]
    fn where_programs_are_preempted_few_tests_are_run_and_with_auto() {
        let all = all();
        let of = |backend, selection| select(&all, backend, Preemption::Full, selection).unwrap();
        let smoke = of("auto", Selection::Smoke);
        assert!(smoke.contains(&"preemption::x") && !smoke.contains(&"ls::x"), "{smoke:?}");
        assert!(of("syscall", Selection::Smoke).is_empty());
        let everything = Selection::Named { part: "", all: true };
        assert!(of("function", everything).is_empty());
        assert_eq!(of("auto", everything), smoke);
        assert_eq!(of("syscall", everything).len(), all.len() - OF_THE_HOST.len());
        assert!(plain(&all, "auto", everything).is_empty());
    }

    #[test]
    fn a_name_asks_for_it_on_each_kernel() {
        let all = all();
        let names = |backend| plain(&all, backend, Selection::Named { part: "s::", all: false });
        assert!(names("syscall").contains(&"ls::x") && !names("function").contains(&"ls::x"));
        assert!(names("function").contains(&"counts::more_3"));
        let everything = plain(&all, "function", Selection::Named { part: "", all: true });
        assert_eq!(everything.len(), all.len() - OF_THE_HOST.len());
    }

    #[test]
    fn a_table_that_names_no_test_is_an_error() {
        let (tests, selection) = (["args::x".to_owned()], Selection::Dealt { nth: 0, of: 1 });
        let error = select(&tests, "syscall", Preemption::Default, selection).unwrap_err();
        assert!(error.to_string().contains("there is no such test"), "{error}");
    }
}
