//! Exact counts where threads are preempted wherever the kernel allows it, also inside of programs, and where
//! neighbours keep some kinds of programs from being run.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::{
    book::{assert_balanced, assert_whole, counts, counts_of_lines, restricted},
    tracer::{lines, list, number, of_type, report, scaled},
};

/// Calls of a thread: enough that each is preempted often.
fn words(calls: &str) -> Vec<&str> {
    let words = "saturate --namespaces 2 --threads 4 --births 10 --lookups --calls";
    words.split(' ').chain([calls]).collect()
}

/// Each namespace that the workload has made, by process that made it, once. `made` are events or namespaces:
/// process and namespace.
fn assert_births<'a>(book: &Value, made: impl Iterator<Item = (&'a Value, &'a Value)>) {
    let made: Vec<_> = made.collect();
    assert!(!list(&book["births"]).is_empty());
    for maker in list(&book["births"]) {
        let mine = made.iter().filter(|(process, _)| process["pid"] == maker["pid"]);
        let lives: Vec<_> = mine.map(|(_, ns)| (number(&ns["inum"]), number(&ns["gen"]))).collect();
        let expected = number(&maker["unshared"]) + number(&maker["cloned"]);
        assert_eq!(lives.len() as u64, expected, "{maker}");
        assert_eq!(lives.iter().collect::<BTreeSet<_>>().len(), lives.len(), "each lives once");
    }
}

#[test]
fn a_report_has_all_calls_and_births_of_preempted_threads() {
    let calls = scaled(1_000_000).to_string();
    let (report, book) = report(&["--only-command"], &words(&calls));
    assert!(number(&book["lookups"]) > 0, "the neighbours do something");
    let expected = counts(&book["namespaces"]);
    assert_eq!(restricted(counts(&report["namespaces"]), &expected), expected);
    assert_balanced(&report["accounting"]);
    let created = list(&report["namespaces"]).iter();
    assert_births(&book, created.map(|ns| (&ns["created"]["process"], ns)));
}

#[test]
fn lines_and_losses_are_all_calls_and_births_of_preempted_threads() {
    let calls = scaled(200_000).to_string();
    let (lines, book) = lines(&["--only-command"], &words(&calls));
    assert!(number(&book["lookups"]) > 0, "the neighbours do something");
    let expected = counts(&book["namespaces"]);
    assert_eq!(restricted(counts_of_lines(&lines), &expected), expected);
    assert_whole(&lines);
    let moves = of_type(&lines, "namespace").into_iter();
    let created = moves.filter(|line| line["event"] == "created");
    assert_births(&book, created.map(|line| (&line["process"], &line["ipc_ns"])));
}
