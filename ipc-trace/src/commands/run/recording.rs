//! What a run says of its recording: a status line while it is written, a summary at the end.

use std::{
    io::{self, Write as _},
    time::{Duration, Instant},
};

use super::{Run, RunOutput, erases_lines};
use crate::{
    cli::TraceArgs,
    event::finding::Severity,
    recording::writer::{DumpedFile, Recorder, RecordingProgress},
    sinks::bar::ERASE,
    sinks::text::units::{Bytes, GroupedCount, Rate},
};

/// Says which file a flight recorder wrote.
fn show_dumped(file: &DumpedFile) {
    let DumpedFile { path, bytes } = file;
    // As a log message it would be hidden by default.
    eprintln!("ipc-trace: wrote {}: {}", path.display(), Bytes(*bytes));
}

/// The status line of `record`, on standard error if that is a terminal that COMMAND does not use.
#[derive(Debug)]
pub(super) struct RecordingStatus {
    is_shown: bool,
    /// The calls seen at the last update
    calls: u64,
}

impl RecordingStatus {
    pub(super) fn new(output: RunOutput, args: &TraceArgs) -> Self {
        let is_shown =
            output == RunOutput::Nothing && args.command.is_empty() && erases_lines(&io::stderr());
        Self { is_shown, calls: 0 }
    }

    /// Shows how far the recording is. `calls`: how many have been seen, of which so many were dropped.
    fn update(&mut self, calls: u64, dropped: u64, progress: &RecordingProgress) {
        let rate = Rate(calls.saturating_sub(self.calls) as f64);
        self.calls = calls;
        let RecordingProgress { written, lost, free } = progress;
        let free = free.map_or(String::new(), |free| format!(", {} free", Bytes(free)));
        let line = format!(
            "recording: {} calls, {rate}, {}, {} lost{free}",
            GroupedCount(calls),
            Bytes(*written),
            GroupedCount(lost + dropped),
        );
        // A status line that can't be shown is no error.
        let _ = io::stderr().write_all(&[ERASE, line.as_bytes()].concat());
    }

    /// Makes room for a message; the next update shows the line again.
    fn clear_line(&self) {
        if self.is_shown {
            // As above.
            let _ = io::stderr().write_all(ERASE);
        }
    }

    fn erase(&mut self) {
        self.clear_line();
        self.is_shown = false;
    }
}

/// The time between two files that findings lead to.
const DUMP_INTERVAL: Duration = Duration::from_secs(60);

/// When a flight recorder writes a file.
#[derive(Debug)]
pub(super) struct DumpTrigger {
    /// From which severity a finding leads to one
    on: Option<Severity>,
    /// Whether one did
    is_due: bool,
    /// When a finding last led to a file
    last: Option<Instant>,
}

impl DumpTrigger {
    pub(super) const fn new(on: Option<Severity>) -> Self {
        Self { on, is_due: false, last: None }
    }

    /// Whether a file is due, with the severity of new findings.
    fn update(&mut self, new: Option<Severity>) -> bool {
        self.is_due |= new.is_some() && self.on.is_some_and(|on| new >= Some(on));
        let waits = self.last.is_some_and(|last| last.elapsed() < DUMP_INTERVAL);
        if !self.is_due || waits {
            return false;
        }
        self.is_due = false;
        self.last = Some(Instant::now());
        true
    }
}

impl Run {
    /// Passes the engine's state on if the recording needs it, and has a flight recorder write a file if a signal or a
    /// finding asks for one. Called at each pass.
    pub(super) fn serve_recording(&mut self) {
        let by_finding = self.dump_trigger.update(self.fed.engine.take_new_severity());
        let by_signal = self.signals.take_dump();
        if self.fed.recorder.as_ref().is_some_and(Recorder::wants_checkpoint) {
            self.fed.checkpoint();
        }
        self.fed.record_many_counts();
        if by_finding || by_signal {
            self.fed.dump();
        }
    }

    /// Has the recording written up to here, and updates the status line. Called once a second.
    pub(super) fn advance_recording(&mut self) {
        let Some(recorder) = &mut self.fed.recorder else { return };
        recorder.flush();
        let dumped = recorder.take_dumped();
        if !dumped.is_empty() {
            self.recording_status.clear_line();
            dumped.iter().for_each(show_dumped);
        }
        if !self.recording_status.is_shown {
            return;
        }
        let total = self.setup.session.counts().total();
        self.recording_status.update(total.seen, total.dropped, &recorder.progress());
    }

    /// Says what was recorded.
    pub(super) fn show_recorded(&mut self, args: &TraceArgs) {
        self.recording_status.erase();
        let (Some(recorded), Some(path)) = (&self.fed.recorded, &args.write) else { return };
        recorded.dumped.iter().for_each(show_dumped);
        let path = match args.recording.is_given() {
            true => format!("{}.*", path.display()),
            false => path.display().to_string(),
        };
        let each = match recorded.calls {
            0 => String::new(),
            calls => format!(" ({:.1} bytes a call)", recorded.bytes as f64 / calls as f64),
        };
        let lost = match recorded.lost {
            0 => String::new(),
            lost => format!("; {} inputs are missing", GroupedCount(lost)),
        };
        // As a log message it would be hidden by default.
        eprintln!(
            "ipc-trace: recorded {} calls to {}: {}{each}{lost}",
            GroupedCount(recorded.calls),
            path,
            Bytes(recorded.bytes),
        );
    }
}
