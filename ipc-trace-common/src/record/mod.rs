//! The records that the eBPF programs write: into the event ring ([`RecordKind::Call`], [`RecordKind::Batch`]), the
//! control ring (all others, including [`RecordKind::Change`]), the namespace list ([`RecordKind::Pending`],
//! [`RecordKind::Alive`]) and the task iterator ([`RecordKind::Task`], [`RecordKind::Descriptor`],
//! [`RecordKind::Mapping`]).
//!
//! A record starts with a [`Header`]. `boot_ns` is `CLOCK_BOOTTIME` in nanoseconds. If the header's flag for a part
//! isn't set, that part holds undefined bytes.
//!
//! | file | records |
//! | --- | --- |
//! | `header` | the common header |
//! | `refs` | references to namespaces and queues |
//! | `calls` | calls, each with its operation's payload |
//! | `batches` | calls of one thread in one record |
//! | `processes` | threads, their ends, cgroups |
//! | `namespaces` | namespaces, and threads that entered them |
//! | `accesses` | queues' names, and accesses without an IPC call |
//! | `listed` | what the namespace list and the task iterator find |

mod accesses;
mod batches;
mod calls;
mod header;
mod listed;
mod namespaces;
mod processes;
mod refs;

pub use self::{
    accesses::{AccessPath, AccessRecord, QueueRecord},
    batches::{
        BATCH, BATCH_NS, BatchHead, BatchRecord, BatchedDuration, BatchedGroup, GROUPS, PackedCall,
    },
    calls::{
        CallRecord, CtlPart, GIVEN_NAME_LEN, MsgPart, NO_DURATION, NamePart, QueuePart, SOPS,
        Sembuf, SemopPart,
    },
    header::{Header, RecordKind, VERSION, flag},
    listed::{
        DescriptorKind, DescriptorRecord, EndRecord, MappingRecord, PendingRecord, TaskRecord,
    },
    namespaces::{NamespaceRecord, NsSwitchKind, NsSwitchRecord, UNKNOWN_COUNT},
    processes::{
        ANCESTORS, ARGS_LEN, AncestorRecord, CGROUP_PATH_LEN, CgroupRecord, ContextRecord, EXE_LEN,
        ExitRecord, UID_EXTENTS, UidExtent,
    },
    refs::{NAME_LEN, NsRef, QueueRef, queue_flag},
};
