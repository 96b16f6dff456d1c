//! Plays scenarios under one tracer, since a start of it is dear in an emulated machine.
//!
//! Scenarios are begun one after the other, and their actors stay until all have begun and the tracer has
//! had the time that it takes to judge what depends on time. Where the tracer is, a call of the runner's
//! own shows: its line comes after those of all that happened before.

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
    judge::{KernelOutcome, ReportedFinding},
    kind::{Scenario, kernel},
    stage::{Played, Stage},
    table::all,
};
use crate::{
    tracer::{self, BackgroundProcess},
    workload::calls::CountingCaller,
};

/// The tracer decides about what time tells a second after it happened, and looks again a second later
/// (`ipc-trace/src/engine/detect/`); a little more.
const JUDGED: Duration = Duration::from_millis(2500);
/// The keys of the runner's own calls, which nobody has.
const MARKS: i32 = 0x5ce0_0000;

/// Plays one scenario as its director: says what was played, and ends when standard input does.
///
/// # Errors
///
/// When it can't be played.
pub(super) fn direct(name: &str) -> Result<()> {
    let scenario = all().into_iter().find(|one| one.name == name).context("no such scenario")?;
    let mut stage = Stage::new()?;
    (scenario.play)(&mut stage)?;
    stage.settle()?;
    println!("{}", serde_json::to_string(&stage.played()?)?);
    std::io::stdin().read_to_end(&mut Vec::new())?;
    stage.end()
}

/// A scenario that is being played.
#[derive(Debug)]
struct Director {
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Director {
    fn start(name: &str) -> Result<(Self, Played)> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["scenarios", "play", name])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run this program")?;
        let stdout = child.stdout.take().context("it has no output")?;
        let stdin = child.stdin.take();
        let director = Self { child, stdin };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let played = serde_json::from_str(&line)
            .with_context(|| format!("{name} can't be played; the messages above say why"))?;
        Ok((director, played))
    }

    fn end(mut self) -> Result<()> {
        drop(self.stdin.take());
        let status = self.child.wait()?;
        ensure!(status.success(), "a scenario ended with {status}");
        Ok(())
    }
}

impl Drop for Director {
    fn drop(&mut self) {
        // Fails when it has ended, as it should have.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How the tracer tells of findings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TracerMode {
    /// By lines, as they happen
    Live,
    /// In the end
    Report,
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
        command.args(["-o", "json", "--runtime-socket", "none"]);
        let mut process = match BackgroundProcess::tracing(command) {
            Ok(process) => process,
            Err(error) => {
                eprintln!("note: no backend {backend} here: {error:#}");
                return Ok(None);
            }
        };
        process.pass_on_messages();
        let caller = CountingCaller::new("runner")?;
        Ok(Some(Self { process, mode, found: LatestFindings::default(), caller, marks: 0 }))
    }

    /// Waits until the tracer has told of all that has happened so far.
    fn catch_up(&mut self) -> Result<()> {
        if self.mode == TracerMode::Report {
            return Ok(());
        }
        self.marks += 1;
        let key = MARKS + self.marks;
        self.caller.shmget(key, 0, 0);
        let mark = format!("\"key\":\"{key:#010x}\"");
        loop {
            let line = self.process.line().context("the tracer is silent")?;
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
            TracerMode::Report => {
                let report = process.report()?;
                let findings = report["findings"].as_array().context("a report has findings")?;
                findings.iter().try_for_each(|finding| found.enter(finding.clone()))?;
            }
        }
        Ok(found.0.into_values().collect())
    }
}

/// Findings by number: the latest word on each.
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

/// Plays the scenarios whose names contain `filter`. `None`: the kernel does not have the backend.
///
/// # Errors
///
/// When one can't be played, or the tracer fails. What it finds or doesn't is in the outcome.
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
    let mut directors = Vec::new();
    let mut played = Vec::new();
    for scenario in scenarios {
        // One of another test, or a host, may lack something: the others are told of all the same.
        match Director::start(scenario.name) {
            Ok((director, what)) => {
                directors.push(director);
                played.push((scenario, what));
            }
            Err(error) => outcome.failures.push(format!("{}: {error:#}", scenario.name)),
        }
        tracer.catch_up()?;
    }
    std::thread::sleep(JUDGED);
    tracer.catch_up()?;
    let mut own = vec![u64::from(std::process::id()), u64::from(tracer.process.pid())];
    own.extend(directors.iter().map(|director| u64::from(director.child.id())));
    for director in directors {
        if let Err(error) = director.end() {
            outcome.failures.push(format!("{error:#}"));
        }
    }
    tracer.catch_up()?;
    let found = tracer.end()?;
    for (scenario, what) in &played {
        outcome.add(scenario, what, &found);
    }
    let about_us = found.iter().filter(|found| found.is_about(&own));
    outcome.failures.extend(about_us.map(|found| format!("the runner: unexpected {found}")));
    Ok(Some(outcome))
}

/// Plays the scenarios whose names contain `filter`, one after the other, for who traces the host.
///
/// # Errors
///
/// When one can't be played.
pub(super) fn unseen(filter: &str) -> Result<()> {
    for scenario in all().into_iter().filter(|one| one.name.contains(filter)) {
        Director::start(scenario.name)?.0.end()?;
    }
    Ok(())
}
