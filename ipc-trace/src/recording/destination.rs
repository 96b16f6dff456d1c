//! Where the blocks of a recording go.

use std::{
    fmt::Debug,
    io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, SystemTime},
};

use super::{block::BlockHeader, block_writer::BlockWriter};

/// Where the blocks of a recording go. The engine's state is written from time to time, so that reading can begin there.
pub(super) trait Destination: Debug + Send {
    /// Writes a block of inputs, or of their counts. After an error all is as it was before.
    ///
    /// # Errors
    /// It can't be written.
    fn write(&mut self, header: BlockHeader, payload: &[u8]) -> io::Result<()>;

    /// Whether the engine's state is needed. Called about once a second.
    fn wants_checkpoint(&mut self) -> bool;

    /// Writes the engine's state.
    ///
    /// # Errors
    /// It can't be written.
    fn checkpoint(&mut self, header: BlockHeader, state: &[u8]) -> io::Result<()>;

    /// Writes what is in memory to a file. `None`: nothing is.
    ///
    /// # Errors
    /// It can't be written.
    fn dump(&mut self, position: u64) -> io::Result<Option<DumpedFile>>;

    /// Has everything reach the disk.
    ///
    /// # Errors
    /// The disk refuses it.
    fn sync(&mut self) -> io::Result<()>;

    /// Bytes so far.
    fn bytes(&self) -> u64;

    /// How many bytes are free in the file system; `None`: unknown.
    fn free(&self) -> Option<u64>;

    /// Whether there is room for more than the next block, after a write failed.
    fn has_room(&self) -> bool;

    /// Ends it. `position`: how many inputs the run had.
    ///
    /// # Errors
    /// Something can't be written.
    fn close(&mut self, position: u64) -> io::Result<()>;
}

/// A file that a flight recorder wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DumpedFile {
    /// The file
    pub path: PathBuf,
    /// Its bytes
    pub bytes: u64,
}

/// How often another name is tried, if the one of this millisecond is taken.
const TRIES: u32 = 10;

/// Creates `FILE.TIME`, in UTC: the order of names is that of times.
///
/// # Errors
/// It can't be created.
pub(super) fn create_timed(file: &Path) -> io::Result<(PathBuf, BlockWriter)> {
    let mut tries = 0;
    loop {
        let now = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        let mut name = file.as_os_str().to_owned();
        name.push(".");
        name.push(now.replace(['-', ':'], ""));
        let path = PathBuf::from(name);
        match BlockWriter::create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && tries < TRIES => {
                tries += 1;
                thread::sleep(Duration::from_millis(1));
            }
            created => return created.map(|blocks| (path, blocks)),
        }
    }
}

/// Whether this is what [`create_timed`] appends to a name, without the dot before it.
pub(super) fn is_time(text: &str) -> bool {
    text.len() == "20260131T235959.123Z".len()
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 => byte == b'T',
            15 => byte == b'.',
            19 => byte == b'Z',
            _ => byte.is_ascii_digit(),
        })
}
