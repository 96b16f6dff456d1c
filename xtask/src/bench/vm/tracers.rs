//! What is measured beside nothing at all: ipc-trace and its peers, each as its users run it, on a
//! command; and what each reports.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader},
    process::{Command, Output},
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// bpftrace's own program for one line a call.
const STREAM: &str = include_str!("stream.bt");
/// bpftrace's own program for counts.
const COUNT: &str = include_str!("count.bt");

/// The calls that peers trace.
const CALLS: &str = "semtimedop,msgsnd,msgrcv,shmget,mq_timedsend,mq_timedreceive";

/// Where a peer's output goes: a file in memory, which costs it less than a reader would.
const OUTPUT: &str = "/tmp/output";

/// A way to trace.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub(super) enum BenchTracer {
    /// Nothing
    Untraced,
    /// Empty programs on the hooks of backend `function`
    FunctionFloor,
    /// Empty programs on the hooks of backend `function` with `--counts`
    FunctionCountsFloor,
    /// Empty programs on the hooks of backend `syscall`
    SyscallFloor,
    /// `ipc-trace report --backend function`
    Function,
    /// `ipc-trace report --counts --backend function`
    FunctionCounts,
    /// `ipc-trace report --backend syscall`
    Syscall,
    /// `ipc-trace report --counts --backend syscall`
    SyscallCounts,
    /// bpftrace with a line a call
    Stream,
    /// bpftrace with counts
    Count,
    /// strace
    Strace,
    /// perf trace
    PerfTrace,
}

/// What a tracer saw.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Saw {
    /// Calls of each operation
    pub(super) calls: BTreeMap<String, u64>,
    /// Calls that it says it lost
    pub(super) lost: u64,
}

impl BenchTracer {
    /// What runs by turns in one machine each, after nothing at all, and how often. Those that take longest come first.
    pub(super) const MACHINES: [(u32, &[Self]); 7] = [
        (5, &[Self::SyscallFloor, Self::Syscall, Self::SyscallCounts]),
        (5, &[Self::FunctionFloor, Self::Function]),
        (5, &[Self::FunctionCountsFloor, Self::FunctionCounts]),
        (1, &[Self::Stream]),
        (1, &[Self::Count]),
        (1, &[Self::Strace]),
        (1, &[Self::PerfTrace]),
    ];

    /// The empty programs on the hooks of one of ours.
    pub(super) const fn floor(self) -> Option<Self> {
        match self {
            Self::Function => Some(Self::FunctionFloor),
            Self::FunctionCounts => Some(Self::FunctionCountsFloor),
            Self::Syscall | Self::SyscallCounts => Some(Self::SyscallFloor),
            Self::Untraced
            | Self::FunctionFloor
            | Self::FunctionCountsFloor
            | Self::SyscallFloor
            | Self::Stream
            | Self::Count
            | Self::Strace
            | Self::PerfTrace => None,
        }
    }

    /// Whether it is empty programs.
    pub(super) const fn is_floor(self) -> bool {
        matches!(self, Self::FunctionFloor | Self::FunctionCountsFloor | Self::SyscallFloor)
    }

    /// Its name in options and folders.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Untraced => "untraced",
            Self::FunctionFloor => "function-floor",
            Self::FunctionCountsFloor => "function-counts-floor",
            Self::SyscallFloor => "syscall-floor",
            Self::Function => "function",
            Self::FunctionCounts => "function-counts",
            Self::Syscall => "syscall",
            Self::SyscallCounts => "syscall-counts",
            Self::Stream => "stream",
            Self::Count => "count",
            Self::Strace => "strace",
            Self::PerfTrace => "perf-trace",
        }
    }

    /// Its name in a table.
    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Untraced => "untraced",
            Self::FunctionFloor => "empty programs, `function`",
            Self::FunctionCountsFloor => "empty programs, `function`, `--counts`",
            Self::SyscallFloor => "empty programs, `syscall`",
            Self::Function => "ipc-trace, `function`",
            Self::FunctionCounts => "ipc-trace, `function`, `--counts`",
            Self::Syscall => "ipc-trace, `syscall`",
            Self::SyscallCounts => "ipc-trace, `syscall`, `--counts`",
            Self::Stream => "bpftrace, a line a call",
            Self::Count => "bpftrace, counts alone",
            Self::Strace => "strace",
            Self::PerfTrace => "perf trace",
        }
    }

    /// How many calls of each kind are timed in a run: where one costs more, fewer of them do.
    pub(super) const fn calls(self) -> u64 {
        match self {
            Self::Strace | Self::PerfTrace => 10_000,
            Self::Untraced
            | Self::FunctionFloor
            | Self::FunctionCountsFloor
            | Self::SyscallFloor
            | Self::Function
            | Self::FunctionCounts
            | Self::Syscall
            | Self::SyscallCounts
            | Self::Stream
            | Self::Count => 100_000,
        }
    }

    /// The command that traces `words`.
    pub(super) fn command(self, words: &[&str]) -> Command {
        let with = |program: &str, options: &[&str]| {
            let mut command = Command::new(program);
            command.args(options);
            command
        };
        let ours = |backend, options: &[&str]| {
            let mut command = with("ipc-trace", &["report", "-o", "json", "--backend", backend]);
            command.args(options).arg("--").args(words);
            command
        };
        let empty = |backend| {
            let mut command = with("xtask", &["bench", "empty", backend, "--"]);
            command.args(words);
            command
        };
        let bpftrace =
            |script| with("bpftrace", &["-o", OUTPUT, "-e", script, "-c", &words.join(" ")]);
        match self {
            Self::Untraced => {
                let (program, options) = words.split_first().expect("a command has words");
                with(program, options)
            }
            Self::FunctionFloor => empty("function"),
            Self::FunctionCountsFloor => empty("function-counts"),
            Self::SyscallFloor => empty("syscall"),
            Self::Function => ours("function", &[]),
            Self::FunctionCounts => ours("function", &["--counts"]),
            Self::Syscall => ours("syscall", &[]),
            Self::SyscallCounts => ours("syscall", &["--counts"]),
            Self::Stream => bpftrace(STREAM),
            Self::Count => bpftrace(COUNT),
            Self::Strace => {
                let calls = format!("trace={CALLS}");
                let mut command = with("strace", &["-f", "--seccomp-bpf", "-ttt", "-T"]);
                command.args(["-e", &calls, "-o", OUTPUT]).args(words);
                command
            }
            Self::PerfTrace => {
                let mut command = with("perf", &["trace", "-e", CALLS, "-o", OUTPUT]);
                command.args(words);
                command
            }
        }
    }

    /// What it saw, by what it printed.
    pub(super) fn saw(self, output: &Output) -> Result<Saw> {
        match self {
            Self::Untraced
            | Self::FunctionFloor
            | Self::FunctionCountsFloor
            | Self::SyscallFloor => Ok(Saw::default()),
            Self::Function | Self::FunctionCounts | Self::Syscall | Self::SyscallCounts => {
                of_report(&output.stdout)
            }
            Self::Stream => of_stream(written()?),
            Self::Count => of_counts(written()?),
            Self::Strace => of_strace(written()?),
            Self::PerfTrace => of_perf_trace(written()?),
        }
    }
}

/// The operation in a line of strace: `PID TIME CALL(…`.
fn operation_of_strace(line: &str) -> Option<&str> {
    let (call, _) = line.split_ascii_whitespace().nth(2)?.split_once('(')?;
    Some(operation(call))
}

/// The operation in a line of perf trace: `TIME (DURATION): COMM/TID CALL(…`.
fn operation_of_perf(line: &str) -> Option<&str> {
    let (call, _) = line.split_once("): ")?.1.split_once('(')?;
    Some(operation(call.rsplit(' ').next()?))
}

/// The operation that a system call makes.
fn operation(call: &str) -> &str {
    match call {
        "semtimedop" => "semop",
        "mq_timedsend" => "mq_send",
        "mq_timedreceive" => "mq_receive",
        other => other,
    }
}

/// A peer's output.
fn written() -> Result<BufReader<File>> {
    Ok(BufReader::new(File::open(OUTPUT).context(OUTPUT)?))
}

/// Lines of calls, each with an operation; and for some tracers, lines that say between two words how many were lost.
fn of_lines(
    output: impl BufRead,
    lost: Option<[&str; 2]>,
    operation: impl Fn(&str) -> Option<&str>,
) -> Result<Saw> {
    let mut saw = Saw::default();
    for line in output.lines() {
        let line = line?;
        let lost = lost.and_then(|[before, after]| line.strip_prefix(before)?.strip_suffix(after));
        if let Some(lost) = lost {
            saw.lost += lost.parse::<u64>()?;
        } else if let Some(operation) = operation(&line) {
            *saw.calls.entry(operation.to_owned()).or_default() += 1;
        }
    }
    Ok(saw)
}

/// As [`operation_of_strace`].
fn of_strace(output: impl BufRead) -> Result<Saw> {
    of_lines(output, None, operation_of_strace)
}

/// As [`operation_of_perf`], and among them `LOST N events!`.
fn of_perf_trace(output: impl BufRead) -> Result<Saw> {
    of_lines(output, Some(["LOST ", " events!"]), operation_of_perf)
}

/// `@OPERATION[NAMESPACE]: CALLS`
fn of_counts(output: impl BufRead) -> Result<Saw> {
    let mut saw = Saw::default();
    for line in output.lines() {
        let line = line?;
        if let Some((key, count)) = line.split_once("]: ")
            && let Some((operation, _)) = key.strip_prefix('@').and_then(|key| key.split_once('['))
        {
            *saw.calls.entry(operation.to_owned()).or_default() += count.parse::<u64>()?;
        }
    }
    Ok(saw)
}

/// `TIME PID TID COMM UID NAMESPACE OPERATION …`, and among them `Lost N events`.
fn of_stream(output: impl BufRead) -> Result<Saw> {
    of_lines(output, Some(["Lost ", " events"]), |line| line.split(' ').nth(6))
}

fn of_report(stdout: &[u8]) -> Result<Saw> {
    let report: Value = serde_json::from_slice(stdout).context("the report")?;
    let accounting = &report["accounting"];
    let count = |name: &str| accounting[name].as_u64().context("the report's accounting");
    let by_op = accounting["by_op"].as_object().context("the report's operations")?;
    let delivered =
        |(op, counts): (&String, &Value)| Some((op.clone(), counts["delivered"].as_u64()?));
    Ok(Saw {
        calls: by_op.iter().filter_map(delivered).collect(),
        lost: count("dropped")? + count("missed")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls<const N: usize>(expected: [(&str, u64); N]) -> BTreeMap<String, u64> {
        expected.map(|(operation, calls)| (operation.to_owned(), calls)).into()
    }

    #[test]
    fn lines_of_bpftrace_are_calls_and_losses() {
        // As bpftrace 0.17 writes them with `-o`.
        let text = "Attaching 12 probes...\n\
                    68463692889 145 145 xtask 0 4026531839 semop 0 5572bfc10a6a 1 0 0 0 3219\n\
                    Lost 435 events\nLost 679 events\n\
                    68463695889 145 145 xtask 0 4026531839 semop 0 5572bfc10a6a 1 0 0 0 3219\n";
        let saw = of_stream(text.as_bytes()).unwrap();
        assert_eq!((saw.calls, saw.lost), (calls([("semop", 2)]), 1114));
    }

    #[test]
    fn counts_of_bpftrace_are_added_up_over_namespaces() {
        let text = "\n@semop[4026531839]: 5\n@semop[4026532180]: 2\n@mq_send[4026531839]: 1\n";
        let saw = of_counts(text.as_bytes()).unwrap();
        assert_eq!(saw.calls, calls([("semop", 7), ("mq_send", 1)]));
    }

    #[test]
    fn lines_of_perf_trace_are_calls_and_losses() {
        // As perf 6.1 writes them with `-o`.
        let text = "     0.042 ( 0.015 ms): xtask/19 semtimedop(semid: 1, tsops: 0x56, nsops: 1)  = 0\n\
                    LOST 7 events!\n\
                    \x20    0.138 ( 0.015 ms): xtask/19 shmget(key: 2, size: 4096)  = -1 ENOENT (No)\n";
        let saw = of_perf_trace(text.as_bytes()).unwrap();
        assert_eq!((saw.calls, saw.lost), (calls([("semop", 1), ("shmget", 1)]), 7));
    }

    #[test]
    fn lines_of_strace_are_calls() {
        let text = "12 1.5 semtimedop(0, 0x1, 1, NULL) = 0 <0.000010>\n\
                    12 1.6 shmget(0x1, 1, 000) = -1 ENOENT (No such file) <0.000010>\n\
                    12 1.7 +++ exited with 0 +++\n";
        let saw = of_strace(text.as_bytes()).unwrap();
        assert_eq!(saw.calls, calls([("semop", 1), ("shmget", 1)]));
    }
}
