//! Writes a recording, in a thread of its own.
//!
//! Invariant: the thread that feeds the engine does not wait for the file. What can't be written is counted, and leaves a
//! gap in the positions of the blocks, which a reader reports.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
        mpsc::{self, Receiver, Sender},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{
    RecordingTarget,
    block::{BlockHeader, BlockKind},
    block_writer::BlockWriter,
    chunk::Chunk,
    column_writer::ColumnWriter,
    head::Head,
};
use crate::input::Input;

/// How many bytes are collected before they are passed on.
const CHUNK_BYTES: usize = 1 << 17;
/// How many bytes of columns make a block, before compression.
const BLOCK_BYTES: usize = 1 << 20;
/// How many bytes can wait for the thread.
const MAX_WAITING: usize = 256 << 20;
/// How many empty chunks are kept.
const MAX_FREE: usize = 16;
/// How long to wait before a write that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Inputs for the thread.
#[derive(Debug)]
struct Part {
    /// How many inputs the run had before them
    position: u64,
    inputs: Chunk,
    /// Whether to write them at once
    flush: bool,
}

/// What the threads share.
#[derive(Debug, Default)]
struct Shared {
    /// Bytes that wait for the thread
    waiting: AtomicUsize,
    /// Inputs that were not recorded
    lost: AtomicU64,
    /// Bytes that were written
    written: AtomicU64,
    /// Bytes that are free in the file system, or [`NO_FREE`]
    free: AtomicU64,
    /// Whether the reader of a stream is gone
    is_closed: AtomicBool,
}

/// The free bytes are unknown.
const NO_FREE: u64 = u64::MAX;

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

/// What was recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RecordingSummary {
    /// Bytes in the file
    pub bytes: u64,
    /// Inputs in it
    pub inputs: u64,
    /// Calls in them
    pub calls: u64,
    /// Inputs that are not in it
    pub lost: u64,
}

/// Records inputs.
#[derive(Debug)]
pub(crate) struct Recorder {
    chunk: Chunk,
    position: u64,
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
        let shared = Shared { free: AtomicU64::new(NO_FREE), ..Shared::default() };
        let shared = Arc::new(shared);
        let (parts, received) = mpsc::channel();
        let (returned, free) = mpsc::sync_channel(MAX_FREE);
        let mut writer = RecordingWriter::create(target, head, Arc::clone(&shared))?;
        let run = move || {
            while let Ok(part) = received.recv() {
                let Part { position, mut inputs, flush } = part;
                writer.shared.waiting.fetch_sub(inputs.bytes(), Relaxed);
                writer.append(position, &inputs, flush);
                inputs.clear();
                // As many are kept as there is room for.
                let _ = returned.try_send(inputs);
            }
            writer.finish()
        };
        let thread = thread::Builder::new().name("ipc-trace-rec".to_owned()).spawn(run)?;
        Ok(Self { chunk: Chunk::default(), position: 0, parts, free, shared, thread })
    }

    /// Records an input.
    #[inline]
    pub(crate) fn record(&mut self, input: &Input<'_>) {
        if let Err(error) = self.chunk.push(input) {
            log::warn!("an input is not recorded: {error}");
            self.shared.lost.fetch_add(1, Relaxed);
            self.pass_on(false);
            self.position += 1;
        }
        if self.chunk.bytes() >= CHUNK_BYTES {
            self.pass_on(false);
        }
    }

    /// Has everything written that has been recorded so far.
    pub(crate) fn flush(&mut self) {
        self.pass_on(true);
    }

    fn pass_on(&mut self, flush: bool) {
        let bytes = self.chunk.bytes();
        let (position, inputs) = (self.position, self.chunk.inputs());
        self.position += inputs;
        if self.shared.waiting.load(Relaxed) > MAX_WAITING {
            self.shared.lost.fetch_add(inputs, Relaxed);
            self.chunk.clear();
            return;
        }
        self.shared.waiting.fetch_add(bytes, Relaxed);
        let empty = self.free.try_recv().unwrap_or_default();
        let inputs = std::mem::replace(&mut self.chunk, empty);
        // The thread ends only after this sender.
        let _ = self.parts.send(Part { position, inputs, flush });
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

/// Writes blocks.
#[derive(Debug)]
struct RecordingWriter {
    name: String,
    blocks: BlockWriter,
    columns: ColumnWriter,
    /// How many inputs the run had before those in the columns
    position: u64,
    payload: Vec<u8>,
    /// Since when writing fails, and how many inputs were lost
    failing: Option<(Instant, u64)>,
    summary: RecordingSummary,
    shared: Arc<Shared>,
}

impl RecordingWriter {
    fn create(target: &RecordingTarget, head: &Head, shared: Arc<Shared>) -> io::Result<Self> {
        let payload = minicbor::to_vec(head).map_err(io::Error::other)?;
        let mut blocks = BlockWriter::create(target)?;
        // Twice: without it nothing can be read.
        for _ in 0..2 {
            blocks.write(BlockHeader::new(BlockKind::Head, 0), &payload)?;
        }
        Ok(Self {
            name: target.to_string(),
            blocks,
            columns: ColumnWriter::default(),
            position: 0,
            payload,
            failing: None,
            summary: RecordingSummary::default(),
            shared,
        })
    }

    /// Takes a part of the inputs.
    fn append(&mut self, position: u64, inputs: &Chunk, flush: bool) {
        if position != self.position + self.columns.inputs {
            self.seal();
            self.position = position;
        }
        if let Err(damage) = self.columns.append(inputs) {
            log::warn!("inputs are not recorded: {damage}");
            self.lose(inputs.inputs());
        }
        if flush || self.columns.bytes() >= BLOCK_BYTES {
            self.seal();
        }
        if flush
            && self.failing.is_none()
            && let Err(error) = self.blocks.sync()
        {
            self.fail(&error, 0);
        }
        if flush {
            self.shared.free.store(self.blocks.free().unwrap_or(NO_FREE), Relaxed);
        }
    }

    /// Writes what is in the columns as a block.
    fn seal(&mut self) {
        let (inputs, calls) = (self.columns.inputs, self.columns.calls);
        if inputs == 0 {
            return;
        }
        let mut header = BlockHeader::new(BlockKind::Inputs, self.position);
        let (first, last) = self.columns.times.unwrap_or_default();
        (header.first_ns, header.last_ns) = (first.into(), last.into());
        (header.inputs, header.calls) = ((inputs as u32).into(), calls.into());
        self.position += inputs;
        self.payload.clear();
        self.columns.finish(&mut self.payload);
        if let Some((since, _)) = &mut self.failing
            && (since.elapsed() < RETRY || !self.blocks.has_room())
        {
            if since.elapsed() >= RETRY {
                *since = Instant::now();
            }
            self.lose(inputs);
            return;
        }
        match self.blocks.write(header, &self.payload) {
            Ok(()) => {
                self.shared.written.store(self.blocks.bytes(), Relaxed);
                self.summary.inputs += inputs;
                self.summary.calls += calls;
                if let Some((_, lost)) = self.failing.take() {
                    log::warn!("recording to {} goes on; {lost} inputs are missing", self.name);
                }
            }
            Err(error) => self.fail(&error, inputs),
        }
    }

    /// Counts inputs that are not recorded.
    fn lose(&mut self, inputs: u64) {
        self.shared.lost.fetch_add(inputs, Relaxed);
        if let Some((_, lost)) = &mut self.failing {
            *lost += inputs;
        }
    }

    fn fail(&mut self, error: &io::Error, inputs: u64) {
        if error.kind() == io::ErrorKind::BrokenPipe {
            self.shared.is_closed.store(true, Relaxed);
            return self.lose(inputs);
        }
        let (since, _) = self.failing.get_or_insert_with(|| {
            log::error!(
                "recording to {} stopped: {error}; tracing goes on, and so will the recording when it can be \
                 written again",
                self.name
            );
            (Instant::now(), 0)
        });
        *since = Instant::now();
        self.lose(inputs);
    }

    /// Writes the index.
    fn finish(mut self) -> io::Result<RecordingSummary> {
        self.failing =
            self.failing.map(|(since, lost)| (since.checked_sub(RETRY).unwrap_or(since), lost));
        self.seal();
        self.summary.bytes = self.blocks.close(self.position)?;
        self.summary.lost = self.shared.lost.load(Relaxed);
        Ok(self.summary)
    }
}
