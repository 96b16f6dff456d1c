//! Finds the undamaged blocks of a file or a stream, in their order. After damage it looks for the next block that is
//! whole; a block that was cut off may be followed by others.

use std::{
    fs::File,
    io::{self, Read as _},
    ops::Range,
    os::unix::fs::FileExt as _,
    sync::Arc,
    time::Duration,
};

use nix::unistd::{Whence, lseek};

use super::{
    Damage,
    block::{BlockHeader, HEADER_LEN, MAGIC, Unpacker},
    head::{TRAILER_LEN, Trailer},
};

/// How much is read at a time, at least.
const READ_BYTES: usize = 1 << 18;
/// How often a file that is still written is read again.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(100);

/// Where the bytes come from.
#[derive(Debug)]
pub(super) enum ByteSource {
    /// A file, which others may read at the same time
    File(Arc<File>),
    /// A FIFO
    Fifo(Arc<File>),
    /// Standard input
    Stream(io::Stdin),
}

impl ByteSource {
    /// Reads what comes next, which a file has at `offset`.
    fn read(&mut self, to: &mut [u8], offset: u64) -> io::Result<usize> {
        loop {
            let read = match self {
                Self::File(file) => file.read_at(to, offset),
                Self::Fifo(fifo) => (&**fifo).read(to),
                Self::Stream(stream) => stream.read(to),
            };
            match read {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => return read,
            }
        }
    }
}

/// What was found.
#[derive(Debug)]
pub(super) struct Found {
    /// Bytes before it that are no block, and what is wrong with the first of them
    pub damaged: Option<(Range<u64>, Damage)>,
    /// The block, and where it begins; `None`: the end
    pub block: Option<(u64, BlockHeader)>,
}

/// Finds blocks.
#[derive(Debug)]
pub(super) struct Scanner {
    bytes: ByteSource,
    buffer: Vec<u8>,
    /// Where in the buffer the next block should begin
    at: usize,
    /// Where in the file that is
    offset: u64,
    /// Whether to wait for more at the end
    follow: bool,
    unpacker: Unpacker,
}

impl Scanner {
    /// A scanner of bytes that begin at `offset` of a file.
    ///
    /// # Errors
    /// There is no memory.
    pub(super) fn new(bytes: ByteSource, offset: u64, follow: bool) -> io::Result<Self> {
        let unpacker = Unpacker::new()?;
        Ok(Self { bytes, buffer: Vec::new(), at: 0, offset, follow, unpacker })
    }

    /// How many bytes have been read.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Where in the file the bytes begin that have not been read.
    fn read_offset(&self) -> u64 {
        self.offset + (self.buffer.len() - self.at) as u64
    }

    /// Reads until there are `len` bytes; fewer: the end.
    fn want(&mut self, len: usize) -> io::Result<&[u8]> {
        if self.buffer.len() - self.at < len {
            self.buffer.drain(..self.at);
            self.at = 0;
        }
        while self.buffer.len() - self.at < len {
            let (before, here) = (self.buffer.len(), self.read_offset());
            self.buffer.resize(before + READ_BYTES, 0);
            let place = self.buffer.get_mut(before..).unwrap_or_default();
            let read = self.bytes.read(place, here);
            self.buffer.truncate(before + *read.as_ref().unwrap_or(&0));
            if read? == 0 {
                if !self.follow {
                    break;
                }
                std::thread::sleep(FOLLOW_INTERVAL);
            }
        }
        Ok(self.buffer.get(self.at..).unwrap_or_default())
    }

    fn skip(&mut self, len: usize) {
        self.at += len;
        self.offset += len as u64;
    }

    /// Finds the next block, and unpacks it into `payload`.
    ///
    /// # Errors
    /// The file can't be read, or it is of a later version.
    pub(super) fn next(&mut self, payload: &mut Vec<u8>) -> io::Result<Found> {
        let (begin, mut first) = (self.offset, None);
        loop {
            let at = self.offset;
            match self.block(payload)? {
                Some(Ok(header)) => {
                    let damaged = first.map(|why| (begin..at, why));
                    self.skip(usize::try_from(header.len()).unwrap_or(usize::MAX));
                    return Ok(Found { damaged, block: Some((at, header)) });
                }
                Some(Err(version @ Damage::Version(_))) => {
                    return Err(io::Error::new(io::ErrorKind::Unsupported, version));
                }
                Some(Err(damage)) => {
                    first.get_or_insert(damage);
                    self.seek_magic()?;
                }
                None => {
                    let damaged = first.map(|why| (begin..self.offset, why));
                    return Ok(Found { damaged, block: None });
                }
            }
        }
    }

    /// The block that begins here; `None`: here is the end.
    fn block(&mut self, payload: &mut Vec<u8>) -> io::Result<Option<Result<BlockHeader, Damage>>> {
        // The end of a file that was closed; others may follow it.
        while let Some(bytes) = self.want(TRAILER_LEN)?.get(..TRAILER_LEN)
            && Trailer::parse(bytes).is_some()
        {
            self.skip(TRAILER_LEN);
            self.follow = false;
        }
        let bytes = self.want(HEADER_LEN)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        let header = match BlockHeader::parse(bytes) {
            Ok(header) => header,
            Err(damage) => return Ok(Some(Err(damage))),
        };
        let len = HEADER_LEN + header.stored.get() as usize;
        self.want(len)?;
        let Some(stored) = self.buffer.get(self.at + HEADER_LEN..self.at + len) else {
            return Ok(Some(Err(Damage::Content("a block is cut off"))));
        };
        Ok(Some(self.unpacker.unpack(&header, stored, payload).map(|()| header)))
    }

    /// Goes to the next place where a block may begin, or to the end.
    fn seek_magic(&mut self) -> io::Result<()> {
        self.skip(1);
        loop {
            let bytes = self.want(MAGIC.len())?;
            if bytes.len() < MAGIC.len() {
                let rest = bytes.len();
                self.skip(rest);
                return Ok(());
            }
            if let Some(at) = find(bytes, &MAGIC) {
                self.skip(at);
                return Ok(());
            }
            let skipped = bytes.len() - (MAGIC.len() - 1);
            let holes = bytes.iter().all(|byte| *byte == 0);
            self.skip(skipped);
            if holes {
                self.skip_hole()?;
            }
        }
    }

    /// Goes to where a file next has data, if what comes next is a hole.
    fn skip_hole(&mut self) -> io::Result<()> {
        let ByteSource::File(file) = &self.bytes else { return Ok(()) };
        let Ok(from) = i64::try_from(self.read_offset()) else { return Ok(()) };
        let data = match lseek(file, from, Whence::SeekData) {
            Ok(data) => data,
            // No more data (lseek(2)): all that is left is a hole.
            Err(nix::errno::Errno::ENXIO) => lseek(file, 0, Whence::SeekEnd)?,
            Err(_) => return Ok(()),
        };
        if let Ok(skipped) = u64::try_from(data - from) {
            let rest = (self.buffer.len() - self.at) as u64;
            self.buffer.clear();
            self.at = 0;
            self.offset += rest + skipped;
        }
        Ok(())
    }
}

/// Where `what` first is in `bytes`.
fn find(bytes: &[u8], what: &[u8; 8]) -> Option<usize> {
    let [first, ..] = what;
    let mut from = 0;
    loop {
        let rest = bytes.get(from..)?;
        from += rest.iter().position(|byte| byte == first)?;
        if bytes.get(from..)?.starts_with(what) {
            return Some(from);
        }
        from += 1;
    }
}
