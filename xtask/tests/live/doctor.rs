//! What `doctor` says of this host and user.

use serde_json::Value;

use crate::{
    book::assert_valid,
    tracer::{as_user, list, program, text},
};

fn doctor(mut command: std::process::Command, status: i32) -> Value {
    let output = command.args(["doctor", "-o", "json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(status), "{}", text(&output.stderr));
    let doctor = serde_json::from_slice(&output.stdout).unwrap();
    assert_valid("doctor", &[&doctor]);
    doctor
}

#[test]
fn doctor_is_right_for_root_and_tells_nobody_what_is_missing() {
    let root = doctor(program(), 0);
    assert_eq!(root["ready"], true, "{root:#}");
    assert!(root["verdict"].as_str().unwrap().starts_with("ready: "), "{}", root["verdict"]);
    let operations = list(&root["operations"]);
    assert_eq!(operations.len(), 17);
    for operation in operations {
        assert!(operation["backend"].is_string(), "{operation}");
        assert!(!list(&operation["entries"]).is_empty(), "{operation}");
    }

    let nobody = doctor(as_user(program().get_program(), 65_534), 1);
    assert_eq!(nobody["ready"], false);
    let verdict = nobody["verdict"].as_str().unwrap();
    for capability in ["CAP_BPF", "CAP_PERFMON"] {
        assert!(verdict.contains(capability), "{verdict}");
    }

    let output = program().args(["doctor", "--backend", "nonsense"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}
