//! Reads recordings: the inputs of each run in their order. A thread of its own finds and decodes the blocks.

use std::{
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

pub(crate) use super::files::ReadError;
use super::{
    Damage,
    block::{BlockHeader, BlockKind},
    chunk::Chunk,
    column_reader::ColumnReader,
    files::OpenFile,
    head::Head,
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
    /// Its next inputs, but for the first ones, which were there before
    Inputs(Chunk, usize),
    /// Inputs that are missing here
    Missing(MissingInputs),
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

/// Where a file belongs among others: when its run began, the run, and how many inputs the run had before.
type Place = (i128, Option<String>, u64);

/// The run that a file begins with.
fn place(file: &OpenFile) -> Result<Place, ReadError> {
    let mut scanner = file.scanner(0, false)?;
    let mut payload = Vec::new();
    let mut run = None;
    while let Some((_, header)) =
        scanner.next(&mut payload).map_err(|error| file.failed(error))?.block
    {
        if header.kind == BlockKind::Head as u8 && run.is_none() {
            run = minicbor::decode::<Head>(&payload).ok();
        } else if header.kind == BlockKind::Inputs as u8
            && let Some(Head { begin, .. }) = run
        {
            let began = i128::from(begin.at.boot_ns) + begin.at.offset_ns;
            return Ok((began, begin.run_id, header.position.get()));
        }
    }
    // What is wrong with it is said when it is read.
    Ok(run.map_or((0, None, 0), |Head { begin, .. }| {
        (i128::from(begin.at.boot_ns) + begin.at.offset_ns, begin.run_id, u64::MAX)
    }))
}

/// Opens recordings and puts them in order.
///
/// # Errors
/// One can't be opened.
fn open_all(paths: &[PathBuf]) -> Result<Vec<OpenFile>, ReadError> {
    let mut all = paths
        .iter()
        .map(|path| {
            let file = OpenFile::open(path)?;
            let place = match file.is_regular() && paths.len() > 1 {
                true => place(&file)?,
                false => (0, None, 0),
            };
            Ok((place, file))
        })
        .collect::<Result<Vec<_>, ReadError>>()?;
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(all.into_iter().map(|(_, file)| file).collect())
}

/// The time of the last input of recordings: nanoseconds since 1970. `None`: it is unknown.
///
/// # Errors
/// One can't be opened or read.
pub(crate) fn end(paths: &[PathBuf]) -> Result<Option<i128>, ReadError> {
    let mut last = None;
    for path in paths {
        let file = OpenFile::open(path)?;
        if file.is_regular() {
            last = last.max(super::index::end(&file)?);
        }
    }
    Ok(last)
}

/// Inputs of recordings, as a thread decodes them.
#[derive(Debug)]
pub(crate) struct RecordingReader {
    parts: Receiver<Result<RecordingPart, ReadError>>,
    free: SyncSender<Chunk>,
    /// Bytes of all files; `None`: unknown
    bytes: Option<u64>,
    /// Bytes of them that have been read
    read: Arc<AtomicU64>,
}

impl RecordingReader {
    /// Opens the files, and starts the thread. `follow`: the last one is still written.
    ///
    /// # Errors
    /// One can't be opened, or the thread can't be started.
    pub(crate) fn open(paths: &[PathBuf], follow: bool) -> Result<Self, ReadError> {
        let files = open_all(paths)?;
        let bytes = files.iter().map(OpenFile::len).sum();
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
            };
            let last = files.len().saturating_sub(1);
            for (at, file) in files.iter().enumerate() {
                match decoder.read(file, follow && at == last) {
                    Ok(Flow::On) => {}
                    Ok(Flow::Stop) => return,
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
        Ok(Self { parts, free, bytes, read })
    }

    /// Bytes that have been read, and bytes of all files, if that is known.
    pub(crate) fn progress(&self) -> (u64, Option<u64>) {
        (self.read.load(Relaxed), self.bytes)
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
}

impl Decoder {
    fn send(&self, part: RecordingPart) -> Flow {
        if self.parts.send(Ok(part)).is_ok() { Flow::On } else { Flow::Stop }
    }

    fn read(&mut self, file: &OpenFile, follow: bool) -> Result<Flow, ReadError> {
        let mut scanner = file.scanner(0, follow)?;
        let mut payload = Vec::new();
        let (mut any, mut has_head, mut damage) = (false, false, None);
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
        (self.position, self.last_ns) = (0, head.begin.at.boot_ns);
        self.run = Some(run.clone());
        self.send(RecordingPart::Begin(Box::new(head)))
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
        let missing = first.saturating_sub(self.position);
        if missing > 0 || damage.is_some() {
            let times = (self.last_ns, header.first_ns.get());
            let damage = damage.take();
            let missing = MissingInputs { inputs: missing, times, damage };
            if self.send(RecordingPart::Missing(missing)) == Flow::Stop {
                return Flow::Stop;
            }
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
