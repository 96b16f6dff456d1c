//! Exact counts where threads are preempted wherever the kernel allows it, also inside of programs, and where
//! neighbours keep some kinds of programs from being run.

use std::{collections::BTreeSet, fs};

use serde_json::Value;

use crate::{
    book::{OpCounts, assert_balanced, counts, counts_of_lines, restricted, total},
    tracer::{lines, list, number, of_type, report, scaled},
};

/// Calls of a thread: enough that each is preempted often.
fn words(calls: &str) -> Vec<&str> {
    let words = "saturate --namespaces 2 --threads 4 --births 10 --lookups --calls";
    words.split(' ').chain([calls]).collect()
}

/// Whether nothing may be missed: with the backend that `auto` takes, and with both where no thread is preempted
/// in the kernel.
pub(crate) fn must_be_exact() -> bool {
    let chosen = xtask::tracer::backend().is_some_and(|backend| backend != "auto");
    // sched_dynamic_show, kernel/sched/debug.c, v5.13: the model in force is in parentheses. Older kernels that
    // are tested were not built to be preempted.
    let model = fs::read_to_string("/sys/kernel/debug/sched/preempt").unwrap_or_default();
    let version = fs::read_to_string("/proc/version").unwrap();
    let preempted = model.contains("(full)")
        || model.contains("(lazy)")
        || version.contains(" PREEMPT_RT ")
        || version.contains(" PREEMPT ");
    !(chosen && preempted)
}

/// All calls are counted, or it is said that some are not.
fn assert_calls(counted: OpCounts, book: &Value, accounting: &Value) {
    assert!(number(&book["lookups"]) > 0, "the neighbours do something");
    let expected = counts(&book["namespaces"]);
    let counted = restricted(counted, &expected);
    if must_be_exact() {
        assert_eq!(counted, expected, "{accounting}");
        assert_balanced(accounting);
    } else {
        let lost = total(&expected).checked_sub(total(&counted)).expect("none is invented");
        assert!(lost <= number(&accounting["missed"]), "{lost} calls are lost: {accounting}");
    }
}

/// Each namespace that the workload has made is there once, by the process that made it, or it is said that
/// something was missed. `made` are processes and namespaces.
fn assert_births<'a>(
    book: &Value,
    made: impl Iterator<Item = (&'a Value, &'a Value)>,
    accounting: &Value,
) {
    let made: Vec<_> = made.collect();
    assert!(!list(&book["births"]).is_empty());
    for maker in list(&book["births"]) {
        let mine = made.iter().filter(|(process, _)| process["pid"] == maker["pid"]);
        let lives: Vec<_> = mine.map(|(_, ns)| (number(&ns["inum"]), number(&ns["gen"]))).collect();
        let expected = number(&maker["unshared"]) + number(&maker["cloned"]);
        let there = lives.len() as u64;
        let missed = if must_be_exact() { 0 } else { number(&accounting["missed"]) };
        assert!(
            there <= expected && expected - there <= missed,
            "{there} of {maker}: {accounting}"
        );
        assert_eq!(lives.iter().collect::<BTreeSet<_>>().len(), lives.len(), "each lives once");
    }
}

#[test]
fn a_report_has_all_calls_and_births_of_preempted_threads() {
    let calls = scaled(500_000).to_string();
    let (report, book) = report(&["--only-command"], &words(&calls));
    let accounting = &report["accounting"];
    assert_calls(counts(&report["namespaces"]), &book, accounting);
    let created = list(&report["namespaces"]).iter();
    assert_births(&book, created.map(|ns| (&ns["created"]["process"], ns)), accounting);
}

#[test]
fn lines_and_losses_are_all_calls_and_births_of_preempted_threads() {
    // Reading a line takes longer than the call, most of all in a machine: so most are lost, and counted.
    let (lines, book) = lines(&["--only-command", "--ring-bytes", "65536"], &words("2000"));
    let accounting = &lines.last().unwrap()["accounting"];
    assert_calls(counts_of_lines(&lines), &book, accounting);
    let moves = of_type(&lines, "namespace").into_iter();
    let created = moves.filter(|line| line["event"] == "created");
    assert_births(&book, created.map(|line| (&line["process"], &line["ipc_ns"])), accounting);
}
