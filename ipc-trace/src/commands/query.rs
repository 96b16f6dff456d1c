//! `query`: SQL over recordings.

use std::{
    ffi::OsString,
    fmt::Write as _,
    fs, io,
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        mpsc::{self, SyncSender},
    },
    thread,
};

use super::{
    error::{RunError, system},
    recording,
    replay::{Range, ReplayOutput, Replayer},
    seal,
};
use crate::{
    cli::QueryArgs,
    event::{EmitEvent, Event, counts::SecondCounts},
    query::{
        Database, RowSource, RowStream, StreamRow, StreamTable,
        conditions::Conditions,
        named::{self, NamedQuery},
        print::{PrintError, RowPrinter},
    },
    recording::{
        head::Head,
        reader::{self, OpenFile, OrderedRecordings, ReadStart},
        recorded_counts::RecordedCounts,
    },
    rows::{
        self, RowRun, calls::CallRows, counts::CountRow, files::FileRow, losses, state::StateRows,
    },
    signals::Signals,
    sinks::output::{self, Output},
};

/// How many rows go from thread to thread at a time, and how many such parts can wait.
const TOGETHER: usize = 512;
const MAX_WAITING: usize = 8;

/// Runs `query`.
///
/// # Errors
/// A file can't be read, the SQL is wrong, or output failed.
pub(super) fn run(args: &QueryArgs) -> Result<ExitCode, RunError> {
    if args.list {
        output::print(list().trim_end())?;
        return Ok(ExitCode::SUCCESS);
    }
    let (sql, params, files) = asked(args)?;
    let signals = Signals::handle().map_err(system("can't handle signals"))?;
    let files = reader::open_files(&files)?;
    if let Some(stream) = files.iter().find(|file| !file.is_regular()) {
        return Err(RunError::Given(format!(
            "{}: a query reads its files more than once; save this one to a file first",
            stream.path.display()
        )));
    }
    let scratch = ScratchFolder::new().map_err(system("can't create a temporary folder"))?;
    let source = RecordedRows { files: files.into(), signals: signals.clone() };
    let database = Database::new(Arc::new(source), Some(&scratch.0))?;
    seal::seal_but_new_files()
        .map_err(system("can't give up the right to open files and sockets"))?;
    let mut printer = RowPrinter::new(args.output, Output::new(signals));
    database.run(&sql, &params, &mut printer).map_err(|error| match error {
        PrintError::Query(error) => RunError::Query(error),
        PrintError::Output(error) => RunError::Output(error),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Where SQLite sorts what has no room in memory. It makes files in it, and removes them at once.
struct ScratchFolder(PathBuf);

impl ScratchFolder {
    fn new() -> io::Result<Self> {
        tempfile::Builder::new().prefix("ipc-trace-").tempdir().map(|folder| Self(folder.keep()))
    }
}

impl Drop for ScratchFolder {
    fn drop(&mut self) {
        // It can't be listed any more, as nothing can be opened; it is empty.
        if let Err(error) = fs::remove_dir(&self.0) {
            log::warn!("{} can't be removed: {error}", self.0.display());
        }
    }
}

/// The statement, its parameters, and the files.
type Asked = (String, Vec<(String, String)>, Vec<PathBuf>);

fn asked(args: &QueryArgs) -> Result<Asked, RunError> {
    let mut params = args.params.clone();
    let mut words = args.words.iter();
    let sql = match &args.named {
        Some(name) => {
            let known = NamedQuery::find(name).ok_or_else(|| {
                RunError::Given(format!("--named {name}: there is no such question; see --list"))
            })?;
            for param in known.params() {
                let is_given = params.iter().any(|(given, _)| given == param.name);
                if let (false, Some(default)) = (is_given, param.default) {
                    params.push((param.name.to_owned(), default.to_owned()));
                }
            }
            known.sql.to_owned()
        }
        None => {
            let sql = words.next().cloned().unwrap_or_default();
            let text = OsString::into_string(sql);
            text.map_err(|_| RunError::Usage("the SQL is no valid UTF-8"))?
        }
    };
    let files: Vec<PathBuf> = words.map(PathBuf::from).collect();
    if files.is_empty() {
        return Err(RunError::Usage("there is no recording: ipc-trace query SQL FILE..."));
    }
    Ok((sql, params, files))
}

/// The questions and the tables.
fn list() -> String {
    let mut text = String::from("Questions, for --named:\n");
    for query in named::ALL {
        // Writing to a String can't fail.
        let _ = writeln!(text, "\n  {}\n      {}", query.name, query.when());
        for param in query.params() {
            let default = param.default.map_or(String::new(), |default| format!(" [{default}]"));
            let _ = writeln!(text, "      --param {}=…  {}{default}", param.name, param.doc);
        }
    }
    text.push_str("\nTables:\n");
    for table in rows::TABLES {
        let _ = writeln!(text, "\n  {}: {}", table.name, table.doc.trim());
        for column in table.columns {
            let _ = writeln!(text, "      {:<18} {}", column.name, column.doc.trim());
        }
    }
    text.push_str(
        "\n  edges: a process, an object that it used, who created that, and how often (a view of calls)\n\n\
         Functions besides SQLite's: percentile(value, 0 to 100), text REGEXP pattern, ns('2026-01-31T23:59:00Z')\n",
    );
    text
}

/// Rows of recordings.
struct RecordedRows {
    files: Arc<[OpenFile]>,
    signals: Signals,
}

impl RowSource for RecordedRows {
    fn stream(&self, table: StreamTable, conditions: Conditions) -> Result<RowStream, String> {
        let (sender, stream) = mpsc::sync_channel(MAX_WAITING);
        let (files, signals) = (Arc::clone(&self.files), self.signals.clone());
        let rows = move || {
            let failed = sender.clone();
            let out = StreamOutput::new(table, conditions, sender, signals);
            if let Err(error) = out.read(&files) {
                // Nobody may listen any more.
                let _ = failed.send(Err(error.to_string()));
            }
        };
        let thread = thread::Builder::new().name("ipc-trace-rows".to_owned()).spawn(rows);
        thread.map_err(|error| format!("can't start a thread: {error}"))?;
        Ok(stream)
    }

    fn state(&self) -> Result<StateRows, String> {
        let in_order = |from| {
            OrderedRecordings::new(&self.files, false, from).map_err(|error| error.to_string())
        };
        let recordings = in_order(ReadStart::LastCheckpoint)?;
        let from_begin = in_order(ReadStart::Begin)?;
        let mut out = StateOutput { rows: StateRows::default(), signals: &self.signals };
        let replayed = Replayer::default().replay(recordings, Some(from_begin), &mut out);
        replayed.map(|_| out.rows).map_err(|error| error.to_string())
    }

    fn files(&self) -> Result<Vec<FileRow>, String> {
        recording::rows(&self.files).map_err(|error| error.to_string())
    }

    fn ends(&self) -> bool {
        self.signals.end()
    }
}

/// The state at the end of each run.
struct StateOutput<'a> {
    rows: StateRows,
    signals: &'a Signals,
}

impl EmitEvent for StateOutput<'_> {
    fn emit(&mut self, event: &Event<'_>) {
        if let Event::Report(report) = event {
            self.rows.add(report);
        }
    }
}

impl ReplayOutput for StateOutput<'_> {
    fn begin(&mut self, _: &Head) -> Result<(), RunError> {
        Ok(())
    }

    fn goes_on(&mut self, _: u64) -> Result<bool, RunError> {
        Ok(!self.signals.end())
    }
}

/// Rows of one table, as they come.
struct StreamOutput {
    table: StreamTable,
    conditions: Conditions,
    to: SyncSender<Result<Vec<StreamRow>, String>>,
    signals: Signals,
    /// `None`: no run has begun, or its rows are not wanted
    calls: Option<CallRows>,
    run: Option<Arc<RowRun>>,
    rows: Vec<StreamRow>,
    /// Whether nobody listens any more
    is_closed: bool,
}

impl StreamOutput {
    fn new(
        table: StreamTable,
        conditions: Conditions,
        to: SyncSender<Result<Vec<StreamRow>, String>>,
        signals: Signals,
    ) -> Self {
        Self {
            table,
            conditions,
            to,
            signals,
            calls: None,
            run: None,
            rows: Vec::new(),
            is_closed: false,
        }
    }

    /// Sends all rows.
    fn read(mut self, files: &[OpenFile]) -> Result<(), RunError> {
        if self.table == StreamTable::Counts
            && let Some(recorded) = RecordedCounts::new(files)?
            // Counts of which a part is damaged are of no use.
            && recorded.for_each(|_, _| true, |_, _| ())?
        {
            return self.recorded(&recorded);
        }
        let range = Range {
            since: self.conditions.since_ns.map(i128::from),
            until: self.conditions.until_ns.map(i128::from),
        };
        // Counts are of whole seconds.
        let counts_by_second = self.table == StreamTable::Counts;
        let replayer = Replayer {
            range: if counts_by_second { Range::default() } else { range },
            lines: !counts_by_second,
            numbers_all: true,
            counts_by_second,
            ..Replayer::default()
        };
        let from = replayer.range.since.map_or(ReadStart::Begin, ReadStart::Time);
        let mut recordings = OrderedRecordings::new(files, false, from)?;
        recordings.only(self.conditions.host.as_deref(), replayer.range.until)?;
        replayer.replay(recordings, None, &mut self)?;
        self.send();
        Ok(())
    }

    /// Sends the rows of counts that are recorded.
    fn recorded(mut self, recorded: &RecordedCounts) -> Result<(), RunError> {
        /// How far a second begins before the inputs in it, and more.
        const SLACK_NS: i128 = 2_000_000_000;
        let heads: Vec<_> = recorded.heads().cloned().collect();
        let (since, until) = (self.conditions.since_ns, self.conditions.until_ns);
        let is_wanted = |first: i128, last: i128| {
            since.is_none_or(|since| last + SLACK_NS >= i128::from(since))
                && until.is_none_or(|until| first - SLACK_NS <= i128::from(until))
        };
        let mut current = None;
        recorded.for_each(is_wanted, |number, counts| {
            if current != Some(number) {
                current = Some(number);
                self.run = heads.get(number).and_then(|head| self.run_of(head));
            }
            if !self.is_closed && !self.signals.end() {
                self.count(counts);
            }
        })?;
        self.send();
        Ok(())
    }

    /// The run, if its rows are wanted.
    fn run_of(&self, head: &Head) -> Option<Arc<RowRun>> {
        let begin = &head.begin;
        let is_wanted = self.conditions.wants_host(&begin.host);
        is_wanted.then(|| RowRun::new(&begin.host, begin.run_id.as_deref()))
    }

    fn count(&mut self, counts: SecondCounts) {
        let Some(run) = &self.run else { return };
        let row = CountRow::new(Arc::clone(run), counts);
        // A condition on the time may lie within the second.
        if self.conditions.wants_time(row.time_ns()) {
            self.push(StreamRow::Count(row));
        }
    }

    fn push(&mut self, row: StreamRow) {
        self.rows.push(row);
        if self.rows.len() >= TOGETHER {
            self.send();
        }
    }

    fn send(&mut self) {
        if !self.rows.is_empty() && !self.is_closed {
            let rows = std::mem::replace(&mut self.rows, Vec::with_capacity(TOGETHER));
            self.is_closed = self.to.send(Ok(rows)).is_err();
        }
    }
}

impl EmitEvent for StreamOutput {
    fn emit(&mut self, event: &Event<'_>) {
        #[expect(clippy::wildcard_enum_match_arm, reason = "others have no rows here")]
        match event {
            Event::Ipc(ipc) => {
                if let Some(calls) = &mut self.calls
                    && self.conditions.wants_call(ipc)
                {
                    let row = calls.row(ipc);
                    self.push(StreamRow::Call(row));
                }
            }
            Event::Loss(loss) if self.table == StreamTable::Losses => {
                if let Some(run) = self.run.clone() {
                    for row in losses::rows(&run, loss) {
                        self.push(StreamRow::Loss(row));
                    }
                }
            }
            _ => {}
        }
    }

    fn wants_calls(&self) -> bool {
        self.calls.is_some() && !self.is_closed
    }
}

impl ReplayOutput for StreamOutput {
    fn begin(&mut self, head: &Head) -> Result<(), RunError> {
        self.run = self.run_of(head);
        self.calls = match self.table {
            StreamTable::Calls => self.run.clone().map(CallRows::new),
            StreamTable::Losses | StreamTable::Counts => None,
        };
        Ok(())
    }

    fn counted(&mut self, counts: Vec<SecondCounts>) {
        for one in counts {
            self.count(one);
        }
    }

    fn goes_on(&mut self, _: u64) -> Result<bool, RunError> {
        Ok(!self.is_closed && !self.signals.end())
    }
}
