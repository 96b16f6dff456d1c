//! The effect of a successful call on objects, from the call alone.

use ipc_trace_common::{
    op::{Effect, ObjectKind, OpTarget},
    record::{QueueRef, flag, queue_flag},
};

use super::{
    Call, CallPayload,
    args::PERMISSIONS,
    flags::{self, CREAT, EXCL},
};
use crate::event::{
    ReadFrom,
    args::IpcSet,
    value::{CallError, OsBytes},
};

/// Whether the call created the object that it returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Creation {
    /// It did: `IPC_PRIVATE`, `IPC_EXCL` or `O_EXCL`, or the kernel was observed to create it.
    Yes,
    /// It may have: `IPC_CREAT` or `O_CREAT` alone, where creations in the kernel aren't observed.
    Maybe,
    /// It didn't: the object existed.
    No,
}

/// Attributes of a new object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct NewObjectAttrs {
    /// Permission bits
    pub mode: Option<u32>,
    /// As `ObjectInfo::size`
    pub size: Option<u64>,
}

/// The effect of a call on an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CallEffect<'a> {
    /// Returned the id of a System V object.
    Got {
        /// Its kind
        kind: ObjectKind,
        /// Its id
        id: i32,
        /// The key of the lookup.
        key: u32,
        /// Whether the call created it.
        made: Creation,
        /// Its attributes if the call created it.
        like: NewObjectAttrs,
    },
    /// Used a System V object
    Used(ObjectKind, i32),
    /// Removed one
    Removed(ObjectKind, i32),
    /// Set its owner and permissions
    Set(ObjectKind, i32, Option<IpcSet>),
    /// Attached a segment
    Attached {
        /// The segment
        id: i32,
        /// The address, if the call has it.
        at: Option<u64>,
    },
    /// Detached a segment
    Detached {
        /// The address.
        at: u64,
    },
    /// Opened a queue
    Opened {
        /// The queue
        queue: QueueRef,
        /// Its name
        name: Option<OsBytes<'a>>,
        /// Whether the call created it.
        made: Creation,
        /// Its attributes if the call created it.
        like: NewObjectAttrs,
    },
    /// Used a queue
    QueueUsed(QueueRef),
    /// Removed the name of a queue
    Unlinked(OsBytes<'a>),
}

const IPC_RMID: u32 = 0;
const O_EXCL: u64 = 0o200;

impl<'a> Call<'a> {
    /// The effect of the call; `None`: it failed, or its object is unknown.
    #[must_use]
    pub(crate) fn effect(&self) -> Option<CallEffect<'a>> {
        if CallError::from_ret(self.record.ret).is_some() || self.made() == Some(false) {
            return None;
        }
        match self.op.effect() {
            Effect::Create { flags } => match self.op.target() {
                OpTarget::Name => self.opened(),
                OpTarget::Key | OpTarget::Id | OpTarget::Address | OpTarget::Descriptor => {
                    self.got(self.uint(usize::from(flags)))
                }
            },
            Effect::Control { command } => self.controlled_effect(usize::from(command)),
            Effect::Attach => {
                // With ipc(2) the address is stored in the caller's memory, and the result is 0.
                let [_, _, _, stored, _] = self.record.args;
                let at = match self.has(flag::MULTIPLEXED) {
                    true => Some(stored).filter(|at| *at != 0),
                    false => Some(self.record.ret.cast_unsigned()),
                };
                Some(CallEffect::Attached { id: self.int(0), at })
            }
            Effect::Detach => Some(CallEffect::Detached { at: self.record.args[0] }),
            // A name read after the directory entry was gone may be another queue's.
            Effect::Unlink if self.args_from() == ReadFrom::Return => None,
            Effect::Unlink => self.name().map(CallEffect::Unlinked),
            Effect::Use | Effect::Read if self.op.takes_descriptor() => {
                let queue = *self.queue()?;
                (queue.flags & queue_flag::KNOWN != 0).then_some(CallEffect::QueueUsed(queue))
            }
            Effect::Use | Effect::Read => {
                Some(CallEffect::Used(self.op.object_kind(), self.int(0)))
            }
        }
    }

    fn got(&self, flags: u32) -> Option<CallEffect<'a>> {
        let size = match self.op.object_kind() {
            ObjectKind::Shm => Some(self.record.args[1]),
            ObjectKind::Sem => Some(u64::from(self.uint(1))),
            ObjectKind::Msg | ObjectKind::Mq => None,
        };
        let key = self.key().0;
        let made = match (key, flags & CREAT != 0, flags & EXCL != 0) {
            (0, ..) | (_, true, true) => Creation::Yes,
            (_, true, false) => self.made_if_absent(),
            // Without IPC_CREAT, IPC_EXCL means nothing (ipcget_public, ipc/util.c, 6.12).
            (_, false, _) => Creation::No,
        };
        let like = NewObjectAttrs { mode: Some(flags & PERMISSIONS), size };
        Some(CallEffect::Got {
            kind: self.op.object_kind(),
            id: self.returned_id()?,
            key,
            made,
            like,
        })
    }

    /// Whether a call created the object, given that it creates it only if missing.
    const fn made_if_absent(&self) -> Creation {
        match (self.has(flag::CREATED_KNOWN), self.has(flag::MADE)) {
            (false, _) => Creation::Maybe,
            (true, true) => Creation::Yes,
            (true, false) => Creation::No,
        }
    }

    fn controlled_effect(&self, at: usize) -> Option<CallEffect<'a>> {
        let kind = self.op.object_kind();
        match self.plain_command(at) {
            IPC_RMID => Some(CallEffect::Removed(kind, self.int(0))),
            flags::IPC_SET => Some(CallEffect::Set(kind, self.int(0), self.ipc_set(at))),
            _ => self.named().id.map(|id| CallEffect::Used(kind, id)),
        }
    }

    fn opened(&self) -> Option<CallEffect<'a>> {
        let CallPayload::Name(part) = self.part else { return None };
        if part.queue.flags & queue_flag::KNOWN == 0 {
            return None;
        }
        let oflag = self.record.args[1];
        let made = match (oflag & flags::O_CREAT != 0, oflag & O_EXCL != 0) {
            (true, true) => Creation::Yes,
            (true, false) => self.made_if_absent(),
            (false, _) => Creation::No,
        };
        let attr = self.mq_attr(flag::EXTRA);
        let room = attr.and_then(|attr| {
            let number = |value: i64| u64::try_from(value).ok();
            number(attr.mq_maxmsg)?.checked_mul(number(attr.mq_msgsize)?)
        });
        // Permissions of the mode are all but the file's type.
        let mode = (part.mode != 0).then_some(part.mode & 0o7777);
        let like = NewObjectAttrs { mode, size: room.filter(|_| made != Creation::No) };
        Some(CallEffect::Opened { queue: part.queue, name: self.name(), made, like })
    }
}

#[cfg(test)]
mod tests {
    use ipc_trace_common::{
        op::{Abi, Op, SyscallCode, Timeout},
        record::{CallRecord, NamePart},
    };
    use zerocopy::FromZeros as _;

    use super::*;

    fn effect<R>(
        op: Op,
        args: [u64; 5],
        ret: i64,
        flags: u32,
        then: impl FnOnce(Option<CallEffect<'_>>) -> R,
    ) -> R {
        let mut record = CallRecord::new_zeroed();
        record.args = args;
        record.ret = ret;
        record.header.flags = flags;
        let code = SyscallCode::new(op, Timeout::None);
        then(Call { op, abi: Abi::X86_64, code, record: &record, part: CallPayload::None }.effect())
    }

    #[test]
    fn the_flags_say_whether_a_call_created_an_object() {
        let made = |key, flags| {
            effect(Op::Semget, [key, 3, flags, 0, 0], 7, 0, |effect| match effect {
                Some(CallEffect::Got { made, id: 7, kind: ObjectKind::Sem, .. }) => made,
                other => panic!("{other:?}"),
            })
        };
        assert_eq!(made(0, 0), Creation::Yes);
        assert_eq!(made(5, 0o1600), Creation::Maybe);
        assert_eq!(made(5, 0o3600), Creation::Yes);
        assert_eq!(made(5, 0o2600), Creation::No);
        assert_eq!(made(5, 0), Creation::No);
    }

    #[test]
    fn an_observed_creation_overrides_the_flags() {
        let made = |semflg, flags| {
            effect(Op::Semget, [5, 3, semflg, 0, 0], 7, flags, |effect| match effect {
                Some(CallEffect::Got { made, .. }) => made,
                other => panic!("{other:?}"),
            })
        };
        assert_eq!(made(0o1600, flag::CREATED_KNOWN), Creation::No);
        assert_eq!(made(0o1600, flag::CREATED_KNOWN | flag::MADE), Creation::Yes);
        assert_eq!(made(0o1600, flag::MADE), Creation::Maybe);
        // The call's own flags take precedence.
        assert_eq!(made(0o3600, flag::CREATED_KNOWN), Creation::Yes);
        assert_eq!(made(0, flag::CREATED_KNOWN | flag::MADE), Creation::No);
    }

    #[test]
    fn attributes_of_an_existing_queue_are_ignored() {
        let mut part = NamePart::new_zeroed();
        part.queue.flags = queue_flag::KNOWN;
        let attr = [0_i64, 10, 100, 0];
        for (to, from) in part.attr.chunks_exact_mut(8).zip(attr) {
            to.copy_from_slice(&from.to_ne_bytes());
        }
        let mut record = CallRecord::new_zeroed();
        record.args[1] = flags::O_CREAT;
        let mut opened = |seen| {
            record.header.flags = flag::EXTRA | flag::DETAIL | seen;
            let (op, code) = (Op::MqOpen, SyscallCode::new(Op::MqOpen, Timeout::None));
            let (record, part) = (&record, CallPayload::Name(&part));
            match (Call { op, abi: Abi::X86_64, code, record, part }).effect() {
                Some(CallEffect::Opened { made, like, .. }) => (made, like.size),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(opened(0), (Creation::Maybe, Some(1000)));
        assert_eq!(opened(flag::CREATED_KNOWN), (Creation::No, None));
        assert_eq!(opened(flag::CREATED_KNOWN | flag::MADE), (Creation::Yes, Some(1000)));
    }

    #[test]
    fn failed_calls_have_no_effect() {
        let used = |ret| {
            effect(Op::Semop, [3, 0, 0, 0, 0], ret, 0, |effect| {
                effect == Some(CallEffect::Used(ObjectKind::Sem, 3))
            })
        };
        assert!(!used(-11));
        assert!(used(0));
    }

    #[test]
    fn an_attach_address_is_the_result_or_was_stored() {
        let at = |stored, ret, flags| {
            effect(Op::Shmat, [3, 0, 0, stored, 0], ret, flags, |effect| match effect {
                Some(CallEffect::Attached { id: 3, at }) => at,
                other => panic!("{other:?}"),
            })
        };
        assert_eq!(at(7, 0x7f00_0000, 0), Some(0x7f00_0000));
        assert_eq!(at(0x7f00_0000, 0, flag::MULTIPLEXED), Some(0x7f00_0000));
        assert_eq!(at(0, 0, flag::MULTIPLEXED), None);
    }
}
