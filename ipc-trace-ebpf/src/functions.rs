//! Backend `function`: programs on the functions that implement the system calls, one at the return
//! of each, and one at the entry where the call can block, takes a descriptor, or changes the
//! namespace. Their argument is the caller's `struct pt_regs`, as it is for the tracepoints, so one
//! decoder serves both backends.
//!
//! All that they do is to call a program that many share, so that this is verified once and not sixty
//! times. The kernel lets only those share one whose functions have one prototype, the argument's name
//! included (`__bpf_prog_map_compatible`, kernel/bpf/core.c, 6.12): calls that a kernel may be built
//! without have it from kernel/sys_ni.c, so IPC calls differ from unshare and setns.
//!
//! Each is a row of the hook table: one that is not there does not compile, and a test on the user
//! side finds rows without programs. How they are attached without being preempted is in `steady`.

use aya_ebpf::{
    EbpfContext as _,
    macros::{fentry, fexit, map},
    maps::ProgramArray,
    programs::{FEntryContext, FExitContext},
};
use ipc_trace_common::{
    hooks::{ENTRIES, row_of},
    op::Code,
};

use crate::{
    calls,
    memory::{PLAIN, kernel},
};

/// [0]: [`call_entry`]
#[map]
static CALL_ENTRY: ProgramArray = ProgramArray::with_max_entries(1, 0);
/// [0]: [`call_return`]
#[map]
static CALL_RETURN: ProgramArray = ProgramArray::with_max_entries(1, 0);
/// [0]: [`move_entry`]
#[map]
static MOVE_ENTRY: ProgramArray = ProgramArray::with_max_entries(1, 0);
/// [0]: [`move_return`]
#[map]
static MOVE_RETURN: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// The value `AT` bytes into the context: the function's argument, then its result.
#[inline(always)]
fn value<const AT: i16>(context: *mut core::ffi::c_void) -> u64 {
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

// The shared programs. They are not attached themselves: the user side loads each for one of its
// functions, and puts it into the map of its name.

#[fentry(function = "")]
fn call_entry(ctx: FEntryContext) -> i32 {
    calls::enter_function(value::<0>(ctx.as_ptr()));
    0
}

#[fexit(function = "")]
fn call_return(ctx: FExitContext) -> i32 {
    let ctx = ctx.as_ptr();
    calls::exit_function(value::<0>(ctx), value::<8>(ctx) as i64);
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

/// The map with the program that is shared at returns, and at entries.
macro_rules! shared {
    ($function:literal, $of_calls:ident, $of_moves:ident) => {
        if const { is_move($function) } { &$of_moves } else { &$of_calls }
    };
}

const fn is_move(function: &str) -> bool {
    matches!(ENTRIES[row_of(function)].code, Code(code) if code == Code::UNSHARE.0 || code == Code::SETNS.0)
}

macro_rules! programs {
    ($($exit:ident $(after $entry:ident)? = $function:literal;)*) => {$(
        #[fexit(function = $function)]
        fn $exit(ctx: FExitContext) -> i32 {
            // SAFETY: there is nothing here that a call without return would leave behind.
            unsafe { shared!($function, CALL_RETURN, MOVE_RETURN).tail_call(&ctx, 0) };
            0
        }

        $(
            #[fentry(function = $function)]
            fn $entry(ctx: FEntryContext) -> i32 {
                // SAFETY: as above.
                unsafe { shared!($function, CALL_ENTRY, MOVE_ENTRY).tail_call(&ctx, 0) };
                0
            }
        )?
    )*};
}

#[cfg(bpf_target_arch = "x86_64")]
programs! {
    x64_sys_shmget = "__x64_sys_shmget";
    x64_sys_shmat = "__x64_sys_shmat";
    x64_sys_shmctl = "__x64_sys_shmctl";
    x64_sys_semget = "__x64_sys_semget";
    x64_sys_semop after x64_sys_semop_entry = "__x64_sys_semop";
    x64_sys_semctl = "__x64_sys_semctl";
    x64_sys_shmdt = "__x64_sys_shmdt";
    x64_sys_msgget = "__x64_sys_msgget";
    x64_sys_msgsnd after x64_sys_msgsnd_entry = "__x64_sys_msgsnd";
    x64_sys_msgrcv after x64_sys_msgrcv_entry = "__x64_sys_msgrcv";
    x64_sys_msgctl = "__x64_sys_msgctl";
    x64_sys_semtimedop after x64_sys_semtimedop_entry = "__x64_sys_semtimedop";
    x64_sys_mq_open = "__x64_sys_mq_open";
    x64_sys_mq_unlink = "__x64_sys_mq_unlink";
    x64_sys_mq_timedsend after x64_sys_mq_timedsend_entry = "__x64_sys_mq_timedsend";
    x64_sys_mq_timedreceive after x64_sys_mq_timedreceive_entry = "__x64_sys_mq_timedreceive";
    x64_sys_mq_notify after x64_sys_mq_notify_entry = "__x64_sys_mq_notify";
    x64_sys_mq_getsetattr after x64_sys_mq_getsetattr_entry = "__x64_sys_mq_getsetattr";
    x64_sys_unshare after x64_sys_unshare_entry = "__x64_sys_unshare";
    x64_sys_setns after x64_sys_setns_entry = "__x64_sys_setns";
    x64_compat_sys_mq_notify after x64_compat_sys_mq_notify_entry = "__x64_compat_sys_mq_notify";
    x32_compat_sys_mq_notify after x32_compat_sys_mq_notify_entry = "__x32_compat_sys_mq_notify";
    ia32_compat_sys_ipc after ia32_compat_sys_ipc_entry = "__ia32_compat_sys_ipc";
    ia32_compat_sys_mq_open = "__ia32_compat_sys_mq_open";
    ia32_sys_mq_unlink = "__ia32_sys_mq_unlink";
    ia32_sys_mq_timedsend_time32 after ia32_sys_mq_timedsend_time32_entry = "__ia32_sys_mq_timedsend_time32";
    ia32_sys_mq_timedreceive_time32 after ia32_sys_mq_timedreceive_time32_entry = "__ia32_sys_mq_timedreceive_time32";
    ia32_compat_sys_mq_notify after ia32_compat_sys_mq_notify_entry = "__ia32_compat_sys_mq_notify";
    ia32_compat_sys_mq_getsetattr after ia32_compat_sys_mq_getsetattr_entry = "__ia32_compat_sys_mq_getsetattr";
    ia32_sys_unshare after ia32_sys_unshare_entry = "__ia32_sys_unshare";
    ia32_sys_setns after ia32_sys_setns_entry = "__ia32_sys_setns";
    ia32_sys_semget = "__ia32_sys_semget";
    ia32_compat_sys_semctl = "__ia32_compat_sys_semctl";
    ia32_sys_shmget = "__ia32_sys_shmget";
    ia32_compat_sys_shmctl = "__ia32_compat_sys_shmctl";
    ia32_compat_sys_shmat = "__ia32_compat_sys_shmat";
    ia32_sys_shmdt = "__ia32_sys_shmdt";
    ia32_sys_msgget = "__ia32_sys_msgget";
    ia32_compat_sys_msgsnd after ia32_compat_sys_msgsnd_entry = "__ia32_compat_sys_msgsnd";
    ia32_compat_sys_msgrcv after ia32_compat_sys_msgrcv_entry = "__ia32_compat_sys_msgrcv";
    ia32_compat_sys_msgctl = "__ia32_compat_sys_msgctl";
    ia32_sys_mq_timedsend after ia32_sys_mq_timedsend_entry = "__ia32_sys_mq_timedsend";
    ia32_sys_mq_timedreceive after ia32_sys_mq_timedreceive_entry = "__ia32_sys_mq_timedreceive";
    ia32_sys_semtimedop after ia32_sys_semtimedop_entry = "__ia32_sys_semtimedop";
}

#[cfg(bpf_target_arch = "aarch64")]
programs! {
    arm64_sys_unshare after arm64_sys_unshare_entry = "__arm64_sys_unshare";
    arm64_sys_mq_open = "__arm64_sys_mq_open";
    arm64_sys_mq_unlink = "__arm64_sys_mq_unlink";
    arm64_sys_mq_timedsend after arm64_sys_mq_timedsend_entry = "__arm64_sys_mq_timedsend";
    arm64_sys_mq_timedreceive after arm64_sys_mq_timedreceive_entry = "__arm64_sys_mq_timedreceive";
    arm64_sys_mq_notify after arm64_sys_mq_notify_entry = "__arm64_sys_mq_notify";
    arm64_sys_mq_getsetattr after arm64_sys_mq_getsetattr_entry = "__arm64_sys_mq_getsetattr";
    arm64_sys_msgget = "__arm64_sys_msgget";
    arm64_sys_msgctl = "__arm64_sys_msgctl";
    arm64_sys_msgrcv after arm64_sys_msgrcv_entry = "__arm64_sys_msgrcv";
    arm64_sys_msgsnd after arm64_sys_msgsnd_entry = "__arm64_sys_msgsnd";
    arm64_sys_semget = "__arm64_sys_semget";
    arm64_sys_semctl = "__arm64_sys_semctl";
    arm64_sys_semtimedop after arm64_sys_semtimedop_entry = "__arm64_sys_semtimedop";
    arm64_sys_semop after arm64_sys_semop_entry = "__arm64_sys_semop";
    arm64_sys_shmget = "__arm64_sys_shmget";
    arm64_sys_shmctl = "__arm64_sys_shmctl";
    arm64_sys_shmat = "__arm64_sys_shmat";
    arm64_sys_shmdt = "__arm64_sys_shmdt";
    arm64_sys_setns after arm64_sys_setns_entry = "__arm64_sys_setns";
    arm64_compat_sys_mq_open = "__arm64_compat_sys_mq_open";
    arm64_sys_mq_timedsend_time32 after arm64_sys_mq_timedsend_time32_entry = "__arm64_sys_mq_timedsend_time32";
    arm64_sys_mq_timedreceive_time32 after arm64_sys_mq_timedreceive_time32_entry = "__arm64_sys_mq_timedreceive_time32";
    arm64_compat_sys_mq_notify after arm64_compat_sys_mq_notify_entry = "__arm64_compat_sys_mq_notify";
    arm64_compat_sys_mq_getsetattr after arm64_compat_sys_mq_getsetattr_entry = "__arm64_compat_sys_mq_getsetattr";
    arm64_compat_sys_old_semctl = "__arm64_compat_sys_old_semctl";
    arm64_compat_sys_msgsnd after arm64_compat_sys_msgsnd_entry = "__arm64_compat_sys_msgsnd";
    arm64_compat_sys_msgrcv after arm64_compat_sys_msgrcv_entry = "__arm64_compat_sys_msgrcv";
    arm64_compat_sys_old_msgctl = "__arm64_compat_sys_old_msgctl";
    arm64_compat_sys_shmat = "__arm64_compat_sys_shmat";
    arm64_compat_sys_old_shmctl = "__arm64_compat_sys_old_shmctl";
    arm64_sys_semtimedop_time32 after arm64_sys_semtimedop_time32_entry = "__arm64_sys_semtimedop_time32";
}
