//! The object that `ls -o json` prints: objects by IPC namespace.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use ipc_trace_common::cbor::{self, Cbor, Encoded, encode_as_cbor};
use ipc_trace_common::op::ObjectKind;
use minicbor::{Decode, Decoder, Encode, Encoder, decode::Error, encode::Write};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};

use super::{
    Container, NsInodes, Sharing,
    objects::ObjectInfo,
    report::{Created, Destroyed},
    value::{KindName, OsBytes, Timestamp},
};

/// The IPC namespaces and objects of the host.
#[derive(Clone, Debug, Serialize, JsonSchema, Encode, Decode)]
#[schemars(title = "The output of ipc-trace ls -o json")]
pub(crate) struct Ls {
    /// The version of this object
    #[n(0)]
    pub v: u8,
    /// The host's name
    #[n(1)]
    pub host: String,
    /// The kernel's release
    #[n(2)]
    pub kernel: String,
    /// When the snapshot began
    #[n(3)]
    pub time: Timestamp,
    /// Whether all IPC namespaces of the host are listed; otherwise those without a visible process are
    /// missing
    #[n(4)]
    pub complete: bool,
    /// What couldn't be read, and why, one sentence each
    #[n(5)]
    pub unseen: Vec<String>,
    /// The namespaces, the host's first, then by number
    #[n(6)]
    pub namespaces: Vec<NamespaceSnapshot>,
}

/// One namespace.
#[derive(Clone, Debug, Serialize, JsonSchema, Encode, Decode)]
pub(crate) struct NamespaceSnapshot {
    /// What `/proc/PID/ns/ipc` shows
    #[n(0)]
    pub inum: u32,
    /// The generation of that number: always 1 in a snapshot
    #[n(1)]
    pub r#gen: u32,
    /// The kernel's own number of it, which is never reused; `null` before Linux 6.18
    #[n(2)]
    pub ns_id: Option<u64>,
    /// Whether it is the host's: the initial one
    #[n(3)]
    pub host: bool,
    /// Its creation: `null`, as a snapshot doesn't know it
    #[cbor(skip)]
    pub created: Option<Created>,
    /// Its end: `null`, as a snapshot doesn't know it
    #[cbor(skip)]
    pub destroyed: Option<Destroyed>,
    /// Containers with a process in it, by name
    #[cbor(skip)]
    pub containers: Vec<Arc<Container>>,
    /// How the containers share it; `null`: it has at most one container, or for the host's namespace none
    #[cbor(skip)]
    pub sharing: Option<Sharing>,
    /// Processes with a thread in it, by number
    #[n(4)]
    pub processes: Vec<ProcessInfo>,
    /// References that keep it alive or refer to its objects
    #[n(5)]
    pub holders: Vec<Holder>,
    /// Objects, by kind, then by id or name
    #[n(6)]
    pub objects: Vec<ObjectInfo>,
    /// Its limits, and how much of each is used
    #[n(7)]
    pub limits: BTreeMap<LimitName, Limit>,
    /// What couldn't be read of it: `objects` or `limits` are incomplete
    #[n(8)]
    pub unseen: Vec<Unseen>,
    /// Device number of its mqueue file system; `null`: unknown
    #[serde(skip)]
    #[n(9)]
    pub mqueue_dev: Option<u32>,
    /// When listing its objects began and ended, on `CLOCK_BOOTTIME`, nanoseconds
    #[serde(skip)]
    #[n(10)]
    pub listed: (u64, u64),
}

/// A process with a thread in a namespace.
#[derive(Clone, Debug, Serialize, JsonSchema, Encode, Decode)]
pub(crate) struct ProcessInfo {
    /// Its number in this host's `/proc`
    #[n(0)]
    pub pid: u32,
    /// The parent; `null`: unknown
    #[n(1)]
    pub ppid: Option<u32>,
    /// The main thread's name, or that of the first thread in the namespace
    #[n(2)]
    pub comm: OsBytes<'static>,
    /// Path of the executable; `null`: unknown, or a kernel thread
    #[n(3)]
    pub exe: Option<OsBytes<'static>>,
    /// The effective user; `null`: unknown
    #[n(4)]
    pub uid: Option<u32>,
    /// The effective group; `null`: unknown
    #[n(5)]
    pub gid: Option<u32>,
    /// When the process started, on `CLOCK_BOOTTIME`, nanoseconds; with `pid` it identifies the process;
    /// `null`: unknown
    #[n(6)]
    pub start_boot_ns: Option<u64>,
    /// Its other namespaces
    #[n(7)]
    pub ns: NsInodes,
    /// Its container; `null` on the host
    #[cbor(skip)]
    pub container: Option<Arc<Container>>,
    /// Path of its cgroup, if containers are resolved
    #[serde(skip)]
    #[cbor(n(8), with = "ipc_trace_common::cbor")]
    pub cgroup: Option<Vec<u8>>,
    /// Number of its threads in this namespace: each thread can be in another one
    #[n(9)]
    pub threads: u32,
}

/// A reference that keeps a namespace alive or refers to its objects.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema, Encode, Decode)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Holder {
    /// Threads of a process are in it, which keep it alive
    #[n(0)]
    Process {
        /// The process
        #[n(0)]
        pid: u32,
        /// Number of threads
        #[n(1)]
        threads: u32,
    },
    /// A descriptor
    #[n(1)]
    Descriptor {
        /// The process that has it
        #[n(0)]
        pid: u32,
        /// Name of that process; `null`: unknown
        #[n(1)]
        comm: Option<OsBytes<'static>>,
        /// Its number
        #[n(2)]
        fd: u32,
        /// What the descriptor refers to
        #[n(3)]
        of: DescriptorOf,
        /// The name of the queue, or of the file in `/proc/sysvipc`; `null`: unknown
        #[n(4)]
        name: Option<OsBytes<'static>>,
        /// Whether it keeps the namespace alive
        #[n(5)]
        pins: bool,
    },
    /// A mount
    #[n(2)]
    Mount {
        /// Inode number of the mount namespace that it is in
        #[n(0)]
        mnt_ns: u32,
        /// A process that sees it
        #[n(1)]
        pid: u32,
        /// The mount point in that process's view
        #[n(2)]
        mount_point: OsBytes<'static>,
        /// What is mounted
        #[n(3)]
        of: MountOf,
        /// Whether it keeps the namespace alive
        #[n(4)]
        pins: bool,
    },
    /// A mapping of a shared memory segment, which keeps the namespace alive
    #[n(3)]
    Mapping {
        /// The process that has it mapped
        #[n(0)]
        pid: u32,
        /// Name of that process; `null`: unknown
        #[n(1)]
        comm: Option<OsBytes<'static>>,
        /// The segment
        #[n(2)]
        shmid: i32,
        /// Number of mappings in the process
        #[n(3)]
        mappings: u32,
        /// Mapped size in bytes
        #[n(4)]
        bytes: u64,
        /// Whether the kernel states the namespace; otherwise it is inferred: the only one with such a
        /// segment, or the process's own
        #[n(5)]
        exact: bool,
    },
}

/// What a descriptor refers to.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema, Encode, Decode,
)]
#[serde(rename_all = "snake_case")]
pub(crate) enum DescriptorOf {
    /// The namespace itself, from `/proc/PID/ns/ipc`; setns accepts it
    #[n(0)]
    Namespace,
    /// A queue, or the root of an mqueue file system
    #[n(1)]
    Queue,
    /// A file of `/proc/sysvipc`, opened in the namespace
    #[n(2)]
    Sysvipc,
}

/// What is mounted.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema, Encode, Decode,
)]
#[serde(rename_all = "snake_case")]
pub(crate) enum MountOf {
    /// The namespace itself, as `/proc/PID/ns/ipc`
    #[n(0)]
    Namespace,
    /// Its mqueue file system
    #[n(1)]
    Mqueue,
}

macro_rules! limits {
    ($($variant:ident = $name:literal, $what:literal;)*) => {
        /// A limit of a namespace.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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

impl Cbor for LimitName {
    fn put<W: Write>(&self, to: &mut Encoder<W>) -> Encoded<W> {
        (*self as u8).put(to)
    }

    fn take(from: &mut Decoder<'_>) -> Result<Self, Error> {
        let one = Self::ALL.get(usize::from(u8::take(from)?)).copied();
        one.ok_or_else(|| cbor::invalid("no such limit"))
    }
}

encode_as_cbor!(LimitName);

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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema, Encode, Decode)]
pub(crate) struct Limit {
    /// Its value
    #[n(0)]
    pub limit: u64,
    /// How much of it is used; `null`: the limit has no usage
    #[n(1)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema, Encode, Decode)]
pub(crate) struct Unseen {
    /// The part
    #[n(0)]
    pub what: UnseenWhat,
    /// Why it couldn't be read
    #[n(1)]
    pub reason: String,
}

/// A part of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema, Encode, Decode)]
#[serde(rename_all = "snake_case")]
pub(crate) enum UnseenWhat {
    /// System V objects
    #[n(0)]
    Sysv,
    /// POSIX queues
    #[n(1)]
    Queues,
    /// POSIX queues that the kernel counts, without a name and without a process's descriptor; unlinked
    /// queues with a descriptor are listed
    #[n(2)]
    UnlinkedQueues,
    /// Limits
    #[n(3)]
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
