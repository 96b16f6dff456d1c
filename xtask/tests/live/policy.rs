//! What a policy does to the findings of a run: which are shown, with which severity, where they are
//! counted, and the exit status.

use std::{fs, process::Output};

use serde_json::Value;

use crate::tracer::{calls_of, list, number, of_type, parse_lines, text, tracer, xtask};

/// A temporary policy file.
struct PolicyFile(tempfile::NamedTempFile);

impl PolicyFile {
    fn new(name: &str, rules: &str) -> Self {
        let suffix = format!("-{name}.toml");
        let file = tempfile::Builder::new().suffix(&suffix).tempfile().unwrap();
        fs::write(file.path(), rules).unwrap();
        Self(file)
    }

    /// A run of `live` or `report` over queues that are used from other namespaces.
    fn run(&self, mode: &str, options: &[&str]) -> Output {
        let mut command = tracer(mode);
        command.arg("--policy").arg(self.0.path()).args(options).arg("--").arg(xtask());
        command.args(["workload", "queue-fd-passing"]).output().unwrap()
    }
}

const NOTHING: &str = "# Nothing is allowed.\n";
const MUTED: &str = "[[mute]]\nname = 'carried'\nreason = 'a test'\nclass = 'foreign-object'\n";
const ALLOWED: &str = "[[allow]]\nname = 'carried'\nobject = { kind = 'mq', name = 'carried' }\n";

/// Findings of queues that are used from another namespace; other tests may be running.
fn found(report: &Value) -> Vec<&Value> {
    let all = list(&report["findings"]).iter();
    all.filter(|one| one["class"] == "foreign-object" && one["object"]["name"] == "carried")
        .collect()
}

fn report(rules: &str, name: &str) -> Value {
    let output = PolicyFile::new(name, rules).run("report", &["-o", "json"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn muted_findings_are_counted_by_rule() {
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
fn allowed_findings_are_info_and_name_their_rule() {
    let report = report(ALLOWED, "allowed");
    let all = found(&report);
    assert!(!all.is_empty(), "{report:#}");
    for one in all {
        assert_eq!((&one["severity"], &one["declared_by"]), (&"info".into(), &"carried".into()));
        assert_eq!(one["policy"], Value::Null);
    }
}

#[test]
fn finding_fails_a_run_unless_allowed_or_muted() {
    let all = [&["--fail-on", "high"][..], &["--fail-on", "high", "-o", "json"]];
    for options in all {
        let output = PolicyFile::new("fails", NOTHING).run("live", options);
        assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    }
    // Findings of other tests are muted, too.
    let everything = "[[mute]]\nname = 'all'\nreason = 'a test'\nsubject = { user = [0, 65534] }\n";
    let output = PolicyFile::new("passes", everything).run("live", &["--fail-on", "high"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("muted by \"all\""), "{}", text(&output.stdout));
}

#[test]
fn lines_and_report_apply_the_same_policy() {
    let output = PolicyFile::new("lines", ALLOWED).run("live", &["-o", "json"]);
    let lines = parse_lines(&output.stdout);
    let all = of_type(&lines, "finding");
    let carried = all.iter().filter(|one| one["object"]["name"] == "carried").collect::<Vec<_>>();
    let (own, given): (Vec<&Value>, Vec<&Value>) =
        carried.into_iter().partition(|one| one["object"]["name_from"] == "kernel");
    assert!(!own.is_empty(), "{}", text(&output.stdout));
    assert!(own.iter().all(|one| one["declared_by"] == "carried"));
    // A failed lookup has only the name in the caller's memory.
    assert!(given.iter().all(|one| one["class"] == "probe-name" && one["declared_by"].is_null()));
    let mut ids: Vec<u64> =
        all.iter().filter(|one| one["new"] == true).map(|one| number(&one["id"])).collect();
    let count = ids.len();
    ids.dedup();
    assert_eq!(ids.len(), count, "each is new once");
}

#[test]
fn policy_errors_have_a_position_and_expired_rules_warn() {
    let wrong = "[[mute]]\nname = 'n'\nreson = 'r'\n";
    let output = PolicyFile::new("wrong", wrong).run("live", &[]);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
    for word in [".toml:3:1: ", "\"reson\"", "\"reason\""] {
        assert!(stderr.contains(word), "{word:?} is missing: {stderr}");
    }
    let old = format!("{ALLOWED}until = 2020-01-31\n");
    let output = PolicyFile::new("old", &old).run("report", &["-o", "json"]);
    let stderr = text(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    for word in ["warn", "has expired", "\"carried\"", "line 1", "2020-01-31"] {
        assert!(stderr.contains(word), "{word:?} is missing: {stderr}");
    }
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(found(&report).iter().all(|one| one["severity"] == "high"), "{report:#}");
}

/// Rules that would match the names which memory has after the calls of `false-name`.
const FALSE_NAMES: &str = "[[allow]]\nname = 'jobs'\nclass = ['foreign-object', 'foreign-mount']\n\
    object = { kind = 'mq', name = 'jobs-*' }\n[[mute]]\nname = 'muted jobs'\nreason = 'a test'\n\
    object = { kind = 'mq', name = 'jobs-*' }\n";

#[test]
fn rule_ignores_a_queue_name_that_changes_during_the_call() {
    let policy = PolicyFile::new("false-name", FALSE_NAMES);
    let mut command = tracer("live");
    command.args(["-o", "json", "--fail-on", "high", "--policy"]).arg(policy.0.path()).arg("--");
    let output = command.arg(xtask()).args(["workload", "false-name"]).output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    let lines = parse_lines(&output.stdout);
    let oracle = stderr.lines().rev().find(|line| line.starts_with("{\"namespaces\"")).unwrap();
    let oracle: Value = serde_json::from_str(oracle).unwrap();

    for call in list(&oracle["calls"]) {
        let calls = calls_of(&lines, &call["tid"]);
        let [line] = calls[..] else { panic!("{call} is not one line: {calls:?}") };
        assert_eq!((&line["op"], &line["ret"]), (&call["op"], &call["ret"]), "{line}");
        let (shown, from) = (&line["object"]["name"], &line["object"]["name_from"]);
        // A name that could not be read before the call may be shown, and is marked as such.
        assert!(*shown == call["name"] || *from == "return", "{line}");
        assert!(line["args"]["name"] == call["name"] || line["args_from"] == "return", "{line}");
        if call["touched"] == true {
            assert_eq!(line["args_from"], "entry", "{line}");
        }
        // Lines about an object have its real name.
        let objects = of_type(&lines, "object").into_iter();
        let mut theirs = objects.filter(|line| line["process"]["tid"] == call["tid"]);
        assert!(theirs.all(|line| line["object"]["name"] == call["name"]), "{lines:#?}");
    }
    let found = of_type(&lines, "finding").into_iter();
    let mine = |one: &&Value| one["subject"]["process"]["pid"] == oracle["pid"];
    let found = found.filter(|one| one["class"] == "foreign-object").filter(mine);
    let mut names = Vec::new();
    for one in found.filter(|one| one["new"] == true) {
        assert_eq!((&one["severity"], &one["declared_by"]), (&"high".into(), &Value::Null));
        assert_eq!(one["object"]["name_from"], "kernel", "{one}");
        names.push(one["object"]["name"].clone());
    }
    names.sort_by_key(|name| name.as_str().map(str::to_owned));
    assert_eq!(names, *list(&oracle["used"]), "each queue that was used from another namespace");
}
