//! The end of a run: the remaining records, the final snapshot, the summary.

use std::time::{Duration, Instant};

use super::{Run, RunError, command::TracedCommand};
use crate::{
    input::{Input, counters::AllCounts, namespace_list::NamespaceList},
    sources::clock,
};

/// How long to wait for programs that were running when the gate closed.
const IN_FLIGHT_WAIT: Duration = Duration::from_millis(250);

impl Run {
    pub(super) async fn shut_down(
        &mut self,
        child: Option<&mut TracedCommand>,
    ) -> Result<(), RunError> {
        self.setup.session.close();
        self.setup.session.wait_for_programs();
        let ended = clock::boot_ns();
        let mut counts = self.drain_in_flight().await;
        if let Some(snapshot_thread) = self.snapshot_thread.take() {
            self.task_iter = snapshot_thread.stop();
        }
        // Twice: a namespace is dead when it is missing from two lists.
        let namespace_list = self.namespace_list();
        self.fed.emit(&Input::NamespaceList(&namespace_list));
        let namespace_list = self.namespace_list();
        let left = self.setup.session.take_unsent_batches();
        self.take_records(&left);
        counts.ops = self.setup.session.counts_of_ops();
        self.take_coalesced()?;
        self.emit_coalesced();
        // A report on the recording begins here.
        self.fed.checkpoint();
        self.fed.emit(&Input::Ending(ended));
        self.take_last_answers().await;
        let ls = self.take_snapshot(!self.fed.emits_lines());
        self.fed.emit(&Input::FinalSnapshot(ls.as_ref(), &namespace_list));
        self.take_last_names().await;
        counts.missed = counts.missed.max(self.setup.session.counts().missed);
        let drops = self.setup.session.drops()?;
        self.emit_counts(counts, Some(drops));
        let command = child.map(|child| child.report());
        self.fed.emit(&Input::Finish(command.as_ref()));
        Ok(self.fed.finish()?)
    }

    fn namespace_list(&self) -> NamespaceList {
        self.setup.session.namespace_list().unwrap_or_else(|error| {
            log::warn!("{error}");
            NamespaceList::default()
        })
    }

    /// Programs that were running when the gate closed still write; then the rings are empty.
    async fn drain_in_flight(&mut self) -> AllCounts {
        let deadline = Instant::now() + IN_FLIGHT_WAIT;
        loop {
            loop {
                let drained = self.drain();
                if !drained.more && !drained.in_flight && drained.calls == 0 {
                    break;
                }
                if drained.in_flight {
                    tokio::time::sleep(super::POLL_IN_FLIGHT).await;
                }
            }
            let counts = self.setup.session.counts();
            let total = counts.total();
            let delivered = &self.reader.delivered;
            let settled = total.emitted == delivered.calls()
                && total.seen == total.filtered + total.emitted + total.dropped
                && counts.control.emitted == delivered.control;
            if settled || Instant::now() >= deadline {
                return counts;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}
