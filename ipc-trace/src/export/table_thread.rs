//! The thread that writes rows, so that reading goes on meanwhile.

use std::{
    collections::BTreeMap,
    fmt, io,
    sync::mpsc::{self, SyncSender},
    thread::{self, JoinHandle},
};

use crate::rows::{Row, Table};

/// How many batches can wait.
const MAX_WAITING: usize = 4;

/// What was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TableSummary {
    /// Rows, by table
    pub rows: BTreeMap<&'static str, u64>,
    /// Bytes of all files
    pub bytes: u64,
}

/// Writes rows of tables.
pub(crate) trait TableWriter: fmt::Debug + Send {
    /// Writes some rows of a table.
    ///
    /// # Errors
    /// They can't be written.
    fn write(&mut self, table: &'static Table, rows: &dyn RowList) -> io::Result<()>;

    /// Completes what was written, and keeps it. Without this it is removed.
    ///
    /// # Errors
    /// It can't be written.
    fn finish(self: Box<Self>) -> io::Result<TableSummary>;
}

/// Rows of one table.
pub(crate) trait RowList: fmt::Debug + Send {
    /// How many there are.
    fn len(&self) -> usize;

    /// One of them.
    fn row(&self, at: usize) -> Option<&dyn Row>;
}

impl<R: Row + fmt::Debug + Send> RowList for Vec<R> {
    fn len(&self) -> usize {
        self.len()
    }

    fn row(&self, at: usize) -> Option<&dyn Row> {
        self.get(at).map(|row| row as &dyn Row)
    }
}

/// Some rows of a table.
type RowBatch = (&'static Table, Box<dyn RowList>);

/// The handle of the thread.
#[derive(Debug)]
pub(crate) struct TableThread {
    batches: Option<SyncSender<RowBatch>>,
    thread: Option<JoinHandle<io::Result<Box<dyn TableWriter>>>>,
}

impl TableThread {
    /// Starts it.
    ///
    /// # Errors
    /// The thread can't be made.
    pub(crate) fn start(mut writer: Box<dyn TableWriter>) -> io::Result<Self> {
        let (batches, received) = mpsc::sync_channel::<RowBatch>(MAX_WAITING);
        let write = move || {
            while let Ok((table, rows)) = received.recv() {
                writer.write(table, &*rows)?;
            }
            Ok(writer)
        };
        let thread = thread::Builder::new().name("ipc-trace-rows".to_owned()).spawn(write)?;
        Ok(Self { batches: Some(batches), thread: Some(thread) })
    }

    /// Passes rows on, as slowly as they are written.
    ///
    /// # Errors
    /// Earlier ones couldn't be written.
    pub(crate) fn write(
        &mut self,
        table: &'static Table,
        rows: impl RowList + 'static,
    ) -> io::Result<()> {
        let sent = self.batches.as_ref().map(|to| to.send((table, Box::new(rows))));
        match sent {
            Some(Ok(())) => Ok(()),
            Some(Err(_)) | None => self.end().map(drop),
        }
    }

    /// Waits until everything is written.
    ///
    /// # Errors
    /// It can't be written.
    pub(crate) fn finish(mut self) -> io::Result<TableSummary> {
        self.end()?.finish()
    }

    fn end(&mut self) -> io::Result<Box<dyn TableWriter>> {
        self.batches = None;
        let failed = || io::Error::other("the thread that writes rows failed");
        self.thread.take().and_then(|thread| thread.join().ok()).ok_or_else(failed)?
    }
}

/// What was made is removed before the program ends.
impl Drop for TableThread {
    fn drop(&mut self) {
        if self.thread.is_some() {
            drop(self.end());
        }
    }
}
