//! What a policy makes of findings in a run: which are shown, as what, counted where, and what that
//! means for the exit status.

use std::{env, fs, path::PathBuf, process::Output};

use serde_json::Value;

use crate::tracer::{list, number, of_type, parse_lines, text, tracer, xtask};

/// A policy, gone with it.
struct Policy(PathBuf);

impl Policy {
    fn new(name: &str, rules: &str) -> Self {
        let path = env::temp_dir().join(format!("ipc-trace-{}-{name}.toml", std::process::id()));
        fs::write(&path, rules).unwrap();
        Self(path)
    }

    /// A run of `live` or `report` over queues that are carried from one namespace to another.
    fn judges(&self, mode: &str, options: &[&str]) -> Output {
        let mut command = tracer(mode);
        command.arg("--policy").arg(&self.0).args(options).arg("--").arg(xtask());
        command.args(["workload", "carried-queue"]).output().unwrap()
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
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
    let output = Policy::new(name, rules).judges("report", &["-o", "json"]);
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
        let output = Policy::new("fails", NOTHING).judges("live", options);
        assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    }
    // Of other tests nothing counts either.
    let everything = "[[mute]]\nname = 'all'\nreason = 'a test'\nsubject = { user = [0, 65534] }\n";
    let output = Policy::new("passes", everything).judges("live", &["--fail-on", "high"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("muted by \"all\""), "{}", text(&output.stdout));
}

#[test]
fn lines_have_what_the_report_has() {
    let output = Policy::new("lines", ALLOWED).judges("live", &["-o", "json"]);
    let lines = parse_lines(&output.stdout);
    let all = of_type(&lines, "finding");
    let carried = all.iter().filter(|one| one["object"]["name"] == "carried").collect::<Vec<_>>();
    assert!(!carried.is_empty(), "{}", text(&output.stdout));
    assert!(carried.iter().all(|one| one["declared_by"] == "carried"));
    let mut ids: Vec<u64> =
        all.iter().filter(|one| one["new"] == true).map(|one| number(&one["id"])).collect();
    let count = ids.len();
    ids.dedup();
    assert_eq!(ids.len(), count, "each is new once");
}

#[test]
fn a_mistake_is_told_with_its_place_and_an_expired_rule_at_the_start() {
    let wrong = "[[mute]]\nname = 'n'\nreson = 'r'\n";
    let output = Policy::new("wrong", wrong).judges("live", &[]);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
    for word in [".toml:3:1: ", "\"reson\"", "\"reason\""] {
        assert!(stderr.contains(word), "{word:?} is missing: {stderr}");
    }
    let old = format!("{ALLOWED}until = 2020-01-31\n");
    let output = Policy::new("old", &old).judges("report", &["-o", "json"]);
    let stderr = text(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    for word in ["warn", "holds no longer", "\"carried\"", "line 1", "2020-01-31"] {
        assert!(stderr.contains(word), "{word:?} is missing: {stderr}");
    }
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(found(&report).iter().all(|one| one["severity"] == "high"), "{report:#}");
}
