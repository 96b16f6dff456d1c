//! Each filter selects exactly its calls, and the rest is accounted for: several tracers watch the same workload,
//! one of them without filters.

use serde_json::Value;

use crate::{
    invariants::{OpCounts, assert_balanced, assert_complete, counts, restricted, total},
    tracer::{
        LiveTracer, ReportTracer, TestProcess, as_user, calls_of, children_of, eventually,
        ipc_ns_of, lines, number, of_type, scaled, workload, xtask,
    },
};

/// A process of the workload, which is the only one in its namespace.
struct FilterProcess {
    pid: u32,
    inum: u64,
}

/// Starts a workload of three threads, each with a process and a namespace of its own, which waits for a byte on its
/// standard input.
fn held() -> (TestProcess, Vec<FilterProcess>) {
    // With few calls all would be failures.
    let calls = scaled(6000).max(1500).to_string();
    let words = ["count", "--fresh", "--threads", "3", "--namespaces", "3"];
    let hold = ["--hold-start-fd", "0", "--calls", &calls];
    let held = TestProcess::start(workload(&[&words[..], &hold].concat()));
    let own = ipc_ns_of(std::process::id());
    let mut members = Vec::new();
    let there = eventually(|| {
        let of = |pid| FilterProcess { pid, inum: ipc_ns_of(pid) };
        members = children_of(held.pid()).into_iter().map(of).collect();
        members.len() == 3 && members.iter().all(|member| member.inum != own)
    });
    assert!(there, "the workload has three processes");
    (held, members)
}

/// The workload's calls in those namespaces, thread by thread: other tracers inspect the namespaces when they
/// start and end.
fn calls_in<'a>(lines: &'a [Value], namespaces: &OpCounts) -> Vec<&'a Value> {
    let mut calls = of_type(lines, "ipc");
    calls.retain(|line| namespaces.contains_key(&number(&line["ipc_ns"]["inum"])));
    calls.retain(|line| line["process"]["exe"] == xtask().to_str().unwrap());
    calls.sort_by_key(|line| number(&line["process"]["tid"]));
    calls
}

/// Options, and the calls that must be shown with them.
struct FilterCase {
    options: Vec<String>,
    wanted: Box<dyn Fn(&Value) -> bool>,
}

fn case(options: &[&str], wanted: impl Fn(&Value) -> bool + 'static) -> FilterCase {
    let options = options.iter().map(|word| (*word).to_owned()).collect();
    FilterCase { options, wanted: Box::new(wanted) }
}

fn cases(members: &[FilterProcess]) -> Vec<FilterCase> {
    let pids: Vec<u32> = members.iter().map(|member| member.pid).collect();
    let inums: Vec<u64> = members.iter().map(|member| member.inum).collect();
    let pid = |line: &Value| number(&line["process"]["pid"]) as u32;
    let [first, second, third] = [0, 1, 2].map(|i| pids[i].to_string());
    vec![
        case(&["--op", "semop,mq"], |line| line["op"] == "semop" || line["object"]["kind"] == "mq"),
        case(&["--failed"], |line| !line["error"].is_null()),
        case(&["--pid", &first, "--pid", &third], {
            let pids = pids.clone();
            move |line| [pids[0], pids[2]].contains(&pid(line))
        }),
        case(&["--comm", "count-1-1", "--comm", "helper"], |line| {
            ["count-1-1", "helper"].iter().any(|comm| line["process"]["comm"] == *comm)
        }),
        case(&["--ipc-ns", &inums[1].to_string(), "--ipc-ns", &format!("pid:{third}")], {
            move |line| inums[1..].contains(&number(&line["ipc_ns"]["inum"]))
        }),
        case(&["--failed", "--op", "msg,semctl", "--pid", &second], move |line| {
            !line["error"].is_null()
                && pid(line) == pids[1]
                && (line["object"]["kind"] == "msg" || line["op"] == "semctl")
        }),
    ]
}

#[test]
fn each_filter_selects_exactly_its_calls() {
    let (mut held, members) = held();
    let cases = cases(&members);
    let all = LiveTracer::start(&[]);
    let tracers: Vec<_> = cases
        .iter()
        .map(|case| LiveTracer::start(&case.options.iter().map(String::as_str).collect::<Vec<_>>()))
        .collect();
    held.go();
    let namespaces = counts(&held.read_oracle()["namespaces"]);
    let all = all.end();
    assert_complete(&all);
    let all = calls_in(&all, &namespaces);
    assert_eq!(all.len() as u64, total(&namespaces));
    for (FilterCase { options, wanted }, tracer) in cases.iter().zip(tracers) {
        let some = tracer.end();
        assert_complete(&some);
        let accounting = &some.last().unwrap()["accounting"];
        assert_eq!(accounting["dropped"], 0, "{options:?}: {accounting}");
        assert!(number(&accounting["filtered"]) > 0, "{options:?}: {accounting}");
        let identity = |line: &&Value| ["op", "ret", "args", "abi"].map(|name| line[name].clone());
        let expected: Vec<_> = all.iter().filter(|line| wanted(line)).map(identity).collect();
        assert!(!expected.is_empty(), "{options:?}: there is something to show");
        let shown: Vec<_> = calls_in(&some, &namespaces).iter().map(identity).collect();
        let (found, due) = (shown.len(), expected.len());
        assert!(shown == expected, "{options:?}: {found} calls are shown, {due} are expected");
    }
}

#[test]
fn only_command_selects_the_command_and_its_descendants() {
    let (mut outside, _) = held();
    outside.go();
    let count = scaled(200);
    let churn = ["churn-processes", "--count", &count.to_string()];
    let (lines, oracle) = lines(&["--only-command"], &churn);
    outside.read_oracle();
    assert_complete(&lines);
    let calls = of_type(&lines, "ipc");
    assert!(calls.iter().all(|line| line["process"]["exe"] == oracle["exe"]));
    assert_eq!(calls.len() as u64, count);
}

#[test]
fn min_duration_drops_short_and_non_blocking_calls() {
    let options = ["--only-command", "--min-duration", "100ms"];
    let (lines, oracle) = lines(&options, &["blocked", "--op", "msgrcv", "--seconds", "0.2"]);
    assert_complete(&lines);
    for line in of_type(&lines, "ipc") {
        assert!(number(&line["duration_ns"]) >= 100_000_000, "{line}");
    }
    assert_eq!(calls_of(&lines, &oracle["tid"]).len(), 1);
}

#[test]
fn uid_filter_selects_calls_of_a_user() {
    // Users without other processes.
    let [wanted, other] = [54_321, 54_322];
    let live = LiveTracer::start(&["--uid", &wanted.to_string()]);
    let pids = [wanted, other].map(|uid| {
        let mut one_call = as_user(&xtask(), uid);
        one_call.args(["workload", "one-call"]);
        let process = TestProcess::start(one_call);
        let pid = process.pid();
        process.read_oracle();
        pid
    });
    let lines = live.end();
    assert_complete(&lines);
    let calls = of_type(&lines, "ipc");
    let who: Vec<_> = calls.iter().map(|line| number(&line["process"]["pid"]) as u32).collect();
    assert_eq!(who, [pids[0]]);
    assert_eq!(calls[0]["process"]["uid"], wanted);
}

#[test]
fn ipc_ns_filter_includes_foreign_calls_on_its_objects() {
    let home = ipc_ns_of(std::process::id());
    let live = LiveTracer::start(&["--ipc-ns", "self"]);
    let name = format!("/ipc-trace-filter-{}", std::process::id());
    let elsewhere = std::thread::spawn(move || {
        use nix::{mqueue, mqueue::MQ_OFlag, sys::stat::Mode};
        let flags = MQ_OFlag::O_CREAT | MQ_OFlag::O_RDWR;
        let size = mqueue::MqAttr::new(0, 4, 64, 0);
        let queue = mqueue::mq_open(name.as_str(), flags, Mode::S_IRUSR, Some(&size)).unwrap();
        mqueue::mq_unlink(name.as_str()).unwrap();
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWIPC).unwrap();
        mqueue::mq_getattr(&queue).unwrap();
        // SAFETY: no pointers.
        unsafe { libc::semget(libc::IPC_PRIVATE, 1, 0o600) };
        mqueue::mq_close(queue).unwrap();
        nix::unistd::gettid().as_raw()
    });
    let tid = elsewhere.join().unwrap();
    let lines = live.end();
    let calls = calls_of(&lines, &tid.into());
    let ops: Vec<_> = calls.iter().map(|line| line["op"].as_str().unwrap()).collect();
    assert_eq!(ops, ["mq_open", "mq_unlink", "mq_getsetattr"], "semget was elsewhere");
    let foreign = calls[2];
    assert_ne!(foreign["ipc_ns"]["inum"], home);
    assert_eq!(foreign["object"]["ipc_ns"]["inum"], home);
    assert_eq!(foreign["object"]["foreign"], true);
}

#[test]
fn report_on_a_namespace_has_only_foreign_calls_on_its_objects() {
    let mut program = TestProcess::start(workload(&["two-namespaces"]));
    let first: Value = serde_json::from_str(&program.line()).unwrap();
    let report = ReportTracer::start(&["--ipc-ns", &number(&first["x"]).to_string()]);
    program.go();
    let oracle = program.read_oracle();
    let report = report.end();
    assert_balanced(&report["accounting"]);
    let mut expected = counts(&oracle["namespaces"]);
    for (inum, ops) in &mut expected {
        ops.retain(|op, _| *inum == number(&oracle["x"]) || op == "mq_send");
    }
    assert_eq!(restricted(counts(&report["namespaces"]), &expected), expected);
}
