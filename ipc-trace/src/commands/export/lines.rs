//! Exports that take one pass: each event goes to the new file, or to standard output, as it comes.

use std::{
    io::{self, Write},
    sync::Arc,
};

use indicatif::ProgressBar;

use super::{
    super::{
        error::{RunError, system},
        replay::{ReplayOutput, SinkOutput, progress_bar},
        seal,
    },
    Export, Worst,
};
use crate::{
    event::{EmitEvent, Event},
    export::trace::TraceWriter,
    recording::{head::Head, reader::OrderedRecordings},
    signals::Signals,
    sinks::{SinkKind, output::OutputError, output::OutputTarget},
};

/// Counts lines.
struct CountedLines {
    to: SinkOutput,
    calls: u64,
    others: u64,
}

impl EmitEvent for CountedLines {
    fn emit(&mut self, event: &Event<'_>) {
        // The sink shows one status a minute.
        let is_shown = !matches!(event, Event::Status(status) if !status.minute);
        if matches!(event, Event::Ipc(_)) {
            self.calls += 1;
        } else if is_shown {
            self.others += 1;
        }
        self.to.emit(event);
    }
}

impl ReplayOutput for CountedLines {
    fn begin(&mut self, head: &Head) -> Result<(), RunError> {
        self.to.begin(head)
    }

    fn settle(&mut self) {
        self.to.settle();
    }

    fn goes_on(&mut self, read: u64) -> Result<bool, RunError> {
        self.to.goes_on(read)
    }
}

/// Writes the lines of `replay -o json`.
///
/// # Errors
/// A file can't be read, or output failed.
pub(super) fn ndjson(export: &Export<'_>) -> Result<Worst, RunError> {
    let file = export.new_file()?;
    let target = match &file {
        Some(file) => {
            let file = file.file().try_clone().map_err(|error| export.failed(error))?;
            OutputTarget::File(Arc::new(file))
        }
        None => OutputTarget::Stdout,
    };
    let recordings = sealed(export)?;
    let mut to = SinkOutput::new(SinkKind::Json, target, export.signals.clone());
    to.min_confidence = export.args.findings.min_confidence;
    to.many_hosts = recordings.has_many_hosts();
    to.bar = progress_bar(recordings.len());
    let mut out = CountedLines { to, calls: 0, others: 0 };
    let worst = export.replayer.replay(recordings, None, &mut out)?;
    out.to.finish()?;
    let bytes = export.keep(file)?;
    export.say(&[("calls", out.calls), ("other lines", out.others)], bytes);
    Ok(worst)
}

/// Makes a timeline of events.
struct TraceOutput {
    writer: TraceWriter<Box<dyn Write>>,
    many_hosts: bool,
    host: Option<String>,
    signals: Signals,
    bar: Option<ProgressBar>,
}

impl EmitEvent for TraceOutput {
    fn emit(&mut self, event: &Event<'_>) {
        self.writer.event(event);
    }
}

impl ReplayOutput for TraceOutput {
    fn begin(&mut self, head: &Head) -> Result<(), RunError> {
        let host = &head.begin.host;
        let before = self.host.replace(host.clone());
        self.many_hosts |= before.is_some_and(|before| before != *host);
        self.writer.begin(host, self.many_hosts);
        Ok(())
    }

    fn goes_on(&mut self, read: u64) -> Result<bool, RunError> {
        if let Some(bar) = &self.bar {
            bar.set_position(read);
        }
        // Why it failed is known at the end.
        Ok(!self.signals.end() && !self.writer.has_failed())
    }
}

/// Writes a timeline.
///
/// # Errors
/// A file can't be read, or output failed.
pub(super) fn trace(export: &Export<'_>) -> Result<Worst, RunError> {
    let file = export.new_file()?;
    let to: Box<dyn Write> = match &file {
        Some(file) => Box::new(file.file().try_clone().map_err(|error| export.failed(error))?),
        None => Box::new(io::stdout()),
    };
    let recordings = sealed(export)?;
    let mut out = TraceOutput {
        writer: TraceWriter::new(to),
        many_hosts: recordings.has_many_hosts(),
        host: None,
        signals: export.signals.clone(),
        bar: progress_bar(recordings.len()),
    };
    let worst = export.replayer.replay(recordings, None, &mut out)?;
    if let Some(bar) = &out.bar {
        bar.finish_and_clear();
    }
    let summary = out.writer.finish().map_err(|error| match export.is_stdout() {
        true if error.kind() == io::ErrorKind::BrokenPipe => OutputError::Closed.into(),
        true => OutputError::Failed(error).into(),
        false => export.failed(error),
    })?;
    let bytes = export.keep(file)?;
    let counts = [
        ("slices", summary.slices),
        ("instants", summary.instants),
        ("arrows of messages", summary.flows),
        ("findings", summary.marks),
        ("other events", summary.others),
    ];
    export.say(&counts, bytes);
    if summary.forgotten_sends > 0 {
        log::warn!(
            "{} messages have no arrow: too many were waiting to be received",
            summary.forgotten_sends
        );
    }
    Ok(worst)
}

/// The recordings in their order, after the right to open files is given up.
fn sealed(export: &Export<'_>) -> Result<OrderedRecordings, RunError> {
    let from = export.replayer.read_start();
    let recordings = OrderedRecordings::new(&export.files, false, from)?;
    seal::seal().map_err(system("can't give up the right to open files and sockets"))?;
    Ok(recordings)
}
