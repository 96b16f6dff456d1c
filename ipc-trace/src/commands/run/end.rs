//! The end of a run: what is left in the rings, a last look, the account.

use std::time::{Duration, Instant};

use ipc_trace_common::op::Op;
use zerocopy::IntoBytes as _;

use super::{Run, RunError, accounts, command::Child, mode::Mode, terminal};
use crate::{
    cli::OutputFormat,
    engine::pipeline::{Drained, Pipeline},
    engine::track::{clock::boot_ns, objects::looks::Holders},
    event::{Accounting, Command, Pending, VERSION, report::Report},
    sinks::output::OutputError,
    sinks::text,
    sources::kernel::session::AllCounts,
};

/// How long programs that were running when the gate closed are waited for.
const LAST_RECORDS: Duration = Duration::from_millis(250);

impl Run {
    pub(super) async fn end(&mut self, child: Option<&mut Child>) -> Result<(), RunError> {
        self.setup.session.close();
        self.setup.session.wait_for_programs();
        self.drop_status()?;
        let ended = boot_ns();
        let mut counts = self.settle().await?;
        // Twice: a namespace is dead when it is missing from two lists.
        self.list();
        let census = self.list();
        let left = self.setup.session.left();
        self.take_records(&left);
        counts.ops = self.setup.session.counts_of_ops();
        self.stop_resync();
        let mut ls = self.what_exists(matches!(self.mode, Mode::Report(..)));
        if let Some(ls) = &mut ls {
            self.who_lives(ls);
        }
        let holders = ls.as_ref().and_then(Holders::new);
        if let Some(ls) = &ls {
            self.pipeline.settled(ls, holders.as_ref(), &census, &mut self.mode);
        }
        self.take_last_names().await;
        let losses = self.losses.update(self.setup.session.drops()?, counts.others());
        if !losses.is_empty() {
            self.lost(&losses);
        }
        counts.missed = counts.missed.max(losses.others.missed);
        self.take_folded()?;
        self.pipeline.finish(ended, &mut self.mode);
        let accounting = self.accounting(&counts, &self.pipeline.delivered);
        let pending = accounts::pending(&census, &self.pipeline.tracker, ended);
        let command = child.map(|child| child.report());
        self.last_words(ended, accounting, command, pending, holders.as_ref())
    }

    /// Calls that come from elsewhere than the ring. No program writes them any more.
    pub(super) fn take_records(&mut self, records: &[Vec<u64>]) {
        if records.is_empty() {
            return;
        }
        let session = &mut self.setup.session;
        let before = self.pipeline.delivered.clone();
        let records = records.iter().map(|words| words.as_bytes());
        self.pipeline.left(records, &mut session.control, &mut self.mode);
        for op in Op::ALL {
            let of = |ops: &[u64]| ops.get(op as usize).copied().unwrap_or(0);
            let more = of(&self.pipeline.delivered.ops) - of(&before.ops);
            session.note_taken(op, more);
        }
    }

    /// Programs that were running when the gate closed still write; then the rings are empty.
    async fn settle(&mut self) -> Result<AllCounts, RunError> {
        let deadline = Instant::now() + LAST_RECORDS;
        loop {
            while self.drain()? != Drained::default() {}
            let counts = self.setup.session.counts();
            let total = counts.total();
            let settled = total.emitted == self.pipeline.delivered.calls()
                && total.seen == total.filtered + total.emitted + total.dropped
                && counts.control.emitted == self.pipeline.delivered.control;
            if settled || Instant::now() >= deadline {
                return Ok(counts);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn last_words(
        &mut self,
        ended: u64,
        accounting: Accounting,
        command: Option<Command>,
        pending: Vec<Pending>,
        holders: Option<&Holders>,
    ) -> Result<(), RunError> {
        let Pipeline { tracker, detect, .. } = &mut self.pipeline;
        let findings = detect.findings.report(tracker, tracker.clock.time(ended).0);
        match &mut self.mode {
            Mode::Live(live) => {
                live.findings(&findings);
                live.end(ended, tracker, &accounting, command.as_ref(), &pending);
                self.flush()
            }
            Mode::Report(stats, format) => {
                let report = Report {
                    v: VERSION,
                    host: self.setup.system.host.clone(),
                    boot_id: self.setup.system.boot_id.clone(),
                    run_id: self.run_id.clone(),
                    kernel: self.setup.system.kernel.clone(),
                    backend: self.setup.backends.clone(),
                    started: tracker.clock.time(self.started),
                    ended: tracker.clock.time(ended),
                    accounting,
                    command,
                    pending,
                    namespaces: stats.report(tracker, holders),
                    unattributed: stats.unattributed().clone(),
                    folded: stats.folded(),
                    objects_folded: tracker.objects.forgotten(),
                    containers_folded: tracker.containers.forgotten(),
                    findings,
                };
                let text = match format {
                    OutputFormat::Json => {
                        let mut text = serde_json::to_vec_pretty(&report)
                            .map_err(|e| OutputError::Failed(e.into()))?;
                        text.push(b'\n');
                        text
                    }
                    OutputFormat::Text => {
                        let (palette, width) = terminal();
                        text::report::text(&report, self.least, palette, width)
                            .to_string()
                            .into_bytes()
                    }
                };
                Ok(self.output.write_all(&text)?)
            }
        }
    }
}
