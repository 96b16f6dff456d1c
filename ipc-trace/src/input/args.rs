//! The arguments of a call, decoded from its registers and from the caller's memory.
//!
//! Registers come in the order of the native system call. Those of 32-bit callers are
//! zero-extended, and of an `int` only the low half counts, so every value is narrowed to its type
//! here.
//!
//! | module | its job |
//! | --- | --- |
//! | `structures` | the structures in the caller's memory, as each ABI lays them out |

mod structures;
#[cfg(test)]
mod tests;

use ipc_trace_common::{
    op::{Effect, ObjectKind, Op, OpTarget},
    record::{SOPS, flag},
};

use super::{
    Call, CallPayload,
    flags::{self, CtlCommands, FlagNames},
};
use crate::event::{
    args::{Args, CommandName},
    value::{Address, FileMode, Flags, Hex32, OsBytes},
};

/// Permissions of a System V object (`S_IRWXUGO`): what shmget, semget, msgget and `IPC_SET` take
/// (`ipcget`, `ipc_update_perm`, ipc/util.c, 6.12).
pub(super) const PERMISSIONS: u32 = 0o777;

/// Permissions of a file (`S_IALLUGO`): what mq_open takes (`vfs_mkobj`, fs/namei.c, 6.12).
const FILE_PERMISSIONS: u32 = 0o7777;

/// The object that a call names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NamedObject<'a> {
    /// shmid, semid or msqid: given, or returned
    pub id: Option<i32>,
    /// The key that was looked up; `IPC_PRIVATE` is 0.
    pub key: Option<Hex32>,
    /// A queue's name, as the caller passed it to the kernel.
    pub name: Option<OsBytes<'a>>,
}

impl<'a> Call<'a> {
    /// The arguments. A value that couldn't be read is `None`.
    #[must_use]
    pub(crate) fn args(&self) -> Args {
        match self.op {
            Op::Shmget => self.shmget(),
            Op::Shmat => self.shmat(),
            Op::Shmdt => Args::Shmdt { shmaddr: self.address(0) },
            Op::Shmctl => self.shmctl(),
            Op::Semget => self.semget(),
            Op::Semop => self.semop(),
            Op::Semctl => self.semctl(),
            Op::Msgget => self.msgget(),
            Op::Msgsnd => self.msgsnd(),
            Op::Msgrcv => self.msgrcv(),
            Op::Msgctl => self.msgctl(),
            Op::MqOpen => self.mq_open(),
            Op::MqUnlink => Args::MqUnlink {
                name: self.name().map(OsBytes::into_owned),
                name_truncated: self.has(flag::TRUNCATED),
            },
            Op::MqSend => self.mq_send(),
            Op::MqReceive => self.mq_receive(),
            Op::MqNotify => Args::MqNotify { mqdes: self.int(0), sevp: self.sigevent() },
            Op::MqGetsetattr => Args::MqGetsetattr {
                mqdes: self.int(0),
                newattr: self.mq_attr(flag::DETAIL),
                oldattr: self.mq_attr(flag::OLD),
            },
        }
    }

    /// The object that the call names, from the call alone. A queue behind a descriptor is in
    /// [`Call::queue`].
    #[must_use]
    pub(crate) fn named(&self) -> NamedObject<'a> {
        let id = |id| NamedObject { id, ..NamedObject::default() };
        match self.op.target() {
            OpTarget::Key => {
                NamedObject { id: self.returned_id(), key: Some(self.key()), name: None }
            }
            OpTarget::Id => match self.op.effect() {
                Effect::Control { command } => id(self.controlled(command)),
                Effect::Read
                | Effect::Use
                | Effect::Create { .. }
                | Effect::Attach
                | Effect::Detach
                | Effect::Unlink => id(Some(self.int(0))),
            },
            OpTarget::Name => NamedObject { name: self.name(), ..NamedObject::default() },
            OpTarget::Address | OpTarget::Descriptor => NamedObject::default(),
        }
    }

    fn shmget(&self) -> Args {
        Args::Shmget {
            key: self.key(),
            size: self.record.args[1],
            shmflg: self.flags(2, flags::SHMGET),
            mode: FileMode(self.uint(2) & PERMISSIONS),
        }
    }

    fn shmat(&self) -> Args {
        Args::Shmat {
            shmid: self.int(0),
            shmaddr: self.address(1),
            shmflg: self.flags(2, flags::SHMAT),
        }
    }

    fn shmctl(&self) -> Args {
        Args::Shmctl {
            shmid: self.int(0),
            cmd: self.command(&flags::SHMCTL, 1),
            buf: self.address(2),
            set: self.ipc_set(1),
        }
    }

    fn semget(&self) -> Args {
        Args::Semget {
            key: self.key(),
            nsems: self.int(1),
            semflg: self.flags(2, flags::SEMGET),
            mode: FileMode(self.uint(2) & PERMISSIONS),
        }
    }

    fn semop(&self) -> Args {
        let nsops = self.uint(2);
        Args::Semop {
            semid: self.int(0),
            nsops,
            sops: self.sops(nsops as usize),
            sops_truncated: nsops as usize > SOPS,
            timeout: self.timeout(),
        }
    }

    fn semctl(&self) -> Args {
        let known = !self.has(flag::ARGUMENT_FAULT);
        Args::Semctl {
            semid: self.int(0),
            semnum: self.int(1),
            cmd: self.command(&flags::SEMCTL, 2),
            arg: known.then(|| self.address(3)),
            val: (known && self.plain_command(2) == flags::SETVAL).then(|| self.int(3)),
            set: self.ipc_set(2),
        }
    }

    fn msgget(&self) -> Args {
        Args::Msgget {
            key: self.key(),
            msgflg: self.flags(1, flags::MSGGET),
            mode: FileMode(self.uint(1) & PERMISSIONS),
        }
    }

    fn msgsnd(&self) -> Args {
        Args::Msgsnd {
            msqid: self.int(0),
            msgp: self.address(1),
            msgsz: self.record.args[2],
            msgflg: self.flags(3, flags::MSGSND),
            mtype: self.mtype(),
        }
    }

    fn msgrcv(&self) -> Args {
        let known = !self.has(flag::ARGUMENT_FAULT);
        let msgtyp = if self.abi.is_32_bit() {
            i64::from(self.int(3))
        } else {
            self.record.args[3].cast_signed()
        };
        Args::Msgrcv {
            msqid: self.int(0),
            msgp: known.then(|| self.address(1)),
            msgsz: self.record.args[2],
            msgtyp: known.then_some(msgtyp),
            msgflg: self.flags(4, flags::MSGRCV),
            mtype: self.mtype(),
        }
    }

    fn msgctl(&self) -> Args {
        Args::Msgctl {
            msqid: self.int(0),
            cmd: self.command(&flags::MSGCTL, 1),
            buf: self.address(2),
            set: self.ipc_set(1),
        }
    }

    fn mq_open(&self) -> Args {
        let create = self.record.args[1] & flags::O_CREAT != 0;
        Args::MqOpen {
            name: self.name().map(OsBytes::into_owned),
            name_truncated: self.has(flag::TRUNCATED),
            oflag: self.flags(1, flags::mq_open(self.abi)),
            mode: create.then(|| FileMode(self.uint(2) & FILE_PERMISSIONS)),
            attr: if create { self.mq_attr(flag::EXTRA) } else { None },
        }
    }

    fn mq_send(&self) -> Args {
        Args::MqSend {
            mqdes: self.int(0),
            msg_ptr: self.address(1),
            msg_len: self.record.args[2],
            msg_prio: self.uint(3),
            abs_timeout: self.timeout(),
        }
    }

    fn mq_receive(&self) -> Args {
        Args::MqReceive {
            mqdes: self.int(0),
            msg_ptr: self.address(1),
            msg_len: self.record.args[2],
            msg_prio: self.priority(),
            abs_timeout: self.timeout(),
        }
    }

    pub(super) fn uint(&self, at: usize) -> u32 {
        self.record.args[at] as u32
    }

    pub(super) fn int(&self, at: usize) -> i32 {
        self.uint(at).cast_signed()
    }

    fn address(&self, at: usize) -> Address {
        Address(self.record.args[at])
    }

    pub(super) fn key(&self) -> Hex32 {
        Hex32(self.uint(0))
    }

    fn flags(&self, at: usize, names: FlagNames) -> Flags {
        Flags { bits: u64::from(self.uint(at)), names }
    }

    /// The command without `IPC_64`, which only 32-bit calls may add: the native ones reject it
    /// (`ksys_shmctl`, ipc/shm.c, 6.12).
    pub(crate) fn plain_command(&self, at: usize) -> u32 {
        let command = self.uint(at);
        if self.abi.is_32_bit() { command & !flags::IPC_64 } else { command }
    }

    fn command(&self, control: &CtlCommands, at: usize) -> CommandName {
        CommandName { number: self.uint(at), name: control.name(self.plain_command(at)) }
    }

    pub(super) fn returned_id(&self) -> Option<i32> {
        let made = self.made() != Some(false);
        i32::try_from(self.record.ret).ok().filter(|id| *id >= 0 && made)
    }

    /// The object of shmctl, semctl or msgctl, whose command is argument `at`.
    fn controlled(&self, at: u8) -> Option<i32> {
        let control = match self.op.object_kind() {
            ObjectKind::Shm => &flags::SHMCTL,
            ObjectKind::Sem => &flags::SEMCTL,
            ObjectKind::Msg | ObjectKind::Mq => &flags::MSGCTL,
        };
        let command = self.plain_command(usize::from(at));
        if control.stat.contains(&command) {
            self.returned_id()
        } else if command == flags::IPC_INFO || command == control.info {
            None
        } else {
            Some(self.int(0))
        }
    }

    pub(super) fn name(&self) -> Option<OsBytes<'a>> {
        let CallPayload::Name(part) = self.part else { return None };
        let name = part.name.get(..part.name_len as usize)?;
        self.has(flag::DETAIL).then(|| OsBytes::until_nul(name))
    }
}
