//! The engine and its sink, which the reader feeds.

use std::time::Instant;

use ipc_trace_common::record::{ANCESTORS, NsSwitchKind, NsSwitchRecord, UID_EXTENTS, flag};

use crate::{
    engine::Engine,
    input::Input,
    recording::writer::{Recorder, RecordingSummary},
    sinks::{Sink, output::OutputError},
    sources::{
        host::inspector::{AboutContext, AboutMove},
        reader::{Feed, Mover, ThreadRecord},
    },
};

/// How many counts by second may wait until they are recorded: a few MiB.
const MAX_WAITING_COUNTS: usize = 1 << 14;

/// The engine and its sink.
#[derive(Debug)]
pub(super) struct EngineFeed {
    pub engine: Engine,
    /// `None`: events are not shown
    pub sink: Option<Sink>,
    pub recorder: Option<Recorder>,
    /// What was recorded, at the end
    pub recorded: Option<RecordingSummary>,
}

impl EngineFeed {
    /// Feeds the engine an input.
    #[inline]
    pub(super) fn emit(&mut self, input: &Input<'_>) {
        if let Some(recorder) = &mut self.recorder {
            recorder.record(input);
        }
        self.engine.feed(input, &mut self.sink);
    }

    /// Records how often calls were made since the last time.
    pub(super) fn record_counts(&mut self) {
        if let Some(recorder) = &mut self.recorder {
            recorder.record_counts(self.engine.take_counts());
        }
    }

    /// Records the counts if there are many, as they wait in memory. Called at each pass.
    pub(super) fn record_many_counts(&mut self) {
        let wants = self.recorder.as_ref().is_some_and(Recorder::wants_counts);
        if wants || self.engine.waiting_counts() > MAX_WAITING_COUNTS {
            self.record_counts();
        }
    }

    /// Records the engine's state, and the counts of what was before: a new file may begin here.
    pub(super) fn checkpoint(&mut self) {
        self.record_counts();
        if let Some(recorder) = &mut self.recorder {
            let began = Instant::now();
            let state = self.engine.checkpoint();
            log::debug!("a checkpoint of {} bytes took {:?}", state.len(), began.elapsed());
            recorder.checkpoint(state, self.engine.now());
        }
    }

    /// Has a flight recorder write a file, with the counts of what is in it.
    pub(super) fn dump(&mut self) {
        self.record_counts();
        if let Some(recorder) = &mut self.recorder {
            recorder.dump();
        }
    }

    /// Passes the sink's output on to its writer.
    pub(super) fn flush(&mut self) {
        if let Some(sink) = &mut self.sink {
            sink.flush();
        }
    }

    /// Whether events are output as lines.
    pub(super) const fn emits_lines(&self) -> bool {
        self.engine.has_lines()
    }

    /// Checks whether output still works.
    ///
    /// # Errors
    /// It does not: why.
    pub(super) fn check(&mut self) -> Result<(), OutputError> {
        if self.recorder.as_ref().is_some_and(Recorder::is_closed) {
            return Err(OutputError::Closed);
        }
        self.sink.as_mut().map_or(Ok(()), |sink| sink.writer().check())
    }

    /// Waits until everything is written.
    ///
    /// # Errors
    /// Writing failed: why.
    pub(super) fn finish(&mut self) -> Result<(), OutputError> {
        self.flush();
        let written = self.sink.as_mut().map_or(Ok(()), |sink| sink.writer().finish());
        self.record_counts();
        if let Some(recorder) = self.recorder.take() {
            let summary = recorder.finish().map_err(OutputError::Recorder)?;
            self.recorded = Some(summary);
        }
        written
    }
}

impl Feed for EngineFeed {
    #[inline]
    fn feed(&mut self, input: &Input<'_>) {
        self.emit(input);
    }

    #[inline]
    fn knows(&self, tid: u32, context: u64) -> bool {
        self.engine.knows(tid, context)
    }

    fn mover(&self, tid: u32, context: u64) -> Option<Mover> {
        let facts = self.engine.tracker().contexts.get(tid, context)?;
        let process = (facts.pid, facts.start_boot_ns);
        Some(Mover { process, ppid: facts.ppid, mnt: facts.ns.mnt.unwrap_or(0) })
    }

    fn about_context(&self, read: &ThreadRecord) -> AboutContext {
        let record = &read.record;
        let tracker = self.engine.tracker();
        let count = (record.ancestor_count as usize).min(ANCESTORS);
        let ancestors = record.ancestors.get(..count).unwrap_or_default();
        let known = ancestors.iter().all(|one| tracker.contexts.knows_ancestor(one));
        let pids = [(record.pid, record.cgroup)];
        let pids = pids.into_iter().chain(ancestors.iter().map(|one| (one.pid, one.cgroup)));
        let unknown = |one: &(u32, u64)| !tracker.containers.knows(one.1);
        AboutContext {
            process: (record.pid, record.start_boot_ns),
            exe: record.exe_len == 0 && record.header.flags & flag::TRUNCATED != 0,
            called: read.called.is_none(),
            users: record.uid_extents as usize > UID_EXTENTS,
            ancestors: if known { Vec::new() } else { ancestors.to_vec() },
            cgroups: pids.filter(unknown).collect(),
        }
    }

    fn about_move(&self, record: &NsSwitchRecord, mover: Option<Mover>) -> AboutMove {
        const CLONE: u32 = NsSwitchKind::Clone as u32;
        const SETNS: u32 = NsSwitchKind::Setns as u32;
        if record.way == CLONE {
            return AboutMove::default();
        }
        let process = mover.map_or((record.pid, 0), |mover| mover.process);
        let lives = mover.filter(|mover| record.way == SETNS && mover.mnt != 0);
        AboutMove {
            process,
            mapped: self.engine.wants_mapped(process, record.boot_ns),
            lives: lives.map(|mover| (mover.ppid, mover.mnt, record.to.inum)),
        }
    }
}

#[cfg(test)]
mod tests;
