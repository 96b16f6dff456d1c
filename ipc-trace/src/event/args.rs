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
        /// Size in bytes
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
        /// The requested address
        shmaddr: Address,
        /// `SHM_…`
        shmflg: Flags,
    },
    /// shmdt
    Shmdt {
        /// The address of the segment
        shmaddr: Address,
    },
    /// shmctl
    Shmctl {
        /// The segment, or with `SHM_STAT` an index
        shmid: i32,
        /// The command
        cmd: CommandName,
        /// The address of the structure
        buf: Address,
        /// With `IPC_SET`: the new values; `null` with other commands, and where they couldn't be read
        set: Option<IpcSet>,
    },
    /// semget
    Semget {
        /// The key
        key: Hex32,
        /// Number of semaphores
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
        /// Number of operations
        nsops: u32,
        /// The first 8 operations; `null`: they couldn't be read
        sops: Option<Vec<Sop>>,
        /// Whether there are more operations
        sops_truncated: bool,
        /// The longest time to wait; `null`: none was given, or it couldn't be read
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
        /// The fourth argument; `null`: unknown
        arg: Option<Address>,
        /// With `SETVAL`: the value in `arg`
        val: Option<i32>,
        /// With `IPC_SET`: the new values; `null` with other commands, and where they couldn't be read
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
        /// The address of the message
        msgp: Address,
        /// Size of the message in bytes
        msgsz: u64,
        /// `IPC_NOWAIT`
        msgflg: Flags,
        /// The message's type; `null`: it couldn't be read
        mtype: Option<i64>,
    },
    /// msgrcv
    Msgrcv {
        /// The queue
        msqid: i32,
        /// The address for the message
        msgp: Option<Address>,
        /// Size of the buffer in bytes
        msgsz: u64,
        /// The requested type
        msgtyp: Option<i64>,
        /// `IPC_NOWAIT`, `MSG_…`
        msgflg: Flags,
        /// The type of the received message; `null`: none was received, or it couldn't be read
        mtype: Option<i64>,
    },
    /// msgctl
    Msgctl {
        /// The queue, or with `MSG_STAT` an index
        msqid: i32,
        /// The command
        cmd: CommandName,
        /// The address of the structure
        buf: Address,
        /// With `IPC_SET`: the new values; `null` with other commands, and where they couldn't be read
        set: Option<IpcSet>,
    },
    /// mq_open
    MqOpen {
        /// The queue's name, without the slash; `null`: it couldn't be read
        name: Option<OsBytes<'static>>,
        /// Whether the name was cut
        name_truncated: bool,
        /// `O_…`
        oflag: Flags,
        /// With `O_CREAT`: the permissions
        mode: Option<FileMode>,
        /// With `O_CREAT`: the attributes; `null`: none were given
        attr: Option<MqAttr>,
    },
    /// mq_unlink
    MqUnlink {
        /// The queue's name, without the slash; `null`: it couldn't be read
        name: Option<OsBytes<'static>>,
        /// Whether the name was cut
        name_truncated: bool,
    },
    /// mq_send
    MqSend {
        /// The descriptor
        mqdes: i32,
        /// The address of the message
        msg_ptr: Address,
        /// Size of the message in bytes
        msg_len: u64,
        /// Its priority
        msg_prio: u32,
        /// When to stop waiting; `null`: none was given, or it couldn't be read
        abs_timeout: Option<Timespec>,
    },
    /// mq_receive
    MqReceive {
        /// The descriptor
        mqdes: i32,
        /// The address for the message
        msg_ptr: Address,
        /// Size of the buffer in bytes
        msg_len: u64,
        /// The priority of the received message; `null`: none was received, or it couldn't be read
        msg_prio: Option<u32>,
        /// When to stop waiting; `null`: none was given, or it couldn't be read
        abs_timeout: Option<Timespec>,
    },
    /// mq_notify
    MqNotify {
        /// The descriptor
        mqdes: i32,
        /// The requested notification; `null`: none, which removes the registration
        sevp: Option<Sigevent>,
    },
    /// mq_getsetattr
    MqGetsetattr {
        /// The descriptor
        mqdes: i32,
        /// The new attributes; `null`: none were set
        newattr: Option<MqAttr>,
        /// The previous attributes; `null`: they weren't requested
        oldattr: Option<MqAttr>,
    },
}

/// One `struct sembuf`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Sop {
    /// The semaphore
    pub sem_num: u16,
    /// The value added
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
    /// msgctl: capacity of the queue in bytes
    pub msg_qbytes: Option<u64>,
}

/// A `struct mq_attr`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct MqAttr {
    /// `O_NONBLOCK`
    pub mq_flags: Flags,
    /// Capacity of the queue in messages
    pub mq_maxmsg: i64,
    /// Maximal size of a message in bytes
    pub mq_msgsize: i64,
    /// Number of messages in the queue
    pub mq_curmsgs: i64,
}

/// The part of a `struct sigevent` that `mq_notify` uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Sigevent {
    /// `SIGEV_NONE`, `SIGEV_SIGNAL` or `SIGEV_THREAD`
    pub sigev_notify: CommandName,
    /// The signal's number
    pub sigev_signo: i32,
}

/// A command's name; `"0x…"` where it has none.
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
