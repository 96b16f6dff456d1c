//! Lines: each entry into the kernel once, with its raw result, and what has not returned in the end.

use serde_json::{Value, json};

use crate::{
    book::{assert_valid, assert_whole, counts, counts_of_lines, restricted},
    tracer::{Beside, Live, calls_of, lines, list, number, of_type, parse_lines, tracer, workload},
};

#[test]
fn lines_follow_their_schema_and_are_numbered_without_gaps() {
    let (lines, _) = lines(&["--only-command"], &["demo"]);
    assert_whole(&lines);
    assert_valid("event", &lines.iter().collect::<Vec<_>>());
}

#[test]
fn calls_that_a_filter_of_the_caller_refuses_are_calls() {
    let (lines, book) = lines(&["--only-command"], &["seccomp"]);
    let mut expected = counts(&book["namespaces"]);
    // Where the hook lies behind the filter, such calls do not get there.
    let backend = &lines[0]["backend"];
    for (op, refused) in book["filtered"].as_object().unwrap() {
        if backend[op] == "function" {
            let ops = expected.values_mut().find(|ops| ops.contains_key(op)).unwrap();
            let (calls, errors) = ops.get_mut(op).unwrap();
            *calls -= number(refused);
            *errors.get_mut("EPERM").unwrap() -= number(refused);
            errors.retain(|_, count| *count > 0);
        }
    }
    assert_eq!(restricted(counts_of_lines(&lines), &expected), expected);
}

#[test]
fn a_call_that_its_thread_did_not_live_to_make_is_none() {
    let (lines, book) = lines(&["--only-command"], &["killed"]);
    let killed = list(&book["killed"]);
    assert_eq!(killed.len(), 4);
    for tid in killed {
        let made = calls_of(&lines, tid);
        assert!(made.len() == 1 && made[0]["op"] == "semget", "{made:?}");
    }
    assert_eq!(lines.last().unwrap()["accounting"]["seen"], killed.len(), "nor are they counted");
}

/// What the kernel says of a call that a signal disturbs, before anyone decides whether it is
/// restarted (ipc/sem.c, msg.c, mqueue.c: the same from 5.10 to 7.3).
fn disturbed(op: &Value) -> &'static str {
    match op.as_str().unwrap() {
        "semop" => "EINTR",
        "msgrcv" => "ERESTARTNOHAND",
        "mq_receive" => "ERESTARTSYS",
        other => panic!("{other} does not sleep"),
    }
}

#[test]
fn each_entry_of_a_restarted_call_is_an_event_with_its_raw_result() {
    let (lines, book) = lines(&["--only-command"], &["restart"]);
    let steps = list(&book["steps"]);
    assert!(!steps.is_empty());
    assert!(steps.iter().any(|step| step["restarts"] != 0));
    for step in steps {
        let calls: Vec<_> = calls_of(&lines, &step["tid"]);
        let entries = list(&step["results"]).len() as u64 + number(&step["restarts"]);
        assert_eq!(calls.len() as u64, entries, "{step}");
        let (last, before) = calls.split_last().unwrap();
        for call in before {
            assert_eq!(call["op"], step["op"], "{step}");
            assert_eq!(call["error"], disturbed(&step["op"]), "{step}");
        }
        assert_eq!(last["ret"], *list(&step["results"]).last().unwrap(), "{step}");
        assert_eq!(last["error"], Value::Null, "{step}");
    }
}

/// A call that sleeps while the tracer ends: `end` lists it, with what is known of it.
fn assert_pending(op: &str) {
    let mut live = Live::start(&[]);
    let mut sleeper =
        Beside::start(workload(&["blocked", "--fresh", "--op", op, "--seconds", "3600"]));
    let asleep: Value = serde_json::from_str(&sleeper.line()).unwrap();
    assert_eq!(asleep["blocked"], true);
    // What it sleeps on was made or opened by the first of its calls.
    let made = live.wait_for(|l| l["type"] == "ipc" && l["process"]["pid"] == asleep["pid"]);
    let lines = live.end();

    let end = lines.last().unwrap();
    assert_valid("event", &[end]);
    let mut pending = list(&end["pending"]).iter().filter(|p| p["tid"] == asleep["tid"]);
    let found = pending.next().unwrap_or_else(|| panic!("{end}"));
    assert!(pending.next().is_none(), "{end}");
    assert!(calls_of(&lines, &asleep["tid"]).is_empty(), "it has not returned");

    let object = if op == "mq_receive" { "mqdes" } else { "id" };
    for (name, expected) in [
        ("op", &asleep["op"]),
        ("pid", &asleep["pid"]),
        ("comm", &json!("sleeper")),
        ("kind", &made["object"]["kind"]),
        (object, &made["ret"]),
        ("name", &made["object"]["name"]),
        ("ipc_ns", &made["ipc_ns"]),
    ] {
        assert_eq!(found[name], *expected, "{name}: {found}");
    }
    assert_eq!(made["ipc_ns"]["inum"], asleep["inum"]);
    let time = |value: &Value| value.as_str().unwrap().to_owned();
    assert!(time(&made["time"]) < time(&found["since"]), "{found}");
    assert!(time(&found["since"]) < time(&end["time"]), "{found}");
    assert!(number(&found["for_ns"]) > 0, "{found}");
}

#[test]
fn a_semop_that_sleeps_in_the_end_is_pending() {
    assert_pending("semop");
}

#[test]
fn a_msgrcv_that_sleeps_in_the_end_is_pending() {
    assert_pending("msgrcv");
}

#[test]
fn an_mq_receive_that_sleeps_in_the_end_is_pending_with_its_queue() {
    assert_pending("mq_receive");
}

#[test]
fn the_time_that_a_call_slept_is_its_duration() {
    let words = ["blocked", "--op", "semop", "--seconds", "0.25"];
    let (lines, book) = lines(&["--only-command"], &words);
    let slept = &calls_of(&lines, &book["tid"])[0];
    assert!(number(&slept["duration_ns"]) >= 250_000_000, "{slept}");
    // Operations that do not block have none.
    let made = of_type(&lines, "ipc").into_iter().find(|line| line["op"] == "semget").unwrap();
    assert_eq!(made["duration_ns"], json!(null));
}

#[test]
fn a_run_of_a_given_duration_ends_by_itself() {
    let output = tracer("live").args(["-o", "json", "--duration", "300ms"]).output().unwrap();
    assert!(output.status.success());
    let lines = parse_lines(&output.stdout);
    assert_whole(&lines);
    assert_eq!(lines.last().unwrap()["command"], Value::Null);
}
