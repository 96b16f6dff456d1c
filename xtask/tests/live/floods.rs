//! An unprivileged user who floods the tracer's control ring hides nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::{
    invariants::assert_balanced,
    tracer::{
        LiveTracer, TestProcess, list, number, of_type, program, report, scaled, text, tracer,
        workload, xtask,
    },
};

/// A run with activity that an attacker might want to hide.
struct FloodRun {
    lines: Vec<Value>,
    /// The process that creates a thousand namespaces
    maker: u32,
    /// The thread that sends to a queue of another namespace, and receives what it sent, a thousand times
    sender: Value,
}

/// Creates namespaces, sends to a foreign queue and runs the scenarios, all at the same time.
fn run_with(flood: Option<&str>) -> FloodRun {
    let live = LiveTracer::start_without_calls(&[]);
    let seconds = scaled(6).max(3).to_string();
    let flood = flood
        .map(|kind| TestProcess::start(workload(&["control-flood", kind, "--seconds", &seconds])));
    let sends = TestProcess::start(workload(&["foreign-sends", "--pause-ms", "1"]));
    let creations = TestProcess::start(workload(&["churn-namespaces", "--count", "1000"]));
    let maker = creations.pid();
    let mut scenarios = Command::new(xtask());
    scenarios.args(["scenarios", "--unseen"]).env("IPC_TRACE_BIN", program().get_program());
    let ran = scenarios.output().unwrap();
    assert!(ran.status.success(), "{}", text(&ran.stderr));
    creations.read_oracle();
    let sender = sends.read_oracle()["tid"].clone();
    if let Some(flood) = flood {
        flood.read_oracle();
    }
    FloodRun { lines: live.end(), maker, sender }
}

impl FloodRun {
    /// The number of findings by class, of classes that do not depend on calls that could be lost.
    fn findings(&self) -> BTreeMap<&str, usize> {
        let mut ids: BTreeMap<&str, BTreeSet<u64>> = BTreeMap::new();
        for one in of_type(&self.lines, "finding") {
            let class = one["class"].as_str().unwrap();
            if class.starts_with("foreign-")
                || ["carried-mapping", "namespace-mismatch"].contains(&class)
            {
                ids.entry(class).or_default().insert(number(&one["id"]));
            }
        }
        ids.into_iter().map(|(class, ids)| (class, ids.len())).collect()
    }

    fn check(&self) {
        let created: Vec<_> = of_type(&self.lines, "namespace")
            .into_iter()
            .filter(|one| one["event"] == "created")
            .map(|one| &one["process"])
            .collect();
        let by_maker = created.iter().filter(|one| one["pid"] == self.maker).count();
        // Their creator is unknown.
        let by_unknown = created.iter().filter(|one| one.is_null()).count();
        assert!(by_maker <= 1000 && by_maker + by_unknown >= 1000, "{by_maker}, {by_unknown}");
        let mut of_sender = of_type(&self.lines, "finding")
            .into_iter()
            .filter(|one| one["subject"]["process"]["tid"] == self.sender);
        let last = of_sender.next_back().expect("a finding");
        assert_eq!((&last["class"], number(&last["count"])), (&"foreign-object".into(), 2000));
        let accounting = &self.lines.last().unwrap()["accounting"];
        assert_eq!(accounting["control"]["dropped"], 0, "{accounting}");
        assert_balanced(accounting);
    }
}

#[test]
fn creations_and_findings_survive_a_control_flood() {
    let quiet = run_with(None);
    quiet.check();
    let expected = quiet.findings();
    assert_eq!(expected.len(), 5, "{expected:?}");
    for kind in ["queues", "processes", "contexts"] {
        let run = run_with(Some(kind));
        println!("{kind}: {}", run.lines.last().unwrap()["accounting"]);
        run.check();
        // A process that has ended before its inspection may be reported, too, with low confidence.
        let found = run.findings();
        let is_there = |(class, count): (&&str, &usize)| found.get(class) >= Some(count);
        assert!(expected.iter().all(is_there), "{kind}: {expected:?}, but {found:?}");
    }
}

/// Two queues whose inode numbers have equal low bits share a cache slot: each name is emitted once.
#[test]
fn queue_name_is_emitted_once() {
    let live = LiveTracer::start_without_calls(&[]);
    let oracle =
        TestProcess::start(workload(&["control-flood", "queues", "--seconds", "1"])).read_oracle();
    let lines = live.end();
    let accounting = &lines.last().unwrap()["accounting"];
    let sum = |fact: &str| list(&oracle[fact]).iter().map(number).sum::<u64>();
    let (rounds, queues) = (sum("rounds"), sum("queues"));
    // When the other ring is full, creations and removals are sent on the control ring, too.
    let others = number(&accounting["control"]["emitted"]).saturating_sub(3 * queues);
    assert!(rounds > 0 && others < 100 + rounds / 10, "{others} of {rounds} calls, {accounting}");
}

/// CPUs write and read the entries of the queue cache at the same time. An entry never mixes two queues: otherwise a
/// call would be taken for one on another namespace's queue.
#[test]
fn colliding_queue_cache_entries_are_never_mixed_up() {
    let queues = scaled(4096).max(256).to_string();
    let words = ["queue-cache", "--queues", &queues, "--seconds", "5"];
    let (report, oracle) = report(&["--op", "mq_getsetattr"], &words);
    for caller in list(&oracle["callers"]) {
        let mut namespaces = list(&report["namespaces"]).iter();
        let ns = namespaces.find(|ns| ns["inum"] == caller["inum"]).unwrap();
        assert_eq!(ns["ops"]["mq_getsetattr"]["calls"], caller["calls"], "{ns}");
        assert_eq!(ns["foreign_calls"], 0, "{ns}");
    }
    assert_eq!(list(&report["findings"]), [] as [Value; 0]);
    assert_balanced(&report["accounting"]);
}

#[test]
fn slow_reader_loses_calls_of_its_own_queue_only() {
    let count = scaled(20_000).to_string();
    let mut command = tracer("live");
    command.args(["-o", "json", "--only-command", "--"]).arg(xtask());
    command.args(["workload", "churn-namespaces", "--count", &count]);
    let mut tracer =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the tracer runs");
    // COMMAND prints its oracle when it ends, and no line has been read until then.
    let mut messages = BufReader::new(tracer.stderr.take().unwrap());
    messages.read_line(&mut String::new()).unwrap();
    let lines = BufReader::new(tracer.stdout.take().unwrap()).lines();
    let (mut calls, mut last, mut reported) = (0, String::new(), (0, 0));
    for line in lines {
        let line = line.unwrap();
        calls += u64::from(line.contains("\"type\":\"ipc\""));
        if line.contains("\"type\":\"loss\"") {
            let loss: Value = serde_json::from_str(&line).unwrap();
            assert_eq!((&loss["sink"], &loss["seq"]), (&"json".into(), &Value::Null), "{line}");
            reported =
                (reported.0 + number(&loss["dropped"]), reported.1 + number(&loss["lost_other"]));
        }
        last = line;
    }
    assert!(tracer.wait().unwrap().success());
    let end: Value = serde_json::from_str(&last).unwrap();
    let accounting = &end["accounting"];
    assert_eq!(accounting["control"]["dropped"], 0, "{accounting}");
    let sink = &accounting["sinks"]["json"];
    let [written, filtered, lost, lost_other] =
        ["written", "filtered", "lost", "lost_other"].map(|name| number(&sink[name]));
    assert_eq!(number(&accounting["delivered"]), written + filtered + lost, "{accounting}");
    assert_eq!((written, (lost, lost_other)), (calls, reported), "{accounting}");
    // Other records are lost only when no calls are left to drop, as with long paths, which make lines longer.
    assert!(lost_other == 0 || lost > written, "{accounting}");
}
