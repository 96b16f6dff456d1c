//! What is in a recording, and a copy of what is whole of it.

use std::{collections::BTreeMap, io, ops::Range, path::Path};

use super::{
    Damage,
    block::{BlockHeader, BlockKind},
    block_writer::BlockWriter,
    column_reader::count_kinds,
    files::{OpenFile, ReadError},
    head::Head,
    scanner::Found,
};

/// What is in a file.
#[derive(Clone, Debug, Default)]
pub(crate) struct RecordingInfo {
    /// The runs, in the order of the file
    pub runs: Vec<RecordedRun>,
    /// Bytes that are no block, and what is wrong with them
    pub damage: Vec<(Range<u64>, Damage)>,
    /// Bytes of the file
    pub bytes: u64,
    /// Blocks of kinds that a later version has
    pub unknown_blocks: u64,
    /// Whether it was closed: its last block is an index
    pub closed: bool,
}

/// A run in a file.
#[derive(Clone, Debug)]
pub(crate) struct RecordedRun {
    /// Its metadata
    pub head: Head,
    /// Blocks of inputs
    pub blocks: u64,
    /// Inputs, and calls in them
    pub inputs: u64,
    /// Calls in them
    pub calls: u64,
    /// Checkpoints
    pub checkpoints: u64,
    /// Inputs that are missing between its blocks
    pub missing: u64,
    /// The first and the last boot time, nanoseconds; `None`: no input has one
    pub times: Option<(u64, u64)>,
    /// How many inputs there are of each kind
    pub kinds: BTreeMap<&'static str, u64>,
    /// How many inputs the run had before the next block
    position: u64,
}

impl RecordedRun {
    fn new(head: Head) -> Self {
        Self {
            head,
            blocks: 0,
            inputs: 0,
            calls: 0,
            checkpoints: 0,
            missing: 0,
            times: None,
            kinds: BTreeMap::new(),
            position: 0,
        }
    }
}

/// Reads a whole file, block by block, and checks each.
///
/// # Errors
/// The file can't be read, or is no recording.
pub(crate) fn inspect(path: &Path) -> Result<RecordingInfo, ReadError> {
    inspect_open(&OpenFile::open(path)?)
}

/// The same, of a file that is open.
///
/// # Errors
/// The file can't be read, or is no recording.
pub(crate) fn inspect_open(file: &OpenFile) -> Result<RecordingInfo, ReadError> {
    let mut info = RecordingInfo::default();
    each_block(file, &mut info, |_, _, _| Ok(()))?;
    Ok(info)
}

/// Copies the blocks that are whole into a new file, with an index. Returns what was in the damaged one.
///
/// # Errors
/// The file can't be read, or the new one can't be written.
pub(crate) fn repair(path: &Path, to: &Path) -> Result<RecordingInfo, ReadError> {
    let file = OpenFile::open(path)?;
    let failed = |source| ReadError::File { file: to.to_owned(), source };
    let mut info = RecordingInfo::default();
    let mut blocks = BlockWriter::create(to).map_err(failed)?;
    let copied = each_block(&file, &mut info, |kind, header, payload| match kind {
        Some(BlockKind::Index) => Ok(()),
        _ => blocks.write(*header, payload),
    });
    let position = info.runs.last().map_or(0, |run| run.position);
    let written = copied.and_then(|()| blocks.close(position).map_err(failed));
    if written.is_err() {
        // What was written is no whole copy.
        let _ = std::fs::remove_file(to);
    }
    written.map(|_| info)
}

fn each_block(
    file: &OpenFile,
    info: &mut RecordingInfo,
    mut each: impl FnMut(Option<BlockKind>, &BlockHeader, &[u8]) -> io::Result<()>,
) -> Result<(), ReadError> {
    let mut scanner = file.scanner(0, false)?;
    let mut payload = Vec::new();
    let mut any = false;
    loop {
        let Found { damaged, block } =
            scanner.next(&mut payload).map_err(|error| file.failed(error))?;
        info.damage.extend(damaged);
        let Some((_, header)) = block else { break };
        any = true;
        let kind = BlockKind::from_number(header.kind);
        info.closed = kind == Some(BlockKind::Index);
        match kind {
            Some(BlockKind::Head) => {
                if let Ok(head) = minicbor::decode::<Head>(&payload) {
                    let run = &head.begin.run_id;
                    let last = info.runs.last().map(|run| &run.head.begin.run_id);
                    if last != Some(run) || run.is_none() {
                        info.runs.push(RecordedRun::new(head));
                    }
                }
            }
            Some(BlockKind::Inputs) => {
                if let Some(run) = info.runs.last_mut() {
                    note(run, &header, &payload);
                }
            }
            Some(BlockKind::Index) => {}
            Some(BlockKind::Checkpoint) => {
                if let Some(run) = info.runs.last_mut() {
                    run.checkpoints += 1;
                }
            }
            None => info.unknown_blocks += 1,
        }
        each(kind, &header, &payload).map_err(|error| file.failed(error))?;
    }
    info.bytes = scanner.offset();
    match any {
        true => Ok(()),
        false if info.bytes == 0 => Err(ReadError::Empty(file.path.clone())),
        false => Err(ReadError::Other(file.path.clone())),
    }
}

fn note(run: &mut RecordedRun, header: &BlockHeader, payload: &[u8]) {
    run.blocks += 1;
    run.inputs += u64::from(header.inputs.get());
    run.calls += header.calls.get();
    // The first block of a file needn't be the run's first.
    if run.blocks > 1 {
        run.missing += header.position.get().saturating_sub(run.position);
    }
    run.position = header.position.get() + u64::from(header.inputs.get());
    let (first, last) = (header.first_ns.get(), header.last_ns.get());
    if last > 0 {
        let times = run.times.get_or_insert((first, last));
        *times = (times.0.min(first), times.1.max(last));
    }
    count_kinds(payload, &mut run.kinds);
}
