//! Keeps what the engine is fed with: inputs to a file, in the order in which it got them.
//!
//! Invariant: who feeds does not wait for the file.

use std::{
    fs::File,
    io::{self, Write as _},
    path::Path,
    sync::mpsc::{self, Sender},
    thread::{self, JoinHandle},
};

use crate::input::{Begin, Input, stream};

/// Bytes that come together before they are handed on.
const TOGETHER: usize = 1 << 16;

/// Keeps inputs in a file.
#[derive(Debug)]
pub(crate) struct Recorder {
    together: Vec<u8>,
    pieces: Sender<Vec<u8>>,
    thread: JoinHandle<io::Result<()>>,
    /// Why an input could not be kept
    failed: Option<io::Error>,
}

impl Recorder {
    /// Begins with what a run is.
    ///
    /// # Errors
    /// The file can't be made, or there can be no thread.
    pub(crate) fn start(file: &Path, begin: &Begin) -> io::Result<Self> {
        let mut file = File::create(file)?;
        let (pieces, written) = mpsc::channel::<Vec<u8>>();
        let write = move || written.into_iter().try_for_each(|piece| file.write_all(&piece));
        let thread = thread::Builder::new().name("ipc-trace-keep".to_owned()).spawn(write)?;
        let mut together = Vec::new();
        stream::begin(begin, &mut together)?;
        Ok(Self { together, pieces, thread, failed: None })
    }

    /// Keeps an input.
    pub(crate) fn keep(&mut self, input: &Input<'_>) {
        if let Err(error) = stream::append(input, &mut self.together) {
            self.failed.get_or_insert(error);
        }
        if self.together.len() >= TOGETHER {
            // Where it is written no more, the thread tells why.
            let _ = self.pieces.send(std::mem::take(&mut self.together));
        }
    }

    /// Waits until all is written.
    ///
    /// # Errors
    /// It could not be.
    pub(crate) fn finish(self) -> io::Result<()> {
        let Self { together, pieces, thread, failed } = self;
        let _ = pieces.send(together);
        drop(pieces);
        let written = thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread failed")));
        written.and(failed.map_or(Ok(()), Err))
    }
}
