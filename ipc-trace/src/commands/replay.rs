//! Feeds an engine with the inputs of recordings: `replay`, and `report --from`. The inputs are untrusted: before it
//! decodes the first one, this process gives up the right to open files and sockets.

use std::{
    io::{self, IsTerminal as _},
    path::PathBuf,
    process::ExitCode,
    time::{Duration, UNIX_EPOCH},
};

use indicatif::{ProgressBar, ProgressStyle};
use ipc_trace_common::{
    op::{self, Abi, Op},
    state::HOST_INUM,
};

use super::{
    error::{RunError, system},
    run::{exit_status, terminal},
    seal,
};
use crate::{
    cli::{Filters, FindingArgs, NamespaceName, RangeArgs, RecordedTime, ReplayArgs, ReportArgs},
    engine::{Engine, checkpoint::RestoredCounts, policy::engine::PolicyEngine},
    event::{EmitEvent, Event, value::Timestamp},
    input::{
        Input,
        call_filter::CallFilter,
        counters::{CallCounters, Counted},
    },
    recording::{
        head::{Head, RecordedPolicy},
        reader::{
            self, FileDamage, MissingInputs, NextPart, OpenRecordings, ReadStart, RecordedState,
            RecordingPart, RecordingReader,
        },
    },
    signals::Signals,
    sinks::{Screen, Sink, SinkKind, output::Output, text::call::LineStyle, writer::SinkWriter},
};

/// How long to wait for inputs before signals are checked.
const WAIT: Duration = Duration::from_millis(100);

/// Runs `replay`.
///
/// # Errors
/// A file can't be read, or output failed.
pub(crate) fn run(args: &ReplayArgs) -> Result<ExitCode, RunError> {
    let ReplayArgs { files, output, follow, range, filters, findings, with_ancestry } = args;
    Replay {
        files,
        follow: *follow,
        range,
        filters,
        findings,
        output: *output,
        lines: true,
        with_ancestry: *with_ancestry,
    }
    .run()
}

/// Runs `report --from`.
///
/// # Errors
/// A file can't be read, or output failed.
pub(crate) fn report(args: &ReportArgs) -> Result<ExitCode, RunError> {
    Replay {
        files: &args.from,
        follow: false,
        range: &args.range,
        filters: &args.trace.filters,
        findings: &args.trace.findings,
        output: args.trace.output,
        lines: false,
        with_ancestry: false,
    }
    .run()
}

/// What to replay, and how.
struct Replay<'a> {
    files: &'a [PathBuf],
    follow: bool,
    range: &'a RangeArgs,
    filters: &'a Filters,
    findings: &'a FindingArgs,
    output: SinkKind,
    /// Whether each event is shown; otherwise there is a report
    lines: bool,
    with_ancestry: bool,
}

/// A range of the time of day, nanoseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    since: Option<i128>,
    until: Option<i128>,
}

impl Range {
    /// The boot times of the range, by a run's clock.
    fn boot_times(self, offset_ns: i128) -> (u64, u64) {
        let boot = |time: i128, limit: u64| u64::try_from(time - offset_ns).unwrap_or(limit);
        let until =
            self.until.map(|until| if until < offset_ns { 0 } else { boot(until, u64::MAX) });
        (self.since.map_or(0, |since| boot(since, 0)), until.unwrap_or(u64::MAX))
    }
}

/// The sink, which shows events only of the range.
struct RangeSink {
    sink: Sink,
    shows: bool,
}

impl EmitEvent for RangeSink {
    fn emit(&mut self, event: &Event<'_>) {
        if self.shows || matches!(event, Event::Start(_) | Event::End(_) | Event::Report(_)) {
            self.sink.emit(event);
        }
    }
}

/// A run that is replayed.
struct ReplayedRun {
    engine: Engine,
    host: String,
    /// Boot times between which events are shown
    times: (u64, u64),
    offset_ns: i128,
    /// The latest time
    now: u64,
    /// Whether its first input was fed
    is_fed: bool,
    /// Whether its last input was fed
    finished: bool,
    /// Whether not all of the run is shown: the recorded counters are those of the whole run
    is_part: bool,
    /// The calls in the range of time, if there is one, by the operation's number
    in_range: Option<[u64; op::COUNT + 1]>,
    /// The calls before the inputs that were fed
    calls_before: [u64; op::COUNT + 1],
    /// The recorded counters
    counted: Counted,
}

impl ReplayedRun {
    /// Begins with the state of the engine that was recorded, as inputs before it are missing.
    ///
    /// # Errors
    /// It is no state that this version knows.
    fn begin_at(&mut self, state: &RecordedState) -> Result<(), minicbor::decode::Error> {
        let counts = match (state.is_whole, self.is_fed) {
            (true, _) => RestoredCounts::Recorded,
            (false, false) => RestoredCounts::Fresh,
            (false, true) => RestoredCounts::Kept,
        };
        self.engine.restore(&state.bytes, counts)?;
        if counts == RestoredCounts::Fresh {
            // The recorded counters are those of the whole run.
            self.is_part = true;
            self.calls_before = *self.engine.calls();
        }
        self.now = self.engine.now();
        Ok(())
    }

    /// Keeps the recorded counters, and counts calls of the range.
    fn tally(&mut self, input: &Input<'_>) {
        if let Input::Counted(counted) = input {
            self.counted = Counted { drops: None, ..(*counted).clone() };
        }
        let (since, until) = self.times;
        let Some(in_range) = &mut self.in_range else { return };
        let mut count = |op: Op, calls| {
            if let Some(counted) = in_range.get_mut(op as usize) {
                *counted += calls;
            }
        };
        #[expect(clippy::wildcard_enum_match_arm, reason = "others are no calls")]
        match input {
            Input::Call(call)
                if call.made() != Some(false) && (since..=until).contains(&call.record.boot_ns) =>
            {
                count(call.op, 1);
            }
            Input::Batch(batch) if (since..=until).contains(&batch.boot_ns()) => {
                batch.count(|group| {
                    if let Ok((op, calls)) = group {
                        count(op, calls);
                    }
                });
            }
            _ => {}
        }
    }

    /// Feeds counters of the calls that were fed. The recorded ones are those of the whole run, up to an earlier moment.
    fn count_calls(&mut self, out: &mut RangeSink) {
        let mut counted = self.counted.clone();
        let of = |all: &[u64], op: Op| all.get(op as usize).copied().unwrap_or(0);
        let calls = |op: Op| match &self.in_range {
            Some(in_range) => of(in_range, op),
            None => of(self.engine.calls(), op).saturating_sub(of(&self.calls_before, op)),
        };
        let row = |op: Op| {
            let whole = counted.counts.ops.get(&op).filter(|_| !self.is_part);
            let whole = whole.copied().unwrap_or_default();
            let emitted = calls(op);
            CallCounters { seen: emitted + whole.filtered + whole.dropped, emitted, ..whole }
        };
        let rows = Op::ALL.into_iter().map(|op| (op, row(op)));
        counted.counts.ops = rows.filter(|(_, row)| row.seen > 0 || row.not_made > 0).collect();
        for op in Op::ALL {
            if let Some(delivered) = counted.delivered.ops.get_mut(op as usize) {
                *delivered = calls(op);
            }
        }
        self.engine.feed(&Input::Counted(&counted), out);
    }

    fn feed(&mut self, input: &Input<'_>, out: &mut RangeSink) {
        self.is_fed = true;
        let (since, until) = self.times;
        #[expect(clippy::wildcard_enum_match_arm, reason = "others don't end a range")]
        match input {
            _ if self.finished => return,
            Input::Read { now, watermark } => {
                self.now = *now;
                if *watermark > until {
                    self.finish(out);
                    return;
                }
                out.shows = *now >= since;
            }
            Input::Call(call) | Input::Change(call) => {
                out.shows = (since..=until).contains(&call.record.boot_ns);
                self.tally(input);
            }
            Input::Finish(_) => {
                if self.is_part {
                    self.count_calls(out);
                }
                self.finished = true;
            }
            _ => self.tally(input),
        }
        self.engine.feed(input, out);
        // The recorded inputs contain the results of its requests.
        while self.engine.take_request().is_some() {}
        drop(self.engine.take_filter_decisions());
        if matches!(input, Input::Read { .. } | Input::Opened(..)) {
            out.sink.flush();
            // Nothing is lost here: the writer is waited for.
            out.sink.writer().wait();
        }
    }

    /// Ends it early.
    fn finish(&mut self, out: &mut RangeSink) {
        if !std::mem::replace(&mut self.finished, true) {
            self.engine.feed(&Input::Ending(self.now), out);
            self.count_calls(out);
            self.engine.feed(&Input::Finish(None), out);
        }
    }

    fn time(&self, boot_ns: u64) -> Timestamp {
        let since = i128::from(boot_ns) + self.offset_ns;
        let since = Duration::from_nanos(u64::try_from(since).unwrap_or(0));
        Timestamp(UNIX_EPOCH + since)
    }
}

impl Replay<'_> {
    fn run(&self) -> Result<ExitCode, RunError> {
        let signals = Signals::handle().map_err(system("can't handle signals"))?;
        let policy = self.findings.policy.as_deref().map(super::policy::read);
        let policy = policy.transpose()?.map(|(_, recorded)| recorded);
        let filter = call_filter(self.filters)?;
        let range = self.range()?;
        let (palette, width) = terminal();
        let from = self.from(range, &filter);
        let open = |from| OpenRecordings::open(self.files, self.follow, from);
        let recordings = open(from)?;
        // Another version may not know what the last state holds.
        let mut from_begin =
            (from == ReadStart::LastCheckpoint).then(|| open(ReadStart::Begin)).transpose()?;
        seal::seal().map_err(system("can't give up the right to open files and sockets"))?;
        let mut many_hosts = recordings.has_many_hosts();
        let mut reader = RecordingReader::start(recordings)?;
        let bar = self.progress_bar(&reader);
        let mut out: Option<RangeSink> = None;
        let mut run: Option<ReplayedRun> = None;
        let mut worst = None;
        let mut any_ended = false;
        loop {
            match reader.next_within(WAIT)? {
                NextPart::End => break,
                NextPart::None => {}
                NextPart::Part(RecordingPart::Begin(head)) => {
                    let screen = Screen {
                        style: LineStyle { palette, native: native(&head.begin.arch) },
                        width,
                        min_confidence: self.min_confidence(&head),
                    };
                    let out = match &mut out {
                        Some(out) => out,
                        None => {
                            let output = Output::new(signals.clone());
                            let writer = SinkWriter::start(self.output, screen, output, None)
                                .map_err(system("can't start a thread"))?;
                            let sink = Sink::new(self.output, screen, writer);
                            out.insert(RangeSink { sink, shows: true })
                        }
                    };
                    if let Some(run) = &mut run {
                        worst = worst.max(run.engine.max_severity());
                        self.end(run, out);
                        many_hosts |= run.host != head.begin.host;
                        any_ended = true;
                    }
                    if many_hosts {
                        out.sink.set_host(Some(head.begin.host.as_str().into()));
                    }
                    run = Some(self.begin(*head, policy.as_ref(), &filter, range, out)?);
                }
                NextPart::Part(RecordingPart::State(state)) => {
                    if let Some(known) = &mut run
                        && let Err(error) = known.begin_at(&state)
                    {
                        log::warn!("a recorded state can't be used: {error}");
                        if let Some(recordings) = from_begin.take().filter(|_| !any_ended) {
                            reader = RecordingReader::start(recordings)?;
                            run = None;
                        }
                    }
                }
                NextPart::Part(RecordingPart::Inputs(chunk, skipped)) => {
                    if let (Some(run), Some(out)) = (&mut run, &mut out) {
                        let fed = chunk.for_each(skipped, |input| run.feed(input, out));
                        if let Err(damage) = fed {
                            log::warn!("a recorded input can't be used: {damage}");
                        }
                        out.sink.writer().check()?;
                    }
                    reader.give_back(chunk);
                }
                NextPart::Part(RecordingPart::Missing(missing)) => {
                    if let Some(run) = &run {
                        log::warn!("{}", describe(&missing, run));
                    }
                }
            }
            if let Some(bar) = &bar {
                bar.set_position(reader.progress().0);
            }
            if signals.end() || self.is_over(run.as_ref()) {
                break;
            }
        }
        if let Some(bar) = &bar {
            bar.finish_and_clear();
        }
        if let (Some(run), Some(out)) = (&mut run, &mut out) {
            self.end(run, out);
            worst = worst.max(run.engine.max_severity());
            out.sink.flush();
            out.sink.writer().finish()?;
        }
        let fails = self.findings.fail_on.is_some_and(|least| worst >= Some(least));
        Ok(ExitCode::from(exit_status(fails, None)))
    }

    /// Where to begin reading. A report without conditions is in the last checkpoint.
    fn from(&self, Range { since, until }: Range, filter: &CallFilter) -> ReadStart {
        let is_conditional = until.is_some()
            || self.findings.policy.is_some()
            || !filter.is_empty()
            || !self.filters.containers().is_empty()
            || self.lines;
        match since {
            Some(since) => ReadStart::Time(since),
            None if is_conditional => ReadStart::Begin,
            None => ReadStart::LastCheckpoint,
        }
    }

    /// A bar on a terminal, unless lines go there too.
    fn progress_bar(&self, reader: &RecordingReader) -> Option<ProgressBar> {
        let (_, bytes) = reader.progress();
        let takes_terminal = self.lines && io::stdout().is_terminal();
        if takes_terminal || !io::stderr().is_terminal() {
            return None;
        }
        let bar = ProgressBar::new(bytes.filter(|_| !self.follow)?);
        let style = ProgressStyle::with_template("{bar:30} {bytes} of {total_bytes}, {eta} left");
        Some(bar.with_style(style.ok()?))
    }

    /// Whether no more of the range comes: with one file, as several may be of several runs.
    fn is_over(&self, run: Option<&ReplayedRun>) -> bool {
        self.files.len() == 1
            && self.range.until.is_some()
            && run.is_some_and(|run| run.finished && run.now > run.times.1)
    }

    fn min_confidence(&self, head: &Head) -> u8 {
        self.findings.min_confidence.unwrap_or(head.begin.min_confidence)
    }

    fn begin(
        &self,
        head: Head,
        policy: Option<&RecordedPolicy>,
        filter: &CallFilter,
        range: Range,
        out: &mut RangeSink,
    ) -> Result<ReplayedRun, RunError> {
        let min_confidence = self.min_confidence(&head);
        let Head { mut begin, policy: recorded, counts } = head;
        if counts && self.lines {
            log::warn!("the recording has only the counts of calls (--counts): use report --from");
        }
        let policy = match policy.or(recorded.as_ref()) {
            Some(policy) => super::policy::engine_of(policy)?,
            None => PolicyEngine::default(),
        };
        (begin.lines, begin.min_confidence) = (self.lines, min_confidence);
        begin.with_ancestry |= self.with_ancestry;
        let containers = self.filters.containers();
        if !containers.is_empty() {
            begin.wanted = containers;
        }
        let (offset_ns, now) = (begin.at.offset_ns, begin.at.boot_ns);
        let times = range.boot_times(offset_ns);
        let host = begin.host.clone();
        let mut engine = Engine::new(begin, policy);
        let mut filter = filter.clone();
        filter.times = (times != (0, u64::MAX)).then_some(times);
        engine.filter_calls(filter);
        engine.start(out);
        out.shows = now >= times.0;
        let is_part = times != (0, u64::MAX);
        let in_range = is_part.then_some([0; op::COUNT + 1]);
        let counted = Counted::default();
        let (is_fed, finished, calls_before) = (false, false, [0; op::COUNT + 1]);
        Ok(ReplayedRun {
            engine,
            host,
            times,
            offset_ns,
            now,
            is_fed,
            finished,
            is_part,
            in_range,
            calls_before,
            counted,
        })
    }

    /// Ends a run whose end may be missing.
    fn end(&self, run: &mut ReplayedRun, out: &mut RangeSink) {
        if run.finished {
            return;
        }
        log::warn!(
            "the recording has no end: ipc-trace was killed, or is still running; it goes up to {}",
            run.time(run.now)
        );
        if !self.lines {
            run.finish(out);
        }
    }

    fn range(&self) -> Result<Range, RunError> {
        let RangeArgs { since, until } = self.range;
        let named = [since, until].into_iter().flatten();
        let needs_end = |time: &&RecordedTime| !matches!(time, RecordedTime::At(_));
        let end = match named.clone().any(|time| needs_end(&time)) {
            true => reader::end(self.files)?,
            false => None,
        };
        let time = |time: &Option<RecordedTime>| {
            let Some(time) = time else { return Ok(None) };
            let unknown = RunError::Usage(
                "--since, --until: the end of the recording is unknown, so give whole times, as 2026-01-31T23:59:00Z",
            );
            match (time, end) {
                (RecordedTime::At(at), _) => Ok(Some(*at)),
                (RecordedTime::BeforeEnd(before), Some(end)) => {
                    Ok(Some(end - i128::try_from(before.as_nanos()).unwrap_or(0)))
                }
                (RecordedTime::OfDay(seconds), Some(end)) => {
                    time_of_day(end, *seconds).map(Some).ok_or(unknown)
                }
                (_, None) => Err(unknown),
            }
        };
        Ok(Range { since: time(since)?, until: time(until)? })
    }
}

fn native(arch: &str) -> Abi {
    if arch == "aarch64" { Abi::Aarch64 } else { Abi::X86_64 }
}

/// A time of day on the day of another time, in the local time zone.
fn time_of_day(on_day_of: i128, seconds: u32) -> Option<i128> {
    let day = libc::time_t::try_from(on_day_of / 1_000_000_000).ok()?;
    // SAFETY: `tm` is plain numbers and a pointer that may be null.
    let mut local: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to values of this function.
    if unsafe { libc::localtime_r(&raw const day, &raw mut local) }.is_null() {
        return None;
    }
    let part = |value: u32| i32::try_from(value).ok();
    local.tm_hour = part(seconds / 3600)?;
    local.tm_min = part(seconds / 60 % 60)?;
    local.tm_sec = part(seconds % 60)?;
    local.tm_isdst = -1;
    // SAFETY: the pointer is to a value of this function.
    let time = unsafe { libc::mktime(&raw mut local) };
    (time != -1).then(|| i128::from(time) * 1_000_000_000)
}

/// The options' conditions on calls.
fn call_filter(filters: &Filters) -> Result<CallFilter, RunError> {
    let namespaces = filters.ipc_ns.iter().map(|name| match name {
        NamespaceName::Inum(inum) => Ok(*inum),
        NamespaceName::Host => Ok(HOST_INUM),
        NamespaceName::Own | NamespaceName::OfPid(_) => Err(RunError::Usage(
            "--ipc-ns: in a recording, name a namespace by its inode number, or as host",
        )),
    });
    Ok(CallFilter {
        namespaces: namespaces.collect::<Result<_, _>>()?,
        pids: filters.pid.clone(),
        comms: filters.comm.iter().map(|comm| comm.0).collect(),
        uids: filters.uid.clone(),
        ops: filters.op.iter().fold(0, |all, op| all | op.0),
        failed: filters.failed,
        min_duration_ns: filters
            .min_duration
            .map(|least| u64::try_from(least.as_nanos()).unwrap_or(u64::MAX)),
        times: None,
    })
}

/// What is missing, in one line.
fn describe(missing: &MissingInputs, run: &ReplayedRun) -> String {
    let (from, to) = missing.times;
    let inputs = match missing.inputs {
        0 => "something may be missing".to_owned(),
        1 => "1 input is missing".to_owned(),
        many => format!("{many} inputs are missing"),
    };
    let times = match to {
        0 => format!("after {}", run.time(from)),
        _ => format!("between {} and {}", run.time(from), run.time(to)),
    };
    match &missing.damage {
        Some(FileDamage { file, bytes, why }) => format!(
            "{inputs} {times}: {} is damaged from byte {} to {}: {why}",
            file.display(),
            bytes.start,
            bytes.end
        ),
        None => format!("{inputs} {times}: not recorded, or in another file"),
    }
}
