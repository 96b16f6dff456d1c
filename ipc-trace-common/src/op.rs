//! The logical operations, and the code of a system call: an operation with the variant of its
//! arguments, in one byte, as the dispatch tables and the records carry it.

/// What the first argument of an operation names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpTarget {
    /// A System V key; the result is the id.
    Key,
    /// A System V id
    Id,
    /// Where a segment is attached
    Address,
    /// The name of a POSIX queue
    Name,
    /// The descriptor of a POSIX queue, which may belong to another namespace
    Descriptor,
}

/// What follows the registers in a call's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Nothing
    Plain,
    /// [`crate::record::SemopPart`], or one operation among the registers
    Semop,
    /// [`crate::record::MsgPart`]
    Message,
    /// [`crate::record::CtlPart`]
    Control,
    /// [`crate::record::NamePart`]
    Name,
    /// [`crate::record::QueuePart`]
    Queue,
}

/// What a call that succeeds can do to objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It reads, and changes nothing that others see.
    Read,
    /// It uses the object.
    Use,
    /// It returns an object, and creates it if the flags say so.
    Create {
        /// Which argument has the flags
        flags: u8,
    },
    /// It reads, changes or removes the object, as its command says.
    Control {
        /// Which argument is the command
        command: u8,
    },
    /// It attaches a segment.
    Attach,
    /// It detaches a segment.
    Detach,
    /// It removes a name.
    Unlink,
}

/// When the kernel copies something from the caller's memory: semaphore operations, a message's type, a time limit,
/// attributes, a name. If [`crate::record::flag::INDIRECT`] is set, it always does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Never
    Never,
    /// For each call
    Always,
    /// Only arguments, by way of `ipc(2)`
    Indirect,
    /// When its command sets something
    IpcSet,
    /// When that argument is no null pointer
    Given(u8),
}

macro_rules! operations {
    ($($variant:ident $number:literal $name:literal $object_kind:ident $target:ident $detail:ident
       $memory:expr, $effect:expr, $blocks:literal;)*) => {
        /// A logical IPC operation, named as its man page (section 2 or 3) is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Op {
            $(#[doc = concat!("`", $name, "`")] $variant = $number,)*
        }

        impl Op {
            /// All operations, in the order of their numbers, which start at 1.
            pub const ALL: [Self; COUNT] = [$(Self::$variant,)*];

            /// The man page's name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The kind of object that the operation works on.
            pub const fn object_kind(self) -> ObjectKind {
                match self { $(Self::$variant => ObjectKind::$object_kind,)* }
            }

            /// What its first argument names.
            pub const fn target(self) -> OpTarget {
                match self { $(Self::$variant => OpTarget::$target,)* }
            }

            /// What follows the registers in its record.
            pub const fn detail(self) -> Detail {
                match self { $(Self::$variant => Detail::$detail,)* }
            }

            /// When the kernel copies something from the caller's memory.
            pub const fn memory(self) -> Memory {
                match self { $(Self::$variant => $memory,)* }
            }

            /// What it can do to objects.
            pub const fn effect(self) -> Effect {
                match self { $(Self::$variant => $effect,)* }
            }

            /// Whether the call can sleep until another process acts; its duration is then measured.
            pub const fn blocks(self) -> bool {
                match self { $(Self::$variant => $blocks,)* }
            }
        }
    };
}

/// How many operations there are. Their numbers are `1..=COUNT`.
pub const COUNT: usize = 17;

use Effect::{Attach, Detach, Read, Unlink, Use};
use Memory::{Always, Given, Indirect, IpcSet, Never};

const fn create(flags: u8) -> Effect {
    Effect::Create { flags }
}

const fn control(command: u8) -> Effect {
    Effect::Control { command }
}

// The table of operations. To add one: a row, its system calls in `hooks.rs`, and the bodies that the compiler then
// asks for. Columns: number, name, kind, what its first argument names, what follows in the record, what the kernel
// takes from memory, what it does to objects, whether it blocks.
#[rustfmt::skip]
operations! {
    Shmget        1 "shmget"        Shm Key        Plain   Never,    create(2),  false;
    Shmat         2 "shmat"         Shm Id         Plain   Never,    Attach,     false;
    Shmdt         3 "shmdt"         Shm Address    Plain   Never,    Detach,     false;
    Shmctl        4 "shmctl"        Shm Id         Control IpcSet,   control(1), false;
    Semget        5 "semget"        Sem Key        Plain   Never,    create(2),  false;
    Semop         6 "semop"         Sem Id         Semop   Always,   Use,        true;
    Semctl        7 "semctl"        Sem Id         Control IpcSet,   control(2), false;
    Msgget        8 "msgget"        Msg Key        Plain   Never,    create(1),  false;
    Msgsnd        9 "msgsnd"        Msg Id         Message Always,   Use,        true;
    Msgrcv       10 "msgrcv"        Msg Id         Message Indirect, Use,        true;
    Msgctl       11 "msgctl"        Msg Id         Control IpcSet,   control(1), false;
    MqOpen       12 "mq_open"       Mq  Name       Name    Always,   create(1),  false;
    MqUnlink     13 "mq_unlink"     Mq  Name       Name    Always,   Unlink,     false;
    MqSend       14 "mq_send"       Mq  Descriptor Queue   Given(4), Use,        true;
    MqReceive    15 "mq_receive"    Mq  Descriptor Queue   Given(4), Use,        true;
    MqNotify     16 "mq_notify"     Mq  Descriptor Queue   Given(1), Use,        false;
    MqGetsetattr 17 "mq_getsetattr" Mq  Descriptor Queue   Given(1), Read,       false;
}

/// A kind of IPC object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// System V shared memory
    Shm,
    /// System V semaphores
    Sem,
    /// System V message queues
    Msg,
    /// POSIX message queues
    Mq,
}

impl ObjectKind {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Shm, Self::Sem, Self::Msg, Self::Mq];

    /// `shm`, `sem`, `msg` or `mq`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Shm => "shm",
            Self::Sem => "sem",
            Self::Msg => "msg",
            Self::Mq => "mq",
        }
    }
}

impl Op {
    /// The operation of a number, if there is one.
    pub const fn from_number(number: u8) -> Option<Self> {
        if number == 0 || number as usize > COUNT {
            None
        } else {
            Some(Self::ALL[number as usize - 1])
        }
    }

    /// Whether the first argument is a queue descriptor, which may belong to another namespace.
    pub const fn takes_descriptor(self) -> bool {
        matches!(self.target(), OpTarget::Descriptor)
    }

    /// Whether the call can create or remove an object, change its owner, or attach it.
    pub const fn changes_objects(self) -> bool {
        !matches!(self.effect(), Effect::Read | Effect::Use)
    }

    /// Whether the call can create the object that it returns.
    pub const fn makes_objects(self) -> bool {
        matches!(self.effect(), Effect::Create { .. })
    }

    /// Whether it looks up a System V object by its key.
    pub const fn looks_up(self) -> bool {
        matches!(self, Self::Shmget | Self::Semget | Self::Msgget)
    }

    /// Whether it sends or receives a message.
    pub const fn carries_message(self) -> bool {
        matches!(self, Self::Msgsnd | Self::Msgrcv | Self::MqSend | Self::MqReceive)
    }

    /// Whether its calls can be in a `BatchRecord`: those that can block, and those that look up an object, if they
    /// fail.
    pub const fn can_be_batched(self) -> bool {
        matches!(self, Self::Semop) || self.carries_message() || self.looks_up()
    }

    /// Whether the kernel can copy something from the caller's memory.
    pub const fn reads_memory(self) -> bool {
        !matches!(self.memory(), Memory::Never)
    }

    /// The operation's bit in a set of operations.
    pub const fn bit(self) -> u32 {
        1 << self as u8
    }
}

/// How a call gives a time limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Timeout {
    /// It has no such argument.
    None = 0,
    /// `struct __kernel_timespec`: two 64-bit integers
    Time64 = 1,
    /// `struct old_timespec32`: two 32-bit integers
    Time32 = 2,
}

/// What a system-call number means: an operation and the variant of its arguments, or another call that the programs
/// handle. `0` in a dispatch table means "not ours".
///
/// Bits 0–4: number of the operation, or a value above [`COUNT`]; bits 5–6: [`Timeout`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyscallCode(pub u8);

impl SyscallCode {
    /// A call that reads from a descriptor.
    pub const READ: Self = Self(27);
    /// A call that opens a file and returns its descriptor.
    pub const OPEN: Self = Self(28);
    /// `fsmount(2)`: the returned descriptor refers to the root of a new mount.
    pub const MOUNT: Self = Self(28 | 1 << Self::TIMEOUT_SHIFT);
    /// `pidfd_getfd(2)`: the returned descriptor is a copy of another process's.
    pub const RECEIVE: Self = Self(28 | 2 << Self::TIMEOUT_SHIFT);
    /// `ipc(2)`: the operation is in its first argument.
    pub const IPC: Self = Self(29);
    /// `unshare(2)`
    pub const UNSHARE: Self = Self(30);
    /// `setns(2)`
    pub const SETNS: Self = Self(31);

    const KIND_BITS: u8 = 0x1f;
    const TIMEOUT_SHIFT: u8 = 5;

    /// The code of an operation.
    pub const fn new(op: Op, timeout: Timeout) -> Self {
        Self(op as u8 | (timeout as u8) << Self::TIMEOUT_SHIFT)
    }

    /// The operation's number, or one of the special values.
    pub const fn kind(self) -> u8 {
        self.0 & Self::KIND_BITS
    }

    /// Its bit in a set of kinds: that of the operation, or of the special value.
    pub const fn bit(self) -> u32 {
        1 << self.kind()
    }

    /// Whether the programs note something when the call enters the kernel: the time, the file behind its descriptor,
    /// what the kernel is about to copy from the caller's memory, or the namespace that the thread may be about to
    /// leave.
    pub const fn needs_entry(self) -> bool {
        match self.op() {
            Some(op) => op.blocks() || op.takes_descriptor() || op.reads_memory(),
            None => true,
        }
    }

    /// The operation, if it is one.
    pub const fn op(self) -> Option<Op> {
        Op::from_number(self.kind())
    }

    /// How the call gives its time limit.
    pub const fn timeout(self) -> Timeout {
        match self.0 >> Self::TIMEOUT_SHIFT {
            1 => Timeout::Time64,
            2 => Timeout::Time32,
            _ => Timeout::None,
        }
    }
}

/// The calling convention of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Abi {
    /// The 64-bit calls of x86_64
    X86_64 = 0,
    /// 32-bit calls on x86_64: a 32-bit program, or `int 0x80` in a 64-bit one
    I386 = 1,
    /// The x32 calls of x86_64: 64-bit registers, 32-bit pointers
    X32 = 2,
    /// The 64-bit calls of arm64
    Aarch64 = 3,
    /// The 32-bit calls of arm64
    Arm = 4,
}

impl Abi {
    /// All ABIs, in the order of their numbers.
    pub const ALL: [Self; 5] = [Self::X86_64, Self::I386, Self::X32, Self::Aarch64, Self::Arm];

    /// The name in events.
    pub const fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::I386 => "i386",
            Self::X32 => "x32",
            Self::Aarch64 => "aarch64",
            Self::Arm => "arm",
        }
    }

    /// Whether `long` and pointers of the caller have 32 bits in memory.
    pub const fn is_32_bit(self) -> bool {
        matches!(self, Self::I386 | Self::Arm)
    }
}
