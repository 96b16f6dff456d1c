//! Options of the commands that record, and that read recordings.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use bytesize::ByteSize;
use clap::{Args, Subcommand, ValueEnum, ValueHint};

use super::{Filters, FindingArgs, HowArgs, OutputFormat, TraceArgs, duration};
use crate::{
    event::finding::Severity,
    recording::{FlightLimits, Keep, RecordingTarget, Rotation},
    sinks::SinkKind,
    sources::kernel::options::CallDetail,
};

/// Options of `record`.
#[derive(Clone, Debug, Args)]
pub(crate) struct RecordArgs {
    /// The new file; `-` is standard output
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub write: PathBuf,
    /// Record only how often calls were made, which is cheapest
    #[arg(long)]
    pub counts: bool,
    /// Stop after this time, such as 500ms, 90 (seconds) or 1h30m
    #[arg(long, value_name = "D", value_parser = duration)]
    pub duration: Option<Duration>,
    /// Include process arguments (may contain secrets)
    #[arg(long)]
    pub with_args: bool,
    /// Only calls of COMMAND and its descendants
    #[arg(long, requires = "command")]
    pub only_command: bool,
    /// Which calls to record
    #[command(flatten)]
    pub filters: Filters,
    /// What to do with findings
    #[command(flatten)]
    pub findings: FindingArgs,
    /// How the recording goes on
    #[command(flatten)]
    pub recording: RecordingOptions,
    /// How to trace
    #[command(flatten)]
    pub how: HowArgs,
    /// Trace while this command runs, and stop when it ends
    #[arg(last = true, value_name = "COMMAND", value_hint = ValueHint::CommandWithArguments)]
    pub command: Vec<OsString>,
}

impl RecordArgs {
    /// What to record of calls.
    #[must_use]
    pub(crate) const fn detail(&self) -> CallDetail {
        match (self.counts, self.filters.min_duration) {
            (true, None) => CallDetail::Counts,
            (true, Some(_)) => CallDetail::Durations,
            (false, _) => CallDetail::Calls,
        }
    }

    /// The options as those of `live`.
    #[must_use]
    pub(crate) fn trace(&self) -> TraceArgs {
        let Self {
            write,
            duration,
            with_args,
            only_command,
            filters,
            findings,
            recording,
            how,
            command,
            ..
        } = self.clone();
        TraceArgs {
            // COMMAND's output stays out of a recording that goes to standard output.
            output: if write.as_os_str() == "-" { SinkKind::Json } else { SinkKind::Text },
            write: Some(write),
            duration,
            with_args,
            with_ancestry: false,
            only_command,
            filters,
            findings,
            recording,
            how,
            command,
        }
    }
}

/// How a recording goes on: in new files, or in memory.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Recording")]
pub(crate) struct RecordingOptions {
    /// Go on in a new file before this size is reached, such as 256MiB; the files are FILE.TIME (in UTC)
    #[arg(long, value_name = "SIZE", value_parser = size, requires = "write", group = "rotation")]
    pub rotate_size: Option<u64>,
    /// Go on in a new file after this time; the files are FILE.TIME (in UTC)
    #[arg(long, value_name = "D", value_parser = interval, requires = "write", group = "rotation")]
    pub rotate_every: Option<Duration>,
    /// Of the files FILE.TIME (in UTC), keep only the newest: so many, or of so many bytes (10GiB)
    #[arg(long, value_name = "N|SIZE", value_parser = keep, requires = "rotation")]
    pub keep: Option<Keep>,
    /// Record into memory, keep this last time, and write it to FILE.TIME (in UTC) on SIGUSR2, for --on, and at the end
    #[arg(long, value_name = "D", value_parser = interval, requires = "write", conflicts_with = "rotation")]
    pub flight: Option<Duration>,
    /// With --flight: keep at most so many bytes
    #[arg(long, value_name = "SIZE", value_parser = size, requires = "flight", default_value = "256MiB")]
    pub flight_bytes: u64,
    /// With --flight: also write a file at a new finding of this severity or higher, at most one a minute
    #[arg(long, value_name = "SEVERITY", value_enum, requires = "flight")]
    pub on: Option<Severity>,
}

impl RecordingOptions {
    /// Where to record, if FILE is not standard output.
    #[must_use]
    pub(crate) fn target(&self, file: &Path) -> RecordingTarget {
        let Self { rotate_size: size, rotate_every: every, keep, flight, flight_bytes, .. } = *self;
        match flight {
            Some(length) => RecordingTarget::Flight(
                file.to_owned(),
                FlightLimits { length, bytes: flight_bytes },
            ),
            None if size.is_some() || every.is_some() => {
                RecordingTarget::Rotating(file.to_owned(), Rotation { size, every, keep })
            }
            None => RecordingTarget::File(file.to_owned()),
        }
    }

    /// Whether there are to be several files.
    #[must_use]
    pub(crate) const fn is_given(&self) -> bool {
        self.rotate_size.is_some() || self.rotate_every.is_some() || self.flight.is_some()
    }
}

/// The smallest size: with less, the metadata alone would fill it.
const MIN_SIZE: u64 = 1 << 16;

fn size(text: &str) -> Result<u64, String> {
    match text.parse::<ByteSize>() {
        Ok(ByteSize(bytes)) if bytes >= MIN_SIZE => Ok(bytes),
        Ok(_) => Err("less than 64KiB".to_owned()),
        Err(_) => Err("try 256MiB or 10GB".to_owned()),
    }
}

/// A duration of at least a second.
fn interval(text: &str) -> Result<Duration, String> {
    duration(text).and_then(|interval| match interval {
        short if short < Duration::from_secs(1) => Err("shorter than a second".to_owned()),
        interval => Ok(interval),
    })
}

fn keep(text: &str) -> Result<Keep, String> {
    match text.parse() {
        Ok(0) => Err("the file that is written is kept: at least 1".to_owned()),
        Ok(files) => Ok(Keep::Files(files)),
        Err(_) => size(text).map(Keep::Bytes),
    }
}

/// A part of a recording.
#[derive(Clone, Debug, Default, Args)]
#[command(
    next_help_heading = "Times of a recording (RFC 3339; a time of day, on its last day; -10m before its end)"
)]
pub(crate) struct RangeArgs {
    /// Begin here
    #[arg(long, value_name = "T", allow_hyphen_values = true, value_parser = time)]
    pub since: Option<RecordedTime>,
    /// End here
    #[arg(long, value_name = "T", allow_hyphen_values = true, value_parser = time)]
    pub until: Option<RecordedTime>,
}

impl RangeArgs {
    /// Whether it is not everything.
    #[must_use]
    pub(crate) const fn is_given(&self) -> bool {
        self.since.is_some() || self.until.is_some()
    }
}

/// A time, as the user names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecordedTime {
    /// On the time of day, nanoseconds since 1970
    At(i128),
    /// A time of day, local: seconds since midnight
    OfDay(u32),
    /// Before the recording's end
    BeforeEnd(Duration),
}

/// Options of `replay`.
#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// The recordings; `-` is standard input
    #[arg(required = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub files: Vec<PathBuf>,
    /// Output format
    #[arg(short, long, value_enum, default_value = "text")]
    pub output: SinkKind,
    /// Include the ancestors of the process in every line about a call
    #[arg(long)]
    pub with_ancestry: bool,
    /// Wait for more at the end of a recording that is still written
    #[arg(short, long)]
    pub follow: bool,
    /// Which part of the recordings
    #[command(flatten)]
    pub range: RangeArgs,
    /// Which calls to show
    #[command(flatten)]
    pub filters: Filters,
    /// What to do with findings
    #[command(flatten)]
    pub findings: FindingArgs,
}

/// Options of `export`.
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// The recordings; `-` is standard input, for ndjson and trace
    #[arg(required = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub files: Vec<PathBuf>,
    /// The format
    #[arg(long, value_name = "FORMAT", value_enum)]
    pub to: ExportFormat,
    /// The new file, or folder of files for parquet; `-` is standard output, for ndjson and trace
    #[arg(short, long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub write: PathBuf,
    /// Which part of the recordings
    #[command(flatten)]
    pub range: RangeArgs,
    /// Which calls to export
    #[command(flatten)]
    pub filters: Filters,
    /// What to do with findings
    #[command(flatten)]
    pub findings: FindingArgs,
}

/// What recordings can become.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    /// Tables in Parquet files, in folders by table, host and day
    #[cfg(feature = "parquet")]
    Parquet,
    /// Tables in a SQLite database
    #[cfg(feature = "sqlite")]
    Sqlite,
    /// The lines of replay -o json
    Ndjson,
    /// A timeline for ui.perfetto.dev and chrome://tracing
    Trace,
}

/// What can be done with a recording.
#[derive(Debug, Subcommand)]
pub(crate) enum RecordingCommand {
    /// Show the host, times, inputs, losses and damage of recordings
    Info {
        /// The recordings
        #[arg(required = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
        files: Vec<PathBuf>,
        /// Output format
        #[arg(short, long, value_enum, default_value_t)]
        output: OutputFormat,
    },
    /// Copy what is whole of a damaged recording into a new file
    Repair {
        /// The recording
        #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
        file: PathBuf,
        /// The new file
        #[arg(short, long = "write", value_name = "OUT", value_hint = ValueHint::FilePath)]
        write: PathBuf,
    },
}

/// Options of `query`.
#[cfg(feature = "sqlite")]
#[derive(Debug, Args)]
#[command(override_usage = "ipc-trace query [OPTIONS] SQL FILE...\n       \
    ipc-trace query [OPTIONS] --named NAME [--param K=V]... FILE...\n       ipc-trace query --list")]
pub(crate) struct QueryArgs {
    /// The statement, a SELECT; and the recordings
    #[arg(value_name = "SQL|FILE", required_unless_present = "list")]
    pub words: Vec<OsString>,
    /// Ask a question that comes with the program
    #[arg(long, value_name = "NAME", conflicts_with = "list")]
    pub named: Option<String>,
    /// The value of a parameter, which the statement calls :K
    #[arg(long = "param", value_name = "K=V", value_parser = param)]
    pub params: Vec<(String, String)>,
    /// List the questions, with their parameters, and the tables with their columns
    #[arg(long)]
    pub list: bool,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: crate::query::print::RowFormat,
}

#[cfg(feature = "sqlite")]
fn param(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("try NAME=VALUE".to_owned()),
    }
}

/// A time in a recording.
fn time(text: &str) -> Result<RecordedTime, String> {
    if let Some(before) = text.strip_prefix('-') {
        return duration(before).map(RecordedTime::BeforeEnd);
    }
    let of_day = |text: &str| {
        let mut parts = text.split(':').map(str::parse::<u32>);
        let mut part = |limit| parts.next().and_then(Result::ok).filter(|part| *part < limit);
        let (hours, minutes) = (part(24)?, part(60)?);
        let seconds = part(60).unwrap_or(0);
        parts.next().is_none().then_some((hours * 60 + minutes) * 60 + seconds)
    };
    if let Some(seconds) = of_day(text) {
        return Ok(RecordedTime::OfDay(seconds));
    }
    let at = humantime::parse_rfc3339_weak(text).map_err(|error| {
        format!(
            "{error}; try 2026-01-31T23:59:00Z, 23:59:00, or -10m for ten minutes before the end"
        )
    })?;
    let since = at.duration_since(std::time::UNIX_EPOCH).map_err(|error| error.to_string())?;
    Ok(RecordedTime::At(i128::try_from(since.as_nanos()).unwrap_or(i128::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("256MiB"), Ok(256 << 20));
        assert_eq!(size("1GB"), Ok(1_000_000_000));
        assert_eq!(keep("20"), Ok(Keep::Files(20)));
        assert_eq!(keep("1.5GiB"), Ok(Keep::Bytes(3 << 29)));
        for bad in ["", "x", "-1MiB", "5", "MiB"] {
            assert!(size(bad).is_err(), "{bad}");
        }
        assert!(keep("0").is_err() && interval("999ms").is_err());
    }

    #[test]
    fn times_are_whole_or_of_the_last_day_or_before_the_end() {
        assert_eq!(time("-10m"), Ok(RecordedTime::BeforeEnd(Duration::from_secs(600))));
        assert_eq!(time("23:59:01"), Ok(RecordedTime::OfDay(86_341)));
        assert_eq!(time("07:05"), Ok(RecordedTime::OfDay(25_500)));
        let at = RecordedTime::At(1_769_903_940_000_000_000);
        assert_eq!(time("2026-01-31T23:59:00Z"), Ok(at));
        assert_eq!(time("2026-01-31 23:59:00"), Ok(at));
        for bad in ["", "noon", "24:00", "7", "1:60", "1:2:3:4", "-x", "1960-01-01T00:00:00Z"] {
            assert!(time(bad).is_err(), "{bad}");
        }
    }
}
