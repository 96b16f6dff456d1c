//! Lost records: the tracer resynchronises its state, and the rest of the run is not affected.

use std::collections::{BTreeMap, BTreeSet};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    preemption::assert_as_exact_as_can_be,
    tracer::{LiveTracer, TestProcess, ipc_ns_of, list, number, of_type, program, text, workload},
};

/// Objects of a namespace: kind, and id or name.
type ObjectTags = BTreeSet<(String, String)>;

fn named(object: &Value) -> (String, String) {
    let by = if object["kind"] == "mq" { &object["name"] } else { &object["id"] };
    (object["kind"].to_string(), by.to_string())
}

/// The objects that exist after all lines, by the inode number of their namespace.
fn living(lines: &[Value]) -> BTreeMap<u64, ObjectTags> {
    let mut all: BTreeMap<u64, ObjectTags> = BTreeMap::new();
    for line in lines {
        let inum = line["ipc_ns"]["inum"].as_u64().unwrap_or(0);
        match (line["type"].as_str().unwrap(), line["event"].as_str()) {
            ("namespace", Some("created" | "present")) => drop(all.entry(inum).or_default()),
            ("namespace", Some("destroyed")) => drop(all.remove(&inum)),
            ("object", Some("created" | "present")) => {
                all.entry(inum).or_default().insert(named(&line["object"]));
            }
            ("object", Some("destroyed")) => {
                all.entry(inum).or_default().remove(&named(&line["object"]));
            }
            _ => {}
        }
    }
    all
}

/// The objects of a namespace that exist now, from `ls`.
fn existing(inum: u64) -> ObjectTags {
    let output = program().args(["ls", "-o", "json", &inum.to_string()]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let ls: Value = serde_json::from_slice(&output.stdout).unwrap();
    list(&ls["namespaces"][0]["objects"]).iter().map(named).collect()
}

/// Namespaces with objects, and the processes that keep them.
fn many_namespaces() -> (TestProcess, Vec<u64>) {
    let words = ["many-namespaces", "--namespaces", "3", "--processes", "2", "--objects", "40"];
    let mut process = TestProcess::start(workload(&words));
    let oracle: Value = serde_json::from_str(&process.line()).unwrap();
    let inums = list(&oracle["founders"]).iter().map(|pid| ipc_ns_of(number(pid) as u32)).collect();
    (process, inums)
}

/// Changes more objects than the control ring holds: each change is sent there, as the other ring is full.
fn flood() {
    TestProcess::start(workload(&["control-flood", "objects", "--seconds", "3"])).read_oracle();
}

#[test]
fn state_is_resynchronised_after_a_loss() {
    let mut live = LiveTracer::start(&["--ring-bytes", "4096"]);
    let (before, first) = many_namespaces();
    let is_created = |line: &Value| line["type"] == "namespace" && line["event"] == "created";
    live.wait_for(|line| is_created(line) && line["ipc_ns"]["inum"] == first[2]);
    live.signal(Signal::SIGSTOP);
    flood();
    // Some namespaces are created and others destroyed while the tracer is stopped.
    let (during, second) = many_namespaces();
    let (status, _, stderr) = before.join();
    assert!(status.success(), "{status}: {stderr}");
    live.signal(Signal::SIGCONT);
    let resync = live.wait_for(|line| line["type"] == "resync" && line["complete"] == true);
    assert!(number(&resync["objects"]["appeared"]) > 0, "{resync}");
    let (after, third) = many_namespaces();
    live.wait_for(|line| is_created(line) && line["ipc_ns"]["inum"] == third[2]);
    let expected: Vec<(u64, ObjectTags)> =
        second.iter().chain(&third).map(|inum| (*inum, existing(*inum))).collect();
    let lines = live.end();
    for beside in [during, after] {
        let (status, _, stderr) = beside.join();
        assert!(status.success(), "{status}: {stderr}");
    }
    let living = living(&lines);
    for (inum, objects) in &expected {
        assert_eq!(objects.len(), 4 * 40);
        assert_eq!(living.get(inum), Some(objects), "{inum}");
    }
    for inum in first.iter().filter(|inum| !second.contains(inum) && !third.contains(inum)) {
        assert!(living.get(inum).is_none_or(BTreeSet::is_empty), "{inum}");
    }
    // Later creations are reported as usual, with their creator.
    let made_after = of_type(&lines, "object").into_iter().filter(|line| {
        third.contains(&line["ipc_ns"]["inum"].as_u64().unwrap())
            && line["seq"].as_u64() > resync["seq"].as_u64()
    });
    for line in made_after.filter(|line| line["event"] == "created") {
        assert!(line["process"]["pid"].is_u64(), "{line}");
    }
    let lost: u64 = of_type(&lines, "loss").iter().map(|line| number(&line["metadata"])).sum();
    let accounting = &lines.last().unwrap()["accounting"];
    let [dropped, withheld] =
        ["dropped", "withheld"].map(|count| number(&accounting["control"][count]));
    assert!(dropped > 0 && dropped + withheld == lost, "{accounting}");
    assert!(number(&accounting["resyncs"]["complete"]) > 0, "{accounting}");
    assert_as_exact_as_can_be(accounting);
}
