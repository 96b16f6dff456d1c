//! Tests with real programs in the running kernel, against workloads that keep books of their own.

use std::{
    collections::BTreeMap,
    env,
    process::{Command, Output},
};

use serde_json::Value;

fn tracer() -> Command {
    Command::new(env::var_os("IPC_TRACE_BIN").expect("cargo xtask test sets IPC_TRACE_BIN"))
}

/// A run of the tracer, with the backend that `cargo xtask vm` asks for.
fn run(mode: &str) -> Command {
    let mut command = tracer();
    command.arg(mode);
    if let Some(backend) = env::var_os("IPC_TRACE_TEST_BACKEND") {
        command.arg("--backend").arg(backend);
    }
    command
}

/// As many calls, or as few as a slow machine can make: `cargo xtask vm` says so.
fn calls(number: u64) -> String {
    let scale = env::var("IPC_TRACE_TEST_SCALE").map_or(1, |scale| scale.parse().unwrap());
    (number / scale).to_string()
}

/// Runs a workload under the tracer: what the tracer printed, and the workload's book.
fn traced(mode: &str, options: &[&str], workload: &[&str]) -> (Output, Value) {
    let output = run(mode)
        .args(["-o", "json"])
        .args(options)
        .args(["--", env!("CARGO_BIN_EXE_xtask"), "workload"])
        .args(workload)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?}: {stderr}", output.status);
    // The workload's standard output goes to the tracer's standard error.
    let book = stderr.lines().rev().find_map(|line| serde_json::from_str(line).ok());
    (output, book.expect("the workload prints its book"))
}

fn report(options: &[&str], workload: &[&str]) -> (Value, Value) {
    let (output, book) = traced("report", options, workload);
    (serde_json::from_slice(&output.stdout).unwrap(), book)
}

fn lines(options: &[&str], workload: &[&str]) -> (Vec<Value>, Value) {
    let (output, book) = traced("live", options, workload);
    let lines = String::from_utf8(output.stdout).unwrap();
    (lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), book)
}

/// Calls and errors by namespace and operation, of those operations that were called at all.
type Counts = BTreeMap<u64, BTreeMap<String, (u64, Value)>>;

fn counts(namespaces: &Value, only: Option<&Counts>) -> Counts {
    let mut all = Counts::new();
    for namespace in namespaces.as_array().unwrap() {
        let inum = namespace["inum"].as_u64().unwrap();
        if only.is_some_and(|only| !only.contains_key(&inum)) {
            continue;
        }
        let ops = namespace["ops"].as_object().unwrap();
        let ops: BTreeMap<_, _> = ops
            .iter()
            .map(|(op, counts)| {
                (op.clone(), (counts["calls"].as_u64().unwrap(), counts["errors"].clone()))
            })
            .collect();
        if !ops.is_empty() {
            all.insert(inum, ops);
        }
    }
    all
}

fn assert_balanced(accounting: &Value) {
    let n = |path: &str| accounting[path].as_u64().unwrap();
    assert_eq!(n("seen"), n("filtered") + n("emitted") + n("dropped"), "{accounting}");
    assert_eq!(n("emitted"), n("delivered"), "{accounting}");
    assert_eq!(n("missed"), 0, "{accounting}");
}

fn assert_valid(kind: &str, value: &Value) {
    assert_all_valid(kind, std::slice::from_ref(value));
}

fn assert_all_valid(kind: &str, values: &[Value]) {
    let schema = tracer().args(["schema", kind]).output().unwrap();
    let schema: Value = serde_json::from_slice(&schema.stdout).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    for value in values {
        if let Err(error) = validator.validate(value) {
            panic!(
                "{kind} does not follow its schema at {}: {:.300}",
                error.instance_path(),
                error.to_string()
            );
        }
    }
}

#[test]
fn a_report_has_the_exact_counts_of_a_million_calls() {
    let (report, book) = report(
        &["--only-command"],
        &[
            "count",
            "--calls",
            &calls(1_000_000),
            "--threads",
            "8",
            "--namespaces",
            "3",
            "--int80-percent",
            "30",
        ],
    );
    let expected = counts(&book["namespaces"], None);
    assert_eq!(counts(&report["namespaces"], Some(&expected)), expected);
    assert_balanced(&report["accounting"]);
    assert_eq!(report["accounting"]["dropped"], 0, "{}", report["accounting"]);
    assert_valid("report", &report);
}

#[test]
fn counts_stay_exact_when_the_ring_is_too_small() {
    let (report, book) = report(
        &["--only-command", "--ring-bytes", "4096"],
        &["count", "--calls", &calls(200_000), "--threads", "4", "--namespaces", "3"],
    );
    let expected = counts(&book["namespaces"], None);
    assert_eq!(counts(&report["namespaces"], Some(&expected)), expected);
    assert_balanced(&report["accounting"]);
    assert!(report["accounting"]["dropped"].as_u64().unwrap() > 0);
}

#[test]
fn the_demo_shows_all_operations_in_three_namespaces() {
    let (report, book) = report(&[], &["demo"]);
    let expected = counts(&book["namespaces"], None);
    assert!(expected.len() >= 3);
    assert_eq!(counts(&report["namespaces"], Some(&expected)), expected);
    assert!(expected.values().all(|ops| ops.len() == 17), "{expected:?}");
    let foreign = report["namespaces"].as_array().unwrap().iter();
    assert!(foreign.map(|ns| ns["foreign_calls"].as_u64().unwrap()).sum::<u64>() > 0);
    assert_valid("report", &report);
}

#[test]
fn lines_follow_their_schema_and_are_numbered_without_gaps() {
    let (lines, _) = lines(&["--only-command"], &["hostile-names"]);
    assert_eq!(lines[0]["type"], "start");
    for (i, line) in lines.iter().enumerate().skip(1) {
        assert_eq!(line["seq"], i);
    }
    assert_all_valid("event", &lines);
    assert_balanced(&lines.last().unwrap()["accounting"]);
}

#[test]
fn the_end_of_the_command_is_data_and_its_absence_is_127() {
    let output = run("report").args(["-o", "json", "--", "sh", "-c", "exit 7"]).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["command"]["exit_code"], 7);
    assert!(output.status.success());
    let output = run("report").args(["--", "/nonexistent/program"]).output().unwrap();
    assert_eq!(output.status.code(), Some(127));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nonexistent/program"));
    let output = run("report").args(["--", "/etc/passwd"]).output().unwrap();
    assert_eq!(output.status.code(), Some(126));
}

#[test]
fn bad_options_are_usage_errors_that_name_themselves() {
    for (args, named) in [
        (&["live", "--op", "nonsense"][..], "nonsense"),
        (&["live", "--ipc-ns", "4294967295"], "4294967295"),
        (&["live", "--ipc-ns", "pid:99999999"], "pid:99999999"),
        (&["live", "--duration", "5 weeks"], "weeks"),
        (&["live", "--only-command"], "--only-command"),
    ] {
        let output = tracer().args(args).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(stderr.contains(named), "{stderr}");
    }
}

#[test]
fn doctor_is_right_for_root_and_tells_nobody_what_is_missing() {
    use std::{
        fs,
        os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    };

    let doctor = |command: &mut Command, status: i32| -> Value {
        let output = command.args(["doctor", "-o", "json"]).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{stderr}");
        let doctor = serde_json::from_slice(&output.stdout).unwrap();
        assert_valid("doctor", &doctor);
        doctor
    };
    let root = doctor(&mut tracer(), 0);
    assert_eq!(root["ready"], true, "{root:#}");
    assert!(root["verdict"].as_str().unwrap().starts_with("ready: "), "{}", root["verdict"]);
    let operations = root["operations"].as_array().unwrap();
    assert_eq!(operations.len(), 17);
    for operation in operations {
        assert!(operation["backend"].is_string(), "{operation}");
        assert!(!operation["entries"].as_array().unwrap().is_empty(), "{operation}");
    }

    // Nobody may not reach the build's folder.
    let folder = env::temp_dir().join(format!("ipc-trace-live-doctor-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    let program = folder.join("ipc-trace");
    fs::copy(env::var_os("IPC_TRACE_BIN").unwrap(), &program).unwrap();
    let nobody = doctor(Command::new(&program).uid(65_534).gid(65_534), 1);
    fs::remove_dir_all(&folder).unwrap();
    assert_eq!(nobody["ready"], false);
    for capability in ["CAP_BPF", "CAP_PERFMON"] {
        let verdict = nobody["verdict"].as_str().unwrap();
        assert!(verdict.contains(capability), "{verdict}");
    }

    let output = tracer().args(["doctor", "--backend", "nonsense"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}
