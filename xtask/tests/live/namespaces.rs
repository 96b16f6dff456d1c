//! Lives and moves: births, who enters what from where, ends, and queues that are carried along.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::{
    book::{assert_valid, assert_whole},
    tracer::{
        LargeTids, LiveTracer, TestProcess, calls_of, lines, list, number, of_type, report, scaled,
        workload,
    },
};

/// A namespace line as event, namespace, where from.
fn told(line: &Value) -> (&str, &Value, &Value) {
    (line["event"].as_str().unwrap(), &line["ipc_ns"]["inum"], &line["from"]["inum"])
}

/// The namespace lines by a thread.
fn moves_of<'a>(lines: &'a [Value], tid: &Value) -> Vec<&'a Value> {
    let lines = of_type(lines, "namespace").into_iter();
    lines.filter(|line| line["process"]["tid"] == *tid).collect()
}

#[test]
fn births_and_moves_say_who_went_from_where_to_where() {
    let (lines, book) = lines(&["--only-command"], &["setns-walk"]);
    let events = list(&book["events"]);
    let mut threads: BTreeMap<u64, Vec<&Value>> = BTreeMap::new();
    for event in events {
        threads.entry(number(&event["tid"])).or_default().push(event);
    }
    assert!(threads.len() >= 4, "{book}");
    for (tid, events) in threads {
        let moves = moves_of(&lines, &json!(tid));
        let told: Vec<_> = moves.iter().map(|line| told(line)).collect();
        let cloned = told.len() == 1;
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
        assert_eq!(told, expected, "{tid}");
    }
    // The one that was born in a new namespace did not make it: its parent did.
    let cloned = events.last().unwrap();
    let made = of_type(&lines, "namespace")
        .into_iter()
        .find(|line| line["event"] == "created" && line["ipc_ns"]["inum"] == cloned["to"]);
    let entered = moves_of(&lines, &cloned["tid"])[0];
    assert_eq!(made.unwrap()["process"]["pid"], entered["process"]["ppid"]);
    assert_valid("event", &of_type(&lines, "namespace"));
}

#[test]
fn a_namespace_is_the_same_life_wherever_it_is_named() {
    let (lines, book) = lines(&["--only-command"], &["setns-walk"]);
    let mut lives: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    let mine: BTreeSet<u64> =
        list(&book["namespaces"]).iter().map(|ns| number(&ns["inum"])).collect();
    for line in &lines {
        for ns in [&line["ipc_ns"], &line["from"], &line["object"]["ipc_ns"]] {
            if let Some(inum) = ns["inum"].as_u64().filter(|inum| mine.contains(inum)) {
                lives.entry(inum).or_default().insert(number(&ns["gen"]));
            }
        }
    }
    assert_eq!(lives.keys().copied().collect::<BTreeSet<_>>(), mine);
    // The number of a namespace that is left for good may be given out again, within the walk.
    let births = |inum: u64| {
        let made = |event: &&Value| event["event"] == "created" && number(&event["to"]) == inum;
        list(&book["events"]).iter().filter(made).count().max(1)
    };
    for (inum, lives) in &lives {
        assert_eq!(lives.len(), births(*inum), "{inum}: {lives:?}");
    }
}

/// Namespaces that are made one after the other by one thread, each with one call in it: the key
/// says which.
const FIRST_KEY: u32 = 0x0c40_0000;

#[test]
fn each_life_of_a_number_has_its_own_calls() {
    let count = scaled(3000).to_string();
    let words = ["churn-namespaces", "--until-reused", "--count", &count];
    let (lines, book) = lines(&["--only-command"], &words);
    let made: Vec<_> = list(&book["namespaces"]).iter().map(|ns| &ns["inum"]).collect();
    let moves = moves_of(&lines, &book["tid"]);
    let created: Vec<_> = moves.iter().filter(|line| line["event"] == "created").collect();
    let calls = calls_of(&lines, &book["tid"]);
    let mut semaphores = BTreeMap::new();
    for line in of_type(&lines, "object") {
        if line["event"] == "created" && line["process"]["tid"] == book["tid"] {
            semaphores.insert(line["object"]["key"].as_str().unwrap(), &line["object"]);
        }
    }
    let all = (created.len(), calls.len(), semaphores.len());
    assert_eq!(all, (made.len(), made.len(), made.len()));
    // Numbers are given out again at once, or this would prove nothing.
    assert!(number(&book["distinct_inums"]) < made.len() as u64);
    let mut latest: BTreeMap<u64, u64> = BTreeMap::new();
    for (i, inum) in made.into_iter().enumerate() {
        let (born, call) = (&created[i]["ipc_ns"], calls[i]);
        assert_eq!(born["inum"], *inum);
        assert_eq!(call["ipc_ns"], *born);
        let key = format!("{:#010x}", FIRST_KEY | i as u32);
        assert_eq!(call["args"]["key"], key);
        assert_eq!(semaphores[key.as_str()]["ipc_ns"], call["object"]["ipc_ns"]);
        let life = number(&born["gen"]);
        if let Some(before) = latest.insert(number(inum), life) {
            assert!(life > before, "{born} after life {before}");
        }
    }
    assert_whole(&lines);
}

#[test]
fn a_report_keeps_the_lives_of_a_number_apart() {
    let count = scaled(3000).to_string();
    let words = ["churn-namespaces", "--until-reused", "--count", &count];
    let (report, book) = report(&["--only-command"], &words);
    assert_eq!(report["folded"], Value::Null);
    let mine: Vec<_> = list(&report["namespaces"])
        .iter()
        .filter(|ns| ns["created"]["process"]["tid"] == book["tid"])
        .collect();
    assert_eq!(mine.len(), list(&book["namespaces"]).len());
    let lives: BTreeSet<_> =
        mine.iter().map(|ns| (number(&ns["inum"]), number(&ns["gen"]))).collect();
    assert_eq!(lives.len(), mine.len());
    let mut keys = BTreeSet::new();
    for ns in mine {
        assert_eq!(ns["ops"]["semget"]["calls"], 1, "{ns}");
        assert_eq!(ns["ops"].as_object().unwrap().len(), 1, "{ns}");
        assert_eq!(list(&ns["objects"]).len(), 1, "{ns}");
        keys.insert(ns["objects"][0]["key"].as_str().unwrap());
    }
    assert_eq!(keys.len(), lives.len());
}

#[test]
fn the_end_of_each_namespace_is_noticed_once() {
    let mut live = LiveTracer::start(&[]);
    let count = scaled(300).to_string();
    let book = TestProcess::start(workload(&["churn-namespaces", "--count", &count])).book();
    let mut open: BTreeSet<(u64, u64)> = BTreeSet::new();
    let mut made = 0;
    let life = |line: &Value| (number(&line["ipc_ns"]["inum"]), number(&line["ipc_ns"]["gen"]));
    while made < list(&book["namespaces"]).len() || !open.is_empty() {
        let line = live.wait_for(|line| line["type"] == "namespace");
        if line["event"] == "created" && line["process"]["tid"] == book["tid"] {
            assert!(open.insert(life(&line)), "{line}");
            made += 1;
        } else if line["event"] == "destroyed" {
            open.remove(&life(&line));
            assert_eq!(line["process"], Value::Null, "nobody can know who: {line}");
            assert!(line["before"].is_string(), "{line}");
        }
    }
    let lines = live.end();
    let ended: Vec<_> = of_type(&lines, "namespace")
        .into_iter()
        .filter(|line| line["event"] == "destroyed")
        .map(life)
        .collect();
    assert_eq!(ended.iter().collect::<BTreeSet<_>>().len(), ended.len(), "each ends once");
}

#[test]
fn a_queue_belongs_to_the_namespace_it_was_made_in_also_when_that_is_dead() {
    let (lines, book) = lines(&["--only-command"], &["carried-queue"]);
    let mut threads: BTreeMap<u64, Vec<&Value>> = BTreeMap::new();
    for call in list(&book["calls"]) {
        threads.entry(number(&call["tid"])).or_default().push(call);
    }
    assert_eq!(threads.len(), 2);
    let life = |inum: &Value| {
        let of = |line: &&Value| line["event"] == "created" && line["ipc_ns"]["inum"] == *inum;
        let born = lines.iter().find(of).unwrap();
        json!({"inum": inum, "gen": born["ipc_ns"]["gen"]})
    };
    for (tid, log) in threads {
        let calls = calls_of(&lines, &json!(tid));
        assert_eq!(calls.len(), log.len());
        for (line, call) in calls.into_iter().zip(log) {
            assert_eq!((&line["op"], &line["ret"]), (&call["op"], &call["ret"]), "{line}");
            let object = &line["object"];
            let foreign = call["object_inum"] != call["caller_inum"];
            assert_eq!(object["ipc_ns"], life(&call["object_inum"]), "{line}");
            assert_eq!(object["foreign"], foreign, "{line}");
            assert_eq!(object["ipc_ns_dead"] == true, call["object_alive"] == false, "{line}");
            assert_eq!(object["name"], "carried", "{line}");
        }
    }
}

#[test]
fn each_namespace_is_told_of_beside_a_process_whose_number_has_the_same_low_half() {
    let count = scaled(3000);
    let _large = LargeTids::allow();
    // The neighbour's calls are filtered; what is made is always told.
    let (lines, book) =
        lines(&["--op", "shmdt"], &["colliding-births", "--count", &count.to_string()]);
    let made = of_type(&lines, "namespace").into_iter();
    let made = made.filter(|line| line["event"] == "created");
    let made = made.filter(|line| line["process"]["tid"] == book["maker"]).count() as u64;
    assert_eq!(made, count);
}
