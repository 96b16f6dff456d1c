//! Backend `function`: programs on the functions that implement the system calls, one at the return
//! of each, and one at the entry where the call can block, takes a descriptor, or changes the
//! namespace. Their argument is the caller's `struct pt_regs`, as it is for the tracepoints, so one
//! decoder serves both backends.
//!
//! What is attached are programs of a few instructions that user space writes, one for each row of
//! the hook table: they call these here, which are verified once and not for each of sixty; those of
//! moves between namespaces, which have another prototype, a part that is quickly verified. How
//! functions are hooked without being preempted is in `nopreempt`.

use aya_ebpf::{
    EbpfContext as _,
    macros::{fentry, fexit},
    programs::{FEntryContext, FExitContext},
};

use crate::{
    base::hooked::{leave_to_all, patched, value},
    call::calls,
};

#[fentry(function = "")]
fn function_entry(ctx: FEntryContext) -> i32 {
    calls::enter_function(value::<0>(ctx.as_ptr()));
    0
}

#[fexit(function = "")]
fn function_return(ctx: FExitContext) -> i32 {
    let ctx = ctx.as_ptr();
    calls::exit_function(value::<0>(ctx), value::<8>(ctx) as i64);
    0
}

// On functions whose calls can be in a batch, of one ABI each; patched for each of them.
#[fentry(function = "")]
fn batch_entry(ctx: FEntryContext) -> i32 {
    if !calls::enter_known(value::<0>(ctx.as_ptr()), patched!(KIND)) {
        leave_to_all(ctx.as_ptr());
    }
    0
}

#[fexit(function = "")]
fn batch_return(ctx: FExitContext) -> i32 {
    if !calls::exit_known(patched!(KIND), value::<8>(ctx.as_ptr()) as i64) {
        leave_to_all(ctx.as_ptr());
    }
    0
}

#[fentry(function = "")]
fn move_entry(ctx: FEntryContext) -> i32 {
    calls::enter_move(value::<0>(ctx.as_ptr()));
    0
}

#[fexit(function = "")]
fn move_return(ctx: FExitContext) -> i32 {
    let ctx = ctx.as_ptr();
    calls::exit_move(value::<0>(ctx), value::<8>(ctx) as i64);
    0
}
