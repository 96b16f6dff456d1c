//! What a program on a function has at hand: the function's argument and result, numbers that user space has put
//! into the program, and the program that serves all functions.

use aya_ebpf::helpers::generated::bpf_tail_call;

use crate::base::memory::{PLAIN, kernel};

/// The value `AT` bytes into the context: the function's argument, then its result.
#[inline(always)]
pub(crate) fn value<const AT: i16>(context: *mut core::ffi::c_void) -> u64 {
    if PLAIN {
        let value: u64;
        // By hand, since the verifier wants the offset in the load itself, and the compiler may add it
        // to the pointer first.
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
        // 5.10 knows `struct pt_regs` as a forward declaration alone there, and refuses the load
        // (`btf_ctx_access`, kernel/bpf/btf.c).
        kernel(context as u64 + AT as u64)
    }
}

/// What user space puts in the place of a number.
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
pub(crate) use patched;

/// Calls the program that serves all functions.
#[inline(always)]
pub(crate) fn leave_to_all(ctx: *mut core::ffi::c_void) {
    let all = patched!(ALL) as *mut _;
    // SAFETY: user space puts an array of programs there; when the call succeeds, it does not return.
    unsafe { bpf_tail_call(ctx, all, 0) };
}
