//! Entry and return of a call: the way of an event through the kernel side.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, generated::bpf_ktime_get_boot_ns};
use ipc_trace_common::{
    hooks::{ACCESS_KINDS, look},
    layout::Field,
    op::{Code, Op},
    record::NO_DURATION,
    state::fired_at,
};

use crate::{
    batches,
    constants::{at_entry, at_return, constant},
    context, emit, files,
    filters::{self, Subject},
    maps::{self, Count, Gate},
    memory::{PLAIN, current_task, field, learn_registers, registers},
    moves, namespaces, queues,
    registers::{Call, has_place, place},
    slots,
};

/// `sys_enter`. The context is read when it is needed: most calls are none of ours.
#[inline(always)]
pub(crate) fn enter(regs: impl Fn() -> u64, number: impl Fn() -> u64) {
    if at_entry(number()) {
        enter_of_ours(regs(), number());
    }
}

/// `sys_enter` of a call whose number may be one of ours. By itself, so that other calls need not save
/// registers for it.
#[inline(never)]
fn enter_of_ours(regs: u64, number: u64) {
    let gate = maps::gate();
    let pid_tgid = bpf_get_current_pid_tgid();
    if gate.keeps_out((pid_tgid >> 32) as u32) {
        return;
    }
    let task = current_task();
    if !has_place(number) {
        return;
    }
    if let Some(call) = Call::new(task, regs, number, constant!(SYSCALL_KINDS)) {
        entered(gate, pid_tgid, task, call);
    }
}

/// `sys_exit`.
#[inline(always)]
pub(crate) fn exit(regs: impl Fn() -> u64, ret: impl Fn() -> i64) {
    // Cheap: this is what every other call of the host pays.
    match at_return(field(regs(), Field::RegNumber)) {
        look::NONE => {}
        look::READ => {
            if files::are_held() {
                access_of_ours(regs(), ret());
            }
        }
        look::OPEN => access_of_ours(regs(), ret()),
        _ => {
            let packed = exit_of_ours(regs(), ret());
            if packed != 0 {
                returned(packed, regs(), ret());
            }
        }
    }
}

/// A call returned that reads from a file, or gives a descriptor.
#[inline(never)]
fn access_of_ours(regs: u64, ret: i64) {
    let number: u64 = field(regs, Field::RegNumber);
    let task = current_task();
    let pid = (bpf_get_current_pid_tgid() >> 32) as u32;
    if filters::failed(ret) || !has_place(number) || maps::gate().keeps_out(pid) {
        return;
    }
    if let Some(call) = Call::new(task, regs, number, constant!(SYSCALL_KINDS) & ACCESS_KINDS) {
        match call.code {
            Code::READ => files::was_read(pid, call.first() as u32),
            code => files::given(code, ret as u32),
        }
    }
}

/// As [`enter_of_ours`]: the call, if there is something left to do. That is left to the program, since
/// on the stack there is not room for all of them.
#[inline(never)]
fn exit_of_ours(regs: u64, ret: i64) -> u64 {
    let number: u64 = field(regs, Field::RegNumber);
    let gate = maps::gate();
    let pid_tgid = bpf_get_current_pid_tgid();
    if gate.keeps_out((pid_tgid >> 32) as u32) {
        slots::call_ends(pid_tgid);
        return 0;
    }
    let task = current_task();
    if gate.is_open() && batches::exit(pid_tgid, task, ret)
        || !has_place(number)
        || ret == NOT_MADE && is_killed(task)
    {
        return 0;
    }
    Call::new(task, regs, number, constant!(SYSCALL_KINDS)).map_or(0, Call::packed)
}

/// `-ENOSYS`: what x86 has for a result until the call is made (`entry_SYSCALL_64`,
/// arch/x86/entry/entry_64.S, 6.12). On arm64 such a call has no number any more.
const NOT_MADE: i64 = -38;
/// `SIGKILL` in a `sigset_t`.
const KILLED: u64 = 1 << 8;

/// Whether the thread is to die. One that is killed while a tracer holds it at the entry of a call does
/// not make the call, but comes to `sys_exit` (`syscall_trace_enter`, kernel/entry/common.c, 6.12).
#[inline(always)]
fn is_killed(task: u64) -> bool {
    let pending: u64 = field(task, Field::TaskPending);
    pending & KILLED != 0
}

/// `sys_enter`, from whose program the registers can't be reached.
#[cfg(not(feature = "probe"))]
#[inline(always)]
pub(crate) fn enter_steady(number: u64) {
    if at_entry(number) {
        let regs = crate::memory::user_registers();
        enter(|| regs, || number);
    }
}

/// `sys_exit`, likewise.
#[cfg(not(feature = "probe"))]
#[inline(always)]
pub(crate) fn exit_steady(number: u64, ret: i64) {
    let look = at_return(number);
    if look != look::NONE && (look != look::READ || files::are_held()) {
        let regs = crate::memory::user_registers();
        exit(|| regs, || ret);
    }
}

/// Entry of a function that implements a system call.
#[inline(always)]
pub(crate) fn enter_function(regs: u64) {
    let gate = maps::gate();
    let pid_tgid = bpf_get_current_pid_tgid();
    if gate.keeps_out((pid_tgid >> 32) as u32) {
        mark(gate, regs, true);
        return;
    }
    let task = current_task();
    let number = field(regs, Field::RegNumber);
    if let Some(call) = Call::new(task, regs, number, !constant!(SYSCALL_KINDS)) {
        entered(gate, pid_tgid, task, call);
    }
}

/// Return of that function.
#[inline(always)]
pub(crate) fn exit_function(regs: u64, ret: i64) {
    let gate = maps::gate();
    let pid_tgid = bpf_get_current_pid_tgid();
    if gate.keeps_out((pid_tgid >> 32) as u32) {
        mark(gate, regs, false);
        slots::call_ends(pid_tgid);
        return;
    }
    let task = current_task();
    if gate.is_open() && batches::exit(pid_tgid, task, ret) {
        return;
    }
    let number = field(regs, Field::RegNumber);
    if let Some(call) = Call::new(task, regs, number, !constant!(SYSCALL_KINDS)) {
        returned(call.packed(), regs, ret);
    }
}

/// Entry of a function of which is known what calls it (`kind`). Whether nothing is left to do.
#[inline(always)]
pub(crate) fn enter_known(regs: u64, kind: u64) -> bool {
    batches::enter_known(bpf_get_current_pid_tgid(), Call::unpacked(regs, kind))
}

/// Return of such a function. Whether nothing is left to do.
#[inline(always)]
pub(crate) fn exit_known(ret: i64) -> bool {
    maps::gate().is_open() && batches::exit_known(bpf_get_current_pid_tgid(), current_task(), ret)
}

/// Entry of a function that implements a move between namespaces.
#[inline(always)]
pub(crate) fn enter_move(regs: u64) {
    let gate = maps::gate();
    let pid_tgid = bpf_get_current_pid_tgid();
    if gate.keeps_out((pid_tgid >> 32) as u32) {
        mark(gate, regs, true);
        return;
    }
    let task = current_task();
    if let Some(code) = move_of(task, regs) {
        moves::entered(task, pid_tgid, code);
    }
}

/// Return of that function.
#[inline(always)]
pub(crate) fn exit_move(regs: u64, ret: i64) {
    let gate = maps::gate();
    let pid_tgid = bpf_get_current_pid_tgid();
    if gate.keeps_out((pid_tgid >> 32) as u32) {
        mark(gate, regs, false);
        return;
    }
    let task = current_task();
    let number = field(regs, Field::RegNumber);
    if let Some(call) = Call::new(task, regs, number, !constant!(SYSCALL_KINDS)) {
        move_returned(call.packed(), ret as u64);
    }
}

#[inline(always)]
fn move_of(task: u64, regs: u64) -> Option<Code> {
    let number = field(regs, Field::RegNumber);
    let call = Call::new(task, regs, number, !constant!(SYSCALL_KINDS))?;
    call.code.op().is_none().then_some(call.code)
}

/// During the self-test: this program was run.
#[inline(always)]
fn mark(gate: Gate, regs: u64, entry: bool) {
    if gate.is_test() {
        learn_registers(regs);
        let number = field(regs, Field::RegNumber);
        maps::fired(fired_at(place(current_task(), number), entry));
    }
}

/// Remembers when a call that can block began, what its descriptor leads to, and the namespace that
/// a thread may be about to leave.
#[inline(always)]
fn entered(gate: Gate, pid_tgid: u64, task: u64, call: Call) {
    let Some(op) = call.code.op() else {
        moves::entered(task, pid_tgid, call.code);
        return;
    };
    if !gate.is_open() || !call.code.needs_entry() {
        return;
    }
    let mut queue = queues::none();
    if op.takes_descriptor() {
        queue = queues::behind(task, call.first() as u32);
    }
    if batches::enter(pid_tgid, call, &queue) {
        return;
    }
    let Some(slot) = slots::find_or_take(pid_tgid) else {
        return;
    };
    slot.arg0 = call.first();
    slot.abi = call.abi as u8;
    slot.code = call.code.0;
    slot.queue = queue;
    // SAFETY: no arguments.
    slot.enter_ns = unsafe { bpf_ktime_get_boot_ns() };
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

/// unshare or setns returned. A global function, as the next one.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn move_returned(packed: u64, ret: u64) -> u64 {
    let code = Call::unpacked(0, packed).code;
    let task = current_task();
    moves::returned(task, namespaces::of_task(task), bpf_get_current_pid_tgid(), code, ret as i64);
    0
}

/// Notes in the thread's slot what [`emit::send_call`] needs to know of a call that returned, and gives
/// what that is to be called with: `0`, if there is nothing to be sent.
///
/// A global function, so that the verifier looks at it by itself: kernels before 6.2 tell states of programs
/// with functions apart by every number (`__mark_reg_unknown`, kernel/bpf/verifier.c, 6.1).
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn finish_call(packed: u64, ret: u64, regs: u64) -> u64 {
    let call = Call::unpacked(registers(regs), packed);
    let Some(op) = call.code.op() else {
        return 0;
    };
    let ret = ret as i64;
    let gate = maps::gate();
    let pid_tgid = bpf_get_current_pid_tgid();
    // First, before ways part: for each load of a pointer from a known structure, and on each way that
    // leads to it, 6.12's verifier searches all of BTF (`btf_nested_type_is_trusted`,
    // kernel/bpf/btf.c), which makes up most of the time that loading takes.
    let task = current_task();
    let ipc_ns = namespaces::of_task(task);
    let cred = field(task, Field::TaskCred);
    let changes = op.changes_objects() && !filters::failed(ret);
    if !gate.is_open() && !changes {
        // It may have made a queue before it failed.
        if matches!(op, Op::MqOpen) {
            slots::forget_birth(pid_tgid);
        }
        return 0;
    }
    if gate.is_open() && batches::looked_up(pid_tgid, task, call, ret) {
        return 0;
    }
    let noted_ns = batches::leave(pid_tgid);
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let ns = namespaces::identify(ipc_ns);
    let mut duration_ns = NO_DURATION;
    let mut queue = queues::none();
    let mut births = 0;
    let mut slot = slots::find_or_take(pid_tgid);
    if let Some(slot) = &mut slot {
        if op.makes_objects() {
            births = slots::birth(slot, op, ret);
        }
        let enter_ns = if noted_ns != 0 { noted_ns } else { slot.enter_ns };
        if enter_ns != 0 {
            if op.blocks() {
                duration_ns = now - enter_ns;
            }
            if op.takes_descriptor() && noted_ns == 0 {
                queue = slot.queue;
            }
            slot.enter_ns = 0;
        }
    }
    let opens = matches!(op, Op::MqOpen) && ret >= 0;
    if op.takes_descriptor() || opens {
        // It entered before the start, or was refused before the entry was seen; or it opened the queue.
        if queue.flags == 0 {
            let fd = if opens { ret as u64 } else { call.first() };
            queue = queues::behind(task, fd as u32);
        }
        queues::compare(&mut queue, ns);
    }
    let mut packed = call.packed() | u64::from(births) << emit::BIRTHS_AT;
    if gate.is_open() {
        let Some(counters) = maps::counters(op as u32) else {
            return 0;
        };
        maps::count(counters, Count::Seen);
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
        if wanted {
            packed |= emit::REPORTED;
        } else {
            maps::count(counters, Count::Filtered);
            if !changes && !queues::is_foreign(&queue) {
                return 0;
            }
        }
    }
    if let Some(slot) = slot {
        let made_others = slot.context != 0;
        let context = context::ensure(slot, task, ns);
        (slot.exit_ns, slot.duration_ns) = (now, duration_ns);
        if op.takes_descriptor() || opens {
            slot.queue = queue;
        }
        if made_others && packed & emit::REPORTED != 0 {
            batches::begin(call, context, ns);
        }
    }
    packed
}

const _: () = assert!(Code::IPC.op().is_none());
