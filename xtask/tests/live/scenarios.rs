//! The scenarios of `cargo xtask scenarios`: each leads to exactly its findings.

use std::process::Command;

use crate::tracer::{backend, lines, list, number, of_type, report, scaled, xtask};

/// A flood on two processors, with calls on a queue of another namespace in between. It takes four seconds, or two
/// where reading its records is slow.
fn flood() -> [&'static str; 7] {
    let seconds = if scaled(100) < 100 { "2" } else { "4" };
    ["semop-flood", "--fresh", "--seconds", seconds, "--threads", "2", "--foreign=1000"]
}

/// Runs them with the backend that is tested.
fn run_scenarios(words: &[&str]) {
    let mut command = Command::new(xtask());
    command.arg("scenarios").args(words).arg("--backend").arg(backend());
    let output = command.output().unwrap();
    let [stdout, stderr] =
        [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(output.status.success(), "{stdout}\n{stderr}");
    // The table is useful even on success: --nocapture shows it.
    println!("{stdout}");
}

#[test]
fn each_scenario_leads_to_exactly_its_findings() {
    run_scenarios(&[]);
}

#[test]
fn report_has_the_same_findings() {
    run_scenarios(&["queue-", "--report"]);
}

#[test]
fn report_with_counts_has_the_same_findings() {
    // What these do is done by calls. Others must be inspected while they live, for which `report` has no sign.
    for calls in ["queue-", "probe-", "share-"] {
        run_scenarios(&[calls, "--counts"]);
    }
}

#[test]
fn finding_survives_a_call_flood() {
    let (lines, oracle) = lines(&["--ring-bytes", "4096", "--only-command"], &flood());
    let end = lines.last().unwrap();
    assert!(number(&end["accounting"]["dropped"]) > 0, "{}", end["accounting"]);
    let findings = of_type(&lines, "finding").into_iter();
    let mut ours = findings.filter(|one| one["subject"]["process"]["tid"] == oracle["foreign_tid"]);
    let last = ours.next_back().expect("a finding");
    let fields = [&last["class"], &last["severity"], &last["count"]];
    assert_eq!(
        fields.map(ToString::to_string),
        ["\"foreign-object\"", "\"high\"", "1000"],
        "{last}"
    );
}

#[test]
fn finding_of_a_report_survives_a_call_flood() {
    let (report, oracle) = report(&["--ring-bytes", "4096", "--only-command"], &flood());
    let mut ours = list(&report["findings"])
        .iter()
        .filter(|one| one["subject"]["process"]["tid"] == oracle["foreign_tid"]);
    let one = ours.next().expect("a finding");
    assert_eq!((&one["class"], number(&one["count"])), (&"foreign-object".into(), 1000), "{one}");
    assert!(ours.next().is_none(), "it is one finding");
}

/// How long a load is traced, in tenths of a second, and the minimum.
const SOAK_TENTHS: [u64; 2] = [1200, 100];

#[test]
fn busy_host_leads_to_no_finding() {
    let mut command = Command::new(xtask());
    let tenths = scaled(SOAK_TENTHS[0]).max(SOAK_TENTHS[1]);
    let minutes = (tenths as f64 / 600.0).to_string();
    command.args(["soak", "--minutes", &minutes, "--backend"]).arg(backend());
    let output = command.output().unwrap();
    let [stdout, stderr] =
        [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(output.status.success(), "{stdout}\n{stderr}");
}
