//! Objects, as shown in events, reports and snapshots.

use std::sync::Arc;

use minicbor::{Decode, Encode};
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    Container, IpcNs, IpcNsRef, Process,
    value::{FileMode, Hex32, KindName, OsBytes, Timestamp},
};

/// An object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema, Encode, Decode)]
pub(crate) struct ObjectInfo {
    /// `shm`, `sem`, `msg` or `mq`
    #[n(0)]
    pub kind: KindName,
    /// The shmid, semid or msqid; `null` for queues and if unknown
    #[n(1)]
    pub id: Option<i32>,
    /// The key; `null`: none or unknown
    #[n(2)]
    pub key: Option<Hex32>,
    /// A queue's name, without the slash; `null`: none or unknown
    #[n(3)]
    pub name: Option<OsBytes<'static>>,
    /// Permission bits; `null`: unknown
    #[n(4)]
    pub mode: Option<FileMode>,
    /// The owner; `null`: unknown
    #[n(5)]
    pub uid: Option<u32>,
    /// The owner's group; `null`: unknown
    #[n(6)]
    pub gid: Option<u32>,
    /// shm: size in bytes; sem: number of semaphores; msg: capacity in bytes (`msg_qbytes`); mq: the same
    /// (`mq_maxmsg` times `mq_msgsize`); `null`: unknown
    #[n(7)]
    pub size: Option<u64>,
    /// msg, mq: number of messages at the last snapshot; `null`: unknown, or another kind
    #[n(8)]
    pub messages: Option<u64>,
    /// mq: capacity in messages (`mq_maxmsg`); `null`: unknown, or another kind
    #[n(9)]
    pub max_messages: Option<u64>,
    /// msg: bytes of the messages in it; shm: bytes in memory; both at the last snapshot; `null`: unknown, or
    /// another kind
    #[n(10)]
    pub bytes: Option<u64>,
    /// Its creator, if observed, or as far as the kernel stores it; `null`: unknown
    #[n(11)]
    pub creator: Option<Creator>,
    /// Its last use, if observed, or as far as the kernel stores it; `null`: unknown
    #[n(12)]
    pub last: Option<LastUse>,
    /// shm: number of attachments; `null`: unknown, as processes inherit attachments and lose them by
    /// exiting, or another kind
    #[n(13)]
    pub attached: Option<u64>,
    /// Whether it is removed: no key or name leads to it, and it is destroyed with its last use
    #[n(14)]
    pub removed: bool,
    /// A queue's inode number, which distinguishes queues of one name; `null`: unknown, or another kind
    #[n(15)]
    pub ino: Option<u64>,
}

/// The creator of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema, Encode, Decode)]
pub(crate) struct Creator {
    /// The process, in the initial pid namespace if observed; a snapshot has it for shm only, in its own pid
    /// namespace; `null`: unknown
    #[n(0)]
    pub pid: Option<u32>,
    /// The user
    #[n(1)]
    pub uid: u32,
    /// The group
    #[n(2)]
    pub gid: u32,
    /// Name of the thread that created it; `null`: unknown
    #[n(3)]
    pub comm: Option<OsBytes<'static>>,
    /// Path of its executable; `null`: unknown
    #[n(4)]
    pub exe: Option<OsBytes<'static>>,
    /// When the process started, on `CLOCK_BOOTTIME`, nanoseconds; with `pid` it identifies the process;
    /// `null`: unknown
    #[n(5)]
    pub start_boot_ns: Option<u64>,
    /// Its container; `null`: on the host, or unknown
    #[cbor(skip)]
    pub container: Option<Arc<Container>>,
    /// Whether it certainly is the creator: the kernel was observed to create the object for the call
    /// (backend `function`), or the call had `IPC_PRIVATE`, `IPC_EXCL` or `O_EXCL`, or the kernel stores it.
    /// Otherwise it is inferred: the call had `IPC_CREAT` or `O_CREAT` alone, and was the first to return an
    /// object that hadn't existed.
    #[n(6)]
    pub exact: bool,
}

/// The last use of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema, Encode, Decode)]
pub(crate) struct LastUse {
    /// The process that used it last; a snapshot has the last attach or detach for shm, and the last send or
    /// receive for msg; `null`: unknown
    #[n(0)]
    pub pid: Option<u32>,
    /// Name of that thread; `null`: unknown
    #[n(1)]
    pub comm: Option<OsBytes<'static>>,
    /// When; a snapshot has it to the second; `null`: unknown
    #[n(2)]
    pub time: Option<Timestamp>,
}

/// The kind of an object's event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema, Encode, Decode)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ObjectEventKind {
    /// It exists: since before the start, or it was found later and its creation wasn't observed
    #[n(0)]
    Present,
    /// Created by a call
    #[n(1)]
    Created,
    /// `IPC_SET` changed its owner, permissions or size; or its creator is known better now
    #[n(2)]
    Changed,
    /// Removed by `IPC_RMID` or mq_unlink: no key or name leads to it any more
    #[n(3)]
    Removed,
    /// Destroyed: it was removed and has no users, or its namespace died
    #[n(4)]
    Destroyed,
}

/// An event of an object.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ObjectEvent<'a> {
    /// Number of the line
    pub seq: u64,
    /// When; for `present` when the snapshot read it, for `destroyed` when it was noticed, if it wasn't
    /// observed
    pub time: Timestamp,
    /// What happened
    pub event: ObjectEventKind,
    /// The namespace that the object belongs to
    pub ipc_ns: IpcNs,
    /// The object after the event
    pub object: ObjectOfNs,
    /// The process; `null`: for `present`, or unknown
    pub process: Option<Process<'a>>,
    /// Its container; `null` on the host
    pub container: Option<Arc<Container>>,
    /// For a `destroyed` that was noticed later: when it last existed; `null` otherwise, and if unknown
    pub after: Option<Timestamp>,
    /// For a `destroyed` that was noticed later: when it no longer existed; `null` otherwise
    pub before: Option<Timestamp>,
}

/// An object with its namespace.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ObjectOfNs {
    /// The object
    #[serde(flatten)]
    pub info: ObjectInfo,
    /// The namespace that it belongs to
    pub ipc_ns: IpcNsRef,
}

/// An object in a report.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct ObjectReport {
    /// The object
    #[serde(flatten)]
    pub info: ObjectInfo,
    /// When it was created; `null`: not observed
    pub created: Option<Timestamp>,
    /// When it was removed; `null`: it wasn't
    pub removed_at: Option<Timestamp>,
    /// When its destruction was observed or noticed; `null`: it exists
    pub destroyed: Option<Timestamp>,
    /// Number of observed successful calls on it
    pub uses: u64,
    /// Whether it wasn't removed and all of its users, such as `last` and `creator`, have exited; `null`: it
    /// is unknown whether a process still uses it
    pub leaked: Option<bool>,
}
