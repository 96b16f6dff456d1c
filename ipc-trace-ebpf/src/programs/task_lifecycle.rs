//! Threads that execute another program, and threads that end.

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use ipc_trace_common::{layout::Field, state::filter};

use crate::{
    access::files,
    base::{
        constants::constant,
        memory::{current_task, field},
    },
    call::filters::DESCENDANTS,
    thread::{
        batches,
        context::emit_end,
        slots::{find, give_back},
    },
};

/// After exec: the context must be sent anew. A thread that is not the leader takes the leader's tid in exec
/// (`de_thread`, fs/exec.c); `old_tid` is its previous tid.
#[inline(always)]
pub(crate) fn forget_context(old_tid: u32) {
    let pid_tgid = bpf_get_current_pid_tgid();
    let old = pid_tgid & !0xffff_ffff | u64::from(old_tid);
    if find(old).is_some() {
        batches::release(old);
    }
    if let Some(slot) = find(pid_tgid) {
        slot.context = 0;
    }
    if old != pid_tgid {
        give_back(old);
    }
}

/// At the end of a thread: its slot is released, and user space may forget its context.
#[inline(always)]
pub(crate) fn thread_ends() {
    let pid_tgid = bpf_get_current_pid_tgid();
    if constant!(FILTERS) & filter::COMMAND != 0 {
        let signal = field(current_task(), Field::TaskSignal);
        // do_exit has decremented the count before the tracepoint (kernel/exit.c).
        if field::<i32>(signal, Field::SignalLive) == 0 {
            let _ = DESCENDANTS.remove(&((pid_tgid >> 32) as u32));
        }
    }
    files::process_ends(pid_tgid);
    // Most threads have made no call of IPC: they have no slot, and so no batch.
    if let Some(slot) = find(pid_tgid) {
        slot.count_if_unreturned();
        batches::end(pid_tgid);
        let context = give_back(pid_tgid);
        if context != 0 {
            emit_end(pid_tgid, context);
        }
    }
}
