//! Reports against books: every call is counted, under the right namespace, operation and error.

use std::{collections::BTreeSet, fs, path::Path};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    book::{
        OpCounts, assert_adds_up, assert_balanced, assert_valid, assert_whole, counts,
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

/// Calls that were lost, by what the report says of namespaces.
fn lost(report: &Value) -> u64 {
    let namespaces = list(&report["namespaces"]).iter();
    let known: u64 = namespaces.map(|ns| number(&ns["dropped"])).sum();
    let unattributed = report["unattributed"].as_object().unwrap().values();
    known + unattributed.map(|op| number(&op["calls"])).sum::<u64>()
}

fn of_book(report: &Value, book: &OpCounts) -> OpCounts {
    restricted(counts(&report["namespaces"]), book)
}

#[test]
fn a_report_has_the_exact_counts_of_a_million_calls() {
    let words =
        ["count", "--threads", "8", "--namespaces", "3", "--int80-percent", "30", "--calls"];
    let calls = calls(1_000_000);
    let (report, book) = report(&["--only-command"], &[&words[..], &[&calls]].concat());
    let expected = counts(&book["namespaces"]);
    assert_eq!(of_book(&report, &expected), expected);
    assert_balanced(&report["accounting"]);
    for count in ["dropped", "not_made"] {
        assert_eq!(report["accounting"][count], 0, "{count} in {}", report["accounting"]);
    }
    assert_valid("report", &[&report]);
}

#[test]
fn counts_stay_exact_while_the_reader_is_stopped_and_the_ring_is_too_small() {
    let mut command = tracer("report");
    command.args(["-o", "json", "--only-command", "--ring-bytes", "4096", "--"]);
    command.arg(xtask()).args(["workload", "count", "--threads", "8", "--namespaces", "3"]);
    // The tracer hands its standard input on to the workload, which waits for a byte there.
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
    // It has ended when nobody has waited for it: its parent is stopped.
    let has_ended = |pid: u32| stat(pid).is_some_and(|stat| stat[0] == "Z");
    assert!(eventually(|| children_of(tracer.pid()).into_iter().any(has_ended)));
    tracer.signal(Signal::SIGCONT);
    let (status, stdout, stderr) = tracer.join();
    assert!(status.success(), "{status}: {stderr}");
    let report: Value = serde_json::from_str(&stdout.join("\n")).unwrap();
    let book: Value = serde_json::from_str(stderr.lines().last().unwrap()).unwrap();

    let expected = counts(&book["namespaces"]);
    assert_eq!(of_book(&report, &expected), expected);
    assert_balanced(&report["accounting"]);
    assert!(number(&report["accounting"]["dropped"]) > 0, "{}", report["accounting"]);
    assert_eq!(lost(&report), number(&report["accounting"]["dropped"]));
    let of_command = list(&report["namespaces"]).iter();
    let mut of_command = of_command.filter(|ns| expected.contains_key(&number(&ns["inum"])));
    assert!(of_command.all(|ns| number(&ns["dropped"]) > 0), "each namespace lost some");
}

#[test]
fn what_is_lost_of_namespaces_and_processes_is_said() {
    // Stopped for longer than the control ring lasts: then it is not known who made a namespace,
    // and by how many calls it was used is.
    let mut live = LiveTracer::start(&["--op", "semget"]);
    live.signal(Signal::SIGSTOP);
    let words = ["churn-namespaces", "--count", "4500"];
    let book = TestProcess::start(workload(&words)).book();
    live.signal(Signal::SIGCONT);
    let loss = live.wait_for(|line| line["type"] == "loss");
    assert!(number(&loss["metadata"]) > 0, "{loss}");
    let lines = live.end();
    assert_whole(&lines);
    let end = lines.last().unwrap();
    let lost = of_type(&lines, "loss").iter().map(|loss| number(&loss["metadata"])).sum::<u64>();
    let control = &end["accounting"]["control"];
    assert_eq!(number(&control["dropped"]) + number(&control["withheld"]), lost, "{end}");
    let calls = calls_of(&lines, &book["tid"]);
    let namespaces = list(&book["namespaces"]);
    assert_eq!(calls.len(), namespaces.len());
    for (call, namespace) in calls.iter().zip(namespaces) {
        assert_eq!(call["ipc_ns"]["inum"], namespace["inum"], "{call}");
    }
    // What a call itself tells is there; the rest may not be, and is not taken from elsewhere.
    assert!(calls.iter().any(|call| call["process"]["exe"].is_null()));
    for call in calls {
        let exe = &call["process"]["exe"];
        assert!(exe.is_null() || *exe == xtask().to_str().unwrap(), "{call}");
        assert_eq!(call["process"]["comm"], "xtask", "{call}");
    }
}

#[test]
fn lines_and_losses_together_are_all_calls() {
    let words = ["count", "--threads", "4", "--namespaces", "3", "--calls"];
    let calls = calls(100_000);
    let options = ["--only-command", "--ring-bytes", "4096"];
    let (lines, book) = lines(&options, &[&words[..], &[&calls]].concat());
    let expected = counts(&book["namespaces"]);
    assert_eq!(restricted(counts_of_lines(&lines), &expected), expected);
    assert_whole(&lines);
    let losses = of_type(&lines, "loss");
    assert!(!losses.is_empty());
    for loss in &losses {
        let by: u64 = list(&loss["by"]).iter().map(|by| number(&by["count"])).sum();
        assert_eq!(by, number(&loss["dropped"]), "{loss}");
    }
    assert_valid("event", &losses);
}

#[test]
fn the_demo_shows_all_operations_in_three_namespaces() {
    let (report, book) = report(&["--only-command"], &["demo"]);
    let expected = counts(&book["namespaces"]);
    assert!(expected.len() >= 3);
    assert_eq!(of_book(&report, &expected), expected);
    assert!(expected.values().all(|ops| ops.len() == 17), "{expected:?}");
    let foreign = list(&report["namespaces"]).iter().map(|ns| number(&ns["foreign_calls"]));
    assert!(foreign.sum::<u64>() > 0);
    assert_valid("report", &[&report]);
}

#[test]
fn two_tracers_see_the_same_and_not_each_other() {
    // The namespaces of the workload are new ones: in the host's, others may make calls, too.
    let counting = ReportTracer::start(&[]);
    let mut live = LiveTracer::start(&[]);
    let calls = calls(20_000);
    let words = ["count", "--fresh", "--threads", "4", "--namespaces", "2", "--calls", &calls];
    let book = TestProcess::start(workload(&words)).book();
    let expected = counts(&book["namespaces"]);
    // Tracers look at namespaces that exist as they end, and see that of each other.
    let mut alive: BTreeSet<u64> = expected.keys().copied().collect();
    while !alive.is_empty() {
        let end = live.wait_for(|line| line["event"] == "destroyed" && line["type"] == "namespace");
        alive.remove(&number(&end["ipc_ns"]["inum"]));
    }
    let pids = [counting.pid(), live.pid()];
    let (mut report, lines) = (counting.end(), live.end());
    // A child of the second tracer may have tried its programs in a namespace whose number has been
    // given out again since.
    let of_workload = |ns: &Value| {
        let comm = ns["created"]["process"]["comm"].as_str();
        comm.is_some_and(|comm| comm.starts_with("count-"))
    };
    report["namespaces"].as_array_mut().unwrap().retain(of_workload);

    assert_eq!(total(&expected), scaled(20_000));
    assert_eq!(of_book(&report, &expected), expected);
    assert_eq!(restricted(counts_of_lines(&lines), &expected), expected);
    assert_balanced(&report["accounting"]);
    assert_whole(&lines);
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

/// One operation on a semaphore of this process's own: what semop(2) gave.
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
fn calls_are_counted_that_their_thread_had_not_sent_in_the_end() {
    let report = ReportTracer::start(&[]);
    // SAFETY: no pointers.
    let semid = unsafe { libc::semget(libc::IPC_PRIVATE, 1, 0o600) };
    // More than are sent together, and not a multiple of that.
    for _ in 0..101 {
        assert_eq!(semop(semid, 1), 0);
    }
    let mut wrong = libc::sembuf { sem_num: 1, sem_op: 1, sem_flg: 0 };
    // SAFETY: one operation, which lives through the call.
    assert_eq!(unsafe { libc::semop(semid, &raw mut wrong, 1) }, -1);
    // It has a batch of its own when it sleeps, and what it sleeps in is to be seen.
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

/// Calls are collected in places of which there are 4,096. Threads that do nothing keep none when they run short, and
/// their calls stay what they are.
#[test]
fn threads_that_sleep_keep_no_place_from_others() {
    let took = "ipc-trace: debug: took the places of";
    let [mut first, mut second] = [ReportTracer::start(&[]), ReportTracer::start(&[])];
    let mut sleepers = TestProcess::start(workload(&["sleepers"]));
    assert_eq!(sleepers.line(), "asleep");
    let pid = sleepers.pid();
    for report in [&mut first, &mut second] {
        report.wait_for(took);
    }
    let first = first.end();
    let book = sleepers.book();
    let second = second.end();

    // What neighbours keep the tracer from seeing, it says.
    let missed = |report: &Value| {
        let accounting = &report["accounting"];
        assert_adds_up(accounting);
        let missed = number(&accounting["missed"]);
        assert!(missed == 0 || !must_be_exact(), "{accounting}");
        assert!(number(&accounting["not_made"]) <= missed, "{accounting}");
        missed
    };
    let all_but = |found: u64, expected: u64, report: &Value| {
        let missed = missed(report);
        let accounting = &report["accounting"];
        assert!(found <= expected && expected - found <= missed, "{found}: {accounting}: {book}");
    };

    // Those that wait in a call, by who began it.
    let waiting = number(&book["waiting"]);
    let mut pending: Vec<_> =
        list(&first["pending"]).iter().filter(|call| call["pid"] == pid).collect();
    pending.dedup_by_key(|call| &call["tid"]);
    all_but(pending.len() as u64, waiting, &first);
    assert!(pending.iter().all(|call| call["op"] == "semop"));

    let namespaces = || list(&second["namespaces"]).iter();
    let mut processes = namespaces().flat_map(|ns| list(&ns["processes"]));
    let sleepers = processes.find(|process| process["pid"] == pid).unwrap();
    let ops = book["namespaces"][0]["ops"].as_object().unwrap();
    let calls = ops.values().map(|op| number(&op["calls"])).sum();
    all_but(number(&sleepers["calls"]), calls, &second);
    let ns = namespaces().find(|ns| ns["inum"] == book["namespaces"][0]["inum"]).unwrap();
    let longest = number(&ns["ops"]["semop"]["duration_ns"]["max"]);
    assert!(longest >= number(&book["waited_ns"]), "{ns}");
}
