//! Reads recordings: the inputs of each run in their order. A thread of its own finds and decodes the blocks.

use std::{
    collections::BTreeSet,
    ops::Range,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    },
    thread,
    time::Duration,
};

pub(crate) use super::files::{OpenFile, ReadError};
use super::{
    Damage,
    block::{BlockHeader, BlockKind},
    chunk::Chunk,
    column_reader::ColumnReader,
    head::{Head, IndexEntry},
    index,
    scanner::Found,
};

/// How many bytes of inputs are decoded at a time, and how many such chunks can wait.
const CHUNK_BYTES: usize = 1 << 18;
const MAX_WAITING: usize = 4;

/// A part of recordings, in the order in which the engine takes them.
#[derive(Debug)]
pub(crate) enum RecordingPart {
    /// A run begins
    Begin(Box<Head>),
    /// The engine's state: the inputs before are not there
    State(RecordedState),
    /// Its next inputs, but for the first ones, which were there before
    Inputs(Chunk, usize),
    /// Inputs that are missing here
    Missing(MissingInputs),
}

/// The engine's state, as it was recorded.
#[derive(Debug)]
pub(crate) struct RecordedState {
    /// The state
    pub bytes: Vec<u8>,
    /// Whether the recordings have all inputs before it
    pub is_whole: bool,
}

/// Where to begin reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadStart {
    /// At the first input
    Begin,
    /// At the last checkpoint before a time: nanoseconds since 1970
    Time(i128),
    /// At the last checkpoint, if all inputs before it are there
    LastCheckpoint,
}

/// What comes next.
#[derive(Debug)]
pub(crate) enum NextPart {
    /// This part
    Part(RecordingPart),
    /// Nothing yet
    None,
    /// Nothing
    End,
}

/// Inputs that are missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MissingInputs {
    /// How many; 0: none, though bytes are damaged
    pub inputs: u64,
    /// Between which boot times, in nanoseconds
    pub times: (u64, u64),
    /// Why; `None`: they were not recorded, or are in another file
    pub damage: Option<FileDamage>,
}

/// Bytes of a file that are no block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileDamage {
    /// The file
    pub file: PathBuf,
    /// Where
    pub bytes: Range<u64>,
    /// What is wrong with them
    pub why: Damage,
}

/// A file, and where it belongs among others.
#[derive(Debug)]
struct PlacedFile {
    file: OpenFile,
    /// When its run began, nanoseconds since 1970; the run; how many inputs the run had before
    place: (i128, Option<String>, u64),
    /// Where to begin reading: at a checkpoint, or 0
    offset: u64,
    /// Between which positions it has all inputs; `None`: some are missing
    positions: Option<(u64, u64)>,
    /// The host of its first run; `None`: unknown
    host: Option<String>,
    /// Whether all of it is known to be of one run
    is_one_run: bool,
}

impl PlacedFile {
    /// A file that can be read once.
    fn stream(file: OpenFile) -> Self {
        Self {
            file,
            place: (0, None, 0),
            offset: 0,
            positions: None,
            host: None,
            is_one_run: false,
        }
    }

    /// Finds its place, and where to begin reading.
    ///
    /// # Errors
    /// It can't be read.
    fn new(file: OpenFile, from: ReadStart) -> Result<Self, ReadError> {
        let Some(Head { begin, .. }) = index::head(&file)? else {
            // What is wrong with it is said when it is read.
            return Ok(Self::stream(file));
        };
        let blocks = index::blocks(&file)?;
        let of_kind = |kind| blocks.iter().filter(move |block| block.kind == kind as u8);
        let offset_ns = begin.at.offset_ns;
        let is_wanted = |block: &&IndexEntry| match from {
            ReadStart::Begin => false,
            ReadStart::Time(since) => i128::from(block.last_ns) + offset_ns <= since,
            ReadStart::LastCheckpoint => true,
        };
        // Several files in a row can be of several runs.
        let is_one = of_kind(BlockKind::Head).count() <= 2;
        let checkpoint = of_kind(BlockKind::Checkpoint).rfind(is_wanted);
        let offset = checkpoint.filter(|_| is_one).map_or(0, |block| block.offset);
        let first = of_kind(BlockKind::Inputs).next().map_or(u64::MAX, |block| block.position);
        let end = of_kind(BlockKind::Inputs).try_fold(first, |at, block| {
            (block.position == at).then(|| at + u64::from(block.inputs))
        });
        let positions = end.filter(|_| is_one).map(|end| (first, end));
        let place = (i128::from(begin.at.boot_ns) + offset_ns, begin.run_id, first);
        Ok(Self { file, place, offset, positions, host: Some(begin.host), is_one_run: is_one })
    }

    /// The run, if it is known.
    const fn run(&self) -> Option<&String> {
        self.place.1.as_ref()
    }
}

/// Opens recordings.
///
/// # Errors
/// One can't be opened.
pub(crate) fn open_files(paths: &[PathBuf]) -> Result<Vec<OpenFile>, ReadError> {
    paths.iter().map(|path| OpenFile::open(path)).collect()
}

/// Puts recordings in order.
///
/// # Errors
/// One can't be read.
fn in_order(files: &[OpenFile], from: ReadStart) -> Result<Vec<PlacedFile>, ReadError> {
    let mut all = files
        .iter()
        .map(|file| match file.is_regular() && (files.len() > 1 || from != ReadStart::Begin) {
            true => PlacedFile::new(file.clone(), from),
            false => Ok(PlacedFile::stream(file.clone())),
        })
        .collect::<Result<Vec<_>, ReadError>>()?;
    all.sort_by(|a, b| a.place.cmp(&b.place));
    if from == ReadStart::LastCheckpoint {
        begin_where_whole(&mut all);
    }
    // Files before the one with the last checkpoint are not needed.
    let mut needed: Vec<PlacedFile> = Vec::new();
    for file in all {
        if file.offset > 0 && file.run().is_some() {
            needed.retain(|before| before.run() != file.run());
        }
        needed.push(file);
    }
    Ok(needed)
}

/// Has the runs of which something is missing read from the first input.
fn begin_where_whole(files: &mut [PlacedFile]) {
    for files in files.chunk_by_mut(|a, b| a.run().is_some() && a.run() == b.run()) {
        let end = files.iter().try_fold(0, |at, file| {
            file.positions.filter(|(begin, _)| *begin <= at).map(|(_, end)| end.max(at))
        });
        if end.is_none() {
            files.iter_mut().for_each(|file| file.offset = 0);
        }
    }
}

/// The time of the last input of recordings: nanoseconds since 1970. `None`: it is unknown.
///
/// # Errors
/// One can't be read.
pub(crate) fn end(files: &[OpenFile]) -> Result<Option<i128>, ReadError> {
    let mut last = None;
    for file in files {
        if file.is_regular() {
            last = last.max(index::end(file)?);
        }
    }
    Ok(last)
}

/// Recordings in their order, not read yet.
#[derive(Debug)]
pub(crate) struct OrderedRecordings {
    files: Vec<PlacedFile>,
    follow: bool,
    from: ReadStart,
}

impl OrderedRecordings {
    /// `follow`: the last one is still written.
    ///
    /// # Errors
    /// One can't be read.
    pub(crate) fn new(
        files: &[OpenFile],
        follow: bool,
        from: ReadStart,
    ) -> Result<Self, ReadError> {
        Ok(Self { files: in_order(files, from)?, follow, from })
    }

    /// Whether they are of one run, as far as that is known.
    pub(crate) fn is_one_run(&self) -> bool {
        let is_of_first = |file: &PlacedFile| {
            file.is_one_run
                && file.run().is_some()
                && file.run() == self.files.first().and_then(PlacedFile::run)
        };
        self.files.len() == 1 || self.files.iter().all(is_of_first)
    }

    /// Leaves out files that are of another host, or begin after a time, nanoseconds since 1970. `None`: there is no
    /// such condition.
    ///
    /// # Errors
    /// One can't be read.
    #[cfg(feature = "sqlite")]
    pub(crate) fn only(
        &mut self,
        host: Option<&str>,
        until: Option<i128>,
    ) -> Result<(), ReadError> {
        /// A call is recorded when it is read from the ring, and that may be long after it returned.
        const SLACK_NS: i128 = 60_000_000_000;
        let until = until.map(|until| until + SLACK_NS);
        let mut all = Vec::new();
        for file in std::mem::take(&mut self.files) {
            let is_other = host.is_some() && file.host.as_deref() != host;
            let is_later = match until {
                Some(until) if file.is_one_run => index::begin(&file.file)? > Some(until),
                _ => false,
            };
            if !file.is_one_run || !is_other && !is_later {
                all.push(file);
            }
        }
        self.files = all;
        Ok(())
    }

    /// Bytes of all files; `None`: unknown.
    pub(crate) fn len(&self) -> Option<u64> {
        self.files.iter().map(|file| file.file.len()).sum()
    }

    /// Whether the files are known to be of several hosts.
    pub(crate) fn has_many_hosts(&self) -> bool {
        let hosts: BTreeSet<_> = self.files.iter().filter_map(|file| file.host.as_ref()).collect();
        hosts.len() > 1
    }
}

/// Inputs of recordings, as a thread decodes them.
#[derive(Debug)]
pub(crate) struct RecordingReader {
    parts: Receiver<Result<RecordingPart, ReadError>>,
    free: SyncSender<Chunk>,
    /// Bytes of the files that have been read
    read: Arc<AtomicU64>,
}

impl RecordingReader {
    /// Starts the thread.
    ///
    /// # Errors
    /// It can't be started.
    pub(crate) fn start(recordings: OrderedRecordings) -> Result<Self, ReadError> {
        let OrderedRecordings { files, follow, from } = recordings;
        let read = Arc::new(AtomicU64::new(0));
        let so_far = Arc::clone(&read);
        let (sender, parts) = mpsc::sync_channel(MAX_WAITING);
        let (free, empty) = mpsc::sync_channel(MAX_WAITING + 2);
        let decode = move || {
            let mut decoder = Decoder {
                parts: sender,
                empty,
                read: so_far,
                before: 0,
                run: None,
                position: 0,
                last_ns: 0,
                is_torn: false,
                from,
                skips: false,
            };
            let last = files.len().saturating_sub(1);
            for (at, file) in files.iter().enumerate() {
                match decoder.read(file, follow && at == last) {
                    Ok(Flow::On) => {}
                    Ok(Flow::Stop) => return,
                    // One of several may have been begun when the machine went off.
                    Err(error) if error.is_of_content() && (at < last || decoder.run.is_some()) => {
                        log::warn!("{error}");
                    }
                    Err(error) => {
                        // The receiver may be gone.
                        let _ = decoder.parts.send(Err(error));
                        return;
                    }
                }
            }
        };
        let thread = thread::Builder::new().name("ipc-trace-read".to_owned()).spawn(decode);
        thread.map_err(|_| ReadError::Thread)?;
        Ok(Self { parts, free, read })
    }

    /// Bytes of the files that have been read.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.read.load(Relaxed)
    }

    /// The next part, if there is one within this time.
    ///
    /// # Errors
    /// A file can't be read.
    pub(crate) fn next_within(&mut self, limit: Duration) -> Result<NextPart, ReadError> {
        match self.parts.recv_timeout(limit) {
            Ok(part) => part.map(NextPart::Part),
            Err(RecvTimeoutError::Timeout) => Ok(NextPart::None),
            Err(RecvTimeoutError::Disconnected) => Ok(NextPart::End),
        }
    }

    /// Gives a chunk back, so that it is used again.
    pub(crate) fn give_back(&self, mut chunk: Chunk) {
        chunk.clear();
        // As many are kept as there is room for.
        let _ = self.free.try_send(chunk);
    }
}

/// Whether anybody still listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    On,
    Stop,
}

/// Decodes blocks, file by file.
#[derive(Debug)]
struct Decoder {
    parts: SyncSender<Result<RecordingPart, ReadError>>,
    empty: Receiver<Chunk>,
    /// Bytes that have been read of all files, and of those before this one
    read: Arc<AtomicU64>,
    before: u64,
    /// The run that the inputs are of
    run: Option<Option<String>>,
    /// How many of its inputs have been passed on, or are missing
    position: u64,
    /// The time of the last one
    last_ns: u64,
    /// Whether some are missing since the engine's state was passed on, so that it needs another one
    is_torn: bool,
    /// Where reading begins, and whether it begins behind the first input of this file
    from: ReadStart,
    skips: bool,
}

impl Decoder {
    fn send(&self, part: RecordingPart) -> Flow {
        if self.parts.send(Ok(part)).is_ok() { Flow::On } else { Flow::Stop }
    }

    fn read(&mut self, file: &PlacedFile, follow: bool) -> Result<Flow, ReadError> {
        let PlacedFile { file, offset, .. } = file;
        let (mut any, mut has_head, mut damage) = (false, false, None);
        self.skips = *offset > 0;
        if self.skips
            && let Some(head) = index::head(file)?
        {
            has_head = true;
            if self.begin(head) == Flow::Stop {
                return Ok(Flow::Stop);
            }
        }
        let mut scanner = file.scanner(*offset, follow)?;
        let mut payload = Vec::new();
        loop {
            let Found { damaged, block } =
                scanner.next(&mut payload).map_err(|error| file.failed(error))?;
            if let Some((bytes, why)) = damaged {
                damage = Some(FileDamage { file: file.path.clone(), bytes, why });
            }
            self.read.store(self.before + scanner.offset(), Relaxed);
            let Some((_, header)) = block else { break };
            any = true;
            let flow = if header.kind == BlockKind::Head as u8 {
                let Ok(head) = minicbor::decode(&payload) else { continue };
                has_head = true;
                self.begin(head)
            } else if header.kind == BlockKind::Inputs as u8 && has_head {
                self.inputs(&header, &payload, &mut damage, file)
            } else if header.kind == BlockKind::Checkpoint as u8 && has_head {
                self.checkpoint(&header, &payload, &mut damage)
            } else {
                Flow::On
            };
            if flow == Flow::Stop {
                return Ok(Flow::Stop);
            }
        }
        self.before += scanner.offset();
        match () {
            () if has_head => {}
            () if any => return Err(ReadError::NoHead(file.path.clone())),
            () if scanner.offset() == 0 => return Err(ReadError::Empty(file.path.clone())),
            () => return Err(ReadError::Other(file.path.clone())),
        }
        match damage {
            Some(damage) => Ok(self.send(RecordingPart::Missing(MissingInputs {
                inputs: 0,
                times: (self.last_ns, 0),
                damage: Some(damage),
            }))),
            None => Ok(Flow::On),
        }
    }

    /// A head: each file has two.
    fn begin(&mut self, head: Head) -> Flow {
        let run = &head.begin.run_id;
        if self.run.as_ref() == Some(run) && run.is_some() {
            return Flow::On;
        }
        (self.position, self.last_ns, self.is_torn) = (0, head.begin.at.boot_ns, false);
        self.run = Some(run.clone());
        self.send(RecordingPart::Begin(Box::new(head)))
    }

    /// The engine's state. It is passed on only if inputs before it are missing.
    fn checkpoint(
        &mut self,
        header: &BlockHeader,
        state: &[u8],
        damage: &mut Option<FileDamage>,
    ) -> Flow {
        let at = header.position.get();
        if at < self.position || at == self.position && !self.is_torn {
            return Flow::On;
        }
        // A recording that goes on in several files needn't be given from its beginning.
        let begins_here = self.position == 0 && damage.is_none();
        if !begins_here && self.say_missing(header, damage) == Flow::Stop {
            return Flow::Stop;
        }
        self.is_torn = false;
        (self.position, self.last_ns) = (at, header.last_ns.get());
        let is_whole = begins_here && self.skips && self.from == ReadStart::LastCheckpoint;
        self.send(RecordingPart::State(RecordedState { bytes: state.to_vec(), is_whole }))
    }

    /// Says what is missing before a block.
    fn say_missing(&mut self, header: &BlockHeader, damage: &mut Option<FileDamage>) -> Flow {
        let inputs = header.position.get().saturating_sub(self.position);
        let damage = damage.take();
        if inputs == 0 && damage.is_none() {
            return Flow::On;
        }
        self.is_torn |= inputs > 0;
        let times = (self.last_ns, header.first_ns.get());
        self.send(RecordingPart::Missing(MissingInputs { inputs, times, damage }))
    }

    fn inputs(
        &mut self,
        header: &BlockHeader,
        payload: &[u8],
        damage: &mut Option<FileDamage>,
        file: &OpenFile,
    ) -> Flow {
        let (first, count) = (header.position.get(), u64::from(header.inputs.get()));
        // Files may overlap.
        let Some(new) = (first + count).checked_sub(self.position).filter(|new| *new > 0) else {
            return Flow::On;
        };
        if self.say_missing(header, damage) == Flow::Stop {
            return Flow::Stop;
        }
        let mut skipped = usize::try_from(count - new.min(count)).unwrap_or(usize::MAX);
        self.position = first + count;
        self.last_ns = self.last_ns.max(header.last_ns.get());
        let mut decode = || -> Result<Flow, Damage> {
            let mut reader = ColumnReader::new(payload)?;
            loop {
                let mut chunk = self.empty.try_recv().unwrap_or_default();
                let more = reader.fill(&mut chunk, CHUNK_BYTES);
                let inputs = usize::try_from(chunk.inputs()).unwrap_or(usize::MAX);
                let before = skipped.min(inputs);
                skipped -= before;
                if self.send(RecordingPart::Inputs(chunk, before)) == Flow::Stop {
                    return Ok(Flow::Stop);
                }
                if !more? {
                    return Ok(Flow::On);
                }
            }
        };
        decode().unwrap_or_else(|why| {
            // The checksum is right, so it was written so.
            let damage = FileDamage { file: file.path.clone(), bytes: 0..0, why };
            let times = (header.first_ns.get(), header.last_ns.get());
            self.send(RecordingPart::Missing(MissingInputs {
                inputs: 0,
                times,
                damage: Some(damage),
            }))
        })
    }
}
