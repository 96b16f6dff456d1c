//! Standard output, which may be slow, stalled, full or closed; or a file.
//!
//! It is written in chunks that a pipe accepts at once when it is writable (`PIPE_BUF`), after waiting until it is
//! writable. So a reader that has stopped reading does not keep the program from handling signals.

use std::{
    fs::File,
    io::{self, Write as _},
    os::fd::{AsFd as _, BorrowedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::write,
};

use crate::signals::Signals;

/// `PIPE_BUF` (include/uapi/linux/limits.h): a pipe that polls as writable accepts that much.
const CHUNK: usize = 4096;
/// After the first signal: how long to wait for a reader that takes nothing. A reader may be busy with its data for
/// half a second, or not be scheduled.
const STALL_LIMIT: Duration = Duration::from_secs(3);
/// After the second signal: how long output is still written.
const ABORT_LIMIT: Duration = Duration::from_millis(500);

/// Why output failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OutputError {
    /// The reader has closed it: a normal end.
    #[error("standard output was closed")]
    Closed,
    /// The reader does not read, and a signal has requested the end.
    #[error("standard output is stalled: {0} bytes could not be written before the end")]
    Stalled(usize),
    /// The reader reads, and a second signal has requested the end.
    #[error("ended by a second signal: {0} bytes were not written")]
    Aborted(usize),
    /// The inputs can't be recorded.
    #[error("can't keep the inputs: {0}")]
    Recorder(io::Error),
    /// Another error, such as a full disk.
    #[error("can't write to standard output: {0}")]
    Failed(#[from] io::Error),
    /// A file can't be written, such as on a full disk.
    #[error("can't write the output: {0}")]
    File(io::Error),
}

/// Where output goes.
#[derive(Clone, Debug)]
pub(crate) enum OutputTarget {
    /// Standard output
    Stdout,
    /// A regular file, which is always as fast
    File(Arc<File>),
}

/// Standard output, or a file.
#[derive(Debug)]
pub(crate) struct Output {
    stdout: io::Stdout,
    file: Option<Arc<File>>,
    signals: Signals,
    /// Since when the reader has taken nothing
    stalled_since: Option<Instant>,
    /// When the second signal was noticed
    second_signal_at: Option<Instant>,
}

impl Output {
    /// Standard output of a program that handles these signals.
    #[must_use]
    pub(crate) fn new(signals: Signals) -> Self {
        Self::to(OutputTarget::Stdout, signals)
    }

    /// Output of such a program to a target.
    #[must_use]
    pub(crate) fn to(target: OutputTarget, signals: Signals) -> Self {
        let file = match target {
            OutputTarget::Stdout => None,
            OutputTarget::File(file) => Some(file),
        };
        Self { stdout: io::stdout(), file, signals, stalled_since: None, second_signal_at: None }
    }

    /// Writes everything, as slowly as the reader takes it.
    ///
    /// # Errors
    /// The reader has closed it, or stalls after a signal, or is too slow after a second signal, or writing failed.
    pub(crate) fn write_all(&mut self, mut bytes: &[u8]) -> Result<(), OutputError> {
        if let Some(file) = &self.file {
            return (&**file).write_all(bytes).map_err(OutputError::File);
        }
        while !bytes.is_empty() {
            if self.signals.end_now()
                && self.second_signal_at.get_or_insert_with(Instant::now).elapsed() > ABORT_LIMIT
            {
                return Err(OutputError::Aborted(bytes.len()));
            }
            let fd = self.stdout.as_fd();
            if !wait_writable(fd)? {
                if self.signals.end()
                    && self.stalled_since.get_or_insert_with(Instant::now).elapsed() > STALL_LIMIT
                {
                    return Err(OutputError::Stalled(bytes.len()));
                }
                continue;
            }
            self.stalled_since = None;
            let chunk = bytes.get(..CHUNK).unwrap_or(bytes);
            match write(fd, chunk) {
                Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(Errno::EPIPE) => return Err(OutputError::Closed),
                Err(error) => return Err(OutputError::Failed(error.into())),
            }
        }
        Ok(())
    }

    /// Checks whether the reader still exists; otherwise that shows only at the next write.
    ///
    /// # Errors
    /// The reader has closed it.
    pub(crate) fn check(&self) -> Result<(), OutputError> {
        if self.file.is_some() {
            return Ok(());
        }
        // poll(2) always reports errors: a pipe without readers, or a terminal that hung up.
        let mut fds = [PollFd::new(self.stdout.as_fd(), PollFlags::empty())];
        match poll(&mut fds, PollTimeout::ZERO) {
            Ok(1..) => Err(OutputError::Closed),
            // Other errors occur when writing.
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

/// Prints a complete text.
///
/// # Errors
/// The reader has closed it, or writing failed.
pub(crate) fn print(text: &str) -> Result<(), OutputError> {
    Output::new(Signals::default()).write_all([text, "\n"].concat().as_bytes())
}

/// Whether a chunk can be written without blocking; waits for a short time.
fn wait_writable(fd: BorrowedFd<'_>) -> Result<bool, OutputError> {
    let mut fds = [PollFd::new(fd, PollFlags::POLLOUT)];
    match poll(&mut fds, PollTimeout::from(100u8)) {
        // An error occurs when writing.
        Ok(n) => Ok(n > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(error) => Err(OutputError::Failed(error.into())),
    }
}
