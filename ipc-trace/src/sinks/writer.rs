//! The thread that writes a sink's output, as slowly as its reader takes it.

use std::{
    io,
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{
    Format, Screen, SinkKind,
    bar::Bar,
    output::{Output, OutputError},
    queue::{LineClass, MAX_QUEUED_BYTES, Next, Queue},
};
use crate::event::{Event, Loss, SinkAccounting, Standing};

/// What the writer completes, with the host that its line is to show.
#[derive(Debug)]
pub(super) struct HostStanding {
    pub standing: Box<Standing>,
    pub host: Option<Arc<str>>,
}

#[derive(Debug)]
struct WriterState {
    queue: Queue<HostStanding>,
    /// No more output comes
    closed: bool,
    /// Why it has stopped writing
    ended: Option<OutputError>,
    is_over: bool,
}

/// The handle of the thread.
#[derive(Debug)]
pub(crate) struct SinkWriter {
    shared: Arc<(Mutex<WriterState>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl SinkWriter {
    /// Starts the thread.
    ///
    /// # Errors
    /// The thread can't be created.
    pub(crate) fn start(
        kind: SinkKind,
        screen: Screen,
        output: Output,
        bar: Option<Bar>,
    ) -> io::Result<Self> {
        let shared = WriterState {
            queue: Queue::new(MAX_QUEUED_BYTES),
            closed: false,
            ended: None,
            is_over: false,
        };
        let shared = Arc::new((Mutex::new(shared), Condvar::new()));
        let mut end = WriterEnd {
            name: kind.name(),
            format: kind.format(screen),
            output,
            bar,
            screen,
            counts: SinkAccounting::default(),
        };
        let theirs = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("ipc-trace-out".to_owned())
            .spawn(move || end.serve(&theirs))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    pub(super) fn push(&self, class: LineClass, bytes: Vec<u8>, counts: (u64, u64)) {
        self.with(|shared| {
            if !shared.is_over {
                shared.queue.push(class, bytes, counts);
            }
        });
    }

    pub(super) fn push_standing(&self, standing: HostStanding) {
        self.with(|shared| {
            if !shared.is_over {
                shared.queue.push_standing(standing);
            }
        });
    }

    /// Waits until most of the queue is written, or writing has stopped.
    pub(crate) fn wait(&self) {
        let (shared, changed) = &*self.shared;
        let mut all = shared.lock().unwrap_or_else(PoisonError::into_inner);
        while all.queue.is_half_full() && !all.is_over {
            let waited = changed.wait_timeout(all, Duration::from_millis(1));
            all = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn with(&self, change: impl FnOnce(&mut WriterState)) {
        let (shared, changed) = &*self.shared;
        change(&mut shared.lock().unwrap_or_else(PoisonError::into_inner));
        changed.notify_one();
    }

    /// Whether it still writes.
    ///
    /// # Errors
    /// It does not: why.
    pub(crate) fn check(&self) -> Result<(), OutputError> {
        let mut shared = self.shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        match shared.ended.take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Waits until everything is written.
    ///
    /// # Errors
    /// Writing failed: why.
    pub(crate) fn finish(&mut self) -> Result<(), OutputError> {
        self.with(|shared| shared.closed = true);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            return Err(OutputError::Failed(io::Error::other("the thread that writes failed")));
        }
        self.check()
    }
}

/// The thread's state.
#[derive(Debug)]
struct WriterEnd {
    name: &'static str,
    format: Box<dyn Format>,
    output: Output,
    bar: Option<Bar>,
    screen: Screen,
    counts: SinkAccounting,
}

impl WriterEnd {
    fn serve(&mut self, shared: &(Mutex<WriterState>, Condvar)) {
        let (shared, changed) = shared;
        loop {
            let mut all = shared.lock().unwrap_or_else(PoisonError::into_inner);
            let next = loop {
                if let Some(next) = all.queue.pop() {
                    break next;
                }
                if all.closed {
                    return;
                }
                all = changed.wait(all).unwrap_or_else(PoisonError::into_inner);
            };
            drop(all);
            if let Err(error) = self.write(next) {
                let mut all = shared.lock().unwrap_or_else(PoisonError::into_inner);
                (all.ended, all.is_over) = (Some(error), true);
                all.queue = Queue::new(0);
                return;
            }
        }
    }

    fn write(&mut self, next: Next<HostStanding>) -> Result<(), OutputError> {
        match next {
            Next::Bytes(bytes, calls) => {
                self.put(&bytes)?;
                self.counts.written += calls;
                Ok(())
            }
            Next::Standing(HostStanding { standing, host }, lost) => {
                self.format.set_host(host);
                self.standing(*standing, lost)
            }
        }
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), OutputError> {
        let Some(bar) = &mut self.bar else { return self.output.write_all(bytes) };
        self.output.write_all(bar.erase())?;
        self.output.write_all(bytes)?;
        self.output.write_all(bar.show())
    }

    /// Writes the losses before a status update, and the update with the counts of this sink.
    fn standing(&mut self, mut standing: Standing, lost: (u64, u64)) -> Result<(), OutputError> {
        self.output.check()?;
        self.counts.count_lost(lost);
        let mut bytes = Vec::new();
        if lost != (0, 0) {
            let (dropped, lost_other) = lost;
            let loss = Loss {
                seq: None,
                time: standing.time(),
                dropped,
                missed: 0,
                metadata: 0,
                by: &[],
                sink: Some(self.name),
                lost_other: Some(lost_other),
            };
            self.format.write(&Event::Loss(loss), &mut bytes);
        }
        if let Standing::Report(report) = &standing {
            // It contains all delivered calls.
            self.counts.written = report.accounting.total.delivered;
        }
        standing.accounting().sinks.insert(self.name.to_owned(), self.counts);
        if let Some(bar) = &mut self.bar {
            match &standing {
                Standing::Status(status) => bar.update(status, self.screen),
                Standing::End(_) | Standing::Report(_) => {
                    self.output.write_all(bar.erase())?;
                    self.bar = None;
                }
            }
        }
        self.format.write(&standing.event(), &mut bytes);
        self.format.settle(&mut bytes);
        self.put(&bytes)
    }
}
