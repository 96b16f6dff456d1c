//! `replay`, and `report --from`. The inputs are untrusted: before it decodes the first one, this process gives up the
//! right to open files and sockets.

mod replayer;
mod sink_output;

use std::{
    io::{self, IsTerminal as _},
    path::PathBuf,
    process::ExitCode,
};

use indicatif::{ProgressBar, ProgressStyle};
use ipc_trace_common::state::HOST_INUM;

use super::{
    error::{RunError, system},
    run::exit_status,
    seal,
};
use crate::{
    cli::{Filters, FindingArgs, NamespaceName, RangeArgs, RecordedTime, ReplayArgs, ReportArgs},
    input::call_filter::CallFilter,
    recording::reader::{self, OpenFile, OrderedRecordings, ReadStart},
    signals::Signals,
    sinks::{SinkKind, output::OutputTarget},
};

pub(super) use replayer::{Range, ReplayOutput, Replayer};
pub(super) use sink_output::SinkOutput;

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

impl Replay<'_> {
    fn run(&self) -> Result<ExitCode, RunError> {
        let signals = Signals::handle().map_err(system("can't handle signals"))?;
        let policy = self.findings.policy.as_deref().map(super::policy::read);
        let policy = policy.transpose()?.map(|(_, recorded)| recorded);
        let filter = call_filter(self.filters)?;
        let files = reader::open_files(self.files)?;
        let replayer = Replayer {
            range: range(self.range, &files)?,
            filter,
            containers: self.filters.containers(),
            policy,
            min_confidence: self.findings.min_confidence,
            lines: self.lines,
            with_ancestry: self.with_ancestry,
            ..Replayer::default()
        };
        let from = replayer.read_start();
        let in_order = |from| OrderedRecordings::new(&files, self.follow, from);
        let recordings = in_order(from)?;
        // Another version may not know what the last state holds.
        let from_begin =
            (from == ReadStart::LastCheckpoint).then(|| in_order(ReadStart::Begin)).transpose()?;
        seal::seal().map_err(system("can't give up the right to open files and sockets"))?;
        let mut out = SinkOutput::new(self.output, OutputTarget::Stdout, signals);
        out.min_confidence = self.findings.min_confidence;
        out.many_hosts = recordings.has_many_hosts();
        out.bar = self.progress_bar(recordings.len());
        let worst = replayer.replay(recordings, from_begin, &mut out)?;
        out.finish()?;
        let fails = self.findings.fail_on.is_some_and(|least| worst >= Some(least));
        Ok(ExitCode::from(exit_status(fails, None)))
    }

    /// A bar on a terminal, unless lines go there too. `bytes`: of the recordings, if known.
    fn progress_bar(&self, bytes: Option<u64>) -> Option<ProgressBar> {
        let takes_terminal = self.lines && io::stdout().is_terminal();
        progress_bar(bytes.filter(|_| !self.follow && !takes_terminal))
    }
}

/// A bar on a terminal. `bytes`: of the recordings; `None`: there is no bar.
pub(super) fn progress_bar(bytes: Option<u64>) -> Option<ProgressBar> {
    let bar = ProgressBar::new(bytes.filter(|_| io::stderr().is_terminal())?);
    let style = ProgressStyle::with_template("{bar:30} {bytes} of {total_bytes}, {eta} left");
    Some(bar.with_style(style.ok()?))
}

/// The range that the options name.
///
/// # Errors
/// The recording's end is needed and unknown, or it can't be read.
pub(super) fn range(args: &RangeArgs, files: &[OpenFile]) -> Result<Range, RunError> {
    let RangeArgs { since, until } = args;
    let named = [since, until].into_iter().flatten();
    let needs_end = |time: &&RecordedTime| !matches!(time, RecordedTime::At(_));
    let end = match named.clone().any(|time| needs_end(&time)) {
        true => reader::end(files)?,
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
///
/// # Errors
/// A namespace is named by what only the running host knows.
pub(super) fn call_filter(filters: &Filters) -> Result<CallFilter, RunError> {
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
