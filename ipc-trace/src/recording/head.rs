//! What a recording says of its run, and where its blocks are.

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, little_endian::U32, little_endian::U64,
};

use super::block::{BlockHeader, MAGIC};
use crate::input::Begin;

/// The payload of a head block.
#[derive(Clone, Debug, Default, Encode, Decode)]
pub(crate) struct Head {
    /// The metadata of the run
    #[n(0)]
    pub begin: Begin,
    /// The policy; `None`: there was none
    #[n(1)]
    pub policy: Option<RecordedPolicy>,
    /// Whether calls are counted, not recorded one by one (`--counts`)
    #[n(2)]
    pub counts: bool,
}

/// A policy, with all that it depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(crate) struct RecordedPolicy {
    /// The file
    #[n(0)]
    pub file: String,
    /// Its text
    #[n(1)]
    pub text: String,
    /// The users that it names, with their numbers on the host
    #[n(2)]
    pub users: BTreeMap<String, u32>,
}

/// A block, in the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct IndexEntry {
    /// Where its header begins in the file
    #[n(0)]
    pub offset: u64,
    /// Its kind
    #[n(1)]
    pub kind: u8,
    /// As in the header
    #[n(2)]
    pub position: u64,
    /// As in the header
    #[n(3)]
    pub first_ns: u64,
    /// As in the header
    #[n(4)]
    pub last_ns: u64,
    /// As in the header
    #[n(5)]
    pub inputs: u32,
    /// As in the header
    #[n(6)]
    pub calls: u64,
}

impl IndexEntry {
    /// The block with this header.
    pub(super) fn new(offset: u64, header: &BlockHeader) -> Self {
        Self {
            offset,
            kind: header.kind,
            position: header.position.get(),
            first_ns: header.first_ns.get(),
            last_ns: header.last_ns.get(),
            inputs: header.inputs.get(),
            calls: header.calls.get(),
        }
    }
}

/// The last bytes of a file that was closed: where its index is.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(super) struct Trailer {
    /// Where the index block begins in the file
    offset: U64,
    /// CRC-32C of `offset`
    crc: U32,
    /// The first half of [`MAGIC`], backwards
    magic: [u8; 4],
}

pub(super) const TRAILER_LEN: usize = size_of::<Trailer>();

impl Trailer {
    fn magic() -> [u8; 4] {
        let [a, b, c, d, ..] = MAGIC;
        [d, c, b, a]
    }

    /// The trailer for an index at `offset`.
    pub(super) fn new(offset: u64) -> Self {
        let offset = U64::new(offset);
        Self { offset, crc: crc32c::crc32c(offset.as_bytes()).into(), magic: Self::magic() }
    }

    /// Where the index is; `None`: these bytes are no trailer.
    pub(super) fn parse(bytes: &[u8]) -> Option<u64> {
        let trailer = Self::read_from_bytes(bytes).ok()?;
        let right = trailer.magic == Self::magic()
            && trailer.crc.get() == crc32c::crc32c(trailer.offset.as_bytes());
        right.then(|| trailer.offset.get())
    }
}
