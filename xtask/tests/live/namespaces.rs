//! Namespaces: creation, entering, destruction, and queues that are used from other namespaces.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::{
    invariants::{assert_complete, assert_valid},
    tracer::{
        LargeTids, LiveTracer, TestProcess, calls_of, lines, list, number, of_type, report, scaled,
        workload,
    },
};

/// A namespace line as event, namespace, and source namespace.
fn summarize(line: &Value) -> (&str, &Value, &Value) {
    (line["event"].as_str().unwrap(), &line["ipc_ns"]["inum"], &line["from"]["inum"])
}

/// The namespace lines by a thread.
fn moves_of<'a>(lines: &'a [Value], tid: &Value) -> Vec<&'a Value> {
    let lines = of_type(lines, "namespace").into_iter();
    lines.filter(|line| line["process"]["tid"] == *tid).collect()
}

#[test]
fn creations_and_moves_have_process_source_and_target() {
    let (lines, oracle) = lines(&["--only-command"], &["ns-transitions"]);
    let events = list(&oracle["events"]);
    let mut threads: BTreeMap<u64, Vec<&Value>> = BTreeMap::new();
    for event in events {
        threads.entry(number(&event["tid"])).or_default().push(event);
    }
    assert!(threads.len() >= 4, "{oracle}");
    for (tid, events) in threads {
        let moves = moves_of(&lines, &json!(tid));
        let reported: Vec<_> = moves.iter().map(|line| summarize(line)).collect();
        let cloned = reported.len() == 1;
        let mut expected = Vec::new();
        for event in events {
            if !cloned {
                if event["event"] == "created" {
                    expected.push(("created", &event["to"], &event["from"]));
                }
                expected.push(("left", &event["from"], &Value::Null));
            }
            expected.push(("entered", &event["to"], &event["from"]));
        }
        assert_eq!(reported, expected, "{tid}");
    }
    // The process that was cloned into a new namespace did not create it: its parent did.
    let cloned = events.last().unwrap();
    let made = of_type(&lines, "namespace")
        .into_iter()
        .find(|line| line["event"] == "created" && line["ipc_ns"]["inum"] == cloned["to"]);
    let entered = moves_of(&lines, &cloned["tid"])[0];
    assert_eq!(made.unwrap()["process"]["pid"], entered["process"]["ppid"]);
    assert_valid("event", &of_type(&lines, "namespace"));
}

#[test]
fn namespace_has_the_same_generation_everywhere() {
    let (lines, oracle) = lines(&["--only-command"], &["ns-transitions"]);
    let mut generations: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    let mine: BTreeSet<u64> =
        list(&oracle["namespaces"]).iter().map(|ns| number(&ns["inum"])).collect();
    for line in &lines {
        for ns in [&line["ipc_ns"], &line["from"], &line["object"]["ipc_ns"]] {
            if let Some(inum) = ns["inum"].as_u64().filter(|inum| mine.contains(inum)) {
                generations.entry(inum).or_default().insert(number(&ns["gen"]));
            }
        }
    }
    assert_eq!(generations.keys().copied().collect::<BTreeSet<_>>(), mine);
    // The inode number of a destroyed namespace may be reused within the workload.
    let creations = |inum: u64| {
        let made = |event: &&Value| event["event"] == "created" && number(&event["to"]) == inum;
        list(&oracle["events"]).iter().filter(made).count().max(1)
    };
    for (inum, generations) in &generations {
        assert_eq!(generations.len(), creations(*inum), "{inum}: {generations:?}");
    }
}

/// The first key of namespaces that one thread creates one after the other, with one call in each: the key
/// identifies the namespace.
const FIRST_KEY: u32 = 0x0c40_0000;

#[test]
fn each_generation_of_an_inum_has_its_own_calls() {
    let count = scaled(3000).to_string();
    let words = ["churn-namespaces", "--until-reused", "--count", &count];
    let (lines, oracle) = lines(&["--only-command"], &words);
    let made: Vec<_> = list(&oracle["namespaces"]).iter().map(|ns| &ns["inum"]).collect();
    let moves = moves_of(&lines, &oracle["tid"]);
    let created: Vec<_> = moves.iter().filter(|line| line["event"] == "created").collect();
    let calls = calls_of(&lines, &oracle["tid"]);
    let mut semaphores = BTreeMap::new();
    for line in of_type(&lines, "object") {
        if line["event"] == "created" && line["process"]["tid"] == oracle["tid"] {
            semaphores.insert(line["object"]["key"].as_str().unwrap(), &line["object"]);
        }
    }
    let all = (created.len(), calls.len(), semaphores.len());
    assert_eq!(all, (made.len(), made.len(), made.len()));
    // Inode numbers are reused: otherwise this would prove nothing.
    assert!(number(&oracle["distinct_inums"]) < made.len() as u64);
    let mut latest: BTreeMap<u64, u64> = BTreeMap::new();
    for (i, inum) in made.into_iter().enumerate() {
        let (new, call) = (&created[i]["ipc_ns"], calls[i]);
        assert_eq!(new["inum"], *inum);
        assert_eq!(call["ipc_ns"], *new);
        let key = format!("{:#010x}", FIRST_KEY | i as u32);
        assert_eq!(call["args"]["key"], key);
        assert_eq!(semaphores[key.as_str()]["ipc_ns"], call["object"]["ipc_ns"]);
        let generation = number(&new["gen"]);
        if let Some(before) = latest.insert(number(inum), generation) {
            assert!(generation > before, "{new} after generation {before}");
        }
    }
    assert_complete(&lines);
}

#[test]
fn report_separates_generations_of_an_inum() {
    let count = scaled(3000).to_string();
    let words = ["churn-namespaces", "--until-reused", "--count", &count];
    let (report, oracle) = report(&["--only-command"], &words);
    assert_eq!(report["folded"], Value::Null);
    let mine: Vec<_> = list(&report["namespaces"])
        .iter()
        .filter(|ns| ns["created"]["process"]["tid"] == oracle["tid"])
        .collect();
    assert_eq!(mine.len(), list(&oracle["namespaces"]).len());
    let generations: BTreeSet<_> =
        mine.iter().map(|ns| (number(&ns["inum"]), number(&ns["gen"]))).collect();
    assert_eq!(generations.len(), mine.len());
    let mut keys = BTreeSet::new();
    for ns in mine {
        assert_eq!(ns["ops"]["semget"]["calls"], 1, "{ns}");
        assert_eq!(ns["ops"].as_object().unwrap().len(), 1, "{ns}");
        assert_eq!(list(&ns["objects"]).len(), 1, "{ns}");
        keys.insert(ns["objects"][0]["key"].as_str().unwrap());
    }
    assert_eq!(keys.len(), generations.len());
}

#[test]
fn each_namespace_is_destroyed_once() {
    let mut live = LiveTracer::start(&[]);
    let count = scaled(300).to_string();
    let oracle =
        TestProcess::start(workload(&["churn-namespaces", "--count", &count])).read_oracle();
    let mut open: BTreeSet<(u64, u64)> = BTreeSet::new();
    let mut made = 0;
    let generation_of =
        |line: &Value| (number(&line["ipc_ns"]["inum"]), number(&line["ipc_ns"]["gen"]));
    while made < list(&oracle["namespaces"]).len() || !open.is_empty() {
        let line = live.wait_for(|line| line["type"] == "namespace");
        if line["event"] == "created" && line["process"]["tid"] == oracle["tid"] {
            assert!(open.insert(generation_of(&line)), "{line}");
            made += 1;
        } else if line["event"] == "destroyed" {
            open.remove(&generation_of(&line));
            assert_eq!(line["process"], Value::Null, "the process is unknown: {line}");
            assert!(line["before"].is_string(), "{line}");
        }
    }
    let lines = live.end();
    let ended: Vec<_> = of_type(&lines, "namespace")
        .into_iter()
        .filter(|line| line["event"] == "destroyed")
        .map(generation_of)
        .collect();
    assert_eq!(ended.iter().collect::<BTreeSet<_>>().len(), ended.len(), "each is destroyed once");
}

#[test]
fn queue_belongs_to_its_namespace_even_when_that_is_destroyed() {
    let (lines, oracle) = lines(&["--only-command"], &["queue-fd-passing"]);
    let mut threads: BTreeMap<u64, Vec<&Value>> = BTreeMap::new();
    for call in list(&oracle["calls"]) {
        threads.entry(number(&call["tid"])).or_default().push(call);
    }
    assert_eq!(threads.len(), 2);
    let generation_of = |inum: &Value| {
        let of = |line: &&Value| line["event"] == "created" && line["ipc_ns"]["inum"] == *inum;
        let created = lines.iter().find(of).unwrap();
        json!({"inum": inum, "gen": created["ipc_ns"]["gen"]})
    };
    for (tid, log) in threads {
        let calls = calls_of(&lines, &json!(tid));
        assert_eq!(calls.len(), log.len());
        for (line, call) in calls.into_iter().zip(log) {
            assert_eq!((&line["op"], &line["ret"]), (&call["op"], &call["ret"]), "{line}");
            let object = &line["object"];
            let foreign = call["object_inum"] != call["caller_inum"];
            assert_eq!(object["ipc_ns"], generation_of(&call["object_inum"]), "{line}");
            assert_eq!(object["foreign"], foreign, "{line}");
            assert_eq!(object["ipc_ns_dead"] == true, call["object_alive"] == false, "{line}");
            assert_eq!(object["name"], "carried", "{line}");
        }
    }
}

#[test]
fn namespaces_are_reported_beside_a_process_with_a_colliding_pid() {
    let count = scaled(3000);
    let _large = LargeTids::allow();
    // The neighbour's calls are filtered out; namespaces are always reported.
    let (lines, oracle) =
        lines(&["--op", "shmdt"], &["colliding-creations", "--count", &count.to_string()]);
    let made = of_type(&lines, "namespace").into_iter();
    let made = made.filter(|line| line["event"] == "created");
    let made = made.filter(|line| line["process"]["tid"] == oracle["maker"]).count() as u64;
    assert_eq!(made, count);
}
