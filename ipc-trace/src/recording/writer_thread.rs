//! The thread that writes a recording: makes blocks of inputs.

use std::{
    io,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use super::{
    RecordingTarget,
    block::{BlockHeader, BlockKind, MAX_PAYLOAD},
    block_writer::BlockWriter,
    chunk::Chunk,
    column_writer::ColumnWriter,
    counts,
    destination::{Destination, create_timed},
    flight::FlightRecorder,
    head::Head,
    rotation::RecordingFiles,
    writer_parts::{InputCounts, NO_FREE, RecordingSummary, Shared, Then},
};

/// How many bytes of columns make a block, before compression.
const BLOCK_BYTES: usize = 1 << 20;
/// How long to wait before a write that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Writes blocks.
#[derive(Debug)]
pub(super) struct RecordingWriter {
    name: String,
    blocks: Box<dyn Destination>,
    columns: ColumnWriter,
    /// How many inputs the run had before those in the columns
    position: u64,
    payload: Vec<u8>,
    /// Since when writing fails, and how many inputs were lost
    failing: Option<(Instant, u64)>,
    /// Whether inputs were lost since the engine's state was written, so that a reader needs it
    is_torn: bool,
    /// The first and the last time of inputs since counts were written
    uncounted_times: Option<(u64, u64)>,
    /// Whether the engine's state is too large
    gave_up: bool,
    summary: RecordingSummary,
    shared: Arc<Shared>,
}

impl RecordingWriter {
    /// Creates the file.
    ///
    /// # Errors
    /// It exists, or can't be created.
    pub(super) fn create(
        target: &RecordingTarget,
        head: &Head,
        shared: Arc<Shared>,
    ) -> io::Result<Self> {
        let head = minicbor::to_vec(head).map_err(io::Error::other)?;
        let files = |blocks, rotation, head| -> io::Result<Box<dyn Destination>> {
            Ok(Box::new(RecordingFiles::begin(blocks, rotation, head)?))
        };
        let blocks = match target {
            RecordingTarget::File(path) => files(BlockWriter::create(path)?, None, head)?,
            RecordingTarget::Stdout => files(BlockWriter::stdout()?, None, head)?,
            RecordingTarget::Rotating(path, rotation) => {
                let (_, blocks) = create_timed(path)?;
                files(blocks, Some((path.clone(), *rotation)), head)?
            }
            RecordingTarget::Flight(path, limits) => {
                Box::new(FlightRecorder::new(path.clone(), *limits, head)?)
            }
        };
        Ok(Self {
            name: target.to_string(),
            blocks,
            columns: ColumnWriter::default(),
            position: 0,
            payload: Vec::new(),
            failing: None,
            is_torn: false,
            uncounted_times: None,
            gave_up: false,
            summary: RecordingSummary::default(),
            shared,
        })
    }

    /// Takes a part of the inputs.
    pub(super) fn append(&mut self, position: u64, inputs: &Chunk, flush: bool) {
        self.shared.waiting.fetch_sub(inputs.bytes(), Relaxed);
        if position != self.position + self.columns.inputs {
            self.is_torn = true;
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
    }

    /// Does what is to be done after inputs.
    pub(super) fn then(&mut self, then: Then) {
        match then {
            Then::Nothing => {}
            Then::Checkpoint(state, boot_ns) => self.checkpoint(&state, boot_ns),
            Then::Counts(counts) => self.counts(&counts),
            Then::Dump => self.dump(),
        }
    }

    /// Shows how far it is.
    pub(super) fn show_progress(&mut self) {
        self.shared.free.store(self.blocks.free().unwrap_or(NO_FREE), Relaxed);
        // While writing fails, nobody would have it.
        let can = self.failing.is_none() && !self.gave_up;
        let wants = self.blocks.wants_checkpoint() || self.is_torn;
        self.shared.wants_checkpoint.store(can && wants, Relaxed);
    }

    fn checkpoint(&mut self, state: &[u8], boot_ns: u64) {
        let mut header = BlockHeader::new(BlockKind::Checkpoint, self.position);
        (header.first_ns, header.last_ns) = (boot_ns.into(), boot_ns.into());
        if state.len() > MAX_PAYLOAD as usize {
            log::warn!(
                "the state of {} bytes is too large for a recording: there are no more checkpoints, and no new files",
                state.len()
            );
            self.gave_up = true;
        } else if self.failing.is_none() {
            match self.blocks.checkpoint(header, state) {
                Ok(()) => self.is_torn = false,
                Err(error) => self.fail(&error, 0),
            }
        }
        self.shared.written.store(self.blocks.bytes(), Relaxed);
    }

    fn counts(&mut self, counted: &InputCounts) {
        // They are about what is in the columns, too, so they come after it.
        self.seal();
        let InputCounts { position, inputs, counts } = counted;
        let mut header = BlockHeader::new(BlockKind::Counts, *position);
        let (first, last) = self.uncounted_times.take().unwrap_or_default();
        (header.first_ns, header.last_ns) = (first.into(), last.into());
        let calls = counts.iter().fold(0_u64, |sum, one| sum.saturating_add(one.calls));
        (header.inputs, header.calls) = ((*inputs).into(), calls.into());
        // Without these counts, a reader counts the inputs again.
        if self.failing.is_some() {
            return;
        }
        let payload = counts::encode(counts);
        if payload.len() > MAX_PAYLOAD as usize {
            log::warn!("counts of {} bytes are too large for a recording", payload.len());
            return;
        }
        if let Err(error) = self.blocks.write(header, &payload) {
            self.fail(&error, 0);
        }
        self.shared.written.store(self.blocks.bytes(), Relaxed);
    }

    fn dump(&mut self) {
        match self.blocks.dump(self.position) {
            Ok(file) => self.shared.dumped().extend(file),
            Err(error) => log::error!("can't write a file to {}: {error}", self.name),
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
        if let Some((first, last)) = self.columns.times {
            let (begin, end) = self.uncounted_times.unwrap_or((first, last));
            self.uncounted_times = Some((begin.min(first), end.max(last)));
        }
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
        self.is_torn |= inputs > 0;
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

    /// Ends the recording.
    ///
    /// # Errors
    /// Something can't be written.
    pub(super) fn finish(mut self) -> io::Result<RecordingSummary> {
        self.failing =
            self.failing.map(|(since, lost)| (since.checked_sub(RETRY).unwrap_or(since), lost));
        self.seal();
        self.dump();
        self.summary.dumped = std::mem::take(&mut *self.shared.dumped());
        self.blocks.close(self.position)?;
        self.summary.bytes = self.blocks.bytes();
        self.summary.lost = self.shared.lost.load(Relaxed);
        Ok(self.summary)
    }
}
