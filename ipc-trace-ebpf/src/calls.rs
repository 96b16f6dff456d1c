//! Entry and return of a call: the way of an event through the kernel side.

use aya_ebpf::{
    bindings::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::{
        bpf_get_current_pid_tgid,
        generated::{bpf_ktime_get_boot_ns, bpf_ringbuf_submit},
    },
};
use ipc_trace_common::{
    layout::Field,
    op::{Code, Op},
    record::{
        CallRecord, CtlPart, Kind, MsgPart, NO_DURATION, NamePart, NsRef, QueuePart, QueueRef,
        SemopPart, VERSION,
    },
    state::{Counters, fired_at},
};

use crate::{
    constants::constant,
    context, detail,
    detail::{Facts, Inline, Part},
    filters::{self, Subject},
    maps::{self, Count, EVENTS, Gate},
    memory::{PLAIN, current_task, field, kernel},
    moves, namespaces, queues,
    registers::{Call, has_place, place, worth_a_look},
    slots,
};

/// `sys_enter`. The context is read when it is needed: most calls are none of ours.
#[inline(always)]
pub(crate) fn enter(regs: impl Fn() -> u64, number: impl Fn() -> u64) {
    if !worth_a_look(number()) {
        return;
    }
    let gate = maps::gate();
    let pid_tgid = bpf_get_current_pid_tgid();
    if gate.keeps_out((pid_tgid >> 32) as u32) {
        return;
    }
    let (task, number) = (current_task(), number());
    if !has_place(number) {
        return;
    }
    if let Some(call) = Call::new(task, regs(), number, constant!(SYSCALL_KINDS)) {
        entered(gate, pid_tgid, task, call);
    }
}

/// `sys_exit`.
#[inline(always)]
pub(crate) fn exit(regs: impl Fn() -> u64, ret: impl Fn() -> i64) {
    let number: u64 = field(regs(), Field::RegNumber);
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
    if !has_place(number) {
        return;
    }
    let ret = ret();
    if ret == NOT_MADE && is_killed(task) {
        return;
    }
    if let Some(call) = Call::new(task, regs(), number, constant!(SYSCALL_KINDS)) {
        returned(gate, &Caller::new(pid_tgid, task), call, ret);
    }
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
    if worth_a_look(number) {
        let regs = crate::memory::user_registers();
        enter(|| regs, || number);
    }
}

/// `sys_exit`, likewise.
#[cfg(not(feature = "probe"))]
#[inline(always)]
pub(crate) fn exit_steady(number: u64, ret: i64) {
    if worth_a_look(number) {
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
    // First, before ways part: for each load of a pointer from a known structure, and on each way that
    // leads to it, 6.12's verifier searches all of BTF (`btf_nested_type_is_trusted`,
    // kernel/bpf/btf.c), which makes up most of the time that loading takes.
    let caller = Caller::new(pid_tgid, current_task());
    let number = field(regs, Field::RegNumber);
    if let Some(call) = Call::new(caller.task, regs, number, !constant!(SYSCALL_KINDS)) {
        returned(gate, &caller, call, ret);
    }
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
    let ipc_ns = namespaces::of_task(task);
    if let Some(code) = move_of(task, regs) {
        moves::returned(task, ipc_ns, pid_tgid, code, ret);
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
    let Some(slot) = slots::find_or_take(pid_tgid) else {
        return;
    };
    slot.arg0 = call.first();
    slot.abi = call.abi as u8;
    slot.code = call.code.0;
    slot.queue.flags = 0;
    if op.takes_descriptor() {
        slot.queue = queues::behind(task, slot.arg0 as u32);
    }
    // SAFETY: no arguments.
    slot.enter_ns = unsafe { bpf_ktime_get_boot_ns() };
}

/// The thread that made the call.
struct Caller {
    pid_tgid: u64,
    task: u64,
    /// `struct ipc_namespace *`
    ipc_ns: u64,
    /// `struct cred *`
    cred: u64,
}

impl Caller {
    #[inline(always)]
    fn new(pid_tgid: u64, task: u64) -> Self {
        Self {
            pid_tgid,
            task,
            ipc_ns: namespaces::of_task(task),
            cred: field(task, Field::TaskCred),
        }
    }
}

/// The event.
#[inline(always)]
fn returned(gate: Gate, caller: &Caller, call: Call, ret: i64) {
    let Caller { pid_tgid, task, ipc_ns, cred } = *caller;
    let Some(op) = call.code.op() else {
        moves::returned(task, ipc_ns, pid_tgid, call.code, ret);
        return;
    };
    let open = gate.is_open();
    let changes = op.changes_objects() && !filters::failed(ret);
    if !open && !changes {
        return;
    }
    let Some(counters) = maps::counters(op as u32) else {
        return;
    };
    if open {
        maps::count(counters, Count::Seen);
    }

    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let mut event = Event {
        call,
        op,
        ret,
        now,
        duration_ns: NO_DURATION,
        context: 0,
        pid_tgid,
        task,
        cred,
        ns: namespaces::identify(ipc_ns),
        counters,
        reported: open,
    };
    let mut queue = queues::none();
    let mut slot = slots::find_or_take(pid_tgid);
    if let Some(slot) = &mut slot {
        if slot.enter_ns != 0 {
            if op.blocks() {
                event.duration_ns = now - slot.enter_ns;
            }
            if op.takes_descriptor() {
                queue = slot.queue;
            }
            slot.enter_ns = 0;
        }
    }
    if op.takes_descriptor() {
        if queue.flags == 0 {
            // It entered before the start, or was refused before the entry was seen.
            queue = queues::behind(task, call.first() as u32);
        }
        queues::compare(&mut queue, event.ns);
    } else if matches!(op, Op::MqOpen) && ret >= 0 {
        queue = queues::behind(task, ret as u32);
        queues::compare(&mut queue, event.ns);
    }
    if open && filters::in_force() {
        let subject = Subject {
            op: op as u8,
            ret,
            duration_ns: event.duration_ns,
            pid: (pid_tgid >> 32) as u32,
            euid: field(cred, Field::CredEuid),
            ns: event.ns,
            object_ns: queue.ns,
        };
        if !filters::wanted(&subject) {
            maps::count(counters, Count::Filtered);
            if !changes {
                return;
            }
            event.reported = false;
        }
    }
    if let Some(slot) = slot {
        event.context = context::ensure(slot, task, event.ns);
    }
    emit(&event, &queue);
}

/// A call that returned and is wanted, or may have changed an object.
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
    /// Whether it goes into the event ring
    reported: bool,
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

/// Whether a call has changed an object, or which objects there are. Flags and commands:
/// include/uapi/linux/ipc.h, include/uapi/asm-generic/fcntl.h.
#[inline(always)]
fn has_changed(event: &Event, args: &[u64; 5]) -> bool {
    const IPC_CREAT: u64 = 0o1000;
    const O_CREAT: u64 = 0o100;
    /// What `IPC_RMID` (0) and `IPC_SET` (1) do not have, with or without `IPC_64`.
    const NOT_THESE: u64 = 0xffff_ffff & !0x101;
    if filters::failed(event.ret) {
        return false;
    }
    let [first, second, third, ..] = *args;
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

/// Puts the event into the ring, with the operation's own part.
#[inline(always)]
fn emit(event: &Event, queue: &QueueRef) {
    match event.op {
        Op::Shmget | Op::Shmat | Op::Shmdt | Op::Semget | Op::Msgget => put::<()>(event, queue),
        Op::Semop if detail::fits_inline(event.call) => put::<Inline>(event, queue),
        Op::Semop => put::<SemopPart>(event, queue),
        Op::Msgsnd | Op::Msgrcv => put::<MsgPart>(event, queue),
        Op::Shmctl | Op::Semctl | Op::Msgctl => put::<CtlPart>(event, queue),
        Op::MqOpen | Op::MqUnlink => put::<NamePart>(event, queue),
        Op::MqSend | Op::MqReceive | Op::MqNotify | Op::MqGetsetattr => {
            put::<QueuePart>(event, queue);
        }
    }
}

/// Whether the reader is woken up, after so many events of one operation on one CPU.
#[inline(always)]
fn wake_up(emitted: u64) -> u64 {
    let due = emitted & u64::from(constant!(WAKE_MASK)) == 0;
    u64::from(if due { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP })
}

/// Room for a record in the event ring, if it is to go there; when there is none, that is counted.
#[inline(always)]
fn reserve<P>(event: &Event) -> Option<*mut With<P>> {
    if !event.reported {
        return None;
    }
    let record = maps::reserve(&EVENTS);
    if record.is_none() {
        maps::count(event.counters, Count::Dropped);
        let error = if filters::failed(event.ret) { -event.ret as u16 } else { 0 };
        maps::count_drop(event.ns.inum, event.ns.generation, event.op as u16, error);
    }
    record
}

/// Fills a record in place: nothing is built elsewhere and copied. A call that changed objects goes into
/// the control ring where it can't be among the events: what is different then are values that no way
/// depends on, so that the verifier need not look at all of it twice.
#[inline(always)]
fn put<P: Part>(event: &Event, queue: &QueueRef) {
    // Only where they are needed for it before there is a record: it takes registers.
    let early = if P::CHANGES { Some(event.call.arguments()) } else { None };
    let changed = || early.is_some_and(|(args, _)| has_changed(event, &args));
    let (record, counters, kind) = match reserve::<P>(event) {
        Some(record) => (record, event.counters, Kind::Call),
        None if changed() => match maps::reserve_uncounted() {
            Some((record, counters)) => (record, counters, Kind::Change),
            None => return,
        },
        None => return,
    };
    // SAFETY: the ring gave room for a call and its part; every field of the call is written.
    // `comm` is 8-aligned within the record, and has 16 bytes.
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
        let (args, flags) = match early {
            Some(early) => early,
            None => event.call.arguments(),
        };
        let mut facts = Facts { call: event.call, op: event.op, ret: event.ret, args, flags };
        let found = P::fill(core::ptr::addr_of_mut!((*record).part), &mut facts, queue);
        (*call).args = facts.args;
        (*call).header.flags = facts.flags | found;
        let emitted = maps::count(counters, Count::Emitted);
        bpf_ringbuf_submit(record.cast(), wake_up(emitted));
    }
}

const _: () = {
    assert!(Code::IPC.op().is_none());
    assert!(core::mem::offset_of!(CallRecord, comm) % 8 == 0);
};
