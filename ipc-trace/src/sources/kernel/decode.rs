//! From the bytes of a record to a typed view of it: pure, checked, and without copying.
//!
//! Invariant: any bytes yield a record, `Unknown`, or an error; never a panic. Parts whose flag in the header isn't
//! set are not read.

use ipc_trace_common::{
    op::{Abi, Op},
    record::{
        ARGS_LEN, AccessRecord, CgroupRecord, ContextRecord, DescriptorRecord, EndRecord,
        ExitRecord, Header, MappingRecord, NamespaceRecord, NsSwitchRecord, PendingRecord,
        QueueRecord, RecordKind, TaskRecord, VERSION, flag,
    },
};

use crate::input::{Arguments, Call, DecodeError, batch::CallBatch, meaning, view};

/// A record.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Record<'a> {
    /// A call returned
    Call(Call<'a>),
    /// A thread's description, and its process's arguments
    Context(&'a ContextRecord, Arguments<'a>),
    /// The first appearance of a namespace
    Namespace(&'a NamespaceRecord),
    /// A thread entered another namespace
    Move(&'a NsSwitchRecord),
    /// A thread ended
    Exit(&'a ExitRecord),
    /// The first appearance of a queue
    Queue(&'a QueueRecord),
    /// A call that has not returned
    Pending(&'a PendingRecord, Op, Abi),
    /// A namespace that exists
    Alive(&'a NamespaceRecord),
    /// The namespace list is complete
    End(&'a EndRecord),
    /// A thread that exists
    Task(&'a TaskRecord),
    /// A descriptor related to an IPC namespace
    Descriptor(&'a DescriptorRecord),
    /// A mapped segment
    Mapping(&'a MappingRecord),
    /// A call that changed objects and is not among the events
    Change(Call<'a>),
    /// Calls that returned one after another
    Batch(CallBatch<'a>),
    /// A cgroup was created or removed
    Cgroup(&'a CgroupRecord),
    /// A thread accessed an object that may be another namespace's
    Access(&'a AccessRecord),
    /// A kind that this version does not know
    Unknown,
}

fn arguments<'a>(record: &ContextRecord, rest: &'a [u8]) -> Arguments<'a> {
    let has = |bit| record.header.flags & bit != 0;
    if !has(flag::DETAIL) {
        return Arguments::None;
    }
    let len = usize::try_from(record.args_len).map_or(ARGS_LEN, |len| len.min(ARGS_LEN));
    match rest.get(..len) {
        Some(bytes) if !has(flag::FAULT) => Arguments::Read(bytes),
        Some(_) | None => Arguments::Unread,
    }
}

/// The record in `bytes`, which are aligned to 8 as in the ring.
///
/// # Errors
/// The bytes are too few, of another version, or an unknown call.
#[inline(always)] // Where it is known which kinds are wanted, the others go.
pub(crate) fn record(bytes: &[u8]) -> Result<Record<'_>, DecodeError> {
    let (header, _) = view::<Header>(bytes, 0)?;
    if header.version != VERSION {
        return Err(DecodeError::Version(header.version));
    }
    let kind = header.kind;
    const CALL: u8 = RecordKind::Call as u8;
    const CONTEXT: u8 = RecordKind::Context as u8;
    const NAMESPACE: u8 = RecordKind::Namespace as u8;
    const MOVE: u8 = RecordKind::Move as u8;
    const EXIT: u8 = RecordKind::Exit as u8;
    const QUEUE: u8 = RecordKind::Queue as u8;
    const PENDING: u8 = RecordKind::Pending as u8;
    const ALIVE: u8 = RecordKind::Alive as u8;
    const END: u8 = RecordKind::End as u8;
    const TASK: u8 = RecordKind::Task as u8;
    const DESCRIPTOR: u8 = RecordKind::Descriptor as u8;
    const MAPPING: u8 = RecordKind::Mapping as u8;
    const CHANGE: u8 = RecordKind::Change as u8;
    const BATCH: u8 = RecordKind::Batch as u8;
    const CGROUP: u8 = RecordKind::Cgroup as u8;
    const ACCESS: u8 = RecordKind::Access as u8;
    Ok(match kind {
        CALL => Record::Call(Call::decode(bytes)?),
        CONTEXT => {
            let (record, rest) = view(bytes, kind)?;
            Record::Context(record, arguments(record, rest))
        }
        NAMESPACE => Record::Namespace(view(bytes, kind)?.0),
        MOVE => Record::Move(view(bytes, kind)?.0),
        EXIT => Record::Exit(view(bytes, kind)?.0),
        QUEUE => Record::Queue(view(bytes, kind)?.0),
        PENDING => {
            let (op, abi, _) = meaning(header)?;
            Record::Pending(view(bytes, kind)?.0, op, abi)
        }
        ALIVE => Record::Alive(view(bytes, kind)?.0),
        END => Record::End(view(bytes, kind)?.0),
        TASK => Record::Task(view(bytes, kind)?.0),
        DESCRIPTOR => Record::Descriptor(view(bytes, kind)?.0),
        MAPPING => Record::Mapping(view(bytes, kind)?.0),
        CHANGE => Record::Change(Call::decode(bytes)?),
        BATCH => Record::Batch(CallBatch::new(bytes)?),
        CGROUP => Record::Cgroup(view(bytes, kind)?.0),
        ACCESS => Record::Access(view(bytes, kind)?.0),
        _ => Record::Unknown,
    })
}

/// A record that an iterator writes.
#[derive(Debug)]
pub(crate) enum IteratorRecord<'a> {
    /// A call that has not returned
    Pending(&'a PendingRecord, Op, Abi),
    /// A namespace
    Alive(&'a NamespaceRecord),
    /// The end
    End(&'a EndRecord),
    /// A thread
    Task(&'a TaskRecord),
    /// A descriptor
    Descriptor(&'a DescriptorRecord),
    /// A mapped segment
    Mapping(&'a MappingRecord),
}

/// Splits an iterator's output into records: they follow one another without gaps.
///
/// # Errors
/// The bytes end within a record, or one has another version, or no iterator writes it.
pub(crate) fn iterated(
    mut bytes: &[u8],
    mut each: impl FnMut(IteratorRecord<'_>),
) -> Result<(), DecodeError> {
    while !bytes.is_empty() {
        let (one, len) = match record(bytes)? {
            Record::Pending(r, op, abi) => (IteratorRecord::Pending(r, op, abi), size_of_val(r)),
            Record::Alive(r) => (IteratorRecord::Alive(r), size_of_val(r)),
            Record::End(r) => (IteratorRecord::End(r), size_of_val(r)),
            Record::Task(r) => (IteratorRecord::Task(r), size_of_val(r)),
            Record::Descriptor(r) => (IteratorRecord::Descriptor(r), size_of_val(r)),
            Record::Mapping(r) => (IteratorRecord::Mapping(r), size_of_val(r)),
            Record::Call(_)
            | Record::Context(..)
            | Record::Namespace(_)
            | Record::Move(_)
            | Record::Exit(_)
            | Record::Queue(_)
            | Record::Change(_)
            | Record::Batch(_)
            | Record::Cgroup(_)
            | Record::Access(_)
            | Record::Unknown => {
                return Err(DecodeError::Short {
                    kind: bytes.get(1).copied().unwrap_or(0),
                    len: 0,
                });
            }
        };
        each(one);
        bytes = bytes.get(len..).unwrap_or_default();
    }
    Ok(())
}
