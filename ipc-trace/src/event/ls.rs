//! The object that `ls -o json` prints: objects by IPC namespace.

use borsh::{BorshDeserialize, BorshSerialize};
use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use ipc_trace_common::op::ObjectKind;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};

use super::{
    Container, NsInodes, Sharing,
    objects::ObjectInfo,
    report::{Created, Destroyed},
    value::{KindName, OsBytes, Timestamp},
};

/// The IPC namespaces and objects of the host.
#[derive(Clone, Debug, Serialize, JsonSchema, BorshSerialize, BorshDeserialize)]
#[schemars(title = "The output of ipc-trace ls -o json")]
pub(crate) struct Ls {
    /// The version of this object
    pub v: u8,
    /// The host's name
    pub host: String,
    /// The kernel's release
    pub kernel: String,
    /// When the snapshot began
    pub time: Timestamp,
    /// Whether all IPC namespaces of the host are listed; otherwise those without a visible process are
    /// missing
    pub complete: bool,
    /// What couldn't be read, and why, one sentence each
    pub unseen: Vec<String>,
    /// The namespaces, the host's first, then by number
    pub namespaces: Vec<NamespaceSnapshot>,
}

/// One namespace.
#[derive(Clone, Debug, Serialize, JsonSchema, BorshSerialize, BorshDeserialize)]
pub(crate) struct NamespaceSnapshot {
    /// What `/proc/PID/ns/ipc` shows
    pub inum: u32,
    /// The generation of that number: always 1 in a snapshot
    pub r#gen: u32,
    /// The kernel's own number of it, which is never reused; `null` before Linux 6.18
    pub ns_id: Option<u64>,
    /// Whether it is the host's: the initial one
    pub host: bool,
    /// Its creation: `null`, as a snapshot doesn't know it
    #[borsh(skip)]
    pub created: Option<Created>,
    /// Its end: `null`, as a snapshot doesn't know it
    #[borsh(skip)]
    pub destroyed: Option<Destroyed>,
    /// Containers with a process in it, by name
    #[borsh(skip)]
    pub containers: Vec<Arc<Container>>,
    /// How the containers share it; `null`: it has at most one container, or for the host's namespace none
    #[borsh(skip)]
    pub sharing: Option<Sharing>,
    /// Processes with a thread in it, by number
    pub processes: Vec<ProcessInfo>,
    /// References that keep it alive or refer to its objects
    pub holders: Vec<Holder>,
    /// Objects, by kind, then by id or name
    pub objects: Vec<ObjectInfo>,
    /// Its limits, and how much of each is used
    pub limits: BTreeMap<LimitName, Limit>,
    /// What couldn't be read of it: `objects` or `limits` are incomplete
    pub unseen: Vec<Unseen>,
    /// Device number of its mqueue file system; `null`: unknown
    #[serde(skip)]
    pub mqueue_dev: Option<u32>,
    /// When listing its objects began and ended, on `CLOCK_BOOTTIME`, nanoseconds
    #[serde(skip)]
    pub listed: (u64, u64),
}

/// A process with a thread in a namespace.
#[derive(Clone, Debug, Serialize, JsonSchema, BorshSerialize, BorshDeserialize)]
pub(crate) struct ProcessInfo {
    /// Its number in this host's `/proc`
    pub pid: u32,
    /// The parent; `null`: unknown
    pub ppid: Option<u32>,
    /// The main thread's name, or that of the first thread in the namespace
    pub comm: OsBytes<'static>,
    /// Path of the executable; `null`: unknown, or a kernel thread
    pub exe: Option<OsBytes<'static>>,
    /// The effective user; `null`: unknown
    pub uid: Option<u32>,
    /// The effective group; `null`: unknown
    pub gid: Option<u32>,
    /// When the process started, on `CLOCK_BOOTTIME`, nanoseconds; with `pid` it identifies the process;
    /// `null`: unknown
    pub start_boot_ns: Option<u64>,
    /// Its other namespaces
    pub ns: NsInodes,
    /// Its container; `null` on the host
    #[borsh(skip)]
    pub container: Option<Arc<Container>>,
    /// Path of its cgroup, if containers are resolved
    #[serde(skip)]
    pub cgroup: Option<Vec<u8>>,
    /// Number of its threads in this namespace: each thread can be in another one
    pub threads: u32,
}

/// A reference that keeps a namespace alive or refers to its objects.
#[derive(
    Clone,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    JsonSchema,
    BorshSerialize,
    BorshDeserialize,
)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Holder {
    /// Threads of a process are in it, which keep it alive
    Process {
        /// The process
        pid: u32,
        /// Number of threads
        threads: u32,
    },
    /// A descriptor
    Descriptor {
        /// The process that has it
        pid: u32,
        /// Name of that process; `null`: unknown
        comm: Option<OsBytes<'static>>,
        /// Its number
        fd: u32,
        /// What the descriptor refers to
        of: DescriptorOf,
        /// The name of the queue, or of the file in `/proc/sysvipc`; `null`: unknown
        name: Option<OsBytes<'static>>,
        /// Whether it keeps the namespace alive
        pins: bool,
    },
    /// A mount
    Mount {
        /// Inode number of the mount namespace that it is in
        mnt_ns: u32,
        /// A process that sees it
        pid: u32,
        /// The mount point in that process's view
        mount_point: OsBytes<'static>,
        /// What is mounted
        of: MountOf,
        /// Whether it keeps the namespace alive
        pins: bool,
    },
    /// A mapping of a shared memory segment, which keeps the namespace alive
    Mapping {
        /// The process that has it mapped
        pid: u32,
        /// Name of that process; `null`: unknown
        comm: Option<OsBytes<'static>>,
        /// The segment
        shmid: i32,
        /// Number of mappings in the process
        mappings: u32,
        /// Mapped size in bytes
        bytes: u64,
        /// Whether the kernel states the namespace; otherwise it is inferred: the only one with such a
        /// segment, or the process's own
        exact: bool,
    },
}

/// What a descriptor refers to.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    JsonSchema,
    BorshSerialize,
    BorshDeserialize,
)]
#[serde(rename_all = "snake_case")]
pub(crate) enum DescriptorOf {
    /// The namespace itself, from `/proc/PID/ns/ipc`; setns accepts it
    Namespace,
    /// A queue, or the root of an mqueue file system
    Queue,
    /// A file of `/proc/sysvipc`, opened in the namespace
    Sysvipc,
}

/// What is mounted.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    JsonSchema,
    BorshSerialize,
    BorshDeserialize,
)]
#[serde(rename_all = "snake_case")]
pub(crate) enum MountOf {
    /// The namespace itself, as `/proc/PID/ns/ipc`
    Namespace,
    /// Its mqueue file system
    Mqueue,
}

macro_rules! limits {
    ($($variant:ident = $name:literal, $what:literal;)*) => {
        /// A limit of a namespace.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize)]
        pub(crate) enum LimitName {
            $(#[doc = $what] $variant,)*
        }

        impl LimitName {
            /// All limits.
            pub(crate) const ALL: [Self; [$($name),*].len()] = [$(Self::$variant,)*];

            /// Its name in proc(5).
            #[must_use]
            pub(crate) const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What it limits.
            #[must_use]
            pub(crate) const fn what(self) -> &'static str {
                match self { $(Self::$variant => $what,)* }
            }
        }
    };
}

limits! {
    Shmmni = "shmmni", "shared memory segments";
    Shmall = "shmall", "pages of shared memory";
    Shmmax = "shmmax", "bytes of a segment";
    Semmni = "semmni", "semaphore sets";
    Semmns = "semmns", "semaphores";
    Semmsl = "semmsl", "semaphores of a set";
    Semopm = "semopm", "operations of a call";
    Msgmni = "msgmni", "message queues";
    Msgmnb = "msgmnb", "bytes of a new message queue";
    Msgmax = "msgmax", "bytes of a message";
    QueuesMax = "queues_max", "POSIX queues";
    MsgMax = "msg_max", "messages of a POSIX queue";
    MsgsizeMax = "msgsize_max", "bytes of a POSIX message";
    MsgDefault = "msg_default", "messages of such a queue, by default";
    MsgsizeDefault = "msgsize_default", "bytes of such a message, by default";
}

impl std::fmt::Display for LimitName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

impl Serialize for LimitName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl JsonSchema for LimitName {
    fn schema_name() -> Cow<'static, str> {
        "LimitName".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "enum": Self::ALL.map(Self::name) })
    }
}

/// A limit.
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
pub(crate) struct Limit {
    /// Its value
    pub limit: u64,
    /// How much of it is used; `null`: the limit has no usage
    pub used: Option<u64>,
}

/// The percentage of a limit from which it is called pressing.
pub(crate) const PRESSING: u64 = 80;

/// `used` as a percentage of `limit`.
#[must_use]
pub(crate) fn percent(used: u64, limit: u64) -> u64 {
    let percent = u128::from(used) * 100 / u128::from(limit.max(1));
    u64::try_from(percent).unwrap_or(u64::MAX)
}

impl Limit {
    /// The used percentage; `None`: the limit has no usage.
    #[must_use]
    pub(crate) fn percent(&self) -> Option<u64> {
        self.used.map(|used| percent(used, self.limit))
    }
}

/// A part of a namespace that couldn't be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema, BorshSerialize, BorshDeserialize)]
pub(crate) struct Unseen {
    /// The part
    pub what: UnseenWhat,
    /// Why it couldn't be read
    pub reason: String,
}

/// A part of a namespace.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema, BorshSerialize, BorshDeserialize,
)]
#[serde(rename_all = "snake_case")]
pub(crate) enum UnseenWhat {
    /// System V objects
    Sysv,
    /// POSIX queues
    Queues,
    /// POSIX queues that the kernel counts, without a name and without a process's descriptor; unlinked
    /// queues with a descriptor are listed
    UnlinkedQueues,
    /// Limits
    Limits,
}

impl NamespaceSnapshot {
    /// Number of objects of a kind.
    #[must_use]
    pub(crate) fn count(&self, kind: ObjectKind) -> usize {
        self.objects.iter().filter(|object| object.kind == KindName(kind)).count()
    }

    /// Whether a part of it couldn't be read.
    #[must_use]
    pub(crate) fn is_unseen(&self, what: UnseenWhat) -> bool {
        self.unseen.iter().any(|unseen| unseen.what == what)
    }
}
