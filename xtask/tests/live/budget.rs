//! How large the kernel's programs are, against what is stored: `cargo xtask budget` knows both.

use std::{env, process::Command};

use crate::tracer::xtask;

#[test]
fn no_program_outgrows_what_is_stored() {
    let backend = env::var_os("IPC_TRACE_TEST_BACKEND").unwrap_or_else(|| "syscall".into());
    // Its notes must be seen also when it succeeds: that a kernel is not in the table, say. So it has
    // our standard error, which is not captured.
    let mut check = Command::new(xtask());
    check.args(["budget", "check", "--backend"]).arg(backend);
    assert!(check.status().unwrap().success(), "its messages are on standard error");
}
