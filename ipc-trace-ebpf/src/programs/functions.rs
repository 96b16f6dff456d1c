//! Backend `function`: programs on the functions that implement the system calls, one at the return of each, and one
//! at the entry if the call can block, takes a descriptor, or changes the namespace. Their argument is the caller's
//! `struct pt_regs`, as for the tracepoints, so one decoder serves both backends.
//!
//! The attached programs have a few instructions that user space generates, one program for each row of the hook
//! table. They call the programs below, which are verified once and not for each of sixty functions; moves between
//! namespaces, whose prototype differs, have programs of their own, which are verified quickly. `nopreempt` hooks
//! functions so that programs aren't preempted.

use aya_ebpf::{
    EbpfContext as _,
    macros::{fentry, fexit},
    programs::{FEntryContext, FExitContext},
};

use crate::{
    base::hooked::{have_own_stack, leave_to_all, value},
    call::calls,
    thread::batched_calls,
};

#[fentry(function = "")]
fn function_entry(ctx: FEntryContext) -> i32 {
    have_own_stack(ctx.as_ptr());
    calls::enter_function(value::<0>(ctx.as_ptr()));
    0
}

#[fexit(function = "")]
fn function_return(ctx: FExitContext) -> i32 {
    let ctx = ctx.as_ptr();
    have_own_stack(ctx);
    calls::exit_function(value::<0>(ctx), value::<8>(ctx) as i64);
    0
}

// On functions whose calls can be in a batch, for one ABI each; patched for each function.
#[fentry(function = "")]
fn batch_entry(ctx: FEntryContext) -> i32 {
    let ctx = ctx.as_ptr();
    if !batched_calls::enter_known(|| value::<0>(ctx)) {
        leave_to_all(ctx);
    }
    0
}

#[fexit(function = "")]
fn batch_return(ctx: FExitContext) -> i32 {
    let ctx = ctx.as_ptr();
    if !batched_calls::exit_known(|| value::<0>(ctx), || value::<8>(ctx) as i64) {
        leave_to_all(ctx);
    }
    0
}

// Likewise, where calls are not timed, on those functions that need no program at their entry.
#[fexit(function = "")]
fn count_return(ctx: FExitContext) -> i32 {
    let ctx = ctx.as_ptr();
    if !batched_calls::count_known(|| value::<0>(ctx), || value::<8>(ctx) as i64) {
        leave_to_all(ctx);
    }
    0
}

#[fentry(function = "")]
fn move_entry(ctx: FEntryContext) -> i32 {
    have_own_stack(ctx.as_ptr());
    calls::enter_move(value::<0>(ctx.as_ptr()));
    0
}

#[fexit(function = "")]
fn move_return(ctx: FExitContext) -> i32 {
    let ctx = ctx.as_ptr();
    have_own_stack(ctx);
    calls::exit_move(value::<0>(ctx), value::<8>(ctx) as i64);
    0
}
