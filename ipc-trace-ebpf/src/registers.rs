//! A call's number, ABI and arguments, out of its `struct pt_regs`.

use ipc_trace_common::{
    hooks::{self, X32_BIT},
    layout::Field,
    op::{Abi, Code},
    record::flag,
};

use crate::{
    constants::{any, code, constant},
    memory::{field, masked, user},
};

/// What a call is.
#[derive(Clone, Copy)]
pub(crate) struct Call {
    /// Where its registers are
    regs: u64,
    /// Its ABI
    pub(crate) abi: Abi,
    /// What it does; never `0` and never [`Code::IPC`]
    pub(crate) code: Code,
    /// For `ipc(2)`: its first argument, version and call; `0` for all other calls
    pub(crate) multiplexed: u32,
}

/// A function that implements a system call: the first row of the hook table that names it.
#[derive(Clone, Copy)]
pub(crate) struct Function {
    /// The row's place
    pub(crate) row: usize,
    /// Its ABI
    pub(crate) abi: Abi,
    /// What it does
    pub(crate) code: Code,
}

/// Whether a number can be one of ours. Cheap: this is what every other call of the host pays.
#[inline(always)]
pub(crate) fn worth_a_look(number: u64) -> bool {
    number & !(X32_BIT | (hooks::NUMBERS as u64 - 1)) == 0 && any(number)
}

impl Call {
    /// The call with that number, of `task`, if it is one of ours.
    #[inline(always)]
    pub(crate) fn new(task: u64, regs: u64, number: u64) -> Option<Self> {
        let x86 = constant!(IS_X86) != 0;
        let (table, abi) = match (is_compat(task), x86) {
            (true, true) => (1, Abi::I386),
            (true, false) => (1, Abi::Arm),
            (false, true) if number & X32_BIT != 0 => (2, Abi::X32),
            (false, true) => (0, Abi::X86_64),
            (false, false) => (0, Abi::Aarch64),
        };
        let code = Code(code(table, number));
        if code.0 == 0 { None } else { Self::with(regs, abi, code, constant!(SYSCALL_KINDS)) }
    }

    /// The call that a function implements.
    #[inline(always)]
    pub(crate) fn of_function(task: u64, regs: u64, function: Function) -> Option<Self> {
        // Where the arguments are the same for both, one function serves two ABIs.
        let abi = match function.abi {
            Abi::X86_64 if field::<u64>(regs, Field::RegNumber) & X32_BIT != 0 => Abi::X32,
            Abi::Aarch64 if is_compat(task) => Abi::Arm,
            abi => abi,
        };
        Self::with(regs, abi, function.code, !constant!(SYSCALL_KINDS))
    }

    /// `kinds`: which operations of `ipc(2)` are this backend's.
    #[inline(always)]
    fn with(regs: u64, abi: Abi, code: Code, kinds: u32) -> Option<Self> {
        if code.0 != Code::IPC.0 {
            return Some(Self { regs, abi, code, multiplexed: 0 });
        }
        let multiplexed = field::<u64>(regs, Field::RegCompatArg0) as u32;
        let code = demultiplex(multiplexed);
        if code.0 == 0 || kinds & 1u32.wrapping_shl(u32::from(code.kind())) == 0 {
            return None;
        }
        Some(Self { regs, abi, code, multiplexed })
    }

    #[inline(always)]
    fn is_compat(self) -> bool {
        self.abi.is_32_bit()
    }

    /// The first argument: a key, an id, a descriptor, flags or a pointer.
    #[inline(always)]
    pub(crate) fn first(self) -> u64 {
        if !self.is_compat() {
            field(self.regs, Field::RegArg0)
        } else if self.multiplexed == 0 {
            field::<u64>(self.regs, Field::RegCompatArg0) & 0xffff_ffff
        } else {
            // SHMDT alone takes its argument as `ptr` (ksys_ipc, ipc/syscall.c, 6.12).
            let register = if self.multiplexed & 0xffff == 22 {
                Field::RegCompatArg4
            } else {
                Field::RegCompatArg1
            };
            field::<u64>(self.regs, register) & 0xffff_ffff
        }
    }

    /// All arguments, in the order of the native system call, and flags about them.
    #[inline(always)]
    pub(crate) fn arguments(self) -> ([u64; 5], u32) {
        if !self.is_compat() {
            let arguments = [
                field(self.regs, Field::RegArg0),
                field(self.regs, Field::RegArg1),
                field(self.regs, Field::RegArg2),
                field(self.regs, Field::RegArg3),
                field(self.regs, Field::RegArg4),
            ];
            return (arguments, 0);
        }
        let low = |register| field::<u64>(self.regs, register) & 0xffff_ffff;
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
        // compat_ksys_ipc, ipc/syscall.c (6.12): which of its arguments means what.
        let mut flags = flag::MULTIPLEXED;
        let arguments = match self.multiplexed & 0xffff {
            1 => [first, ptr, second, 0, 0],
            4 => [first, ptr, second, fifth, 0],
            3 => {
                let fourth = user::<u32>(ptr);
                if fourth.is_none() {
                    flags |= flag::ARGUMENT_FAULT;
                }
                [first, second, third, u64::from(fourth.unwrap_or(0)), 0]
            }
            11 => [first, ptr, second, third, 0],
            12 if self.multiplexed >> 16 == 0 => {
                // struct compat_ipc_kludge { compat_uptr_t msgp; compat_long_t msgtyp; }
                let kludge = user::<[u32; 2]>(ptr);
                if kludge.is_none() {
                    flags |= flag::ARGUMENT_FAULT;
                }
                let [msgp, msgtyp] = kludge.unwrap_or_default();
                [first, u64::from(msgp), second, u64::from(msgtyp), third]
            }
            12 => [first, ptr, second, fifth, third],
            14 | 24 => [first, second, ptr, 0, 0],
            21 => [first, ptr, second, 0, 0],
            22 => [ptr, 0, 0, 0, 0],
            // SEMGET, MSGGET, SHMGET
            _ => [first, second, third, 0, 0],
        };
        (arguments, flags)
    }
}

/// Whether the task is in a 32-bit call.
#[inline(always)]
fn is_compat(task: u64) -> bool {
    field::<u32>(task, Field::TaskAbi) & constant!(COMPAT_BIT) != 0
}

static MULTIPLEXED: [u8; 32] = hooks::multiplexed();

/// What the first argument of `ipc(2)` means; `0`: nothing.
#[inline(always)]
fn demultiplex(call: u32) -> Code {
    if call & 0xffff >= MULTIPLEXED.len() as u32 {
        return Code(0);
    }
    let at = masked::<{ MULTIPLEXED.len() as u64 - 1 }>(u64::from(call));
    // SAFETY: `at` lies within the table.
    Code(unsafe { core::ptr::addr_of!(MULTIPLEXED).cast::<u8>().add(at as usize).read_volatile() })
}
