//! Opens recordings.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::scanner::{ByteSource, Scanner};

/// Why a recording can't be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// It can't be opened or read.
    #[error("{}: {source}", file.display())]
    File {
        /// The file
        file: PathBuf,
        /// Why
        source: io::Error,
    },
    /// It has nothing.
    #[error("{}: it is empty; a recording has at least its metadata", .0.display())]
    Empty(PathBuf),
    /// It is something else.
    #[error("{}: it is no recording of ipc-trace, or nothing of it is whole", .0.display())]
    Other(PathBuf),
    /// Its metadata is missing.
    #[error(
        "{}: its metadata is damaged, so its inputs can't be used; give another file of that run with it", .0.display()
    )]
    NoHead(PathBuf),
    /// The thread ended early.
    #[error("the thread that reads the recording can't be started or ended early")]
    Thread,
}

impl ReadError {
    /// Whether the file can be read, and has nothing that can be used.
    pub(super) const fn is_of_content(&self) -> bool {
        matches!(self, Self::Empty(_) | Self::Other(_) | Self::NoHead(_))
    }
}

/// Standard input, as it is named on the command line.
pub(crate) const STDIN: &str = "-";

/// A recording that is open.
#[derive(Clone, Debug)]
pub(crate) struct OpenFile {
    /// The file, as it was named
    pub path: PathBuf,
    /// `None`: standard input
    pub(super) file: Option<Arc<File>>,
}

impl OpenFile {
    /// # Errors
    /// It can't be opened.
    pub(crate) fn open(path: &Path) -> Result<Self, ReadError> {
        let failed = |source| ReadError::File { file: path.to_owned(), source };
        let file = match path == Path::new(STDIN) {
            true => None,
            false if fs::metadata(path).map_err(failed)?.is_dir() => {
                return Err(failed(io::ErrorKind::IsADirectory.into()));
            }
            false => Some(Arc::new(File::open(path).map_err(failed)?)),
        };
        Ok(Self { path: path.to_owned(), file })
    }

    pub(super) fn failed(&self, source: io::Error) -> ReadError {
        ReadError::File { file: self.path.clone(), source }
    }

    /// A scanner from `offset` on.
    pub(super) fn scanner(&self, offset: u64, follow: bool) -> Result<Scanner, ReadError> {
        let bytes = match &self.file {
            Some(file) if self.is_regular() => ByteSource::File(Arc::clone(file)),
            // It has no offset; it is read once.
            Some(fifo) => ByteSource::Fifo(Arc::clone(fifo)),
            None => ByteSource::Stream(io::stdin()),
        };
        Scanner::new(bytes, offset, follow).map_err(|error| self.failed(error))
    }

    /// Its bytes; `None`: unknown.
    pub(super) fn len(&self) -> Option<u64> {
        let metadata = self.file.as_ref()?.metadata().ok()?;
        metadata.is_file().then_some(metadata.len())
    }

    /// Whether it can be read twice.
    pub(crate) fn is_regular(&self) -> bool {
        let metadata = self.file.as_ref().and_then(|file| file.metadata().ok());
        metadata.is_some_and(|metadata| metadata.is_file())
    }
}
