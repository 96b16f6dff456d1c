//! A flight recorder: the last minutes in memory, and in a file when that is asked for.
//!
//! Invariant: its memory is bounded, and what it writes begins with the engine's state.

use std::{
    collections::VecDeque,
    io,
    path::PathBuf,
    time::{Duration, Instant},
};

use super::{
    FlightLimits,
    block::{BlockHeader, BlockKind, Packer},
    destination::{Destination, DumpedFile, create_timed},
};

/// In how many parts it forgets: each begins with the engine's state.
const PARTS: u32 = 8;
/// The shortest part.
const MIN_PART: Duration = Duration::from_secs(1);

/// Blocks from one state of the engine to the next.
#[derive(Debug)]
struct FlightPart {
    began: Instant,
    /// Packed, with their headers
    blocks: Vec<(BlockHeader, Box<[u8]>)>,
    bytes: u64,
    /// Those of them that are of inputs
    input_bytes: u64,
}

impl FlightPart {
    fn new() -> Self {
        Self { began: Instant::now(), blocks: Vec::new(), bytes: 0, input_bytes: 0 }
    }
}

/// The last minutes.
#[derive(Debug)]
pub(super) struct FlightRecorder {
    path: PathBuf,
    limits: FlightLimits,
    /// The payload of heads
    head: Vec<u8>,
    packer: Packer,
    /// The oldest first; there is always one
    parts: VecDeque<FlightPart>,
}

impl FlightRecorder {
    /// # Errors
    /// There is no memory.
    pub(super) fn new(path: PathBuf, limits: FlightLimits, head: Vec<u8>) -> io::Result<Self> {
        let (packer, parts) = (Packer::new()?, VecDeque::from([FlightPart::new()]));
        Ok(Self { path, limits, head, packer, parts })
    }

    fn total(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum()
    }

    fn push(&mut self, header: BlockHeader, payload: &[u8]) -> io::Result<()> {
        let mut block = Vec::new();
        let header = self.packer.pack(header, payload, &mut block)?;
        if let Some(part) = self.parts.back_mut() {
            part.bytes += block.len() as u64;
            if header.kind == BlockKind::Inputs as u8 {
                part.input_bytes += block.len() as u64;
            }
            part.blocks.push((header, block.into()));
        }
        self.forget();
        Ok(())
    }

    /// Forgets the oldest parts, if the others last long enough, or take too much memory.
    fn forget(&mut self) {
        while let Some(second) = self.parts.get(1)
            && (second.began.elapsed() >= self.limits.length || self.total() > self.limits.bytes)
        {
            self.parts.pop_front();
        }
    }

    fn write_file(&self, position: u64) -> io::Result<DumpedFile> {
        let (path, mut file) = create_timed(&self.path)?;
        let written = (|| {
            file.begin(&self.head)?;
            for (header, block) in self.parts.iter().flat_map(|part| &part.blocks) {
                file.write_packed(header, block)?;
            }
            file.close(position)
        })();
        if written.is_err() {
            // A part of it would be no whole recording.
            let _ = std::fs::remove_file(&path);
        }
        Ok(DumpedFile { bytes: written?, path })
    }
}

impl Destination for FlightRecorder {
    fn write(&mut self, header: BlockHeader, payload: &[u8]) -> io::Result<()> {
        self.push(header, payload)
    }

    fn wants_checkpoint(&mut self) -> bool {
        self.forget();
        let FlightLimits { length, bytes } = self.limits;
        self.parts.back().is_none_or(|part| {
            part.began.elapsed() >= (length / PARTS).max(MIN_PART)
                || part.input_bytes >= bytes / u64::from(PARTS)
        })
    }

    fn checkpoint(&mut self, header: BlockHeader, state: &[u8]) -> io::Result<()> {
        self.parts.push_back(FlightPart::new());
        self.push(header, state)
    }

    fn dump(&mut self, position: u64) -> io::Result<Option<DumpedFile>> {
        let file = self.write_file(position)?;
        Ok(Some(file))
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn bytes(&self) -> u64 {
        self.total()
    }

    fn free(&self) -> Option<u64> {
        None
    }

    fn has_room(&self) -> bool {
        true
    }

    fn close(&mut self, _position: u64) -> io::Result<()> {
        Ok(())
    }
}
