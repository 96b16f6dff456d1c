//! What holds for any bytes, for fuzzing and the tests of its corpus.

use std::{fs::File, io::Write as _, os::fd::FromRawFd as _, sync::Arc};

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::{
    block::{BlockHeader, BlockKind, HEADER_LEN, MAGIC, Packer},
    chunk::Chunk,
    column_reader::{ColumnReader, count_kinds},
    column_writer::ColumnWriter,
    counts,
    scanner::{ByteSource, Scanner},
};
use crate::{event::histogram::SparseHistogram, input::Input};

/// How many bytes of inputs are decoded at a time.
const CHUNK_BYTES: usize = 1 << 16;

/// The inputs of a block's payload, as far as they can be decoded.
fn inputs(payload: &[u8]) -> Vec<Chunk> {
    let mut all = Vec::new();
    let Ok(mut reader) = ColumnReader::new(payload) else { return all };
    loop {
        let mut chunk = Chunk::default();
        let more = reader.fill(&mut chunk, CHUNK_BYTES);
        assert!(chunk.bytes() < CHUNK_BYTES + payload.len() + 4096, "a chunk is too large");
        all.push(chunk);
        // A payload of few bytes can have many inputs.
        if more != Ok(true) || all.len() > 16 {
            return all;
        }
    }
}

/// The payload of inputs.
fn payload(chunks: &[Chunk]) -> Vec<u8> {
    let mut writer = ColumnWriter::default();
    for chunk in chunks {
        writer.append(chunk).expect("what was decoded can be encoded");
    }
    let mut bytes = Vec::new();
    writer.finish(&mut bytes);
    bytes
}

/// The payload of a block: inputs that can be decoded are the same after encoding and decoding.
pub(crate) fn columns(data: &[u8]) {
    let mut kinds = std::collections::BTreeMap::new();
    count_kinds(data, &mut kinds);
    let mut again = Chunk::default();
    for chunk in inputs(data) {
        // Up to the first one that is malformed.
        let _ = chunk.for_each(0, |input: &Input<'_>| {
            again.push(input).expect("an input can be encoded");
        });
    }
    let first = payload(&[again]);
    let second = payload(&inputs(&first));
    if second != first {
        // Only the largest blocks are cut short.
        assert!(inputs(&first).len() > 16, "inputs differ after encoding");
    }
}

/// The payload of a block of counts: those that can be decoded are the same after encoding and decoding.
pub(crate) fn counts(data: &[u8]) {
    let mut first = Vec::new();
    // Up to the first one that is malformed.
    let _ = counts::decode(data, |one| first.push(one));
    assert!(first.len() <= data.len(), "more counts than bytes");
    let mut again = Vec::new();
    let decoded = counts::decode(&counts::encode(&first), |one| again.push(one));
    assert!(decoded.is_ok() && again == first, "counts differ after encoding");
    // What is added up can be anything.
    let mut sum = SparseHistogram::default();
    first.iter().filter_map(|one| one.durations.as_ref()).for_each(|one| sum.add(one));
    assert!(sum.quantile(0.5) <= sum.quantile(1.0) && sum.quantile(1.0) <= sum.max());
    assert_eq!(sum.is_empty(), sum.count() == 0);
}

/// A file with damage: the blocks before it and behind it are found.
pub(crate) fn blocks(data: &[u8]) {
    let mut packer = Packer::new().expect("there is memory");
    let mut bytes = Vec::new();
    packer.pack(BlockHeader::new(BlockKind::Head, 1), b"before", &mut bytes).expect("it fits");
    let damage = bytes.len()..bytes.len() + data.len();
    bytes.extend_from_slice(data);
    packer.pack(BlockHeader::new(BlockKind::Inputs, 2), data, &mut bytes).expect("it fits");
    let memory = memfd_create(c"blocks", MFdFlags::empty()).expect("there is memory");
    // SAFETY: nobody else has the descriptor.
    let mut file = unsafe { File::from_raw_fd(std::os::fd::IntoRawFd::into_raw_fd(memory)) };
    file.write_all(&bytes).expect("there is memory");
    nix::unistd::lseek(&file, 0, nix::unistd::Whence::SeekSet).expect("a file can be rewound");
    let mut scanner =
        Scanner::new(ByteSource::File(Arc::new(file)), 0, false).expect("there is memory");
    let mut payload = Vec::new();
    let (mut found, mut damaged) = (Vec::new(), 0);
    // A version that is not known ends it.
    while let Ok(next) = scanner.next(&mut payload) {
        damaged += next.damaged.map_or(0, |(range, _)| range.end - range.start);
        let Some((at, header)) = next.block else { break };
        found.push((at, header.position.get(), payload.clone()));
    }
    assert_eq!(found.first(), Some(&(0, 1, b"before".to_vec())));
    if data.windows(MAGIC.len()).any(|window| window == MAGIC) {
        // It may be a block.
        return;
    }
    let last = (damage.end as u64, 2, data.to_vec());
    assert_eq!(found.get(1), Some(&last), "the block behind the damage is lost");
    assert_eq!(damaged, data.len() as u64);
    assert_eq!(bytes.len(), scanner.offset() as usize);
    assert!(bytes.len() > HEADER_LEN);
}
