//! Exports of tables: rows of calls, counts and losses as they come; then a report, which has the state at the end; then what is
//! in the files.

use std::{io, mem, sync::Arc};

use indicatif::ProgressBar;

use super::{
    super::{
        error::{RunError, system},
        recording,
        replay::{Range, ReplayOutput, progress_bar},
        seal,
    },
    Export, Worst,
};
use crate::{
    cli::ExportFormat,
    event::{EmitEvent, Event, counts::SecondCounts},
    export::table_thread::{TableThread, TableWriter},
    recording::{
        head::Head,
        reader::{OrderedRecordings, ReadStart},
    },
    rows::{
        RowRun, TABLES, Table,
        calls::{CALLS, CallRow, CallRows},
        counts::{COUNTS, CountRow},
        files::FILES,
        losses::{self, LOSSES, LossRow},
        state::{CONTAINERS, FINDINGS, NAMESPACES, OBJECTS, PROCESSES, StateRows},
    },
    signals::Signals,
};

/// How many rows are passed on at a time.
const BATCH: usize = 4096;

/// Writes the tables.
///
/// # Errors
/// A file can't be read, or the new one can't be written.
pub(super) fn run(mut export: Export<'_>) -> Result<Worst, RunError> {
    if export.is_stdout() {
        return Err(RunError::Usage(
            "-w -: standard output takes ndjson and trace; name a new file for sqlite, a new folder for parquet",
        ));
    }
    if export.files.iter().any(|file| !file.is_regular()) {
        return Err(RunError::Usage(
            "tables take several passes, so give regular files; ndjson and trace also take a pipe, or - for standard input",
        ));
    }
    export.replayer.numbers_all = true;
    let in_order = |from| OrderedRecordings::new(&export.files, false, from);
    let lines = in_order(export.replayer.read_start())?;
    export.replayer.lines = false;
    let from = export.replayer.read_start();
    let state = in_order(from)?;
    // Another version may not know what the last state holds.
    let from_begin =
        (from == ReadStart::LastCheckpoint).then(|| in_order(ReadStart::Begin)).transpose()?;
    let writer = writer(&export)?;
    seal::seal_but_new_files()
        .map_err(system("can't give up the right to open files and sockets"))?;

    // Each of the two passes takes most of the time.
    let bytes = lines.len().unwrap_or(0);
    let bar = progress_bar(Some(bytes * 2));
    let progress = TableProgress { bar: bar.clone(), before: 0, signals: export.signals.clone() };
    let to = TableThread::start(writer).map_err(system("can't start a thread"))?;
    let mut out = LineRows::new(to, export.replayer.range, progress);
    (export.replayer.lines, export.replayer.counts_by_second) = (true, true);
    export.replayer.replay(lines, None, &mut out)?;
    // SQLite stops at a signal, too.
    let failed = |error| export.check().err().unwrap_or_else(|| export.failed(error));
    let mut to = out.end().map_err(failed)?;
    export.check()?;

    (export.replayer.lines, export.replayer.counts_by_second) = (false, false);
    export.replayer.is_repeat = true;
    let progress = TableProgress { bar, before: bytes, signals: export.signals.clone() };
    let mut out = ReportRows { rows: StateRows::default(), progress };
    let worst = export.replayer.replay(state, from_begin, &mut out)?;
    export.check()?;
    let files = recording::rows(&export.files)?;
    let ReportRows { rows, progress } = out;
    let StateRows { findings, objects, namespaces, processes, containers } = rows;
    let write = || {
        to.write(&FINDINGS, findings)?;
        to.write(&OBJECTS, objects)?;
        to.write(&NAMESPACES, namespaces)?;
        to.write(&PROCESSES, processes)?;
        to.write(&CONTAINERS, containers)?;
        to.write(&FILES, files)?;
        to.finish()
    };
    let failed = |error| export.check().err().unwrap_or_else(|| export.failed(error));
    let summary = write().map_err(failed)?;
    if let Some(bar) = &progress.bar {
        bar.finish_and_clear();
    }
    let rows = |table: &Table| Some((table.name, *summary.rows.get(table.name)?));
    let counts: Vec<_> = TABLES.iter().filter_map(|table| rows(table)).collect();
    export.say(&counts, Some(summary.bytes));
    Ok(worst)
}

fn writer(export: &Export<'_>) -> Result<Box<dyn TableWriter>, RunError> {
    let path = export.path();
    let writer: io::Result<Box<dyn TableWriter>> = match export.args.to {
        #[cfg(feature = "parquet")]
        ExportFormat::Parquet => crate::export::parquet::ParquetFolder::create(path, &TABLES)
            .map(|folder| Box::new(folder) as Box<dyn TableWriter>),
        #[cfg(feature = "sqlite")]
        ExportFormat::Sqlite => {
            let signals = export.signals.clone();
            crate::export::sqlite::SqliteFile::create(path, &TABLES, move || signals.end())
                .map(|file| Box::new(file) as Box<dyn TableWriter>)
        }
        ExportFormat::Ndjson | ExportFormat::Trace => {
            return Err(RunError::Usage("--to: ndjson and trace have no tables"));
        }
    };
    writer.map_err(|error| export.failed(error))
}

/// How far the export is, and whether it goes on.
struct TableProgress {
    bar: Option<ProgressBar>,
    /// Bytes of earlier passes
    before: u64,
    signals: Signals,
}

impl TableProgress {
    fn goes_on(&self, read: u64) -> bool {
        if let Some(bar) = &self.bar {
            bar.set_position(self.before + read);
        }
        !self.signals.end()
    }
}

/// Makes rows of lines.
struct LineRows {
    /// The host and the run; `None`: none has begun
    run: Option<(Arc<RowRun>, CallRows)>,
    calls: Vec<CallRow>,
    losses: Vec<LossRow>,
    to: TableThread,
    /// Why rows can't be written
    error: Option<io::Error>,
    range: Range,
    progress: TableProgress,
}

impl LineRows {
    const fn new(to: TableThread, range: Range, progress: TableProgress) -> Self {
        Self { run: None, calls: Vec::new(), losses: Vec::new(), to, error: None, range, progress }
    }

    fn flush(&mut self) {
        let (calls, losses) = (mem::take(&mut self.calls), mem::take(&mut self.losses));
        if self.error.is_none() {
            let written = match (calls.is_empty(), losses.is_empty()) {
                (false, _) => self.to.write(&CALLS, calls),
                (true, _) => Ok(()),
            };
            let written = written.and_then(|()| match losses.is_empty() {
                false => self.to.write(&LOSSES, losses),
                true => Ok(()),
            });
            self.error = written.err();
        }
    }

    /// Passes on the last rows.
    ///
    /// # Errors
    /// Rows can't be written.
    fn end(mut self) -> io::Result<TableThread> {
        self.flush();
        match self.error {
            Some(error) => Err(error),
            None => Ok(self.to),
        }
    }
}

impl EmitEvent for LineRows {
    fn emit(&mut self, event: &Event<'_>) {
        let Some((run, rows)) = &mut self.run else { return };
        #[expect(clippy::wildcard_enum_match_arm, reason = "others are no rows")]
        match event {
            Event::Ipc(ipc) => {
                if self.calls.capacity() == 0 {
                    self.calls.reserve(BATCH);
                }
                self.calls.push(rows.row(ipc));
            }
            Event::Loss(loss) => self.losses.extend(losses::rows(run, loss)),
            _ => {}
        }
        if self.calls.len() >= BATCH || self.losses.len() >= BATCH {
            self.flush();
        }
    }
}

impl ReplayOutput for LineRows {
    fn begin(&mut self, head: &Head) -> Result<(), RunError> {
        let run = RowRun::new(&head.begin.host, head.begin.run_id.as_deref());
        self.run = Some((Arc::clone(&run), CallRows::new(run)));
        Ok(())
    }

    fn counted(&mut self, counts: Vec<SecondCounts>) {
        let Some((run, _)) = &self.run else { return };
        // The first and the last second of a range are whole.
        let is_in_range = |row: &CountRow| {
            let begin = i128::from(row.time_ns());
            self.range.since.is_none_or(|since| begin + 1_000_000_000 > since)
                && self.range.until.is_none_or(|until| begin <= until)
        };
        let rows = counts.into_iter().map(|counts| CountRow::new(Arc::clone(run), counts));
        let rows: Vec<_> = rows.filter(is_in_range).collect();
        if self.error.is_none() && !rows.is_empty() {
            self.error = self.to.write(&COUNTS, rows).err();
        }
    }

    fn goes_on(&mut self, read: u64) -> Result<bool, RunError> {
        Ok(self.progress.goes_on(read) && self.error.is_none())
    }
}

/// Collects the state at the end of runs.
struct ReportRows {
    rows: StateRows,
    progress: TableProgress,
}

impl EmitEvent for ReportRows {
    fn emit(&mut self, event: &Event<'_>) {
        if let Event::Report(report) = event {
            self.rows.add(report);
        }
    }

    fn wants_calls(&self) -> bool {
        false
    }
}

impl ReplayOutput for ReportRows {
    fn begin(&mut self, _: &Head) -> Result<(), RunError> {
        Ok(())
    }

    fn goes_on(&mut self, read: u64) -> Result<bool, RunError> {
        Ok(self.progress.goes_on(read))
    }
}
