//! Lines: each entry into the kernel once, with its raw result, and pending calls at the end.

use serde_json::{Value, json};

use crate::{
    invariants::{
        assert_balanced, assert_complete, assert_valid, counts, counts_of_lines, not_made,
        restricted,
    },
    tracer::{
        LiveTracer, TestProcess, calls_of, lines, list, number, of_type, parse_lines, report,
        tracer, workload,
    },
};

#[test]
fn lines_follow_their_schema_and_are_numbered_without_gaps() {
    let (lines, _) = lines(&["--only-command"], &["demo"]);
    assert_complete(&lines);
    assert_valid("event", &lines.iter().collect::<Vec<_>>());
}

#[test]
fn calls_refused_by_seccomp_are_not_made() {
    let (lines, oracle) = lines(&["--only-command"], &["seccomp"]);
    assert_complete(&lines);
    let mut expected = counts(&oracle["namespaces"]);
    let accounting = &lines.last().unwrap()["accounting"];
    for (op, refused) in oracle["filtered"].as_object().unwrap() {
        let ops = expected.values_mut().find(|ops| ops.contains_key(op)).unwrap();
        let (calls, errors) = ops.get_mut(op).unwrap();
        *calls -= number(refused);
        *errors.get_mut("EPERM").unwrap() -= number(refused);
        errors.retain(|_, count| *count > 0);
        // Such calls do not reach a hook behind the filter.
        let seen = if lines[0]["backend"][op] == "function" { 0 } else { number(refused) };
        let shown: Vec<_> = not_made(&lines).filter(|line| line["op"] == *op).collect();
        assert_eq!(shown.len() as u64, seen, "{op}");
        for line in shown {
            assert_eq!((&line["ret"], &line["error"]), (&json!(-1), &json!("EPERM")), "{line}");
            assert_eq!(line["process"]["tid"], oracle["tid"], "{line}");
        }
        assert!(number(&accounting["by_op"][op]["not_made"]) >= seen, "{accounting}");
    }
    assert_eq!(restricted(counts_of_lines(&lines), &expected), expected);
}

#[test]
fn call_of_a_thread_killed_at_entry_is_not_made() {
    let (lines, oracle) = lines(&["--only-command"], &["killed"]);
    assert_complete(&lines);
    let killed = list(&oracle["killed"]);
    assert_eq!(killed.len(), 4);
    let mut never_made = 0;
    for tid in killed {
        let calls = calls_of(&lines, tid);
        let (first, rest) = calls.split_first().unwrap();
        assert_eq!((&first["op"], &first["made"]), (&json!("semget"), &json!(true)), "{first}");
        for line in rest {
            assert_eq!((&line["made"], &line["ret"]), (&json!(false), &Value::Null), "{line}");
            assert_ne!(lines[0]["backend"][line["op"].as_str().unwrap()], "function", "{line}");
        }
        never_made += rest.len();
    }
    let by_function = ["shmget", "msgrcv"].map(|op| lines[0]["backend"][op] == "function");
    let expected = by_function.iter().filter(|function| !**function).count() * 2;
    assert_eq!(never_made, expected, "each should make two, by two routes");
}

/// The kernel's result of a call that a signal interrupts, before the kernel decides whether to
/// restart it (ipc/sem.c, msg.c, mqueue.c: the same from 5.10 to 7.3).
fn disturbed(op: &Value) -> &'static str {
    match op.as_str().unwrap() {
        "semop" => "EINTR",
        "msgrcv" => "ERESTARTNOHAND",
        "mq_receive" => "ERESTARTSYS",
        other => panic!("{other} does not sleep"),
    }
}

#[test]
fn each_entry_of_a_restarted_call_is_a_line_with_its_raw_result() {
    let (lines, oracle) = lines(&["--only-command"], &["restart"]);
    let steps = list(&oracle["steps"]);
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

/// A call that sleeps while the tracer ends: `end` lists it, with all known fields.
fn assert_pending(op: &str) {
    let mut live = LiveTracer::start(&[]);
    let mut sleeper =
        TestProcess::start(workload(&["blocked", "--fresh", "--op", op, "--seconds", "3600"]));
    let asleep: Value = serde_json::from_str(&sleeper.line()).unwrap();
    assert_eq!(asleep["blocked"], true);
    // Its first call created or opened the object that it sleeps on.
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
fn sleeping_semop_is_pending_at_the_end() {
    assert_pending("semop");
}

#[test]
fn sleeping_msgrcv_is_pending_at_the_end() {
    assert_pending("msgrcv");
}

#[test]
fn sleeping_mq_receive_is_pending_at_the_end_with_its_queue() {
    assert_pending("mq_receive");
}

#[test]
fn call_entered_before_the_start_is_not_marked_as_not_made() {
    for op in ["semop", "msgrcv", "mq_receive"] {
        let words = ["blocked", "--fresh", "--op", op, "--until-fd", "0"];
        let mut sleeper = TestProcess::start(workload(&words));
        let asleep: Value = serde_json::from_str(&sleeper.line()).unwrap();
        let live = LiveTracer::start(&[]);
        sleeper.go();
        let oracle = sleeper.read_oracle();
        let lines = live.end();
        assert_complete(&lines);
        let calls = calls_of(&lines, &asleep["tid"]);
        // A function that was entered before its program was attached returns without it.
        if lines[0]["backend"][op] == "function" && calls.is_empty() {
            continue;
        }
        let [line] = calls[..] else { panic!("{oracle} is not one line: {calls:?}") };
        assert_eq!((&line["op"], &line["ret"]), (&json!(op), &oracle["ret"]), "{line}");
        assert_ne!(line["made"], false, "{line}");
        assert_eq!(line["duration_ns"], Value::Null, "{line}");
    }
}

#[test]
fn duration_of_a_call_includes_its_sleep() {
    let words = ["blocked", "--op", "semop", "--seconds", "0.25"];
    let (lines, oracle) = lines(&["--only-command"], &words);
    let slept = &calls_of(&lines, &oracle["tid"])[0];
    assert!(number(&slept["duration_ns"]) >= 250_000_000, "{slept}");
    // Non-blocking operations have no duration.
    let made = of_type(&lines, "ipc").into_iter().find(|line| line["op"] == "semget").unwrap();
    assert_eq!(made["duration_ns"], json!(null));
}

#[test]
fn run_with_a_duration_ends_by_itself() {
    let output = tracer("live").args(["-o", "json", "--duration", "300ms"]).output().unwrap();
    assert!(output.status.success());
    let lines = parse_lines(&output.stdout);
    assert_complete(&lines);
    assert_eq!(lines.last().unwrap()["command"], Value::Null);
}

/// Calls that the kernel never made: with tracepoints each is one line with `made: false`; backend `function` does not
/// see them.
#[test]
fn prevented_calls_are_not_made_and_change_no_object() {
    let (lines, oracle) = lines(&[], &["never-made"]);
    assert_complete(&lines);
    let expected = counts(&oracle["namespaces"]);
    assert_eq!(restricted(counts_of_lines(&lines), &expected), expected);

    let backend = &lines[0]["backend"];
    let is_visible = |call: &&Value| backend[call["op"].as_str().unwrap()] != "function";
    let prevented = list(&oracle["prevented"]);
    assert_eq!(prevented.len(), 4 * 18 + 14 + 18, "six calls, by three routes, by each means");
    for process in list(&oracle["processes"]) {
        let of = |line: &&Value| line["tid"] == process["tid"];
        let prevented: Vec<_> = prevented.iter().filter(of).filter(is_visible).collect();
        let shown = not_made(&lines).filter(|line| line["process"]["tid"] == process["tid"]);
        let shown: Vec<_> = shown.collect();
        assert_eq!(shown.len(), prevented.len(), "{process}");
        for (shown, call) in shown.iter().zip(prevented) {
            for name in ["op", "abi", "ret"] {
                assert_eq!(shown[name], call[name], "{name} of {shown} by {}", process["means"]);
            }
            assert_eq!(shown["object"]["id"].as_i64().filter(|_| shown["op"] == "shmget"), None);
        }
        let of_objects = of_type(&lines, "object").into_iter();
        let here = of_objects.filter(|line| line["object"]["ipc_ns"]["inum"] == process["inum"]);
        let caller = here.filter(|line| line["process"]["tid"] == process["tid"]);
        let made: Vec<_> = caller.filter(|line| line["event"] == "created").collect();
        // An inode number may be reused: the label is unique.
        let created = list(&oracle["namespaces"]).iter().find(|ns| ns["label"] == process["means"]);
        let ops = &created.unwrap()["ops"];
        let created: u64 = ["semget", "shmget", "msgget", "mq_open"]
            .iter()
            .filter_map(|op| ops.get(*op))
            .map(|op| number(&op["calls"]) - number(&op["failed"]))
            .sum();
        assert_eq!(made.len() as u64, created, "by {}: {made:#?}", process["means"]);
        let ends = of_type(&lines, "object").into_iter().filter(|line| {
            line["event"] == "removed" && line["object"]["ipc_ns"]["inum"] == process["inum"]
        });
        assert_eq!(ends.count(), 0, "by {}", process["means"]);
    }
    // Counted one by one.
    let accounting = &lines.last().unwrap()["accounting"];
    assert_eq!(number(&accounting["not_made"]), not_made(&lines).count() as u64, "{accounting}");
    let wide = calls_of(&lines, &oracle["wide"]["tid"]);
    assert!(wide.is_empty(), "int 0x80 has no such numbers: {wide:?}");
}

#[test]
fn report_counts_prevented_calls_separately() {
    let (report, oracle) = report(&["--only-command"], &["never-made"]);
    assert_balanced(&report["accounting"]);
    let expected = counts(&oracle["namespaces"]);
    assert_eq!(restricted(counts(&report["namespaces"]), &expected), expected);
    let by_op = &report["accounting"]["by_op"];
    for op in ["semget", "shmget", "msgget", "semop", "shmctl", "mq_open"] {
        let prevented = list(&oracle["prevented"]).iter().filter(|call| call["op"] == op).count();
        let visible = if report["backend"][op] == "function" { 0 } else { prevented };
        // An operation without any call is not in the accounting.
        let not_made = by_op[op]["not_made"].as_u64().unwrap_or(0);
        assert_eq!(not_made, visible as u64, "{op}: {by_op:#}");
    }
}
