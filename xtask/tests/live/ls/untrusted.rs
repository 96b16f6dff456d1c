//! Processes that replace what they hold by other files while root inspects them.

use std::os::unix::process::CommandExt as _;

use serde_json::{Value, json};

use super::namespace;
use crate::tracer::{TestProcess, list, number, program, text, workload};

/// Runs of `ls`, each of which reads the descriptors at another moment.
const MAX_CHECKS: usize = 8;

/// The output of an `ls` whose process may get a controlling terminal. `proc_only`: it uses only `/proc`.
fn ls_as_leader(proc_only: bool) -> Value {
    let mut ls = program();
    ls.args(["ls", "-o", "json"]);
    if proc_only {
        ls.args(["--btf", "/dev/null"]);
    }
    // SAFETY: setsid is a system call alone.
    unsafe {
        ls.pre_exec(|| {
            nix::unistd::setsid()?;
            Ok(())
        });
    }
    let output = ls.output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn swapped_in_files_are_not_opened() {
    let mut swap = TestProcess::start(workload(&["path-swap"]));
    let report: Value = serde_json::from_str(&swap.line()).unwrap();
    for turn in 0..MAX_CHECKS {
        let proc_only = turn % 2 == 0;
        let ls = ls_as_leader(proc_only);
        let found = namespace(&ls, &report["inum"]);
        let queues = list(&found["objects"]).iter().filter(|one| one["removed"] == true);
        // Each has one descriptor that is not swapped.
        assert_eq!(queues.count() as u64, number(&report["queues"]), "{found:#}");
        for hidden in list(&report["hidden"]) {
            if proc_only && ["symlink", "folder"].iter().any(|label| hidden["label"] == *label) {
                let found = namespace(&ls, &hidden["inum"]);
                let reason = found["unseen"][0]["reason"].as_str().unwrap();
                assert!(reason.contains("a symlink is on the way to it"), "{found:#}");
            }
        }
    }
    let (status, lines, stderr) = swap.join();
    assert!(status.success(), "{stderr}");
    let opened: Value = serde_json::from_str(&lines[0]).unwrap();
    assert_eq!(opened, json!({"host_file": false, "fifo": false, "terminal": false}));
}
