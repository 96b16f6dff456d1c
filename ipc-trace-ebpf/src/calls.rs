//! Entry and return of a call: the way of an event through the kernel side.

use aya_ebpf::{
    bindings::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::{
        bpf_get_current_pid_tgid,
        generated::{bpf_ktime_get_boot_ns, bpf_ringbuf_submit},
    },
};
use ipc_trace_common::{
    layout::{Field, Offset},
    op::{Code, Op},
    record::{
        CallRecord, CtlPart, Header, Kind, MsgPart, NO_DURATION, NamePart, QueuePart, QueueRef,
        SemopPart, VERSION, flag,
    },
};

use crate::{
    context, detail,
    detail::Facts,
    filters,
    maps::{self, Count, EVENTS},
    memory::{current_task, field, kernel},
    moves, namespaces, queues,
    registers::{Call, worth_a_look},
    slots,
};

/// `sys_enter`: remembers when a call that can block began, what its descriptor leads to, and the
/// namespace that a thread may be about to leave.
#[inline(always)]
pub(crate) fn enter(regs: u64, number: u64) {
    if !worth_a_look(number) {
        return;
    }
    let gate = maps::gate();
    let pid_tgid = bpf_get_current_pid_tgid();
    if gate.keeps_out((pid_tgid >> 32) as u32) {
        return;
    }
    let task = current_task();
    let Some(call) = Call::new(task, regs, number) else {
        return;
    };
    let Some(op) = call.code.op() else {
        if let Some(slot) = slots::find_or_take(pid_tgid) {
            slot.from = namespaces::identify(namespaces::of_task(task));
            slot.code = call.code.0;
        }
        return;
    };
    if !gate.is_open() || !(op.blocks() || op.takes_descriptor()) {
        return;
    }
    let Some(slot) = slots::find_or_take(pid_tgid) else {
        return;
    };
    slot.arg0 = call.first();
    slot.abi = call.abi as u8;
    slot.code = call.code.0;
    slot.queue.flags = 0;
    if op.takes_descriptor() {
        slot.queue = queues::behind(task, slot.arg0 as u32, namespaces::of_task(task));
    }
    // SAFETY: no arguments.
    slot.enter_ns = unsafe { bpf_ktime_get_boot_ns() };
}

/// `sys_exit`: the event.
#[inline(always)]
pub(crate) fn exit(regs: u64, ret: i64) {
    let number: u64 = field(regs, Field::RegNumber);
    if !worth_a_look(number) {
        return;
    }
    let gate = maps::gate();
    let pid_tgid = bpf_get_current_pid_tgid();
    if gate.keeps_out((pid_tgid >> 32) as u32) {
        slots::call_ends(pid_tgid);
        return;
    }
    let task = current_task();
    let Some(call) = Call::new(task, regs, number) else {
        return;
    };
    let Some(op) = call.code.op() else {
        moves::returned(task, pid_tgid, call.code, ret);
        return;
    };
    if !gate.is_open() {
        return;
    }
    maps::count(op as u32, Count::Seen);

    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let ipc_ns = namespaces::of_task(task);
    let cred: u64 = field(task, Field::TaskCred);
    let mut event = CallRecord {
        header: Header {
            version: VERSION,
            kind: Kind::Call as u8,
            abi: call.abi as u8,
            code: call.code.0,
            flags: if call.multiplexed == 0 { 0 } else { flag::MULTIPLEXED },
        },
        boot_ns: now,
        duration_ns: NO_DURATION,
        ret,
        context: 0,
        tid: pid_tgid as u32,
        pid: (pid_tgid >> 32) as u32,
        ns: namespaces::identify(ipc_ns),
        euid: field(cred, Field::CredEuid),
        egid: field(cred, Field::CredEgid),
        comm: comm(task),
        args: [0; 5],
    };
    let mut queue = QueueRef::default();
    let slot = slots::find_or_take(pid_tgid);
    let mut slot = slot;
    if let Some(slot) = &mut slot {
        if slot.enter_ns != 0 {
            if op.blocks() {
                event.duration_ns = now - slot.enter_ns;
            }
            queue = slot.queue;
            slot.enter_ns = 0;
        }
    }
    if op.takes_descriptor() {
        if queue.flags == 0 {
            // It entered before the start, or was refused before the entry was seen.
            queue = queues::behind(task, call.first() as u32, ipc_ns);
        }
    } else if matches!(op, Op::MqOpen) && ret >= 0 {
        queue = queues::behind(task, ret as u32, ipc_ns);
    }
    let queue_op = op.takes_descriptor() || matches!(op, Op::MqOpen);
    if !filters::wanted(&event, op as u8, queue_op.then_some(&queue)) {
        maps::count(op as u32, Count::Filtered);
        return;
    }
    if let Some(slot) = slot {
        event.context = context::ensure(slot, task, event.ns);
    }
    event.args = call.arguments();
    emit(&event, call, op, &queue);
}

#[inline(always)]
fn comm(task: u64) -> [u8; 16] {
    let at = crate::constants::offset(Field::TaskComm);
    let comm: [u64; 2] = if at & Offset::PROBE == 0 {
        // SAFETY: the task is known to the verifier, and `comm` has 16 bytes.
        unsafe {
            let from = (task + u64::from(at)) as *const u64;
            [from.read_volatile(), from.add(1).read_volatile()]
        }
    } else {
        kernel(task + context::bytes(Field::TaskComm))
    };
    // SAFETY: both are 16 bytes of integers.
    unsafe { core::mem::transmute::<[u64; 2], [u8; 16]>(comm) }
}

/// A call and what belongs to its operation, as they lie in the ring.
#[repr(C)]
struct With<P> {
    call: CallRecord,
    part: P,
}

/// Puts the event into the ring, with the operation's own part.
#[inline(always)]
fn emit(event: &CallRecord, call: Call, op: Op, queue: &QueueRef) {
    let facts = Facts { call, ret: event.ret, args: event.args };
    match op {
        Op::Shmget | Op::Shmat | Op::Shmdt | Op::Semget | Op::Msgget => {
            put::<()>(event, op, |_| 0);
        }
        // SAFETY (all below): `put` gives room for a whole part.
        Op::Semop => put::<SemopPart>(event, op, |part| {
            // SAFETY: as above.
            unsafe { detail::semop(part, facts) }
        }),
        Op::Msgsnd | Op::Msgrcv => put::<MsgPart>(event, op, |part| {
            // SAFETY: as above.
            unsafe { detail::message(part, facts, op) }
        }),
        Op::Shmctl | Op::Semctl | Op::Msgctl => put::<CtlPart>(event, op, |part| {
            // SAFETY: as above.
            unsafe { detail::ctl(part, facts, op) }
        }),
        Op::MqOpen | Op::MqUnlink => put::<NamePart>(event, op, |part| {
            // SAFETY: as above.
            unsafe {
                (*part).queue = *queue;
                detail::name(part, facts, op)
            }
        }),
        Op::MqSend | Op::MqReceive | Op::MqNotify | Op::MqGetsetattr => {
            put::<QueuePart>(event, op, |part| {
                // SAFETY: as above.
                unsafe {
                    (*part).queue = *queue;
                    detail::queue(part, facts, op)
                }
            });
        }
    }
}

/// So often, per CPU and operation, an event wakes the reader, which otherwise looks by itself
/// every few milliseconds.
const WAKE_EVERY: u64 = 4096;

#[inline(always)]
fn put<P>(event: &CallRecord, op: Op, fill: impl FnOnce(*mut P) -> u32) {
    let Some(record) = maps::reserve::<With<P>>(&EVENTS) else {
        maps::count(op as u32, Count::Dropped);
        let error = if filters::failed(event.ret) { -event.ret as u16 } else { 0 };
        maps::count_drop(event.ns.inum, event.ns.generation, op as u16, error);
        return;
    };
    let emitted = maps::count(op as u32, Count::Emitted);
    // SAFETY: the ring gave room for a call and its part.
    unsafe {
        core::ptr::addr_of_mut!((*record).call).write(*event);
        (*record).call.header.flags |= fill(core::ptr::addr_of_mut!((*record).part));
        let wake = if emitted % WAKE_EVERY == 0 { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP };
        bpf_ringbuf_submit(record.cast(), u64::from(wake));
    }
}

const _: () = assert!(Code::IPC.op().is_none());
