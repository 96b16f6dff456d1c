//! A row for each kind of lost events.

use std::sync::Arc;

use super::{
    Cell, RowRun,
    cell::{date, nanos},
    table,
};
use crate::event::{Loss, LossBy};

/// What was lost.
#[derive(Debug)]
pub(crate) struct LossRow {
    run: Arc<RowRun>,
    seq: Option<u64>,
    time_ns: i64,
    what: &'static str,
    by: Option<LossBy>,
    count: u64,
}

/// The rows of a loss.
pub(crate) fn rows<'a>(
    run: &'a Arc<RowRun>,
    loss: &'a Loss<'_>,
) -> impl Iterator<Item = LossRow> + use<'a> {
    let row = |what, by, count| LossRow {
        run: Arc::clone(run),
        seq: loss.seq,
        time_ns: nanos(loss.time),
        what,
        by,
        count,
    };
    let attributed: u64 = loss.by.iter().map(|by| by.count).fold(0, u64::saturating_add);
    let others = [
        ("dropped", loss.dropped.saturating_sub(attributed)),
        ("missed", loss.missed),
        ("metadata", loss.metadata),
    ];
    let by = loss.by.iter().map(move |by| row("dropped", Some(*by), by.count));
    let others = others.into_iter().filter(|(_, count)| *count > 0);
    by.chain(others.map(move |(what, count)| row(what, None, count)))
}

table! {
    /// events that were lost, of one kind
    LOSSES = "losses", LossRow {
        /// The host's name
        host: Text = |row| (&row.run.host).into(),
        /// The day on which it was noticed, in UTC
        date: Text = |row| date(row.time_ns),
        /// The id of the run of ipc-trace
        run_id: Text = |row| row.run.run_id.as_ref().into(),
        /// The number of its line
        seq: Integer = |row| row.seq.into(),
        /// When it was noticed
        time: Time = |row| Cell::Time(row.time_ns),
        /// The same, in nanoseconds since 1970
        time_ns: Integer = |row| row.time_ns.into(),
        /// dropped: calls without room; missed: calls for which the program didn't run; metadata: records about callers
        what: Text = |row| row.what.into(),
        /// The inode number of the caller's IPC namespace; null: unknown
        ipc_ns: Integer = |row| row.by.and_then(|by| by.inum).into(),
        /// The generation of that number
        ipc_ns_gen: Integer = |row| row.by.and_then(|by| by.r#gen).into(),
        /// The operation; null: unknown
        op: Text = |row| row.by.map(|by| by.op.0.name()).into(),
        /// The error; null: they succeeded, or unknown
        error: Text = |row| row.by.and_then(|by| by.error).map(|error| error.to_string()).into(),
        /// How many
        count: Integer = |row| row.count.into(),
    }
}
