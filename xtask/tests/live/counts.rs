//! Reports against oracles: every call is counted, under the right namespace, operation and error.

use std::{collections::BTreeSet, fs, path::Path};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    invariants::{
        OpCounts, assert_adds_up, assert_balanced, assert_complete, assert_valid, counts,
        counts_of_lines, restricted, total,
    },
    preemption::must_be_exact,
    tracer::{
        LiveTracer, ReportTracer, TestProcess, calls_of, children_of, eventually, lines, list,
        number, of_type, report, scaled, stat, tracer, workload, xtask,
    },
};

/// The number of calls as an option's value.
fn calls(number: u64) -> String {
    scaled(number).to_string()
}

/// Lost calls, summed over the namespaces of a report.
fn lost(report: &Value) -> u64 {
    let namespaces = list(&report["namespaces"]).iter();
    let known: u64 = namespaces.map(|ns| number(&ns["dropped"])).sum();
    let unattributed = report["unattributed"].as_object().unwrap().values();
    known + unattributed.map(|op| number(&op["calls"])).sum::<u64>()
}

fn within_oracle(report: &Value, oracle: &OpCounts) -> OpCounts {
    restricted(counts(&report["namespaces"]), oracle)
}

/// The report on so many calls, which must have all of them.
fn exact_report(options: &[&str], number: u64) -> Value {
    let words =
        ["count", "--threads", "8", "--namespaces", "3", "--int80-percent", "30", "--calls"];
    let calls = calls(number);
    let options = [&["--only-command"], options].concat();
    let (report, oracle) = report(&options, &[&words[..], &[&calls]].concat());
    let expected = counts(&oracle["namespaces"]);
    assert_eq!(within_oracle(&report, &expected), expected, "{}", report["accounting"]);
    assert_balanced(&report["accounting"]);
    for count in ["dropped", "not_made"] {
        assert_eq!(report["accounting"][count], 0, "{count} in {}", report["accounting"]);
    }
    assert_valid("report", &[&report]);
    report
}

#[test]
fn report_counts_a_million_calls_exactly() {
    exact_report(&[], 1_000_000);
}

/// Asserts that operations in the report have durations, or that none has.
fn assert_timed(report: &Value, timed: bool) {
    let namespaces = list(&report["namespaces"]).iter();
    let ops = namespaces.flat_map(|ns| ns["ops"].as_object().unwrap());
    let has_some = ops.into_iter().any(|(_, op)| !op["duration_ns"].is_null());
    assert_eq!(has_some, timed, "{report}");
}

#[test]
fn report_with_counts_is_exact_and_times_only_if_asked() {
    assert_timed(&exact_report(&["--counts"], 400_000), false);
    assert_timed(&exact_report(&["--counts", "--durations"], 400_000), true);
}

/// A thread that counts for a long time fills no ring, however small it is: its calls stay with it.
#[test]
fn report_with_counts_loses_nothing_of_a_flood() {
    let options = ["--only-command", "--counts", "--ring-bytes", "4096"];
    let (report, oracle) = report(&options, &["semop-flood", "--seconds", "3", "--threads", "2"]);
    let expected = counts(&oracle["namespaces"]);
    assert_eq!(within_oracle(&report, &expected), expected);
    assert_balanced(&report["accounting"]);
    assert_eq!(report["accounting"]["dropped"], 0, "{}", report["accounting"]);
}

#[test]
fn report_is_exact_with_a_stopped_reader_and_a_small_ring() {
    let mut command = tracer("report");
    command.args(["-o", "json", "--only-command", "--ring-bytes", "4096", "--"]);
    command.arg(xtask()).args(["workload", "count", "--threads", "8", "--namespaces", "3"]);
    // The workload inherits the tracer's standard input, and waits for a byte there.
    command.args(["--hold-start-fd", "0", "--calls", &calls(1_000_000)]);
    let mut tracer = TestProcess::start(command);
    let workload = fs::canonicalize(xtask()).unwrap();
    let is_workload = |pid: u32| {
        fs::read_link(Path::new("/proc").join(pid.to_string()).join("exe")).ok().as_ref()
            == Some(&workload)
    };
    assert!(eventually(|| children_of(tracer.pid()).into_iter().any(is_workload)));
    tracer.signal(Signal::SIGSTOP);
    assert!(eventually(|| stat(tracer.pid()).is_some_and(|stat| stat[0] == "T")));
    tracer.go();
    // It has ended when it is a zombie: its parent is stopped.
    let has_ended = |pid: u32| stat(pid).is_some_and(|stat| stat[0] == "Z");
    assert!(eventually(|| children_of(tracer.pid()).into_iter().any(has_ended)));
    tracer.signal(Signal::SIGCONT);
    let (status, stdout, stderr) = tracer.join();
    assert!(status.success(), "{status}: {stderr}");
    let report: Value = serde_json::from_str(&stdout.join("\n")).unwrap();
    let oracle: Value = serde_json::from_str(stderr.lines().last().unwrap()).unwrap();

    let expected = counts(&oracle["namespaces"]);
    assert_eq!(within_oracle(&report, &expected), expected);
    assert_balanced(&report["accounting"]);
    assert!(number(&report["accounting"]["dropped"]) > 0, "{}", report["accounting"]);
    assert_eq!(lost(&report), number(&report["accounting"]["dropped"]));
    let of_command = list(&report["namespaces"]).iter();
    let mut of_command = of_command.filter(|ns| expected.contains_key(&number(&ns["inum"])));
    assert!(of_command.all(|ns| number(&ns["dropped"]) > 0), "each namespace lost some");
}

#[test]
fn lost_control_records_are_reported() {
    // Stopped for so long that the control ring overflows: then the creators of namespaces are unknown, and
    // their calls are still known.
    let mut live = LiveTracer::start(&["--op", "semget"]);
    live.signal(Signal::SIGSTOP);
    let words = ["churn-namespaces", "--count", "4500"];
    let oracle = TestProcess::start(workload(&words)).read_oracle();
    live.signal(Signal::SIGCONT);
    let loss = live.wait_for(|line| line["type"] == "loss");
    assert!(number(&loss["metadata"]) > 0, "{loss}");
    let lines = live.end();
    assert_complete(&lines);
    let end = lines.last().unwrap();
    let lost = of_type(&lines, "loss").iter().map(|loss| number(&loss["metadata"])).sum::<u64>();
    let control = &end["accounting"]["control"];
    assert_eq!(number(&control["dropped"]) + number(&control["withheld"]), lost, "{end}");
    let calls = calls_of(&lines, &oracle["tid"]);
    let namespaces = list(&oracle["namespaces"]);
    assert_eq!(calls.len(), namespaces.len());
    for (call, namespace) in calls.iter().zip(namespaces) {
        assert_eq!(call["ipc_ns"]["inum"], namespace["inum"], "{call}");
    }
    // A call's own record is complete. Other data may be missing, and is not taken from elsewhere.
    assert!(calls.iter().any(|call| call["process"]["exe"].is_null()));
    for call in calls {
        let exe = &call["process"]["exe"];
        assert!(exe.is_null() || *exe == xtask().to_str().unwrap(), "{call}");
        assert_eq!(call["process"]["comm"], "xtask", "{call}");
    }
}

#[test]
fn lines_plus_losses_are_all_calls() {
    let words = ["count", "--threads", "4", "--namespaces", "3", "--calls"];
    let calls = calls(100_000);
    let options = ["--only-command", "--ring-bytes", "4096"];
    let (lines, oracle) = lines(&options, &[&words[..], &[&calls]].concat());
    let expected = counts(&oracle["namespaces"]);
    assert_eq!(restricted(counts_of_lines(&lines), &expected), expected);
    assert_complete(&lines);
    let losses = of_type(&lines, "loss");
    assert!(!losses.is_empty());
    for loss in &losses {
        let by: u64 = list(&loss["by"]).iter().map(|by| number(&by["count"])).sum();
        assert_eq!(by, number(&loss["dropped"]), "{loss}");
    }
    assert_valid("event", &losses);
}

#[test]
fn demo_has_all_operations_in_three_namespaces() {
    let (report, oracle) = report(&["--only-command"], &["demo"]);
    let expected = counts(&oracle["namespaces"]);
    assert!(expected.len() >= 3);
    assert_eq!(within_oracle(&report, &expected), expected);
    assert!(expected.values().all(|ops| ops.len() == 17), "{expected:?}");
    let foreign = list(&report["namespaces"]).iter().map(|ns| number(&ns["foreign_calls"]));
    assert!(foreign.sum::<u64>() > 0);
    assert_valid("report", &[&report]);
}

#[test]
fn two_tracers_see_the_same_calls_but_not_each_other() {
    // The namespaces of the workload are new ones: in the host's, others may make calls, too.
    let counting = ReportTracer::start(&[]);
    let mut live = LiveTracer::start(&[]);
    let calls = calls(20_000);
    let words = ["count", "--fresh", "--threads", "4", "--namespaces", "2", "--calls", &calls];
    let oracle = TestProcess::start(workload(&words)).read_oracle();
    let expected = counts(&oracle["namespaces"]);
    // Tracers inspect existing namespaces when they end, and see each other do so.
    let mut alive: BTreeSet<u64> = expected.keys().copied().collect();
    while !alive.is_empty() {
        let end = live.wait_for(|line| line["event"] == "destroyed" && line["type"] == "namespace");
        alive.remove(&number(&end["ipc_ns"]["inum"]));
    }
    let pids = [counting.pid(), live.pid()];
    let (mut report, lines) = (counting.end(), live.end());
    // A child of the second tracer may have run the self-test in a namespace whose inode number has been
    // reused since.
    let of_workload = |ns: &Value| {
        let comm = ns["created"]["process"]["comm"].as_str();
        comm.is_some_and(|comm| comm.starts_with("count-"))
    };
    report["namespaces"].as_array_mut().unwrap().retain(of_workload);

    assert_eq!(total(&expected), scaled(20_000));
    assert_eq!(within_oracle(&report, &expected), expected);
    assert_eq!(restricted(counts_of_lines(&lines), &expected), expected);
    assert_balanced(&report["accounting"]);
    assert_complete(&lines);
    let calls = of_type(&lines, "ipc").into_iter();
    for line in calls.filter(|line| expected.contains_key(&number(&line["ipc_ns"]["inum"]))) {
        assert!(pids.iter().all(|pid| line["process"]["pid"] != *pid), "{line}");
    }
    for namespace in list(&report["namespaces"]) {
        for process in list(&namespace["processes"]) {
            assert!(pids.iter().all(|pid| process["pid"] != *pid), "{process}");
        }
    }
}

/// One operation on a semaphore of this process: the result of semop(2).
fn semop(semid: i32, by: i16) -> i32 {
    let mut operation = libc::sembuf { sem_num: 0, sem_op: by, sem_flg: 0 };
    // SAFETY: one operation, which lives through the call.
    unsafe { libc::semop(semid, &raw mut operation, 1) }
}

/// The report on the calls of this process.
fn of_this_process(report: &Value) -> &Value {
    let mut all = list(&report["namespaces"]).iter().flat_map(|ns| list(&ns["processes"]));
    all.find(|process| process["pid"] == std::process::id()).unwrap()
}

#[test]
fn unsent_batches_are_counted_at_the_end() {
    let report = ReportTracer::start(&[]);
    // SAFETY: no pointers.
    let semid = unsafe { libc::semget(libc::IPC_PRIVATE, 1, 0o600) };
    // More than one batch, and not a multiple of the batch size.
    for _ in 0..101 {
        assert_eq!(semop(semid, 1), 0);
    }
    let mut wrong = libc::sembuf { sem_num: 1, sem_op: 1, sem_flg: 0 };
    // SAFETY: one operation, which lives through the call.
    assert_eq!(unsafe { libc::semop(semid, &raw mut wrong, 1) }, -1);
    // It has a batch of its own when it sleeps, and its sleeping call must be visible.
    let sleeper = std::thread::spawn(move || {
        assert_eq!((semop(semid, 1), semop(semid, 1), semop(semid, -50)), (0, 0, 0));
        semop(semid, -500)
    });
    let sleeps = |pending: u64| {
        let tasks = fs::read_dir("/proc/self/task").unwrap().map_while(Result::ok);
        let calls = tasks.filter_map(|task| fs::read_to_string(task.path().join("syscall")).ok());
        let semops = [libc::SYS_semop, libc::SYS_semtimedop].map(|number| format!("{number} "));
        calls.filter(|call| semops.iter().any(|number| call.starts_with(number))).count() as u64
            == pending
    };
    assert!(eventually(|| sleeps(1)));
    let report = report.end();
    // SAFETY: IPC_RMID takes no pointer.
    assert_eq!(unsafe { libc::semctl(semid, 0, libc::IPC_RMID) }, 0);
    assert_eq!(sleeper.join().unwrap(), -1);

    let process = of_this_process(&report);
    assert_eq!((number(&process["calls"]), number(&process["failed"])), (1 + 101 + 1 + 3, 1));
    assert_balanced(&report["accounting"]);
    let pending = list(&report["pending"]).iter();
    let mut mine = pending.filter(|call| call["pid"] == std::process::id());
    let call = mine.next().unwrap();
    assert_eq!((&call["op"], &call["id"]), (&"semop".into(), &semid.into()), "{call}");
    assert_eq!(mine.next(), None);
    let objects = list(&report["namespaces"]).iter().flat_map(|ns| list(&ns["objects"]));
    let mut same = objects.filter(|object| object["kind"] == "sem" && object["id"] == semid);
    let object = same.next().unwrap();
    assert_eq!(number(&object["uses"]), 1 + 101 + 3, "{object}");
}

/// Calls are collected in 2,048 batch slots. When these run short, idle threads release theirs, and their calls stay
/// counted.
#[test]
fn sleeping_threads_release_their_batch_slots() {
    let took = "ipc-trace: debug: took the places of";
    let [mut first, mut second] = [ReportTracer::start(&[]), ReportTracer::start(&[])];
    let mut sleepers = TestProcess::start(workload(&["sleepers"]));
    assert_eq!(sleepers.line(), "asleep");
    let pid = sleepers.pid();
    for report in [&mut first, &mut second] {
        report.wait_for(took);
    }
    let first = first.end();
    let oracle = sleepers.read_oracle();
    let second = second.end();

    // The tracer reports the calls that neighbours hide from it: `hidden` at most, where calls aren't preempted.
    let all_but = |found: u64, expected: u64, hidden: u64, report: &Value| {
        let accounting = &report["accounting"];
        assert_adds_up(accounting);
        let missed = number(&accounting["missed"]);
        assert!(number(&accounting["not_made"]) <= missed, "{accounting}");
        let is_right = if must_be_exact() {
            missed <= hidden && found + missed == expected
        } else {
            found <= expected && expected - found <= missed
        };
        let rows = list(&report["namespaces"]).iter().flat_map(|ns| list(&ns["processes"]));
        let rows: Vec<_> = rows.map(|row| (&row["pid"], &row["comm"], &row["calls"])).collect();
        assert!(is_right, "{found}: {accounting}: {oracle}: {rows:?}");
    };

    // The threads that wait in a call.
    let waiting = number(&oracle["waiting"]);
    let mut pending: Vec<_> =
        list(&first["pending"]).iter().filter(|call| call["pid"] == pid).collect();
    pending.dedup_by_key(|call| &call["tid"]);
    all_but(pending.len() as u64, waiting, 0, &first);
    assert!(pending.iter().all(|call| call["op"] == "semop"));

    let namespaces = || list(&second["namespaces"]).iter();
    let mut processes = namespaces().flat_map(|ns| list(&ns["processes"]));
    let sleepers = processes.find(|process| process["pid"] == pid).unwrap();
    let ops = oracle["namespaces"][0]["ops"].as_object().unwrap();
    let calls = ops.values().map(|op| number(&op["calls"])).sum();
    // With backend `function`, calls that are asleep while the first tracer's programs are detached have no return.
    let hidden = if xtask::tracer::backend().as_deref() == Some("syscall") { 0 } else { waiting };
    all_but(number(&sleepers["calls"]), calls, hidden, &second);
    let ns = namespaces().find(|ns| ns["inum"] == oracle["namespaces"][0]["inum"]).unwrap();
    let longest = number(&ns["ops"]["semop"]["duration_ns"]["max"]);
    let all_hidden = number(&second["accounting"]["missed"]) >= waiting;
    assert!(all_hidden || longest >= number(&oracle["waited_ns"]), "{ns}");
}
