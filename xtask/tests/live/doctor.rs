//! `doctor` for this host and user.

use std::process::Command;

use serde_json::Value;

use crate::{
    invariants::assert_valid,
    tracer::{as_user, backend, list, program, text, tracer},
};

/// Its output as JSON. `command` has its name.
fn doctor(command: &mut Command, status: i32) -> Value {
    let output = command.args(["-o", "json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(status), "{}", text(&output.stderr));
    let doctor = serde_json::from_slice(&output.stdout).unwrap();
    assert_valid("doctor", &[&doctor]);
    doctor
}

#[test]
fn doctor_is_ready_for_root_and_names_missing_capabilities() {
    let root = doctor(program().arg("doctor"), 0);
    assert_eq!(root["ready"], true, "{root:#}");
    assert!(root["verdict"].as_str().unwrap().starts_with("ready: "), "{}", root["verdict"]);
    let operations = list(&root["operations"]);
    assert_eq!(operations.len(), 17);
    for operation in operations {
        assert!(operation["backend"].is_string(), "{operation}");
        assert!(!list(&operation["entries"]).is_empty(), "{operation}");
    }

    let nobody = doctor(as_user(program().get_program(), 65_534).arg("doctor"), 1);
    assert_eq!(nobody["ready"], false);
    let verdict = nobody["verdict"].as_str().unwrap();
    for capability in ["CAP_BPF", "CAP_PERFMON"] {
        assert!(verdict.contains(capability), "{verdict}");
    }

    let output = program().args(["doctor", "--backend", "nonsense"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

/// The tested kernels have all functions that backend `function` watches with auxiliary probes, and the self-test can
/// call each.
#[test]
fn auxiliary_probes_run_in_the_self_test() {
    let doctor = doctor(&mut tracer("doctor"), 0);
    let probes =
        list(&doctor["checks"]).iter().find(|check| check["name"] == "auxiliary_probes").unwrap();
    assert_eq!(probes["status"], "ok", "{probes}");
    let expected = match &*backend() {
        "function" => " functions are watched, each seen to run its program in the self-test",
        _ => "by the descriptors that calls give",
    };
    assert!(probes["detail"].as_str().unwrap().contains(expected), "{probes}");
}
