//! The object that `report -o json` prints.

use std::{collections::BTreeMap, sync::Arc};

use minicbor::{Decode, Encode};
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    Accounting, Backends, CommandOutcome, Container, NsInodes, PendingCall, Process, Sharing,
    finding::Finding,
    identity::ProcessIdentity,
    objects::ObjectReport,
    value::{CallError, OpName, OsBytes, Timestamp},
};

/// The report of a run, by namespace.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(title = "The output of ipc-trace report -o json")]
pub(crate) struct Report {
    /// The version of this object
    pub v: u8,
    /// The host's name
    pub host: String,
    /// The host's boot id (`/proc/sys/kernel/random/boot_id`); `null`: unknown
    pub boot_id: Option<String>,
    /// The id of this run of ipc-trace, different each time; `null`: unknown
    pub run_id: Option<String>,
    /// The kernel's release
    pub kernel: String,
    /// The backend of each operation
    pub backend: Backends,
    /// When tracing started
    pub started: Timestamp,
    /// When it ended
    pub ended: Timestamp,
    /// What was seen, and what became of it
    pub accounting: Accounting,
    /// COMMAND and its exit status; `null`: there was none
    pub command: Option<CommandOutcome>,
    /// Calls that had not returned at the end
    pub pending: Vec<PendingCall>,
    /// The namespaces, the host's first, then by number
    pub namespaces: Vec<NamespaceReport>,
    /// Lost calls whose namespace is unknown
    pub unattributed: BTreeMap<OpName, CallTotals>,
    /// Dead namespaces that were evicted, summed up; `null`: there are none
    pub folded: Option<EvictedCounts>,
    /// Number of destroyed objects that were evicted
    pub objects_folded: u64,
    /// Number of cgroups and container names that were evicted: their processes may lack the container
    pub containers_folded: u64,
    /// The findings, the highest severity first
    pub findings: Vec<Finding>,
}

/// One namespace.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct NamespaceReport {
    /// What `/proc/PID/ns/ipc` shows
    pub inum: u32,
    /// The generation of that number within this run
    pub r#gen: u32,
    /// The kernel's own number of it; `null` before Linux 6.18
    pub ns_id: Option<u64>,
    /// Whether it is the host's
    pub host: bool,
    /// Its creation; `null`: not observed
    pub created: Option<Created>,
    /// Its end; `null`: it exists, or not observed
    pub destroyed: Option<Destroyed>,
    /// Containers whose processes made calls in it, or are in it at the end, by name
    pub containers: Vec<Arc<Container>>,
    /// Number of further containers, which were evicted
    pub containers_folded: u64,
    /// How the containers share it; `null`: it has at most one container, or for the host's namespace none
    pub sharing: Option<Sharing>,
    /// Processes that made calls in it, or on its objects from other namespaces; most calls first
    pub processes: Vec<ProcessReport>,
    /// Number of further processes, which were inactive and evicted
    pub processes_folded: u64,
    /// Operations called from it
    pub ops: BTreeMap<OpName, OpReport>,
    /// Number of calls from other namespaces on its objects
    pub foreign_calls: u64,
    /// Number of calls of which only counts are known, because the ring had no room: they are in `ops`
    pub dropped: u64,
    /// Objects that exist or existed: those that exist first, by kind, then by id or name
    pub objects: Vec<ObjectReport>,
}

/// The creation of a namespace.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct Created {
    /// When
    pub time: Timestamp,
    /// The process that created it; `null`: unknown
    pub process: Option<Process<'static>>,
}

/// The end of a namespace, between two times.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
pub(crate) struct Destroyed {
    /// When it last existed; `null`: unknown
    pub after: Option<Timestamp>,
    /// When it no longer existed
    pub before: Timestamp,
}

/// A process in a namespace.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct ProcessReport {
    /// Its number in the initial pid namespace
    pub pid: u32,
    /// The parent; `null`: unknown
    pub ppid: Option<u32>,
    /// The name of the thread that made the first call
    pub comm: OsBytes<'static>,
    /// Path of the executable; `null`: unknown
    pub exe: Option<OsBytes<'static>>,
    /// Effective user
    pub uid: u32,
    /// Effective group
    pub gid: u32,
    /// When it started, on `CLOCK_BOOTTIME`, nanoseconds; `null`: unknown
    pub start_boot_ns: Option<u64>,
    /// Its other namespaces
    pub ns: NsInodes,
    /// Its further identity
    #[serde(flatten)]
    pub identity: ProcessIdentity,
    /// Its container; `null` on the host
    pub container: Option<Arc<Container>>,
    /// Number of its delivered calls
    pub calls: u64,
    /// Number of those that failed
    pub failed: u64,
    /// Number of those on objects of other namespaces
    pub foreign_calls: u64,
}

/// Counts of calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema, Encode, Decode)]
pub(crate) struct CallTotals {
    /// Number of all calls
    #[n(0)]
    pub calls: u64,
    /// The sum of `errors`
    #[n(1)]
    pub failed: u64,
    /// Failed calls, by error
    #[n(2)]
    pub errors: BTreeMap<CallError, u64>,
    /// Number of those among `errors` that the kernel restarts, or ends with `EINTR`
    #[n(3)]
    pub restarts: u64,
}

/// An operation in a namespace.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub(crate) struct OpReport {
    /// Counts, including calls whose details were lost
    #[serde(flatten)]
    pub counts: CallTotals,
    /// Bytes of the messages sent or received; `null`: the operation has none
    pub bytes: Option<u64>,
    /// Time in the kernel, nanoseconds; `null`: not measured
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

/// Counts of namespaces that aren't listed one by one.
#[derive(Clone, Debug, Default, Serialize, JsonSchema, Encode, Decode)]
pub(crate) struct EvictedCounts {
    /// Number of namespaces
    #[n(0)]
    pub namespaces: u64,
    /// Operations called from them
    #[n(1)]
    pub ops: BTreeMap<OpName, CallTotals>,
}
