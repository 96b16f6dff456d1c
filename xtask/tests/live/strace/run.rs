//! Runs a command under both tracers at once, and compares their output.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fmt::Write as _,
    fs,
    path::Path,
};

use serde_json::Value;

use super::{
    call::{StraceCall, Traced},
    line::StraceLine,
    traced,
};
use crate::tracer::{text, tracer};

/// Large enough for all records while the tracer does not read: nothing may be dropped.
const RING_BYTES: &str = "67108864";
/// So many differences are shown.
const MAX_SHOWN: usize = 20;

/// The calls of each thread, in order.
type Threads<T> = BTreeMap<u64, Vec<T>>;

/// Runs `command`, with `options` for strace, and asserts that ipc-trace reports each call which strace saw
/// exactly once, in its thread's order, and no other. Returns the number of calls.
///
/// # Panics
///
/// When there is any difference, when a call was lost, when the command failed.
pub(crate) fn no_difference(name: &str, options: &[&str], command: &[OsString]) -> usize {
    let folder = tempfile::Builder::new().prefix(name).tempdir().unwrap();
    let output = tracer("live")
        .args(["-o", "json", "--only-command", "--ring-bytes", RING_BYTES, "--", "strace"])
        // A file for each thread, so that no line is interrupted by another thread's; appended to, as
        // a thread's number may be used again.
        .args(["-ff", "--output-append-mode", "-o"])
        .arg(folder.path().join("strace"))
        .args(["-e", "trace=%ipc,/^mq_", "-e", "signal=none"])
        // Numbers and no names, structures in full, names of queues in hexadecimal, no messages.
        .args(["--syscall-number", "-X", "raw", "-v", "-xx", "-s", "0", "-a", "0"])
        .args(options)
        .args(command)
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    let stderr = text(&output.stderr);
    assert!(output.status.success(), "{:?}: {stderr}", output.status);
    let traced = of_tracer(&output.stdout, &stderr);
    let (shown, detached) = of_strace(folder.path());
    let differences = differences(&shown, &traced, &detached);
    assert!(differences.is_empty(), "{}", summary(&differences));
    let calls = shown.values().map(Vec::len).sum();
    println!("{calls} calls of {} threads, and no difference", shown.len());
    calls
}

fn of_tracer(stdout: &[u8], stderr: &str) -> Threads<Traced> {
    let stdout = std::str::from_utf8(stdout).unwrap();
    let mut threads = Threads::new();
    let mut end = Value::Null;
    // One by one: together they would fill the memory of a small machine.
    for line in stdout.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        match line["type"].as_str() {
            // The kernel never made it: its thread was killed while strace stopped it at the entry.
            Some("ipc") if line["made"] == false => {}
            Some("ipc") => {
                let tid = line["process"]["tid"].as_u64().unwrap();
                threads.entry(tid).or_insert_with(Vec::new).push(traced::call(&line));
            }
            Some("end") => end = line,
            _ => assert_ne!(line["type"], "loss", "{line}"),
        }
    }
    let accounting = &end["accounting"];
    assert_eq!(end["command"]["exit_code"], 0, "{end}\n{stderr}");
    assert_eq!((&accounting["dropped"], &accounting["missed"]), (&0.into(), &0.into()), "{end}");
    assert_eq!(accounting["emitted"], accounting["delivered"], "{end}");
    threads
}

/// What strace saw, and the threads that it detached from in the middle of a call, since a signal ended strace:
/// stress-ng sends some to all of its process group.
fn of_strace(folder: &Path) -> (Threads<StraceCall>, BTreeSet<u64>) {
    let mut threads = Threads::new();
    let mut detached = BTreeSet::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let tid = path.extension().unwrap().to_str().unwrap().parse().unwrap();
        let text = fs::read_to_string(path).unwrap();
        if text.lines().any(|line| line.ends_with(DETACHED)) {
            detached.insert(tid);
        }
        let lines = text.lines().filter(|line| !is_event(line) && !line.ends_with(DETACHED));
        let calls = lines.filter_map(|line| {
            let call = line.parse::<StraceLine>().and_then(|line| line.call());
            call.unwrap_or_else(|error| panic!("strace printed {error}"))
        });
        let calls: Vec<_> = calls.collect();
        if !calls.is_empty() {
            threads.insert(tid, calls);
        }
    }
    (threads, detached)
}

/// The end of a call's line when strace detached from the thread during the call.
const DETACHED: &str = " <detached ...>";

/// `[ 231] +++ exited with 0 +++` and `[  65] --- stopped by SIGSTOP ---` are no calls, nor is `[  66] ???() = ?`: the
/// thread was killed where strace had stopped it, before the call.
fn is_event(line: &str) -> bool {
    let event = line.split_once("] ").map_or(line, |(_, event)| event);
    ["+++ ", "--- ", "???("].iter().any(|begin| event.starts_with(begin))
}

/// `detached`: threads of which strace does not know what they did afterwards.
fn differences(
    shown: &Threads<StraceCall>,
    traced: &Threads<Traced>,
    detached: &BTreeSet<u64>,
) -> Vec<String> {
    let none = Vec::new();
    let mut all = Vec::new();
    for (tid, shown) in shown {
        let traced = traced.get(tid).unwrap_or(&none);
        all.extend(difference(*tid, shown, traced, !detached.contains(tid)));
    }
    let unknown = |tid| !shown.contains_key(tid) && !detached.contains(tid);
    let others = traced.iter().filter(|(tid, _)| unknown(*tid));
    all.extend(others.map(|(tid, calls)| {
        format!(
            "thread {tid}: strace saw nothing, and ipc-trace {} calls, as\n  {:?}",
            calls.len(),
            calls[0]
        )
    }));
    all
}

/// The first difference between the two views of one thread; `complete`: whether strace saw it to its end.
fn difference(tid: u64, shown: &[StraceCall], traced: &[Traced], complete: bool) -> Option<String> {
    let mut traced = traced.iter().peekable();
    for (at, shown) in shown.iter().enumerate() {
        if traced.next_if(|traced| shown.is(traced)).is_none() && !shown.may_be_void() {
            let other = traced.peek();
            return Some(format!(
                "thread {tid}, call {at}: strace saw\n  {shown:?}\nand ipc-trace\n  {other:?}"
            ));
        }
    }
    let more = traced.next().filter(|_| complete)?;
    Some(format!("thread {tid}: strace saw nothing more, and ipc-trace\n  {more:?}"))
}

fn summary(differences: &[String]) -> String {
    let mut text = format!("{} threads differ\n", differences.len());
    for difference in differences.iter().take(MAX_SHOWN) {
        let _ = writeln!(text, "{difference}");
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::strace::line::StraceOutcome;

    fn pair(shmaddr: u64) -> (StraceCall, Traced) {
        let outcome = StraceOutcome::Value(0);
        let args = BTreeMap::from([("shmaddr", Some(json!(shmaddr)))]);
        let shown = StraceCall { op: "shmdt", abi: "x86_64", args, outcome: outcome.clone() };
        let args = BTreeMap::from([("shmaddr".to_owned(), json!(shmaddr))]);
        let (op, abi) = ("shmdt".to_owned(), "x86_64".to_owned());
        (shown, Traced { op, abi, args, outcome })
    }

    #[test]
    fn missing_repeated_and_reordered_calls_are_differences() {
        let ((s1, t1), (s2, t2)) = (pair(1), pair(2));
        let differ = |shown: &[&StraceCall], traced: &[&Traced]| {
            let shown: Vec<_> = shown.iter().copied().cloned().collect();
            let traced: Vec<_> = traced.iter().copied().cloned().collect();
            let thread = |n| if n == 0 { None } else { Some(7) };
            let shown = Threads::from_iter(thread(shown.len()).map(|tid| (tid, shown)));
            let traced = Threads::from_iter(thread(traced.len()).map(|tid| (tid, traced)));
            !differences(&shown, &traced, &BTreeSet::new()).is_empty()
        };
        assert!(!differ(&[&s1, &s2], &[&t1, &t2]));
        assert!(differ(&[&s1, &s2], &[&t2, &t1]));
        assert!(differ(&[&s1, &s2], &[&t1]));
        assert!(differ(&[&s1], &[&t1, &t1]));
        assert!(differ(&[&s1], &[]));
        assert!(differ(&[], &[&t1]));
        let mut void = s2.clone();
        void.outcome = StraceOutcome::Unknown;
        assert!(!differ(&[&s1, &void], &[&t1]));
        assert!(!differ(&[&s1, &void], &[&t1, &t2]));
        assert!(differ(&[&s1, &void], &[&t1, &t1]));
    }
}
