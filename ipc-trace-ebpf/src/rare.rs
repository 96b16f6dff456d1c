//! Writes rare conditions to the user's log. Verifying this program takes as long as verifying all the others
//! together. So it is a program of its own, an iterator like the namespace list but with a single step, that is
//! loaded when there is something to log. Each of its messages carries the name and the path of this module, whose
//! letters are instructions: so both are short.

use aya_log_ebpf::{info, warn};
use ipc_trace_common::state::Diagnostic;

use crate::base::counts;

/// `struct bpf_iter__task`; only the first step does anything.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
fn diagnostics(ctx: *mut u64) -> i32 {
    // SAFETY: the verifier checks the accesses to the context; its first member leads to three 64-bit
    // values: seq, session_id, seq_num.
    let number = unsafe { (ctx.read_volatile() as *const u64).add(2).read_volatile() };
    if number != 0 {
        return 0;
    }
    if let Some(n) = counts::diagnosed(Diagnostic::NoSlotForCall) {
        warn!(
            &ctx,
            "{} calls found no room to note their entry: no duration, arguments of later", n
        );
    }
    if let Some(n) = counts::diagnosed(Diagnostic::NoSlotForMove) {
        warn!(&ctx, "{} moves between namespaces found no room to note their entry: not shown", n);
    }
    if let Some(n) = counts::diagnosed(Diagnostic::NoSlotForTask) {
        warn!(
            &ctx,
            "{} times no room to note that a thread was described: calls by nobody known", n
        );
    }
    if let Some(n) = counts::diagnosed(Diagnostic::NoSlotForCreation) {
        warn!(&ctx, "{} objects were created, with no room to note by whom", n);
    }
    if let Some(n) = counts::diagnosed(Diagnostic::InputsFull) {
        warn!(
            &ctx,
            "{} names or structures were read when calls returned: no room to keep them", n
        );
    }
    if let Some(n) = counts::diagnosed(Diagnostic::Unreturned) {
        warn!(
            &ctx,
            "{} calls were missed at their return: programs came or went during the call", n
        );
    }
    if let Some(n) = counts::diagnosed(Diagnostic::DropTableFull) {
        warn!(&ctx, "{} lost calls are counted without their namespace: too many kinds", n);
    }
    // Harmless: it happens at the start.
    if let Some(n) = counts::diagnosed(Diagnostic::MoveWithoutEntry) {
        info!(&ctx, "{} moves between namespaces had begun before the start: not shown", n);
    }
    if let Some(n) = counts::diagnosed(Diagnostic::NamespaceTableFull) {
        warn!(
            &ctx,
            "{} times no room for a namespace: generations of its number are not distinguished", n
        );
    }
    if let Some(n) = counts::diagnosed(Diagnostic::Unreadable) {
        warn!(&ctx, "{} times a field of the kernel could not be read", n);
    }
    if let Some(n) = counts::diagnosed(Diagnostic::ManyDescriptors) {
        warn!(&ctx, "{} moves of processes with more descriptors than are inspected", n);
    }
    if let Some(n) = counts::diagnosed(Diagnostic::ReadersFull) {
        warn!(&ctx, "{} more processes hold others' /proc/sysvipc than are followed", n);
    }
    0
}
