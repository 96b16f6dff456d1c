//! The tracer beside the bench, and what `/proc` shows of it.

use std::{
    fs,
    io::{BufRead as _, BufReader, Lines},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::{
    build::{self, Built},
    tracer::{self, BackgroundProcess},
};

/// The programs.
#[derive(Clone, Debug)]
pub(super) struct BenchPrograms {
    /// `ipc-trace`
    pub(super) tracer: PathBuf,
    /// This program, as it is released
    pub(super) xtask: PathBuf,
    /// `--backend`
    pub(super) backend: String,
}

impl BenchPrograms {
    /// Builds both programs as they are released.
    pub(super) fn build(backend: &str) -> Result<(Built, Self)> {
        let root = build::workspace_root()?;
        let built = build::everything(&root, true)?;
        let status = built
            .cargo()
            .args(["build", "--quiet", "--release", "--package", "xtask"])
            .arg("--target-dir")
            .arg(root.join("target"))
            .status()
            .context("cannot run cargo")?;
        ensure!(status.success(), "the workloads can't be built");
        let programs = Self {
            tracer: built.program().to_owned(),
            xtask: built.program().with_file_name("xtask"),
            backend: backend.to_owned(),
        };
        Ok((built, programs))
    }

    fn tracer(&self, mode: &str) -> Command {
        let mut command = tracer::command(&self.tracer, mode, Some(&self.backend));
        command.args(["-o", "json"]);
        command
    }

    /// Runs a workload: its report.
    pub(super) fn workload(&self, words: &[&str]) -> Result<Value> {
        let output = Command::new(&self.xtask).arg("workload").args(words).output()?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "workload {words:?}: {stderr}");
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// Starts `report`; calls are counted when this returns.
    pub(super) fn report(&self) -> Result<BackgroundProcess> {
        let mut tracer = BackgroundProcess::tracing(self.tracer("report"))?;
        tracer.forward_messages();
        Ok(tracer)
    }

    /// Runs a workload under `report`: its own report, and the tracer's.
    pub(super) fn reported(&self, words: &[&str]) -> Result<(Value, Value)> {
        let mut command = self.tracer("report");
        command.arg("--").arg(&self.xtask).arg("workload").args(words);
        let output = command.output()?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "report on {words:?}: {stderr}");
        let oracle = stderr.lines().find_map(|line| serde_json::from_str(line).ok());
        let oracle = oracle.with_context(|| format!("no report of {words:?}: {stderr}"))?;
        Ok((oracle, serde_json::from_slice(&output.stdout)?))
    }
}

/// `live`, whose lines are read as they come: by whoever waits for them, since that is what is timed.
#[derive(Debug)]
pub(super) struct LiveLines {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// When it was started
    pub(super) started: Instant,
}

impl LiveLines {
    /// Starts it; calls may not be traced yet when this returns.
    pub(super) fn start(programs: &BenchPrograms, options: &[&str]) -> Result<Self> {
        let started = Instant::now();
        let mut command = programs.tracer("live");
        let mut child = command.args(options).stdout(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().context("the tracer has no output")?;
        Ok(Self { child, lines: BufReader::new(stdout).lines(), started })
    }

    /// Waits for a line of that type.
    pub(super) fn wait_for(&mut self, kind: &str) -> Result<()> {
        let wanted = format!("{{\"v\":1,\"type\":\"{kind}\"");
        loop {
            let line = self.lines.next().context("the tracer ended")??;
            if line.starts_with(&wanted) {
                return Ok(());
            }
        }
    }

    /// Its number.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it: how long that takes.
    pub(super) fn end(mut self) -> Result<Duration> {
        let begin = Instant::now();
        kill(Pid::from_raw(self.pid() as i32), Signal::SIGINT)?;
        let reader = std::thread::spawn(move || self.lines.all(|line| line.is_ok()));
        let status = self.child.wait()?;
        let took = begin.elapsed();
        ensure!(status.success(), "the tracer ended with {status}");
        ensure!(reader.join().expect("the reader panicked"), "the tracer's lines can't be read");
        Ok(took)
    }
}

/// Resident memory of a process in KiB.
pub(super) fn resident_kib(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
