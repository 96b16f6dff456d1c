//! Standard output, which may be slow, stuck, full or closed.
//!
//! It is written to in pieces that a pipe takes whole once it is ready (`PIPE_BUF`), after waiting
//! for it to be ready. So a reader that has stopped reading does not keep the program from seeing
//! that it is to end.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::write,
};

use crate::signals::Signals;

/// `PIPE_BUF` (include/uapi/linux/limits.h): a pipe that polls as writable takes that much.
const PIECE: usize = 4096;
/// Once the program is to end: how long a reader is waited for that takes nothing. One that reads may well
/// be busy with what it has for half a second, or be kept from running.
const PATIENCE: Duration = Duration::from_secs(3);
/// Once it was told so again: how long is written to any reader.
const LAST: Duration = Duration::from_millis(500);

/// Why output can't go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OutputError {
    /// The reader is gone: a quiet end.
    #[error("standard output was closed")]
    Closed,
    /// The reader does not read, and the program was told to end.
    #[error("standard output is stuck: {0} bytes could not be written before the end")]
    Stuck(usize),
    /// The reader reads, and the program was told to end for the second time.
    #[error("told to end for the second time: {0} bytes were not written")]
    Hurried(usize),
    /// What the engine was fed with can't be kept.
    #[error("can't keep the inputs: {0}")]
    Kept(io::Error),
    /// Another error, such as a full disk.
    #[error("can't write to standard output: {0}")]
    Failed(#[from] io::Error),
}

/// Standard output.
#[derive(Debug)]
pub(crate) struct Output {
    stdout: io::Stdout,
    signals: Signals,
    /// The reader has taken nothing since
    since: Option<Instant>,
    /// The program was told to end for the second time, as was seen then
    told_again: Option<Instant>,
}

impl Output {
    /// Standard output of a program that ends by such signals.
    #[must_use]
    pub(crate) fn new(signals: Signals) -> Self {
        Self { stdout: io::stdout(), signals, since: None, told_again: None }
    }

    /// Writes everything, as slowly as the reader takes it.
    ///
    /// # Errors
    /// The reader is gone, or is stuck while the program is to end, or is slow when it was told so again, or
    /// writing failed.
    pub(crate) fn write_all(&mut self, mut bytes: &[u8]) -> Result<(), OutputError> {
        while !bytes.is_empty() {
            if self.signals.end_now()
                && self.told_again.get_or_insert_with(Instant::now).elapsed() > LAST
            {
                return Err(OutputError::Hurried(bytes.len()));
            }
            let fd = self.stdout.as_fd();
            if !ready(fd)? {
                if self.signals.end()
                    && self.since.get_or_insert_with(Instant::now).elapsed() > PATIENCE
                {
                    return Err(OutputError::Stuck(bytes.len()));
                }
                continue;
            }
            self.since = None;
            let piece = bytes.get(..PIECE).unwrap_or(bytes);
            match write(fd, piece) {
                Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(Errno::EPIPE) => return Err(OutputError::Closed),
                Err(error) => return Err(OutputError::Failed(error.into())),
            }
        }
        Ok(())
    }

    /// Looks whether anyone is still reading, which else shows only when there is something to write.
    ///
    /// # Errors
    /// The reader is gone.
    pub(crate) fn check(&self) -> Result<(), OutputError> {
        // Of errors poll(2) tells unasked: of a pipe without readers, or a terminal that hung up.
        let mut fds = [PollFd::new(self.stdout.as_fd(), PollFlags::empty())];
        match poll(&mut fds, PollTimeout::ZERO) {
            Ok(1..) => Err(OutputError::Closed),
            // What else is wrong shows itself when writing.
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

/// Prints a text that is there at once.
///
/// # Errors
/// The reader is gone, or writing failed.
pub(crate) fn print(text: &str) -> Result<(), OutputError> {
    Output::new(Signals::default()).write_all([text, "\n"].concat().as_bytes())
}

/// Whether a piece can be written without waiting, within a short time.
fn ready(fd: BorrowedFd<'_>) -> Result<bool, OutputError> {
    let mut fds = [PollFd::new(fd, PollFlags::POLLOUT)];
    match poll(&mut fds, PollTimeout::from(100u8)) {
        // An error shows itself when writing.
        Ok(n) => Ok(n > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(error) => Err(OutputError::Failed(error.into())),
    }
}
