//! Access to a hooked function: its argument and result, numbers that user space patches into the program, and a tail
//! call to the program that serves all functions.

use aya_ebpf::helpers::generated::bpf_tail_call;

use crate::base::{
    constants::constant,
    memory::{PLAIN, kernel},
};

/// The value `AT` bytes into the context: the function's argument, followed by its result.
#[inline(always)]
pub(crate) fn value<const AT: i16>(context: *mut core::ffi::c_void) -> u64 {
    if PLAIN {
        let value: u64;
        // Inline assembly, since the verifier wants the offset in the load itself, and the compiler may add it to the
        // pointer first.
        // SAFETY: a system call's function has one argument, so the context has two values; the
        // verifier checks it, and knows what the argument points to.
        unsafe {
            core::arch::asm!(
                "{value} = *(u64 *)({context} + {at})",
                value = lateout(reg) value, context = in(reg) context, at = const AT
            );
        }
        value
    } else {
        // 5.10 knows `struct pt_regs` only as a forward declaration there, and rejects the load (`btf_ctx_access`,
        // kernel/bpf/btf.c).
        kernel(context as u64 + AT as u64)
    }
}

/// A number that user space patches.
macro_rules! patched {
    ($number:ident) => {{
        let value: u64;
        // SAFETY: it loads a number.
        unsafe {
            core::arch::asm!(
                "{value} = {number} ll",
                value = lateout(reg) value, number = const ipc_trace_common::hooks::patch::$number
            );
        }
        value
    }};
}

/// The function's system call, as in a `PackedCall` without the id. This and the next ones are what user space patches
/// in, and are loaded where they are used: the verifier knows them, and removes what they rule out.
#[inline(always)]
pub(crate) fn known_call() -> u64 {
    patched!(WHAT)
}

/// Whether its ABI is one of 32 bits.
#[inline(always)]
pub(crate) fn is_compat() -> bool {
    patched!(COMPAT) != 0
}

/// Whether it sends or receives a message.
#[inline(always)]
pub(crate) fn carries_message() -> bool {
    patched!(MESSAGE) != 0
}

/// Whether its first argument is a queue's descriptor.
#[inline(always)]
pub(crate) fn takes_descriptor() -> bool {
    patched!(QUEUE) != 0
}

/// Whether it looks up an object.
#[inline(always)]
pub(crate) fn looks_up() -> bool {
    patched!(LOOKUP) != 0
}

/// Calls the program that serves all functions.
#[inline(always)]
pub(crate) fn leave_to_all(ctx: *mut core::ffi::c_void) {
    let all = patched!(ALL) as *mut _;
    // SAFETY: user space puts an array of programs there; when the call succeeds, it does not return.
    unsafe { bpf_tail_call(ctx, all, 0) };
}

/// Makes the verifier give each run of the program a stack of its own: to be called by each program that others call by
/// [`leave_to_all`]. Else the stack may be the CPU's, one for each program (`bpf_enable_priv_stack`,
/// kernel/bpf/verifier.c, 6.13), which the kernel protects only where a program is attached itself: threads preempted
/// in it would share it, and the kernel would crash. A program that calls others does not share it, even if it never
/// makes the call (`check_max_stack_depth`, kernel/bpf/verifier.c, 6.13).
#[inline(always)]
pub(crate) fn have_own_stack(ctx: *mut core::ffi::c_void) {
    if constant!(COPIED) > 1 {
        leave_to_all(ctx);
    }
}
