//! COMMAND: started when tracing has begun; its exit status is part of the output.

use std::{ffi::OsString, io, os::unix::ffi::OsStrExt as _, process::Stdio};

use nix::sys::signal::Signal;
use tokio::process;

use crate::{
    commands::error::RunError,
    event::{self, value::OsBytes},
};

/// COMMAND can't be started.
#[derive(Debug, thiserror::Error)]
#[error("can't start {name}: {source}")]
pub(crate) struct StartError {
    name: String,
    source: io::Error,
}

impl StartError {
    /// As in shells: 127 if it does not exist, 126 if it can't be executed.
    #[must_use]
    pub(crate) fn status(&self) -> u8 {
        if self.source.kind() == io::ErrorKind::NotFound { 127 } else { 126 }
    }
}

impl From<StartError> for RunError {
    fn from(error: StartError) -> Self {
        let status = error.status();
        Self::Begin { error: Box::new(error), status }
    }
}

/// A word, with non-text bytes as `\xNN`.
fn shown(word: &OsString) -> String {
    OsBytes(word.as_bytes().into()).to_str().into_owned()
}

/// COMMAND.
#[derive(Debug)]
pub(crate) struct TracedCommand {
    argv: Vec<OsString>,
    process: process::Child,
    status: Option<std::process::ExitStatus>,
}

impl TracedCommand {
    /// Starts it. With `output_to_stderr` its standard output is our standard error.
    ///
    /// # Errors
    /// It does not exist or can't be executed.
    pub(crate) fn start(words: &[OsString], output_to_stderr: bool) -> Result<Self, StartError> {
        let name = words.first().cloned().unwrap_or_default();
        let error = |source| StartError { name: shown(&name), source };
        let mut command = process::Command::new(&name);
        command.args(words.get(1..).unwrap_or_default());
        if output_to_stderr {
            use std::os::fd::AsFd as _;
            let stderr = io::stderr().as_fd().try_clone_to_owned().map_err(error)?;
            command.stdout(Stdio::from(stderr));
        }
        let process = command.spawn().map_err(error)?;
        Ok(Self { argv: words.to_vec(), process, status: None })
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        if self.status.is_none()
            && let Ok(Some(status)) = self.process.try_wait()
        {
            self.status = Some(status);
        }
        self.status.is_some()
    }

    /// Waits until it ends.
    pub(crate) async fn wait(&mut self) {
        if self.status.is_none() {
            match self.process.wait().await {
                Ok(status) => self.status = Some(status),
                // It is our own child, so waiting for its end works.
                Err(_) => std::future::pending().await,
            }
        }
    }

    /// Its exit status as in shells, if it has ended: 128 and the signal's number if a signal ended it.
    pub(crate) fn exit_status(&mut self) -> Option<u8> {
        use std::os::unix::process::ExitStatusExt as _;
        self.has_ended();
        let status = self.status?;
        let code = status.code().or_else(|| Some(128 + status.signal()?))?;
        Some(u8::try_from(code).unwrap_or(u8::MAX))
    }

    /// Its words and its exit status.
    #[must_use]
    pub(crate) fn report(&mut self) -> event::CommandOutcome {
        use std::os::unix::process::ExitStatusExt as _;
        self.has_ended();
        let signal = self.status.and_then(|s| s.signal());
        event::CommandOutcome {
            argv: self.argv.iter().map(shown).collect(),
            exit_code: self.status.and_then(|s| s.code()),
            signal: signal.map(|number| match Signal::try_from(number) {
                Ok(signal) => signal.as_str().to_owned(),
                Err(_) => format!("SIG{number}"),
            }),
        }
    }
}
