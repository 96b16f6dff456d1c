//! Entry and return of a call: the path of an event through the eBPF programs.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, generated::bpf_ktime_get_boot_ns};
use ipc_trace_common::{
    hooks::{ACCESS_KINDS, dispatch_kind},
    layout::Field,
    op::{Op, SyscallCode},
    record::{NO_DURATION, flag},
    state::{Diagnostic, fired_at},
};

use crate::{
    access::files,
    base::{
        constants::{at_entry, at_return, constant},
        counts::{self, Count},
        gate::{self, Gate, gate},
        memory::{PLAIN, current_task, field, kernel_field, learn_registers, registers},
        registers::{Call, failed, has_place, number, place},
    },
    call::{
        emit,
        filters::{self, Subject},
        inputs, ns_switch,
    },
    metadata::{namespaces, queues},
    thread::{batched_calls, batches, context, slots},
};

/// `sys_enter`. The context is read only when needed: most calls are of no interest.
#[inline(always)]
pub(crate) fn enter(regs: impl Fn() -> u64, number: impl Fn() -> u64) {
    if at_entry(number()) {
        enter_of_ours(regs(), number());
    }
}

/// `sys_enter` of a call whose number may be of interest. Separate, so that other calls need not save registers for
/// it.
#[inline(never)]
fn enter_of_ours(regs: u64, number: u64) {
    if batched_calls::enter_again(current_task(), number, regs) {
        return;
    }
    let gate = gate();
    let pid_tgid = bpf_get_current_pid_tgid();
    if gate.keeps_out((pid_tgid >> 32) as u32) {
        return;
    }
    let task = current_task();
    if !has_place(number) {
        return;
    }
    if let Some(call) = Call::new(task, regs, number, constant!(SYSCALL_KINDS)) {
        entered(gate, pid_tgid, task, call, (regs, number));
    }
}

/// `sys_exit`.
#[inline(always)]
pub(crate) fn exit(regs: impl Fn() -> u64, ret: impl Fn() -> i64) {
    // Cheap: this is the cost for every other call of the host.
    match at_return(number(regs())) {
        dispatch_kind::NONE => {}
        dispatch_kind::READ => {
            if files::are_held() {
                access_of_ours(regs(), ret());
            }
        }
        dispatch_kind::OPEN => access_of_ours(regs(), ret()),
        _ => {
            let packed = exit_of_ours(regs(), ret());
            if packed != 0 {
                returned(packed, regs(), ret());
            }
        }
    }
}

/// A call returned that reads from a file, or returns a descriptor.
#[inline(never)]
fn access_of_ours(regs: u64, ret: i64) {
    let number = number(regs);
    let task = current_task();
    let pid: u32 = field(task, Field::TaskTgid);
    if failed(ret) || !has_place(number) || gate().keeps_out(pid) {
        return;
    }
    if let Some(call) = Call::new(task, regs, number, constant!(SYSCALL_KINDS) & ACCESS_KINDS) {
        match call.code {
            SyscallCode::READ => files::was_read(pid, call.first() as u32),
            code => files::given(code, ret as u32),
        }
    }
}

/// As [`enter_of_ours`]: returns the call, if something is left to do. The program does that itself, because the
/// stack has no room for all of them.
#[inline(never)]
fn exit_of_ours(regs: u64, ret: i64) -> u64 {
    if batched_calls::exit(current_task(), regs, ret) {
        return 0;
    }
    let number = number(regs);
    let gate = gate();
    let pid_tgid = bpf_get_current_pid_tgid();
    if gate.keeps_out((pid_tgid >> 32) as u32) {
        call_ends(pid_tgid);
        return 0;
    }
    if !has_place(number) {
        return 0;
    }
    Call::new(current_task(), regs, number, constant!(SYSCALL_KINDS)).map_or(0, Call::packed)
}

/// `sys_enter`, from whose program the registers can't be reached.
#[cfg(not(feature = "probe"))]
#[inline(always)]
pub(crate) fn enter_nopreempt(number: u64) {
    if at_entry(number) {
        let regs = crate::base::memory::user_registers();
        enter(|| regs, || number);
    }
}

/// `sys_exit`, likewise.
#[cfg(not(feature = "probe"))]
#[inline(always)]
pub(crate) fn exit_nopreempt(number: u64, ret: i64) {
    let kind = at_return(number);
    if kind != dispatch_kind::NONE && (kind != dispatch_kind::READ || files::are_held()) {
        let regs = crate::base::memory::user_registers();
        exit(|| regs, || ret);
    }
}

/// Entry of a function that implements a system call.
#[inline(always)]
pub(crate) fn enter_function(regs: u64) {
    let gate = gate();
    let pid_tgid = bpf_get_current_pid_tgid();
    if gate.keeps_out((pid_tgid >> 32) as u32) {
        mark(gate, regs, true);
        return;
    }
    let task = current_task();
    let number = number(regs);
    if let Some(call) = Call::new(task, regs, number, !constant!(SYSCALL_KINDS)) {
        entered(gate, pid_tgid, task, call, (regs, number));
    }
}

/// As [`enter_function`], by one of several copies that all run: its number.
#[cfg(not(feature = "probe"))]
#[inline(always)]
pub(crate) fn enter_copy(copy: u64) {
    if gate().is_test() || crate::thread::copies::enters(copy) != 0 {
        enter_function(crate::base::memory::user_registers());
    }
}

/// As [`exit_function`], likewise.
#[cfg(not(feature = "probe"))]
#[inline(always)]
pub(crate) fn exit_copy(copy: u64, ret: i64) {
    if gate().is_test() || crate::thread::copies::returns(copy) != 0 {
        exit_function(crate::base::memory::user_registers(), ret);
    }
}

/// Return of that function.
#[inline(always)]
pub(crate) fn exit_function(regs: u64, ret: i64) {
    let packed = exit_of_function(regs, ret);
    if packed != 0 {
        returned(packed, regs, ret);
    }
}

/// As [`exit_of_ours`].
#[inline(never)]
fn exit_of_function(regs: u64, ret: i64) -> u64 {
    let gate = gate();
    let pid_tgid = bpf_get_current_pid_tgid();
    if gate.keeps_out((pid_tgid >> 32) as u32) {
        mark(gate, regs, false);
        call_ends(pid_tgid);
        return 0;
    }
    let (task, number) = (current_task(), number(regs));
    if batched_calls::exit(task, regs, ret) || !has_place(number) {
        return 0;
    }
    Call::new(task, regs, number, !constant!(SYSCALL_KINDS)).map_or(0, Call::packed)
}

/// The thread's current call has returned, unreported: the last namespace list must not list it.
#[inline(always)]
fn call_ends(pid_tgid: u64) {
    batches::forget_call(pid_tgid);
    if let Some(slot) = slots::find(pid_tgid) {
        slot.leave();
        slot.made = 0;
        slots::forget_input(slot);
    }
}

/// Entry of a function that implements a move between namespaces.
#[inline(always)]
pub(crate) fn enter_move(regs: u64) {
    let gate = gate();
    let pid_tgid = bpf_get_current_pid_tgid();
    if gate.keeps_out((pid_tgid >> 32) as u32) {
        mark(gate, regs, true);
        return;
    }
    let task = current_task();
    if let Some(call) = move_of(task, regs) {
        ns_switch::entered(task, pid_tgid, call);
    }
}

/// Return of that function.
#[inline(always)]
pub(crate) fn exit_move(regs: u64, ret: i64) {
    let packed = exit_of_move(regs);
    if packed != 0 {
        move_returned(packed, ret as u64);
    }
}

/// As [`exit_of_ours`].
#[inline(never)]
fn exit_of_move(regs: u64) -> u64 {
    let gate = gate();
    if gate.keeps_out((bpf_get_current_pid_tgid() >> 32) as u32) {
        mark(gate, regs, false);
        return 0;
    }
    move_of(current_task(), regs).map_or(0, Call::packed)
}

#[inline(always)]
fn move_of(task: u64, regs: u64) -> Option<Call> {
    let number = number(regs);
    let call = Call::new(task, regs, number, !constant!(SYSCALL_KINDS))?;
    call.code.op().is_none().then_some(call)
}

/// During the self-test: marks that this program ran.
#[inline(always)]
fn mark(gate: Gate, regs: u64, entry: bool) {
    if gate.is_test() {
        learn_registers(regs);
        let number = number(regs);
        gate::fired(fired_at(place(current_task(), number), entry));
    }
}

/// Stores that a call was entered: when, if it can block; the queue behind its descriptor, what it is about to take
/// from memory, and the namespace that a thread may be about to leave.
#[inline(always)]
fn entered(gate: Gate, pid_tgid: u64, task: u64, call: Call, (regs, number): (u64, u64)) {
    let Some(op) = call.code.op() else {
        ns_switch::entered(task, pid_tgid, call);
        return;
    };
    let mut queue = queues::none();
    if gate.is_open() {
        if op.takes_descriptor() {
            let pointers = queues::pointers(task, call.first() as u32);
            if batched_calls::enter_same_queue(pid_tgid, number, call, &pointers) {
                return;
            }
            let is_cached;
            (queue, is_cached) = queues::queue_at(&pointers);
            if batched_calls::enter_queue(
                pid_tgid,
                number,
                call,
                &queue,
                is_cached.then_some(&pointers),
            ) {
                return;
            }
        } else if batched_calls::enter(pid_tgid, number, call) {
            return;
        }
    }
    let Some(slot) = slots::find_or_take(pid_tgid, Diagnostic::NoSlotForCall) else {
        return;
    };
    slot.count_if_unreturned();
    slot.entered = call.packed();
    slot.seen = 1;
    slot.enter_ns = 0;
    if op.makes_objects() {
        slot.made = 0;
    }
    if op.takes_descriptor() {
        slot.queue = queue;
    }
    if op.blocks() {
        slot.arg0 = call.first();
        // SAFETY: no arguments.
        slot.enter_ns = unsafe { bpf_ktime_get_boot_ns() };
    }
    inputs::read(slot, call, op, regs);
}

/// A call returned.
#[inline(always)]
fn returned(packed: u64, regs: u64, ret: i64) {
    let ret = ret as u64;
    let regs = if PLAIN { 0 } else { regs };
    if Call::unpacked(0, packed).code.op().is_none() {
        move_returned(packed, ret);
        return;
    }
    let left = finish_call(packed, ret, regs);
    if left != 0 {
        emit::send_call(left, ret, regs);
    }
}

/// unshare or setns returned. A global function, like the next one.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn move_returned(packed: u64, ret: u64) -> u64 {
    let call = Call::unpacked(0, packed);
    let task = current_task();
    ns_switch::returned(
        task,
        namespaces::of_task(task),
        bpf_get_current_pid_tgid(),
        call,
        ret as i64,
    );
    0
}

/// Notes in the thread's slot what [`emit::send_call`] needs to know about a call that returned. Returns the argument
/// for it: `0`, if there is nothing to be sent.
///
/// A global function, so that the verifier checks it separately: in programs with functions, kernels before 6.2
/// distinguish states by every number (`__mark_reg_unknown`, kernel/bpf/verifier.c, 6.1).
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn finish_call(packed: u64, ret: u64, regs: u64) -> u64 {
    let call = Call::unpacked(registers(regs), packed);
    let Some(op) = call.code.op() else {
        return 0;
    };
    let ret = ret as i64;
    let gate = gate();
    let pid_tgid = bpf_get_current_pid_tgid();
    // First, before branches diverge: for each load of a pointer from a known structure, and on each path that leads
    // to it, 6.12's verifier searches all of BTF (`btf_nested_type_is_trusted`, kernel/bpf/btf.c), which makes up
    // most of the loading time.
    let task = current_task();
    let ipc_ns = namespaces::of_task(task);
    let cred = field(task, Field::TaskCred);
    let changes = op.changes_objects() && !failed(ret);
    let is_seen_at_entry = constant!(SYSCALL_KINDS) & call.code.bit() != 0;
    if gate.is_open() && !is_seen_at_entry && batched_calls::looked_up(pid_tgid, task, call, ret) {
        return 0;
    }
    let left = leave_call(packed, ret as u64, if PLAIN { 0 } else { regs });
    let flags = left as u32;
    let slot = slots::find(pid_tgid);
    let made = flags & flag::NOT_MADE == 0;
    if !gate.is_open() && (!changes || !made) {
        if let Some(slot) = slot {
            slots::forget_input(slot);
        }
        return 0;
    }
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let ns = namespaces::identify(ipc_ns);
    let mut duration_ns = NO_DURATION;
    let mut queue = queues::none();
    if let Some(slot) = &slot {
        if op.takes_descriptor() && left & ENTERED != 0 {
            queue = slot.queue;
        }
        if op.blocks() && slot.enter_ns != 0 && constant!(UNTIMED) == 0 {
            duration_ns = now - slot.enter_ns;
        }
    }
    let opens = matches!(op, Op::MqOpen) && ret >= 0;
    if made && (op.takes_descriptor() || opens) {
        // It entered before the start, or was refused before the entry was seen; or it opened the queue.
        if queue.flags == 0 {
            let fd = if opens { ret as u64 } else { call.first() };
            queue = queues::behind(task, fd as u32);
        }
        queues::compare(&mut queue, ns);
    }
    let mut packed = call.packed();
    if gate.is_open() {
        let Some(counters) = counts::counters(op as u32) else {
            return 0;
        };
        counts::count(counters, if made { Count::Seen } else { Count::NotMade });
        let wanted = !filters::in_force()
            || filters::wanted(&Subject {
                op: op as u8,
                ret,
                duration_ns,
                pid: (pid_tgid >> 32) as u32,
                euid: field(cred, Field::CredEuid),
                ns,
                object_ns: queue.ns,
            });
        if wanted && (made || constant!(ARGUMENTS) != 0) {
            packed |= emit::REPORTED;
        } else {
            if made {
                counts::count(counters, Count::Filtered);
            }
            if !made || !changes && !queues::is_foreign(&queue) {
                if let Some(slot) = slot {
                    slots::forget_input(slot);
                }
                return 0;
            }
        }
    }
    if let Some(slot) = slot {
        let made_others = slot.context != 0;
        if constant!(ARGUMENTS) != 0 && made_others && context::is_outdated(pid_tgid) != 0 {
            slot.context = 0;
        }
        let context = context::ensure(slot, task, ns);
        (slot.exit_ns, slot.duration_ns) = (now, duration_ns);
        slot.flags = flags;
        if op.takes_descriptor() || opens {
            slot.queue = queue;
        }
        if made && made_others && packed & emit::REPORTED != 0 {
            batches::begin(call, context, ns, &queue);
        }
    }
    packed
}

/// In the result of [`leave_call`], beside bits of [`flag`]: the call's entry was noted.
const ENTERED: u64 = 1 << 32;

/// A thread leaves a call: what is known of its entry. Its slot then has the time of the entry, and the queue.
///
/// A global function: [`finish_call`] would be checked once for each outcome.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn leave_call(packed: u64, ret: u64, regs: u64) -> u64 {
    let call = Call::unpacked(0, packed);
    let Some(op) = call.code.op() else {
        return 0;
    };
    let pid_tgid = bpf_get_current_pid_tgid();
    batches::give_back(pid_tgid, call);
    let mut slot = slots::find_or_take(pid_tgid, Diagnostic::NoSlotForTask);
    let (mut is_entered, mut enter_ns) = (false, 0);
    let mut flags = 0;
    if let Some(slot) = &mut slot {
        is_entered = slot.entered == packed;
        if is_entered {
            enter_ns = slot.enter_ns;
        } else {
            slot.input.flags = 0;
            slot.count_if_unreturned();
        }
        slot.leave();
        if op.makes_objects() {
            flags = slots::creation_flags(slot, op, ret as i64);
        }
    }
    let noted_ns = batches::leave(pid_tgid, call);
    if !is_entered && noted_ns != 0 {
        (is_entered, enter_ns) = (true, noted_ns);
        // A thread with a batch has a slot.
        if let (Some(slot), true) = (&mut slot, op.takes_descriptor()) {
            batches::queue(pid_tgid, &mut slot.queue);
        }
    }
    if let Some(slot) = slot {
        slot.enter_ns = enter_ns;
    }
    if is_entered {
        return u64::from(flags) | ENTERED;
    }
    if constant!(SYSCALL_KINDS) & call.code.bit() != 0 {
        flags |= unentered(pid_tgid, regs, ret) as u32;
    }
    u64::from(flags)
}

/// Bits of [`flag`] for a call of backend `syscall` that returns without a seen entry. A call that seccomp refused or
/// answered, or that a debugger skipped, reaches `sys_exit` and not `sys_enter` (`syscall_trace_enter`,
/// kernel/entry/common.c, 6.12): the kernel never made it. But a thread that existed before the start, and made no
/// call since, may have entered this one before.
///
/// A global function, so that the verifier checks it once.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn unentered(pid_tgid: u64, regs: u64, ret: u64) -> u64 {
    /// The initial result on x86, until the call is made or a debugger sets another one: `-ENOSYS`
    /// (`entry_SYSCALL_64`, arch/x86/entry/entry_64.S, 6.12)
    const PRESET: i64 = -38;
    let task = current_task();
    let Some(slot) = slots::find(pid_tgid) else {
        return u64::from(flag::ENTRY_UNSEEN);
    };
    let seen = slot.seen != 0;
    slot.seen = 1;
    if !seen && kernel_field::<u64>(task, Field::TaskStartBoottime) < gate::started() {
        return u64::from(flag::ENTRY_UNSEEN);
    }
    // What a trap leaves there: the call's number, or its first argument (`syscall_rollback`,
    // arch/{x86,arm64}/include/asm/syscall.h). A signal's handler determines the caller's return value.
    let regs = registers(regs);
    let rolled_back =
        if constant!(IS_X86) != 0 { number(regs) } else { field(regs, Field::RegArg0) };
    let traced: u32 = kernel_field(task, Field::TaskPtrace);
    if ret == rolled_back || ret as i64 == PRESET && traced != 0 {
        return u64::from(flag::NOT_MADE | flag::RET_UNKNOWN);
    }
    u64::from(flag::NOT_MADE)
}

const _: () = assert!(SyscallCode::IPC.op().is_none());
