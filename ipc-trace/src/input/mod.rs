//! What the engine is fed with: the one vocabulary of all sources.
//!
//! | module | its job |
//! | --- | --- |
//! | [`args`] | the arguments of a call |
//! | [`batch`] | calls that came together |
//! | [`deeds`] | what a call did to objects |
//! | [`flags`] | the names of flags and commands |

pub(crate) mod args;
pub(crate) mod batch;
pub(crate) mod deeds;
pub(crate) mod flags;

use ipc_trace_common::{
    op::{Abi, Code, Op},
    record::{
        CallRecord, CtlPart, Header, MsgPart, NamePart, QueuePart, QueueRef, Sembuf, SemopPart,
        VERSION, flag,
    },
};

use zerocopy::{FromBytes, Immutable, KnownLayout};

use crate::event::ReadFrom;

/// Why bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DecodeError {
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

/// What a process was called with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arguments<'a> {
    /// That was not asked for
    None,
    /// It could not be read
    Unread,
    /// The beginning, each with a NUL behind
    Read(&'a [u8]),
}

/// A call that returned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call<'a> {
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
pub(crate) enum Part<'a> {
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
    pub(crate) fn queue(&self) -> Option<&QueueRef> {
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
    pub(crate) const fn made(&self) -> Option<bool> {
        match (self.has(flag::NOT_MADE), self.has(flag::ENTRY_UNSEEN)) {
            (true, _) => Some(false),
            (false, true) => None,
            (false, false) => Some(true),
        }
    }

    /// The raw result; of a call that was not made, what the caller got. `None`: that is not known.
    #[must_use]
    pub(crate) fn ret(&self) -> Option<i64> {
        (!self.has(flag::RET_UNKNOWN)).then_some(self.record.ret)
    }

    /// Where it was read what the kernel takes: the weakest of all sources.
    #[must_use]
    pub(crate) fn args_from(&self) -> ReadFrom {
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
    pub(crate) const fn has(&self, flag: u32) -> bool {
        self.record.header.flags & flag != 0
    }
}

pub(crate) fn view<T: FromBytes + KnownLayout + Immutable>(
    bytes: &[u8],
    kind: u8,
) -> Result<(&T, &[u8]), DecodeError> {
    T::ref_from_prefix(bytes).map_err(|_| DecodeError::Short { kind, len: bytes.len() })
}

#[inline(always)]
pub(crate) fn meaning(header: &Header) -> Result<(Op, Abi, Code), DecodeError> {
    let code = Code(header.code);
    match (code.op(), Abi::ALL.get(usize::from(header.abi))) {
        (Some(op), Some(&abi)) => Ok((op, abi, code)),
        _ => Err(DecodeError::Call { abi: header.abi, code: header.code }),
    }
}
