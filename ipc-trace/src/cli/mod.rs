//! The command line.

mod candidates;
mod recordings;

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::{ArgValueCandidates, Shell};
use clap_verbosity_flag::{Verbosity, WarnLevel};
use colorchoice_clap::Color;
use ipc_trace_common::op::{ObjectKind, Op};

use crate::{
    event::finding::Severity,
    input::container::RuntimeKind,
    input::container_filter::ContainerFilter,
    input::pattern::Pattern,
    sinks::SinkKind,
    sources::kernel::options::CallDetail,
    sources::kernel::plan::BackendChoice,
    sources::runtimes::{self, Socket},
};

#[cfg(feature = "sqlite")]
pub(crate) use recordings::QueryArgs;
pub(crate) use recordings::{
    ExportArgs, ExportFormat, RangeArgs, RecordArgs, RecordedTime, RecordingCommand,
    RecordingOptions, ReplayArgs,
};

/// The version, and what this build was given besides the rest.
const LONG_VERSION: &str = match (cfg!(feature = "sqlite"), cfg!(feature = "parquet")) {
    (true, true) => concat!(env!("CARGO_PKG_VERSION"), " (features: sqlite, parquet)"),
    (true, false) => concat!(env!("CARGO_PKG_VERSION"), " (features: sqlite)"),
    (false, true) => concat!(env!("CARGO_PKG_VERSION"), " (features: parquet)"),
    (false, false) => concat!(env!("CARGO_PKG_VERSION"), " (features: none)"),
};

/// Traces System V and POSIX-queue IPC on this host, by IPC namespace.
///
/// ipc-trace shows every System V IPC and POSIX message-queue call on a Linux host, with the IPC namespace of the
/// caller and of the object, in whichever way the call enters the kernel. It reports processes that reach, or try to
/// reach, objects of another namespace, with evidence. Tracing needs root, or CAP_BPF and CAP_PERFMON, and Linux 5.10
/// or newer.
#[derive(Debug, Parser)]
#[command(name = "ipc-trace", version, long_version = LONG_VERSION, about, max_term_width = 100)]
pub(crate) struct Cli {
    /// What to do
    #[command(subcommand)]
    pub command: CliCommand,
    /// When to use colours
    #[command(flatten)]
    pub color: Color,
    /// Which log messages go to standard error
    #[command(flatten)]
    pub verbosity: Verbosity<WarnLevel>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum CliCommand {
    /// Show every call as it returns
    Live(TraceArgs),
    /// Count calls, and show them by namespace at the end
    Report(ReportArgs),
    /// List all IPC namespaces, with their processes, objects and limits
    Ls(LsArgs),
    /// Check whether tracing works on this host, how, at what cost, and what is missing
    Doctor(DoctorArgs),
    /// Record every call to a file, for replay and for report --from
    Record(RecordArgs),
    /// Show the calls of a recording, as live would have
    Replay(ReplayArgs),
    /// Ask recordings by SQL
    #[cfg(feature = "sqlite")]
    Query(QueryArgs),
    /// Convert recordings for other programs: SQL engines, Perfetto
    Export(ExportArgs),
    /// Say what is in a recording, or save what is whole of a damaged one
    Recording {
        /// What to do with it
        #[command(subcommand)]
        what: RecordingCommand,
    },
    /// Check a policy, which allows or hides findings
    Policy {
        /// What to do with it
        #[command(subcommand)]
        what: PolicyCommand,
    },
    /// Print the script that completes commands, options and values in a shell
    #[command(hide = true)]
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Write the man pages into a folder
    #[command(hide = true)]
    Man {
        /// The folder; it is made if need be
        folder: PathBuf,
    },
    /// Print the JSON schema of a command's -o json output
    Schema {
        /// Of what
        #[arg(value_enum)]
        of: SchemaOf,
    },
}

/// What can be done with a policy.
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// List the rules of a file; exit with status 2 if there is a mistake
    Check {
        /// The policy
        file: PathBuf,
    },
}

/// What has a schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SchemaOf {
    /// A line of `live`
    Event,
    /// The object that `report` prints
    Report,
    /// The object that `ls` prints
    Ls,
    /// The object that `doctor` prints
    Doctor,
}

/// How output looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
}

/// Options of `live` and `report`.
#[derive(Debug, Args)]
pub(crate) struct TraceArgs {
    /// Output format
    #[arg(short, long, value_enum, default_value = "text")]
    pub output: SinkKind,
    /// Also record to this new file, for replay and for report --from
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub write: Option<PathBuf>,
    /// Stop after this time, such as 500ms, 90 (seconds) or 1h30m
    #[arg(long, value_name = "D", value_parser = duration)]
    pub duration: Option<Duration>,
    /// Include process arguments (may contain secrets)
    #[arg(long)]
    pub with_args: bool,
    /// Include the ancestors of the process in every line about a call
    #[arg(long)]
    pub with_ancestry: bool,
    /// Only calls of COMMAND and its descendants
    #[arg(long, requires = "command")]
    pub only_command: bool,
    /// Which calls to show or count
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

/// Options of `report`.
#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// Count calls without timing them, which is cheapest
    #[arg(long)]
    pub counts: bool,
    /// With --counts: time them nevertheless; so does --min-duration
    #[arg(long, requires = "counts")]
    pub durations: bool,
    /// Report on these recordings instead of this host; `-` is standard input
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["counts", "write", "duration", "command"],
          value_hint = ValueHint::FilePath)]
    pub from: Vec<PathBuf>,
    /// As for `live`
    #[command(flatten)]
    pub trace: TraceArgs,
    /// Of the recordings, only this time
    // The last one: options after it would be shown under its heading.
    #[command(flatten)]
    pub range: RangeArgs,
}

impl ReportArgs {
    /// What to report of calls.
    #[must_use]
    pub(crate) const fn detail(&self) -> CallDetail {
        if self.counts && !self.durations && self.trace.filters.min_duration.is_none() {
            CallDetail::Counts
        } else if self.trace.write.is_some() && !self.counts {
            // A recording has each call with its arguments.
            CallDetail::Calls
        } else {
            CallDetail::Durations
        }
    }
}

/// What to do with findings. Filters do not apply to them.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Findings")]
pub(crate) struct FindingArgs {
    /// Allow, hide or reweigh findings by the rules of this policy
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// Hide findings below this confidence (0–100) and ignore them for --fail-on; JSON always includes all
    /// [default: 25, or as recorded]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub min_confidence: Option<u8>,
    /// Exit with status 3 if there was a finding of this severity or higher that no policy allows or mutes
    #[arg(long, value_name = "SEVERITY", value_enum)]
    pub fail_on: Option<Severity>,
}

impl FindingArgs {
    /// The confidence below which findings are hidden.
    #[must_use]
    pub(crate) fn min_confidence(&self) -> u8 {
        self.min_confidence.unwrap_or(25)
    }
}

/// Options of `ls`.
#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    /// Show only this namespace, in full: an inode number, `self`, `host`, `pid:PID`
    #[arg(value_name = "INUM", value_parser = namespace, add = ArgValueCandidates::new(candidates::namespaces))]
    pub namespace: Option<NamespaceName>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: OutputFormat,
    /// Read the kernel's type information (BTF) from this file
    #[arg(long, value_name = "FILE")]
    pub btf: Option<PathBuf>,
    /// Whom to ask for containers' names
    #[command(flatten)]
    pub runtimes: RuntimeArgs,
}

/// Whom to ask for containers' names.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct RuntimeArgs {
    /// Ask this container runtime for names at this socket instead of the default ones (docker, podman,
    /// containerd, cri-o, or cri for another one that serves Kubernetes); `none` asks nobody
    #[arg(long, value_name = "RUNTIME=PATH", value_parser = socket)]
    pub runtime_socket: Vec<SocketName>,
}

/// A runtime's socket, as the user names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SocketName {
    /// There is none
    None,
    /// This one
    Some(Socket),
}

impl RuntimeArgs {
    /// The sockets to ask at.
    #[must_use]
    pub(crate) fn sockets(&self) -> Vec<Socket> {
        if self.runtime_socket.is_empty() {
            return runtimes::default_sockets();
        }
        let some = |name: &SocketName| match name {
            SocketName::None => None,
            SocketName::Some(socket) => Some(socket.clone()),
        };
        self.runtime_socket.iter().filter_map(some).collect()
    }
}

/// Options of `doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: OutputFormat,
    /// Also show where each kernel field was found (text only)
    #[arg(short, long)]
    pub all: bool,
    /// How to trace
    #[command(flatten)]
    pub how: HowArgs,
}

/// How to trace.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Tracing")]
pub(crate) struct HowArgs {
    /// How to see calls; `auto` takes the cheapest way that misses none on this host
    #[arg(long, value_enum, default_value = "auto")]
    pub backend: BackendChoice,
    /// Size of the ring buffer in bytes; rounded up to a power of two, at least a page
    #[arg(long, value_name = "N", default_value_t = 8 << 20,
          value_parser = clap::value_parser!(u32).range(1..=1 << 30))]
    pub ring_bytes: u32,
    /// Read the kernel's type information (BTF) from this file
    #[arg(long, value_name = "FILE")]
    pub btf: Option<PathBuf>,
    /// Whom to ask for containers' names
    #[command(flatten)]
    pub runtimes: RuntimeArgs,
}

/// Which calls to show or count. Options restrict one another; several values of one option are
/// alternatives.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Filters (any value of an option must match, and all options)")]
pub(crate) struct Filters {
    /// Calls from this IPC namespace, or on its objects: an inode number, `self`, `host`, `pid:PID`
    #[arg(long, value_name = "NS", value_delimiter = ',', value_parser = namespace, add = ArgValueCandidates::new(candidates::namespaces))]
    pub ipc_ns: Vec<NamespaceName>,
    /// Calls of these processes
    #[arg(long, value_name = "PID", value_delimiter = ',', add = ArgValueCandidates::new(candidates::pids))]
    pub pid: Vec<u32>,
    /// Calls of threads with these names
    #[arg(long, value_name = "NAME", value_parser = comm)]
    pub comm: Vec<Comm>,
    /// Calls of these effective users: names or numbers
    #[arg(long, value_name = "USER", value_delimiter = ',', value_parser = user)]
    pub uid: Vec<u32>,
    /// Calls from containers with this name, id, or beginning of an id (12 digits or more); * and ? stand for
    /// any characters
    #[arg(long, value_name = "NAME|ID", value_parser = pattern, add = ArgValueCandidates::new(candidates::containers))]
    pub container: Vec<Pattern>,
    /// Calls from containers of this image: * stands for any characters but a slash, ** for any components
    #[arg(long, value_name = "IMAGE", value_parser = pattern, add = ArgValueCandidates::new(candidates::images))]
    pub image: Vec<Pattern>,
    /// Calls from containers of this pod: POD, or NAMESPACE/POD
    #[arg(long, value_name = "POD", value_parser = pattern, add = ArgValueCandidates::new(candidates::pods))]
    pub pod: Vec<Pattern>,
    /// These operations, or all of a kind of object: shm, sem, msg, mq
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = operations, add = ArgValueCandidates::new(candidates::operations))]
    pub op: Vec<Operations>,
    /// Calls that failed
    #[arg(long)]
    pub failed: bool,
    /// Calls that took at least this long, such as 5ms; hides calls without a duration
    #[arg(long, value_name = "D", value_parser = duration)]
    pub min_duration: Option<Duration>,
}

impl Filters {
    /// The containers whose calls are to be shown or counted.
    #[must_use]
    pub(crate) fn containers(&self) -> ContainerFilter {
        ContainerFilter {
            containers: self.container.clone(),
            images: self.image.clone(),
            pods: self.pod.clone(),
        }
    }
}

/// A namespace, as the user names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NamespaceName {
    /// By its inode number
    Inum(u32),
    /// The one that this process is in
    Own,
    /// The initial one
    Host,
    /// The one that a process is in
    OfPid(u32),
}

/// A set of operations, as bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Operations(pub u32);

/// A thread's name, as the kernel holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Comm(pub [u8; 16]);

/// A duration as humantime writes it, such as `250ms` or `1h 30m`; a number alone is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let parsed = match text.trim().parse() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())?,
        Err(_) => humantime::parse_duration(text)
            .map_err(|error| format!("{error}; try 500ms, 90 (seconds) or 1h30m"))?,
    };
    // 2^63 ns are 292 years; beyond, a sum with the time of day could overflow.
    if parsed > Duration::from_nanos(i64::MAX as u64) {
        return Err("longer than 292 years".to_owned());
    }
    Ok(parsed)
}

fn namespace(text: &str) -> Result<NamespaceName, String> {
    if let Some(pid) = text.strip_prefix("pid:") {
        let pid = pid.parse().map_err(|_| format!("no process number: {pid:?}"))?;
        return Ok(NamespaceName::OfPid(pid));
    }
    match text {
        "self" => Ok(NamespaceName::Own),
        "host" => Ok(NamespaceName::Host),
        number => number.parse().map(NamespaceName::Inum).map_err(|_| {
            "name a namespace by its inode number (as lsns -t ipc shows it), or as self, host or pid:PID"
                .to_owned()
        }),
    }
}

fn socket(text: &str) -> Result<SocketName, String> {
    if text == "none" {
        return Ok(SocketName::None);
    }
    let (runtime, path) = text.split_once('=').unwrap_or((text, ""));
    const ASKED: [RuntimeKind; 5] = [
        RuntimeKind::Docker,
        RuntimeKind::Podman,
        RuntimeKind::Containerd,
        RuntimeKind::Crio,
        RuntimeKind::Cri,
    ];
    let runtime = ASKED.into_iter().find(|one| one.name() == runtime);
    match runtime {
        Some(runtime) if path.starts_with('/') => {
            Ok(SocketName::Some(Socket { runtime, path: path.into() }))
        }
        Some(_) => Err("name the socket by its whole path".to_owned()),
        None => Err(
            "name a socket as RUNTIME=PATH, with docker, podman, containerd, cri-o or cri; or none"
                .to_owned(),
        ),
    }
}

fn pattern(text: &str) -> Result<Pattern, String> {
    Pattern::new(text)
}

fn comm(text: &str) -> Result<Comm, String> {
    // TASK_COMM_LEN with its NUL (include/linux/sched.h).
    let mut comm = [0; 16];
    match comm.get_mut(..text.len().min(16)) {
        Some(room) if !text.is_empty() && text.len() < 16 => room.copy_from_slice(text.as_bytes()),
        _ => return Err("the kernel keeps the first 15 bytes of a thread's name".to_owned()),
    }
    Ok(Comm(comm))
}

/// The number of a user, by name or number.
pub(crate) fn user(text: &str) -> Result<u32, String> {
    if let Ok(uid) = text.parse() {
        return Ok(uid);
    }
    match nix::unistd::User::from_name(text) {
        Ok(Some(user)) => Ok(user.uid.as_raw()),
        Ok(None) => Err("no such user".to_owned()),
        Err(error) => Err(format!("can't look the user up: {error}")),
    }
}

fn operations(text: &str) -> Result<Operations, String> {
    if let Some(op) = Op::ALL.into_iter().find(|op| op.name() == text) {
        return Ok(Operations(op.bit()));
    }
    match ObjectKind::ALL.into_iter().find(|object_kind| object_kind.name() == text) {
        Some(object_kind) => {
            let members = Op::ALL.into_iter().filter(|op| op.object_kind() == object_kind);
            Ok(Operations(members.fold(0, |bits, op| bits | op.bit())))
        }
        None => {
            let names: Vec<_> = Op::ALL.iter().map(|op| op.name()).collect();
            Err(format!("no such operation; there are shm, sem, msg, mq, {}", names.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2"), Ok(Duration::from_secs(2)));
        assert_eq!(duration("1h 30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("7us"), Ok(Duration::from_micros(7)));
        for bad in ["", "ms", "5 parsecs", "-1", "999years", "1e99", "99999999999h", "..", "nan"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn operations_are_named_one_by_one_or_by_family() {
        assert_eq!(operations("semop"), Ok(Operations(Op::Semop.bit())));
        assert_eq!(operations("sem").unwrap().0.count_ones(), 3);
        assert_eq!(operations("mq").unwrap().0.count_ones(), 6);
        assert!(operations("nonsense").unwrap_err().contains("mq_getsetattr"));
    }

    #[test]
    fn namespaces_have_names() {
        assert_eq!(namespace("4026531839"), Ok(NamespaceName::Inum(4_026_531_839)));
        assert_eq!(namespace("pid:7"), Ok(NamespaceName::OfPid(7)));
        for bad in ["", "pid:", "pid:x", "-1", "hostile"] {
            assert!(namespace(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn thread_names_are_what_the_kernel_can_hold() {
        assert_eq!(comm("worker").unwrap().0, *b"worker\0\0\0\0\0\0\0\0\0\0");
        assert!(comm("sixteen-bytes-xx").is_err());
        assert!(comm("").is_err());
    }
}
