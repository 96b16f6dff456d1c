//! Files, one after the other. Each begins with the metadata of the run and the engine's state, so each stands alone.

use std::{
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{
    Keep, Rotation,
    block::BlockHeader,
    block_writer::BlockWriter,
    destination::{Destination, DumpedFile, create_timed, is_time},
};

/// How often the engine's state is written: bytes and time.
const CHECKPOINT_BYTES: u64 = 16 << 20;
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(300);

/// How long to wait before a file that can't be created is tried again.
const RETRY: Duration = Duration::from_secs(60);

/// One file, or several.
#[derive(Debug)]
pub(super) struct RecordingFiles {
    /// `None`: there is one file alone
    rotation: Option<(PathBuf, Rotation)>,
    /// The payload of heads
    head: Vec<u8>,
    blocks: BlockWriter,
    began: Instant,
    /// Bytes of the files before
    before: u64,
    /// Bytes of this one a second ago
    last_bytes: u64,
    /// When the state was last written, and how many bytes the file had then
    last_checkpoint: (Instant, u64),
    /// Whether the next state begins a new file
    rotates: bool,
    /// Since when the next file can't be created, so that this one goes on
    stuck: Option<Instant>,
}

impl RecordingFiles {
    /// Begins the first file. `rotation`: the name of all files, and when the next one begins.
    ///
    /// # Errors
    /// It can't be written.
    pub(super) fn begin(
        mut blocks: BlockWriter,
        rotation: Option<(PathBuf, Rotation)>,
        head: Vec<u8>,
    ) -> io::Result<Self> {
        match blocks.begin(&head) {
            // The next block shows it, too.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            begun => begun?,
        }
        let now = Instant::now();
        let files = Self {
            rotation,
            head,
            blocks,
            began: now,
            before: 0,
            last_bytes: 0,
            last_checkpoint: (now, 0),
            rotates: false,
            stuck: None,
        };
        files.remove_old();
        Ok(files)
    }

    fn wants_new_file(&self) -> bool {
        let Some((_, Rotation { size, every, .. })) = self.rotation else { return false };
        if self.stuck.is_some_and(|since| since.elapsed() < RETRY) {
            return false;
        }
        let bytes = self.blocks.bytes();
        // By the next time it would be larger.
        let next = bytes + bytes.saturating_sub(self.last_bytes);
        size.is_some_and(|size| next > size)
            || every.is_some_and(|every| self.began.elapsed() >= every)
    }

    /// Goes on in a new file.
    fn rotate(&mut self, header: BlockHeader, state: &[u8]) -> io::Result<()> {
        let Some((path, _)) = &self.rotation else { return Ok(()) };
        let (_, mut next) = create_timed(path)?;
        next.begin(&self.head)?;
        next.write(header, state)?;
        // What follows in the old file would otherwise be nowhere if the machine went off now.
        next.sync()?;
        let mut old = std::mem::replace(&mut self.blocks, next);
        (self.began, self.last_bytes) = (Instant::now(), 0);
        if let Err(error) = old.close(header.position.get()) {
            log::warn!("a recording that is finished has no index: {error}");
        }
        self.before += old.bytes();
        self.remove_old();
        Ok(())
    }

    /// Removes the oldest files.
    fn remove_old(&self) {
        let Some((path, Rotation { keep: Some(keep), .. })) = &self.rotation else { return };
        let old = match timed_files(path) {
            Ok(files) => surplus(files, *keep),
            Err(error) => {
                log::warn!("old recordings of {} can't be listed: {error}", path.display());
                return;
            }
        };
        for path in old {
            if let Err(error) = fs::remove_file(&path) {
                log::warn!("an old recording can't be removed: {}: {error}", path.display());
            }
        }
    }
}

/// The files of earlier times, with their bytes, the newest first.
fn timed_files(file: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
    let folder = match file.parent() {
        Some(folder) if folder != Path::new("") => folder,
        Some(_) | None => Path::new("."),
    };
    let Some(name) = file.file_name().and_then(OsStr::to_str) else { return Ok(Vec::new()) };
    let is_timed = |entry: &OsStr| {
        let rest = entry.to_str().and_then(|entry| entry.strip_prefix(name)?.strip_prefix('.'));
        rest.is_some_and(is_time)
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if is_timed(&entry.file_name()) && metadata.is_file() {
            files.push((entry.path(), metadata.len()));
        }
    }
    files.sort_unstable_by(|(a, _), (b, _)| b.cmp(a));
    Ok(files)
}

/// The files that are not kept. The newest is.
fn surplus(files: Vec<(PathBuf, u64)>, keep: Keep) -> Vec<PathBuf> {
    let mut bytes = 0_u64;
    let goes = |(at, (path, len)): (usize, (PathBuf, u64))| {
        bytes = bytes.saturating_add(len);
        let kept = match keep {
            Keep::Files(most) => at < most,
            Keep::Bytes(most) => bytes <= most,
        };
        (at > 0 && !kept).then_some(path)
    };
    files.into_iter().enumerate().filter_map(goes).collect()
}

impl Destination for RecordingFiles {
    fn write(&mut self, header: BlockHeader, payload: &[u8]) -> io::Result<()> {
        self.blocks.write(header, payload)
    }

    fn wants_checkpoint(&mut self) -> bool {
        let (last, bytes) = self.last_checkpoint;
        self.rotates |= self.wants_new_file();
        let wants = self.rotates
            || last.elapsed() >= CHECKPOINT_INTERVAL
            || self.blocks.bytes().saturating_sub(bytes) >= CHECKPOINT_BYTES;
        self.last_bytes = self.blocks.bytes();
        wants
    }

    fn checkpoint(&mut self, header: BlockHeader, state: &[u8]) -> io::Result<()> {
        self.blocks.write(header, state)?;
        if std::mem::take(&mut self.rotates) || self.wants_new_file() {
            let rotated = self.rotate(header, state);
            if let Err(error) = &rotated
                && self.stuck.is_none()
            {
                log::error!(
                    "the recording goes on in the same file, as there can't be a new one: {error}"
                );
            }
            self.stuck = rotated.is_err().then(Instant::now);
        }
        self.last_checkpoint = (Instant::now(), self.blocks.bytes());
        Ok(())
    }

    fn dump(&mut self, _position: u64) -> io::Result<Option<DumpedFile>> {
        Ok(None)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.blocks.sync()
    }

    fn bytes(&self) -> u64 {
        self.before + self.blocks.bytes()
    }

    fn free(&self) -> Option<u64> {
        self.blocks.free()
    }

    fn has_room(&self) -> bool {
        self.blocks.has_room()
    }

    fn close(&mut self, position: u64) -> io::Result<()> {
        self.blocks.close(position).map(drop)
    }
}
