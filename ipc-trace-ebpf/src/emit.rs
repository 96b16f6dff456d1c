//! From a call that returned to a record of it: in the event ring, or in the control ring where it changed
//! objects and is no event.

use aya_ebpf::{
    bindings::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::{bpf_get_current_pid_tgid, generated::bpf_ringbuf_submit},
};
use ipc_trace_common::{
    layout::Field,
    op::Op,
    record::{
        CallRecord, CtlPart, Kind, MsgPart, NO_DURATION, NamePart, NsRef, QueuePart, QueueRef,
        SemopPart, VERSION,
    },
    state::Counters,
};

use crate::{
    constants::constant,
    context,
    detail::{self, Facts, Inline, Part},
    filters,
    maps::{self, Count, EVENTS},
    memory::{PLAIN, current_task, field, kernel},
    namespaces, queues,
    registers::Call,
};

/// A call that succeeded and is no event may have changed objects.
#[inline(always)]
pub(crate) fn change(call: Call, ret: i64, now: u64, context: u64) {
    send(call, ret, now, context, false);
}

/// Hands a call of an operation that can change objects to the function that sends these.
#[inline(always)]
fn send(call: Call, ret: i64, now: u64, context: u64, reported: bool) {
    let (regs, packed) = call.packed();
    send_change(regs, packed | if reported { REPORTED } else { 0 }, ret as u64, now, context);
}

/// Of what [`Call::packed`] leaves free.
const REPORTED: u64 = 1 << 31;

/// A call that returned and is wanted.
pub(crate) struct Event {
    pub(crate) call: Call,
    pub(crate) op: Op,
    pub(crate) ret: i64,
    pub(crate) now: u64,
    pub(crate) duration_ns: u64,
    pub(crate) context: u64,
    pub(crate) pid_tgid: u64,
    pub(crate) task: u64,
    pub(crate) cred: u64,
    pub(crate) ns: NsRef,
    pub(crate) counters: *mut Counters,
    /// Arguments and flags about them, where they have been read
    pub(crate) arguments: Option<([u64; 5], u32)>,
}

#[inline(always)]
fn comm(task: u64) -> [u64; 2] {
    let from = task + context::bytes(Field::TaskComm);
    if PLAIN {
        let from = from as *const u64;
        // SAFETY: the task is known to the verifier, and `comm` has 16 bytes.
        unsafe { [from.read_volatile(), from.add(1).read_volatile()] }
    } else {
        kernel(from)
    }
}

/// A call and what belongs to its operation, as they lie in the ring.
#[repr(C)]
struct With<P> {
    call: CallRecord,
    part: P,
}

/// Puts the event into the ring, with the operation's own part.
#[inline(always)]
pub(crate) fn event(event: &Event, queue: &QueueRef) {
    match event.op {
        Op::Semop if detail::fits_inline(event.call) => put::<Inline>(event, queue),
        Op::Semop => put::<SemopPart>(event, queue),
        Op::Msgsnd | Op::Msgrcv => put::<MsgPart>(event, queue),
        Op::MqSend | Op::MqReceive | Op::MqNotify | Op::MqGetsetattr => {
            put::<QueuePart>(event, queue);
        }
        Op::Shmget
        | Op::Shmat
        | Op::Shmdt
        | Op::Shmctl
        | Op::Semget
        | Op::Semctl
        | Op::Msgget
        | Op::Msgctl
        | Op::MqOpen
        | Op::MqUnlink => send(event.call, event.ret, event.now, event.context, true),
    }
}

/// Whether the reader is woken up, after so many events of one operation on one CPU.
#[inline(always)]
fn wake_up(emitted: u64) -> u64 {
    let due = emitted & u64::from(constant!(WAKE_MASK)) == 0;
    u64::from(if due { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP })
}

/// Room for an event; when there is none, that is counted.
#[inline(always)]
fn reserve<P>(event: &Event) -> Option<*mut With<P>> {
    let record = maps::reserve(&EVENTS);
    if record.is_none() {
        maps::count(event.counters, Count::Dropped);
        let error = if filters::failed(event.ret) { -event.ret as u16 } else { 0 };
        maps::count_drop(event.ns.inum, event.ns.generation, event.op as u16, error);
    }
    record
}

/// Puts the event into the ring.
#[inline(always)]
fn put<P: Part>(event: &Event, queue: &QueueRef) {
    if let Some(record) = reserve::<P>(event) {
        // SAFETY: the ring gave room for a call and its part.
        unsafe { finish(record, event.counters, Kind::Call, event, queue) };
    }
}

/// Fills a record and hands it to the reader. `counters`: those of the ring that it came from.
///
/// # Safety
/// `record` came from a ring.
#[inline(always)]
unsafe fn finish<P: Part>(
    record: *mut With<P>,
    counters: *mut Counters,
    kind: Kind,
    event: &Event,
    queue: &QueueRef,
) {
    // SAFETY: as the caller says.
    unsafe {
        fill(record, kind, event, queue);
        let emitted = maps::count(counters, Count::Emitted);
        bpf_ringbuf_submit(record.cast(), wake_up(emitted));
    }
}

/// Fills a record in place: nothing is built elsewhere and copied.
///
/// # Safety
/// `record` is valid for writing.
#[inline(always)]
unsafe fn fill<P: Part>(record: *mut With<P>, kind: Kind, event: &Event, queue: &QueueRef) {
    // SAFETY: as the caller says; every field of the call is written. `comm` is 8-aligned within the
    // record, and has 16 bytes.
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
        let (args, flags) = match event.arguments {
            Some(arguments) => arguments,
            None => event.call.arguments(),
        };
        let mut facts = Facts { call: event.call, op: event.op, ret: event.ret, args, flags };
        let found = P::fill(core::ptr::addr_of_mut!((*record).part), &mut facts, queue);
        (*call).args = facts.args;
        (*call).header.flags = facts.flags | found;
    }
}

/// Sends a call of the current task that can change objects: as an event if it is to be one and there is
/// room for it, else, if it did change any, in the control ring.
///
/// A global function, so that the verifier looks at it once and not once for each way that leads
/// here.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn send_change(regs: u64, packed: u64, ret: u64, now: u64, context: u64) -> u64 {
    let call = Call::unpacked(regs, packed);
    let Some(op) = call.code.op() else {
        return 0;
    };
    let Some(counters) = maps::counters(op as u32) else {
        return 0;
    };
    let task = current_task();
    let event = Event {
        call,
        op,
        ret: ret as i64,
        now,
        duration_ns: NO_DURATION,
        context,
        pid_tgid: bpf_get_current_pid_tgid(),
        task,
        cred: field(task, Field::TaskCred),
        ns: namespaces::look(field(namespaces::of_task(task), Field::IpcNsInum)),
        counters,
        arguments: Some(call.arguments()),
    };
    let reported = packed & REPORTED != 0;
    match op {
        Op::Shmget | Op::Shmat | Op::Shmdt | Op::Semget | Op::Msgget => {
            put_or_tell::<()>(&event, reported);
        }
        Op::Shmctl | Op::Semctl | Op::Msgctl => put_or_tell::<CtlPart>(&event, reported),
        Op::MqOpen | Op::MqUnlink => put_or_tell::<NamePart>(&event, reported),
        Op::Semop | Op::Msgsnd | Op::Msgrcv => {}
        Op::MqSend | Op::MqReceive | Op::MqNotify | Op::MqGetsetattr => {}
    }
    0
}

#[inline(always)]
fn put_or_tell<P: Part>(event: &Event, reported: bool) {
    let mut queue = queues::none();
    if matches!(event.op, Op::MqOpen) && event.ret >= 0 {
        queue = queues::behind(event.task, event.ret as u32);
        queues::compare(&mut queue, event.ns);
    }
    let reserved = if reported { reserve::<P>(event) } else { None };
    let (record, counters, kind) = match reserved {
        Some(record) => (record, event.counters, Kind::Call),
        None if has_changed(event) => match maps::reserve_uncounted() {
            Some((record, counters)) => (record, counters, Kind::Change),
            None => return,
        },
        None => return,
    };
    // SAFETY: the ring gave room for a call and its part.
    unsafe { finish(record, counters, kind, event, &queue) };
}

/// Whether a call has changed an object, or which objects there are. Flags and commands:
/// include/uapi/linux/ipc.h, include/uapi/asm-generic/fcntl.h.
#[inline(always)]
fn has_changed(event: &Event) -> bool {
    const IPC_CREAT: u64 = 0o1000;
    const O_CREAT: u64 = 0o100;
    /// What `IPC_RMID` (0) and `IPC_SET` (1) do not have, with or without `IPC_64`.
    const NOT_THESE: u64 = 0xffff_ffff & !0x101;
    let Some(([first, second, third, ..], _)) = event.arguments else {
        return false;
    };
    if filters::failed(event.ret) {
        return false;
    }
    match event.op {
        Op::Shmat | Op::Shmdt | Op::MqUnlink => true,
        // 0 is IPC_PRIVATE.
        Op::Shmget | Op::Semget => third & IPC_CREAT != 0 || first as u32 == 0,
        Op::Msgget => second & IPC_CREAT != 0 || first as u32 == 0,
        Op::Shmctl | Op::Msgctl => second & NOT_THESE == 0,
        Op::Semctl => third & NOT_THESE == 0,
        Op::MqOpen => second & O_CREAT != 0,
        Op::Semop | Op::Msgsnd | Op::Msgrcv => false,
        Op::MqSend | Op::MqReceive | Op::MqNotify | Op::MqGetsetattr => false,
    }
}

const _: () = assert!(core::mem::offset_of!(CallRecord, comm) % 8 == 0);
