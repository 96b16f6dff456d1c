//! Recordings of real runs: filters, ranges, streams, policies, killed recorders and full disks.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::{
    mount::{MsFlags, mount, umount},
    sys::signal::Signal,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::tracer::{
    TestProcess, eventually, number, of_type, parse_lines, program, scaled, text, traced, tracer,
    workload, xtask,
};

/// A folder for recordings.
fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// Records a workload: the file, and the workload's oracle.
fn record(folder: &Path, name: &str, options: &[&str], words: &[&str]) -> (PathBuf, Value) {
    let file = folder.join(name);
    let options = [&["-w", file.to_str().unwrap()], options].concat();
    let (_, oracle) = traced("record", &options, words);
    (file, oracle)
}

/// What a command prints about recordings, and its messages.
fn output_of(words: &[&str], files: &[&Path]) -> (Vec<u8>, String) {
    let output = program().args(words).args(files).output().unwrap();
    let stderr = text(&output.stderr);
    assert!(output.status.success(), "{words:?}: {} {stderr}", output.status);
    (output.stdout, stderr)
}

/// The lines of a recording.
fn replayed(options: &[&str], files: &[&Path]) -> Vec<Value> {
    let (stdout, stderr) = output_of(&[&["replay", "-o", "json"], options].concat(), files);
    assert_eq!(stderr, "");
    parse_lines(&stdout)
}

fn report_from(options: &[&str], file: &Path) -> Value {
    let words = [&["report", "-o", "json"], options, &["--from"]].concat();
    serde_json::from_slice(&output_of(&words, &[file]).0).unwrap()
}

/// The calls among lines, without what depends on the other lines.
fn calls(lines: &[Value], wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
    let mut calls: Vec<_> = of_type(lines, "ipc").into_iter().filter(|call| wanted(call)).collect();
    calls.sort_by_key(|call| number(&call["seq"]));
    let without_seq = |call: &Value| {
        let mut call = call.clone();
        call.as_object_mut().unwrap().remove("seq");
        call
    };
    calls.into_iter().map(without_seq).collect()
}

/// Starts to record into a file, and waits until calls are recorded.
fn recorder(file: &Path) -> TestProcess {
    let mut recorder = tracer("record");
    recorder.arg("-w").arg(file);
    let recorder = TestProcess::start(recorder);
    let len = || file.metadata().map_or(0, |file| file.len());
    assert!(eventually(|| len() > 0), "no file is made");
    // The metadata is there before tracing begins; inputs follow it.
    let metadata = len();
    assert!(eventually(|| len() > metadata), "nothing is recorded");
    recorder
}

#[test]
fn filters_and_ranges_select_the_same_of_a_recording() {
    let folder = folder();
    let words = ["count", "--calls", &scaled(20_000).to_string(), "--threads", "4"];
    let (file, _) = record(folder.path(), "a", &[], &words);
    let all = replayed(&[], &[&file]);
    let every = calls(&all, |_| true);
    assert!(every.len() as u64 >= scaled(20_000), "{}", every.len());
    let (some, other) = (&every[every.len() / 2], &every[every.len() / 3]);
    let inum = some["ipc_ns"]["inum"].to_string();
    let pid = other["process"]["pid"].to_string();
    let is_within = |call: &Value| call["duration_ns"].as_u64().is_some_and(|ns| ns >= 2_000);
    let of_ns = |call: &Value| {
        [&call["ipc_ns"], &call["object"]["ipc_ns"]]
            .iter()
            .any(|ns| ns["inum"] == some["ipc_ns"]["inum"])
    };
    let [since, until] = [other, some].map(|call| call["time"].as_str().unwrap());
    let is_between =
        |call: &Value| call["time"].as_str().is_some_and(|time| since <= time && time <= until);
    type Wanted<'a> = &'a dyn Fn(&Value) -> bool;
    let conditions: [(&[&str], Wanted<'_>); 8] = [
        (&["--op", "semop,msgsnd"], &|call| call["op"] == "semop" || call["op"] == "msgsnd"),
        (&["--op", "mq"], &|call| call["op"].as_str().unwrap().starts_with("mq_")),
        (&["--failed"], &|call| !call["error"].is_null()),
        (&["--ipc-ns", &inum], &of_ns),
        (&["--pid", &pid], &|call| call["process"]["pid"] == other["process"]["pid"]),
        (&["--min-duration", "2us"], &is_within),
        (&["--since", since, "--until", until], &is_between),
        (&["--op", "semop", "--failed"], &|call| call["op"] == "semop" && !call["error"].is_null()),
    ];
    for (options, wanted) in conditions {
        let expected = calls(&all, wanted);
        assert!(!expected.is_empty() && expected.len() < every.len(), "{options:?}");
        let found = calls(&replayed(options, &[&file]), |_| true);
        assert_eq!(found.len(), expected.len(), "{options:?}");
        assert!(found == expected, "{options:?}");
        let report = report_from(options, &file);
        let total = &report["accounting"];
        assert_eq!(number(&total["delivered"]), expected.len() as u64, "{options:?}: {total}");
    }
}

#[test]
fn recording_is_streamed_through_a_pipe() {
    let folder = folder();
    let lines = File::create(folder.path().join("lines")).unwrap();
    let mut recorder = tracer("record");
    recorder.args(["-w", "-", "--"]).arg(xtask());
    recorder.args(["workload", "count", "--calls", "1000"]);
    let mut recorder = recorder.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut replay = program();
    replay.args(["replay", "-o", "json", "-"]).stdin(recorder.stdout.take().unwrap());
    let status = replay.stdout(lines).status().unwrap();
    let recorder = recorder.wait_with_output().unwrap();
    assert!(status.success() && recorder.status.success(), "{}", text(&recorder.stderr));
    let lines = parse_lines(&fs::read(folder.path().join("lines")).unwrap());
    assert!(of_type(&lines, "ipc").len() >= 1000);
    assert_eq!(lines.last().unwrap()["type"], "end");
}

#[test]
fn recording_is_followed_while_it_is_written() {
    let folder = folder();
    let file = folder.path().join("a");
    let recorder = recorder(&file);
    let mut follow = program();
    follow.args(["replay", "-o", "json", "--follow"]).arg(&file);
    let mut follow = TestProcess::start(follow);
    assert!(follow.line().contains("\"type\":\"start\""));
    assert!(workload(&["semop-loop", "--calls", "10"]).output().unwrap().status.success());
    while !follow.line().contains("\"type\":\"ipc\"") {}
    recorder.signal(Signal::SIGINT);
    let (status, _, stderr) = recorder.join();
    assert!(status.success(), "{status} {stderr}");
    // The end of the recording ends it.
    let (status, lines, stderr) = follow.join();
    assert!(status.success(), "{status} {stderr}");
    assert!(lines.last().unwrap().contains("\"type\":\"end\""));
}

#[test]
fn recorded_policy_applies_unless_another_is_given() {
    let folder = folder();
    let [muted, none] = ["muted.toml", "none.toml"].map(|name| folder.path().join(name));
    let rule =
        "[[mute]]\nname = 'all'\nreason = 'a test'\nclass = 'foreign-object'\nuid = 'root'\n";
    fs::write(&muted, rule.replace("uid = 'root'\n", "")).unwrap();
    fs::write(&none, "# Nothing.\n").unwrap();
    let options = ["--policy", muted.to_str().unwrap()];
    let file = folder.path().join("a");
    let mut recorder = tracer("record");
    recorder.arg("-w").arg(&file).args(options).arg("--").arg(xtask());
    let output = recorder.args(["workload", "queue-fd-passing"]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let class = |report: &Value| {
        report["findings"].as_array().unwrap().iter().any(|one| one["class"] == "foreign-object")
    };
    assert!(!class(&report_from(&[], &file)));
    assert!(class(&report_from(&["--policy", none.to_str().unwrap()], &file)));
    let mut failing = program();
    failing.args(["report", "--fail-on", "low", "--policy"]).arg(&none).arg("--from").arg(&file);
    assert_eq!(failing.output().unwrap().status.code(), Some(3));
}

#[test]
fn counts_of_a_recording_are_those_of_the_report() {
    let folder = folder();
    let file = folder.path().join("a");
    let options = ["-o", "json", "--counts", "-w", file.to_str().unwrap()];
    let words = ["count", "--calls", &scaled(50_000).to_string()];
    let (output, _) = traced("report", &options, &words);
    let (again, stderr) = output_of(&["report", "-o", "json", "--from"], &[&file]);
    assert_eq!((again == output.stdout, stderr.as_str()), (true, ""));
    let (_, stderr) = output_of(&["replay", "-o", "json"], &[&file]);
    assert!(stderr.contains("use report --from"), "{stderr}");
}

#[test]
fn several_recordings_are_joined_in_order() {
    let folder = folder();
    let (first, _) = record(folder.path(), "b", &[], &["semop-loop", "--calls", "20"]);
    let (second, _) = record(folder.path(), "a", &[], &["semop-loop", "--calls", "30"]);
    let lines = replayed(&[], &[&second, &first]);
    let starts: Vec<_> = of_type(&lines, "start").iter().map(|start| &start["run_id"]).collect();
    let own = |file: &Path| replayed(&[], &[file])[0]["run_id"].clone();
    assert_eq!(starts, [&own(&first), &own(&second)]);
    let both = calls(&lines, |_| true).len();
    let one = calls(&replayed(&[], &[&first]), |_| true).len();
    let other = calls(&replayed(&[], &[&second]), |_| true).len();
    assert_eq!((both, one >= 20, other >= 30), (one + other, true, true));
    assert_eq!(calls(&replayed(&[], &[&first, &first]), |_| true).len(), one);
}

#[test]
fn closed_pipe_and_signals_end_recording_and_replay() {
    let folder = folder();
    let mut recorder = tracer("record");
    recorder.args(["-w", "-"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut recorder = recorder.spawn().unwrap();
    let mut first = [0; 8];
    recorder.stdout.take().unwrap().read_exact(&mut first).unwrap();
    assert_eq!(&first, b"IPCTRACE");
    let output = recorder.wait_with_output().unwrap();
    assert!(output.status.success(), "{} {}", output.status, text(&output.stderr));
    // A recorder that was killed leaves a file that never ends.
    let file = folder.path().join("a");
    let killed = self::recorder(&file);
    killed.signal(Signal::SIGKILL);
    drop(killed.join());
    let mut follow = program();
    follow.args(["replay", "-o", "json", "--follow"]).arg(&file);
    let mut follow = TestProcess::start(follow);
    assert!(follow.line().contains("\"type\":\"start\""));
    follow.signal(Signal::SIGINT);
    let (status, _, stderr) = follow.join();
    assert!(status.success(), "{status} {stderr}");
}

/// Whatever was in the file when the recorder was killed is read back.
#[test]
fn killed_recorder_leaves_all_that_it_has_written() {
    for round in 0..4_u64 {
        let folder = folder();
        let [file, before] = ["a", "before"].map(|name| folder.path().join(name));
        let mut recorder = tracer("record");
        recorder.arg("-w").arg(&file).arg("--").arg(xtask());
        recorder.args(["workload", "semop-flood", "--seconds", "3", "--threads", "1"]);
        let recorder = TestProcess::start(recorder);
        let info = |file: &Path| {
            let output =
                program().args(["recording", "info", "-o", "json"]).arg(file).output().unwrap();
            serde_json::from_slice::<Value>(&output.stdout).unwrap_or_default()
        };
        let inputs = |info: &Value| info["runs"][0]["inputs"].as_u64().unwrap_or(0);
        let enough = 5_000 + round * 7_001;
        let has_enough = || fs::copy(&file, &before).is_ok() && inputs(&info(&before)) > enough;
        assert!(eventually(has_enough), "nothing is written");
        recorder.signal(Signal::SIGKILL);
        drop(recorder.join());
        let (before, after) = (info(&before), info(&file));
        assert!(inputs(&before) <= inputs(&after), "{before} {after}");
        assert_eq!(
            (&after["closed"], &after["runs"][0]["missing"]),
            (&Value::Bool(false), &0.into())
        );
        let mut replay = program();
        replay.args(["replay", "-o", "json"]).arg(&file).stderr(Stdio::piped());
        let mut replay = replay.stdout(Stdio::piped()).spawn().unwrap();
        // There are too many for the memory of a small machine.
        let lines = BufReader::new(replay.stdout.take().unwrap()).lines().map(Result::unwrap);
        let calls = lines.filter(|line| line.contains(r#""type":"ipc""#)).count() as u64;
        assert_eq!(calls, number(&after["runs"][0]["by_kind"]["call"]));
        let stderr = text(&replay.wait_with_output().unwrap().stderr);
        assert!(stderr.contains("the recording has no end"), "{stderr}");
        // A report is there nevertheless.
        let (report, _) = output_of(&["report", "-o", "json", "--from"], &[&file]);
        assert!(report.starts_with(b"{"));
    }
}

/// A small file system, unmounted at the end.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn new(kib: u32) -> Self {
        let folder = folder();
        let size = format!("size={kib}k");
        mount(Some("none"), folder.path(), Some("tmpfs"), MsFlags::empty(), Some(&size[..]))
            .unwrap();
        Self(folder)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Otherwise the folder can't be removed, which shows.
        let _ = umount(self.0.path());
    }
}

#[test]
fn full_disk_stops_a_recording_until_there_is_room() {
    let disk = SmallDisk::new(256);
    let [file, ballast] = ["a", "ballast"].map(|name| disk.0.path().join(name));
    let mut recorder = recorder(&file);
    // To the last byte.
    let mut filler = File::create(&ballast).unwrap();
    let full = loop {
        if let Err(error) = filler.write_all(&[1; 512]) {
            break error;
        }
    };
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    assert!(workload(&["count", "--calls", "3000"]).output().unwrap().status.success());
    let message =
        |level, text| format!("ipc-trace: {level}: recording to {} {text}", file.display());
    recorder.wait_for_stderr(&message("error", "stopped: No space left on device"));
    drop(filler);
    fs::remove_file(&ballast).unwrap();
    recorder.wait_for_stderr(&message("warn", "goes on; "));
    let marked = workload(&["semop-loop", "--calls", "77"]).output().unwrap();
    assert!(marked.status.success());
    recorder.signal(Signal::SIGINT);
    let (status, _, stderr) = recorder.join();
    assert!(status.success(), "{status} {stderr}");
    let (lines, messages) = output_of(&["replay", "-o", "json"], &[&file]);
    assert!(messages.contains("inputs are missing between"), "{messages}");
    let lines = parse_lines(&lines);
    assert_eq!(lines.last().unwrap()["type"], "end");
    let oracle: Value = serde_json::from_slice(&marked.stdout).unwrap();
    let of_tid = |call: &&Value| call["process"]["tid"] == oracle["tid"] && call["op"] == "semop";
    assert!(of_type(&lines, "ipc").into_iter().filter(of_tid).count() >= 77);
}

#[test]
fn bad_recordings_are_refused() {
    let folder = folder();
    let [file, empty] = ["a", "empty"].map(|name| folder.path().join(name));
    fs::write(&file, "no recording\n".repeat(100)).unwrap();
    fs::write(&empty, "").unwrap();
    let refused = |command: &mut Command| {
        let output = command.output().unwrap();
        (output.status.code(), text(&output.stderr))
    };
    for (path, reason) in [(&file, "no recording of ipc-trace"), (&empty, "it is empty")] {
        for words in [&["replay"][..], &["report", "--from"], &["recording", "info"]] {
            let (status, stderr) = refused(program().args(words).arg(path));
            assert_eq!(status, Some(1), "{words:?} {stderr}");
            assert!(stderr.contains(reason) && !stderr.contains("panicked"), "{stderr}");
        }
    }
    let (status, stderr) = refused(tracer("record").arg("-w").arg(&file).args(["--duration", "0"]));
    assert_eq!(status, Some(1), "{stderr}");
    assert!(stderr.contains("it exists"), "{stderr}");
    for words in [
        &["live", "-w", "-"][..],
        &["replay", "--ipc-ns", "self", "x"],
        &["replay", "--since", "noon", "x"],
        &["record"],
        &["report", "--from", "x", "--counts"],
        &["report", "--since", "-10m"],
    ] {
        let (status, stderr) = refused(program().args(words));
        assert_eq!(status, Some(2), "{words:?}: {stderr}");
    }
}

/// A recording of an earlier version, and what it leads to.
struct OldRecording {
    recording: &'static [u8],
    lines: &'static str,
    report: &'static str,
}

macro_rules! fixtures {
    ($($name:literal)*) => {
        &[$(OldRecording {
            recording: include_bytes!(concat!("fixtures/", $name, ".rec")),
            lines: include_str!(concat!("fixtures/", $name, ".lines.json")),
            report: include_str!(concat!("fixtures/", $name, ".report.json")),
        },)*]
    };
}

/// Each stays readable by all later versions; what they print may gain fields.
const FIXTURES: &[OldRecording] = fixtures! { "1-calls" "1-counts" "1-file" };

#[test]
fn recordings_of_earlier_versions_print_what_they_did() {
    for OldRecording { recording, lines, report } in FIXTURES {
        let folder = folder();
        let file = folder.path().join("a");
        fs::write(&file, recording).unwrap();
        let (found, _) = output_of(&["replay", "-o", "json"], &[&file]);
        assert_eq!(text(&found), *lines);
        let (found, _) = output_of(&["report", "-o", "json", "--from"], &[&file]);
        assert_eq!(text(&found), *report);
    }
}
