//! Writes blocks to a new file or a stream, and an index at the end.

use std::{
    fs::{File, OpenOptions},
    io::{self, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use zerocopy::IntoBytes as _;

use super::{
    block::{BlockHeader, BlockKind, Packer},
    head::{IndexEntry, Trailer},
};

/// How many bytes must be free before writing goes on after it failed: with less, it would fail again soon.
const MIN_ROOM: u64 = 64 << 10;

/// The file or the stream.
#[derive(Debug)]
enum BlockTarget {
    File(File),
    Stdout(io::Stdout),
}

/// Creates a file that only its owner can read. A file that exists, or a link, is an error.
fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    options.open(path).map_err(|error| {
        if error.kind() == io::ErrorKind::AlreadyExists {
            return io::Error::new(error.kind(), "it exists; choose another name, or remove it");
        }
        error
    })
}

/// Writes blocks.
#[derive(Debug)]
pub(super) struct BlockWriter {
    target: BlockTarget,
    packer: Packer,
    block: Vec<u8>,
    index: Vec<IndexEntry>,
    /// Where the next block begins
    offset: u64,
}

impl BlockWriter {
    /// Creates a file.
    ///
    /// # Errors
    /// It exists, or can't be created.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        Self::new(BlockTarget::File(create(path)?))
    }

    /// Writes to standard output.
    ///
    /// # Errors
    /// There is no memory.
    pub(super) fn stdout() -> io::Result<Self> {
        Self::new(BlockTarget::Stdout(io::stdout()))
    }

    fn new(target: BlockTarget) -> io::Result<Self> {
        let (packer, block, index) = (Packer::new()?, Vec::new(), Vec::new());
        Ok(Self { target, packer, block, index, offset: 0 })
    }

    /// Begins with two heads: without one, nothing can be read.
    ///
    /// # Errors
    /// They can't be written.
    pub(super) fn begin(&mut self, head: &[u8]) -> io::Result<()> {
        for _ in 0..2 {
            self.write(BlockHeader::new(BlockKind::Head, 0), head)?;
        }
        Ok(())
    }

    /// Bytes written so far.
    pub(super) fn bytes(&self) -> u64 {
        self.offset
    }

    /// Writes a block. After an error the file is as it was before.
    ///
    /// # Errors
    /// It can't be written.
    pub(super) fn write(&mut self, header: BlockHeader, payload: &[u8]) -> io::Result<()> {
        let mut block = std::mem::take(&mut self.block);
        block.clear();
        let header = self.packer.pack(header, payload, &mut block);
        let written = header.and_then(|header| self.write_packed(&header, &block));
        self.block = block;
        written
    }

    /// As [`Self::write`], for a block that is packed.
    ///
    /// # Errors
    /// It can't be written.
    pub(super) fn write_packed(&mut self, header: &BlockHeader, block: &[u8]) -> io::Result<()> {
        let written = match &mut self.target {
            BlockTarget::File(file) => file.write_all(block),
            BlockTarget::Stdout(stdout) => stdout.write_all(block).and_then(|()| stdout.flush()),
        };
        if let Err(error) = written {
            if let BlockTarget::File(file) = &mut self.target {
                // A part of a block is none. If this fails too, a reader finds the next one.
                let _ = file.set_len(self.offset);
                let _ = file.seek(SeekFrom::Start(self.offset));
            }
            return Err(error);
        }
        self.index.push(IndexEntry::new(self.offset, header));
        self.offset += block.len() as u64;
        Ok(())
    }

    /// How many bytes are free in the file system; `None`: unknown.
    pub(super) fn free(&self) -> Option<u64> {
        let BlockTarget::File(file) = &self.target else { return None };
        let free = nix::sys::statvfs::fstatvfs(file).ok()?;
        Some(free.blocks_available().saturating_mul(free.fragment_size()))
    }

    /// Whether the file system has room for more than the next block. If that is unknown, writing shows it.
    pub(super) fn has_room(&self) -> bool {
        self.free().is_none_or(|free| free >= MIN_ROOM)
    }

    /// Has everything reach the disk.
    ///
    /// # Errors
    /// The disk refuses it.
    pub(super) fn sync(&self) -> io::Result<()> {
        match &self.target {
            BlockTarget::File(file) => file.sync_data(),
            BlockTarget::Stdout(_) => Ok(()),
        }
    }

    /// Writes the index. `position`: how many inputs the run had. Returns the bytes of the file.
    ///
    /// # Errors
    /// It can't be written.
    pub(super) fn close(&mut self, position: u64) -> io::Result<u64> {
        let offset = self.offset;
        let payload = minicbor::to_vec(&self.index).map_err(io::Error::other)?;
        let header = BlockHeader::new(BlockKind::Index, position);
        let mut block = Vec::new();
        let header = self.packer.pack(header, &payload, &mut block)?;
        block.extend_from_slice(Trailer::new(offset).as_bytes());
        self.write_packed(&header, &block)?;
        self.sync()?;
        Ok(self.offset)
    }
}
