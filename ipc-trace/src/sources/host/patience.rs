//! Reads files of `/proc/PID` that lie in the process's memory, which can keep whoever reads them waiting: its pages
//! may be those of a file on a server that never answers (FUSE, userfaultfd).
//!
//! Invariant: who asks waits for `PATIENCE` at most, and at most `STUCK` threads are waited for by nobody.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, Receiver, SyncSender},
    },
    thread,
    time::Duration,
};

/// So long a file is waited for: a page that was swapped out comes sooner.
const PATIENCE: Duration = Duration::from_millis(100);
/// So many threads may be stuck before no more files are read.
const STUCK: usize = 8;

/// A file that is to be read.
struct ReadTask {
    path: PathBuf,
    most: u64,
    answer: SyncSender<io::Result<Vec<u8>>>,
}

/// Reads files, by a thread that is made when there is something to read.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    tasks: Option<SyncSender<ReadTask>>,
    /// Threads that there are, with those that are waited for no more
    threads: Arc<AtomicUsize>,
}

impl Patience {
    /// Reads a file, at most so many bytes.
    ///
    /// # Errors
    /// It can't be read, or keeps its reader waiting (`TimedOut`), or others have kept too many waiting
    /// (`ResourceBusy`).
    pub(crate) fn read(&mut self, path: &Path, most: u64) -> io::Result<Vec<u8>> {
        let (answer, answered) = mpsc::sync_channel(1);
        let task = ReadTask { path: path.to_owned(), most, answer };
        if self.tasks.is_none() {
            self.tasks = Some(self.thread()?);
        }
        let sent = self.tasks.as_ref().is_some_and(|tasks| tasks.send(task).is_ok());
        let read = if sent { answered.recv_timeout(PATIENCE).ok() } else { None };
        read.unwrap_or_else(|| {
            // It ends when what it waits for comes.
            self.tasks = None;
            log::debug!("{} keeps its reader waiting", path.display());
            Err(io::ErrorKind::TimedOut.into())
        })
    }

    fn thread(&self) -> io::Result<SyncSender<ReadTask>> {
        if self.threads.load(Ordering::Relaxed) > STUCK {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        let (tasks, taken) = mpsc::sync_channel(1);
        let threads = Arc::clone(&self.threads);
        threads.fetch_add(1, Ordering::Relaxed);
        let begun = thread::Builder::new().name("ipc-trace-read".to_owned()).spawn(move || {
            serve(&taken);
            threads.fetch_sub(1, Ordering::Relaxed);
        });
        if let Err(error) = begun {
            self.threads.fetch_sub(1, Ordering::Relaxed);
            return Err(error);
        }
        Ok(tasks)
    }
}

fn serve(tasks: &Receiver<ReadTask>) {
    for ReadTask { path, most, answer } in tasks {
        let mut bytes = Vec::new();
        let read = File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes));
        // It may be waited for no more.
        let _ = answer.try_send(read.map(|_| bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_read_as_far_as_it_is_wanted() {
        let mut patience = Patience::default();
        let own = Path::new("/proc/self/cmdline");
        let whole = patience.read(own, 1 << 20).unwrap();
        assert_eq!(whole, std::fs::read(own).unwrap());
        assert_eq!(patience.read(own, 3).unwrap(), whole[..3]);
        let missing = patience.read(Path::new("/proc/self/no such file"), 1);
        assert_eq!(missing.unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(patience.threads.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn who_keeps_readers_waiting_keeps_a_bounded_number() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut patience = Patience::default();
        let mut outcome = || patience.read(&fifo, 1).unwrap_err().kind();
        let kinds: Vec<_> = (0..STUCK + 3).map(|_| outcome()).collect();
        assert_eq!(kinds[..=STUCK], [io::ErrorKind::TimedOut; STUCK + 1]);
        assert_eq!(kinds[STUCK + 1..], [io::ErrorKind::ResourceBusy; 2]);
        // It answers, and all of them are gone.
        let writer = File::options().write(true).open(&fifo).unwrap();
        drop(writer);
        let all_ended = || patience.threads.load(Ordering::Relaxed) == 0;
        assert!((0..1000).any(|_| {
            thread::sleep(Duration::from_millis(5));
            all_ended()
        }));
        assert!(patience.read(Path::new("/proc/self/stat"), 1).is_ok());
    }
}
