//! From the bytes of a record to a typed view of it: pure, checked, and without copies.
//!
//! | module | its job |
//! | --- | --- |
//! | [`args`] | the arguments of a call |
//! | [`batch`] | calls that came together |
//! | [`deeds`] | what a call did to objects |
//! | [`flags`] | the names of flags and commands |
//!
//! Invariant: any bytes give a record, `Unknown`, or an error; never a panic. Parts that no flag of
//! the header vouches for are not looked at.

pub mod args;
pub mod batch;
pub mod deeds;
pub mod flags;

use ipc_trace_common::{
    op::{Abi, Code, Op},
    record::{
        ARGS_LEN, AccessRecord, CallRecord, CgroupRecord, ContextRecord, CtlPart, DescriptorRecord,
        EndRecord, ExitRecord, Header, Kind, MappingRecord, MoveRecord, MsgPart, NamePart,
        NamespaceRecord, PendingRecord, QueuePart, QueueRecord, QueueRef, Sembuf, SemopPart,
        TaskRecord, VERSION, flag,
    },
};
use zerocopy::{FromBytes, Immutable, KnownLayout};

use crate::event::ReadFrom;
use batch::Batch;

/// Why bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Fewer bytes than the record has.
    #[error("a record of kind {kind} with only {len} bytes")]
    Short {
        /// Its kind
        kind: u8,
        /// The bytes that are there
        len: usize,
    },
    /// The kernel side is of another version.
    #[error("a record of version {0}, not {VERSION}")]
    Version(u8),
    /// A value that no record holds.
    #[error("a call with ABI {abi} and code {code}")]
    Call {
        /// The ABI's number
        abi: u8,
        /// The code
        code: u8,
    },
}

/// A record.
#[derive(Clone, Copy, Debug)]
pub enum Record<'a> {
    /// A call returned
    Call(Call<'a>),
    /// Who a thread is, and what its process was called with
    Context(&'a ContextRecord, Arguments<'a>),
    /// A namespace shows itself
    Namespace(&'a NamespaceRecord),
    /// A thread got into another namespace
    Move(&'a MoveRecord),
    /// A thread ended
    Exit(&'a ExitRecord),
    /// A queue shows itself
    Queue(&'a QueueRecord),
    /// A call that has not returned
    Pending(&'a PendingRecord, Op, Abi),
    /// A namespace that exists
    Alive(&'a NamespaceRecord),
    /// The census is complete
    End(&'a EndRecord),
    /// A thread that exists
    Task(&'a TaskRecord),
    /// A descriptor that has to do with an IPC namespace
    Descriptor(&'a DescriptorRecord),
    /// A mapped segment
    Mapping(&'a MappingRecord),
    /// A call that changed objects and is not among the events
    Change(Call<'a>),
    /// Calls that returned one after another
    Batch(Batch<'a>),
    /// A cgroup was made or removed
    Cgroup(&'a CgroupRecord),
    /// A thread reached what may be another namespace's
    Access(&'a AccessRecord),
    /// A kind that this version does not know
    Unknown(u8),
}

/// What a process was called with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arguments<'a> {
    /// That was not asked for
    None,
    /// It could not be read
    Unread,
    /// The beginning, each with a NUL behind
    Read(&'a [u8]),
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

/// A call that returned.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// What was called
    pub op: Op,
    /// How it came in
    pub abi: Abi,
    /// The operation with the variant of its arguments
    pub code: Code,
    /// What all calls have
    pub record: &'a CallRecord,
    /// What belongs to the operation
    pub part: Part<'a>,
}

/// What belongs to an operation.
#[derive(Clone, Copy, Debug)]
pub enum Part<'a> {
    /// shmget, shmat, shmdt, semget, msgget
    None,
    /// semop of at most one operation, without a time limit
    InlineSemop(Sembuf),
    /// semop
    Semop(&'a SemopPart),
    /// msgsnd, msgrcv
    Msg(&'a MsgPart),
    /// shmctl, semctl, msgctl
    Ctl(&'a CtlPart),
    /// mq_send, mq_receive, mq_notify, mq_getsetattr
    Queue(&'a QueuePart),
    /// mq_open, mq_unlink
    Name(&'a NamePart),
}

impl Call<'_> {
    /// The queue behind the descriptor, for operations that have one.
    #[must_use]
    pub fn queue(&self) -> Option<&QueueRef> {
        match self.part {
            Part::Queue(part) => Some(&part.queue),
            Part::Name(part) => Some(&part.queue),
            Part::None | Part::InlineSemop(_) | Part::Semop(_) | Part::Msg(_) | Part::Ctl(_) => {
                None
            }
        }
    }

    /// Whether the kernel made the call. `None`: its entry was not seen.
    #[must_use]
    pub const fn made(&self) -> Option<bool> {
        match (self.has(flag::NOT_MADE), self.has(flag::ENTRY_UNSEEN)) {
            (true, _) => Some(false),
            (false, true) => None,
            (false, false) => Some(true),
        }
    }

    /// The raw result; of a call that was not made, what the caller got. `None`: that is not known.
    #[must_use]
    pub fn ret(&self) -> Option<i64> {
        (!self.has(flag::RET_UNKNOWN)).then_some(self.record.ret)
    }

    /// Where it was read what the kernel takes: the weakest of all sources.
    #[must_use]
    pub fn args_from(&self) -> ReadFrom {
        match (self.takes_memory(), self.has(flag::AT_ENTRY)) {
            (false, _) => ReadFrom::Kernel,
            (true, true) => ReadFrom::Entry,
            (true, false) => ReadFrom::Return,
        }
    }

    /// Whether the kernel takes something for this call from the caller's memory.
    fn takes_memory(&self) -> bool {
        let given = |at: usize| self.record.args.get(at).is_some_and(|address| *address != 0);
        let sets = |at| self.plain_command(at) == flags::IPC_SET;
        match self.op {
            Op::Semop | Op::Msgsnd | Op::MqOpen | Op::MqUnlink => true,
            // Of these, `ipc(2)` takes arguments from there.
            Op::Msgrcv => self.has(flag::INDIRECT),
            Op::Semctl => self.has(flag::INDIRECT) || sets(2),
            Op::Shmctl | Op::Msgctl => sets(1),
            Op::MqSend | Op::MqReceive => given(4),
            Op::MqNotify | Op::MqGetsetattr => given(1),
            Op::Shmget | Op::Shmat | Op::Shmdt | Op::Semget | Op::Msgget => false,
        }
    }

    /// Whether a flag of the header is set.
    #[must_use]
    pub const fn has(&self, flag: u32) -> bool {
        self.record.header.flags & flag != 0
    }
}

fn view<T: FromBytes + KnownLayout + Immutable>(
    bytes: &[u8],
    kind: u8,
) -> Result<(&T, &[u8]), DecodeError> {
    T::ref_from_prefix(bytes).map_err(|_| DecodeError::Short { kind, len: bytes.len() })
}

/// The record in `bytes`, which are aligned to 8 as the ring has them.
///
/// # Errors
/// The bytes are too few, of another version, or no call that exists.
#[inline(always)] // Where it is known which kinds are wanted, the others go.
pub fn record(bytes: &[u8]) -> Result<Record<'_>, DecodeError> {
    let (header, _) = view::<Header>(bytes, 0)?;
    if header.version != VERSION {
        return Err(DecodeError::Version(header.version));
    }
    let kind = header.kind;
    const CALL: u8 = Kind::Call as u8;
    const CONTEXT: u8 = Kind::Context as u8;
    const NAMESPACE: u8 = Kind::Namespace as u8;
    const MOVE: u8 = Kind::Move as u8;
    const EXIT: u8 = Kind::Exit as u8;
    const QUEUE: u8 = Kind::Queue as u8;
    const PENDING: u8 = Kind::Pending as u8;
    const ALIVE: u8 = Kind::Alive as u8;
    const END: u8 = Kind::End as u8;
    const TASK: u8 = Kind::Task as u8;
    const DESCRIPTOR: u8 = Kind::Descriptor as u8;
    const MAPPING: u8 = Kind::Mapping as u8;
    const CHANGE: u8 = Kind::Change as u8;
    const BATCH: u8 = Kind::Batch as u8;
    const CGROUP: u8 = Kind::Cgroup as u8;
    const ACCESS: u8 = Kind::Access as u8;
    Ok(match kind {
        CALL => Record::Call(call(bytes)?),
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
        CHANGE => Record::Change(call(bytes)?),
        BATCH => Record::Batch(Batch::new(bytes)?),
        CGROUP => Record::Cgroup(view(bytes, kind)?.0),
        ACCESS => Record::Access(view(bytes, kind)?.0),
        other => Record::Unknown(other),
    })
}

#[inline(always)]
fn meaning(header: &Header) -> Result<(Op, Abi, Code), DecodeError> {
    let code = Code(header.code);
    match (code.op(), Abi::ALL.get(usize::from(header.abi))) {
        (Some(op), Some(&abi)) => Ok((op, abi, code)),
        _ => Err(DecodeError::Call { abi: header.abi, code: header.code }),
    }
}

#[inline(always)]
fn call(bytes: &[u8]) -> Result<Call<'_>, DecodeError> {
    let kind = Kind::Call as u8;
    let (record, rest) = view::<CallRecord>(bytes, kind)?;
    let (op, abi, code) = meaning(&record.header)?;
    let part = match op {
        Op::Shmget | Op::Shmat | Op::Shmdt | Op::Semget | Op::Msgget => Part::None,
        Op::Semop if record.header.flags & flag::INLINE != 0 => {
            let [.., packed] = record.args;
            Part::InlineSemop(sembuf(packed))
        }
        Op::Semop => Part::Semop(view(rest, kind)?.0),
        Op::Msgsnd | Op::Msgrcv => Part::Msg(view(rest, kind)?.0),
        Op::Shmctl | Op::Semctl | Op::Msgctl => Part::Ctl(view(rest, kind)?.0),
        Op::MqSend | Op::MqReceive | Op::MqNotify | Op::MqGetsetattr => {
            Part::Queue(view(rest, kind)?.0)
        }
        Op::MqOpen | Op::MqUnlink => Part::Name(view(rest, kind)?.0),
    };
    Ok(Call { op, abi, code, record, part })
}

/// The `struct sembuf` in the low 48 bits.
const fn sembuf(packed: u64) -> Sembuf {
    let [a, b, c, d, e, f, _, _] = packed.to_le_bytes();
    Sembuf {
        sem_num: u16::from_le_bytes([a, b]),
        sem_op: i16::from_le_bytes([c, d]),
        sem_flg: i16::from_le_bytes([e, f]),
    }
}

/// Splits what an iterator wrote into records: they follow one another without gaps.
///
/// # Errors
/// The bytes end within a record, or one has another version.
pub fn iterated(mut bytes: &[u8], mut each: impl FnMut(Record<'_>)) -> Result<(), DecodeError> {
    while !bytes.is_empty() {
        let one = record(bytes)?;
        let len = match one {
            Record::Pending(..) => size_of::<PendingRecord>(),
            Record::Alive(_) => size_of::<NamespaceRecord>(),
            Record::End(_) => size_of::<EndRecord>(),
            Record::Task(_) => size_of::<TaskRecord>(),
            Record::Descriptor(_) => size_of::<DescriptorRecord>(),
            Record::Mapping(_) => size_of::<MappingRecord>(),
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
            | Record::Unknown(_) => {
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
