//! The container of a call: threads that are moved between cgroups, and real containers.

mod docker;
mod found;
mod podman;

use std::{fs, process::Command};

use serde_json::Value;
use xtask::containers::TestCgroup;

use found::{by_id, of_container};

use crate::{
    invariants::{assert_balanced, assert_complete},
    preemption::assert_as_exact_as_can_be,
    tracer::{
        LiveTracer, ReportTracer, TestProcess, calls_of, list, number, of_type, scaled, workload,
    },
};

/// What real containers run, from the host's `PATH`.
const PROGRAMS: [&str; 2] = ["ipcmk", "ipcs"];

/// An id that no runtime has assigned.
fn id(number: u32) -> String {
    // Of this process, so that two runs at one time have cgroups of their own.
    let own = format!("{:08x}{number:08x}", std::process::id());
    own.repeat(4)
}

/// A cgroup as Docker would make it for a container.
fn cgroup(id: &str) -> TestCgroup {
    TestCgroup::make(&format!("docker/{id}")).unwrap()
}

/// A workload that is in a cgroup from its beginning.
fn workload_in(cgroup: &TestCgroup, words: &[&str]) -> Command {
    let inner = workload(words);
    let mut command = Command::new("/bin/sh");
    command.args(["-c", r#"echo $$ > "$0" && exec "$@""#]).arg(cgroup.procs());
    command.arg(inner.get_program()).args(inner.get_args());
    command
}

/// A process of two threads that make one call each per step.
struct Stepper(TestProcess);

impl Stepper {
    fn start() -> Self {
        Self(TestProcess::start(workload(&["stepper", "--threads", "2"])))
    }

    fn step(&mut self) {
        self.0.write_line("");
        assert_eq!(self.0.line(), "done");
    }
}

/// The ids of the containers of a thread's calls.
fn ids(lines: &[Value], tid: &Value) -> Vec<Value> {
    calls_of(lines, tid).into_iter().map(|call| call["container"]["id"].clone()).collect()
}

#[test]
fn moved_threads_are_attributed_to_their_new_cgroup() {
    let old = cgroup(&id(1));
    let mut stepper = Stepper::start();
    let live = LiveTracer::start(&["--runtime-socket", "none"]);
    stepper.step();
    old.take(stepper.0.pid()).unwrap();
    stepper.step();
    // Made after the start.
    let new = cgroup(&id(2));
    new.take(stepper.0.pid()).unwrap();
    stepper.step();
    stepper.step();
    let pid = stepper.0.pid();
    stepper.0.read_oracle();
    let lines = live.end();

    let mine = |line: &&Value| line["process"]["pid"] == pid;
    let mut tids: Vec<u64> = of_type(&lines, "ipc")
        .into_iter()
        .filter(mine)
        .map(|call| call["process"]["tid"].as_u64().unwrap())
        .collect();
    tids.sort_unstable();
    tids.dedup();
    assert_eq!(tids.len(), 2);
    for tid in tids {
        let expected = [Value::Null, id(1).into(), id(2).into(), id(2).into()];
        assert_eq!(ids(&lines, &tid.into()), expected);
    }
}

#[test]
fn report_has_containers_of_moved_processes() {
    let cgroup = cgroup(&id(3));
    let mut stepper = Stepper::start();
    let report = ReportTracer::start(&["--runtime-socket", "none"]);
    // From the second on, its calls are sent together.
    for _ in 0..3 {
        stepper.step();
    }
    cgroup.take(stepper.0.pid()).unwrap();
    stepper.step();
    let pid = stepper.0.pid();
    stepper.0.read_oracle();
    let report = report.end();

    let host = list(&report["namespaces"])
        .iter()
        .find(|ns| list(&ns["processes"]).iter().any(|process| process["pid"] == pid));
    let host = host.expect("its namespace");
    assert!(list(&host["containers"]).iter().any(|one| one["id"] == id(3)), "{host}");
}

#[test]
fn container_filter_selects_only_its_calls() {
    const STEPS: usize = 3;
    let known = cgroup(&id(4));
    let mut steppers = [Stepper::start(), Stepper::start(), Stepper::start()];
    let options = |id: &str| ["--runtime-socket", "none", "--container", id].map(str::to_owned);
    // An id's prefix, and a full id.
    let (early, late) = (options(&id(4)[..16]), options(&id(5)));
    let live = LiveTracer::start(&early.each_ref().map(String::as_str));
    let report = ReportTracer::start(&late.each_ref().map(String::as_str));
    known.take(steppers[0].0.pid()).unwrap();
    let new = cgroup(&id(5));
    new.take(steppers[1].0.pid()).unwrap();
    for _ in 0..STEPS {
        steppers.iter_mut().for_each(Stepper::step);
    }
    let [first, second, _] = steppers.map(|stepper| {
        let pid = stepper.0.pid();
        stepper.0.read_oracle();
        pid
    });
    let (lines, report) = (live.end(), report.end());

    assert_complete(&lines);
    let calls = of_type(&lines, "ipc");
    assert!(calls.iter().all(|call| call["container"]["id"] == id(4)), "{calls:?}");
    // Two threads.
    assert_eq!(calls.len(), 2 * STEPS);
    assert!(calls.iter().all(|call| call["process"]["pid"] == first), "{calls:?}");

    let accounting = &report["accounting"];
    assert_balanced(accounting);
    assert_eq!(number(&accounting["delivered"]), 2 * STEPS as u64);
    // What the others called was seen, and is not shown.
    assert!(number(&accounting["filtered"]) >= 4 * STEPS as u64, "{accounting}");
    let processes: Vec<_> = list(&report["namespaces"])
        .iter()
        .filter(|ns| !ns["ops"].as_object().unwrap().is_empty())
        .flat_map(|ns| list(&ns["processes"]))
        .map(|process| &process["pid"])
        .collect();
    assert_eq!(processes, [second]);
}

/// Kilobytes of memory that a process has, and its descriptors.
fn size_of(pid: u32) -> (u64, usize) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let rss = rss.trim().strip_suffix(" kB").unwrap().parse().unwrap();
    (rss, fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count())
}

#[test]
fn hundred_thousand_processes_are_attributed_without_leaks() {
    /// Kilobytes by which the tracer may grow meanwhile.
    const GROWTH: u64 = 8 << 10;
    /// Descriptors that it may have open for a moment.
    const TEMPORARY: usize = 4;
    let cgroups = [6, 7].map(|n| (id(n), cgroup(&id(n))));
    let reports = cgroups.each_ref().map(|(id, _)| {
        ReportTracer::start(&["--runtime-socket", "none", "--container", id, "--op", "shmget"])
    });
    // Both at once: PIDs are reused between them, again and again.
    let churn = |count: u64| {
        let words = ["churn-processes", "--copies", "--count", &count.to_string()];
        let churns = cgroups.each_ref().map(|one| TestProcess::start(workload_in(&one.1, &words)));
        for churn in churns {
            churn.read_oracle();
        }
    };
    let (first, rest) = (scaled(5_000), scaled(45_000));
    churn(first);
    let before = reports.each_ref().map(|report| size_of(report.pid()));
    churn(rest);
    let after = reports.each_ref().map(|report| size_of(report.pid()));
    for ((before, descriptors_before), (after, descriptors_after)) in before.into_iter().zip(after)
    {
        assert!(after < before + GROWTH, "{before} kB, then {after} kB");
        assert!(
            descriptors_after < descriptors_before + TEMPORARY,
            "{descriptors_before} descriptors, then {descriptors_after}"
        );
    }
    for (report, (id, _)) in reports.map(ReportTracer::end).iter().zip(&cgroups) {
        let accounting = &report["accounting"];
        let missed = assert_as_exact_as_can_be(accounting);
        let namespaces = list(&report["namespaces"]).iter();
        let called = namespaces.filter(|ns| !ns["ops"].as_object().unwrap().is_empty());
        let calls: u64 = called.map(|ns| number(&ns["ops"]["shmget"]["calls"])).sum();
        assert_eq!(number(&accounting["delivered"]), calls, "{id}: {accounting}");
        let made = first + rest;
        assert!(calls <= made && made - calls <= missed, "{id}: {calls} of {made}: {accounting}");
    }
}
