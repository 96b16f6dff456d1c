//! The object that `report -o json` prints.

use std::{collections::BTreeMap, sync::Arc};

use schemars::JsonSchema;
use serde::Serialize;

use super::{
    Accounting, Backends, CommandOutcome, Container, OtherNs, PendingCall, Process, Sharing,
    finding::Finding,
    identity::ProcessIdentity,
    objects::ObjectReport,
    value::{CallError, OpName, OsBytes, Timestamp},
};

/// What happened, by namespace.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(title = "The output of ipc-trace report -o json")]
pub(crate) struct Report {
    /// The version of this object
    pub v: u8,
    /// The host's name
    pub host: String,
    /// Which boot of the host this is (`/proc/sys/kernel/random/boot_id`)
    pub boot_id: Option<String>,
    /// Which run of ipc-trace: another one each time
    pub run_id: Option<String>,
    /// The kernel's release
    pub kernel: String,
    /// How each operation was seen
    pub backend: Backends,
    /// When tracing started
    pub started: Timestamp,
    /// When it ended
    pub ended: Timestamp,
    /// What was seen, and what became of it
    pub accounting: Accounting,
    /// COMMAND and its end
    pub command: Option<CommandOutcome>,
    /// Calls that had not returned at the end
    pub pending: Vec<PendingCall>,
    /// The namespaces, the host's first, then by number
    pub namespaces: Vec<NamespaceReport>,
    /// Lost calls of which not even the namespace is known
    pub unattributed: BTreeMap<OpName, CallTotals>,
    /// Namespaces that had died and had to make room, taken together
    pub folded: Option<Folded>,
    /// Objects that were gone and had to make room
    pub objects_folded: u64,
    /// Cgroups, and names of containers, that had to make room: processes of theirs may be shown without
    pub containers_folded: u64,
    /// What was done, or tried, across namespaces: the severest first
    pub findings: Vec<Finding>,
}

/// One namespace.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct NamespaceReport {
    /// What `/proc/PID/ns/ipc` shows
    pub inum: u32,
    /// Which life of that number within this run
    pub r#gen: u32,
    /// The kernel's own number of it
    pub ns_id: Option<u64>,
    /// Whether it is the host's
    pub host: bool,
    /// How it came to be, if that was seen
    pub created: Option<Created>,
    /// Its end, if that was seen
    pub destroyed: Option<Destroyed>,
    /// Containers whose processes made calls in it, or are in it at the end, by name
    pub containers: Vec<Arc<Container>>,
    /// Further containers, which had to make room
    pub containers_folded: u64,
    /// How the containers share it; `null`: there is at most one, or in the host's none
    pub sharing: Option<Sharing>,
    /// Processes that made calls in it, or on its objects from elsewhere; most calls first
    pub processes: Vec<ProcessReport>,
    /// Further processes, which had ended and had to make room
    pub processes_folded: u64,
    /// What was called from it
    pub ops: BTreeMap<OpName, OpReport>,
    /// Calls from other namespaces on its objects
    pub foreign_calls: u64,
    /// Calls of which only counts are known, because the ring had no room: they are in `ops`
    pub dropped: u64,
    /// Objects that exist or existed: those that exist first, by kind, then by id or name
    pub objects: Vec<ObjectReport>,
}

/// How a namespace came to be.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct Created {
    /// When
    pub time: Timestamp,
    /// Who made it
    pub process: Option<Process<'static>>,
}

/// The end of a namespace: between two moments.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
pub(crate) struct Destroyed {
    /// It existed then
    pub after: Option<Timestamp>,
    /// It did not exist any more then
    pub before: Timestamp,
}

/// A process in a namespace.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct ProcessReport {
    /// In the initial pid namespace
    pub pid: u32,
    /// The parent
    pub ppid: Option<u32>,
    /// The name of the thread that called first
    pub comm: OsBytes<'static>,
    /// Path of the executable
    pub exe: Option<OsBytes<'static>>,
    /// Effective user
    pub uid: u32,
    /// Effective group
    pub gid: u32,
    /// When it started, on `CLOCK_BOOTTIME`, nanoseconds
    pub start_boot_ns: Option<u64>,
    /// Its other namespaces
    pub ns: OtherNs,
    /// Who it is beside that
    #[serde(flatten)]
    pub identity: ProcessIdentity,
    /// Its container; `null` on the host
    pub container: Option<Arc<Container>>,
    /// Its calls, as far as they were delivered
    pub calls: u64,
    /// Those that failed
    pub failed: u64,
    /// Those on objects of other namespaces
    pub foreign_calls: u64,
}

/// Counts of calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct CallTotals {
    /// All calls
    pub calls: u64,
    /// The sum of `errors`
    pub failed: u64,
    /// Failed calls, by error
    pub errors: BTreeMap<CallError, u64>,
    /// Those among `errors` that the kernel restarts, or ends with `EINTR`
    pub restarts: u64,
}

/// An operation in a namespace.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub(crate) struct OpReport {
    /// Counts, also of calls whose details were lost
    #[serde(flatten)]
    pub counts: CallTotals,
    /// Bytes of the messages sent or received
    pub bytes: Option<u64>,
    /// Nanoseconds in the kernel
    pub duration_ns: Option<Durations>,
}

/// Times, in nanoseconds; percentiles are within 1 %.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Durations {
    /// Half of the calls took no longer
    pub p50: u64,
    /// 90 % took no longer
    pub p90: u64,
    /// 99 % took no longer
    pub p99: u64,
    /// The longest
    pub max: u64,
}

/// Namespaces that are not listed one by one.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub(crate) struct Folded {
    /// How many
    pub namespaces: u64,
    /// What was called from them
    pub ops: BTreeMap<OpName, CallTotals>,
}
