//! The scenarios that `cargo xtask scenarios` knows: each leads to the findings that it has to lead to, and to
//! no others.

use std::process::Command;

use crate::tracer::{backend, lines, list, number, of_type, report, scaled, xtask};

/// A flood on two processors, and how many calls on a queue of another namespace in between. It takes four
/// seconds, or two where what it leaves to be read is read slowly.
fn flood() -> [&'static str; 7] {
    let seconds = if scaled(100) < 100 { "2" } else { "4" };
    ["semop-flood", "--fresh", "--seconds", seconds, "--threads", "2", "--foreign=1000"]
}

/// Plays them with the backend that is tested.
fn play(words: &[&str]) {
    let mut command = Command::new(xtask());
    command.arg("scenarios").args(words).arg("--backend").arg(backend());
    let output = command.output().unwrap();
    let [stdout, stderr] =
        [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(output.status.success(), "{stdout}\n{stderr}");
    // The table is worth reading also when all is well; a test that succeeds shows it with --nocapture.
    println!("{stdout}");
}

#[test]
fn each_leads_to_its_findings_and_to_no_others() {
    play(&[]);
}

#[test]
fn a_report_has_the_same_findings() {
    play(&["queue-", "--report"]);
}

#[test]
fn a_flood_takes_nothing_from_a_finding() {
    let (lines, book) = lines(&["--ring-bytes", "4096", "--only-command"], &flood());
    let end = lines.last().unwrap();
    assert!(number(&end["accounting"]["dropped"]) > 0, "{}", end["accounting"]);
    let findings = of_type(&lines, "finding").into_iter();
    let mut ours = findings.filter(|one| one["subject"]["process"]["tid"] == book["foreign_tid"]);
    let last = ours.next_back().expect("a finding");
    let told = [&last["class"], &last["severity"], &last["count"]];
    assert_eq!(told.map(ToString::to_string), ["\"foreign-object\"", "\"high\"", "1000"], "{last}");
}

#[test]
fn a_flood_takes_nothing_from_a_finding_of_a_report() {
    let (report, book) = report(&["--ring-bytes", "4096", "--only-command"], &flood());
    let mut ours = list(&report["findings"])
        .iter()
        .filter(|one| one["subject"]["process"]["tid"] == book["foreign_tid"]);
    let one = ours.next().expect("a finding");
    assert_eq!((&one["class"], number(&one["count"])), (&"foreign-object".into(), 1000), "{one}");
    assert!(ours.next().is_none(), "it is one finding");
}

/// How long a load is traced, in tenths of a second, and at least.
const MIXED: [u64; 2] = [1200, 100];

#[test]
fn a_busy_host_leads_to_no_finding() {
    let mut command = Command::new(xtask());
    let tenths = scaled(MIXED[0]).max(MIXED[1]);
    let minutes = (tenths as f64 / 600.0).to_string();
    command.args(["mixed", "--minutes", &minutes, "--backend"]).arg(backend());
    let output = command.output().unwrap();
    let [stdout, stderr] =
        [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(output.status.success(), "{stdout}\n{stderr}");
}
