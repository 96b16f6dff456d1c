//! Callers: correct even for processes that live a millisecond, and safe for hostile names.

use std::fs;

use nix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use crate::{
    invariants::{assert_balanced, assert_complete, assert_valid, counts, restricted},
    tracer::{
        LargeTids, LiveTracer, TestProcess, calls_of, lines, list, number, of_type, parse_lines,
        report, scaled, stat, text, traced, workload,
    },
};

fn boot_ns() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).unwrap();
    time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
}

#[test]
fn short_lived_processes_are_identified() {
    let live = LiveTracer::start(&[]);
    let begin = boot_ns();
    let count = scaled(2000);
    let churn = workload(&["churn-processes", "--count", &count.to_string()]);
    let churn = TestProcess::start(churn);
    let parent = churn.pid();
    let oracle = churn.read_oracle();
    let lines = live.end();

    let is_child = |line: &&Value| line["process"]["ppid"] == parent;
    let calls: Vec<_> = of_type(&lines, "ipc").into_iter().filter(is_child).collect();
    assert_eq!(calls.len() as u64, count);
    let mut changes = Vec::new();
    for call in calls {
        let process = &call["process"];
        assert_eq!(process["exe"], oracle["exe"], "{call}");
        assert_eq!(process["pid"], process["tid"], "{call}");
        assert_eq!(process["uid"], nix::unistd::geteuid().as_raw(), "{call}");
        let [start, end] = [&process["start_boot_ns"], &call["boot_ns"]].map(number);
        assert!(begin < start && start < end, "{call}");
        // At the same time, an end sorts before a start.
        changes.extend([(start, 1), (end, -1)]);
    }
    // Two may run at the same time, on two processors. A start time that was taken from the previous
    // process would make three.
    changes.sort_unstable();
    let mut alive = 0;
    for (at, change) in changes {
        alive += change;
        assert!(alive <= 2, "two workers, and {alive} processes at {at}");
    }
    assert_complete(&lines);
}

#[test]
fn process_fields_match_proc() {
    let live = LiveTracer::start(&[]);
    let words = ["blocked", "--fresh", "--op", "semop", "--seconds", "3600"];
    let mut sleeper = TestProcess::start(workload(&words));
    let asleep: Value = serde_json::from_str(&sleeper.line()).unwrap();
    let pid = sleeper.pid();
    let inum = |kind: &str| {
        use std::os::unix::fs::MetadataExt as _;
        fs::metadata(format!("/proc/{pid}/ns/{kind}")).unwrap().ino()
    };
    let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap();
    let ids = ["pid", "mnt", "user", "ipc"].map(inum);
    let started_ticks: u64 = stat(pid).unwrap()[19].parse().unwrap();
    let lines = live.end();
    drop(sleeper);

    assert_eq!(asleep["pid"], pid);
    let calls = of_type(&lines, "ipc").into_iter();
    let calls: Vec<_> = calls.filter(|line| line["process"]["pid"] == pid).collect();
    assert!(!calls.is_empty());
    for call in calls {
        let process = &call["process"];
        assert_eq!(process["exe"], exe.to_str().unwrap());
        assert_eq!(process["ppid"], std::process::id());
        let ns = &process["ns"];
        let shown = [&ns["pid"], &ns["mnt"], &ns["user"], &call["ipc_ns"]["inum"]].map(number);
        assert_eq!(shown, ids, "{call}");
        // /proc counts in ticks of USER_HZ, which is 100 on both architectures.
        assert_eq!(number(&process["start_boot_ns"]) / 10_000_000, started_ticks, "{call}");
    }
}

/// A name of any bytes in JSON: the text where it is one, else `\xNN` for each byte that is none.
fn in_json(bytes: &Value) -> Value {
    let bytes: Vec<u8> = list(bytes).iter().map(|byte| number(byte) as u8).collect();
    let mut name = String::new();
    for chunk in bytes.utf8_chunks() {
        name.push_str(chunk.valid());
        for byte in chunk.invalid() {
            name.push_str(&format!("\\x{byte:02x}"));
        }
    }
    json!(name)
}

#[test]
fn hostile_names_are_json_strings() {
    let (lines, oracle) = lines(&["--only-command"], &["hostile-names"]);
    assert_complete(&lines);
    assert_valid("event", &lines.iter().collect::<Vec<_>>());
    let processes = list(&oracle["processes"]);
    assert!(processes.len() > 10);
    for process in processes {
        let calls = calls_of(&lines, &process["tid"]);
        assert!(!calls.is_empty());
        for call in calls {
            assert_eq!(call["process"]["comm"], in_json(&process["comm"]), "{call}");
            if call["object"]["kind"] == "mq" {
                assert_eq!(call["object"]["name"], in_json(&process["queue"]), "{call}");
            }
            if let Some(name) = call["args"].get("name") {
                assert_eq!(*name, in_json(&process["queue"]), "{call}");
            }
        }
    }
}

/// Characters that change how a terminal shows what is beside them.
fn is_harmful(char: char) -> bool {
    let redirects =
        matches!(char, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    char != '\n' && (char.is_control() || redirects)
}

#[test]
fn hostile_names_are_escaped_in_text() {
    for mode in ["live", "report"] {
        let (output, _) = traced(mode, &["--only-command"], &["hostile-names"]);
        let shown = text(&output.stdout);
        // This includes COMMAND's own output, its oracle, which has names as numbers.
        let found = shown.chars().find(|char| is_harmful(*char));
        assert_eq!(found, None, "{mode}: {shown:?}");
        assert!(shown.contains("\\x1b") && shown.contains("two\\nlines"), "{mode}: {shown}");
    }
}

#[test]
fn calls_have_user_group_and_name_at_their_time() {
    let (lines, oracle) = lines(&["--only-command"], &["changing-caller"]);
    let mut calls = calls_of(&lines, &oracle["tid"]).into_iter().skip(1);
    for phase in list(&oracle["phases"]) {
        for _ in 0..number(&phase["calls"]) {
            let line = calls.next().unwrap();
            for name in ["comm", "uid", "gid"] {
                assert_eq!(line["process"][name], phase[name], "{name} of {line}");
            }
        }
    }
    assert!(calls.next().is_none());
    let weak = |found: &[&Value]| {
        let mine = found.iter().filter(|one| one["object"]["ipc_ns"]["inum"] == oracle["inum"]);
        mine.filter(|one| one["class"] == "weak-mode").count()
    };
    let new = of_type(&lines, "finding").into_iter().filter(|one| one["new"] == true);
    assert_eq!(weak(&new.collect::<Vec<_>>()), 1, "{lines:#?}");
}

#[test]
fn report_finds_a_set_shared_by_two_users_of_one_process() {
    let (report, oracle) = report(&["--only-command"], &["changing-caller"]);
    let expected = counts(&oracle["namespaces"]);
    assert_eq!(restricted(counts(&report["namespaces"]), &expected), expected);
    let found = list(&report["findings"]).iter().filter(|one| {
        one["class"] == "weak-mode" && one["object"]["ipc_ns"]["inum"] == oracle["inum"]
    });
    assert_eq!(found.count(), 1, "{:#}", report["findings"]);
}

/// The tracer reports when the eBPF programs run out of room.
fn assert_no_warning(stderr: &[u8]) {
    let stderr = text(stderr);
    let warnings = stderr.lines().filter(|line| line.contains("no room"));
    assert_eq!(warnings.collect::<Vec<_>>(), Vec::<&str>::new());
}

/// Many threads, and the lines of their calls: each has the thread's ID, user and name.
#[test]
fn threads_with_colliding_tids_are_distinguished() {
    let (threads, shared) = (scaled(70_000), scaled(1000));
    let [threads, shared] = [threads, shared].map(|number| number.to_string());
    // All lines fit into the sink's queue, however long the host keeps its thread from writing.
    let calls = ["--calls", "2"];
    let words = ["equal-tids", "--threads", &threads, "--shared", &shared, "--candidates", "8"];
    let words = [&words[..], &calls].concat();
    let _large = LargeTids::allow();
    let options = ["-o", "json", "--only-command", "--op", "semget", "--ring-bytes", "134217728"];
    let (output, oracle) = traced("live", &options, &words);
    assert_no_warning(&output.stderr);
    let lines = parse_lines(&output.stdout);
    assert_complete(&lines);
    let accounting = &lines.last().unwrap()["accounting"];
    assert_eq!(accounting["dropped"], 0, "{accounting}");
    let (first_key, first_user) = (number(&oracle["first_key"]), number(&oracle["first_user"]));
    let tids = list(&oracle["tids"]);
    let mut calls = vec![0; tids.len()];
    for line in of_type(&lines, "ipc") {
        let key = line["args"]["key"].as_str().unwrap();
        let key = u64::from_str_radix(key.trim_start_matches("0x"), 16).unwrap();
        let index = key.checked_sub(first_key).unwrap();
        let process = &line["process"];
        assert_eq!(process["tid"], tids[index as usize], "{line}");
        assert_eq!(process["uid"], first_user + index % number(&oracle["users"]), "{line}");
        assert_eq!(process["comm"], format!("{:08x}", number(&process["tid"])), "{line}");
        calls[index as usize] += 1;
    }
    assert!(calls.iter().all(|calls| *calls == number(&oracle["calls"])), "each made as many");
}

#[test]
fn report_counts_threads_with_colliding_tids_exactly() {
    let (threads, shared) = (scaled(70_000), scaled(1000));
    let [threads, shared] = [threads, shared].map(|number| number.to_string());
    let words = ["equal-tids", "--threads", &threads, "--shared", &shared, "--calls", "10"];
    let _large = LargeTids::allow();
    let (output, oracle) = traced("report", &["-o", "json", "--only-command"], &words);
    assert_no_warning(&output.stderr);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let expected = counts(&oracle["namespaces"]);
    assert_eq!(restricted(counts(&report["namespaces"]), &expected), expected);
    assert_balanced(&report["accounting"]);
}
