//! An unprivileged user who has the tracer told of the same things again and again keeps it from nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::{
    book::assert_balanced,
    tracer::{
        LiveTracer, TestProcess, list, number, of_type, program, report, scaled, text, tracer,
        workload, xtask,
    },
};

/// What a run is about: what an attacker would hide.
struct Acts {
    lines: Vec<Value>,
    /// Who makes a thousand namespaces
    maker: u32,
    /// Who sends to a queue of another namespace, and takes what it sent, a thousand times
    sender: Value,
}

/// Makes namespaces, sends to a foreign queue and plays the scenarios, all at the same time.
fn act(flood: Option<&str>) -> Acts {
    let live = LiveTracer::start_without_calls(&[]);
    let seconds = scaled(6).max(3).to_string();
    let flood = flood
        .map(|kind| TestProcess::start(workload(&["control-flood", kind, "--seconds", &seconds])));
    let sends = TestProcess::start(workload(&["foreign-sends", "--pause-ms", "1"]));
    let births = TestProcess::start(workload(&["churn-namespaces", "--count", "1000"]));
    let maker = births.pid();
    let mut scenarios = Command::new(xtask());
    scenarios.args(["scenarios", "--unseen"]).env("IPC_TRACE_BIN", program().get_program());
    let played = scenarios.output().unwrap();
    assert!(played.status.success(), "{}", text(&played.stderr));
    births.book();
    let sender = sends.book()["tid"].clone();
    if let Some(flood) = flood {
        flood.book();
    }
    Acts { lines: live.end(), maker, sender }
}

impl Acts {
    /// Findings by class, of those that rest on no call that could be lost.
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
        // Of those it was not told who that is.
        let by_nobody = created.iter().filter(|one| one.is_null()).count();
        assert!(by_maker <= 1000 && by_maker + by_nobody >= 1000, "{by_maker}, {by_nobody}");
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
fn births_and_findings_are_the_same_in_a_flood() {
    let quiet = act(None);
    quiet.check();
    let expected = quiet.findings();
    assert_eq!(expected.len(), 5, "{expected:?}");
    for kind in ["queues", "processes", "contexts"] {
        let acts = act(Some(kind));
        println!("{kind}: {}", acts.lines.last().unwrap()["accounting"]);
        acts.check();
        // Who has ended when it is looked at may be told of, too, with little confidence.
        let found = acts.findings();
        let is_there = |(class, count): (&&str, &usize)| found.get(class) >= Some(count);
        assert!(expected.iter().all(is_there), "{kind}: {expected:?}, but {found:?}");
    }
}

/// Names of queues by their numbers' lowest bits are kept in one place: they are told once each.
#[test]
fn a_queue_is_named_once() {
    let live = LiveTracer::start_without_calls(&[]);
    let book = TestProcess::start(workload(&["control-flood", "queues", "--seconds", "1"])).book();
    let lines = live.end();
    let accounting = &lines.last().unwrap()["accounting"];
    let sum = |fact: &str| list(&book[fact]).iter().map(number).sum::<u64>();
    let (rounds, queues) = (sum("rounds"), sum("queues"));
    // Where the other ring is full, that each is made and unlinked is told there, too.
    let others = number(&accounting["control"]["emitted"]).saturating_sub(3 * queues);
    assert!(rounds > 0 && others < 100 + rounds / 10, "{others} of {rounds} calls, {accounting}");
}

/// Entries of a cache of queues, which CPUs write and read at the same time, are never two queues' at once: else a
/// call would be taken for one on another namespace's queue.
#[test]
fn queues_that_share_a_place_are_never_mixed_up() {
    let queues = scaled(4096).max(256).to_string();
    let words = ["queue-cache", "--queues", &queues, "--seconds", "5"];
    let (report, book) = report(&["--op", "mq_getsetattr"], &words);
    for caller in list(&book["callers"]) {
        let mut namespaces = list(&report["namespaces"]).iter();
        let ns = namespaces.find(|ns| ns["inum"] == caller["inum"]).unwrap();
        assert_eq!(ns["ops"]["mq_getsetattr"]["calls"], caller["calls"], "{ns}");
        assert_eq!(ns["foreign_calls"], 0, "{ns}");
    }
    assert_eq!(list(&report["findings"]), [] as [Value; 0]);
    assert_balanced(&report["accounting"]);
}

#[test]
fn who_reads_slowly_costs_calls_in_its_own_queue_and_nothing_else() {
    let count = scaled(20_000).to_string();
    let mut command = tracer("live");
    command.args(["-o", "json", "--only-command", "--"]).arg(xtask());
    command.args(["workload", "churn-namespaces", "--count", &count]);
    let mut tracer =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the tracer runs");
    // COMMAND has said what it made when it ends, and nobody has read a line.
    let mut messages = BufReader::new(tracer.stderr.take().unwrap());
    messages.read_line(&mut String::new()).unwrap();
    let lines = BufReader::new(tracer.stdout.take().unwrap()).lines();
    let (mut calls, mut last, mut told) = (0, String::new(), (0, 0));
    for line in lines {
        let line = line.unwrap();
        calls += u64::from(line.contains("\"type\":\"ipc\""));
        if line.contains("\"type\":\"loss\"") {
            let loss: Value = serde_json::from_str(&line).unwrap();
            assert_eq!((&loss["sink"], &loss["seq"]), (&"json".into(), &Value::Null), "{line}");
            told = (told.0 + number(&loss["dropped"]), told.1 + number(&loss["lost_other"]));
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
    assert_eq!((written, (lost, lost_other)), (calls, told), "{accounting}");
    // Calls alone, as long as there are any: where long paths make lines longer, there may be none left.
    assert!(lost_other == 0 || lost > written, "{accounting}");
}
