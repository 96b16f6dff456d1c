//! Processes that put other files in the place of what they hold while root looks at them.

use std::os::unix::process::CommandExt as _;

use serde_json::{Value, json};

use super::namespace;
use crate::tracer::{TestProcess, list, number, program, text, workload};

/// Looks that each meet the descriptors at another moment.
const LOOKS: usize = 8;

/// What a look shows whose process may get a controlling terminal. `alone`: `/proc` is all it has.
fn look_as_leader(alone: bool) -> Value {
    let mut ls = program();
    ls.args(["ls", "-o", "json"]);
    if alone {
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
fn files_that_a_process_swaps_in_are_not_opened() {
    let mut swap = TestProcess::start(workload(&["path-swap"]));
    let report: Value = serde_json::from_str(&swap.line()).unwrap();
    for turn in 0..LOOKS {
        let alone = turn % 2 == 0;
        let ls = look_as_leader(alone);
        let found = namespace(&ls, &report["inum"]);
        let queues = list(&found["objects"]).iter().filter(|one| one["removed"] == true);
        // Each has a descriptor that stays.
        assert_eq!(queues.count() as u64, number(&report["queues"]), "{found:#}");
        for hidden in list(&report["hidden"]) {
            if alone && ["symlink", "folder"].iter().any(|label| hidden["label"] == *label) {
                let found = namespace(&ls, &hidden["inum"]);
                let reason = found["unseen"][0]["reason"].as_str().unwrap();
                assert!(reason.contains("a symlink is on the way to it"), "{found:#}");
            }
        }
    }
    let (status, lines, complaints) = swap.join();
    assert!(status.success(), "{complaints}");
    let opened: Value = serde_json::from_str(&lines[0]).unwrap();
    assert_eq!(opened, json!({"host_file": false, "fifo": false, "terminal": false}));
}
