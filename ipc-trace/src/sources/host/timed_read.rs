//! Reads files of `/proc/PID` whose contents lie in the process's memory, and which can block the reader: its pages
//! may be those of a file on a server that never answers (FUSE, userfaultfd).
//!
//! Invariant: a caller waits for `READ_TIMEOUT` at most while the reading thread sleeps, for `BUSY_TIMEOUT` at most
//! while it merely waits for a processor, and at most `MAX_STUCK_THREADS` threads are stuck.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI32, AtomicUsize, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    },
    thread,
    time::{Duration, Instant},
};

use nix::unistd::gettid;

/// How long to wait for a file: a page that was swapped out comes sooner.
const READ_TIMEOUT: Duration = Duration::from_millis(100);
/// How long to wait while the reading thread is runnable: on a busy host it may wait for a processor.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);
/// How many threads may be stuck before no more files are read.
const MAX_STUCK_THREADS: usize = 8;

/// A file to read.
struct ReadTask {
    path: PathBuf,
    most: u64,
    answer: SyncSender<io::Result<Vec<u8>>>,
}

/// A thread that reads files.
#[derive(Debug)]
struct ReadThread {
    tasks: SyncSender<ReadTask>,
    /// Its number; 0 until it runs
    tid: Arc<AtomicI32>,
}

impl ReadThread {
    /// Whether it runs, or waits for a processor.
    fn is_runnable(&self) -> bool {
        let tid = self.tid.load(Ordering::Relaxed);
        // The state follows the name, in parentheses (proc_pid_stat(5)).
        let stat = || std::fs::read_to_string(format!("/proc/self/task/{tid}/stat"));
        tid == 0 || stat().is_ok_and(|stat| stat.contains(") R "))
    }
}

/// Reads files in a thread that is created on demand.
#[derive(Debug, Default)]
pub(crate) struct TimedReader {
    thread: Option<ReadThread>,
    /// The number of threads, including the stuck ones
    threads: Arc<AtomicUsize>,
}

impl TimedReader {
    /// Reads a file, up to `most` bytes.
    ///
    /// # Errors
    /// It can't be read, or the read timed out (`TimedOut`), or too many reads are stuck (`ResourceBusy`).
    pub(crate) fn read(&mut self, path: &Path, most: u64) -> io::Result<Vec<u8>> {
        let (answer, answered) = mpsc::sync_channel(1);
        let task = ReadTask { path: path.to_owned(), most, answer };
        let thread = match self.thread.take() {
            Some(thread) => thread,
            None => self.thread()?,
        };
        // The channel has room, and the thread ends only when the sender does.
        let _ = thread.tasks.send(task);
        let begin = Instant::now();
        let read = loop {
            match answered.recv_timeout(READ_TIMEOUT) {
                Err(RecvTimeoutError::Timeout)
                    if begin.elapsed() < BUSY_TIMEOUT && thread.is_runnable() => {}
                read => break read.ok(),
            }
        };
        if let Some(read) = read {
            self.thread = Some(thread);
            return read;
        }
        // The thread ends when its read returns.
        log::debug!("{} keeps its reader waiting", path.display());
        Err(io::ErrorKind::TimedOut.into())
    }

    fn thread(&self) -> io::Result<ReadThread> {
        if self.threads.load(Ordering::Relaxed) > MAX_STUCK_THREADS {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        let (tasks, taken) = mpsc::sync_channel(1);
        let threads = Arc::clone(&self.threads);
        let tid = Arc::new(AtomicI32::new(0));
        let own = Arc::clone(&tid);
        threads.fetch_add(1, Ordering::Relaxed);
        let begun = thread::Builder::new().name("ipc-trace-read".to_owned()).spawn(move || {
            own.store(gettid().as_raw(), Ordering::Relaxed);
            serve(&taken);
            threads.fetch_sub(1, Ordering::Relaxed);
        });
        if let Err(error) = begun {
            self.threads.fetch_sub(1, Ordering::Relaxed);
            return Err(error);
        }
        Ok(ReadThread { tasks, tid })
    }
}

fn serve(tasks: &Receiver<ReadTask>) {
    for ReadTask { path, most, answer } in tasks {
        let mut bytes = Vec::new();
        let read = File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes));
        // The caller may have given up.
        let _ = answer.try_send(read.map(|_| bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_is_limited_to_requested_bytes() {
        let mut timed_reader = TimedReader::default();
        let own = Path::new("/proc/self/cmdline");
        let complete = timed_reader.read(own, 1 << 20).unwrap();
        assert_eq!(complete, std::fs::read(own).unwrap());
        assert_eq!(timed_reader.read(own, 3).unwrap(), complete[..3]);
        let missing = timed_reader.read(Path::new("/proc/self/no such file"), 1);
        assert_eq!(missing.unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(timed_reader.threads.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn blocking_reads_use_bounded_threads() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut timed_reader = TimedReader::default();
        let mut outcome = || timed_reader.read(&fifo, 1).unwrap_err().kind();
        let kinds: Vec<_> = (0..MAX_STUCK_THREADS + 3).map(|_| outcome()).collect();
        assert_eq!(kinds[..=MAX_STUCK_THREADS], [io::ErrorKind::TimedOut; MAX_STUCK_THREADS + 1]);
        assert_eq!(kinds[MAX_STUCK_THREADS + 1..], [io::ErrorKind::ResourceBusy; 2]);
        // The server answers, and all of the threads end.
        let writer = File::options().write(true).open(&fifo).unwrap();
        drop(writer);
        let all_ended = || timed_reader.threads.load(Ordering::Relaxed) == 0;
        assert!((0..1000).any(|_| {
            thread::sleep(Duration::from_millis(5));
            all_ended()
        }));
        assert!(timed_reader.read(Path::new("/proc/self/stat"), 1).is_ok());
    }
}
