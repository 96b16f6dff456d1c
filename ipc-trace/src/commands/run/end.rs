//! The end of a run: what is left in the rings, a last look, the account.

use std::time::{Duration, Instant};

use super::{Run, RunError, command::TracedCommand};
use crate::{
    input::{Input, counters::AllCounts, namespace_list::NamespaceList},
    sources::clock,
};

/// How long programs that were running when the gate closed are waited for.
const LAST_RECORDS: Duration = Duration::from_millis(250);

impl Run {
    pub(super) async fn end(&mut self, child: Option<&mut TracedCommand>) -> Result<(), RunError> {
        self.setup.session.close();
        self.setup.session.wait_for_programs();
        let ended = clock::boot_ns();
        let mut counts = self.settle().await;
        if let Some(looker) = self.looker.take() {
            self.task_iter = looker.stop();
        }
        // Twice: a namespace is dead when it is missing from two lists.
        let namespace_list = self.namespace_list();
        self.fed.emit(&Input::Listed(&namespace_list));
        let namespace_list = self.namespace_list();
        let left = self.setup.session.left();
        self.take_records(&left);
        counts.ops = self.setup.session.counts_of_ops();
        self.take_folded()?;
        self.tell_folded();
        self.fed.emit(&Input::Ending(ended));
        self.take_last_answers().await;
        let ls = self.what_exists(!self.fed.tells_lines());
        self.fed.emit(&Input::Settled(ls.as_ref(), &namespace_list));
        self.take_last_names().await;
        counts.missed = counts.missed.max(self.setup.session.counts().missed);
        let drops = self.setup.session.drops()?;
        self.tell_counted(counts, Some(drops));
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
    async fn settle(&mut self) -> AllCounts {
        let deadline = Instant::now() + LAST_RECORDS;
        loop {
            loop {
                let drained = self.drain();
                if !drained.more && !drained.waits && drained.calls == 0 {
                    break;
                }
                if drained.waits {
                    tokio::time::sleep(super::SHORT_NAP).await;
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
