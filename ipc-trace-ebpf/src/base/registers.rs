//! A call's number, ABI and arguments, from its `struct pt_regs`; and the meaning of its result.

use ipc_trace_common::{
    hooks::{self, X32_BIT},
    layout::Field,
    op::{Abi, Op, SyscallCode},
    record::flag,
};

use crate::base::{
    constants::{code, constant},
    memory::{field, low_half, user, user_bytes},
    words::masked,
};

/// A system call of interest.
#[derive(Clone, Copy)]
pub(crate) struct Call {
    /// The address of its registers
    regs: u64,
    /// Its ABI
    pub(crate) abi: Abi,
    /// Its code; never `0` and never [`SyscallCode::IPC`]
    pub(crate) code: SyscallCode,
    /// For `ipc(2)`: its first argument, version and call; `0` for all other calls
    pub(crate) multiplexed: u32,
}

/// The call's number, of which 32 bits count: on x86 the kernel takes an `int` out of `orig_ax` (`do_syscall_64`,
/// arch/x86/entry/common.c, 6.12), on arm64 `syscallno` is an `s32`, followed by something else. -1 is no call.
#[inline(always)]
pub(crate) fn number(regs: u64) -> u64 {
    low_half(regs, Field::RegNumber)
}

/// Whether the tables have an entry for a number: they are indexed by its low bits first.
#[inline(always)]
pub(crate) fn has_place(number: u64) -> bool {
    number & !(X32_BIT | (hooks::NUMBERS as u64 - 1)) == 0
}

/// Which table of [`hooks::Dispatch`] describes a call, and its ABI.
struct Place {
    table: u64,
    abi: Abi,
}

impl Place {
    #[inline(always)]
    fn lookup(task: u64, number: u64) -> Self {
        let x86 = constant!(IS_X86) != 0;
        let (table, abi) = match (is_compat(task), x86) {
            // Only x32 uses bit 30: with `int 0x80` the number then is no call's (`do_syscall_32_irqs_on`,
            // arch/x86/entry/common.c, 6.12). The last table is empty.
            (true, true) if number & X32_BIT != 0 => (3, Abi::I386),
            (true, true) => (1, Abi::I386),
            (true, false) => (1, Abi::Arm),
            (false, true) if number & X32_BIT != 0 => (2, Abi::X32),
            (false, true) => (0, Abi::X86_64),
            (false, false) => (0, Abi::Aarch64),
        };
        Self { table, abi }
    }
}

/// The index in [`hooks::Dispatch`] of the call of `task` with that number.
#[inline(always)]
pub(crate) fn place(task: u64, number: u64) -> usize {
    Place::lookup(task, number).table as usize * hooks::NUMBERS
        + (number as usize & (hooks::NUMBERS - 1))
}

impl Call {
    /// The call of `task` with that number, if it is one of `kinds` (bits of [`SyscallCode::bit`]).
    #[inline(always)]
    pub(crate) fn new(task: u64, regs: u64, number: u64, kinds: u32) -> Option<Self> {
        let place = Place::lookup(task, number);
        let mut code = SyscallCode(code(place.table, number));
        let mut multiplexed = 0;
        if code.0 == SyscallCode::IPC.0 {
            multiplexed = field::<u64>(regs, Field::RegCompatArg0) as u32;
            code = demultiplex(multiplexed);
        }
        if code.0 == 0 || kinds & code.bit() == 0 {
            return None;
        }
        Some(Self { regs, abi: place.abi, code, multiplexed })
    }

    /// The call without the address of its registers, in one number: never 0.
    #[inline(always)]
    pub(crate) fn packed(self) -> u64 {
        let call = u64::from(self.abi as u8) | u64::from(self.code.0) << 8;
        call | u64::from(self.multiplexed) << 32
    }

    /// Unpacks a call.
    #[inline(always)]
    pub(crate) fn unpacked(regs: u64, packed: u64) -> Self {
        let abi = match packed as u8 {
            0 => Abi::X86_64,
            1 => Abi::I386,
            2 => Abi::X32,
            3 => Abi::Aarch64,
            _ => Abi::Arm,
        };
        let multiplexed = (packed >> 32) as u32;
        Self { regs, abi, code: SyscallCode((packed >> 8) as u8), multiplexed }
    }

    #[inline(always)]
    fn register(self, register: Field) -> u64 {
        field(self.regs, register)
    }

    #[inline(always)]
    pub(crate) fn is_compat(self) -> bool {
        self.abi.is_32_bit()
    }

    /// The first argument: a key, an id, a descriptor, flags or a pointer.
    #[inline(always)]
    pub(crate) fn first(self) -> u64 {
        if !self.is_compat() {
            self.register(Field::RegArg0)
        } else if self.multiplexed == 0 {
            self.register(Field::RegCompatArg0) & 0xffff_ffff
        } else {
            // Only SHMDT takes its argument as `ptr` (ksys_ipc, ipc/syscall.c, 6.12).
            let register = if self.multiplexed & 0xffff == 22 {
                Field::RegCompatArg4
            } else {
                Field::RegCompatArg1
            };
            self.register(register) & 0xffff_ffff
        }
    }

    /// The first argument, and the third if it is the length of a message to be sent. Not for `ipc(2)`.
    #[inline(always)]
    pub(crate) fn id_and_size(self) -> [u64; 2] {
        let sends = self.code.bit() & (Op::Msgsnd.bit() | Op::MqSend.bit()) != 0;
        let size = if sends { third_of(self.regs, self.is_compat()) } else { 0 };
        [self.first(), size]
    }

    /// Whether one of the arguments of `ipc(2)` lies in memory: semctl's fourth, and msgrcv's second and fourth in
    /// the old form.
    #[inline(always)]
    pub(crate) fn has_indirect(self) -> bool {
        self.multiplexed != 0 && (self.multiplexed & 0xffff == 3 || self.multiplexed == 12)
    }

    /// That argument's data: for semctl a `u32`, for msgrcv a `struct compat_ipc_kludge { compat_uptr_t msgp;
    /// compat_long_t msgtyp; }` (compat_ksys_ipc, ipc/syscall.c, 6.12). And whether it could be read: not as an
    /// `Option`, whose unset value the compiler would copy, which the verifier rejects.
    #[inline(always)]
    pub(crate) fn indirect(self) -> (u64, bool) {
        let mut value = 0;
        let ptr = self.register(Field::RegCompatArg4) & 0xffff_ffff;
        let len = if self.multiplexed == 12 { 8 } else { 4 };
        // SAFETY: `value` has 8 bytes.
        let read = unsafe { user_bytes(core::ptr::addr_of_mut!(value).cast(), len, ptr) };
        (value, read)
    }

    /// All arguments, in the order of the native system call, and flags about them. `indirect`: see
    /// [`Self::indirect`].
    #[inline(always)]
    pub(crate) fn arguments(self, indirect: u64) -> ([u64; 5], u32) {
        if !self.is_compat() {
            let arguments = [
                self.register(Field::RegArg0),
                self.register(Field::RegArg1),
                self.register(Field::RegArg2),
                self.register(Field::RegArg3),
                self.register(Field::RegArg4),
            ];
            return (arguments, 0);
        }
        let low = |register| self.register(register) & 0xffff_ffff;
        if self.multiplexed == 0 {
            let arguments = [
                low(Field::RegCompatArg0),
                low(Field::RegCompatArg1),
                low(Field::RegCompatArg2),
                low(Field::RegCompatArg3),
                low(Field::RegCompatArg4),
            ];
            return (arguments, 0);
        }
        let [first, second, third, ptr, fifth] = [
            low(Field::RegCompatArg1),
            low(Field::RegCompatArg2),
            low(Field::RegCompatArg3),
            low(Field::RegCompatArg4),
            low(Field::RegCompatArg5),
        ];
        // compat_ksys_ipc, ipc/syscall.c (6.12): the meaning of its arguments.
        let arguments = match self.multiplexed & 0xffff {
            1 => [first, ptr, second, 0, 0],
            4 => [first, ptr, second, fifth, 0],
            3 => [first, second, third, indirect, 0],
            11 => [first, ptr, second, third, 0],
            12 if self.multiplexed >> 16 == 0 => {
                [first, indirect & 0xffff_ffff, second, indirect >> 32, third]
            }
            12 => [first, ptr, second, fifth, third],
            14 | 24 => [first, second, ptr, 0, 0],
            // The segment's address, which the kernel has written by now.
            21 => [first, ptr, second, u64::from(user::<u32>(third).unwrap_or(0)), 0],
            22 => [ptr, 0, 0, 0, 0],
            // SEMGET, MSGGET, SHMGET
            _ => [first, second, third, 0, 0],
        };
        (arguments, flag::MULTIPLEXED)
    }
}

/// The first argument of a call that isn't `ipc(2)`, if it is an `int`.
#[inline(always)]
pub(crate) fn first_of(regs: u64, compat: bool) -> u64 {
    low_half(regs, if compat { Field::RegCompatArg0 } else { Field::RegArg0 })
}

/// The third argument of a call that isn't `ipc(2)`.
#[inline(always)]
pub(crate) fn third_of(regs: u64, compat: bool) -> u64 {
    field(regs, if compat { Field::RegCompatArg2 } else { Field::RegArg2 })
}

/// Whether the task is in a 32-bit call.
#[inline(always)]
pub(crate) fn is_compat(task: u64) -> bool {
    low_half(task, Field::TaskAbi) & u64::from(constant!(COMPAT_BIT)) != 0
}

static MULTIPLEXED: [u8; 32] = hooks::multiplexed();

/// The operation in the first argument of `ipc(2)`; `0`: none.
#[inline(always)]
fn demultiplex(call: u32) -> SyscallCode {
    if call & 0xffff >= MULTIPLEXED.len() as u32 {
        return SyscallCode(0);
    }
    let at = masked::<{ MULTIPLEXED.len() as u64 - 1 }>(u64::from(call));
    // SAFETY: `at` lies within the table.
    SyscallCode(unsafe {
        core::ptr::addr_of!(MULTIPLEXED).cast::<u8>().add(at as usize).read_volatile()
    })
}

/// The error's number in a raw result; `0`: no error.
#[inline(always)]
pub(crate) fn error(ret: i64) -> u16 {
    if failed(ret) { -ret as u16 } else { 0 }
}

/// Whether a raw result is an error (`IS_ERR_VALUE`, include/linux/err.h).
#[inline(always)]
pub(crate) fn failed(ret: i64) -> bool {
    (-4095..0).contains(&ret)
}
