//! Feeds an engine with the inputs of recordings: for `replay`, `report --from`, `query` and `export`.

use std::time::{Duration, UNIX_EPOCH};

use ipc_trace_common::op::{self, Op};

use super::super::{error::RunError, policy};
use crate::{
    engine::{Engine, checkpoint::RestoredCounts, policy::engine::PolicyEngine},
    event::{EmitEvent, Event, counts::SecondCounts, finding::Severity, value::Timestamp},
    input::{
        Input,
        call_filter::CallFilter,
        container_filter::ContainerFilter,
        counters::{CallCounters, Counted},
    },
    recording::{
        head::{Head, RecordedPolicy},
        reader::{
            FileDamage, MissingInputs, NextPart, OrderedRecordings, ReadStart, RecordedState,
            RecordingPart, RecordingReader,
        },
    },
};

/// How long to wait for inputs before it is checked whether to go on.
const WAIT: Duration = Duration::from_millis(100);

/// How many counts by second the engine collects.
const MAX_COUNTS: usize = 1 << 14;

/// Receives the events of recordings. By reference: with a type of its own for each receiver, the engine would be
/// compiled as often.
pub(in crate::commands) trait ReplayOutput: EmitEvent {
    /// A run begins.
    ///
    /// # Errors
    /// Output can't begin.
    fn begin(&mut self, head: &Head) -> Result<(), RunError>;

    /// All that is known up to a time has been emitted.
    fn settle(&mut self) {}

    /// How often calls were made, if the replayer counts them by second.
    fn counted(&mut self, _counts: Vec<SecondCounts>) {}

    /// Whether more is wanted. `read`: bytes of the recordings that have been read.
    ///
    /// # Errors
    /// Output failed.
    fn goes_on(&mut self, read: u64) -> Result<bool, RunError>;
}

/// The receiver, which is given only the events of the range.
struct RangeOutput<'a> {
    to: &'a mut dyn ReplayOutput,
    shows: bool,
}

impl EmitEvent for RangeOutput<'_> {
    fn emit(&mut self, event: &Event<'_>) {
        if self.shows || matches!(event, Event::Start(_) | Event::End(_) | Event::Report(_)) {
            self.to.emit(event);
        }
    }

    fn wants_calls(&self) -> bool {
        self.shows && self.to.wants_calls()
    }
}

/// A range of the time of day, nanoseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::commands) struct Range {
    /// Where it begins
    pub since: Option<i128>,
    /// Where it ends
    pub until: Option<i128>,
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

/// The order of calls in a recording is that in which they were read from the ring. One that returned this long before
/// another one does not come after it: batches are sent once a second.
const DISORDER_NS: u64 = 3_000_000_000;
/// The longest that a call waits to be read, if no other one comes.
const IDLE_NS: u64 = 60_000_000_000;

/// Whether an input is of calls that returned up to a time.
fn is_until(input: &Input<'_>, until: u64) -> bool {
    #[expect(clippy::wildcard_enum_match_arm, reason = "others are no calls")]
    match input {
        Input::Call(call) | Input::Change(call) => call.record.boot_ns <= until,
        Input::Batch(batch) => batch.boot_ns() <= until,
        _ => false,
    }
}

/// A run that is replayed.
struct ReplayedRun {
    engine: Engine,
    /// Boot times between which events are shown
    times: (u64, u64),
    offset_ns: i128,
    /// The latest time
    now: u64,
    /// Whether its first input was fed
    is_fed: bool,
    /// Whether its last input was fed
    finished: bool,
    /// Whether the range is over, but for calls that are still to come: the watermark is that of the control ring
    is_late: bool,
    /// As in [`Replayer`]
    numbers_all: bool,
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
    fn count_calls(&mut self, out: &mut RangeOutput<'_>) {
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

    fn feed(&mut self, input: &Input<'_>, out: &mut RangeOutput<'_>) {
        self.is_fed = true;
        let (since, until) = self.times;
        let is_late_in = |boot_ns: u64| self.is_late && boot_ns > until.saturating_add(DISORDER_NS);
        #[expect(clippy::wildcard_enum_match_arm, reason = "others don't end a range")]
        match input {
            _ if self.finished => return,
            Input::Read { now, watermark } => {
                let was_late = self.is_late;
                self.is_late |= *watermark > until;
                if self.is_late && *now > until.saturating_add(IDLE_NS) {
                    return self.finish(out);
                }
                out.shows = *now >= since && !self.is_late;
                if !was_late || self.numbers_all {
                    self.now = *now;
                }
            }
            Input::Call(call) | Input::Change(call) if is_late_in(call.record.boot_ns) => {
                return self.finish(out);
            }
            Input::Batch(batch) if is_late_in(batch.boot_ns()) => return self.finish(out),
            Input::Call(call) | Input::Change(call) => {
                out.shows = (since..=until).contains(&call.record.boot_ns);
                self.tally(input);
            }
            Input::Finish(_) if self.is_late => return self.finish(out),
            Input::Finish(_) => {
                if self.is_part {
                    self.count_calls(out);
                }
                self.finished = true;
            }
            _ if self.is_late => {}
            _ => self.tally(input),
        }
        if self.is_late && !self.numbers_all && !is_until(input, until) {
            return;
        }
        self.engine.feed(input, out);
        // The recorded inputs contain the results of its requests.
        while self.engine.take_request().is_some() {}
        drop(self.engine.take_filter_decisions());
        if matches!(input, Input::Read { .. } | Input::Opened(..)) {
            if self.engine.waiting_counts() > MAX_COUNTS {
                out.to.counted(self.engine.take_counts());
            }
            out.to.settle();
        }
    }

    /// Ends it, at the end of the range.
    fn finish(&mut self, out: &mut RangeOutput<'_>) {
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

/// What is replayed of recordings, and how.
#[derive(Debug, Default)]
pub(in crate::commands) struct Replayer {
    /// The range of time
    pub range: Range,
    /// Conditions on calls
    pub filter: CallFilter,
    /// Containers whose calls are wanted
    pub containers: ContainerFilter,
    /// In place of the recorded policy
    pub policy: Option<RecordedPolicy>,
    /// In place of the recorded one
    pub min_confidence: Option<u8>,
    /// Whether each event is emitted; otherwise there is a report at the end of a run
    pub lines: bool,
    /// Whether calls have the ancestors of their processes
    pub with_ancestry: bool,
    /// Whether lines have the numbers that they have without a range
    pub numbers_all: bool,
    /// Whether calls are counted by second
    pub counts_by_second: bool,
    /// Whether the same was replayed before, so that what is missing has been said
    pub is_repeat: bool,
}

impl Replayer {
    /// Where to begin reading. A report without conditions is in the last checkpoint.
    pub(in crate::commands) fn read_start(&self) -> ReadStart {
        let Range { since, until } = self.range;
        let is_conditional = until.is_some()
            || self.policy.is_some()
            || !self.filter.is_empty()
            || !self.containers.is_empty()
            || self.lines;
        match since {
            Some(since) => ReadStart::Time(since),
            None if is_conditional => ReadStart::Begin,
            None => ReadStart::LastCheckpoint,
        }
    }

    /// Replays recordings. `from_begin`: the same from their beginning, for the case that another version wrote what
    /// the last checkpoint has. Returns the severity of the worst finding.
    ///
    /// # Errors
    /// A file can't be read, or output failed.
    pub(in crate::commands) fn replay(
        &self,
        recordings: OrderedRecordings,
        mut from_begin: Option<OrderedRecordings>,
        to: &mut dyn ReplayOutput,
    ) -> Result<Option<Severity>, RunError> {
        let is_one_run = recordings.is_one_run();
        let mut reader = RecordingReader::start(recordings)?;
        let mut out = RangeOutput { to, shows: true };
        let mut run: Option<ReplayedRun> = None;
        let mut worst = None;
        let mut any_ended = false;
        let mut is_stopped = false;
        loop {
            match reader.next_within(WAIT)? {
                NextPart::End => break,
                NextPart::None => {}
                NextPart::Part(RecordingPart::Begin(head)) => {
                    if let Some(run) = &mut run {
                        worst = worst.max(run.engine.max_severity());
                        self.end(run, false, &mut out);
                        any_ended = true;
                    }
                    out.to.begin(&head)?;
                    run = Some(self.begin(*head, &mut out)?);
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
                    if let Some(run) = &mut run {
                        let fed = chunk.for_each(skipped, |input| run.feed(input, &mut out));
                        if let Err(damage) = fed {
                            log::warn!("a recorded input can't be used: {damage}");
                        }
                    }
                    reader.give_back(chunk);
                }
                NextPart::Part(RecordingPart::Missing(missing)) => {
                    if let Some(run) = run.as_ref().filter(|_| !self.is_repeat) {
                        log::warn!("{}", describe(&missing, run));
                    }
                }
            }
            let is_over = is_one_run && self.is_over(run.as_ref());
            is_stopped = !out.to.goes_on(reader.bytes_read())?;
            if is_stopped || is_over {
                break;
            }
        }
        if let Some(run) = &mut run {
            self.end(run, is_stopped, &mut out);
            worst = worst.max(run.engine.max_severity());
        }
        Ok(worst)
    }

    /// Whether no more of the range comes, of this run.
    fn is_over(&self, run: Option<&ReplayedRun>) -> bool {
        self.range.until.is_some() && run.is_some_and(|run| run.finished && run.now > run.times.1)
    }

    fn begin(&self, head: Head, out: &mut RangeOutput<'_>) -> Result<ReplayedRun, RunError> {
        let Head { mut begin, policy: recorded, counts } = head;
        if counts && self.lines {
            log::warn!("the recording has only the counts of calls (--counts): use report --from");
        }
        let policy = match self.policy.as_ref().or(recorded.as_ref()) {
            Some(policy) => policy::engine_of(policy)?,
            None => PolicyEngine::default(),
        };
        begin.lines = self.lines;
        begin.min_confidence = self.min_confidence.unwrap_or(begin.min_confidence);
        begin.with_ancestry |= self.with_ancestry;
        if !self.containers.is_empty() {
            begin.wanted = self.containers.clone();
        }
        let (offset_ns, now) = (begin.at.offset_ns, begin.at.boot_ns);
        let times = self.range.boot_times(offset_ns);
        let mut engine = Engine::new(begin, policy);
        let is_part = times != (0, u64::MAX);
        let mut filter = self.filter.clone();
        filter.times = (is_part && !self.numbers_all).then_some(times);
        engine.filter_calls(filter);
        if self.counts_by_second {
            engine.count_by_second();
        }
        engine.start(out);
        out.shows = now >= times.0;
        Ok(ReplayedRun {
            engine,
            times,
            offset_ns,
            now,
            is_fed: false,
            finished: false,
            is_late: false,
            numbers_all: self.numbers_all,
            is_part,
            in_range: is_part.then_some([0; op::COUNT + 1]),
            calls_before: [0; op::COUNT + 1],
            counted: Counted::default(),
        })
    }

    /// Ends a run whose end may be missing. `is_stopped`: no more of it is wanted.
    fn end(&self, run: &mut ReplayedRun, is_stopped: bool, out: &mut RangeOutput<'_>) {
        if run.is_late {
            run.finish(out);
        }
        if run.finished {
            self.counted(run, out);
            return;
        }
        if !self.is_repeat && !is_stopped {
            log::warn!(
                "the recording has no end: ipc-trace was killed, or is still running; it goes up to {}",
                run.time(run.now)
            );
        }
        if !self.lines {
            run.finish(out);
        }
        self.counted(run, out);
    }

    /// Passes the rest of the counts by second on.
    fn counted(&self, run: &mut ReplayedRun, out: &mut RangeOutput<'_>) {
        if self.counts_by_second {
            out.to.counted(run.engine.take_counts());
        }
    }
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
