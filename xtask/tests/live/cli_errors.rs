//! User errors: a clear message that names the option, file or capability and the remedy, and the right exit
//! status.

use std::{fs, process::Output};

use serde_json::Value;

use crate::tracer::{
    TestProcess, as_user, calls_of, eventually, ipc_ns_of, lines, parse_lines, program, text,
    tracer, workload,
};

const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// It fails with that status, and standard error alone has a message with these words.
#[track_caller]
fn assert_refused(output: &Output, status: i32, words: &[&str]) {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{stderr}");
    assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
    assert!(stderr.contains("error:"), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    for word in words {
        assert!(stderr.contains(word), "{word:?} is missing: {stderr}");
    }
}

#[test]
fn bad_options_are_usage_errors_that_name_the_option() {
    for (args, words) in [
        (&["live", "--op", "nonsense"][..], &["--op", "nonsense", "mq_getsetattr"][..]),
        (&["live", "--ipc-ns", "4294967295"], &["--ipc-ns", "4294967295", "lsns"]),
        (&["live", "--ipc-ns", "pid:99999999"], &["--ipc-ns", "pid:99999999", "no such process"]),
        (&["live", "--ipc-ns", "container"], &["--ipc-ns", "inode number"]),
        (&["live", "--duration", "5 parsecs"], &["--duration", "parsecs", "1h30m"]),
        (&["live", "--min-duration", "soon"], &["--min-duration", "soon", "ms"]),
        (&["live", "--only-command"], &["--only-command", "COMMAND"]),
        (&["live", "--uid", "no-such-user-here"], &["--uid", "no such user"]),
        (&["live", "--comm", "a name of more than 15 bytes"], &["--comm", "15 bytes"]),
        (&["live", "--pid", "self"], &["--pid", "self"]),
        (&["report", "--ring-bytes", "0"], &["--ring-bytes"]),
        (&["report", "--backend", "magic"], &["--backend", "magic", "syscall"]),
        (&["report", "-o", "xml"], &["xml", "json"]),
    ] {
        assert_refused(&program().args(args).output().unwrap(), 2, words);
    }
}

#[test]
fn too_many_filter_values_are_a_usage_error() {
    let pids: Vec<String> = (1..=1025).map(|pid| pid.to_string()).collect();
    let pids = pids.join(",");
    let output = tracer("report").args(["--duration", "0", "--pid", &pids]).output().unwrap();
    assert_refused(&output, 2, &["--pid", "1025", "1024"]);
}

#[test]
fn too_small_ring_is_enlarged() {
    let output = tracer("report").args(["--ring-bytes", "1", "--duration", "0"]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[test]
fn destroyed_namespace_is_a_usage_error() {
    let words = ["blocked", "--fresh", "--op", "semop", "--seconds", "3600"];
    let mut sleeper = TestProcess::start(workload(&words));
    sleeper.line();
    let inum = ipc_ns_of(sleeper.pid()).to_string();
    let trace = || tracer("live").args(["--ipc-ns", &inum, "--duration", "0"]).output().unwrap();
    let output = trace();
    assert!(output.status.success(), "{}", text(&output.stderr));
    drop(sleeper);
    // A kernel worker destroys it a little later.
    let mut output = trace();
    assert!(eventually(|| {
        output = trace();
        !output.status.success()
    }));
    assert_refused(&output, 2, &["--ipc-ns", &inum, "any more"]);
}

#[test]
fn report_has_exit_of_the_command() {
    for (script, status, exit_code, signal) in [
        ("exit 7", 7, Value::from(7), Value::Null),
        ("kill -9 $$", 128 + 9, Value::Null, "SIGKILL".into()),
    ] {
        let mut command = tracer("report");
        command.args(["-o", "json", "--", "/bin/sh", "-c", script]);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(status), "{}", text(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["command"]["exit_code"], exit_code);
        assert_eq!(report["command"]["signal"], signal);
        assert_eq!(report["command"]["argv"][2], script);
    }
}

#[test]
fn command_arguments_may_be_any_bytes() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};
    let mut command = tracer("report");
    command.args(["-o", "json", "--", "/bin/sh", "-c", "test ${#1} -ge 1", "sh"]);
    let output = command.arg(OsStr::from_bytes(b"\xff\x1b")).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["command"]["exit_code"], 0);
    assert_eq!(report["command"]["argv"][4], "\\xff\u{1b}");
}

#[test]
fn unstartable_command_exits_with_127_or_126() {
    let run = |command: &str| tracer("report").args(["--", command]).output().unwrap();
    assert_refused(&run("/nonexistent/program"), 127, &["/nonexistent/program"]);
    assert_refused(&run("ipc-trace-no-such-program"), 127, &["ipc-trace-no-such-program"]);
    assert_refused(&run("/proc/self/status"), 126, &["/proc/self/status"]);
    assert_refused(&run("/"), 126, &["/"]);
    // Readers get complete lines.
    let mut live = tracer("live");
    let output = live.args(["-o", "json", "--", "/nonexistent/program"]).output().unwrap();
    assert_eq!(output.status.code(), Some(127));
    let lines = parse_lines(&output.stdout);
    let ends = [lines.first(), lines.last()].map(|line| &line.unwrap()["type"]);
    assert_eq!(ends, ["start", "end"]);
}

#[test]
fn exit_status_is_that_of_the_command_that_ended_the_run() {
    let run = |options: &[&str], command: &str| {
        let mut traced = tracer("live");
        traced.args(["-o", "json"]).args(options).args(["--", "/bin/sh", "-c", command]);
        traced.output().unwrap().status.code()
    };
    for (command, status) in [("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("kill -9 $$", 137)]
    {
        assert_eq!(run(&[], command), Some(status), "{command}");
    }
    // The command continues, and the tracer does not wait for it.
    assert_eq!(run(&["--duration", "100ms"], "exec >&- 2>&-; sleep 2; exit 7"), Some(0));
}

#[test]
fn unavailable_backend_is_explained_and_auto_falls_back() {
    let run = |backend: &str| {
        let mut command = program();
        command.args(["live", "-o", "json", "--duration", "0", "--backend", backend]);
        command.output().unwrap()
    };
    let (function, auto) = (run("function"), run("auto"));
    assert!(auto.status.success(), "{}", text(&auto.stderr));
    let start = &parse_lines(&auto.stdout)[0];
    let mut backends = start["backend"].as_object().unwrap().values();
    if function.status.success() {
        assert!(backends.all(|backend| backend == "function"), "{start}");
    } else {
        assert_refused(&function, 1, &["function", "--backend auto", "--backend syscall"]);
        assert!(backends.any(|backend| backend == "syscall"), "{start}");
    }
}

#[test]
fn missing_capability_is_named() {
    for mode in ["live", "report"] {
        let output = as_user(program().get_program(), 65_534)
            .args([mode, "--duration", "0"])
            .output()
            .unwrap();
        assert_refused(&output, 1, &["CAP_BPF", "CAP_PERFMON", "root"]);
    }
    // Commands that need no privileges still work.
    assert!(
        as_user(program().get_program(), 65_534)
            .args(["schema", "event"])
            .output()
            .unwrap()
            .status
            .success()
    );
}

/// A file that is removed at the end.
struct Scratch(tempfile::NamedTempFile);

impl Scratch {
    fn new(name: &str, bytes: &[u8]) -> Self {
        let file = tempfile::Builder::new().suffix(name).tempfile().unwrap();
        fs::write(file.path(), bytes).unwrap();
        Self(file)
    }

    fn trace(&self) -> Output {
        let mut command = tracer("report");
        command.arg("--btf").arg(self.0.path()).args(["-o", "json", "--duration", "0"]);
        command.output().unwrap()
    }
}

#[test]
fn missing_or_invalid_btf_file_is_an_error() {
    let mut command = tracer("live");
    let output = command.args(["--btf", "/nonexistent/btf", "--duration", "0"]).output().unwrap();
    assert_refused(&output, 1, &["/nonexistent/btf", "--btf FILE"]);
    for (name, bytes) in [("empty", &[][..]), ("garbage", &[0x55; 4096])] {
        let file = Scratch::new(name, bytes);
        assert_refused(
            &file.trace(),
            1,
            &[file.0.path().to_str().unwrap(), "not BTF", "--btf FILE"],
        );
    }
    // The first half of valid BTF is invalid, too.
    let btf = fs::read(KERNEL_BTF).unwrap();
    let file = Scratch::new("cut", &btf[..btf.len() / 2]);
    assert_refused(&file.trace(), 1, &[file.0.path().to_str().unwrap(), "not BTF", "--btf FILE"]);
}

#[test]
fn btf_file_of_this_kernel_is_accepted() {
    let file = Scratch::new("copy", &fs::read(KERNEL_BTF).unwrap());
    let output = file.trace();
    assert!(output.status.success(), "{}", text(&output.stderr));
}

/// `struct btf_type` and its members, in the file that holds them (Documentation/bpf/btf.rst).
struct BtfFile {
    bytes: Vec<u8>,
    types: usize,
    strings: usize,
}

impl BtfFile {
    fn of_this_kernel() -> Self {
        let bytes = fs::read(KERNEL_BTF).unwrap();
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        // struct btf_header: the offsets count from its end.
        let header = word(4);
        Self { types: header + word(8), strings: header + word(16), bytes }
    }

    fn word(&self, at: usize) -> usize {
        u32::from_le_bytes(self.bytes[at..at + 4].try_into().unwrap()) as usize
    }

    fn is_named(&self, at: usize, name: &str) -> bool {
        let start = self.strings + self.word(at);
        self.bytes[start..].starts_with(&[name.as_bytes(), &[0]].concat())
    }

    /// Where the offset of a structure's member is written.
    fn member(&self, structure: &str, member: &str) -> usize {
        const STRUCT: usize = 4;
        let mut at = self.types;
        while at < self.strings {
            let info = self.word(at + 4);
            let (kind, count) = (info >> 24 & 0x1f, info & 0xffff);
            if kind == STRUCT && self.is_named(at, structure) {
                let mut members = (0..count).map(|i| at + 12 + 12 * i);
                return members.find(|at| self.is_named(*at, member)).unwrap() + 8;
            }
            // What follows a type, by its kind: INT, PTR, ARRAY, STRUCT, UNION, ENUM, …
            let each = [0, 0, 0, 0, 12, 12, 8, 0, 0, 0, 0, 0, 0, 8, 0, 12, 0, 0, 0, 12][kind];
            let rest = [0, 4, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 4, 0, 0][kind];
            at += 12 + each * count + rest;
        }
        panic!("no structure {structure}");
    }
}

/// The BTF of a kernel where that name is changed.
fn without(name: &str) -> Vec<u8> {
    let mut btf = fs::read(KERNEL_BTF).unwrap();
    let name = ["\0", name, "\0"].concat();
    let at = btf.windows(name.len()).position(|bytes| bytes == name.as_bytes()).unwrap();
    btf[at + 1] = b'X';
    btf
}

#[test]
fn missing_btf_field_disables_only_what_needs_it() {
    let file = Scratch::new("without", &without("exe_file"));
    let options = ["--only-command", "--btf", file.0.path().to_str().unwrap()];
    let (lines, oracle) = lines(&options, &["one-call"]);
    let calls = calls_of(&lines, &oracle["tid"]);
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0]["process"]["exe"], Value::Null, "it must not be invented: {}", calls[0]);
    assert!(calls[0]["process"]["ppid"].is_u64(), "{}", calls[0]);
}

#[test]
fn btf_of_another_kernel_is_rejected() {
    // One where a field that is needed has another name.
    let output = Scratch::new("renamed", &without("nsproxy")).trace();
    assert_refused(&output, 1, &["nsproxy", "BTF of this very kernel"]);

    // One with other field offsets: the tracer verifies them.
    let mut btf = BtfFile::of_this_kernel();
    let [ipc, mnt] = ["ipc_ns", "mnt_ns"].map(|member| btf.member("nsproxy", member));
    for i in 0..4 {
        btf.bytes.swap(ipc + i, mnt + i);
    }
    let output = Scratch::new("moved", &btf.bytes).trace();
    assert_refused(&output, 1, &["/proc/self/ns/ipc", "--btf FILE"]);
}
