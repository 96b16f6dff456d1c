//! The tracer as a process: which program it is, how it is started, when it traces, how it ends.
//!
//! The live tests, the scenarios, the benches and the budget use this, also for programs beside the tracer.

use std::{
    env,
    io::{BufRead as _, BufReader, Read, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::build;

/// A process that takes longer than this hangs.
pub const HANG_TIMEOUT: Duration = Duration::from_secs(180);
/// What the COMMAND of [`BackgroundProcess::tracing`] prints first.
const TRACING: &str = "tracing";

/// The tracer that the environment names: `IPC_TRACE_BIN`.
#[must_use]
pub fn given() -> Option<PathBuf> {
    env::var_os("IPC_TRACE_BIN").map(PathBuf::from)
}

/// The tracer that the environment names, or what is built now.
pub(crate) fn given_or_built() -> Result<PathBuf> {
    match given() {
        Some(path) => Ok(path),
        None => Ok(build::everything(&build::workspace_root()?, false)?.program().to_owned()),
    }
}

/// The backend that the environment wants tested: `IPC_TRACE_TEST_BACKEND`.
#[must_use]
pub fn backend() -> Option<String> {
    env::var("IPC_TRACE_TEST_BACKEND").ok()
}

/// `live` or `report`, with a backend if one is wanted.
#[must_use]
pub fn command(program: &Path, mode: &str, backend: Option<&str>) -> Command {
    let mut command = Command::new(program);
    command.arg(mode).stdin(Stdio::null());
    if let Some(backend) = backend {
        command.args(["--backend", backend]);
    }
    command
}

/// Whether `condition` becomes true within [`HANG_TIMEOUT`].
pub fn eventually(mut condition: impl FnMut() -> bool) -> bool {
    let begin = Instant::now();
    loop {
        if condition() {
            return true;
        }
        if begin.elapsed() > HANG_TIMEOUT {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A process beside this one, whose output is read all the time. It ends when this is dropped.
#[derive(Debug)]
pub struct BackgroundProcess {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    messages: Receiver<String>,
    readers: Vec<JoinHandle<()>>,
}

/// Reads lines in a thread, and sends those that are wanted.
fn read_lines(
    from: impl Read + Send + 'static,
    wanted: fn(&str) -> bool,
) -> (Receiver<String>, JoinHandle<()>) {
    let (send, receive) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = String::new();
        while from.read_line(&mut line).is_ok_and(|len| len > 0) {
            if wanted(&line) {
                // The receiver may be gone.
                let _ = send.send(line.trim_end_matches('\n').to_owned());
            }
            line.clear();
        }
    });
    (receive, reader)
}

impl BackgroundProcess {
    /// Starts it, with a pipe as its standard input.
    ///
    /// # Errors
    ///
    /// When it can't be run.
    pub fn start(command: Command) -> Result<Self> {
        Self::start_wanting(command, |_| true)
    }

    /// As [`Self::start`], where not all lines of its standard output are wanted.
    ///
    /// # Errors
    ///
    /// When it can't be run.
    pub fn start_wanting(mut command: Command, wanted: fn(&str) -> bool) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot run {}", command.get_program().display()))?;
        let (lines, first) = read_lines(child.stdout.take().context("no standard output")?, wanted);
        let (messages, second) =
            read_lines(child.stderr.take().context("no standard error")?, |_| true);
        let stdin = child.stdin.take();
        Ok(Self { child, stdin, lines, messages, readers: vec![first, second] })
    }

    /// Starts the tracer by a command that has `-o json`. It traces when this returns, and until [`Self::go`] or
    /// the end of this process: its COMMAND waits for that.
    ///
    /// # Errors
    ///
    /// When it can't be run, or ends or hangs before it traces; with its messages.
    pub fn tracing(mut command: Command) -> Result<Self> {
        command.args(["--", "/bin/sh", "-c", &format!("echo {TRACING}; read line || :")]);
        let mut tracer = Self::start(command)?;
        // With -o json COMMAND's standard output is there.
        tracer.wait_for_message(TRACING)?;
        Ok(tracer)
    }

    /// Its number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line of its standard output.
    ///
    /// # Errors
    ///
    /// When none comes; with its messages.
    pub fn line(&mut self) -> Result<String> {
        let line = self.lines.recv_timeout(HANG_TIMEOUT);
        line.with_context(|| format!("it wrote no line; {}", self.pending_messages()))
    }

    /// Waits for a line of its standard error that begins so.
    ///
    /// # Errors
    ///
    /// When none comes; with the messages that came instead.
    pub fn wait_for_message(&mut self, wanted: &str) -> Result<()> {
        let mut others = Vec::new();
        loop {
            match self.messages.recv_timeout(HANG_TIMEOUT) {
                Ok(line) if line.starts_with(wanted) => return Ok(()),
                Ok(line) => others.push(line),
                Err(_) => bail!("it did not print {wanted:?}, but: {}", others.join("\n")),
            }
        }
    }

    /// Prints its messages from now on.
    pub(crate) fn forward_messages(&mut self) {
        let messages = std::mem::replace(&mut self.messages, mpsc::channel().1);
        let print = move || messages.iter().for_each(|line| eprintln!("{line}"));
        self.readers.push(std::thread::spawn(print));
    }

    fn pending_messages(&self) -> String {
        self.messages.try_iter().collect::<Vec<_>>().join("\n")
    }

    /// A line on its standard input.
    ///
    /// # Errors
    ///
    /// When it does not read any more.
    pub fn write_line(&mut self, line: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("its standard input is closed")?;
        Ok(writeln!(stdin, "{line}")?)
    }

    /// An empty line on its standard input, and no more: what waits for it goes on.
    ///
    /// # Errors
    ///
    /// When it does not read any more.
    pub fn go(&mut self) -> Result<()> {
        match self.stdin.take() {
            Some(mut stdin) => Ok(stdin.write_all(b"\n")?),
            None => Ok(()),
        }
    }

    /// Closes its standard input and waits for its end: status, and what is left of its output.
    ///
    /// # Errors
    ///
    /// When it does not end.
    pub fn join(mut self) -> Result<(ExitStatus, Vec<String>, String)> {
        drop(self.stdin.take());
        let mut status = None;
        let ended = eventually(|| {
            status = self.child.try_wait().transpose();
            status.is_some()
        });
        ensure!(ended, "process {} does not end; {}", self.pid(), self.pending_messages());
        for reader in self.readers.drain(..) {
            ensure!(reader.join().is_ok(), "a reader panicked");
        }
        let status = status.context("no status")??;
        Ok((status, self.lines.try_iter().collect(), self.pending_messages()))
    }

    /// As [`Self::join`], of a process that must succeed: what is left of its standard output.
    ///
    /// # Errors
    ///
    /// When it does not succeed; with its messages.
    pub fn end(self) -> Result<Vec<String>> {
        let (status, lines, pending_messages) = self.join()?;
        ensure!(status.success(), "it ended with {status}: {pending_messages}");
        Ok(lines)
    }

    /// As [`Self::end`], of `report`: the report.
    ///
    /// # Errors
    ///
    /// When it does not succeed, or prints anything else.
    pub fn report(self) -> Result<Value> {
        serde_json::from_str(&self.end()?.join("\n")).context("the report")
    }
}

impl Drop for BackgroundProcess {
    fn drop(&mut self) {
        // Fails when it has ended, as it should have.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
