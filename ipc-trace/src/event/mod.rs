//! The types of all output: the lines of `live -o json` and the objects of other commands. The JSON schema is
//! derived from them, and the text output shows the same values.
//!
//! | module | its job |
//! | --- | --- |
//! | [`value`] | names, keys, flags and other values that have a form of their own in JSON |
//! | [`accounting`] | counters that add up |
//! | [`args`] | the arguments of each operation |
//! | `callers` | the JSON of callers, kept for their next calls |
//! | [`identity`] | further identity of a process: ancestors, capabilities |
//! | [`objects`] | objects and their events |
//! | [`classes`] | the classes of findings, a row each |
//! | [`finding`] | findings, with their evidence |
//! | [`report`] | the object that `report -o json` prints |
//! | [`counts`], [`histogram`] | counts of calls by second, and of durations, for recordings and summaries |
//! | [`ls`] | the object that `ls -o json` prints |
//! | `standing` | status and end, which sinks complete with their own counts |
//! | [`doctor`] | the object that `doctor -o json` prints |
//!
//! Invariant: within `v` 1 no member is renamed or given another type. An unknown value is `null`, never
//! invented.

pub(crate) mod accounting;
pub(crate) mod args;
mod callers;
pub(crate) mod classes;
pub(crate) mod counts;
pub(crate) mod doctor;
pub(crate) mod escape;
pub(crate) mod finding;
pub(crate) mod histogram;
pub(crate) mod identity;
pub(crate) mod ls;
pub(crate) mod objects;
pub(crate) mod report;
pub(crate) mod shared;
mod standing;
pub(crate) mod tag;
pub(crate) mod value;

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use ipc_trace_common::cbor::{Encoded, cbor_as_encoded};
use minicbor::{Decode, Decoder, Encode, Encoder, decode::Error, encode::Write};
use schemars::JsonSchema;
use serde::Serialize;

pub(crate) use accounting::{
    Accounting, ControlAccounting, OpAccounting, PROCESSES_NOT_INSPECTED, ResyncAccounting,
    SinkAccounting,
};
use args::Args;
use finding::FindingLine;
use identity::ProcessIdentity;
use objects::ObjectEvent;
use report::Report;
use shared::SharedState;
pub(crate) use standing::{End, Standing, Status};
use value::{AbiName, CallError, Hex32, KindName, OpName, OsBytes, Timestamp};

/// The version of the lines and objects.
pub(crate) const VERSION: u8 = 1;

/// One line of `live -o json`.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(title = "A line of ipc-trace live -o json")]
pub(crate) struct JsonLine<'a> {
    /// The version of the lines
    pub v: u8,
    /// The host, if recordings of several hosts are replayed; the first line of a run has it always
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<&'a str>,
    /// The event
    #[serde(flatten)]
    pub event: &'a Event<'a>,
}

/// An event.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Event<'a> {
    /// The first line
    Start(Start<'a>),
    /// A call returned
    Ipc(Ipc<'a>),
    /// An event of a namespace
    Namespace(NamespaceEvent<'a>),
    /// An event of an object
    Object(ObjectEvent<'a>),
    /// Metadata of a container arrived after lines that lack it
    Container(ContainerUpdate),
    /// Calls were lost since the line before
    Loss(Loss<'a>),
    /// After a loss, a new snapshot was taken
    Resync(ResyncEvent),
    /// A finding: an access or attempt across namespaces; or an update of it
    Finding(FindingLine<'a>),
    /// The status, every minute
    Status(&'a Status),
    /// The last line
    End(&'a End),
    /// The report by namespace, when no lines are written
    #[serde(skip)]
    Report(&'a Report),
}

/// A receiver of events.
pub(crate) trait EmitEvent {
    /// Receives an event.
    fn emit(&mut self, event: &Event<'_>);

    /// Whether it needs the events of calls.
    fn wants_calls(&self) -> bool {
        true
    }
}

/// Backend by operation: `"function"` or `"syscall"`.
pub(crate) type Backends = BTreeMap<OpName, Cow<'static, str>>;

/// Tracing started.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Start<'a> {
    /// When
    pub time: Timestamp,
    /// The host's name
    pub host: Cow<'a, str>,
    /// The host's boot id (`/proc/sys/kernel/random/boot_id`); `null`: unknown
    pub boot_id: Option<Cow<'a, str>>,
    /// The id of this run of ipc-trace, different each time; `null`: unknown
    pub run_id: Option<Cow<'a, str>>,
    /// The kernel's release
    pub kernel: Cow<'a, str>,
    /// The machine
    pub arch: Cow<'a, str>,
    /// The backend of each operation: `function` or `syscall`
    pub backend: &'a Backends,
    /// The version of ipc-trace
    pub version: Cow<'a, str>,
}

/// A call returned.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Ipc<'a> {
    /// Number of the line, from 1, without gaps
    pub seq: u64,
    /// When the call returned
    pub time: Timestamp,
    /// The same on `CLOCK_BOOTTIME`, nanoseconds
    pub boot_ns: u64,
    /// The operation
    pub op: OpName,
    /// The calling convention
    pub abi: AbiName,
    /// The kernel's raw result; if the kernel didn't make the call, the result that the caller got; `null`:
    /// unknown
    pub ret: Option<i64>,
    /// The name of the error; `null`: the call succeeded, or the result is unknown
    pub error: Option<CallError>,
    /// Whether the kernel made the call: `false` if seccomp denied or answered it, or a debugger skipped it;
    /// `null`: its entry wasn't observed
    pub made: Option<bool>,
    /// Nanoseconds in the kernel, for semop, msgsnd, msgrcv, mq_send and mq_receive; `null` for others, and
    /// if the call entered before the start
    pub duration_ns: Option<u64>,
    /// The calling process
    #[serde(serialize_with = "callers::process")]
    pub process: Process<'a>,
    /// Its container; `null` on the host
    #[serde(serialize_with = "callers::container")]
    pub container: Option<Arc<Container>>,
    /// The caller's IPC namespace
    pub ipc_ns: IpcNs,
    /// The object of the call
    pub object: CallObject<'a>,
    /// The arguments, by the man page's names
    pub args: Args,
    /// The source of the arguments that the kernel uses; of several sources the weakest
    pub args_from: ReadFrom,
}

/// The source of a value that the kernel reads from a caller. Other threads can change the caller's memory at
/// any time.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    JsonSchema,
    Encode,
    Decode,
)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ReadFrom {
    /// Registers, or the kernel's own copy
    #[default]
    #[n(0)]
    Kernel,
    /// The caller's memory when the call entered the kernel, before the kernel took it
    #[n(1)]
    Entry,
    /// The caller's memory when the call returned
    #[n(2)]
    Return,
}

/// A process, as it was when the call was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema, Encode, Decode)]
#[cbor(context_bound = "SharedState")]
pub(crate) struct Process<'a> {
    /// Its number in the initial pid namespace
    #[n(0)]
    pub pid: u32,
    /// The thread
    #[n(1)]
    pub tid: u32,
    /// The parent; `null`: unknown
    #[n(2)]
    pub ppid: Option<u32>,
    /// The thread's name
    #[n(3)]
    pub comm: OsBytes<'a>,
    /// Path of the executable, from the root of its mount namespace; `null`: unknown
    #[n(4)]
    pub exe: Option<OsBytes<'a>>,
    /// Whether the executable's file was deleted
    #[serde(skip_serializing_if = "is_false")]
    #[n(5)]
    pub exe_deleted: bool,
    /// Effective user
    #[n(6)]
    pub uid: u32,
    /// Effective group
    #[n(7)]
    pub gid: u32,
    /// When the process started, on `CLOCK_BOOTTIME`, nanoseconds; with `pid` it identifies the process;
    /// `null`: unknown
    #[n(8)]
    pub start_boot_ns: Option<u64>,
    /// Its other namespaces
    #[n(9)]
    pub ns: NsInodes,
    /// Its further identity
    #[serde(flatten)]
    #[n(10)]
    pub identity: ProcessIdentity,
}

impl Process<'_> {
    /// The same, owned.
    #[must_use]
    pub(crate) fn into_owned(self) -> Process<'static> {
        Process {
            pid: self.pid,
            tid: self.tid,
            ppid: self.ppid,
            comm: self.comm.into_owned(),
            exe: self.exe.map(OsBytes::into_owned),
            exe_deleted: self.exe_deleted,
            uid: self.uid,
            gid: self.gid,
            start_boot_ns: self.start_boot_ns,
            ns: self.ns,
            identity: self.identity,
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
const fn is_false(value: &bool) -> bool {
    !*value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
const fn is_zero(value: &u32) -> bool {
    *value == 0
}

/// Inode numbers of a process's namespaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema, Encode, Decode)]
pub(crate) struct NsInodes {
    /// The pid namespace; `null`: unknown
    #[n(0)]
    pub pid: Option<u32>,
    /// The mount namespace; `null`: unknown
    #[n(1)]
    pub mnt: Option<u32>,
    /// The user namespace of its credentials; `null`: unknown
    #[n(2)]
    pub user: Option<u32>,
}

/// A container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema, Encode, Decode)]
pub(crate) struct Container {
    /// Its runtime: `docker`, `containerd`, `cri-o`, `podman`, `lxc`, `systemd-nspawn`; `cri` is some runtime
    /// of Kubernetes, `unknown` one that the cgroup doesn't identify
    #[n(0)]
    pub runtime: Cow<'static, str>,
    /// Its id; for LXC and systemd-nspawn its name
    #[n(1)]
    pub id: OsBytes<'static>,
    /// Its name; `null`: its runtime hasn't reported it
    #[n(2)]
    pub name: Option<OsBytes<'static>>,
    /// Its image; `null`: likewise
    #[n(3)]
    pub image: Option<OsBytes<'static>>,
    /// Its pod's name; `null`: likewise, or it has no pod
    #[n(4)]
    pub pod: Option<OsBytes<'static>>,
    /// Its pod's uid, or in Podman the pod's id; `null`: it has no pod, or unknown
    #[serde(skip_serializing_if = "Option::is_none")]
    #[n(5)]
    pub pod_uid: Option<OsBytes<'static>>,
    /// Its pod's namespace in Kubernetes; `null`: it has none, or unknown
    #[serde(skip_serializing_if = "Option::is_none")]
    #[n(6)]
    pub pod_namespace: Option<OsBytes<'static>>,
    /// Its pod's labels
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[n(7)]
    pub labels: BTreeMap<OsBytes<'static>, OsBytes<'static>>,
    /// Number of the pod's labels that were left out or cut
    #[serde(skip_serializing_if = "is_zero")]
    #[n(8)]
    pub labels_lost: u32,
    /// The IPC mode configured in its runtime: `private`, `shareable`, `host`, `container:ID`, `pod`, `none`,
    /// …; `null`: unknown
    #[serde(skip_serializing_if = "Option::is_none")]
    #[n(9)]
    pub ipc_mode: Option<OsBytes<'static>>,
}

cbor_as_encoded! { Container }

/// For `#[cbor(with = …)]`: a process that may be unknown.
pub(crate) mod optional_process {
    use super::*;

    pub(crate) fn encode<C: SharedState, W: Write>(
        process: &Option<Process<'static>>,
        to: &mut Encoder<W>,
        context: &mut C,
    ) -> Encoded<W> {
        process.encode(to, context)
    }

    pub(crate) fn decode<C: SharedState>(
        from: &mut Decoder<'_>,
        context: &mut C,
    ) -> Result<Option<Process<'static>>, Error> {
        Ok(Option::<Process<'_>>::decode(from, context)?.map(Process::into_owned))
    }
}

/// How containers share an IPC namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Sharing {
    /// Their runtimes are configured to share: `--ipc host`, `--ipc container:…`, a pod
    Declared,
    /// Not all of their runtimes have reported it
    Unknown,
    /// At least one of them is configured to have another namespace
    Undeclared,
}

/// Metadata of a container, above all its name, arrived after lines that lack it.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ContainerUpdate {
    /// Number of the line
    pub seq: u64,
    /// When
    pub time: Timestamp,
    /// The container
    pub container: Arc<Container>,
    /// The IPC namespace that a thread of it was in last; `null`: unknown
    pub ipc_ns: Option<IpcNs>,
}

/// An IPC namespace: one generation of an inode number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema, Encode, Decode)]
pub(crate) struct IpcNs {
    /// What `/proc/PID/ns/ipc` shows
    #[n(0)]
    pub inum: u32,
    /// The generation of that number within this run, from 1
    #[n(1)]
    pub r#gen: u32,
    /// The kernel's own number of it, which is never reused; `null` before Linux 6.18
    #[n(2)]
    pub ns_id: Option<u64>,
    /// Whether it is the host's: the initial one
    #[n(3)]
    pub host: bool,
}

/// The short form of [`IpcNs`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema, Encode, Decode)]
pub(crate) struct IpcNsRef {
    /// Inode number
    #[n(0)]
    pub inum: u32,
    /// The generation of that number
    #[n(1)]
    pub r#gen: u32,
}

/// The object of a call, as far as the call names it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct CallObject<'a> {
    /// `shm`, `sem`, `msg` or `mq`
    pub kind: KindName,
    /// The shmid, semid or msqid; `null`: none or unknown
    pub id: Option<i32>,
    /// The key that was looked up; `null`: none
    pub key: Option<Hex32>,
    /// A queue's name, without the slash; `null`: none or unknown
    pub name: Option<OsBytes<'a>>,
    /// The source of the name; `kernel` is the queue's own directory entry; `null`: the name is `null`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name_from: Option<ReadFrom>,
    /// The namespace that the object belongs to; `null`: unknown
    pub ipc_ns: Option<IpcNsRef>,
    /// Whether that differs from the caller's namespace; `null`: unknown
    pub foreign: Option<bool>,
    /// Whether that namespace had died before the call
    #[serde(skip_serializing_if = "is_false")]
    pub ipc_ns_dead: bool,
}

/// The kind of a namespace's event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum NamespaceEventKind {
    /// Created by unshare or clone
    Created,
    /// Entered by a thread: with unshare or setns, or by its creation with clone
    Entered,
    /// Left by a thread, with unshare or setns
    Left,
    /// Destroyed between `after` and `before`
    Destroyed,
    /// Present, though its creation wasn't observed because of a loss
    Present,
}

/// An event of a namespace.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct NamespaceEvent<'a> {
    /// Number of the line
    pub seq: u64,
    /// When; for `destroyed`, when it was noticed
    pub time: Timestamp,
    /// What happened
    pub event: NamespaceEventKind,
    /// The namespace
    pub ipc_ns: IpcNs,
    /// The namespace that the thread came from, for `created` and `entered`; `null` for others
    pub from: Option<IpcNs>,
    /// The process; `null`: unknown, or none
    pub process: Option<Process<'a>>,
    /// Its container; `null` on the host
    pub container: Option<Arc<Container>>,
    /// For `destroyed`: when it last existed; `null` for others, and if unknown
    pub after: Option<Timestamp>,
    /// For `destroyed`: when it no longer existed; `null` for others
    pub before: Option<Timestamp>,
}

/// Lost calls, or lost metadata about callers.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Loss<'a> {
    /// Number of the line; `null`: the sink itself lost lines
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// When it was noticed
    pub time: Timestamp,
    /// Calls since the last such line for which the ring had no room
    pub dropped: u64,
    /// Calls since the last such line for which the kernel didn't run the eBPF program
    pub missed: u64,
    /// Records since the last such line, about namespaces, changes of objects, and tasks, for which there was
    /// no room: values that depend on them are `null`
    pub metadata: u64,
    /// The dropped calls, by namespace, operation and error
    pub by: &'a [LossBy],
    /// The sink whose queue had no room for them; `null`: they were lost before the sinks
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sink: Option<&'static str>,
    /// Other lines for which the sink had no room; `null`: the loss isn't a sink's
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost_other: Option<u64>,
}

/// One kind of lost calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct LossBy {
    /// The caller's namespace; `null`: unknown, as there were too many kinds of losses to distinguish
    pub inum: Option<u32>,
    /// The generation of that number
    pub r#gen: Option<u32>,
    /// The operation
    pub op: OpName,
    /// The error; `null`: the calls succeeded
    pub error: Option<CallError>,
    /// Number of calls
    pub count: u64,
}

/// Records were lost that the state of namespaces and objects depends on, so a new snapshot was taken.
/// Objects that were created and destroyed meanwhile are counted as lost, and unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct ResyncEvent {
    /// Number of the line
    pub seq: u64,
    /// When the snapshot was complete
    pub time: Timestamp,
    /// When the loss was noticed
    pub since: Timestamp,
    /// Whether all existing objects are known again: nothing more was lost meanwhile, and everything could be
    /// read. Otherwise another such line follows
    pub complete: bool,
    /// Namespaces
    pub namespaces: Reconciliation,
    /// Objects
    pub objects: Reconciliation,
}

/// The result of a snapshot after a loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Reconciliation {
    /// Number of existing ones
    pub present: u64,
    /// Number of existing ones that weren't known: earlier lines report them
    pub appeared: u64,
    /// Number of known ones that no longer exist: earlier lines report them
    pub ended: u64,
}

/// COMMAND and its exit status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema, Encode, Decode)]
pub(crate) struct CommandOutcome {
    /// Its words
    #[n(0)]
    pub argv: Vec<String>,
    /// Its exit status; `null`: a signal ended it, or it was still running
    #[n(1)]
    pub exit_code: Option<i32>,
    /// The signal that ended it; `null`: none
    #[n(2)]
    pub signal: Option<String>,
}

/// A call that has not returned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct PendingCall {
    /// The operation
    pub op: OpName,
    /// The calling convention
    pub abi: AbiName,
    /// The process
    pub pid: u32,
    /// The thread
    pub tid: u32,
    /// The thread's name
    pub comm: OsBytes<'static>,
    /// Path of the executable; `null`: unknown
    pub exe: Option<OsBytes<'static>>,
    /// The caller's namespace
    pub ipc_ns: IpcNs,
    /// `sem`, `msg` or `mq`
    pub kind: KindName,
    /// The semid or msqid; `null` for queue descriptors
    pub id: Option<i32>,
    /// The queue's descriptor; `null` for System V objects
    pub mqdes: Option<i32>,
    /// The queue's name; `null`: none or unknown
    pub name: Option<OsBytes<'static>>,
    /// When it entered the kernel
    pub since: Timestamp,
    /// How long it has been in the kernel, nanoseconds
    pub for_ns: u64,
}
