//! Objects, compared with the expected state of workloads.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    invariants::{assert_balanced, assert_complete, assert_valid},
    ls::{kernel_enters_by_number, kernel_lists_mappings},
    tracer::{
        LiveTracer, ReportTracer, TestProcess, lines, list, number, of_type, scaled, workload,
    },
};

/// A namespace: inode number and generation. An object in it: kind, id, name, inode number.
type ObjectIdentity = (u64, u64, String);

fn identity_of(object: &Value) -> ObjectIdentity {
    let ns = &object["ipc_ns"];
    let which = ["kind", "id", "name", "ino"].map(|name| object[name].to_string()).join(" ");
    (number(&ns["inum"]), number(&ns["gen"]), which)
}

/// The objects that exist after all lines, each with its last line.
fn remaining(lines: &[Value]) -> BTreeMap<ObjectIdentity, &Value> {
    let mut remaining = BTreeMap::new();
    for line in of_type(lines, "object") {
        let (object, event) = (&line["object"], line["event"].as_str().unwrap());
        if object["id"] == Value::Null && object["ino"] == Value::Null {
            // A name was unlinked, and its queue is unknown.
            assert_eq!(event, "removed", "{line}");
            continue;
        }
        let at = identity_of(object);
        let known = remaining.contains_key(&at);
        match event {
            "created" | "present" => assert!(!known, "{event} again: {line}"),
            "destroyed" if !known => assert_eq!(line["object"]["removed"], true, "{line}"),
            _ => {}
        }
        match event {
            "destroyed" => remaining.remove(&at),
            _ => remaining.insert(at, line),
        };
    }
    remaining
}

/// The seeds of random programs: `IPC_TRACE_TEST_SEEDS` of them, from
/// `IPC_TRACE_TEST_FIRST_SEED` on.
fn seeds() -> std::ops::Range<u64> {
    let asked = |name, usual| env::var(name).map_or(usual, |text| text.parse().unwrap());
    let first = asked("IPC_TRACE_TEST_FIRST_SEED", 1);
    first..first + asked("IPC_TRACE_TEST_SEEDS", 4)
}

/// The fields of an object that lines, reports and the oracle share, except for its creator.
fn described(object: &Value) -> Value {
    let queue = object["kind"] == "mq";
    let mut fields = json!({});
    for name in ["kind", "id", "name", "uid", "gid", "mode", "removed"] {
        fields[name] = object[name].clone();
    }
    if object["size"] != Value::Null && object["kind"] != "msg" {
        fields["size"] = object["size"].clone();
    }
    if !queue && object["removed"] == false {
        fields["key"] = object["key"].clone();
    }
    fields
}

/// Whether all operations have backend `function`: then each call's record shows whether it created an object.
fn creation_is_known(lines: &[Value]) -> bool {
    let start = of_type(lines, "start");
    start[0]["backend"].as_object().unwrap().values().all(|backend| backend == "function")
}

/// The creator is known of objects that were created while tracing, and of segments; it is exact if creations are
/// `known`.
fn assert_creator(line: &Value, made: bool, known: bool, oracle: &Value) {
    let creator = &line["creator"];
    if known && *creator != Value::Null {
        assert_eq!(creator["exact"], true, "{line}");
    }
    match (made, oracle["kind"].as_str().unwrap()) {
        (true, _) | (false, "shm") => {
            assert_eq!(creator["pid"], oracle["creator"], "{line} {oracle}")
        }
        (false, "mq") => assert_eq!(*creator, Value::Null, "{line}"),
        (false, _) => assert_eq!(creator["pid"], Value::Null, "{line}"),
    }
}

/// The objects of a namespace, by kind and then by id or name.
fn in_order(mut objects: Vec<Value>) -> Vec<Value> {
    objects
        .sort_by_key(|one| (one["kind"].to_string(), one["id"].as_u64(), one["name"].to_string()));
    objects
}

/// The reported objects of a namespace match the oracle. Most kernels provide no way into a namespace that only
/// attached segments hold: objects from before the start of tracing are unknown there, and of objects that are used
/// since, only what the use shows is known. Kernels before 5.12 do not even list such segments with their
/// namespaces: the number of attachments is unknown, and so is whether removed segments are still in use.
#[track_caller]
fn assert_same(namespace: &Value, reported: Vec<Value>, expected: Vec<Value>) {
    if namespace["members"] == true || kernel_enters_by_number() {
        assert_eq!(in_order(reported), in_order(expected), "{namespace}");
        return;
    }
    let lists = kernel_lists_mappings();
    for one in &reported {
        let same = |oracle: &Value| {
            let mut oracle = oracle.clone();
            for name in ["uid", "gid", "mode", "key"] {
                if one.get(name) == Some(&Value::Null) {
                    oracle[name] = Value::Null;
                }
            }
            if one.get("size").is_none() {
                oracle.as_object_mut().unwrap().remove("size");
            }
            if !lists && one.get("attached") == Some(&Value::Null) {
                oracle["attached"] = Value::Null;
            }
            *one == oracle
        };
        let may_be_in_use = !lists && one["removed"] == true;
        assert!(may_be_in_use || expected.iter().any(same), "{one} is not of {namespace}");
    }
}

#[test]
fn random_program_leaves_the_expected_state() {
    for seed in seeds() {
        let mut program = TestProcess::start(workload(&["model", "--seed", &seed.to_string()]));
        // At some point of the program.
        std::thread::sleep(Duration::from_millis(seed * 37 % 400));
        let live = LiveTracer::start(&[]);
        program.go();
        let oracle: Value = serde_json::from_str(&program.line()).unwrap();
        let lines = live.end();
        drop(program);
        assert_valid("event", &of_type(&lines, "object"));
        let remaining = remaining(&lines);
        let known = creation_is_known(&lines);
        for namespace in list(&oracle["namespaces"]) {
            let mine: Vec<_> =
                remaining.iter().filter(|(at, _)| at.0 == number(&namespace["inum"])).collect();
            let generations: BTreeSet<u64> = mine.iter().map(|(at, _)| at.1).collect();
            assert!(generations.len() <= 1, "seed {seed}: {generations:?} of {namespace}");
            let objects = list(&namespace["objects"]);
            let reported = mine.iter().map(|(_, line)| described(&line["object"])).collect();
            assert_same(namespace, reported, objects.iter().map(described).collect());
            for object in objects {
                let same = |line: &&Value| described(&line["object"]) == described(object);
                // Some are unknown: see `assert_same`.
                let Some(line) = mine.iter().map(|(_, line)| **line).find(same) else { continue };
                let events = of_type(&lines, "object").into_iter();
                let made = events
                    .filter(|event| identity_of(&event["object"]) == identity_of(&line["object"]))
                    .any(|event| event["event"] == "created");
                assert_creator(&line["object"], made, known, object);
            }
        }
        // The other namespaces are destroyed, with their objects.
        let alive: BTreeSet<u64> =
            list(&oracle["namespaces"]).iter().map(|one| number(&one["inum"])).collect();
        let dead = of_type(&lines, "namespace").into_iter();
        for line in dead.filter(|line| line["event"] == "destroyed") {
            let (inum, generation) =
                (number(&line["ipc_ns"]["inum"]), number(&line["ipc_ns"]["gen"]));
            assert!(
                !remaining.keys().any(|at| (at.0, at.1) == (inum, generation)),
                "seed {seed}: {line}"
            );
        }
        assert!(!alive.is_empty());
        assert_complete(&lines);
        println!("seed {seed}: {} objects left", remaining.len());
    }
}

#[test]
fn creator_of_an_object_is_exact_with_backend_function() {
    let (lines, oracle) = lines(&[], &["create-race"]);
    let known = creation_is_known(&lines);
    let mine = |line: &&Value| line["object"]["ipc_ns"]["inum"] == oracle["inum"];
    let created = of_type(&lines, "object").into_iter().filter(mine);
    let created: Vec<_> = created.filter(|line| line["event"] == "created").collect();
    let by = |line: &Value| line["object"]["creator"]["pid"].clone();
    for line in &created {
        assert_eq!(line["object"]["creator"]["exact"], known, "{line}");
    }
    for kind in ["shm", "sem", "msg", "mq"] {
        let is_requested = |line: &&&Value| match kind {
            "mq" => line["object"]["name"].as_str().unwrap().starts_with("asked-"),
            _ => line["object"]["key"].as_str().unwrap().starts_with("0x1c63000"),
        };
        let requested =
            created.iter().filter(|line| line["object"]["kind"] == kind).filter(is_requested);
        // One by each route into the kernel, by the first of the two processes that requested it.
        let makers: Vec<_> = requested.map(|line| by(line)).collect();
        assert_eq!(makers, vec![oracle["maker"].clone(); 3], "{kind}");
    }
    // No mq_open call created this queue; without backend `function`, the mq_open call is taken for its creation.
    let by_path = created.iter().filter(|line| line["object"]["name"] == "by-path");
    let by_path: Vec<_> = by_path.map(|line| by(line)).collect();
    assert_eq!(by_path, if known { vec![] } else { vec![oracle["opener"].clone()] });
    for raced in list(&oracle["raced"]) {
        let same =
            |line: &&&Value| line["object"]["kind"] == "shm" && line["object"]["id"] == raced["id"];
        let creations: Vec<_> = created.iter().filter(same).collect();
        assert_eq!(creations.len(), 1, "{raced}");
        if known {
            assert_eq!(by(creations[0]), raced["pid"], "{raced}");
        }
    }
    assert_complete(&lines);
}

#[test]
fn report_has_the_final_state_of_objects() {
    let mut program = TestProcess::start(workload(&["model", "--seed", "77"]));
    let report = ReportTracer::start(&[]);
    program.go();
    let oracle: Value = serde_json::from_str(&program.line()).unwrap();
    let report = report.end();
    drop(program);
    assert_valid("report", &[&report]);
    for namespace in list(&oracle["namespaces"]) {
        let reported = list(&report["namespaces"])
            .iter()
            .filter(|ns| ns["inum"] == namespace["inum"] && ns["destroyed"] == Value::Null)
            .flat_map(|ns| list(&ns["objects"]))
            .filter(|object| object["destroyed"] == Value::Null);
        let reported: Vec<&Value> = reported.collect();
        let attached = |object: &Value| {
            let mut described = described(object);
            described["attached"] = object["attached"].clone();
            described
        };
        let expected = list(&namespace["objects"]).iter().map(attached).collect();
        assert_same(namespace, reported.iter().map(|one| attached(one)).collect(), expected);
        assert!(
            reported.iter().all(|object| object["removed"] == false || object["leaked"] == false)
        );
    }
}

#[test]
fn present_objects_precede_calls_with_any_filter() {
    let mut ns_holders = TestProcess::start(workload(&["ns-holders"]));
    let oracle: Value = serde_json::from_str(&ns_holders.line()).unwrap();
    let (lines, _) = lines(&["--op", "mq_notify", "--pid", "1"], &["all-args"]);
    assert_eq!(of_type(&lines, "ipc").len(), 0);
    let present: Vec<_> =
        of_type(&lines, "object").into_iter().filter(|line| line["event"] == "present").collect();
    for held in list(&oracle["held"]) {
        let rows =
            ["shm", "sem", "msg"].map(|kind| held[kind].as_str().unwrap().lines().count() - 1);
        let wanted = rows.iter().sum::<usize>() + list(&held["queues"]).len();
        let mine = present.iter().filter(|line| line["ipc_ns"]["inum"] == held["inum"]);
        let mine = mine
            .filter(|line| line["object"]["kind"] != "mq" || line["object"]["removed"] == false);
        // Most kernels have no way into a namespace that only a mapping or an open file holds.
        if mine.clone().count() != 0
            || !["mapping", "sysvipc"].contains(&held["label"].as_str().unwrap())
        {
            assert_eq!(mine.count(), wanted, "{held}");
        }
    }
    // Calls that the filter drops still update the state.
    let count =
        |event| of_type(&lines, "object").iter().filter(|line| line["event"] == event).count();
    assert!(count("created") >= 12 && count("removed") >= 12, "{lines:?}");
    assert_complete(&lines);
    drop(ns_holders);
}

#[test]
fn objects_are_complete_despite_ring_overflow() {
    let options = ["--ring-bytes", "4096"];
    let (lines, _) =
        lines(&options, &["count", "--fresh", "--calls", &scaled(200_000).to_string()]);
    assert!(number(&lines.last().unwrap()["accounting"]["dropped"]) > 0);
    let identities = |event| {
        let of_event = of_type(&lines, "object").into_iter();
        let of_event = of_event.filter(move |line| line["event"] == event);
        of_event.map(|line| identity_of(&line["object"])).collect::<BTreeSet<_>>()
    };
    let (created, removed) = (identities("created"), identities("removed"));
    assert!(!created.is_empty());
    assert_eq!(created, removed);
}

#[test]
fn object_without_living_users_is_leaked() {
    let report = ReportTracer::start(&[]);
    let mut program = TestProcess::start(workload(&["leak"]));
    let oracle: Value = serde_json::from_str(&program.line()).unwrap();
    let report = report.end();
    drop(program);
    assert_balanced(&report["accounting"]);
    let mine: Vec<_> = list(&report["namespaces"])
        .iter()
        .filter(|ns| ns["inum"] == oracle["inum"])
        .flat_map(|ns| list(&ns["objects"]))
        .collect();
    for object in &mine {
        let kept = object["key"] == oracle["kept"];
        assert_eq!(object["leaked"], !kept, "{object}");
        if !kept {
            assert_eq!(object["last"]["pid"], oracle["left_by"], "{object}");
        }
    }
    assert_eq!(mine.len(), 5, "{mine:?}");
}
