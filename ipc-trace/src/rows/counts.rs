//! A row for each second, namespace, container, operation and error.

use std::sync::Arc;

use super::{Cell, RowRun, calls::container_name, cell::date, table};
use crate::event::counts::SecondCounts;

/// How often calls were made in a second.
#[derive(Debug)]
pub(crate) struct CountRow {
    run: Arc<RowRun>,
    counts: SecondCounts,
}

impl CountRow {
    /// Of a run.
    pub(crate) const fn new(run: Arc<RowRun>, counts: SecondCounts) -> Self {
        Self { run, counts }
    }

    /// The beginning of the second, nanoseconds since 1970.
    pub(crate) fn time_ns(&self) -> i64 {
        i64::try_from(self.counts.second).unwrap_or(i64::MAX).saturating_mul(1_000_000_000)
    }

    fn quantile(&self, part: f64) -> Cell<'static> {
        self.counts.durations.as_ref().map(|durations| durations.quantile(part)).into()
    }
}

table! {
    /// equal calls of a second: of one namespace, container, operation and error
    COUNTS = "counts", CountRow {
        /// The host's name
        host: Text = |row| (&row.run.host).into(),
        /// The day, in UTC
        date: Text = |row| date(row.time_ns()),
        /// The id of the run of ipc-trace
        run_id: Text = |row| row.run.run_id.as_ref().into(),
        /// The second in which they returned
        time: Time = |row| Cell::Time(row.time_ns()),
        /// The same, in nanoseconds since 1970
        time_ns: Integer = |row| row.time_ns().into(),
        /// The inode number of the caller's IPC namespace
        ipc_ns: Integer = |row| row.counts.ipc_ns.map(|ns| ns.inum).into(),
        /// The generation of that number
        ipc_ns_gen: Integer = |row| row.counts.ipc_ns.map(|ns| ns.r#gen).into(),
        /// Whether it is the host's namespace
        is_host_ns: Boolean = |row| row.counts.ipc_ns.map(|ns| ns.host).into(),
        /// The container's name, or its id while the name is unknown; null: on the host
        container: Text = |row| row.counts.container.as_deref().map_or(Cell::Null, container_name),
        /// The container's id
        container_id: Text = |row| row.counts.container.as_ref().map(|one| &one.id).into(),
        /// The operation
        op: Text = |row| row.counts.op.0.name().into(),
        /// The name of the error; null: they succeeded
        error: Text = |row| row.counts.error.map(|error| error.to_string()).into(),
        /// How many calls, with those whose details were lost
        calls: Integer = |row| row.counts.calls.into(),
        /// Bytes of the messages sent or received
        bytes: Integer = |row| row.counts.bytes.into(),
        /// Those on objects of other namespaces
        foreign_calls: Integer = |row| row.counts.foreign.into(),
        /// Calls of which only counts are known
        dropped: Integer = |row| row.counts.lost.into(),
        /// Half of them took no longer, nanoseconds; null: not measured
        duration_p50_ns: Integer = |row| row.quantile(0.5),
        /// 99 % of them took no longer
        duration_p99_ns: Integer = |row| row.quantile(0.99),
        /// The longest
        duration_max_ns: Integer = |row| {
            row.counts.durations.as_ref().map(|durations| durations.max()).into()
        },
    }
}
