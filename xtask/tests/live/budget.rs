//! How large the kernel's programs are, against what is stored: `cargo xtask budget` knows both.

use std::process::Command;

use crate::tracer::{backend, xtask};

fn assert_within_budget(mode: &str) {
    // Its notes must be seen also when it succeeds: that a kernel is not in the table, say. So it has
    // our standard error, which is not captured.
    let mut check = Command::new(xtask());
    check.args(["budget", "check", "--mode", mode, "--backend"]).arg(backend());
    assert!(check.status().unwrap().success(), "its messages are on standard error");
}

#[test]
fn no_program_of_live_outgrows_what_is_stored() {
    assert_within_budget("live");
}

#[test]
fn no_program_of_report_outgrows_what_is_stored() {
    assert_within_budget("report");
}
