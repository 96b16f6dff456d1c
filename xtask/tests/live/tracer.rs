//! The tracer and the workloads as processes: starts them, reads their output, ends them.
//!
//! Two environment variables adapt a run to its machine: `IPC_TRACE_TEST_BACKEND` is the tracer's
//! `--backend`, and `IPC_TRACE_TEST_SCALE` divides the numbers of calls, for emulated machines.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    io::{Read as _, Seek as _},
    os::{fd::AsRawFd as _, unix::process::CommandExt as _},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::Instant,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use xtask::tracer;

pub(crate) use xtask::tracer::{HANG_TIMEOUT, eventually};

/// So many calls, or fewer on a slow machine.
pub(crate) fn scaled(calls: u64) -> u64 {
    let divisor = env::var("IPC_TRACE_TEST_SCALE").map_or(1, |text| text.parse().unwrap());
    (calls / divisor).max(calls.min(20))
}

fn path() -> PathBuf {
    tracer::given().expect("cargo xtask test sets IPC_TRACE_BIN")
}

/// The tracer, without arguments.
pub(crate) fn program() -> Command {
    let mut command = Command::new(path());
    command.stdin(Stdio::null());
    command
}

/// `live` or `report`.
pub(crate) fn tracer(mode: &str) -> Command {
    tracer::command(&path(), mode, tracer::backend().as_deref())
}

/// The backend that is tested.
pub(crate) fn backend() -> String {
    tracer::backend().unwrap_or_else(|| "syscall".to_owned())
}

/// The program of the workloads: `IPC_TRACE_XTASK` where it is not where it was built.
pub(crate) fn xtask() -> OsString {
    env::var_os("IPC_TRACE_XTASK").unwrap_or_else(|| env!("CARGO_BIN_EXE_xtask").into())
}

/// A workload.
pub(crate) fn workload(words: &[&str]) -> Command {
    let mut command = Command::new(xtask());
    command.arg("workload").args(words).stdin(Stdio::null());
    command
}

/// A program as a user who may not even have access to its directory.
pub(crate) fn as_user(program: &OsStr, uid: u32) -> Command {
    let file = fs::File::open(program).unwrap();
    let mut command = Command::new(format!("/proc/self/fd/{}", file.as_raw_fd()));
    command.uid(uid).gid(uid).stdin(Stdio::null());
    // Open until this process ends; exec closes it in the other.
    std::mem::forget(file);
    command
}

/// Runs a workload under the tracer: the tracer's output, and the workload's oracle.
pub(crate) fn traced(mode: &str, options: &[&str], words: &[&str]) -> (Output, Value) {
    // A file keeps up with any tracer; a pipe might not, and lines would be lost.
    let mut stdout = tempfile::tempfile().unwrap();
    let mut output = tracer(mode)
        .args(options)
        .arg("--")
        .arg(xtask())
        .arg("workload")
        .args(words)
        .stdout(stdout.try_clone().unwrap())
        .stderr(Stdio::piped())
        .spawn()
        .and_then(Child::wait_with_output)
        .unwrap();
    stdout.rewind().unwrap();
    stdout.read_to_end(&mut output.stdout).unwrap();
    let stderr = text(&output.stderr);
    assert!(output.status.success(), "{:?}: {stderr}", output.status);
    // With -o json the workload's standard output goes to the tracer's standard error.
    let all = [stderr, text(&output.stdout)].concat();
    let oracle = all.lines().rev().find(|line| line.starts_with("{\"namespaces\""));
    (output, oracle.map_or(Value::Null, |line| serde_json::from_str(line).unwrap()))
}

/// The report on a workload, and the workload's oracle.
pub(crate) fn report(options: &[&str], words: &[&str]) -> (Value, Value) {
    let (output, oracle) = traced("report", &[&["-o", "json"], options].concat(), words);
    assert!(oracle.is_object(), "the workload prints no oracle");
    (serde_json::from_slice(&output.stdout).unwrap(), oracle)
}

/// The lines about a workload, and the workload's oracle.
pub(crate) fn lines(options: &[&str], words: &[&str]) -> (Vec<Value>, Value) {
    let (output, oracle) = traced("live", &[&["-o", "json"], options].concat(), words);
    assert!(oracle.is_object(), "the workload prints no oracle");
    (parse_lines(&output.stdout), oracle)
}

/// One JSON object a line.
pub(crate) fn parse_lines(bytes: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(bytes).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Output of a program, which is UTF-8.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A JSON number.
pub(crate) fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// A JSON list.
pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("{value} is no list"))
}

/// The lines of a type.
pub(crate) fn of_type<'a>(lines: &'a [Value], kind: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["type"] == kind).collect()
}

/// The calls of a thread.
pub(crate) fn calls_of<'a>(lines: &'a [Value], tid: &Value) -> Vec<&'a Value> {
    assert!(tid.is_u64(), "{tid} is no thread");
    let calls = of_type(lines, "ipc").into_iter();
    calls.filter(|line| line["process"]["tid"] == *tid).collect()
}

/// A process beside the test, whose output is read all the time. It dies with the test, which fails when the
/// process does.
pub(crate) struct TestProcess(tracer::BackgroundProcess);

impl TestProcess {
    /// Starts it, with a pipe as its standard input.
    pub(crate) fn start(command: Command) -> Self {
        Self(tracer::BackgroundProcess::start(command).unwrap())
    }

    /// Starts the tracer; calls are traced when this returns, and until [`Self::go`].
    pub(crate) fn tracing(command: Command) -> Self {
        Self(tracer::BackgroundProcess::tracing(command).unwrap())
    }

    /// Its number.
    pub(crate) fn pid(&self) -> u32 {
        self.0.pid()
    }

    /// The next line of its standard output.
    pub(crate) fn line(&mut self) -> String {
        self.0.line().unwrap()
    }

    /// Waits for a line of its standard error that begins so.
    pub(crate) fn wait_for_stderr(&mut self, wanted: &str) {
        self.0.wait_for_message(wanted).unwrap();
    }

    /// A line on its standard input.
    pub(crate) fn write_line(&mut self, line: &str) {
        self.0.write_line(line).unwrap();
    }

    /// An empty line on its standard input, and no more.
    pub(crate) fn go(&mut self) {
        self.0.go().unwrap();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid() as i32), signal).unwrap();
    }

    /// Waits for its end: status, and what is left of its output.
    pub(crate) fn join(self) -> (ExitStatus, Vec<String>, String) {
        self.0.join().unwrap()
    }

    /// Waits for a workload that ends by itself, and reads its oracle.
    pub(crate) fn read_oracle(self) -> Value {
        serde_json::from_str(self.0.end().unwrap().last().expect("an oracle")).unwrap()
    }
}

/// `live -o json` beside the test.
pub(crate) struct LiveTracer {
    tracer: TestProcess,
    lines: Vec<Value>,
}

impl LiveTracer {
    /// Starts it; calls are traced when this returns.
    pub(crate) fn start(options: &[&str]) -> Self {
        Self::start_wanting(options, |_| true)
    }

    /// As above, without the lines of calls, which are too many to be kept.
    pub(crate) fn start_without_calls(options: &[&str]) -> Self {
        Self::start_wanting(options, |line| !line.starts_with(r#"{"v":1,"type":"ipc","#))
    }

    fn start_wanting(options: &[&str], wanted: fn(&str) -> bool) -> Self {
        let mut command = tracer("live");
        command.args(["-o", "json"]).args(options);
        let tracer =
            TestProcess(tracer::BackgroundProcess::start_wanting(command, wanted).unwrap());
        let mut live = Self { tracer, lines: Vec::new() };
        let start = live.next();
        assert_eq!(start["type"], "start");
        assert!(start["boot_id"].is_string() && start["run_id"].is_string(), "{start}");
        live
    }

    pub(crate) fn pid(&self) -> u32 {
        self.tracer.pid()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.tracer.signal(signal);
    }

    fn next(&mut self) -> Value {
        let line: Value = serde_json::from_str(&self.tracer.line()).unwrap();
        self.lines.push(line.clone());
        line
    }

    /// Reads on until such a line has come.
    pub(crate) fn wait_for(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        let begin = Instant::now();
        loop {
            let line = self.next();
            if wanted(&line) {
                return line;
            }
            let last = &self.lines[self.lines.len().saturating_sub(20)..];
            // Other lines may come for ever.
            assert!(
                begin.elapsed() < HANG_TIMEOUT,
                "the line didn't come; the last ones: {last:#?}"
            );
        }
    }

    /// Ends it by a signal: all lines.
    pub(crate) fn end_by(self, signal: Signal) -> Vec<Value> {
        self.tracer.signal(signal);
        let (status, rest, stderr) = self.tracer.join();
        assert_eq!(status.code(), Some(0), "{stderr}");
        let rest = rest.iter().map(|line| serde_json::from_str(line).unwrap());
        let mut lines = self.lines;
        lines.extend(rest);
        assert_eq!(lines.last().unwrap()["type"], "end");
        lines
    }

    /// Ends it: all lines.
    pub(crate) fn end(self) -> Vec<Value> {
        self.end_by(Signal::SIGINT)
    }
}

/// `report -o json` beside the test.
pub(crate) struct ReportTracer(TestProcess);

impl ReportTracer {
    /// Starts it; calls are counted when this returns.
    pub(crate) fn start(options: &[&str]) -> Self {
        // Tests may wait for its debug messages.
        let mut command = tracer("report");
        command.env("RUST_LOG", "ipc_trace=debug").args(["-o", "json"]).args(options);
        Self(TestProcess::tracing(command))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.pid()
    }

    /// Waits for a message that begins so.
    pub(crate) fn wait_for(&mut self, wanted: &str) {
        self.0.wait_for_stderr(wanted);
    }

    /// Ends it: the report.
    pub(crate) fn end(mut self) -> Value {
        self.0.go();
        self.0.0.report().unwrap()
    }
}

/// Raises the largest ID of tasks to its maximum, and restores it when dropped.
pub(crate) struct LargeTids(String);

impl LargeTids {
    const FILE: &str = "/proc/sys/kernel/pid_max";

    /// Must be called before the tracer starts, which reads the limit then.
    pub(crate) fn allow() -> Self {
        let before = fs::read_to_string(Self::FILE).unwrap();
        fs::write(Self::FILE, "4194304").unwrap();
        Self(before)
    }
}

impl Drop for LargeTids {
    fn drop(&mut self) {
        // Nothing else can be done.
        let _ = fs::write(Self::FILE, self.0.trim());
    }
}

/// The processes whose parent is `pid`.
pub(crate) fn children_of(pid: u32) -> Vec<u32> {
    let all = fs::read_dir("/proc").unwrap().map_while(Result::ok);
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|child| stat(*child).is_some_and(|stat| stat[1] == pid.to_string()))
        .collect()
}

/// `/proc/PID/stat` after the name: state, parent and so on (proc_pid_stat(5), from field 3).
pub(crate) fn stat(pid: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    Some(fields.split_whitespace().map(str::to_owned).collect())
}

/// The IPC namespace of a process.
pub(crate) fn ipc_ns_of(pid: u32) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata(format!("/proc/{pid}/ns/ipc")).unwrap().ino()
}
