//! Records the engine's inputs to a file, in the order in which it got them.
//!
//! Invariant: the feeding thread does not wait for the file.

use std::{
    fs::File,
    io::{self, Write as _},
    path::Path,
    sync::mpsc::{self, Sender},
    thread::{self, JoinHandle},
};

use crate::input::{Begin, Input, stream};

/// How many bytes are collected before they are passed on.
const BATCH_BYTES: usize = 1 << 16;

/// Records inputs to a file.
#[derive(Debug)]
pub(crate) struct Recorder {
    together: Vec<u8>,
    pieces: Sender<Vec<u8>>,
    thread: JoinHandle<io::Result<()>>,
    /// Why an input could not be recorded
    failed: Option<io::Error>,
}

impl Recorder {
    /// Starts with the run's first input.
    ///
    /// # Errors
    /// The file or the thread can't be created.
    pub(crate) fn start(file: &Path, begin: &Begin) -> io::Result<Self> {
        let mut file = File::create(file)?;
        let (pieces, written) = mpsc::channel::<Vec<u8>>();
        let write = move || written.into_iter().try_for_each(|piece| file.write_all(&piece));
        let thread = thread::Builder::new().name("ipc-trace-keep".to_owned()).spawn(write)?;
        let mut together = Vec::new();
        stream::begin(begin, &mut together)?;
        Ok(Self { together, pieces, thread, failed: None })
    }

    /// Records an input.
    pub(crate) fn keep(&mut self, input: &Input<'_>) {
        if let Err(error) = stream::append(input, &mut self.together) {
            self.failed.get_or_insert(error);
        }
        if self.together.len() >= BATCH_BYTES {
            // If the thread has stopped writing, its result says why.
            let _ = self.pieces.send(std::mem::take(&mut self.together));
        }
    }

    /// Waits until everything is written.
    ///
    /// # Errors
    /// Writing failed.
    pub(crate) fn finish(self) -> io::Result<()> {
        let Self { together, pieces, thread, failed } = self;
        let _ = pieces.send(together);
        drop(pieces);
        let written = thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread failed")));
        written.and(failed.map_or(Ok(()), Err))
    }
}
