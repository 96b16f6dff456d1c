//! A run of `live` or `report`, from the first program to the last line.
//!
//! | module | its job |
//! | --- | --- |
//! | [`setup`] | from options to a session that traces |
//! | [`command`] | COMMAND, its output and its end |
//! | `begin` | what exists at the start, and the first line |
//! | `end` | what is left in the rings, a last look, the account |
//! | `work` | what is wanted, what was seen and what runtimes said, between two looks at the rings |
//! | `fed` | the engine and its sink, as the reader feeds them |
//!
//! Order at the start: attach with the gate open for changes alone, list what exists, look at it, open
//! the gate, list what exists again, tell what was there with what happened to it since, start COMMAND.
//! Changes travel on the control ring, so none is lost while there is nobody to read calls, and what a
//! look and a change both tell of is one object.
//!
//! Order at the end: close the gate, empty the rings, list what exists, look at it, account.
//!
//! This thread reads the rings, and never waits: what takes long has threads of its own (`sources::host::inspector`,
//! `sources::host::looker`, `sources::runtimes`, `sinks::writer`).

mod begin;
mod command;
mod end;
mod fed;
pub(in crate::commands) mod setup;
mod work;

use std::{
    collections::VecDeque,
    io::{self, IsTerminal as _},
    process::ExitCode,
    time::{Duration, Instant},
};

use ipc_trace_common::state::{Fold, FoldKey};
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
            looker::{Looker, LookerResult, TaskIterReader},
        },
        kernel::preemption::PreemptionChange,
        reader::{Drained, RingReader, With},
        runtimes::RuntimeClients,
    },
};
use command::TracedCommand;
use fed::EngineFeed;
use setup::Setup;

/// How often namespaces, losses and pending calls are looked at.
const TICK: Duration = Duration::from_secs(1);
/// How long the reader sleeps after it found something, and at most; and where something is on its way.
const NAP: Duration = Duration::from_millis(2);
const LONG_NAP: Duration = Duration::from_millis(50);
const SHORT_NAP: Duration = Duration::from_micros(200);

/// Runs `live` or `report`.
///
/// # Errors
/// Tracing can't start, COMMAND can't be started, or output can't go on.
pub(crate) fn run(live: bool, args: &TraceArgs) -> Result<ExitCode, RunError> {
    begin::one_heap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system("can't start the event loop"))?;
    runtime.block_on(Run::new(live, args)?.whole(args))
}

/// What ended a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EndedBy {
    /// COMMAND did
    Command,
    /// The time, or a signal
    Other,
}

/// The exit status that says that `--fail-on` matched.
const FOUND: u8 = 3;

/// The exit status of a run that did not fail. `commands_end`: that of COMMAND, if it ended first.
const fn exit_status(fails: bool, commands_end: Option<u8>) -> u8 {
    match (fails, commands_end) {
        (true, _) => FOUND,
        (false, Some(status)) => status,
        (false, None) => 0,
    }
}

/// What is told once all that happened before has been told.
#[derive(Debug)]
enum Due {
    /// What a look found
    Seen(LookerResult),
    /// Accesses that the eBPF programs counted
    Folded(Vec<(FoldKey, Fold)>),
}

/// A run.
#[derive(Debug)]
struct Run {
    setup: Setup,
    reader: RingReader,
    fed: EngineFeed,
    inspector: Inspector,
    /// Looks at what exists; it has what lists that, which is here at the start and at the end
    looker: Option<Looker>,
    task_iter: Option<TaskIterReader>,
    /// What was seen, and is told once what happened before has been told
    seen: VecDeque<(u64, Due)>,
    /// What runtimes call their containers
    names: RuntimeClients,
    signals: Signals,
    /// Whether it was said that the kernel's container filter lacks some
    filter_incomplete: bool,
    /// Such a finding is a failure
    fail_on: Option<Severity>,
    /// The processor time of this thread at the last look at the rings, and the longest between two
    looked_ns: u64,
    reader_max_ns: u64,
}

impl Run {
    async fn whole(mut self, args: &TraceArgs) -> Result<ExitCode, RunError> {
        self.take_initial_snapshot();
        let mut child = match args.command.as_slice() {
            words @ [_, ..] if !self.signals.end() => {
                match TracedCommand::start(words, args.output == SinkKind::Json) {
                    Ok(child) => Some(child),
                    Err(error) => {
                        // Who reads lines has had the first one by now, and waits for the last.
                        if self.fed.tells_lines() && args.output == SinkKind::Json {
                            self.end(None).await?;
                        }
                        return Err(error.into());
                    }
                }
            }
            // None, or the run is over before it has begun.
            _ => None,
        };
        raise_priority();
        self.start_looker()?;
        let events = self.setup.session.events_fd().map_err(system("can't watch the ring"))?;
        let result = self.trace(args.duration, &events, child.as_mut()).await;
        drop(events);
        // COMMAND goes on where something else ended the run, and what becomes of it then is not waited for.
        let (commands_end, result) = match result {
            Ok(ended_by) => {
                let end = child.as_mut().filter(|_| ended_by == EndedBy::Command);
                (end.and_then(|child| child.exit_status()), self.end(child.as_mut()).await)
            }
            Err(error) => {
                self.setup.session.close();
                (child.as_mut().and_then(|child| child.exit_status()), Err(error))
            }
        };
        match result {
            // A quiet end.
            Ok(()) | Err(RunError::Output(OutputError::Closed)) => {
                Ok(ExitCode::from(exit_status(self.fails(), commands_end)))
            }
            Err(error) => Err(error),
        }
    }

    /// Whether there was a finding that is a failure.
    fn fails(&self) -> bool {
        let worst = self.fed.engine.worst();
        self.fail_on.is_some_and(|least| worst >= Some(least))
    }

    /// Until COMMAND ends, the time is over, or a signal comes.
    async fn trace(
        &mut self,
        duration: Option<Duration>,
        events: &AsyncFd<std::os::fd::OwnedFd>,
        mut child: Option<&mut TracedCommand>,
    ) -> Result<EndedBy, RunError> {
        let begin = Instant::now();
        let mut next_tick = begin + TICK;
        let mut nap = NAP;
        self.looked_ns = clock::thread_ns();
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
            if drained.waits {
                tokio::time::sleep(SHORT_NAP).await;
                continue;
            }
            nap = match drained.calls {
                0 => (nap * 2).min(LONG_NAP),
                _ => NAP,
            };
            let until_end = duration.map_or(LONG_NAP, |d| (begin + d).duration_since(now));
            tokio::select! {
                biased;
                () = child_ends(&mut child) => {}
                guard = events.ready(Interest::READABLE) => {
                    guard.map_err(system("can't watch the ring"))?.clear_ready();
                }
                () = tokio::time::sleep(nap.min(until_end)) => {}
            }
        }
    }

    /// A look at the rings, and what is to be done before the next.
    fn drain(&mut self) -> Drained {
        let used = clock::thread_ns();
        self.reader_max_ns = self.reader_max_ns.max(used.saturating_sub(self.looked_ns));
        self.looked_ns = used;
        let session = &mut self.setup.session;
        let drained = self.reader.drain(&mut With {
            events: &mut session.events,
            control: &mut session.control,
            ask: &mut self.inspector,
            feed: &mut self.fed,
            clock: clock::boot_ns,
        });
        self.work();
        self.fed.flush();
        drained
    }

    /// What is looked at now and then.
    fn tick(&mut self) -> Result<(), RunError> {
        self.watch_preemption();
        self.setup.session.log_diagnostics(&self.setup.layout);
        self.take_folded()?;
        let idle = self.setup.session.take_idle();
        self.take_records(&idle);
        self.count()?;
        self.fed.emit(&Input::Tick(clock::moment()));
        self.list();
        self.fed.flush();
        Ok(())
    }

    /// Says so when threads begin to be preempted, or are no longer.
    fn watch_preemption(&mut self) {
        let Setup { preemption, plan, .. } = &mut self.setup;
        let Some(PreemptionChange { from, to }) = preemption.update(Instant::now()) else { return };
        plan.exactness.model = to;
        let mut inexact = plan.inexact().peekable();
        let is_exact = inexact.peek().is_none();
        for (backend, why) in inexact {
            log::warn!(
                "the kernel's preemption model is {to} now, and was {from}: backend {} is not exact: {why}; \
                 started anew, --backend auto takes what is exact",
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

/// An id that is never given again.
fn random_id() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/uuid").ok()?;
    Some(id.trim_end().to_owned())
}

/// Colours for a terminal that wants them, and its width; a pipe gets lines of 100 cells.
pub(crate) fn terminal() -> (Palette, usize) {
    let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let coloured = wanted && io::stdout().is_terminal();
    let palette = if coloured { Palette::COLOURED } else { Palette::PLAIN };
    let width = terminal_size::terminal_size_of(io::stdout())
        .map_or(100, |(terminal_size::Width(width), _)| usize::from(width));
    (palette, width)
}

/// Whether there is a line to keep below the others: on a terminal that can erase one, and that no
/// COMMAND writes to.
fn wants_bar(args: &TraceArgs) -> bool {
    args.output == SinkKind::Text
        && args.command.is_empty()
        && io::stdout().is_terminal()
        && std::env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb")
}

async fn child_ends(child: &mut Option<&mut TracedCommand>) {
    match child {
        Some(child) => child.wait().await,
        None => std::future::pending().await,
    }
}

/// The reader must get its turn on a busy host, or the ring runs over. It uses little.
fn raise_priority() {
    // SAFETY: no pointers; 0 is this thread, as Linux has it.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -10) } != 0 {
        log::info!("the reader's priority can't be raised: {}", io::Error::last_os_error());
    }
}
