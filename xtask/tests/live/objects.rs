//! Lives of objects, held against what workloads know of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    book::{assert_balanced, assert_valid, assert_whole},
    ls::{kernel_enters_by_number, kernel_lists_mappings},
    tracer::{
        LiveTracer, ReportTracer, TestProcess, lines, list, number, of_type, scaled, workload,
    },
};

/// A namespace: number and life. An object in it: kind, id, name, inode number.
type NamespaceId = (u64, u64, String);

fn place(object: &Value) -> NamespaceId {
    let ns = &object["ipc_ns"];
    let which = ["kind", "id", "name", "ino"].map(|name| object[name].to_string()).join(" ");
    (number(&ns["inum"]), number(&ns["gen"]), which)
}

/// What the lines of objects' lives leave: those that exist, as they were told of last.
fn left(lines: &[Value]) -> BTreeMap<NamespaceId, &Value> {
    let mut left = BTreeMap::new();
    for line in of_type(lines, "object") {
        let (object, event) = (&line["object"], line["event"].as_str().unwrap());
        if object["id"] == Value::Null && object["ino"] == Value::Null {
            // A name was unlinked, and it is not known whose.
            assert_eq!(event, "removed", "{line}");
            continue;
        }
        let at = place(object);
        let known = left.contains_key(&at);
        match event {
            "created" | "present" => assert!(!known, "{event} again: {line}"),
            "destroyed" if !known => assert_eq!(line["object"]["removed"], true, "{line}"),
            _ => {}
        }
        match event {
            "destroyed" => left.remove(&at),
            _ => left.insert(at, line),
        };
    }
    left
}

/// The seeds that random programs are made of: `IPC_TRACE_TEST_SEEDS` of them, from
/// `IPC_TRACE_TEST_FIRST_SEED` on.
fn seeds() -> std::ops::Range<u64> {
    let asked = |name, usual| env::var(name).map_or(usual, |text| text.parse().unwrap());
    let first = asked("IPC_TRACE_TEST_FIRST_SEED", 1);
    first..first + asked("IPC_TRACE_TEST_SEEDS", 4)
}

/// What a line or a report says of an object that the book has, but for who made it.
fn described(object: &Value) -> Value {
    let queue = object["kind"] == "mq";
    let mut told = json!({});
    for name in ["kind", "id", "name", "uid", "gid", "mode", "removed"] {
        told[name] = object[name].clone();
    }
    if object["size"] != Value::Null && object["kind"] != "msg" {
        told["size"] = object["size"].clone();
    }
    if !queue && object["removed"] == false {
        told["key"] = object["key"].clone();
    }
    told
}

/// Whether all operations are seen by functions: then it is known of each call whether it made an object.
fn births_are_known(lines: &[Value]) -> bool {
    let start = of_type(lines, "start");
    start[0]["backend"].as_object().unwrap().values().all(|backend| backend == "function")
}

/// Who made an object is known of those that were made while tracing, and of segments; without a doubt where
/// births are `known`.
fn assert_creator(line: &Value, made: bool, known: bool, book: &Value) {
    let creator = &line["creator"];
    if known && *creator != Value::Null {
        assert_eq!(creator["exact"], true, "{line}");
    }
    match (made, book["kind"].as_str().unwrap()) {
        (true, _) | (false, "shm") => assert_eq!(creator["pid"], book["creator"], "{line} {book}"),
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

/// What was told of a namespace is what the book says. Most kernels have no way into one that only
/// attached segments hold: what was in it before tracing started is not known there, and of what is used
/// since only what its use says. Kernels before 5.12 do not even list such segments with their
/// namespaces: how often they are attached is not known, nor whether what was removed is still in use.
#[track_caller]
fn assert_same(namespace: &Value, told: Vec<Value>, wanted: Vec<Value>) {
    if namespace["members"] == true || kernel_enters_by_number() {
        assert_eq!(in_order(told), in_order(wanted), "{namespace}");
        return;
    }
    let lists = kernel_lists_mappings();
    for one in &told {
        let same = |book: &Value| {
            let mut book = book.clone();
            for name in ["uid", "gid", "mode", "key"] {
                if one.get(name) == Some(&Value::Null) {
                    book[name] = Value::Null;
                }
            }
            if one.get("size").is_none() {
                book.as_object_mut().unwrap().remove("size");
            }
            if !lists && one.get("attached") == Some(&Value::Null) {
                book["attached"] = Value::Null;
            }
            *one == book
        };
        let may_be_in_use = !lists && one["removed"] == true;
        assert!(may_be_in_use || wanted.iter().any(same), "{one} is not of {namespace}");
    }
}

#[test]
fn a_random_program_leaves_what_its_book_says_whenever_tracing_starts() {
    for seed in seeds() {
        let mut program = TestProcess::start(workload(&["model", "--seed", &seed.to_string()]));
        // Somewhere in it.
        std::thread::sleep(Duration::from_millis(seed * 37 % 400));
        let live = LiveTracer::start(&[]);
        program.go();
        let book: Value = serde_json::from_str(&program.line()).unwrap();
        let lines = live.end();
        drop(program);
        assert_valid("event", &of_type(&lines, "object"));
        let left = left(&lines);
        let known = births_are_known(&lines);
        for namespace in list(&book["namespaces"]) {
            let mine: Vec<_> =
                left.iter().filter(|(at, _)| at.0 == number(&namespace["inum"])).collect();
            let lives: BTreeSet<u64> = mine.iter().map(|(at, _)| at.1).collect();
            assert!(lives.len() <= 1, "seed {seed}: {lives:?} of {namespace}");
            let books = list(&namespace["objects"]);
            let told = mine.iter().map(|(_, line)| described(&line["object"])).collect();
            assert_same(namespace, told, books.iter().map(described).collect());
            for book in books {
                let same = |line: &&Value| described(&line["object"]) == described(book);
                // Those that were not seen: see `assert_same`.
                let Some(line) = mine.iter().map(|(_, line)| **line).find(same) else { continue };
                let births = of_type(&lines, "object").into_iter();
                let made = births
                    .filter(|birth| place(&birth["object"]) == place(&line["object"]))
                    .any(|birth| birth["event"] == "created");
                assert_creator(&line["object"], made, known, book);
            }
        }
        // The others are gone, and their objects with them.
        let alive: BTreeSet<u64> =
            list(&book["namespaces"]).iter().map(|one| number(&one["inum"])).collect();
        let dead = of_type(&lines, "namespace").into_iter();
        for line in dead.filter(|line| line["event"] == "destroyed") {
            let (inum, life) = (number(&line["ipc_ns"]["inum"]), number(&line["ipc_ns"]["gen"]));
            assert!(!left.keys().any(|at| (at.0, at.1) == (inum, life)), "seed {seed}: {line}");
        }
        assert!(!alive.is_empty());
        assert_whole(&lines);
        println!("seed {seed}: {} objects left", left.len());
    }
}

#[test]
fn who_made_an_object_is_known_where_functions_are_hooked() {
    let (lines, book) = lines(&[], &["births"]);
    let known = births_are_known(&lines);
    let mine = |line: &&Value| line["object"]["ipc_ns"]["inum"] == book["inum"];
    let born = of_type(&lines, "object").into_iter().filter(mine);
    let born: Vec<_> = born.filter(|line| line["event"] == "created").collect();
    let by = |line: &Value| line["object"]["creator"]["pid"].clone();
    for line in &born {
        assert_eq!(line["object"]["creator"]["exact"], known, "{line}");
    }
    for kind in ["shm", "sem", "msg", "mq"] {
        let is_asked = |line: &&&Value| match kind {
            "mq" => line["object"]["name"].as_str().unwrap().starts_with("asked-"),
            _ => line["object"]["key"].as_str().unwrap().starts_with("0x1c63000"),
        };
        let asked = born.iter().filter(|line| line["object"]["kind"] == kind).filter(is_asked);
        // One by each route into the kernel, of the two that would have made it.
        let makers: Vec<_> = asked.map(|line| by(line)).collect();
        assert_eq!(makers, vec![book["maker"].clone(); 3], "{kind}");
    }
    // No call of mq_open made this queue; without the functions, that one is taken for its birth.
    let by_path = born.iter().filter(|line| line["object"]["name"] == "by-path");
    let by_path: Vec<_> = by_path.map(|line| by(line)).collect();
    assert_eq!(by_path, if known { vec![] } else { vec![book["opener"].clone()] });
    for raced in list(&book["raced"]) {
        let same =
            |line: &&&Value| line["object"]["kind"] == "shm" && line["object"]["id"] == raced["id"];
        let births: Vec<_> = born.iter().filter(same).collect();
        assert_eq!(births.len(), 1, "{raced}");
        if known {
            assert_eq!(by(births[0]), raced["pid"], "{raced}");
        }
    }
    assert_whole(&lines);
}

#[test]
fn a_report_tells_how_objects_stand_at_the_end() {
    let mut program = TestProcess::start(workload(&["model", "--seed", "77"]));
    let report = ReportTracer::start(&[]);
    program.go();
    let book: Value = serde_json::from_str(&program.line()).unwrap();
    let report = report.end();
    drop(program);
    assert_valid("report", &[&report]);
    for namespace in list(&book["namespaces"]) {
        let told = list(&report["namespaces"])
            .iter()
            .filter(|told| told["inum"] == namespace["inum"] && told["destroyed"] == Value::Null)
            .flat_map(|told| list(&told["objects"]))
            .filter(|object| object["destroyed"] == Value::Null);
        let told: Vec<&Value> = told.collect();
        let attached = |object: &Value| {
            let mut described = described(object);
            described["attached"] = object["attached"].clone();
            described
        };
        let wanted = list(&namespace["objects"]).iter().map(attached).collect();
        assert_same(namespace, told.iter().map(|one| attached(one)).collect(), wanted);
        assert!(told.iter().all(|object| object["removed"] == false || object["leaked"] == false));
    }
}

#[test]
fn what_exists_comes_before_the_first_call_whatever_the_filter() {
    let mut hold = TestProcess::start(workload(&["hold"]));
    let book: Value = serde_json::from_str(&hold.line()).unwrap();
    let (lines, _) = lines(&["--op", "mq_notify", "--pid", "1"], &["args-zoo"]);
    assert_eq!(of_type(&lines, "ipc").len(), 0);
    let present: Vec<_> =
        of_type(&lines, "object").into_iter().filter(|line| line["event"] == "present").collect();
    for held in list(&book["held"]) {
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
    // What the filter takes out still changes what is known.
    let count =
        |event| of_type(&lines, "object").iter().filter(|line| line["event"] == event).count();
    assert!(count("created") >= 12 && count("removed") >= 12, "{lines:?}");
    assert_whole(&lines);
    drop(hold);
}

#[test]
fn objects_are_complete_also_when_the_ring_runs_over() {
    let options = ["--ring-bytes", "4096"];
    let (lines, _) =
        lines(&options, &["count", "--fresh", "--calls", &scaled(200_000).to_string()]);
    assert!(number(&lines.last().unwrap()["accounting"]["dropped"]) > 0);
    let told = |event| {
        let of_event = of_type(&lines, "object").into_iter();
        let places = of_event.filter(move |line| line["event"] == event);
        places.map(|line| place(&line["object"])).collect::<BTreeSet<_>>()
    };
    let (created, removed) = (told("created"), told("removed"));
    assert!(!created.is_empty());
    assert_eq!(created, removed);
}

#[test]
fn an_object_whose_users_have_ended_is_leaked() {
    let report = ReportTracer::start(&[]);
    let mut program = TestProcess::start(workload(&["leak"]));
    let book: Value = serde_json::from_str(&program.line()).unwrap();
    let report = report.end();
    drop(program);
    assert_balanced(&report["accounting"]);
    let mine: Vec<_> = list(&report["namespaces"])
        .iter()
        .filter(|ns| ns["inum"] == book["inum"])
        .flat_map(|ns| list(&ns["objects"]))
        .collect();
    for object in &mine {
        let kept = object["key"] == book["kept"];
        assert_eq!(object["leaked"], !kept, "{object}");
        if !kept {
            assert_eq!(object["last"]["pid"], book["left_by"], "{object}");
        }
    }
    assert_eq!(mine.len(), 5, "{mine:?}");
}
