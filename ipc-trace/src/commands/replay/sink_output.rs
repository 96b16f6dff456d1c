//! Lines or a report, as `live` and `report` would have printed them.

use indicatif::ProgressBar;
use ipc_trace_common::op::Abi;

use super::{
    super::{
        error::{RunError, system},
        run::terminal,
    },
    replayer::ReplayOutput,
};
use crate::{
    event::{EmitEvent, Event},
    recording::head::Head,
    signals::Signals,
    sinks::{
        Screen, Sink, SinkKind,
        output::{Output, OutputTarget},
        text::{call::LineStyle, style::Palette},
        writer::SinkWriter,
    },
};

/// Passes events on to a sink.
pub(in crate::commands) struct SinkOutput {
    kind: SinkKind,
    to: OutputTarget,
    signals: Signals,
    palette: Palette,
    width: usize,
    /// In place of the recorded one
    pub min_confidence: Option<u8>,
    /// Whether lines say their host
    pub many_hosts: bool,
    /// Shows how far it is
    pub bar: Option<ProgressBar>,
    /// The host of the last run
    host: Option<String>,
    /// `None`: no run has begun
    sink: Option<Sink>,
}

impl SinkOutput {
    pub(in crate::commands) fn new(kind: SinkKind, to: OutputTarget, signals: Signals) -> Self {
        let (palette, width) = terminal();
        Self {
            kind,
            to,
            signals,
            palette,
            width,
            min_confidence: None,
            many_hosts: false,
            bar: None,
            host: None,
            sink: None,
        }
    }

    /// Waits until everything is written.
    ///
    /// # Errors
    /// Output failed.
    pub(in crate::commands) fn finish(&mut self) -> Result<(), RunError> {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        if let Some(sink) = &mut self.sink {
            sink.flush();
            sink.writer().finish()?;
        }
        Ok(())
    }
}

impl EmitEvent for SinkOutput {
    fn emit(&mut self, event: &Event<'_>) {
        self.sink.emit(event);
    }
}

impl ReplayOutput for SinkOutput {
    fn begin(&mut self, head: &Head) -> Result<(), RunError> {
        let begin = &head.begin;
        let min_confidence = self.min_confidence.unwrap_or(begin.min_confidence);
        let style = LineStyle { palette: self.palette, native: native(&begin.arch) };
        let screen = Screen { style, width: self.width, min_confidence };
        let kind = self.kind;
        let sink = match &mut self.sink {
            Some(sink) => sink,
            none => {
                let output = Output::to(self.to.clone(), self.signals.clone());
                let writer = SinkWriter::start(kind, screen, output, None)
                    .map_err(system("can't start a thread"))?;
                none.insert(Sink::new(kind, screen, writer))
            }
        };
        let before = self.host.replace(begin.host.clone());
        self.many_hosts |= before.is_some_and(|before| before != begin.host);
        if self.many_hosts {
            sink.set_host(Some(begin.host.as_str().into()));
        }
        Ok(())
    }

    fn settle(&mut self) {
        if let Some(sink) = &mut self.sink {
            sink.flush();
            // Nothing is lost here: the writer is waited for.
            sink.writer().wait();
        }
    }

    fn goes_on(&mut self, read: u64) -> Result<bool, RunError> {
        if let Some(sink) = &mut self.sink {
            sink.writer().check()?;
        }
        if let Some(bar) = &self.bar {
            bar.set_position(read);
        }
        Ok(!self.signals.end())
    }
}

fn native(arch: &str) -> Abi {
    if arch == "aarch64" { Abi::Aarch64 } else { Abi::X86_64 }
}
