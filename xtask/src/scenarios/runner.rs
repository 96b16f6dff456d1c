//! Plays scenarios under one tracer, since a start of it is dear in an emulated machine.
//!
//! Scenarios are begun one after the other, and their actors stay until all have begun and the tracer has
//! had the time that it takes to judge what depends on time. Where the tracer is, a call of the runner's
//! own shows: its line comes after those of all that happened before.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::{
    judge::{Found, Outcome},
    kind::{Scenario, kernel},
    stage::{Played, Stage},
    table::all,
};
use crate::workload::calls::Caller;

/// The tracer decides about what time tells a second after it happened, and looks again a second later
/// (`ipc-trace/src/detect/`); a little more.
const JUDGED: Duration = Duration::from_millis(2500);
/// Nothing takes so long: what does, hangs.
const PATIENCE: Duration = Duration::from_secs(120);
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
pub(super) enum Mode {
    /// By lines, as they happen
    Live,
    /// In the end
    Report,
}

/// The tracer.
#[derive(Debug)]
struct Tracer {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    mode: Mode,
    /// By number: the latest word on each
    found: BTreeMap<u64, Found>,
    caller: Caller,
    marks: i32,
}

impl Tracer {
    /// Starts it. `None`: the kernel does not have the backend.
    fn start(program: &Path, backend: &str, mode: Mode) -> Result<Option<Self>> {
        let mut command = Command::new(program);
        let word = if mode == Mode::Live { "live" } else { "report" };
        command.args([word, "-o", "json", "--backend", backend, "--runtime-socket", "none"]);
        // It ends when its COMMAND does, and so when this process does.
        command.args(["--", "/bin/sh", "-c", "echo tracing; read line || :"]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", program.display()))?;
        let stdin = child.stdin.take();
        let lines = listen(child.stdout.take().context("it has no output")?);
        let messages = listen(child.stderr.take().context("it has no standard error")?);
        let mut said = Vec::new();
        loop {
            match messages.recv_timeout(PATIENCE) {
                // With -o json COMMAND's standard output is there.
                Ok(line) if line == "tracing" => break,
                Ok(line) => said.push(line),
                Err(_) => {
                    eprintln!("note: no backend {backend} here: {}", said.join("\n"));
                    let _ = child.kill();
                    child.wait()?;
                    return Ok(None);
                }
            }
        }
        // What it says later is to find a reader.
        std::thread::spawn(move || messages.iter().for_each(|line| eprintln!("{line}")));
        let caller = Caller::new("runner")?;
        let found = BTreeMap::new();
        Ok(Some(Self { child, stdin, lines, mode, found, caller, marks: 0 }))
    }

    /// Waits until the tracer has told of all that has happened so far.
    fn catch_up(&mut self) -> Result<()> {
        if self.mode == Mode::Report {
            return Ok(());
        }
        self.marks += 1;
        let key = MARKS + self.marks;
        self.caller.shmget(key, 0, 0);
        let mark = format!("\"key\":\"{key:#010x}\"");
        loop {
            let line = self.lines.recv_timeout(PATIENCE).context("the tracer is silent")?;
            self.read(&line)?;
            if line.contains(&mark) {
                return Ok(());
            }
        }
    }

    fn read(&mut self, line: &str) -> Result<()> {
        if line.starts_with("{\"v\":1,\"type\":\"finding\"") {
            self.enter(serde_json::from_str(line)?)?;
        }
        Ok(())
    }

    fn enter(&mut self, finding: Value) -> Result<()> {
        let id = finding["id"].as_u64().context("a finding has a number")?;
        self.found.insert(id, serde_json::from_value(finding)?);
        Ok(())
    }

    /// Ends it: all findings.
    fn end(mut self) -> Result<Vec<Found>> {
        drop(self.stdin.take());
        let rest: Vec<String> = self.lines.iter().collect();
        let status = self.child.wait()?;
        ensure!(status.success(), "the tracer ended with {status}");
        match self.mode {
            Mode::Live => rest.iter().try_for_each(|line| self.read(line))?,
            Mode::Report => {
                let report: Value = serde_json::from_str(&rest.join("\n"))?;
                let findings = report["findings"].as_array().context("a report has findings")?;
                for finding in findings {
                    self.enter(finding.clone())?;
                }
            }
        }
        Ok(self.found.into_values().collect())
    }
}

fn listen(from: impl Read + Send + 'static) -> Receiver<String> {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            // The runner may have lost interest.
            let _ = send.send(line);
        }
    });
    receive
}

/// Plays the scenarios whose names contain `filter`. `None`: the kernel does not have the backend.
///
/// # Errors
///
/// When one can't be played, or the tracer fails. What it finds or doesn't is in the outcome.
pub(super) fn run(
    program: &Path,
    backend: &str,
    mode: Mode,
    filter: &str,
) -> Result<Option<Outcome>> {
    let scenarios: Vec<Scenario> =
        all().into_iter().filter(|one| one.name.contains(filter)).collect();
    if scenarios.is_empty() {
        bail!("no scenario is called *{filter}*");
    }
    let mut outcome = Outcome::new(kernel()?, backend);
    let Some(mut tracer) = Tracer::start(program, backend, mode)? else { return Ok(None) };
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
    let mut own = vec![u64::from(std::process::id()), u64::from(tracer.child.id())];
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
