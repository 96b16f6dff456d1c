//! I/O failures and signals: a full disk, a closed pipe, a slow or stuck reader, SIGINT and SIGTERM.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, ChildStdout, Command, Stdio},
    time::Duration,
};

use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::{
    invariants::{assert_balanced, assert_complete},
    tracer::{HANG_TIMEOUT, LiveTracer, TestProcess, eventually, program, text, tracer, workload},
};

/// Runs a command whose reader closes after one line: status and standard error.
fn head_of(mut command: Command) -> (Option<i32>, String) {
    let mut tracer = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(tracer.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(!line.is_empty());
    let ended = eventually(|| tracer.try_wait().unwrap().is_some());
    if !ended {
        tracer.kill().unwrap();
    }
    let output = tracer.wait_with_output().unwrap();
    assert!(ended, "it does not end; {}", text(&output.stderr));
    // Kernels without the cheapest method cause a note, and those on which calls may be missed a warning.
    let about_kernel =
        |line: &&str| line.contains("not used, though better") || line.contains(" is not exact: ");
    let stderr = text(&output.stderr);
    let rest: Vec<_> = stderr.lines().filter(|line| !about_kernel(line)).collect();
    (output.status.code(), rest.join("\n"))
}

#[test]
fn closed_pipe_ends_run_with_status_0() {
    let busy = TestProcess::start(workload(&["churn-namespaces", "--count", "1000000"]));
    for output in ["text", "json"] {
        let mut live = tracer("live");
        live.args(["-o", output]);
        assert_eq!(head_of(live), (Some(0), String::new()), "{output}");
    }
    drop(busy);
    let mut schema = program();
    schema.args(["schema", "event"]);
    assert_eq!(head_of(schema), (Some(0), String::new()));
}

#[test]
fn closed_pipe_is_detected_without_output() {
    let mut quiet = tracer("live");
    // No process has that PID, and no terminal needs a status line.
    quiet.args(["-o", "json", "--pid", "4194305"]);
    assert_eq!(head_of(quiet), (Some(0), String::new()));
}

#[test]
fn full_disk_is_reported_as_error() {
    let commands: [&[&str]; 5] = [
        &["live", "--duration", "0"],
        &["live", "-o", "json", "--duration", "0"],
        &["report", "--duration", "0"],
        &["report", "-o", "json", "--duration", "0"],
        &["schema", "report"],
    ];
    for words in commands {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let output = program().args(words).stdout(full).output().unwrap();
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{words:?}: {stderr}");
        assert!(stderr.contains("standard output"), "{words:?}: {stderr}");
        assert!(stderr.contains("No space left on device"), "{words:?}: {stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
    }
}

#[test]
fn unwritable_error_message_still_sets_status() {
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let mut command = program();
    command.args(["live", "--btf", "/nonexistent/btf"]).stdout(full()).stderr(full());
    assert_eq!(command.status().unwrap().code(), Some(1));
}

#[test]
fn signals_end_a_run_cleanly() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut live = LiveTracer::start(&[]);
        let churn = TestProcess::start(workload(&["churn-namespaces", "--count", "100000"]));
        live.wait_for(|line| line["type"] == "ipc");
        let lines = live.end_by(signal);
        drop(churn);
        assert_complete(&lines);

        let mut command = tracer("report");
        command.args(["-o", "json"]);
        let report = TestProcess::tracing(command);
        report.signal(signal);
        let (status, stdout, stderr) = report.join();
        assert_eq!(status.code(), Some(0), "{stderr}");
        let report: Value = serde_json::from_str(&stdout.join("\n")).unwrap();
        assert_balanced(&report["accounting"]);
        // The command was still running, or ended when its input did.
        assert_eq!(report["command"]["signal"], Value::Null);
    }
}

/// A tracer that received a signal, and has far more to write than a pipe holds.
fn tracer_with_pending_output() -> (Child, BufReader<ChildStdout>) {
    let mut command = tracer("live");
    let mut live =
        command.args(["-o", "json"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::with_capacity(1, live.stdout.take().unwrap());
    let mut start = String::new();
    out.read_line(&mut start).unwrap();
    TestProcess::start(workload(&["count", "--calls", "5000", "--namespaces", "1"])).read_oracle();
    send_sigterm(&live);
    (live, out)
}

fn send_sigterm(live: &Child) {
    kill(nix::unistd::Pid::from_raw(live.id() as i32), Signal::SIGTERM).unwrap();
}

#[test]
fn slow_reader_gets_all_output_after_a_signal() {
    let (live, mut out) = tracer_with_pending_output();
    let mut piece = [0; 32 << 10];
    for _ in 0..8 {
        out.read_exact(&mut piece).unwrap();
        std::thread::sleep(Duration::from_millis(150));
    }
    let rest = std::thread::spawn(move || BufReader::new(out).lines().last().unwrap().unwrap());
    let output = live.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let last: Value = serde_json::from_str(&rest.join().unwrap()).unwrap();
    assert_eq!(last["type"], "end");
}

#[test]
fn second_signal_stops_waiting_for_slow_reader() {
    let (mut live, mut out) = tracer_with_pending_output();
    let mut piece = [0; 4096];
    // The reader reads little, but keeps reading.
    let ended = eventually(|| {
        out.read_exact(&mut piece).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        send_sigterm(&live);
        live.try_wait().unwrap().is_some()
    });
    assert!(ended, "it still runs after {HANG_TIMEOUT:?}");
    let output = live.wait_with_output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("ended by a second signal"), "{stderr}");
}

#[test]
fn stuck_reader_does_not_block_exit() {
    let (mut stuck, _out) = tracer_with_pending_output();
    let ended = eventually(|| stuck.try_wait().unwrap().is_some());
    if !ended {
        stuck.kill().unwrap();
    }
    let output = stuck.wait_with_output().unwrap();
    assert!(ended, "it still runs after {HANG_TIMEOUT:?}");
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("standard output is stalled"), "{stderr}");
}
