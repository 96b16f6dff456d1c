//! The object that `ls -o json` prints: what exists, by IPC namespace.

use borsh::{BorshDeserialize, BorshSerialize};
use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use ipc_trace_common::op::Family;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};

use super::{
    Container, OtherNs, Sharing,
    objects::ObjectLook,
    report::{Created, Destroyed},
    value::{FamilyName, OsBytes, Timestamp},
};

/// What exists.
#[derive(Clone, Debug, Serialize, JsonSchema, BorshSerialize, BorshDeserialize)]
#[schemars(title = "The output of ipc-trace ls -o json")]
pub(crate) struct Ls {
    /// The version of this object
    pub v: u8,
    /// The host's name
    pub host: String,
    /// The kernel's release
    pub kernel: String,
    /// When the look began
    pub time: Timestamp,
    /// Whether these are all IPC namespaces of the host; else those are missing that no process is
    /// to be seen in
    pub complete: bool,
    /// What could not be seen, and why, one sentence each
    pub unseen: Vec<String>,
    /// The namespaces, the host's first, then by number
    pub namespaces: Vec<NamespaceLook>,
}

/// One namespace.
#[derive(Clone, Debug, Serialize, JsonSchema, BorshSerialize, BorshDeserialize)]
pub(crate) struct NamespaceLook {
    /// What `/proc/PID/ns/ipc` shows
    pub inum: u32,
    /// Which life of that number: 1, for a look sees one moment
    pub r#gen: u32,
    /// The kernel's own number of it, which is never reused (Linux 6.18 and later)
    pub ns_id: Option<u64>,
    /// Whether it is the host's: the initial one
    pub host: bool,
    /// How it came to be: not known to a look
    #[borsh(skip)]
    pub created: Option<Created>,
    /// Its end: not known to a look
    #[borsh(skip)]
    pub destroyed: Option<Destroyed>,
    /// Containers with a process in it, by name
    #[borsh(skip)]
    pub containers: Vec<Arc<Container>>,
    /// How the containers share it; `null`: there is at most one, or in the host's none
    #[borsh(skip)]
    pub sharing: Option<Sharing>,
    /// Processes with a thread in it, by number
    pub processes: Vec<ProcessLook>,
    /// What keeps it alive or has to do with it
    pub holders: Vec<Holder>,
    /// Objects, by kind, then by id or name
    pub objects: Vec<ObjectLook>,
    /// Its limits, and how much of each is used
    pub limits: BTreeMap<LimitName, Limit>,
    /// What could not be seen of it: where `objects` or `limits` are not whole
    pub unseen: Vec<Unseen>,
    /// Device number of its mqueue file system
    #[serde(skip)]
    pub mqueue_dev: Option<u32>,
    /// From when to when its objects were listed, on `CLOCK_BOOTTIME`, nanoseconds
    #[serde(skip)]
    pub listed: (u64, u64),
}

/// A process with a thread in a namespace.
#[derive(Clone, Debug, Serialize, JsonSchema, BorshSerialize, BorshDeserialize)]
pub(crate) struct ProcessLook {
    /// As this host's `/proc` numbers it
    pub pid: u32,
    /// The parent
    pub ppid: Option<u32>,
    /// The main thread's name, or that of the first thread in the namespace
    pub comm: OsBytes<'static>,
    /// Path of the executable; `null` also of kernel threads
    pub exe: Option<OsBytes<'static>>,
    /// Effective user
    pub uid: Option<u32>,
    /// Effective group
    pub gid: Option<u32>,
    /// When the process started, on `CLOCK_BOOTTIME`, nanoseconds; with `pid` it is the process
    pub start_boot_ns: Option<u64>,
    /// Its other namespaces
    pub ns: OtherNs,
    /// Its container; `null` on the host
    #[borsh(skip)]
    pub container: Option<Arc<Container>>,
    /// Path of its cgroup, where containers are looked for
    #[serde(skip)]
    pub cgroup: Option<Vec<u8>>,
    /// Threads of it that are in this namespace: each thread can be in another one
    pub threads: u32,
}

/// What keeps a namespace alive or has to do with it.
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
    /// Threads of a process are in it: it lives as long as they do
    Process {
        /// The process
        pid: u32,
        /// How many threads
        threads: u32,
    },
    /// A descriptor
    Descriptor {
        /// The process that has it
        pid: u32,
        /// Name of that process
        comm: Option<OsBytes<'static>>,
        /// Its number
        fd: u32,
        /// What it is of
        of: DescriptorOf,
        /// The queue's name, or the file's in `/proc/sysvipc`
        name: Option<OsBytes<'static>>,
        /// Whether the namespace lives as long as it is open
        pins: bool,
    },
    /// A mount
    Mount {
        /// Inode number of the mount namespace that it is in
        mnt_ns: u32,
        /// A process that sees it
        pid: u32,
        /// Where that process sees it
        mount_point: OsBytes<'static>,
        /// What is mounted
        of: MountOf,
        /// Whether the namespace lives as long as it is mounted
        pins: bool,
    },
    /// A shared memory segment of it, mapped: it lives as long as the mapping does
    Mapping {
        /// The process that has it mapped
        pid: u32,
        /// Name of that process
        comm: Option<OsBytes<'static>>,
        /// The segment
        shmid: i32,
        /// How often it is mapped there
        mappings: u32,
        /// Bytes that are mapped
        bytes: u64,
        /// Whether the namespace is told by the kernel; else by what it must be: the only one with
        /// such a segment, or the process's own
        exact: bool,
    },
}

/// What a descriptor is of.
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
    /// The namespace itself, as `/proc/PID/ns/ipc` gives it: setns takes it
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
    /// How much of it is used; `null` of what does not fill up
    pub used: Option<u64>,
}

/// From how many hundredths of a limit on it is called pressing.
pub(crate) const PRESSING: u64 = 80;

/// `used` in hundredths of `limit`.
#[must_use]
pub(crate) fn percent(used: u64, limit: u64) -> u64 {
    let percent = u128::from(used) * 100 / u128::from(limit.max(1));
    u64::try_from(percent).unwrap_or(u64::MAX)
}

impl Limit {
    /// Hundredths of it that are used; `None` where it does not fill up.
    #[must_use]
    pub(crate) fn percent(&self) -> Option<u64> {
        self.used.map(|used| percent(used, self.limit))
    }
}

/// What could not be seen of a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema, BorshSerialize, BorshDeserialize)]
pub(crate) struct Unseen {
    /// What
    pub what: UnseenWhat,
    /// Why
    pub reason: String,
}

/// A part of what there is to be seen of a namespace.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema, BorshSerialize, BorshDeserialize,
)]
#[serde(rename_all = "snake_case")]
pub(crate) enum UnseenWhat {
    /// System V objects
    Sysv,
    /// POSIX queues
    Queues,
    /// POSIX queues that the kernel counts, without a name and without a descriptor of a process: those
    /// that have one are there
    UnlinkedQueues,
    /// Limits
    Limits,
}

impl NamespaceLook {
    /// How many objects of a kind there are.
    #[must_use]
    pub(crate) fn count(&self, kind: Family) -> usize {
        self.objects.iter().filter(|object| object.kind == FamilyName(kind)).count()
    }

    /// Whether a part of it could not be seen.
    #[must_use]
    pub(crate) fn is_unseen(&self, what: UnseenWhat) -> bool {
        self.unseen.iter().any(|unseen| unseen.what == what)
    }
}
