//! A row for each run in a file.

use super::{Cell, table};

/// A run in a file.
#[derive(Clone, Debug, Default)]
pub(crate) struct FileRow {
    /// The file, as it was named
    pub file: String,
    /// Bytes of the file
    pub bytes: u64,
    /// The host's name
    pub host: String,
    /// The host's boot id
    pub boot_id: Option<String>,
    /// The run's id
    pub run_id: Option<String>,
    /// The kernel's release
    pub kernel: String,
    /// The machine
    pub arch: String,
    /// The version of ipc-trace
    pub version: String,
    /// Whether calls were only counted
    pub counts: bool,
    /// The times of the first and the last input, nanoseconds since 1970
    pub times: Option<(i64, i64)>,
    /// Blocks of inputs
    pub blocks: u64,
    /// Inputs, and the calls in them
    pub inputs: u64,
    /// Calls
    pub calls: u64,
    /// Checkpoints
    pub checkpoints: u64,
    /// Inputs that are missing between its blocks
    pub missing: u64,
    /// Whether it was closed
    pub closed: bool,
    /// Places of the file that are damaged
    pub damaged: usize,
}

table! {
    /// a run in a file
    FILES = "files", FileRow {
        /// The file, as it was named
        file: Text = |row| (&row.file).into(),
        /// Bytes of the file
        bytes: Integer = |row| row.bytes.into(),
        /// The host's name
        host: Text = |row| (&row.host).into(),
        /// The host's boot id
        boot_id: Text = |row| row.boot_id.as_ref().into(),
        /// The id of the run of ipc-trace
        run_id: Text = |row| row.run_id.as_ref().into(),
        /// The kernel's release
        kernel: Text = |row| (&row.kernel).into(),
        /// The machine
        arch: Text = |row| (&row.arch).into(),
        /// The version of ipc-trace
        version: Text = |row| (&row.version).into(),
        /// Whether calls were only counted
        is_counts: Boolean = |row| row.counts.into(),
        /// The time of the first input
        first: Time = |row| row.times.map_or(Cell::Null, |times| Cell::Time(times.0)),
        /// The same, in nanoseconds since 1970
        first_ns: Integer = |row| row.times.map(|times| times.0).into(),
        /// The time of the last input
        last: Time = |row| row.times.map_or(Cell::Null, |times| Cell::Time(times.1)),
        /// The same, in nanoseconds since 1970
        last_ns: Integer = |row| row.times.map(|times| times.1).into(),
        /// Blocks of inputs
        blocks: Integer = |row| row.blocks.into(),
        /// Inputs in them
        inputs: Integer = |row| row.inputs.into(),
        /// Calls in them
        calls: Integer = |row| row.calls.into(),
        /// Checkpoints
        checkpoints: Integer = |row| row.checkpoints.into(),
        /// Inputs that are missing between its blocks
        missing: Integer = |row| row.missing.into(),
        /// Whether it was closed; false: ipc-trace was killed, or is still running
        is_closed: Boolean = |row| row.closed.into(),
        /// Places of the file that are damaged
        damaged: Integer = |row| row.damaged.into(),
    }
}
