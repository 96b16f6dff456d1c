//! What ipc-trace says: the lines of `live -o json`, as types. The JSON schema is derived from
//! them, and the text output shows the same values.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`value`] | names, keys, flags and other values that have a form of their own in JSON |
//! | [`accounting`] | counters that add up |
//! | [`args`] | the arguments of each operation |
//! | [`identity`] | who a process is: whom it descends from, what it may |
//! | [`objects`] | objects and their lives |
//! | [`classes`] | the classes of findings, a row each |
//! | [`finding`] | findings, with what they rest on |
//! | [`report`] | the object that `report -o json` prints |
//! | [`ls`] | the object that `ls -o json` prints |
//! | `standing` | how it stands, which sinks complete |
//! | [`doctor`] | the object that `doctor -o json` prints |
//!
//! Invariant: within `v` 1 no member is renamed or given another type. A value that is not known is
//! `null`, never invented.

pub(crate) mod accounting;
pub(crate) mod args;
pub(crate) mod classes;
pub(crate) mod doctor;
pub(crate) mod escape;
pub(crate) mod finding;
pub(crate) mod identity;
pub(crate) mod ls;
pub(crate) mod objects;
pub(crate) mod report;
mod standing;
pub(crate) mod tag;
pub(crate) mod value;

use borsh::{BorshDeserialize, BorshSerialize};
use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use schemars::JsonSchema;
use serde::Serialize;

pub(crate) use accounting::{
    Accounting, ControlAccounting, OpAccounting, PROCESSES_NOT_LOOKED_AT, ResyncAccounting,
    SinkAccounting,
};
pub(crate) use standing::{End, Standing, Status};

use args::Args;
use finding::FindingLine;
use identity::ProcessIdentity;
use objects::ObjectEvent;
use report::Report;
use value::{AbiName, CallError, FamilyName, Hex32, OpName, OsBytes, Timestamp};

/// The version of the lines and objects.
pub(crate) const VERSION: u8 = 1;

/// One line of `live -o json`.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(title = "A line of ipc-trace live -o json")]
pub(crate) struct JsonLine<'a> {
    /// The version of the lines
    pub v: u8,
    /// What the line says
    #[serde(flatten)]
    pub event: &'a Event<'a>,
}

/// What happened.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Event<'a> {
    /// The first line
    Start(Start<'a>),
    /// A call returned
    Ipc(Ipc<'a>),
    /// Something happened to a namespace
    Namespace(NamespaceEvent<'a>),
    /// Something happened to an object
    Object(ObjectEvent<'a>),
    /// The name of a container became known, after lines that lack it
    Container(ContainerNamed),
    /// Calls were lost since the line before
    Loss(Loss<'a>),
    /// After a loss, what exists was listed anew
    Resync(ResyncEvent),
    /// Something was done, or tried, across namespaces; or there is more to say of that
    Finding(FindingLine<'a>),
    /// How it stands, every minute
    Status(&'a Status),
    /// The last line
    End(&'a End),
    /// What happened, by namespace, where lines don't tell
    #[serde(skip)]
    Report(&'a Report),
}

/// Who is told of events.
pub(crate) trait Tell {
    /// Something happened.
    fn emit(&mut self, event: &Event<'_>);
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
    /// Which boot of the host this is (`/proc/sys/kernel/random/boot_id`)
    pub boot_id: Option<Cow<'a, str>>,
    /// Which run of ipc-trace: another one each time
    pub run_id: Option<Cow<'a, str>>,
    /// The kernel's release
    pub kernel: Cow<'a, str>,
    /// The machine
    pub arch: Cow<'a, str>,
    /// How each operation is seen: `function` or `syscall`
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
    /// What was called
    pub op: OpName,
    /// How it came into the kernel
    pub abi: AbiName,
    /// The kernel's raw result; of a call that it did not make, what the caller got, `null` where that is not
    /// known
    pub ret: Option<i64>,
    /// The name of the error, if it is one
    pub error: Option<CallError>,
    /// Whether the kernel made the call: it did not if seccomp refused or answered it, or a tracer skipped it;
    /// `null`: its entry was not seen
    pub made: Option<bool>,
    /// Nanoseconds in the kernel, for semop, msgsnd, msgrcv, mq_send and mq_receive that entered
    /// after the start
    pub duration_ns: Option<u64>,
    /// Who called
    pub process: Process<'a>,
    /// Its container; `null` on the host
    pub container: Option<Arc<Container>>,
    /// The caller's IPC namespace
    pub ipc_ns: IpcNs,
    /// What the call was about
    pub object: CallObject<'a>,
    /// The arguments, by the man page's names
    pub args: Args,
    /// Where those come from that the kernel takes; of several sources the weakest
    pub args_from: ReadFrom,
}

/// Where it was read what the kernel takes from a caller. What lies in the caller's memory, other threads can
/// change at any time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ReadFrom {
    /// Registers, or the kernel's own copy
    #[default]
    Kernel,
    /// The caller's memory when the call entered the kernel, before the kernel took it
    Entry,
    /// The caller's memory when the call returned
    Return,
}

/// A process, as it was when the call was made.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct Process<'a> {
    /// In the initial pid namespace
    pub pid: u32,
    /// The thread
    pub tid: u32,
    /// The parent
    pub ppid: Option<u32>,
    /// The thread's name
    pub comm: OsBytes<'a>,
    /// Path of the executable, seen from the root of its mount namespace
    pub exe: Option<OsBytes<'a>>,
    /// Whether the executable's file was deleted
    #[serde(skip_serializing_if = "is_false")]
    pub exe_deleted: bool,
    /// Effective user
    pub uid: u32,
    /// Effective group
    pub gid: u32,
    /// When the process started, on `CLOCK_BOOTTIME`, nanoseconds; with `pid` it is the process
    pub start_boot_ns: Option<u64>,
    /// Its other namespaces
    pub ns: OtherNs,
    /// Who it is beside that
    #[serde(flatten)]
    pub identity: ProcessIdentity,
}

impl Process<'_> {
    /// The same, independent of what it was read from.
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
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Serialize,
    JsonSchema,
    BorshSerialize,
    BorshDeserialize,
)]
pub(crate) struct OtherNs {
    /// The pid namespace
    pub pid: Option<u32>,
    /// The mount namespace
    pub mnt: Option<u32>,
    /// The user namespace of its credentials
    pub user: Option<u32>,
}

/// A container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Container {
    /// What runs it: `docker`, `containerd`, `cri-o`, `podman`, `lxc`, `systemd-nspawn`; `cri` is some
    /// runtime of Kubernetes, `unknown` one that the cgroup does not tell
    pub runtime: &'static str,
    /// Its id; of LXC and systemd-nspawn its name
    pub id: OsBytes<'static>,
    /// Its name, if its runtime has told
    pub name: Option<OsBytes<'static>>,
    /// Its image, likewise
    pub image: Option<OsBytes<'static>>,
    /// Its pod's name, likewise
    pub pod: Option<OsBytes<'static>>,
    /// Its pod's uid, or in Podman the pod's id
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<OsBytes<'static>>,
    /// Its pod's namespace in Kubernetes
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_namespace: Option<OsBytes<'static>>,
    /// Its pod's labels
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<OsBytes<'static>, OsBytes<'static>>,
    /// Labels that the pod has beyond those, and those that are cut
    #[serde(skip_serializing_if = "is_zero")]
    pub labels_lost: u32,
    /// Which IPC namespace its runtime was told to give it: `private`, `shareable`, `host`,
    /// `container:ID`, `pod`, `none`, …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipc_mode: Option<OsBytes<'static>>,
}

/// How containers share an IPC namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Sharing {
    /// Their runtimes were told to: `--ipc host`, `--ipc container:…`, a pod
    Declared,
    /// Not all their runtimes have told
    Unknown,
    /// At least one of them was to have another namespace
    Undeclared,
}

/// More became known of a container, after lines that lack it: above all its name.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ContainerNamed {
    /// Number of the line
    pub seq: u64,
    /// When
    pub time: Timestamp,
    /// The container
    pub container: Arc<Container>,
    /// The IPC namespace that a thread of it was in last
    pub ipc_ns: Option<IpcNs>,
}

/// An IPC namespace: one life of an inode number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct IpcNs {
    /// What `/proc/PID/ns/ipc` shows
    pub inum: u32,
    /// Which life of that number within this run, from 1
    pub r#gen: u32,
    /// The kernel's own number of it, which is never reused (Linux 6.18 and later)
    pub ns_id: Option<u64>,
    /// Whether it is the host's: the initial one
    pub host: bool,
}

/// The short form of [`IpcNs`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct IpcNsRef {
    /// Inode number
    pub inum: u32,
    /// Which life of it
    pub r#gen: u32,
}

/// What a call was about, as far as the call names it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct CallObject<'a> {
    /// `shm`, `sem`, `msg` or `mq`
    pub kind: FamilyName,
    /// shmid, semid or msqid
    pub id: Option<i32>,
    /// The key that was looked up
    pub key: Option<Hex32>,
    /// A queue's name, without the slash
    pub name: Option<OsBytes<'a>>,
    /// Where the name comes from; `kernel` is the queue's own directory entry
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name_from: Option<ReadFrom>,
    /// The namespace that the object belongs to
    pub ipc_ns: Option<IpcNsRef>,
    /// Whether that is another one than the caller's
    pub foreign: Option<bool>,
    /// Whether that namespace had died before the call
    #[serde(skip_serializing_if = "is_false")]
    pub ipc_ns_dead: bool,
}

/// What happened to a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Life {
    /// By unshare or clone
    Created,
    /// By a thread: unshare, setns, or its birth in clone
    Entered,
    /// By a thread: unshare or setns
    Left,
    /// It was there at `after` and gone at `before`
    Destroyed,
    /// It is there, though how it came to be was not seen: after a loss
    Present,
}

/// Something happened to a namespace.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct NamespaceEvent<'a> {
    /// Number of the line
    pub seq: u64,
    /// When; of `destroyed`, when it was noticed
    pub time: Timestamp,
    /// What
    pub event: Life,
    /// Which namespace
    pub ipc_ns: IpcNs,
    /// The namespace that the thread came from: of `created`, `entered`
    pub from: Option<IpcNs>,
    /// Who; `null` where that is not known
    pub process: Option<Process<'a>>,
    /// Its container; `null` on the host
    pub container: Option<Arc<Container>>,
    /// Of `destroyed`: it existed then
    pub after: Option<Timestamp>,
    /// Of `destroyed`: it did not exist any more then
    pub before: Option<Timestamp>,
}

/// Calls that were lost, or facts about who made them.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Loss<'a> {
    /// Number of the line; a sink's own has none
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// When it was noticed
    pub time: Timestamp,
    /// Calls for which the ring had no room, since the last such line
    pub dropped: u64,
    /// Calls for which the kernel did not run the program, since the last such line
    pub missed: u64,
    /// Records of namespaces' lives, of changes of objects, and of who a thread is, for which there was no room since
    /// the last such line: what needs them is `null`
    pub metadata: u64,
    /// The dropped ones, by namespace, operation and error
    pub by: &'a [LossBy],
    /// The sink whose queue had no room for them
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sink: Option<&'static str>,
    /// Other lines for which it had no room
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost_other: Option<u64>,
}

/// One kind of lost calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct LossBy {
    /// The caller's namespace; `null`: more kinds were lost than could be told apart
    pub inum: Option<u32>,
    /// Which life of it
    pub r#gen: Option<u32>,
    /// The operation
    pub op: OpName,
    /// The error; `null`: the calls succeeded
    pub error: Option<CallError>,
    /// How many
    pub count: u64,
}

/// Records were lost that what is known of namespaces and objects rests on, so what exists was listed anew. What
/// came and went meanwhile is counted as lost, and is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct ResyncEvent {
    /// Number of the line
    pub seq: u64,
    /// When what exists had been listed
    pub time: Timestamp,
    /// When the loss was noticed
    pub since: Timestamp,
    /// Whether all that exists is known again: nothing more was lost meanwhile, and everything was seen. Else
    /// another such line follows
    pub complete: bool,
    /// Namespaces
    pub namespaces: Reconciliation,
    /// Objects
    pub objects: Reconciliation,
}

/// What was found when it was listed anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Reconciliation {
    /// How many there are
    pub present: u64,
    /// Those of them that were not known: the lines before this one tell of them
    pub appeared: u64,
    /// Those that were known and are there no more: the lines before this one tell of them
    pub ended: u64,
}

/// COMMAND and its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema, BorshSerialize, BorshDeserialize)]
pub(crate) struct CommandOutcome {
    /// Its words
    pub argv: Vec<String>,
    /// Its exit status; `null`: a signal ended it, or it was still running
    pub exit_code: Option<i32>,
    /// The signal that ended it
    pub signal: Option<String>,
}

/// A call that has not returned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct PendingCall {
    /// What was called
    pub op: OpName,
    /// How it came into the kernel
    pub abi: AbiName,
    /// The process
    pub pid: u32,
    /// The thread
    pub tid: u32,
    /// The thread's name
    pub comm: OsBytes<'static>,
    /// Path of the executable
    pub exe: Option<OsBytes<'static>>,
    /// The caller's namespace
    pub ipc_ns: IpcNs,
    /// `sem`, `msg` or `mq`
    pub kind: FamilyName,
    /// semid or msqid
    pub id: Option<i32>,
    /// The queue's descriptor
    pub mqdes: Option<i32>,
    /// The queue's name
    pub name: Option<OsBytes<'static>>,
    /// When it entered the kernel
    pub since: Timestamp,
    /// Nanoseconds that it has been there
    pub for_ns: u64,
}
