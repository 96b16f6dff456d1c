//! What a policy makes of findings in a run: which are shown, as what, counted where, and what that
//! means for the exit status.

use std::{fs, process::Output};

use serde_json::Value;

use crate::tracer::{calls_of, list, number, of_type, parse_lines, text, tracer, xtask};

/// A policy, gone with it.
struct PolicyFile(tempfile::NamedTempFile);

impl PolicyFile {
    fn new(name: &str, rules: &str) -> Self {
        let suffix = format!("-{name}.toml");
        let file = tempfile::Builder::new().suffix(&suffix).tempfile().unwrap();
        fs::write(file.path(), rules).unwrap();
        Self(file)
    }

    /// A run of `live` or `report` over queues that are carried from one namespace to another.
    fn judges(&self, mode: &str, options: &[&str]) -> Output {
        let mut command = tracer(mode);
        command.arg("--policy").arg(self.0.path()).args(options).arg("--").arg(xtask());
        command.args(["workload", "carried-queue"]).output().unwrap()
    }
}

const NOTHING: &str = "# Nothing is deliberate.\n";
const MUTED: &str = "[[mute]]\nname = 'carried'\nreason = 'a test'\nclass = 'foreign-object'\n";
const ALLOWED: &str = "[[allow]]\nname = 'carried'\nobject = { kind = 'mq', name = 'carried' }\n";

/// What was found of queues that are reached from another namespace; other tests may be running.
fn found(report: &Value) -> Vec<&Value> {
    let all = list(&report["findings"]).iter();
    all.filter(|one| one["class"] == "foreign-object" && one["object"]["name"] == "carried")
        .collect()
}

fn report(rules: &str, name: &str) -> Value {
    let output = PolicyFile::new(name, rules).judges("report", &["-o", "json"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn what_is_muted_is_counted_by_its_rule() {
    let plain = report(NOTHING, "nothing");
    let all = found(&plain);
    assert!(!all.is_empty(), "{plain:#}");
    assert!(all.iter().all(|one| one["severity"] == "high" && one["declared_by"].is_null()));
    let rule = all[0]["policy"].as_str().unwrap();
    assert!(rule.starts_with("[[allow]]\n"), "{rule}");
    let muted = report(MUTED, "muted");
    assert_eq!(found(&muted), Vec::<&Value>::new());
    let accounting = &muted["accounting"]["findings"];
    assert!(number(&accounting["muted_by"]["carried"]) >= all.len() as u64, "{accounting}");
    assert_eq!(accounting["muted_by"]["carried"], accounting["muted"]["foreign-object"]);
}

#[test]
fn what_is_declared_is_info_and_names_its_rule() {
    let report = report(ALLOWED, "allowed");
    let all = found(&report);
    assert!(!all.is_empty(), "{report:#}");
    for one in all {
        assert_eq!((&one["severity"], &one["declared_by"]), (&"info".into(), &"carried".into()));
        assert_eq!(one["policy"], Value::Null);
    }
}

#[test]
fn a_finding_fails_a_run_unless_it_is_declared_or_muted() {
    let all = [&["--fail-on", "high"][..], &["--fail-on", "high", "-o", "json"]];
    for options in all {
        let output = PolicyFile::new("fails", NOTHING).judges("live", options);
        assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    }
    // Of other tests nothing counts either.
    let everything = "[[mute]]\nname = 'all'\nreason = 'a test'\nsubject = { user = [0, 65534] }\n";
    let output = PolicyFile::new("passes", everything).judges("live", &["--fail-on", "high"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("muted by \"all\""), "{}", text(&output.stdout));
}

#[test]
fn lines_have_what_the_report_has() {
    let output = PolicyFile::new("lines", ALLOWED).judges("live", &["-o", "json"]);
    let lines = parse_lines(&output.stdout);
    let all = of_type(&lines, "finding");
    let carried = all.iter().filter(|one| one["object"]["name"] == "carried").collect::<Vec<_>>();
    let (own, given): (Vec<&Value>, Vec<&Value>) =
        carried.into_iter().partition(|one| one["object"]["name_from"] == "kernel");
    assert!(!own.is_empty(), "{}", text(&output.stdout));
    assert!(own.iter().all(|one| one["declared_by"] == "carried"));
    // Of a lookup that failed there is only the name in the caller's memory.
    assert!(given.iter().all(|one| one["class"] == "probe-name" && one["declared_by"].is_null()));
    let mut ids: Vec<u64> =
        all.iter().filter(|one| one["new"] == true).map(|one| number(&one["id"])).collect();
    let count = ids.len();
    ids.dedup();
    assert_eq!(ids.len(), count, "each is new once");
}

#[test]
fn a_mistake_is_told_with_its_place_and_an_expired_rule_at_the_start() {
    let wrong = "[[mute]]\nname = 'n'\nreson = 'r'\n";
    let output = PolicyFile::new("wrong", wrong).judges("live", &[]);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
    for word in [".toml:3:1: ", "\"reson\"", "\"reason\""] {
        assert!(stderr.contains(word), "{word:?} is missing: {stderr}");
    }
    let old = format!("{ALLOWED}until = 2020-01-31\n");
    let output = PolicyFile::new("old", &old).judges("report", &["-o", "json"]);
    let stderr = text(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    for word in ["warn", "holds no longer", "\"carried\"", "line 1", "2020-01-31"] {
        assert!(stderr.contains(word), "{word:?} is missing: {stderr}");
    }
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(found(&report).iter().all(|one| one["severity"] == "high"), "{report:#}");
}

/// Rules that would suit the names which lie in memory when the calls of `false-name` are over.
const FALSE_NAMES: &str = "[[allow]]\nname = 'jobs'\nclass = ['foreign-object', 'foreign-mount']\n\
    object = { kind = 'mq', name = 'jobs-*' }\n[[mute]]\nname = 'muted jobs'\nreason = 'a test'\n\
    object = { kind = 'mq', name = 'jobs-*' }\n";

#[test]
fn a_rule_is_not_talked_into_allowing_a_queue_by_a_name_that_changes_while_it_is_opened() {
    let policy = PolicyFile::new("false-name", FALSE_NAMES);
    let mut command = tracer("live");
    command.args(["-o", "json", "--fail-on", "high", "--policy"]).arg(policy.0.path()).arg("--");
    let output = command.arg(xtask()).args(["workload", "false-name"]).output().unwrap();
    let complaints = text(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{complaints}");
    let lines = parse_lines(&output.stdout);
    let book = complaints.lines().rev().find(|line| line.starts_with("{\"namespaces\"")).unwrap();
    let book: Value = serde_json::from_str(book).unwrap();

    for call in list(&book["calls"]) {
        let calls = calls_of(&lines, &call["tid"]);
        let [line] = calls[..] else { panic!("{call} is not one line: {calls:?}") };
        assert_eq!((&line["op"], &line["ret"]), (&call["op"], &call["ret"]), "{line}");
        let (shown, from) = (&line["object"]["name"], &line["object"]["name_from"]);
        // What nobody could read before the call may be shown, and says what it is.
        assert!(*shown == call["name"] || *from == "return", "{line}");
        assert!(line["args"]["name"] == call["name"] || line["args_from"] == "return", "{line}");
        if call["touched"] == true {
            assert_eq!(line["args_from"], "entry", "{line}");
        }
        // Whatever is told of an object is of the one that it was.
        let objects = of_type(&lines, "object").into_iter();
        let mut theirs = objects.filter(|line| line["process"]["tid"] == call["tid"]);
        assert!(theirs.all(|line| line["object"]["name"] == call["name"]), "{lines:#?}");
    }
    let found = of_type(&lines, "finding").into_iter();
    let mine = |one: &&Value| one["subject"]["process"]["pid"] == book["pid"];
    let found = found.filter(|one| one["class"] == "foreign-object").filter(mine);
    let mut names = Vec::new();
    for one in found.filter(|one| one["new"] == true) {
        assert_eq!((&one["severity"], &one["declared_by"]), (&"high".into(), &Value::Null));
        assert_eq!(one["object"]["name_from"], "kernel", "{one}");
        names.push(one["object"]["name"].clone());
    }
    names.sort_by_key(|name| name.as_str().map(str::to_owned));
    assert_eq!(names, *list(&book["used"]), "each queue that was used from elsewhere");
}
