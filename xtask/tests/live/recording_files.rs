//! Recordings that go on in several files, each of which stands alone, and the flight recorder.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Stdio,
};

use nix::{
    sched::{CloneFlags, unshare},
    sys::signal::Signal,
    unistd::sethostname,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::tracer::{
    TestProcess, eventually, number, of_type, parse_lines, program, scaled, text, tracer, workload,
    xtask,
};

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// The files of a recording, in the order of their times.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        entries.filter(|path| path.to_string_lossy().contains("/night.2")).collect();
    files.sort();
    files
}

/// What a command prints about recordings.
fn output_of(words: &[&str], files: &[PathBuf]) -> Vec<u8> {
    let output = program().args(words).args(files).output().unwrap();
    assert!(output.status.success(), "{words:?}: {} {}", output.status, text(&output.stderr));
    output.stdout
}

/// Lines but for the first and the last of a run.
fn between<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Vec<&'a [u8]> {
    let is_edge = |line: &[u8]| {
        line.starts_with(br#"{"v":1,"type":"start""#) || line.starts_with(br#"{"v":1,"type":"end""#)
    };
    lines.filter(|line| !line.is_empty() && !is_edge(line)).collect()
}

fn split(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(|byte| *byte == b'\n')
}

/// Asserts that lines are equal, and shows the first ones that are not.
fn assert_same(found: &[&[u8]], expected: &[&[u8]]) {
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(text(found), text(expected));
    }
    assert_eq!(found.len(), expected.len());
}

#[test]
fn each_file_has_its_part_of_the_lines() {
    let folder = folder();
    let lines = folder.path().join("lines");
    let mut live = tracer("live");
    live.args(["-o", "json", "--runtime-socket", "none", "--rotate-every", "1s", "-w"]);
    live.arg(folder.path().join("night")).args(["--", "/bin/sh", "-c"]);
    let script = "for seed in 1 2; do timeout 7 \"$0\" workload model --seed $seed & done; \
                  \"$0\" scenarios --unseen; wait";
    live.arg(script).arg(xtask()).stdout(File::create(&lines).unwrap()).stderr(Stdio::null());
    assert!(live.status().unwrap().success());
    let lines = fs::read(&lines).unwrap();
    let expected = between(split(&lines));
    let files = files(folder.path());
    assert!(files.len() >= 3, "{files:?}");
    // Each alone, in their order.
    let alone: Vec<_> = files
        .iter()
        .map(|file| output_of(&["replay", "-o", "json"], std::slice::from_ref(file)))
        .collect();
    assert_same(&between(alone.iter().flat_map(|lines| split(lines))), &expected);
    // All together, in another order.
    let reversed: Vec<_> = files.iter().rev().cloned().collect();
    assert_eq!(text(&output_of(&["replay", "-o", "json"], &reversed)), text(&lines));
    // From checkpoints, and from the beginning, as a stream can't be searched.
    let parsed = parse_lines(&lines);
    let calls = of_type(&parsed, "ipc");
    let since = calls[calls.len() / 2]["time"].as_str().unwrap().to_owned();
    let range = ["replay", "-o", "json", "--since", &since];
    let searched = output_of(&range, &files);
    assert_eq!(text(&searched), text(&streamed(&range, &files)));
    assert!(searched.len() > 1000 && searched.len() < lines.len());
    let report = ["report", "-o", "json", "--from"];
    assert_eq!(text(&output_of(&report, &files)), text(&streamed(&report, &files)));
    // Without the first file, the report is of the others.
    assert_eq!(text(&output_of(&report, &files[1..])), text(&streamed(&report, &files[1..])));
}

/// What a command prints about recordings that come one behind the other through a pipe.
fn streamed(words: &[&str], files: &[PathBuf]) -> Vec<u8> {
    let mut stream = program();
    stream.args(words).arg("-").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut stream = stream.spawn().unwrap();
    let mut stdin = stream.stdin.take().unwrap();
    let files = files.to_vec();
    let feed = std::thread::spawn(move || {
        for file in files {
            std::io::copy(&mut File::open(file).unwrap(), &mut stdin).unwrap();
        }
    });
    let output = stream.wait_with_output().unwrap();
    feed.join().unwrap();
    assert!(output.status.success(), "{words:?}: {}", output.status);
    output.stdout
}

#[test]
fn files_of_a_flood_have_every_call_once() {
    let folder = folder();
    let mut recorder = tracer("record");
    recorder.args(["--rotate-size", "256KiB", "-w"]).arg(folder.path().join("night"));
    let calls = scaled(2_000_000);
    recorder.arg("--").arg(xtask()).args(["workload", "semop-loop", "--calls"]);
    let output = recorder.arg(calls.to_string()).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let files = files(folder.path());
    assert!(files.len() > 1, "{files:?}");
    let report = output_of(&["report", "-o", "json", "--from"], &files);
    let report: Value = serde_json::from_slice(&report).unwrap();
    let semops = &report["accounting"]["by_op"]["semop"];
    assert_eq!(number(&semops["seen"]), number(&semops["delivered"]));
    assert!(number(&semops["seen"]) >= calls, "{semops}");
    // What is in one file is counted in it alone.
    let each = |file: &PathBuf| {
        let report = output_of(&["report", "-o", "json", "--from"], std::slice::from_ref(file));
        let report: Value = serde_json::from_slice(&report).unwrap();
        report["accounting"]["by_op"]["semop"]["seen"].as_u64().unwrap_or(0)
    };
    assert_eq!(files.iter().map(each).sum::<u64>(), number(&semops["seen"]));
}

#[test]
fn flight_recorder_writes_what_was_before() {
    let folder = folder();
    let mut recorder = tracer("record");
    recorder.args(["--flight", "10m", "--on", "high", "-w"]).arg(folder.path().join("night"));
    let recorder = TestProcess::start(recorder);
    let handles_signal = || {
        let status = fs::read_to_string(format!("/proc/{}/status", recorder.pid())).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:\t")).unwrap();
        u64::from_str_radix(caught, 16).unwrap() & 1 << (Signal::SIGUSR2 as u32 - 1) != 0
    };
    assert!(eventually(handles_signal), "SIGUSR2 would end it");
    let has = |count: usize| move |folder: &Path| files(folder).len() >= count;
    let marks = |file: &PathBuf| {
        let lines =
            output_of(&["replay", "-o", "json", "--op", "semop"], std::slice::from_ref(file));
        of_type(&parse_lines(&lines), "ipc").len() as u64
    };
    // It may not trace yet, so the workload runs until it is in a file.
    assert!(eventually(|| {
        assert!(workload(&["semop-loop", "--calls", "77"]).output().unwrap().status.success());
        let before = files(folder.path()).len();
        recorder.signal(Signal::SIGUSR2);
        eventually(|| has(before + 1)(folder.path()))
            && files(folder.path()).last().is_some_and(|file| marks(file) >= 77)
    }));
    // A finding leads to one.
    let before = files(folder.path()).len();
    let mut scenarios = program_of_scenarios();
    assert!(scenarios.status().unwrap().success());
    assert!(eventually(|| has(before + 1)(folder.path())), "no finding led to a file");
    recorder.signal(Signal::SIGINT);
    let (status, _, stderr) = recorder.join();
    assert!(status.success(), "{status} {stderr}");
    let files = files(folder.path());
    assert_eq!(stderr.matches("ipc-trace: wrote ").count(), files.len(), "{stderr}");
    // They overlap, and each call is there once.
    let all = output_of(&["replay", "-o", "json"], &files);
    let last = output_of(&["replay", "-o", "json"], &files[files.len() - 1..]);
    assert_eq!(text(&all), text(&last));
    let lines = parse_lines(&all);
    let findings = of_type(&lines, "finding");
    assert!(findings.iter().any(|finding| finding["severity"] == "high"), "{findings:?}");
}

/// Runs what leads to findings.
fn program_of_scenarios() -> std::process::Command {
    let mut scenarios = std::process::Command::new(xtask());
    scenarios.args(["scenarios", "--unseen"]).stdout(Stdio::null());
    scenarios
}

#[test]
fn lines_of_several_hosts_have_their_hosts() {
    let folder = folder();
    let files = ["one", "two"].map(|host| {
        let file = folder.path().join(host);
        let mut recorder = tracer("record");
        recorder.args(["--runtime-socket", "none", "-w"]).arg(&file).arg("--").arg(xtask());
        recorder.args(["workload", "semop-loop", "--calls", "9"]);
        let enter = move || {
            unshare(CloneFlags::CLONE_NEWUTS)?;
            Ok(sethostname(host)?)
        };
        // SAFETY: only system calls between fork and exec.
        let recorder = unsafe { recorder.pre_exec(enter) };
        let output = recorder.output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        file
    });
    let lines = parse_lines(&output_of(&["replay", "-o", "json"], &files));
    let mut hosts: Vec<_> = lines.iter().map(|line| line["host"].as_str().unwrap()).collect();
    hosts.dedup();
    assert_eq!(hosts, ["one", "two"]);
    let shown = output_of(&["replay"], &files);
    let shown = text(&shown);
    assert!(
        shown.lines().all(|line| line.starts_with("one ") || line.starts_with("two ")),
        "{shown}"
    );
    // One alone needs no hosts.
    let alone = parse_lines(&output_of(&["replay", "-o", "json"], &files[..1]));
    assert!(alone.iter().skip(1).all(|line| line["host"].is_null()), "{alone:?}");
}
