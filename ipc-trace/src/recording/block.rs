//! The blocks of a recording. Each stands alone: a header with its own checksum, and a compressed payload with one. A
//! recording is blocks, one behind the other, so a part of one is one, and so are several in a row.

use std::io;

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout,
    little_endian::{U32, U64},
};

use super::Damage;

/// The first bytes of each block.
pub(super) const MAGIC: [u8; 8] = *b"IPCTRACE";
/// The version of the format: a reader refuses later ones.
pub(super) const VERSION: u8 = 1;
/// The largest payload, in bytes: a snapshot of a host with a million objects fits.
pub(super) const MAX_PAYLOAD: u32 = 256 << 20;

/// zstd's level: higher ones need several times the processor for a tenth of the size.
const LEVEL: i32 = 1;
/// Smaller payloads are stored as they are.
const MIN_COMPRESSED: usize = 64;

/// What is in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum BlockKind {
    /// The run's metadata
    Head = 1,
    /// Inputs
    Inputs = 2,
    /// Where the blocks of this file are
    Index = 3,
    /// The engine's state after the inputs before
    Checkpoint = 4,
    /// How often calls were made in the inputs before, by second
    Counts = 5,
}

impl BlockKind {
    /// The kind of a number; `None`: a later version's.
    pub(super) fn from_number(number: u8) -> Option<Self> {
        [Self::Head, Self::Inputs, Self::Index, Self::Checkpoint, Self::Counts]
            .into_iter()
            .find(|kind| *kind as u8 == number)
    }
}

/// The header of a block. Numbers are little-endian.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(super) struct BlockHeader {
    /// [`MAGIC`]
    magic: [u8; 8],
    /// [`VERSION`]
    version: u8,
    /// A [`BlockKind`]; others are skipped
    pub kind: u8,
    /// 0: the payload is stored as it is; 1: compressed by zstd
    compression: u8,
    reserved: u8,
    /// Bytes of the payload in the file
    pub stored: U32,
    /// Bytes of the payload, uncompressed
    unpacked: U32,
    /// CRC-32C of the payload in the file
    crc: U32,
    /// How many inputs the run had before this block
    pub position: U64,
    /// The first and the last time in it, boot time in nanoseconds; 0: it has none
    pub first_ns: U64,
    pub last_ns: U64,
    /// How many inputs it has
    pub inputs: U32,
    /// How many calls are in them
    pub calls: U64,
    /// CRC-32C of the header up to here
    header_crc: U32,
}

pub(super) const HEADER_LEN: usize = size_of::<BlockHeader>();
const _: () = assert!(HEADER_LEN == 64);

impl BlockHeader {
    /// A header without payload, for inputs from `position` on.
    pub(super) fn new(kind: BlockKind, position: u64) -> Self {
        Self { kind: kind as u8, position: position.into(), ..Self::default() }
    }

    /// Bytes of the whole block in the file.
    pub(super) fn len(&self) -> u64 {
        HEADER_LEN as u64 + u64::from(self.stored.get())
    }

    /// The header at the beginning of `bytes`.
    ///
    /// # Errors
    /// There is none, it is damaged, or a later version's.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Damage> {
        let (header, _) =
            Self::read_from_prefix(bytes).map_err(|_| Damage::Content("a header is cut off"))?;
        if header.magic != MAGIC {
            return Err(Damage::Content("no block begins here"));
        }
        let checked = bytes.get(..HEADER_LEN - 4).unwrap_or_default();
        if crc32c::crc32c(checked) != header.header_crc.get() {
            return Err(Damage::Content("a header's checksum is wrong"));
        }
        if header.version > VERSION {
            return Err(Damage::Version(header.version));
        }
        if header.stored.get().max(header.unpacked.get()) > MAX_PAYLOAD {
            return Err(Damage::Content("a block is too large"));
        }
        Ok(header)
    }

    fn seal(&mut self) {
        (self.magic, self.version) = (MAGIC, VERSION);
        let bytes = self.as_bytes();
        self.header_crc = crc32c::crc32c(bytes.get(..HEADER_LEN - 4).unwrap_or_default()).into();
    }
}

/// Packs payloads into blocks.
pub(super) struct Packer(zstd::bulk::Compressor<'static>);

impl std::fmt::Debug for Packer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Packer")
    }
}

impl Packer {
    /// # Errors
    /// There is no memory.
    pub(super) fn new() -> io::Result<Self> {
        zstd::bulk::Compressor::new(LEVEL).map(Self)
    }

    /// Appends a block to `to`.
    ///
    /// # Errors
    /// The payload is too large, or can't be compressed.
    pub(super) fn pack(
        &mut self,
        mut header: BlockHeader,
        payload: &[u8],
        to: &mut Vec<u8>,
    ) -> io::Result<BlockHeader> {
        let unpacked = u32::try_from(payload.len()).ok().filter(|len| *len <= MAX_PAYLOAD);
        let unpacked = unpacked.ok_or_else(|| io::Error::other("a block is too large"))?;
        let at = to.len();
        to.extend_from_slice(header.as_bytes());
        if payload.len() < MIN_COMPRESSED {
            to.extend_from_slice(payload);
        } else {
            let bound = zstd::zstd_safe::compress_bound(payload.len());
            to.resize(at + HEADER_LEN + bound, 0);
            let place = to.get_mut(at + HEADER_LEN..).unwrap_or_default();
            let len = self.0.compress_to_buffer(payload, place)?;
            to.truncate(at + HEADER_LEN + len);
            header.compression = 1;
        }
        let stored = to.get(at + HEADER_LEN..).unwrap_or_default();
        (header.stored, header.unpacked) = ((stored.len() as u32).into(), unpacked.into());
        header.crc = crc32c::crc32c(stored).into();
        header.seal();
        if let Some(place) = to.get_mut(at..at + HEADER_LEN) {
            place.copy_from_slice(header.as_bytes());
        }
        Ok(header)
    }
}

/// Unpacks payloads.
pub(super) struct Unpacker(zstd::bulk::Decompressor<'static>);

impl std::fmt::Debug for Unpacker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Unpacker")
    }
}

impl Unpacker {
    /// # Errors
    /// There is no memory.
    pub(super) fn new() -> io::Result<Self> {
        zstd::bulk::Decompressor::new().map(Self)
    }

    /// Unpacks the payload of a block into `to`.
    ///
    /// # Errors
    /// It is damaged.
    pub(super) fn unpack(
        &mut self,
        header: &BlockHeader,
        stored: &[u8],
        to: &mut Vec<u8>,
    ) -> Result<(), Damage> {
        to.clear();
        if crc32c::crc32c(stored) != header.crc.get() {
            return Err(Damage::Content("a block's checksum is wrong"));
        }
        let unpacked = header.unpacked.get() as usize;
        match header.compression {
            0 => to.extend_from_slice(stored),
            1 => {
                to.reserve_exact(unpacked);
                self.0
                    .decompress_to_buffer(stored, to)
                    .map_err(|_| Damage::Content("a block can't be uncompressed"))?;
            }
            _ => return Err(Damage::Content("a block is compressed in an unknown way")),
        }
        if to.len() == unpacked {
            Ok(())
        } else {
            Err(Damage::Content("a block has another size than its header says"))
        }
    }
}
