//! A run of `live` or `report`, from the first program to the last line.
//!
//! | module | its job |
//! | --- | --- |
//! | [`setup`] | from options to a session that traces |
//! | [`command`] | COMMAND, its output and its end |
//! | [`mode`] | what is made of the events: lines, or a report |
//! | `end` | what is left in the rings, a last look, the account |
//! | [`accounts`] | counters, losses and pending calls, as they are shown |
//! | [`status`] | the line below the others, on a terminal |
//! | `looks` | looks at what exists: at the start, now and then, at the end |
//! | `resync` | after a loss, what exists is listed anew |
//! | `names` | what runtimes call the containers |
//!
//! Order at the start: attach with the gate open for changes alone, list what exists, look at it, open
//! the gate, list what exists again, tell what was there with what happened to it since, start COMMAND.
//! Changes travel on the control ring, so none is lost while there is nobody to read calls, and what a
//! look and a change both tell of is one object.
//!
//! Order at the end: close the gate, empty the rings, list what exists, look at it, account.

pub(super) mod accounts;
pub(super) mod command;
mod end;
mod looks;
pub(super) mod mode;
mod names;
mod resync;
pub(super) mod setup;
pub(super) mod status;

use std::{
    io::{self, IsTerminal as _},
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use tokio::io::{Interest, unix::AsyncFd};

use crate::{
    cli::{OutputFormat, TraceArgs},
    engine::detect::processes::Processes,
    engine::pipeline::{Delivered, Drained, Pipeline},
    engine::policy::parse::PolicyError,
    engine::track::{
        Tracker,
        clock::{Clock, boot_ns},
        losses::{Losses, NewLosses},
    },
    event::{Accounting, Start, finding::Severity, value::Time},
    signals::Signals,
    sinks::text::call::Look,
    sinks::text::style::Palette,
    sinks::{
        live::{FULL, Format, Live},
        output::{Output, OutputError},
    },
    sources::kernel::{
        census::Census,
        features,
        preemption::Change,
        session::{AllCounts, SessionError},
        survey::Survey,
    },
    sources::runtimes::Names,
};
use command::Child;
use mode::Mode;
use resync::Resync;
use setup::Setup;
use status::{Now, Status};

/// Why a run ended badly.
#[derive(Debug, thiserror::Error)]
pub(super) enum RunError {
    /// Tracing can't start.
    #[error(transparent)]
    Setup(#[from] setup::SetupError),
    /// The maps can't be used.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// COMMAND can't be started.
    #[error(transparent)]
    Command(#[from] command::StartError),
    /// There is nothing to be seen.
    #[error(transparent)]
    Look(#[from] crate::sources::host::LookError),
    /// The policy is none.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// Output can't go on.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// The system refused something.
    #[error("{what}: {source}")]
    System {
        /// What was tried
        what: &'static str,
        /// What the system said
        source: io::Error,
    },
}

impl RunError {
    /// The exit status that says so.
    #[must_use]
    pub(super) fn status(&self) -> ExitCode {
        match self {
            Self::Setup(error) if error.is_usage() => ExitCode::from(2),
            Self::Policy(_) => ExitCode::from(2),
            Self::Command(error) => ExitCode::from(error.status()),
            Self::Output(OutputError::Closed) => ExitCode::SUCCESS,
            Self::Setup(_)
            | Self::Session(_)
            | Self::Look(_)
            | Self::Output(_)
            | Self::System { .. } => ExitCode::FAILURE,
        }
    }
}

fn system(what: &'static str) -> impl Fn(io::Error) -> RunError {
    move |source| RunError::System { what, source }
}

/// How often namespaces, losses and pending calls are looked at.
const TICK: Duration = Duration::from_secs(1);
/// How often a line says how it stands.
const STATUS: Duration = Duration::from_secs(60);
/// A call that has been in the kernel for so long is shown while it is there.
const LONG_CALL_NS: u64 = 10_000_000_000;
/// How long the reader sleeps after it found something, and at most.
const NAP: Duration = Duration::from_millis(2);
const LONG_NAP: Duration = Duration::from_millis(50);

/// Runs `live` or `report`.
///
/// # Errors
/// Tracing can't start, COMMAND can't be started, or output can't go on.
pub(super) fn run(live: bool, args: &TraceArgs) -> Result<ExitCode, RunError> {
    looks::one_heap();
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

/// The exit status of a run that was not in vain. `commands_end`: that of COMMAND, if it ended first.
const fn exit_status(fails: bool, commands_end: Option<u8>) -> u8 {
    match (fails, commands_end) {
        (true, _) => FOUND,
        (false, Some(status)) => status,
        (false, None) => 0,
    }
}

/// A run.
#[derive(Debug)]
struct Run {
    setup: Setup,
    pipeline: Pipeline,
    losses: Losses,
    /// What lists who holds what, once it was needed
    survey: Option<Result<Survey, String>>,
    resync: Resync,
    /// Whether it was said that the kernel's container filter lacks some
    filter_incomplete: bool,
    mode: Mode,
    /// Findings less sure than this are left out of text
    least: u8,
    /// Such a finding is a failure
    fail_on: Option<Severity>,
    output: Output,
    status: Option<Status>,
    /// What runtimes call their containers
    names: Names,
    signals: Signals,
    /// Which run this is
    run_id: Option<String>,
    started: u64,
    /// When the next line says how it stands
    next_status: Instant,
}

impl Run {
    fn new(live: bool, args: &TraceArgs) -> Result<Self, RunError> {
        let signals = Signals::handle().map_err(system("can't handle signals"))?;
        // Before anything is loaded: with a mistake in it, nothing begins.
        let judges = super::policy::judges(args.findings.policy.as_deref())?;
        let mut setup = setup::setup(&args.how, &args.filters, live, args.with_args)?;
        let clock = Clock::now();
        let mut pipeline = Pipeline::new(Tracker::new(clock));
        pipeline.tracker.contexts.with_ancestry = args.with_ancestry;
        if features::has_boot_parameter(Path::new("/proc"), "ipcmni_extend") {
            pipeline.tracker.objects.ids_are_extended();
        }
        let started = boot_ns();
        let run_id = random_id();
        let output = Output::new(signals.clone());
        pipeline.detect.ask(Box::new(Processes::in_directory("/proc")), std::process::id());
        pipeline.detect.findings.judged_by(Box::new(judges));
        pipeline.detect.findings.with_least_confidence(args.findings.min_confidence);
        if live {
            pipeline.detect.findings.are_told();
        }
        let mode = if live {
            let format = match args.output {
                OutputFormat::Json => Format::Json,
                OutputFormat::Text => {
                    let (palette, width) = terminal();
                    let look = Look { palette, native: setup.native };
                    let least = args.findings.min_confidence;
                    Format::Text { look, width, least, line: String::new() }
                }
            };
            Mode::Live(Live::new(format, start(&setup, run_id.as_deref(), clock.time(started))))
        } else {
            Mode::Report(Box::default(), args.output)
        };
        pipeline.tracker.namespaces.listed(&setup.census);
        pipeline.tracker.containers.want(args.filters.containers());
        if let Some(hierarchy) = setup.hierarchy.take() {
            pipeline.tracker.containers.begin(hierarchy);
        }
        let losses = Losses::default();
        let status = wants_status(args).then(Status::new);
        let names = Names::ask(args.how.runtimes.sockets())
            .map_err(system("can't start to ask for containers' names"))?;
        Ok(Self {
            setup,
            pipeline,
            losses,
            survey: None,
            resync: Resync::default(),
            filter_incomplete: false,
            mode,
            least: args.findings.min_confidence,
            fail_on: args.findings.fail_on,
            output,
            status,
            names,
            signals,
            run_id,
            started,
            next_status: Instant::now() + STATUS,
        })
    }

    async fn whole(mut self, args: &TraceArgs) -> Result<ExitCode, RunError> {
        self.look();
        self.flush()?;
        let mut child = match args.command.as_slice() {
            words @ [_, ..] if !self.signals.end() => {
                match Child::start(words, args.output == OutputFormat::Json) {
                    Ok(child) => Some(child),
                    Err(error) => {
                        // Who reads lines has had the first one by now, and waits for the last.
                        if matches!(self.mode, Mode::Live(_)) && args.output == OutputFormat::Json {
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
        let worst = self.pipeline.detect.findings.worst();
        self.fail_on.is_some_and(|least| worst >= Some(least))
    }

    /// Until COMMAND ends, the time is over, or a signal comes.
    async fn trace(
        &mut self,
        duration: Option<Duration>,
        events: &AsyncFd<std::os::fd::OwnedFd>,
        mut child: Option<&mut Child>,
    ) -> Result<EndedBy, RunError> {
        let begin = Instant::now();
        let mut next_tick = begin + TICK;
        let mut nap = NAP;
        loop {
            let drained = self.drain()?;
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

    fn drain(&mut self) -> Result<Drained, RunError> {
        let session = &mut self.setup.session;
        let drained =
            self.pipeline.drain(&mut session.events, &mut session.control, &mut self.mode);
        self.take_names();
        self.filter_containers();
        self.flush()?;
        Ok(drained)
    }

    /// Takes all that came before that time.
    fn catch_up(&mut self, boot_ns: u64) -> Result<(), RunError> {
        while self.pipeline.reached() <= boot_ns && self.drain()? != Drained::default() {}
        Ok(())
    }

    /// Writes out the lines that have come together.
    fn flush(&mut self) -> Result<(), RunError> {
        let Mode::Live(live) = &mut self.mode else { return Ok(()) };
        if live.buffer.is_empty() {
            return Ok(());
        }
        if let Some(status) = &mut self.status {
            self.output.write_all(status.erase())?;
        }
        self.output.write_all(&live.buffer)?;
        live.buffer.clear();
        live.buffer.shrink_to(2 * FULL);
        if let Some(status) = &mut self.status {
            self.output.write_all(status.show())?;
        }
        Ok(())
    }

    /// What is looked at now and then.
    fn tick(&mut self) -> Result<(), RunError> {
        self.output.check()?;
        self.watch_preemption();
        self.pipeline.tracker.clock.follow();
        let census = self.list();
        self.look_for_the_removed();
        self.take_folded()?;
        let now = boot_ns();
        self.catch_up(now)?;
        let idle = self.setup.session.take_idle();
        self.take_records(&idle);
        self.pipeline.tick(now, &mut self.mode);
        self.take_losses()?;
        self.resync()?;
        let delivered = self.pipeline.delivered.clone();
        let counts = self.setup.session.counts();
        if let Mode::Live(live) = &self.mode
            && live.tells_status()
            && Instant::now() >= self.next_status
        {
            self.next_status += STATUS;
            let accounting = self.accounting(&counts, &delivered);
            if let Mode::Live(live) = &mut self.mode {
                live.status(boot_ns(), &self.pipeline.tracker, &accounting);
            }
        }
        self.flush()?;
        self.say_status(&counts, &census)
    }

    /// Says so when threads begin to be preempted, or are no longer.
    fn watch_preemption(&mut self) {
        let Setup { preemption, plan, .. } = &mut self.setup;
        let Some(Change { from, to }) = preemption.update(Instant::now()) else { return };
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

    /// Tells of what was lost since this was asked last. Whether the state rests on some of it.
    fn take_losses(&mut self) -> Result<bool, RunError> {
        let counts = self.setup.session.counts();
        if !self.losses.grew(counts.total().dropped, counts.others()) {
            return Ok(false);
        }
        let drops = self.setup.session.drops()?;
        let losses = self.losses.update(drops, counts.others());
        Ok(self.lost(&losses))
    }

    /// What was seen, and what became of it.
    fn accounting(&self, counts: &AllCounts, delivered: &Delivered) -> Accounting {
        let detect = &self.pipeline.detect;
        Accounting {
            resyncs: self.resync.accounting(),
            diagnostics: self.setup.session.diagnosed(),
            findings: detect.findings.accounting(detect.unjudged()),
            ..accounts::accounting(counts, delivered)
        }
    }

    /// Accesses that the kernel side counted, and did not tell of each.
    fn take_folded(&mut self) -> Result<(), RunError> {
        let folded = self.setup.session.folded(boot_ns())?;
        if !folded.is_empty() {
            // Those that they are like may be in the ring still.
            self.catch_up(boot_ns())?;
            self.pipeline.folded(&folded);
        }
        Ok(())
    }

    fn say_status(&mut self, counts: &AllCounts, census: &Census) -> Result<(), RunError> {
        let Some(status) = &mut self.status else { return Ok(()) };
        let mut pending = accounts::pending(census, &self.pipeline.tracker, boot_ns());
        pending.retain(|call| call.for_ns >= LONG_CALL_NS);
        let total = counts.total();
        let now = Now {
            seen: total.seen,
            dropped: total.dropped,
            missed: counts.missed,
            pending: &pending,
        };
        let (palette, width) = terminal();
        status.update(now, palette, width);
        self.output.write_all(status.erase())?;
        Ok(self.output.write_all(status.show())?)
    }

    /// Nothing is written below what comes now.
    fn drop_status(&mut self) -> Result<(), RunError> {
        match self.status.take() {
            Some(mut status) => Ok(self.output.write_all(status.erase())?),
            None => Ok(()),
        }
    }

    /// Something was lost. Whether the state rests on it.
    fn lost(&mut self, losses: &NewLosses) -> bool {
        let of_state = losses.are_of_state();
        if of_state {
            self.pipeline.tracker.objects.lost();
            self.resync.note_loss(boot_ns());
        }
        self.mode.loss(losses, &self.pipeline.tracker);
        of_state
    }

    /// Lists what exists.
    fn list(&mut self) -> Census {
        self.setup.session.log_diagnostics(&self.setup.layout);
        let census = self.setup.session.census().unwrap_or_else(|error| {
            log::warn!("{error}");
            Census::default()
        });
        self.pipeline.listed(&census, &mut self.mode);
        census
    }
}

fn start<'a>(setup: &'a Setup, run_id: Option<&'a str>, time: Time) -> Start<'a> {
    Start {
        time,
        host: setup.system.host.as_str().into(),
        boot_id: setup.system.boot_id.as_deref().map(Into::into),
        run_id: run_id.map(Into::into),
        kernel: setup.system.kernel.as_str().into(),
        arch: setup.system.arch,
        backend: &setup.backends,
        version: env!("CARGO_PKG_VERSION"),
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
fn wants_status(args: &TraceArgs) -> bool {
    args.output == OutputFormat::Text
        && args.command.is_empty()
        && io::stdout().is_terminal()
        && std::env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb")
}

async fn child_ends(child: &mut Option<&mut Child>) {
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
