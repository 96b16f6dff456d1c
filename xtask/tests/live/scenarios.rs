//! The scenarios that `cargo xtask scenarios` knows: each leads to the findings that it has to lead to, and to
//! no others.

use std::{env, process::Command};

use crate::tracer::xtask;

/// Plays them with the backend that is tested.
fn play(words: &[&str]) {
    let backend = env::var_os("IPC_TRACE_TEST_BACKEND").unwrap_or_else(|| "syscall".into());
    let mut command = Command::new(xtask());
    command.arg("scenarios").args(words).arg("--backend").arg(backend);
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
