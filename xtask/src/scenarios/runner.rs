//! Runs scenarios under one tracer, since starting it is expensive in an emulated machine.
//!
//! Scenarios start one after the other, and their processes stay until all have started and the tracer has had the
//! time to decide about findings that depend on time. The runner makes calls of its own as marks: when the tracer
//! has emitted the line of a mark, it has emitted everything before it.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::{
    checker::{KernelOutcome, ReportedFinding},
    fixture::{ScenarioFixture, ScenarioRun},
    kind::{Scenario, kernel},
    registry::all,
};
use crate::{
    tracer::{self, BackgroundProcess},
    workload::calls::CountingCaller,
};

/// The tracer decides about time-dependent findings one second after the event, and checks again a second later
/// (`ipc-trace/src/engine/detect/`); a little more.
const FINDINGS_WAIT: Duration = Duration::from_millis(2500);
/// The first key of the runner's own calls; no object has these keys.
const MARKS: i32 = 0x5ce0_0000;

/// Runs one scenario as its driver: prints its [`ScenarioRun`], and ends when standard input does.
///
/// # Errors
///
/// When it can't be run.
pub(super) fn drive(name: &str) -> Result<()> {
    let scenario = all().into_iter().find(|one| one.name == name).context("no such scenario")?;
    let mut fixture = ScenarioFixture::new()?;
    (scenario.run)(&mut fixture)?;
    fixture.wait_ready()?;
    println!("{}", serde_json::to_string(&fixture.run_so_far()?)?);
    std::io::stdin().read_to_end(&mut Vec::new())?;
    fixture.end()
}

/// A running scenario.
#[derive(Debug)]
struct ScenarioDriver {
    child: Child,
    stdin: Option<ChildStdin>,
}

impl ScenarioDriver {
    fn start(name: &str) -> Result<(Self, ScenarioRun)> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["scenarios", "run", name])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run this program")?;
        let stdout = child.stdout.take().context("it has no output")?;
        let stdin = child.stdin.take();
        let driver = Self { child, stdin };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let run = serde_json::from_str(&line)
            .with_context(|| format!("{name} can't be run; the messages above say why"))?;
        Ok((driver, run))
    }

    fn end(mut self) -> Result<()> {
        drop(self.stdin.take());
        let status = self.child.wait()?;
        ensure!(status.success(), "a scenario ended with {status}");
        Ok(())
    }
}

impl Drop for ScenarioDriver {
    fn drop(&mut self) {
        // Fails when it has ended, as it should have.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How the tracer reports findings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TracerMode {
    /// By lines, as they occur
    Live,
    /// At the end
    Report,
    /// At the end, of calls that are only counted
    Counts,
}

/// The tracer.
#[derive(Debug)]
struct ScenarioTracer {
    process: BackgroundProcess,
    mode: TracerMode,
    found: LatestFindings,
    caller: CountingCaller,
    marks: i32,
}

impl ScenarioTracer {
    /// Starts it. `None`: the kernel does not have the backend.
    fn start(program: &Path, backend: &str, mode: TracerMode) -> Result<Option<Self>> {
        let word = if mode == TracerMode::Live { "live" } else { "report" };
        let mut command = tracer::command(program, word, Some(backend));
        if mode == TracerMode::Counts {
            command.arg("--counts");
        }
        command.args(["-o", "json", "--runtime-socket", "none"]);
        let mut process = match BackgroundProcess::tracing(command) {
            Ok(process) => process,
            Err(error) => {
                eprintln!("note: no backend {backend} here: {error:#}");
                return Ok(None);
            }
        };
        process.forward_messages();
        let caller = CountingCaller::new("runner")?;
        Ok(Some(Self { process, mode, found: LatestFindings::default(), caller, marks: 0 }))
    }

    /// Waits until the tracer has emitted everything that has happened so far.
    fn catch_up(&mut self) -> Result<()> {
        if self.mode != TracerMode::Live {
            return Ok(());
        }
        self.marks += 1;
        let key = MARKS + self.marks;
        self.caller.shmget(key, 0, 0);
        let mark = format!("\"key\":\"{key:#010x}\"");
        loop {
            let line = self.process.line().context("the tracer emitted no line")?;
            self.found.read(&line)?;
            if line.contains(&mark) {
                return Ok(());
            }
        }
    }

    /// Ends it: all findings.
    fn end(self) -> Result<Vec<ReportedFinding>> {
        let Self { process, mode, mut found, .. } = self;
        match mode {
            TracerMode::Live => process.end()?.iter().try_for_each(|line| found.read(line))?,
            TracerMode::Report | TracerMode::Counts => {
                let report = process.report()?;
                let findings = report["findings"].as_array().context("a report has findings")?;
                findings.iter().try_for_each(|finding| found.enter(finding.clone()))?;
            }
        }
        Ok(found.0.into_values().collect())
    }
}

/// Findings by number: the latest version of each.
#[derive(Debug, Default)]
struct LatestFindings(BTreeMap<u64, ReportedFinding>);

impl LatestFindings {
    /// Reads a line of the tracer.
    fn read(&mut self, line: &str) -> Result<()> {
        if line.starts_with("{\"v\":1,\"type\":\"finding\"") {
            self.enter(serde_json::from_str(line)?)?;
        }
        Ok(())
    }

    fn enter(&mut self, finding: Value) -> Result<()> {
        let id = finding["id"].as_u64().context("a finding has a number")?;
        self.0.insert(id, serde_json::from_value(finding)?);
        Ok(())
    }
}

/// Runs the scenarios whose names contain `filter`. `None`: the kernel does not have the backend.
///
/// # Errors
///
/// When one can't be run, or the tracer fails. What it finds or doesn't is in the outcome.
pub(super) fn run(
    program: &Path,
    backend: &str,
    mode: TracerMode,
    filter: &str,
) -> Result<Option<KernelOutcome>> {
    let scenarios: Vec<Scenario> =
        all().into_iter().filter(|one| one.name.contains(filter)).collect();
    if scenarios.is_empty() {
        bail!("no scenario is called *{filter}*");
    }
    let mut outcome = KernelOutcome::new(kernel()?, backend);
    let Some(mut tracer) = ScenarioTracer::start(program, backend, mode)? else { return Ok(None) };
    let mut drivers = Vec::new();
    let mut runs = Vec::new();
    for scenario in scenarios {
        // One that fails, on a host without something it needs, must not hide the others.
        match ScenarioDriver::start(scenario.name) {
            Ok((driver, what)) => {
                drivers.push(driver);
                runs.push((scenario, what));
            }
            Err(error) => outcome.failures.push(format!("{}: {error:#}", scenario.name)),
        }
        tracer.catch_up()?;
    }
    std::thread::sleep(FINDINGS_WAIT);
    tracer.catch_up()?;
    let mut own = vec![u64::from(std::process::id()), u64::from(tracer.process.pid())];
    own.extend(drivers.iter().map(|driver| u64::from(driver.child.id())));
    for driver in drivers {
        if let Err(error) = driver.end() {
            outcome.failures.push(format!("{error:#}"));
        }
    }
    tracer.catch_up()?;
    let found = tracer.end()?;
    for (scenario, what) in &runs {
        outcome.add(scenario, what, &found);
    }
    let about_us = found.iter().filter(|found| found.is_about(&own));
    outcome.failures.extend(about_us.map(|found| format!("the runner: unexpected {found}")));
    Ok(Some(outcome))
}

/// Runs the scenarios whose names contain `filter`, one after the other, for a tracer that runs already.
///
/// # Errors
///
/// When one can't be run.
pub(super) fn unseen(filter: &str) -> Result<()> {
    for scenario in all().into_iter().filter(|one| one.name.contains(filter)) {
        ScenarioDriver::start(scenario.name)?.0.end()?;
    }
    Ok(())
}
