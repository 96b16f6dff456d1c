//! A run of `live` or `report`, from the first program to the last line.
//!
//! | module | its job |
//! | --- | --- |
//! | [`setup`] | from options to a session that traces |
//! | [`command`] | COMMAND, its output and its exit status |
//! | `startup` | the initial snapshot, and the first line |
//! | `shutdown` | the remaining records, the final snapshot, the summary |
//! | `between_polls` | requests of the engine, results of snapshots and updates of runtimes, between two passes |
//! | `recording` | what it says of its recording |
//! | `engine_feed` | the engine and its sink, which the reader feeds |
//!
//! Order at the start: attach with the gate open for changes only, list the namespaces, take a snapshot, open the
//! gate, list the namespaces again, feed the snapshot merged with the changes since, start COMMAND. Changes travel on
//! the control ring, so none is lost while calls are not read yet, and an object in both a snapshot and a change is
//! counted once.
//!
//! Order at the end: close the gate, empty the rings, list the namespaces, take a snapshot, write the summary.
//!
//! This thread reads the rings, and never blocks: slow work has threads of its own (`sources::host::inspector`,
//! `sources::host::snapshot_thread`, `sources::runtimes`, `sinks::writer`).

mod between_polls;
mod command;
mod engine_feed;
mod recording;
pub(in crate::commands) mod setup;
mod shutdown;
mod startup;

use std::{
    collections::VecDeque,
    io::{self, IsTerminal},
    process::ExitCode,
    time::{Duration, Instant},
};

use anstream::{AutoStream, ColorChoice};
use ipc_trace_common::state::{Coalesced, CoalescedKey};
use tokio::io::{Interest, unix::AsyncFd};

use super::error::{RunError, system};
use crate::{
    cli::TraceArgs,
    event::finding::Severity,
    input::Input,
    signals::Signals,
    sinks::{SinkKind, output::OutputError, text::style::Palette},
    sources::{
        clock,
        host::{
            inspector::Inspector,
            snapshot_thread::{SnapshotThread, SnapshotThreadResult, TaskIterReader},
        },
        kernel::{options::CallDetail, preemption::PreemptionChange},
        reader::{Drained, ReaderCx, RingReader},
        runtimes::RuntimeClients,
    },
};
use command::TracedCommand;
use engine_feed::EngineFeed;
use recording::{DumpTrigger, RecordingStatus};
use setup::Setup;

/// How often namespaces, losses and pending calls are checked.
const TICK: Duration = Duration::from_secs(1);
/// How long the reader sleeps after a pass with records, at most, and while records are in flight.
const POLL_MIN: Duration = Duration::from_millis(2);
const POLL_MAX: Duration = Duration::from_millis(50);
const POLL_IN_FLIGHT: Duration = Duration::from_micros(200);

/// What a run prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunOutput {
    /// `live`: each event as it happens
    Lines,
    /// `report`: one report at the end
    Report,
    /// `record`: nothing
    Nothing,
}

/// Runs `live`, `report` or `record`.
///
/// # Errors
/// Tracing can't start, COMMAND can't be started, or output failed.
pub(crate) fn run(
    output: RunOutput,
    detail: CallDetail,
    args: &TraceArgs,
) -> Result<ExitCode, RunError> {
    startup::limit_malloc_arenas();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system("can't start the event loop"))?;
    runtime.block_on(Run::new(output, detail, args)?.run_to_end(args))
}

/// What ended a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EndedBy {
    /// COMMAND's exit
    Command,
    /// The duration, or a signal
    Other,
}

/// The exit status for a match of `--fail-on`.
const FOUND: u8 = 3;

/// The exit status of a run without errors. `commands_end`: that of COMMAND, if it ended first.
pub(in crate::commands) const fn exit_status(fails: bool, commands_end: Option<u8>) -> u8 {
    match (fails, commands_end) {
        (true, _) => FOUND,
        (false, Some(status)) => status,
        (false, None) => 0,
    }
}

/// An input that is due once everything that happened before it has been fed.
#[derive(Debug)]
enum Due {
    /// The result of a snapshot task
    Seen(SnapshotThreadResult),
    /// Accesses that the eBPF programs coalesced
    CoalescedAccesses(Vec<(CoalescedKey, Coalesced)>),
}

/// A run.
#[derive(Debug)]
struct Run {
    setup: Setup,
    reader: RingReader,
    fed: EngineFeed,
    inspector: Inspector,
    /// Takes snapshots during tracing; it owns the task iterators, which are here at the start and at the end
    snapshot_thread: Option<SnapshotThread>,
    task_iter: Option<TaskIterReader>,
    /// Inputs that are not due yet, with their times
    seen: VecDeque<(u64, Due)>,
    /// Updates about containers from runtimes
    names: RuntimeClients,
    signals: Signals,
    /// The status line of a recording
    recording_status: RecordingStatus,
    /// When a flight recorder writes a file
    dump_trigger: DumpTrigger,
    /// Whether the incomplete container filter was logged
    filter_incomplete: bool,
    /// The severity from which a finding is a failure
    fail_on: Option<Severity>,
    /// The processor time of this thread at the last pass, and the longest between two passes
    polled_ns: u64,
    reader_max_ns: u64,
}

impl Run {
    async fn run_to_end(mut self, args: &TraceArgs) -> Result<ExitCode, RunError> {
        self.take_initial_snapshot();
        let mut child = match args.command.as_slice() {
            words @ [_, ..] if !self.signals.end() => {
                match TracedCommand::start(words, args.output == SinkKind::Json) {
                    Ok(child) => Some(child),
                    Err(error) => {
                        // A program that reads lines has got the first one by now, and expects the last.
                        if self.fed.emits_lines() && args.output == SinkKind::Json {
                            self.shut_down(None).await?;
                        }
                        return Err(error.into());
                    }
                }
            }
            // None, or the run ends before it has begun.
            _ => None,
        };
        raise_priority();
        self.start_snapshot_thread()?;
        let events = self.setup.session.events_fd().map_err(system("can't watch the ring"))?;
        let result = self.trace(args.duration, &events, child.as_mut()).await;
        drop(events);
        // COMMAND continues if something else ended the run, and its exit status isn't waited for.
        let (commands_end, result) = match result {
            Ok(ended_by) => {
                let end = child.as_mut().filter(|_| ended_by == EndedBy::Command);
                (end.and_then(|child| child.exit_status()), self.shut_down(child.as_mut()).await)
            }
            Err(error) => {
                self.setup.session.close();
                (child.as_mut().and_then(|child| child.exit_status()), Err(error))
            }
        };
        match result {
            // A normal end.
            Ok(()) | Err(RunError::Output(OutputError::Closed)) => {
                self.show_recorded(args);
                Ok(ExitCode::from(exit_status(self.fails(), commands_end)))
            }
            Err(error) => Err(error),
        }
    }

    /// Whether a finding is a failure.
    fn fails(&self) -> bool {
        let worst = self.fed.engine.max_severity();
        self.fail_on.is_some_and(|least| worst >= Some(least))
    }

    /// Traces until COMMAND ends, the duration is over, or a signal arrives.
    async fn trace(
        &mut self,
        duration: Option<Duration>,
        events: &AsyncFd<std::os::fd::OwnedFd>,
        mut child: Option<&mut TracedCommand>,
    ) -> Result<EndedBy, RunError> {
        let begin = Instant::now();
        let mut next_tick = begin + TICK;
        let mut nap = POLL_MIN;
        self.polled_ns = clock::thread_ns();
        loop {
            let drained = self.drain();
            self.fed.check()?;
            let now = Instant::now();
            if now >= next_tick {
                self.tick()?;
                next_tick = now + TICK;
            }
            if child.as_mut().is_some_and(|child| child.has_ended()) {
                return Ok(EndedBy::Command);
            }
            let over = duration.is_some_and(|d| now.duration_since(begin) >= d);
            if over || self.signals.end() {
                return Ok(EndedBy::Other);
            }
            if drained.more {
                tokio::task::yield_now().await;
                continue;
            }
            if drained.in_flight {
                tokio::time::sleep(POLL_IN_FLIGHT).await;
                continue;
            }
            nap = match drained.calls {
                0 => (nap * 2).min(POLL_MAX),
                _ => POLL_MIN,
            };
            let until_end = duration.map_or(POLL_MAX, |d| (begin + d).duration_since(now));
            tokio::select! {
                biased;
                () = wait_for_child(&mut child) => {}
                guard = events.ready(Interest::READABLE) => {
                    guard.map_err(system("can't watch the ring"))?.clear_ready();
                }
                () = tokio::time::sleep(nap.min(until_end)) => {}
            }
        }
    }

    /// A pass over the rings, and the work before the next one.
    fn drain(&mut self) -> Drained {
        let used = clock::thread_ns();
        self.reader_max_ns = self.reader_max_ns.max(used.saturating_sub(self.polled_ns));
        self.polled_ns = used;
        let session = &mut self.setup.session;
        let drained = self.reader.drain(&mut ReaderCx {
            events: &mut session.events,
            control: &mut session.control,
            ask: &mut self.inspector,
            feed: &mut self.fed,
            clock: clock::boot_ns,
        });
        self.work_between_polls();
        self.fed.flush();
        self.serve_recording();
        drained
    }

    /// Work that is done once a second.
    fn tick(&mut self) -> Result<(), RunError> {
        self.watch_preemption();
        self.setup.session.log_diagnostics(&self.setup.layout);
        self.take_coalesced()?;
        let idle = self.setup.session.take_idle();
        self.take_records(&idle);
        self.count()?;
        self.fed.emit(&Input::Tick(clock::moment()));
        self.request_namespace_list();
        self.fed.flush();
        self.advance_recording();
        Ok(())
    }

    /// Logs a change of the preemption model.
    fn watch_preemption(&mut self) {
        let Setup { preemption, plan, .. } = &mut self.setup;
        let Some(PreemptionChange { from, to }) = preemption.update(Instant::now()) else { return };
        plan.exactness.model = to;
        let mut inexact = plan.inexact().peekable();
        let is_exact = inexact.peek().is_none();
        for (backend, why) in inexact {
            log::warn!(
                "the kernel's preemption model is {to} now, and was {from}: backend {} is not exact: {why}; \
                 after a restart, --backend auto chooses an exact one",
                backend.name()
            );
        }
        if is_exact {
            log::warn!(
                "the kernel's preemption model is {to} now, and was {from}: all calls are seen"
            );
        }
    }
}

/// A unique id.
fn random_id() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/uuid").ok()?;
    Some(id.trim_end().to_owned())
}

/// Colours according to `--color`, `NO_COLOR` and the terminal, and the width; a pipe gets lines of 100 cells.
pub(crate) fn terminal() -> (Palette, usize) {
    let palette = match AutoStream::choice(&io::stdout()) {
        ColorChoice::Never => Palette::PLAIN,
        ColorChoice::Auto | ColorChoice::Always | ColorChoice::AlwaysAnsi => Palette::COLOURED,
    };
    let width = terminal_size::terminal_size_of(io::stdout())
        .map_or(100, |(terminal_size::Width(width), _)| usize::from(width));
    (palette, width)
}

/// Whether to show a status line: on a terminal that can erase one, and that no COMMAND writes to.
fn wants_bar(args: &TraceArgs) -> bool {
    args.output == SinkKind::Text && args.command.is_empty() && erases_lines(&io::stdout())
}

/// Whether an output is a terminal that can erase a line.
fn erases_lines(output: &impl IsTerminal) -> bool {
    output.is_terminal()
        && std::env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb")
}

async fn wait_for_child(child: &mut Option<&mut TracedCommand>) {
    match child {
        Some(child) => child.wait().await,
        None => std::future::pending().await,
    }
}

/// The reader must be scheduled on a busy host, or the ring overflows. It uses little time.
fn raise_priority() {
    // SAFETY: no pointers; 0 is this thread, as Linux has it.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -10) } != 0 {
        log::info!("the reader's priority can't be raised: {}", io::Error::last_os_error());
    }
}
