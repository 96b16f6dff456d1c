//! The arguments of each operation, by the names of its man page.

use schemars::JsonSchema;
use serde::Serialize;

use super::value::{Address, FileMode, Flags, Hex32, OsBytes};

/// The arguments of a call.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum Args {
    /// shmget
    Shmget {
        /// The key
        key: Hex32,
        /// Bytes
        size: u64,
        /// `IPC_CREAT`, `IPC_EXCL`, `SHM_…`; the permissions are the bits without a name
        shmflg: Flags,
        /// The permissions in `shmflg`
        mode: FileMode,
    },
    /// shmat
    Shmat {
        /// The segment
        shmid: i32,
        /// Where it is wanted
        shmaddr: Address,
        /// `SHM_…`
        shmflg: Flags,
    },
    /// shmdt
    Shmdt {
        /// Where the segment was
        shmaddr: Address,
    },
    /// shmctl
    Shmctl {
        /// The segment, or with `SHM_STAT` an index
        shmid: i32,
        /// The command
        cmd: CommandName,
        /// Where the structure is
        buf: Address,
        /// With `IPC_SET`: what was set
        set: Option<IpcSet>,
    },
    /// semget
    Semget {
        /// The key
        key: Hex32,
        /// Semaphores
        nsems: i32,
        /// `IPC_CREAT`, `IPC_EXCL`; the permissions are the bits without a name
        semflg: Flags,
        /// The permissions in `semflg`
        mode: FileMode,
    },
    /// semop
    Semop {
        /// The set
        semid: i32,
        /// Operations
        nsops: u32,
        /// The first 8 of them
        sops: Option<Vec<Sop>>,
        /// Whether there are more
        sops_truncated: bool,
        /// How long to wait at most
        timeout: Option<Timespec>,
    },
    /// semctl
    Semctl {
        /// The set, or with `SEM_STAT` an index
        semid: i32,
        /// The semaphore
        semnum: i32,
        /// The command
        cmd: CommandName,
        /// The fourth argument, as it was given
        arg: Option<Address>,
        /// With `SETVAL`: the value in `arg`
        val: Option<i32>,
        /// With `IPC_SET`: what was set
        set: Option<IpcSet>,
    },
    /// msgget
    Msgget {
        /// The key
        key: Hex32,
        /// `IPC_CREAT`, `IPC_EXCL`; the permissions are the bits without a name
        msgflg: Flags,
        /// The permissions in `msgflg`
        mode: FileMode,
    },
    /// msgsnd
    Msgsnd {
        /// The queue
        msqid: i32,
        /// Where the message is
        msgp: Address,
        /// Bytes
        msgsz: u64,
        /// `IPC_NOWAIT`
        msgflg: Flags,
        /// The message's type
        mtype: Option<i64>,
    },
    /// msgrcv
    Msgrcv {
        /// The queue
        msqid: i32,
        /// Where the message goes
        msgp: Option<Address>,
        /// Bytes that there is room for
        msgsz: u64,
        /// The type that is wanted
        msgtyp: Option<i64>,
        /// `IPC_NOWAIT`, `MSG_…`
        msgflg: Flags,
        /// The type of the message that came
        mtype: Option<i64>,
    },
    /// msgctl
    Msgctl {
        /// The queue, or with `MSG_STAT` an index
        msqid: i32,
        /// The command
        cmd: CommandName,
        /// Where the structure is
        buf: Address,
        /// With `IPC_SET`: what was set
        set: Option<IpcSet>,
    },
    /// mq_open
    MqOpen {
        /// The queue's name, without the slash
        name: Option<OsBytes<'static>>,
        /// Whether the name is longer
        name_truncated: bool,
        /// `O_…`
        oflag: Flags,
        /// With `O_CREAT`: the permissions
        mode: Option<FileMode>,
        /// With `O_CREAT`: the attributes; `null` too where none were given
        attr: Option<MqAttr>,
    },
    /// mq_unlink
    MqUnlink {
        /// The queue's name, without the slash
        name: Option<OsBytes<'static>>,
        /// Whether the name is longer
        name_truncated: bool,
    },
    /// mq_send
    MqSend {
        /// The descriptor
        mqdes: i32,
        /// Where the message is
        msg_ptr: Address,
        /// Bytes
        msg_len: u64,
        /// Its priority
        msg_prio: u32,
        /// Until when to wait
        abs_timeout: Option<Timespec>,
    },
    /// mq_receive
    MqReceive {
        /// The descriptor
        mqdes: i32,
        /// Where the message goes
        msg_ptr: Address,
        /// Bytes that there is room for
        msg_len: u64,
        /// The priority of the message that came
        msg_prio: Option<u32>,
        /// Until when to wait
        abs_timeout: Option<Timespec>,
    },
    /// mq_notify
    MqNotify {
        /// The descriptor
        mqdes: i32,
        /// What is wanted; `null` too where nothing is
        sevp: Option<Sigevent>,
    },
    /// mq_getsetattr
    MqGetsetattr {
        /// The descriptor
        mqdes: i32,
        /// What was set, if anything
        newattr: Option<MqAttr>,
        /// What was before, if that was asked for
        oldattr: Option<MqAttr>,
    },
}

/// One `struct sembuf`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Sop {
    /// The semaphore
    pub sem_num: u16,
    /// What is added
    pub sem_op: i16,
    /// `IPC_NOWAIT`, `SEM_UNDO`
    pub sem_flg: Flags,
}

/// A `struct timespec`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Timespec {
    /// Seconds
    pub tv_sec: i64,
    /// Nanoseconds
    pub tv_nsec: i64,
}

/// What `IPC_SET` sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct IpcSet {
    /// The owner
    pub uid: u32,
    /// The owner's group
    pub gid: u32,
    /// The permissions
    pub mode: FileMode,
    /// msgctl: bytes that the queue holds at most
    pub msg_qbytes: Option<u64>,
}

/// A `struct mq_attr`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct MqAttr {
    /// `O_NONBLOCK`
    pub mq_flags: Flags,
    /// Messages that the queue holds at most
    pub mq_maxmsg: i64,
    /// Bytes of a message at most
    pub mq_msgsize: i64,
    /// Messages in the queue
    pub mq_curmsgs: i64,
}

/// The part of a `struct sigevent` that `mq_notify` looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Sigevent {
    /// `SIGEV_NONE`, `SIGEV_SIGNAL` or `SIGEV_THREAD`
    pub sigev_notify: CommandName,
    /// The signal's number
    pub sigev_signo: i32,
}

/// A number that stands for a command, by its name; `"0x…"` where it has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CommandName {
    /// The number
    pub number: u32,
    /// Its name
    pub name: Option<&'static str>,
}

impl std::fmt::Display for CommandName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.name {
            Some(name) => f.pad(name),
            None => write!(f, "{:#x}", self.number),
        }
    }
}

impl Serialize for CommandName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for CommandName {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "CommandName".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "A command's name, or \"0x…\" where it has none"
        })
    }
}
