//! From a returned call to its record: in the event ring, or in the control ring if it changed objects and isn't an
//! event.

use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid,
    generated::{bpf_ktime_get_boot_ns, bpf_ringbuf_submit},
};
use ipc_trace_common::{
    layout::Field,
    op::{Detail, Effect, Op, OpTarget},
    record::{
        CallRecord, CtlPart, MsgPart, NO_DURATION, NamePart, NsRef, QueuePart, QueueRef,
        RecordKind, SemopPart, VERSION, flag, queue_flag,
    },
    state::Counters,
};

use crate::{
    base::{
        constants::constant,
        counts::{self, Count},
        memory::{comm, current_task, field, registers},
        registers::{Call, error, failed},
        rings::{self, EVENTS},
        words::masked,
    },
    call::payload::{self, CallInfo, Entered, Inline, Part},
    metadata::{namespaces, queues},
    thread::slots,
};

/// A call's arguments, and flags about them.
type Arguments = ([u64; 5], u32);

/// A call that returned.
struct Event {
    call: Call,
    op: Op,
    ret: i64,
    now: u64,
    duration_ns: u64,
    context: u64,
    pid_tgid: u64,
    task: u64,
    cred: u64,
    ns: NsRef,
    counters: *mut Counters,
    queue: QueueRef,
    /// The thread's slot
    entered: Entered,
    /// Whether the kernel made it, as far as known
    made: bool,
}

/// A call and its operation's payload, as they lie in the ring.
#[repr(C)]
struct With<P> {
    call: CallRecord,
    part: P,
}

/// Reserves room for an event; counts it if there is none.
#[inline(always)]
fn reserve<P>(event: &Event) -> Option<*mut With<P>> {
    let record = rings::reserve(&EVENTS);
    if record.is_none() && !event.made {
        counts::count(event.counters, Count::NotMadeDropped);
    } else if record.is_none() {
        counts::count(event.counters, Count::Dropped);
        let error = error(event.ret);
        counts::count_drop(event.ns.inum, event.ns.generation, event.op as u16, error);
    }
    record
}

/// Fills a record in place: nothing is copied.
///
/// # Safety
/// `record` is valid for writing.
#[inline(always)]
unsafe fn fill<P: Part>(
    record: *mut With<P>,
    kind: RecordKind,
    event: &Event,
    arguments: &Arguments,
) {
    // SAFETY: as the caller says; every field of the call is written. `comm` is 8-aligned within the record, and has
    // 16 bytes.
    unsafe {
        let call = core::ptr::addr_of_mut!((*record).call);
        (*call).header.version = VERSION;
        (*call).header.kind = kind as u8;
        (*call).header.abi = event.call.abi as u8;
        (*call).header.code = event.call.code.0;
        (*call).boot_ns = event.now;
        (*call).duration_ns = event.duration_ns;
        (*call).ret = event.ret;
        (*call).context = event.context;
        (*call).tid = event.pid_tgid as u32;
        (*call).pid = (event.pid_tgid >> 32) as u32;
        (*call).ns = event.ns;
        (*call).euid = field(event.cred, Field::CredEuid);
        (*call).egid = field(event.cred, Field::CredEgid);
        core::ptr::addr_of_mut!((*call).comm).cast::<[u64; 2]>().write(comm(event.task));
        let (args, flags) = *arguments;
        let mut info = CallInfo { call: event.call, op: event.op, ret: event.ret, args, flags };
        let part = core::ptr::addr_of_mut!((*record).part);
        let found = P::fill(part, &mut info, &event.queue, event.entered);
        (*call).args = info.args;
        (*call).header.flags = info.flags | found;
    }
}

/// In the bits that [`Call::packed`] leaves free: the call is to be an event.
pub(crate) const REPORTED: u64 = 1 << 31;

/// Sends a call of the current thread; its slot holds the rest. It becomes an event if it is to be one and the ring
/// has room, else, if it is a fact, a record in the control ring. `regs`: see [`registers`].
///
/// A global function, so that the verifier checks it once and not once for each path through its callers.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn send_call(packed: u64, ret: u64, regs: u64) -> u64 {
    let call = Call::unpacked(registers(regs), packed);
    let Some(op) = call.code.op() else {
        return 0;
    };
    let Some(counters) = counts::counters(op as u32) else {
        return 0;
    };
    let task = current_task();
    let pid_tgid = bpf_get_current_pid_tgid();
    let mut event = Event {
        call,
        op,
        ret: ret as i64,
        now: 0,
        duration_ns: NO_DURATION,
        context: 0,
        pid_tgid,
        task,
        cred: field(task, Field::TaskCred),
        ns: namespaces::lookup(field(namespaces::of_task(task), Field::IpcNsInum)),
        counters,
        queue: queues::none(),
        entered: None,
        made: true,
    };
    // A thread without a slot has no data from the call's entry.
    let is_seen_at_entry = constant!(SYSCALL_KINDS) & call.code.bit() != 0;
    let mut known = if is_seen_at_entry { flag::ENTRY_UNSEEN } else { 0 };
    let (mut indirect, mut is_known) = (0, false);
    match slots::find(pid_tgid) {
        Some(slot) => {
            (event.now, event.duration_ns) = (slot.exit_ns, slot.duration_ns);
            event.context = slot.context;
            if op.takes_descriptor() || matches!(op, Op::MqOpen) && !failed(event.ret) {
                event.queue = slot.queue;
            }
            known = slot.flags;
            if slot.input.flags != 0 {
                (indirect, is_known) = (slot.input.indirect, true);
            }
            event.entered = Some(slot);
        }
        // SAFETY: no arguments.
        None => event.now = unsafe { bpf_ktime_get_boot_ns() },
    }
    let reported = packed & REPORTED != 0;
    if call.has_indirect() {
        known |= flag::INDIRECT;
        if !is_known {
            (indirect, is_known) = call.indirect();
        }
        if !is_known {
            known |= flag::ARGUMENT_FAULT;
        }
    }
    event.made = known & flag::NOT_MADE == 0;
    let (args, flags) = call.arguments(indirect);
    let arguments = (args, flags | known);
    match op.detail() {
        Detail::Plain => send::<()>(&event, reported, &arguments),
        Detail::Semop if payload::fits_inline(call, &arguments.0) => {
            send::<Inline>(&event, reported, &arguments);
        }
        Detail::Semop => send::<SemopPart>(&event, reported, &arguments),
        Detail::Message => send::<MsgPart>(&event, reported, &arguments),
        Detail::Control => send::<CtlPart>(&event, reported, &arguments),
        Detail::Name => send::<NamePart>(&event, reported, &arguments),
        Detail::Queue => send::<QueuePart>(&event, reported, &arguments),
    }
    if let Some(slot) = slots::find(pid_tgid) {
        slots::forget_input(slot);
    }
    0
}

#[inline(always)]
fn send<P: Part>(event: &Event, reported: bool, arguments: &Arguments) {
    let reserved = if reported { reserve::<P>(event) } else { None };
    let (record, counters, kind) = match reserved {
        Some(record) => (record, event.counters, RecordKind::Call),
        None if is_fact(event, arguments) => match rings::reserve_call(is_access(event)) {
            Some((record, counters)) => (record, counters, RecordKind::Change),
            None => return,
        },
        None => return,
    };
    // SAFETY: the ring has room for a call and its payload.
    unsafe {
        fill::<P>(record, kind, event, arguments);
        // A call that was not made has counters of its own.
        let emitted = if event.made { counts::count(counters, Count::Emitted) } else { 1 };
        bpf_ringbuf_submit(record.cast(), rings::wake_up(emitted, 1));
    }
}

/// Whether a call uses a queue of another namespace: 1, or 0. Without a branch.
#[inline(always)]
fn is_access(event: &Event) -> u64 {
    masked::<1>(u64::from(event.queue.flags / queue_flag::FOREIGN))
}

/// Whether a call is a fact that neither a filter nor a full event ring may hold back: it has changed an object, or which objects exist, or it
/// used a queue of another namespace. Flags and commands: include/uapi/linux/ipc.h, include/uapi/asm-generic/fcntl.h.
#[inline(always)]
fn is_fact(event: &Event, arguments: &Arguments) -> bool {
    const IPC_CREAT: u64 = 0o1000;
    const O_CREAT: u64 = 0o100;
    /// Bits that `IPC_RMID` (0) and `IPC_SET` (1) do not have, with or without `IPC_64`.
    const NOT_THESE: u64 = 0xffff_ffff & !0x101;
    if !event.made {
        return false;
    }
    if queues::is_foreign(&event.queue) {
        return true;
    }
    if failed(event.ret) {
        return false;
    }
    let ([first, second, third, ..], _) = *arguments;
    // Three of the arguments can hold these.
    let at = |place| if place == 1 { second } else { third };
    match (event.op.effect(), event.op.target()) {
        (Effect::Attach | Effect::Detach | Effect::Unlink, _) => true,
        (Effect::Create { flags }, OpTarget::Name) => at(flags) & O_CREAT != 0,
        // 0 is IPC_PRIVATE.
        (Effect::Create { flags }, _) => at(flags) & IPC_CREAT != 0 || first as u32 == 0,
        (Effect::Control { command }, _) => at(command) & NOT_THESE == 0,
        (Effect::Read | Effect::Use, _) => false,
    }
}

const _: () = {
    assert!(core::mem::offset_of!(CallRecord, comm) % 8 == 0);
};
