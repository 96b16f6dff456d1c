//! What user space sets before it loads the programs: frozen read-only data, so the verifier
//! knows each value and removes the branches that it rules out.

use ipc_trace_common::{
    hooks::{Dispatch, NUMBERS},
    layout::{self, ABSENT, Field},
};

use crate::base::words::masked;

macro_rules! constants {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $value:expr;)*) => {
        $($(#[$doc])* #[unsafe(no_mangle)] pub(crate) static $name: $type = $value;)*
    };
}

constants! {
    /// The kernel-layout table, resolved: the offset of each [`Field`], or [`ABSENT`]
    FIELDS: [u32; layout::COUNT] = [ABSENT; layout::COUNT];
    /// From (ABI, number) to code
    DISPATCH: Dispatch = [0; 4 * NUMBERS];
    /// By number, at a call's entry: one of [`ipc_trace_common::hooks::look`]
    DISPATCH_ENTRY: [u8; NUMBERS] = [0; NUMBERS];
    /// The same at its return
    DISPATCH_RETURN: [u8; NUMBERS] = [0; NUMBERS];
    /// Kinds of code that backend `syscall` sees; the others are backend `function`'s
    SYSCALL_KINDS: u32 = 0;
    /// Bits of [`ipc_trace_common::state::filter`]
    FILTERS: u32 = 0;
    /// An event wakes the reader, which otherwise looks by itself every few milliseconds, when the
    /// number of its operation's events on its CPU has none of these bits
    WAKE_MASK: u32 = 0xfff;
    /// Operations to keep, with `filter::OP`
    OPS: u32 = 0;
    /// `1`: what arguments point to is wanted, where it is for show alone; `0`: it is left unread
    ARGUMENTS: u32 = 1;
    /// `1`: processes' arguments are wanted
    WITH_ARGS: u32 = 0;
    /// `1`: calls may be sent in batches, as they are counted and not shown, and no filter looks at
    /// what differs between calls of one thread
    BATCHED: u32 = 0;
    /// `1`: programs come in copies
    COPIED: u32 = 0;
    /// Shortest duration to keep, with `filter::MIN_DURATION`
    MIN_DURATION_NS: u64 = 0;
    /// The hierarchy of cgroups that containers are told by (`cgroup_root.hierarchy_id`)
    CGROUP_HIERARCHY: u32 = 0;
    /// Where `css_set.subsys` has a controller of that hierarchy, in bytes from its begin; or [`ABSENT`]:
    /// it is the default hierarchy
    CGROUP_SUBSYSTEM: u32 = ABSENT;
    /// The bit of `TaskAbi` that marks a 32-bit call: `TS_COMPAT` (x86) or `_TIF_32BIT` (arm64)
    COMPAT_BIT: u32 = 0;
    /// `1` on x86, `0` on arm64: the ABI numbers in records
    IS_X86: u32 = 0;
}

/// A constant's value. Volatile, so that the compiler does not take the one above for it.
macro_rules! constant {
    ($name:ident) => {
        // SAFETY: a static is readable.
        unsafe { core::ptr::addr_of!($crate::base::constants::$name).read_volatile() }
    };
}
pub(crate) use constant;

/// Where `field` is.
#[inline(always)]
pub(crate) fn offset(field: Field) -> u32 {
    // SAFETY: the table has an entry for each field.
    unsafe { core::ptr::addr_of!(FIELDS).cast::<u32>().add(field as usize).read_volatile() }
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

/// Whether a call with that number is looked at when it enters the kernel.
#[inline(always)]
pub(crate) fn at_entry(number: u64) -> bool {
    let at = number & (NUMBERS as u64 - 1);
    // SAFETY: `at` lies within the table.
    unsafe {
        core::ptr::addr_of!(DISPATCH_ENTRY).cast::<u8>().add(at as usize).read_volatile() != 0
    }
}

/// How a call with that number is looked at when it returns: one of [`ipc_trace_common::hooks::look`].
#[inline(always)]
pub(crate) fn at_return(number: u64) -> u8 {
    let at = number & (NUMBERS as u64 - 1);
    // SAFETY: `at` lies within the table.
    unsafe { core::ptr::addr_of!(DISPATCH_RETURN).cast::<u8>().add(at as usize).read_volatile() }
}
