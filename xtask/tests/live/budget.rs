//! The size of the kernel's programs against the stored budget: `cargo xtask budget` compares them.

use std::process::Command;

use crate::tracer::{backend, xtask};

fn assert_within_budget(mode: &str) {
    // Its notes must be visible even on success, such as that a kernel is not in the table. So it has our
    // standard error, which is not captured.
    let mut check = Command::new(xtask());
    check.args(["budget", "check", "--mode", mode, "--backend"]).arg(backend());
    assert!(check.status().unwrap().success(), "its messages are on standard error");
}

#[test]
fn live_programs_are_within_budget() {
    assert_within_budget("live");
}

#[test]
fn report_programs_are_within_budget() {
    assert_within_budget("report");
}
