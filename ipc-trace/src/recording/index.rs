//! Where the blocks of a file are: by the index at its end or, if that is missing, by going from header to header.

use std::{fs::File, io, os::unix::fs::FileExt as _};

use super::{
    block::{BlockHeader, BlockKind, HEADER_LEN},
    files::{OpenFile, ReadError},
    head::{Head, IndexEntry, TRAILER_LEN, Trailer},
};

/// The blocks of a file, in its order. Payloads are not read.
///
/// # Errors
/// The file can't be read, or has no offsets.
pub(super) fn blocks(file: &OpenFile) -> Result<Vec<IndexEntry>, ReadError> {
    let Some(seekable) = &file.file else {
        return Err(file.failed(io::ErrorKind::NotSeekable.into()));
    };
    let len = seekable.metadata().map_err(|error| file.failed(error))?.len();
    if let Some(all) = at_the_end(file, seekable, len) {
        return Ok(all);
    }
    walk(file, seekable, len)
}

/// The index at the end; `None`: there is none that is whole.
fn at_the_end(file: &OpenFile, seekable: &File, len: u64) -> Option<Vec<IndexEntry>> {
    let mut trailer = [0; TRAILER_LEN];
    seekable.read_exact_at(&mut trailer, len.checked_sub(TRAILER_LEN as u64)?).ok()?;
    let offset = Trailer::parse(&trailer)?;
    let mut payload = Vec::new();
    let (at, header) = file.scanner(offset, false).ok()?.next(&mut payload).ok()?.block?;
    let is_index = at == offset && header.kind == BlockKind::Index as u8;
    let all: Vec<IndexEntry> = minicbor::decode(&payload).ok().filter(|_| is_index)?;
    // Recordings in a row have an index each; only one that has the first block has all.
    let is_whole = all.first().is_some_and(|first| first.offset == 0)
        && all.iter().all(|entry| entry.offset < offset);
    is_whole.then_some(all)
}

fn walk(file: &OpenFile, seekable: &File, len: u64) -> Result<Vec<IndexEntry>, ReadError> {
    let (mut all, mut offset) = (Vec::new(), 0);
    let mut bytes = [0; HEADER_LEN];
    while offset < len {
        let read = seekable.read_exact_at(&mut bytes, offset);
        match read.ok().and_then(|()| BlockHeader::parse(&bytes).ok()) {
            Some(header) if offset + header.len() <= len => {
                all.push(IndexEntry::new(offset, &header));
                offset += header.len();
            }
            _ => {
                let mut payload = Vec::new();
                let found = file.scanner(offset, false)?.next(&mut payload);
                match found.map_err(|error| file.failed(error))?.block {
                    Some((at, header)) => {
                        all.push(IndexEntry::new(at, &header));
                        offset = at + header.len();
                    }
                    None => break,
                }
            }
        }
    }
    Ok(all)
}

/// Reads the block that begins at `offset` into `payload`; `None`: none that is whole does.
///
/// # Errors
/// The file can't be read, or has no offsets.
#[cfg(any(feature = "sqlite", feature = "parquet", test))]
pub(super) fn block_at(
    file: &OpenFile,
    offset: u64,
    payload: &mut Vec<u8>,
) -> Result<Option<BlockHeader>, ReadError> {
    let (Some(seekable), Some(len)) = (&file.file, file.len()) else {
        return Err(file.failed(io::ErrorKind::NotSeekable.into()));
    };
    let read = |bytes: &mut [u8], offset| match seekable.read_exact_at(bytes, offset) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        read => read.map(|()| true).map_err(|error| file.failed(error)),
    };
    let mut bytes = [0; HEADER_LEN];
    if !read(&mut bytes, offset)? {
        return Ok(None);
    }
    let Ok(header) = BlockHeader::parse(&bytes) else { return Ok(None) };
    // Memory is allocated only for bytes that exist.
    if offset.checked_add(header.len()).is_none_or(|end| end > len) {
        return Ok(None);
    }
    let mut stored = vec![0; header.stored.get() as usize];
    let is_there = read(&mut stored, offset + HEADER_LEN as u64)?;
    let mut unpacker = super::block::Unpacker::new().map_err(|error| file.failed(error))?;
    let is_whole = is_there && unpacker.unpack(&header, &stored, payload).is_ok();
    Ok(is_whole.then_some(header))
}

/// The first metadata of a file; `None`: it has none that is whole.
///
/// # Errors
/// The file can't be read.
pub(super) fn head(file: &OpenFile) -> Result<Option<Head>, ReadError> {
    let (mut scanner, mut payload) = (file.scanner(0, false)?, Vec::new());
    loop {
        let found = scanner.next(&mut payload).map_err(|error| file.failed(error))?;
        let Some((_, header)) = found.block else { return Ok(None) };
        if header.kind == BlockKind::Head as u8
            && let Ok(head) = minicbor::decode(&payload)
        {
            return Ok(Some(head));
        }
    }
}

/// The time of the first input of a file: nanoseconds since 1970. `None`: it has none.
///
/// # Errors
/// The file can't be read, or has no offsets.
#[cfg(feature = "sqlite")]
pub(super) fn begin(file: &OpenFile) -> Result<Option<i128>, ReadError> {
    let Some(Head { begin, .. }) = head(file)? else { return Ok(None) };
    let all = blocks(file)?;
    let mut times = all.iter().filter(|block| block.kind == BlockKind::Inputs as u8);
    let first = times.find(|block| block.first_ns > 0);
    Ok(first.map(|block| i128::from(block.first_ns) + begin.at.offset_ns))
}

/// The time of the last input of a file: nanoseconds since 1970. `None`: it has none.
///
/// # Errors
/// The file can't be read, or has no offsets.
pub(super) fn end(file: &OpenFile) -> Result<Option<i128>, ReadError> {
    let Some(Head { begin, .. }) = head(file)? else { return Ok(None) };
    let last = blocks(file)?.iter().map(|block| block.last_ns).max().unwrap_or(0);
    Ok((last > 0).then(|| i128::from(last) + begin.at.offset_ns))
}
