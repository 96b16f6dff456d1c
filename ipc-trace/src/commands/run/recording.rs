//! What a run says of its recording: a status line while it is written, a summary at the end.

use std::io::{self, Write as _};

use super::{Run, RunOutput, erases_lines};
use crate::{
    cli::TraceArgs,
    recording::writer::RecordingProgress,
    sinks::bar::ERASE,
    sinks::text::units::{Bytes, GroupedCount, Rate},
};

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

    fn erase(&mut self) {
        if std::mem::take(&mut self.is_shown) {
            // As above.
            let _ = io::stderr().write_all(ERASE);
        }
    }
}

impl Run {
    /// Has the recording written up to here, and updates the status line. Called once a second.
    pub(super) fn advance_recording(&mut self) {
        let Some(recorder) = &mut self.fed.recorder else { return };
        recorder.flush();
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
            path.display(),
            Bytes(recorded.bytes),
        );
    }
}
