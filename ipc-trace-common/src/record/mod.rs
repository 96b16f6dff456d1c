//! The records that the eBPF programs write: into the event ring ([`RecordKind::Call`], [`RecordKind::Batch`]), the control ring
//! (all others, [`RecordKind::Change`] among them), the namespace list ([`RecordKind::Pending`], [`RecordKind::Alive`]) and the task iterator ([`RecordKind::Task`],
//! [`RecordKind::Descriptor`], [`RecordKind::Mapping`]).
//!
//! A record starts with a [`Header`]. `boot_ns` is `CLOCK_BOOTTIME` in nanoseconds. Parts that a
//! flag of the header does not vouch for hold whatever was in the ring before.
//!
//! | file | its records |
//! | --- | --- |
//! | `header` | what all begin with |
//! | `refs` | what many refer to: namespaces, queues |
//! | `calls` | calls, each with what belongs to its operation |
//! | `batches` | calls of one thread, in one record |
//! | `processes` | threads, their ends, cgroups |
//! | `namespaces` | namespaces, and who got into them |
//! | `accesses` | queues' names, and ways to objects that are no operations |
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
    accesses::{AccessRecord, Channel, QueueRecord},
    batches::{BATCH, BatchHead, BatchRecord, BatchedCall, PackedCall},
    calls::{
        CallRecord, CtlPart, GIVEN_NAME_LEN, MsgPart, NO_DURATION, NamePart, QueuePart, SOPS,
        Sembuf, SemopPart,
    },
    header::{Header, RecordKind, VERSION, flag},
    listed::{
        DescriptorKind, DescriptorRecord, EndRecord, MappingRecord, PendingRecord, TaskRecord,
    },
    namespaces::{MoveRecord, NamespaceRecord, NsSwitchKind, UNKNOWN_COUNT},
    processes::{
        ANCESTORS, ARGS_LEN, AncestorRecord, CGROUP_PATH_LEN, CgroupRecord, ContextRecord, EXE_LEN,
        ExitRecord, UID_EXTENTS, UidExtent,
    },
    refs::{NAME_LEN, NsRef, QueueRef, queue_flag},
};
