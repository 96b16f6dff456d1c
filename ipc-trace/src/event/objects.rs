//! Objects, wherever they are shown: in the lines about their lives, in a report, in a look.

use borsh::{BorshDeserialize, BorshSerialize};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;

use super::{
    Container, IpcNs, IpcNsRef, Process,
    value::{FamilyName, FileMode, Hex32, OsBytes, Timestamp},
};

/// An object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema, BorshSerialize, BorshDeserialize)]
pub(crate) struct ObjectLook {
    /// `shm`, `sem`, `msg` or `mq`
    pub kind: FamilyName,
    /// shmid, semid or msqid
    pub id: Option<i32>,
    /// The key
    pub key: Option<Hex32>,
    /// A queue's name, without the slash
    pub name: Option<OsBytes<'static>>,
    /// Permission bits
    pub mode: Option<FileMode>,
    /// Owner
    pub uid: Option<u32>,
    /// Group
    pub gid: Option<u32>,
    /// shm: bytes; sem: semaphores; msg: bytes that there is room for (`msg_qbytes`); mq: the same
    /// (`mq_maxmsg` times `mq_msgsize`)
    pub size: Option<u64>,
    /// msg, mq: messages in it, when it was looked at
    pub messages: Option<u64>,
    /// mq: messages that there is room for (`mq_maxmsg`)
    pub max_messages: Option<u64>,
    /// msg: bytes of the messages in it; shm: bytes in memory, when it was looked at
    pub bytes: Option<u64>,
    /// Who made it, if that was seen, or as far as the kernel remembers
    pub creator: Option<Creator>,
    /// Its last use, if one was seen, or as far as the kernel remembers
    pub last: Option<LastUse>,
    /// shm: how often it is attached; `null` where attachments can't be counted: processes inherit
    /// them, and lose them when they end
    pub attached: Option<u64>,
    /// Removed, and gone when nobody uses it any more: no key or name leads to it
    pub removed: bool,
    /// A queue's inode number, which tells queues of one name apart
    pub ino: Option<u64>,
}

/// Who made an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema, BorshSerialize, BorshDeserialize)]
pub(crate) struct Creator {
    /// The process: if it was seen, in the initial pid namespace; a look knows it of shm alone, as its
    /// own pid namespace has it
    pub pid: Option<u32>,
    /// User
    pub uid: u32,
    /// Group
    pub gid: u32,
    /// Name of the thread that made it
    pub comm: Option<OsBytes<'static>>,
    /// Path of its executable
    pub exe: Option<OsBytes<'static>>,
    /// When the process started, on `CLOCK_BOOTTIME`, nanoseconds; with `pid` it is the process
    pub start_boot_ns: Option<u64>,
    /// Its container; `null` on the host, and where that is not known
    #[borsh(skip)]
    pub container: Option<Arc<Container>>,
    /// Whether it is known that this made it: the kernel was seen to make it for the call (backend
    /// `function`), or the call had `IPC_PRIVATE`, `IPC_EXCL` or `O_EXCL`, or the kernel remembers it. Else
    /// it is inferred: the call had `IPC_CREAT` or `O_CREAT` alone, and was the first to come back with an
    /// object that had not existed.
    pub exact: bool,
}

/// The last use of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema, BorshSerialize, BorshDeserialize)]
pub(crate) struct LastUse {
    /// Who used it last; a look knows of shm who attached or detached it last, of msg who sent or
    /// received last
    pub pid: Option<u32>,
    /// Name of that thread
    pub comm: Option<OsBytes<'static>>,
    /// When; a look knows it to the second
    pub time: Option<Timestamp>,
}

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ObjectLife {
    /// It was there: at the start, or it showed itself later and nobody was seen to make it
    Present,
    /// By a call
    Created,
    /// `IPC_SET` changed its owner, its permissions or its size; or who made it is known better now
    Changed,
    /// By `IPC_RMID` or mq_unlink: no key or name leads to it any more
    Removed,
    /// It is gone: removed and used by nobody, or its namespace died
    Destroyed,
}

/// Something happened to an object.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ObjectEvent<'a> {
    /// Number of the line
    pub seq: u64,
    /// When; of `present` when it was looked at, of `destroyed` when it was noticed, if that was not
    /// seen
    pub time: Timestamp,
    /// What
    pub event: ObjectLife,
    /// The namespace that the object belongs to
    pub ipc_ns: IpcNs,
    /// The object, as it was afterwards
    pub object: ObjectOfNs,
    /// Who; `null` of `present`, and where that is not known
    pub process: Option<Process<'a>>,
    /// Its container; `null` on the host
    pub container: Option<Arc<Container>>,
    /// Of `destroyed` that was noticed later: it existed then
    pub after: Option<Timestamp>,
    /// Of `destroyed` that was noticed later: it did not exist any more then
    pub before: Option<Timestamp>,
}

/// An object with its namespace.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ObjectOfNs {
    /// The object
    #[serde(flatten)]
    pub look: ObjectLook,
    /// The namespace that it belongs to
    pub ipc_ns: IpcNsRef,
}

/// An object in a report.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct ObjectReport {
    /// The object
    #[serde(flatten)]
    pub look: ObjectLook,
    /// When it was made, if that was seen
    pub created: Option<Timestamp>,
    /// When it was removed
    pub removed_at: Option<Timestamp>,
    /// When it was gone, or at the latest
    pub destroyed: Option<Timestamp>,
    /// Calls on it that were seen, and succeeded
    pub uses: u64,
    /// Nobody removed it, and all who used it have ended: `last` and `creator` left it. `null` where it
    /// is not known whether somebody still uses it
    pub leaked: Option<bool>,
}
