//! Exact counts where threads are preempted wherever the kernel allows it, even inside of eBPF programs, and where
//! neighbours prevent some kinds of programs from running.

use std::{collections::BTreeSet, fs};

use serde_json::Value;

use crate::{
    invariants::{
        OpCounts, assert_adds_up, assert_balanced, counts, counts_of_lines, restricted, total,
    },
    tracer::{lines, list, number, of_type, report, scaled},
};

/// Calls of a thread: enough that each is preempted often.
fn words(calls: &str) -> Vec<&str> {
    let words = "saturate --namespaces 2 --threads 4 --creations 10 --lookups --calls";
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

/// Every seen call is accounted for, and nothing was missed where that must be. Returns how many were missed.
pub(crate) fn assert_as_exact_as_can_be(accounting: &Value) -> u64 {
    assert_adds_up(accounting);
    let missed = number(&accounting["missed"]);
    assert!(missed == 0 || !must_be_exact(), "{accounting}");
    missed
}

/// All calls are counted, or missed calls are reported.
fn assert_calls(counted: OpCounts, oracle: &Value, accounting: &Value) {
    assert!(number(&oracle["lookups"]) > 0, "the neighbours make lookups");
    let expected = counts(&oracle["namespaces"]);
    let counted = restricted(counted, &expected);
    if must_be_exact() {
        assert_eq!(counted, expected, "{accounting}");
        assert_balanced(accounting);
    } else {
        let lost = total(&expected).checked_sub(total(&counted)).expect("none is invented");
        assert!(lost <= number(&accounting["missed"]), "{lost} calls are lost: {accounting}");
    }
}

/// Each namespace that the workload created is reported once, with the process that created it, or missed calls are
/// reported. `made` are processes and namespaces.
fn assert_creations<'a>(
    oracle: &Value,
    made: impl Iterator<Item = (&'a Value, &'a Value)>,
    accounting: &Value,
) {
    let made: Vec<_> = made.collect();
    assert!(!list(&oracle["creations"]).is_empty());
    for maker in list(&oracle["creations"]) {
        let mine = made.iter().filter(|(process, _)| process["pid"] == maker["pid"]);
        let generations: Vec<_> =
            mine.map(|(_, ns)| (number(&ns["inum"]), number(&ns["gen"]))).collect();
        let expected = number(&maker["unshared"]) + number(&maker["cloned"]);
        let there = generations.len() as u64;
        let missed = if must_be_exact() { 0 } else { number(&accounting["missed"]) };
        assert!(
            there <= expected && expected - there <= missed,
            "{there} of {maker}: {accounting}"
        );
        assert_eq!(
            generations.iter().collect::<BTreeSet<_>>().len(),
            generations.len(),
            "each is created once"
        );
    }
}

#[test]
fn report_has_all_calls_and_creations_of_preempted_threads() {
    let calls = scaled(500_000).to_string();
    let (report, oracle) = report(&["--only-command"], &words(&calls));
    let accounting = &report["accounting"];
    assert_calls(counts(&report["namespaces"]), &oracle, accounting);
    let created = list(&report["namespaces"]).iter();
    assert_creations(&oracle, created.map(|ns| (&ns["created"]["process"], ns)), accounting);
}

#[test]
fn lines_and_losses_have_all_calls_and_creations_of_preempted_threads() {
    // Reading a line takes longer than the call, most of all in a machine: so most are lost, and counted.
    let (lines, oracle) = lines(&["--only-command", "--ring-bytes", "65536"], &words("2000"));
    let accounting = &lines.last().unwrap()["accounting"];
    assert_calls(counts_of_lines(&lines), &oracle, accounting);
    let moves = of_type(&lines, "namespace").into_iter();
    let created = moves.filter(|line| line["event"] == "created");
    assert_creations(&oracle, created.map(|line| (&line["process"], &line["ipc_ns"])), accounting);
}
