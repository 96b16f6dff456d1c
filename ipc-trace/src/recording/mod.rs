//! Recordings: the engine's inputs in files. `docs/RECORDING.md` describes the format.
//!
//! | module | its job |
//! | --- | --- |
//! | [`chunk`] | inputs in memory, as they go from thread to thread |
//! | `entries` | rare inputs as CBOR |
//! | `columns` | the columns of a block |
//! | `column_writer`, `column_reader` | from inputs to columns, and back |
//! | `files` | opens recordings |
//! | `varint` | numbers of variable length |
//! | `block` | the blocks of a file: header, checksums, compression |
//! | `block_writer` | writes blocks and the index |
//! | `head` | what a recording says of its run, and where its blocks are |
//! | `index` | where the blocks of a file are |
//! | [`writer`], `writer_thread` | writes a recording, in a thread of its own |
//! | `writer_parts` | what this thread and the one that feeds the engine share |
//! | `destination` | where the blocks of a recording go |
//! | `rotation` | into files, one after the other |
//! | `flight` | into memory, and into a file when it is asked for |
//! | [`inspect`] | what is in a recording, and a copy of what is whole |
//! | `scanner` | finds the undamaged blocks of a file or a stream |
//! | [`reader`] | reads recordings: inputs in their order |
//! | `counts` | payloads of counts by second |
//! | `recorded_counts` | reads them, without the inputs |
//!
//! Invariant: any bytes give inputs or damage; never a panic, and no more memory than `block::MAX_PAYLOAD` allows.

pub(crate) mod chunk;
pub(crate) mod head;
pub(crate) mod inspect;
pub(crate) mod reader;
#[cfg(any(feature = "sqlite", feature = "parquet", test))]
pub(crate) mod recorded_counts;
pub(crate) mod writer;

mod block;
mod block_writer;
mod column_reader;
mod column_writer;
mod columns;
mod counts;
mod destination;
mod entries;
mod files;
mod flight;
mod index;
mod rotation;
mod scanner;
mod varint;
mod writer_parts;
mod writer_thread;

use std::{path::PathBuf, time::Duration};

/// Where to record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RecordingTarget {
    /// A new file
    File(PathBuf),
    /// Standard output
    Stdout,
    /// New files, one after the other
    Rotating(PathBuf, Rotation),
    /// Memory and, when it is asked for, a new file
    Flight(PathBuf, FlightLimits),
}

/// When a recording goes on in a new file, and what becomes of the old ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rotation {
    /// At this size in bytes
    pub size: Option<u64>,
    /// After this time
    pub every: Option<Duration>,
    /// What is kept; `None`: everything
    pub keep: Option<Keep>,
}

/// How much of the recordings with one name is kept, the one that is written included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// So many files
    Files(usize),
    /// So many bytes
    Bytes(u64),
}

/// How much a flight recorder keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FlightLimits {
    /// For how long
    pub length: Duration,
    /// At most so many bytes of memory
    pub bytes: u64,
}

impl std::fmt::Display for RecordingTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Stdout => f.write_str("standard output"),
            Self::Rotating(path, _) | Self::Flight(path, _) => write!(f, "{}.*", path.display()),
        }
    }
}

/// What is wrong with a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Damage {
    /// It is of a later version of the format.
    #[error(
        "its format is version {0}, and this ipc-trace reads up to version {ours}; use a newer ipc-trace",
        ours = block::VERSION
    )]
    Version(u8),
    /// Its bytes are not what they should be.
    #[error("{0}")]
    Content(&'static str),
}

#[cfg(any(test, fuzzing))]
pub(crate) mod properties;
#[cfg(test)]
mod tests;
