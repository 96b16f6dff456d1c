//! SQL over recordings, by SQLite. Nothing is imported: calls, losses and counts are virtual tables that stream, and the
//! other tables, which are as large as the engine's state, are filled if a query reads them.
//!
//! | module | its job |
//! | --- | --- |
//! | [`conditions`] | the part of a WHERE that chooses what is decoded |
//! | `stream_table` | the virtual tables |
//! | `functions` | percentile, regexp, ns |
//! | [`named`] | the questions that come with the program |
//! | [`mod@print`] | rows as a table, JSON or CSV |
//!
//! Invariant: a query reads, and can do nothing else; its memory is bounded.

pub(crate) mod conditions;
mod functions;
pub(crate) mod named;
pub(crate) mod print;
mod stream_table;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    fmt,
    path::Path,
    sync::{Arc, Mutex, PoisonError, mpsc::Receiver},
};

use rusqlite::{
    Connection, Error, ErrorCode, Statement,
    hooks::{AuthAction, AuthContext, Authorization},
    limits::Limit,
    types::ValueRef,
};

use crate::rows::{
    Cell, Row, Table,
    calls::{CALLS, CallRow},
    counts::{COUNTS, CountRow},
    files::{FILES, FileRow},
    losses::{LOSSES, LossRow},
    sql,
    state::{CONTAINERS, FINDINGS, NAMESPACES, OBJECTS, PROCESSES, StateRows},
};
use conditions::Conditions;

/// How many bytes SQLite may have at a time, and how many of them for sorting before it goes to files.
const MAX_HEAP: i64 = 400 << 20;
const SORT_KIB: i64 = 64 << 10;
/// The longest value, in bytes.
const MAX_VALUE: i32 = 64 << 20;
/// How many of SQLite's steps are between two checks whether to go on.
const STEPS: i32 = 10_000;

/// The view of who touched whose objects.
const EDGES: &str = include_str!("edges.sql");

/// A table that streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamTable {
    /// A row for each call
    Calls,
    /// A row for each kind of lost events
    Losses,
    /// A row for each second, namespace, container, operation and error
    Counts,
}

impl StreamTable {
    const ALL: [Self; 3] = [Self::Calls, Self::Losses, Self::Counts];

    const fn table(self) -> &'static Table {
        match self {
            Self::Calls => &CALLS,
            Self::Losses => &LOSSES,
            Self::Counts => &COUNTS,
        }
    }
}

/// A row of a table that streams.
#[derive(Debug)]
pub(crate) enum StreamRow {
    /// A call
    Call(CallRow),
    /// A loss
    Loss(LossRow),
    /// Counts
    Count(CountRow),
}

impl Row for StreamRow {
    fn cell(&self, column: usize) -> Cell<'_> {
        match self {
            Self::Call(row) => row.cell(column),
            Self::Loss(row) => row.cell(column),
            Self::Count(row) => row.cell(column),
        }
    }
}

/// Rows as they come, some at a time; an error ends them.
pub(crate) type RowStream = Receiver<Result<Vec<StreamRow>, String>>;

/// Where rows come from.
pub(crate) trait RowSource: Send + Sync {
    /// The rows of a table that streams: at least those for which the conditions hold.
    ///
    /// # Errors
    /// The recordings can't be read: why.
    fn stream(&self, table: StreamTable, conditions: Conditions) -> Result<RowStream, String>;

    /// The state at the end.
    ///
    /// # Errors
    /// Likewise.
    fn state(&self) -> Result<StateRows, String>;

    /// The runs in the files.
    ///
    /// # Errors
    /// Likewise.
    fn files(&self) -> Result<Vec<FileRow>, String>;

    /// Whether the query is to end early.
    fn ends(&self) -> bool;
}

/// Why a query failed.
#[derive(Debug)]
pub(crate) enum QueryError {
    /// The SQL is wrong, or not allowed
    Sql {
        /// What is wrong
        message: String,
        /// The text
        sql: String,
        /// Where, in bytes
        at: Option<usize>,
    },
    /// It failed while it ran
    Run(String),
    /// A signal ended it
    Interrupted,
}

impl fmt::Display for QueryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sql { message, sql, at } => {
                f.write_str(message)?;
                let Some((before, after)) = at.and_then(|at| sql.split_at_checked(at)) else {
                    return Ok(());
                };
                let line = before.rsplit('\n').next().unwrap_or_default();
                let rest = after.split('\n').next().unwrap_or_default();
                let marked = line.chars().count() + 1;
                write!(f, "\n  {line}{rest}\n  {:>marked$}", '^')
            }
            Self::Run(message) => f.write_str(message),
            Self::Interrupted => f.write_str("the query was interrupted"),
        }
    }
}

impl std::error::Error for QueryError {}

impl QueryError {
    #[expect(clippy::wildcard_enum_match_arm, reason = "others say for themselves what they are")]
    fn from_sqlite(error: Error, sql: &str) -> Self {
        match error {
            Error::SqlInputError { msg, offset, .. } => {
                Self::Sql { message: msg, sql: sql.to_owned(), at: usize::try_from(offset).ok() }
            }
            Error::SqliteFailure(error, _) if error.code == ErrorCode::OperationInterrupted => {
                Self::Interrupted
            }
            Error::SqliteFailure(error, message) => match error.code {
                ErrorCode::AuthorizationForStatementDenied => Self::Sql {
                    message: "only SELECT is possible: a query changes nothing, and opens nothing"
                        .to_owned(),
                    sql: sql.to_owned(),
                    at: None,
                },
                ErrorCode::OutOfMemory => Self::Run(format!(
                    "the query needs more than {} MiB of memory: let it return or combine less",
                    MAX_HEAP >> 20
                )),
                _ => Self::Run(message.unwrap_or_else(|| error.to_string())),
            },
            Error::Empty => Self::Run("there is no SELECT".to_owned()),
            Error::MultipleStatement => Self::Sql {
                message: "more than one statement".to_owned(),
                sql: sql.to_owned(),
                at: None,
            },
            Error::ModuleError(message) | Error::InvalidParameterName(message) => {
                Self::Run(message)
            }
            error => Self::Run(error.to_string()),
        }
    }
}

/// What the authorizer knows: the tables that a statement reads, and whether it is the user's.
#[derive(Debug, Default)]
struct Reads {
    is_users: bool,
    tables: BTreeSet<String>,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Recordings as a database.
pub(crate) struct Database {
    connection: Connection,
    source: Arc<dyn RowSource>,
    reads: Arc<Mutex<Reads>>,
}

impl Database {
    /// A database with the rows of a source. `scratch`: the folder for what has no room in memory.
    ///
    /// # Errors
    /// SQLite can't begin.
    pub(crate) fn new(
        source: Arc<dyn RowSource>,
        scratch: Option<&Path>,
    ) -> Result<Self, QueryError> {
        let failed = |error| QueryError::from_sqlite(error, "");
        let mut connection = Connection::open_in_memory().map_err(failed)?;
        if let Some(scratch) = scratch.and_then(Path::to_str) {
            connection.pragma_update(None, "temp_store_directory", scratch).map_err(failed)?;
        }
        let reads = Arc::<Mutex<Reads>>::default();
        Self::prepare(&mut connection, &source, &reads).map_err(failed)?;
        Ok(Self { connection, source, reads })
    }

    fn prepare(
        connection: &mut Connection,
        source: &Arc<dyn RowSource>,
        reads: &Arc<Mutex<Reads>>,
    ) -> rusqlite::Result<()> {
        connection.execute_batch(&format!(
            "PRAGMA hard_heap_limit = {MAX_HEAP}; PRAGMA temp_store = FILE; PRAGMA trusted_schema = ON; \
             PRAGMA cache_size = -{SORT_KIB}; PRAGMA temp.cache_size = -{SORT_KIB};"
        ))?;
        connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, MAX_VALUE)?;
        connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
        functions::add(connection)?;
        for table in StreamTable::ALL {
            stream_table::add(connection, table, Arc::clone(source))?;
        }
        for table in [&FINDINGS, &OBJECTS, &NAMESPACES, &PROCESSES, &CONTAINERS, &FILES] {
            let create = format!("CREATE TEMP TABLE {}", schema(table, table.name));
            connection.execute_batch(&create)?;
        }
        connection.execute_batch(&format!("CREATE TEMP VIEW edges AS {EDGES}"))?;
        let source = Arc::clone(source);
        connection.progress_handler(STEPS, Some(move || source.ends()))?;
        let reads = Arc::clone(reads);
        connection.authorizer(Some(move |context: AuthContext<'_>| authorize(&reads, &context)))
    }

    /// Runs a statement and passes each row on.
    ///
    /// # Errors
    /// The SQL is wrong, or it failed, or `out` did.
    pub(crate) fn run<E: From<QueryError>>(
        &self,
        sql: &str,
        params: &[(String, String)],
        out: &mut impl TakeRows<Error = E>,
    ) -> Result<(), E> {
        let failed = |error| E::from(QueryError::from_sqlite(error, sql));
        *locked(&self.reads) = Reads { is_users: true, tables: BTreeSet::new() };
        let mut statement = self.connection.prepare(sql).map_err(failed)?;
        if statement.column_count() == 0 {
            return Err(E::from(QueryError::Run("there is no SELECT".to_owned())));
        }
        bind(&mut statement, params, sql)?;
        let tables = {
            let mut reads = locked(&self.reads);
            reads.is_users = false;
            std::mem::take(&mut reads.tables)
        };
        let filled = self.fill(&tables);
        // Some tables of SQLite run a PRAGMA when they are read.
        locked(&self.reads).is_users = true;
        filled.map_err(E::from)?;
        let names: Vec<String> = statement.column_names().map(Into::into).collect();
        out.begin(&names)?;
        let mut rows = statement.raw_query();
        loop {
            let Some(row) = rows.next().map_err(failed)? else { break };
            let value = |at| row.get_ref(at).unwrap_or(ValueRef::Null);
            out.row(&(0..names.len()).map(value).collect::<Vec<_>>())?;
        }
        out.end()
    }

    /// Fills the tables that a statement reads, if they don't stream.
    fn fill(&self, tables: &BTreeSet<String>) -> Result<(), QueryError> {
        let is_read = |table: &Table| tables.contains(table.name);
        if is_read(&FILES) {
            self.insert(&FILES, &self.source.files().map_err(QueryError::Run)?)?;
        }
        if [&FINDINGS, &OBJECTS, &NAMESPACES, &PROCESSES, &CONTAINERS].into_iter().any(is_read) {
            let state = self.source.state().map_err(QueryError::Run)?;
            self.insert(&FINDINGS, &state.findings)?;
            self.insert(&OBJECTS, &state.objects)?;
            self.insert(&NAMESPACES, &state.namespaces)?;
            self.insert(&PROCESSES, &state.processes)?;
            self.insert(&CONTAINERS, &state.containers)?;
        }
        if self.source.ends() {
            return Err(QueryError::Interrupted);
        }
        Ok(())
    }

    fn insert(&self, table: &Table, rows: &[impl Row]) -> Result<(), QueryError> {
        let insert = || {
            self.connection.execute_batch(&format!("BEGIN; DELETE FROM {}", table.name))?;
            sql::insert(&self.connection, table, rows.iter().map(|row| row as &dyn Row))?;
            self.connection.execute_batch("COMMIT")
        };
        insert().map_err(|error| QueryError::from_sqlite(error, ""))
    }
}

/// Gives a statement its parameters.
fn bind<E: From<QueryError>>(
    statement: &mut Statement<'_>,
    params: &[(String, String)],
    sql: &str,
) -> Result<(), E> {
    let run = |message: String| E::from(QueryError::Run(message));
    let failed = |error| E::from(QueryError::from_sqlite(error, sql));
    for (name, value) in params {
        let place = statement.parameter_index(&format!(":{name}")).map_err(failed)?;
        let Some(place) = place else {
            return Err(run(format!("--param {name}: the statement has no parameter :{name}")));
        };
        match value.parse::<i64>() {
            Ok(number) => statement.raw_bind_parameter(place, number).map_err(failed)?,
            Err(_) => statement.raw_bind_parameter(place, value).map_err(failed)?,
        }
    }
    for place in 1..=statement.parameter_count() {
        let name = statement.parameter_name(place).unwrap_or("?").trim_start_matches(':');
        if !params.iter().any(|(given, _)| given == name) {
            return Err(run(format!(
                "the statement has the parameter :{name}: give it with --param {name}=VALUE"
            )));
        }
    }
    Ok(())
}

/// Receives the rows of a query.
pub(crate) trait TakeRows {
    /// Why it can't.
    type Error;

    /// The names of the columns.
    ///
    /// # Errors
    /// Output failed.
    fn begin(&mut self, names: &[String]) -> Result<(), Self::Error>;

    /// A row.
    ///
    /// # Errors
    /// Output failed.
    fn row(&mut self, row: &[ValueRef<'_>]) -> Result<(), Self::Error>;

    /// There are no more rows.
    ///
    /// # Errors
    /// Output failed.
    fn end(&mut self) -> Result<(), Self::Error>;
}

/// What a statement of the user may do: read.
fn authorize(reads: &Mutex<Reads>, context: &AuthContext<'_>) -> Authorization {
    let mut reads = locked(reads);
    if !reads.is_users {
        return Authorization::Allow;
    }
    #[expect(clippy::wildcard_enum_match_arm, reason = "what is not named is denied")]
    match context.action {
        AuthAction::Select | AuthAction::Recursive => Authorization::Allow,
        AuthAction::Read { table_name, .. } => {
            reads.tables.insert(table_name.to_owned());
            Authorization::Allow
        }
        AuthAction::Function { function_name }
            if !function_name.eq_ignore_ascii_case("load_extension")
                && !function_name.eq_ignore_ascii_case("fts3_tokenizer") =>
        {
            Authorization::Allow
        }
        _ => Authorization::Deny,
    }
}

/// The columns of a table, for CREATE TABLE.
fn schema(table: &Table, name: &str) -> String {
    let columns: Vec<_> = table
        .columns
        .iter()
        .map(|column| format!("{} {}", column.name, column.kind.sql()))
        .collect();
    format!("{name}({})", columns.join(", "))
}
