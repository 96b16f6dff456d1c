//! The logical operations, and the code of a system call: an operation with the variant of its
//! arguments, in one byte, as the dispatch tables and the records carry it.

macro_rules! operations {
    ($($variant:ident = $number:literal, $name:literal, $family:ident;)*) => {
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
            pub const fn family(self) -> Family {
                match self { $(Self::$variant => Family::$family,)* }
            }
        }
    };
}

/// How many operations there are. Their numbers are `1..=COUNT`.
pub const COUNT: usize = 17;

operations! {
    Shmget = 1, "shmget", Shm;
    Shmat = 2, "shmat", Shm;
    Shmdt = 3, "shmdt", Shm;
    Shmctl = 4, "shmctl", Shm;
    Semget = 5, "semget", Sem;
    Semop = 6, "semop", Sem;
    Semctl = 7, "semctl", Sem;
    Msgget = 8, "msgget", Msg;
    Msgsnd = 9, "msgsnd", Msg;
    Msgrcv = 10, "msgrcv", Msg;
    Msgctl = 11, "msgctl", Msg;
    MqOpen = 12, "mq_open", Mq;
    MqUnlink = 13, "mq_unlink", Mq;
    MqSend = 14, "mq_send", Mq;
    MqReceive = 15, "mq_receive", Mq;
    MqNotify = 16, "mq_notify", Mq;
    MqGetsetattr = 17, "mq_getsetattr", Mq;
}

/// A kind of IPC object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// System V shared memory
    Shm,
    /// System V semaphores
    Sem,
    /// System V message queues
    Msg,
    /// POSIX message queues
    Mq,
}

impl Family {
    /// All families.
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

    /// Whether the call can sleep until another process acts; its duration is then measured.
    pub const fn blocks(self) -> bool {
        matches!(self, Self::Semop | Self::Msgsnd | Self::Msgrcv | Self::MqSend | Self::MqReceive)
    }

    /// Whether the first argument is a queue descriptor, which may belong to another namespace.
    pub const fn takes_descriptor(self) -> bool {
        matches!(self, Self::MqSend | Self::MqReceive | Self::MqNotify | Self::MqGetsetattr)
    }

    /// Whether the call can make or remove an object, change whose it is, or attach it.
    pub const fn changes_objects(self) -> bool {
        matches!(
            self,
            Self::Shmget
                | Self::Shmat
                | Self::Shmdt
                | Self::Shmctl
                | Self::Semget
                | Self::Semctl
                | Self::Msgget
                | Self::Msgctl
                | Self::MqOpen
                | Self::MqUnlink
        )
    }

    /// Whether the call can make the object that it gives.
    pub const fn makes_objects(self) -> bool {
        matches!(self, Self::Shmget | Self::Semget | Self::Msgget | Self::MqOpen)
    }

    /// Whether the kernel takes something from the caller's memory: semaphore operations, a message's type, a
    /// time limit, attributes, a name. Of a message that is received, `ipc(2)` alone takes something.
    pub const fn reads_memory(self) -> bool {
        match self {
            Self::Semop
            | Self::Msgsnd
            | Self::Msgrcv
            | Self::Shmctl
            | Self::Semctl
            | Self::Msgctl
            | Self::MqOpen
            | Self::MqUnlink
            | Self::MqSend
            | Self::MqReceive
            | Self::MqNotify
            | Self::MqGetsetattr => true,
            Self::Shmget | Self::Shmat | Self::Shmdt | Self::Semget | Self::Msgget => false,
        }
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

/// What a system-call number means: an operation and the variant of its arguments, or one of the
/// other calls that the programs look at. `0` in a dispatch table means "not ours".
///
/// Bits 0–4: number of the operation, or a value above [`COUNT`]; bits 5–6: [`Timeout`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code(pub u8);

impl Code {
    /// A call that reads from a descriptor.
    pub const READ: Self = Self(27);
    /// A call that opens a file, and gives its descriptor.
    pub const OPEN: Self = Self(28);
    /// `fsmount(2)`: the descriptor that it gives is of the root of a new mount.
    pub const MOUNT: Self = Self(28 | 1 << Self::TIMEOUT_SHIFT);
    /// `pidfd_getfd(2)`: the descriptor that it gives is another process's.
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

    /// Whether something is to be remembered when the call enters the kernel: when that was, what its
    /// descriptor leads to, what the kernel is about to take from the caller's memory, or the namespace
    /// that the thread may be about to leave.
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

/// The calling convention by which a call came in.
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
    /// All of them, in the order of their numbers.
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
