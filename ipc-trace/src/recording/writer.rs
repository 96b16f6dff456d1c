//! Writes a recording, in a thread of its own.
//!
//! Invariant: the thread that feeds the engine does not wait for the file. What can't be written is counted, and leaves a
//! gap in the positions of the blocks, which a reader reports.

use std::{
    io,
    sync::{
        Arc,
        atomic::Ordering::Relaxed,
        mpsc::{self, Receiver, Sender},
    },
    thread::{self, JoinHandle},
};

pub(crate) use super::destination::DumpedFile;
pub(crate) use super::writer_parts::RecordingSummary;
use super::{
    RecordingTarget,
    chunk::Chunk,
    head::Head,
    writer_parts::{InputCounts, NO_FREE, Part, Shared, Then},
    writer_thread::RecordingWriter,
};
use crate::{event::counts::SecondCounts, input::Input};

/// How many bytes are collected before they are passed on.
const CHUNK_BYTES: usize = 1 << 17;
/// How many bytes can wait for the thread.
const MAX_WAITING: usize = 256 << 20;
/// How many empty chunks are kept.
const MAX_FREE: usize = 16;
/// How many inputs a block of counts is about, at most about: a header has 32 bits for them.
const MAX_COUNTED: u64 = 1 << 30;

/// How far a recording is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordingProgress {
    /// Bytes that were written
    pub written: u64,
    /// Inputs that were not recorded
    pub lost: u64,
    /// Bytes that are free in the file system; `None`: unknown
    pub free: Option<u64>,
}

/// Records inputs.
#[derive(Debug)]
pub(crate) struct Recorder {
    chunk: Chunk,
    position: u64,
    /// Up to which position counts were passed on
    counted: u64,
    parts: Sender<Part>,
    free: Receiver<Chunk>,
    shared: Arc<Shared>,
    thread: JoinHandle<io::Result<RecordingSummary>>,
}

impl Recorder {
    /// Creates the file, writes the head, and starts the thread.
    ///
    /// # Errors
    /// The file exists, or it or the thread can't be created.
    pub(crate) fn start(target: &RecordingTarget, head: &Head) -> io::Result<Self> {
        let shared = Arc::new(Shared::new());
        let (parts, received) = mpsc::channel();
        let (returned, free) = mpsc::sync_channel(MAX_FREE);
        let mut writer = RecordingWriter::create(target, head, Arc::clone(&shared))?;
        let run = move || {
            while let Ok(part) = received.recv() {
                let Part { position, mut inputs, flush, then } = part;
                writer.append(position, &inputs, flush);
                writer.then(then);
                if flush {
                    writer.show_progress();
                }
                inputs.clear();
                // As many are kept as there is room for.
                let _ = returned.try_send(inputs);
            }
            writer.finish()
        };
        let thread = thread::Builder::new().name("ipc-trace-rec".to_owned()).spawn(run)?;
        let (chunk, position, counted) = (Chunk::default(), 0, 0);
        Ok(Self { chunk, position, counted, parts, free, shared, thread })
    }

    /// Records an input.
    #[inline]
    pub(crate) fn record(&mut self, input: &Input<'_>) {
        if let Err(error) = self.chunk.push(input) {
            log::warn!("an input is not recorded: {error}");
            self.shared.lost.fetch_add(1, Relaxed);
            self.pass_on(false, Then::Nothing);
            self.position += 1;
        }
        if self.chunk.bytes() >= CHUNK_BYTES {
            self.pass_on(false, Then::Nothing);
        }
    }

    /// Has everything written that has been recorded so far.
    pub(crate) fn flush(&mut self) {
        self.pass_on(true, Then::Nothing);
    }

    /// Whether the engine's state is needed: pass it to [`Self::checkpoint`].
    pub(crate) fn wants_checkpoint(&self) -> bool {
        self.shared.wants_checkpoint.load(Relaxed)
    }

    /// Records the engine's state after the inputs so far, as of a boot time, so that reading can begin there.
    pub(crate) fn checkpoint(&mut self, state: Vec<u8>, boot_ns: u64) {
        self.shared.wants_checkpoint.store(false, Relaxed);
        self.pass_on(true, Then::Checkpoint(state, boot_ns));
    }

    /// Whether counts are needed, as there are many inputs since they were last recorded.
    pub(crate) fn wants_counts(&self) -> bool {
        self.uncounted() >= MAX_COUNTED
    }

    /// How many inputs there are since counts were last recorded.
    fn uncounted(&self) -> u64 {
        self.position + self.chunk.inputs() - self.counted
    }

    /// Records how often calls were made, by second, in all inputs since the last time.
    pub(crate) fn record_counts(&mut self, counts: Vec<SecondCounts>) {
        let (position, inputs) = (self.counted, self.uncounted());
        self.counted += inputs;
        // Of more inputs than a header can say, they would be none of the block's.
        if let Ok(inputs @ 1..) = u32::try_from(inputs) {
            self.pass_on(false, Then::Counts(InputCounts { position, inputs, counts }));
        }
    }

    /// Has a flight recorder write what it has to a file.
    pub(crate) fn dump(&mut self) {
        self.pass_on(true, Then::Dump);
    }

    /// The files that a flight recorder wrote since the last call.
    pub(crate) fn take_dumped(&self) -> Vec<DumpedFile> {
        std::mem::take(&mut *self.shared.dumped())
    }

    fn pass_on(&mut self, flush: bool, then: Then) {
        let inputs = self.chunk.inputs();
        self.position += inputs;
        if self.shared.waiting.load(Relaxed) > MAX_WAITING {
            self.shared.lost.fetch_add(inputs, Relaxed);
            self.chunk.clear();
            if matches!(then, Then::Nothing) {
                return;
            }
        }
        self.shared.waiting.fetch_add(self.chunk.bytes(), Relaxed);
        let position = self.position - self.chunk.inputs();
        let empty = self.free.try_recv().unwrap_or_default();
        let inputs = std::mem::replace(&mut self.chunk, empty);
        // The thread ends only after this sender.
        let _ = self.parts.send(Part { position, inputs, flush, then });
    }

    /// Whether nobody reads the stream any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.shared.is_closed.load(Relaxed)
    }

    /// How far it is.
    pub(crate) fn progress(&self) -> RecordingProgress {
        let free = self.shared.free.load(Relaxed);
        RecordingProgress {
            written: self.shared.written.load(Relaxed),
            lost: self.shared.lost.load(Relaxed),
            free: (free != NO_FREE).then_some(free),
        }
    }

    /// Waits until everything is written.
    ///
    /// # Errors
    /// Writing failed.
    pub(crate) fn finish(mut self) -> io::Result<RecordingSummary> {
        self.flush();
        let Self { parts, thread, .. } = self;
        drop(parts);
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the recording thread panicked")))
    }
}
