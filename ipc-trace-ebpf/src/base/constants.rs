//! Constants that user space sets before it loads the programs: frozen read-only data, so the verifier knows each
//! value and removes the branches that it rules out.

use ipc_trace_common::{
    hooks::{Dispatch, NUMBERS, patch},
    layout::{ABSENT, Field, OfField},
};

use crate::base::words::masked;

macro_rules! constants {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $value:expr;)*) => {
        $($(#[$doc])* #[unsafe(no_mangle)] pub(crate) static $name: $type = $value;)*
    };
}

constants! {
    /// From (ABI, number) to code
    DISPATCH: Dispatch = [0; 4 * NUMBERS];
    /// By number, at a call's entry: one of [`ipc_trace_common::hooks::dispatch_kind`]
    DISPATCH_ENTRY: [u8; NUMBERS] = [0; NUMBERS];
    /// By number, at a call's return: likewise
    DISPATCH_RETURN: [u8; NUMBERS] = [0; NUMBERS];
    /// The number of a structure whose first members are plain numbers, in the kernel's BTF, as what any address can be
    /// read with `bpf_rdonly_cast`; `0`: the kernel has no such function
    CAST: u32 = 0;
    /// Kinds of code that backend `syscall` sees; the others are backend `function`'s
    SYSCALL_KINDS: u32 = 0;
    /// Bits of [`ipc_trace_common::state::filter`]
    FILTERS: u32 = 0;
    /// An event wakes the reader when the number of its operation's events on its CPU has none of these bits.
    /// Otherwise the reader polls every few milliseconds
    WAKE_MASK: u32 = 0xfff;
    /// Operations to keep, with `filter::OP`
    OPS: u32 = 0;
    /// `1`: data behind arguments is read even if it is only shown; `0`: it isn't read
    ARGUMENTS: u32 = 1;
    /// `1`: process arguments are sent
    WITH_ARGS: u32 = 0;
    /// `1`: calls may be sent in batches, because they are counted and not shown, and no filter depends on values
    /// that differ between calls of one thread
    BATCHED: u32 = 0;
    /// The number of slots for batches, less one; if calls don't come in batches, there is one slot
    LAST_BATCH: u32 = 0;
    /// `1`: calls are not timed, because they are only counted
    UNTIMED: u32 = 0;
    /// `1`: programs come in copies
    COPIED: u32 = 0;
    /// Shortest duration to keep, with `filter::MIN_DURATION`
    MIN_DURATION_NS: u64 = 0;
    /// The cgroup hierarchy by which containers are identified (`cgroup_root.hierarchy_id`)
    CGROUP_HIERARCHY: u32 = 0;
    /// The offset in bytes of that hierarchy's controller in `css_set.subsys`; or [`ABSENT`]: it is the default
    /// hierarchy
    CGROUP_SUBSYSTEM: u32 = ABSENT;
    /// The bit of `TaskAbi` that marks a 32-bit call: `TS_COMPAT` (x86) or `_TIF_32BIT` (arm64)
    COMPAT_BIT: u32 = 0;
    /// `1` on x86, `0` on arm64: the ABI numbers in records
    IS_X86: u32 = 0;
}

/// The value of a constant. Volatile, so that the compiler does not assume the initial value.
macro_rules! constant {
    ($name:ident) => {
        // SAFETY: a static is readable.
        unsafe { core::ptr::addr_of!($crate::base::constants::$name).read_volatile() }
    };
}
pub(crate) use constant;

/// The offset of `field`, or [`ABSENT`]: a number that user space patches into the instruction.
#[inline(always)]
pub(crate) fn offset(field: Field) -> u64 {
    struct Offset;
    impl OfField for Offset {
        type Output = u64;

        #[inline(always)]
        fn act_on<const FIELD: u32>(self) -> u64 {
            let offset: u64;
            // SAFETY: it moves a number.
            unsafe {
                core::arch::asm!(
                    "{offset} = {number}",
                    offset = lateout(reg) offset, number = const patch::OFFSET + FIELD,
                    options(pure, nomem, nostack, preserves_flags)
                );
            }
            offset
        }
    }
    field.select(Offset)
}

/// The code of a number in one of the tables of [`Dispatch`].
#[inline(always)]
pub(crate) fn code(table: u64, number: u64) -> u8 {
    let at = masked::<{ 4 * NUMBERS as u64 - 1 }>(
        table * NUMBERS as u64 + (number & (NUMBERS as u64 - 1)),
    );
    // SAFETY: `at` lies within the four tables.
    unsafe { core::ptr::addr_of!(DISPATCH).cast::<u8>().add(at as usize).read_volatile() }
}

/// Whether calls with that number are handled when they enter the kernel.
#[inline(always)]
pub(crate) fn at_entry(number: u64) -> bool {
    let at = number & (NUMBERS as u64 - 1);
    // SAFETY: `at` lies within the table.
    unsafe {
        core::ptr::addr_of!(DISPATCH_ENTRY).cast::<u8>().add(at as usize).read_volatile() != 0
    }
}

/// How calls with that number are handled when they return: one of [`ipc_trace_common::hooks::dispatch_kind`].
#[inline(always)]
pub(crate) fn at_return(number: u64) -> u8 {
    let at = number & (NUMBERS as u64 - 1);
    // SAFETY: `at` lies within the table.
    unsafe { core::ptr::addr_of!(DISPATCH_RETURN).cast::<u8>().add(at as usize).read_volatile() }
}
