//! Calls that enter and return while their thread has a batch (`batches`): whether they can be part of it.
//!
//! Most calls of a thread are like one of its last: so its place remembers what those were, and which file its queue has.
//!
//! Invariant: a call whose entry is noted here is added to the batch at its return, or the general path asks for what
//! was noted (`batches::leave`).

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, generated::bpf_ktime_get_boot_ns};
use ipc_trace_common::{
    layout::Field,
    op::Op,
    record::{PackedCall, QueueRef},
    state::BatchSlot,
};

use crate::{
    base::{
        constants::constant,
        gate, hooked,
        memory::{comm, current_task, field, has, tid},
        registers::{Call, failed, first_of, is_compat, number, third_of},
        words::{copy_words, masked},
    },
    metadata::queues::{self, Pointers},
    thread::{
        batch_slots::{calls_in, of_tid, owned},
        batches::{GETS, can_be, mark, note_entry, renew_batch},
        groups::{add, count, send_batch},
    },
};

/// The bits of operations on queues.
const QUEUES: u32 = Op::MqSend.bit() | Op::MqReceive.bit();
/// The bits of operations that send or receive a message.
const MESSAGES: u32 = QUEUES | Op::Msgsnd.bit() | Op::Msgrcv.bit();

/// A call enters the kernel that takes no descriptor. Returns whether the entry is noted here.
#[inline(always)]
pub(crate) fn enter(pid_tgid: u64, number: u64, call: Call) -> bool {
    if !can_be(call) {
        return false;
    }
    let Some(batch) = owned(pid_tgid) else {
        return false;
    };
    if call.code.bit() & GETS != 0 {
        describe_lookup(batch, call);
        note_number(batch, call, number);
        note_entry(batch, mark::LOOKUP);
    } else {
        note(batch, call, number);
    }
    true
}

/// Identifies a call by its number and ABI. Bit 30 of a number is x32's.
#[inline(always)]
fn key(compat: bool, number: u64) -> u64 {
    if compat { number | COMPAT } else { number }
}

/// The bit of calls by a 32-bit ABI.
const COMPAT: u64 = 1 << 31;

/// As [`enter`], for a call with the number and the ABI of one of the thread's last ones: no table needs to be asked
/// what it is. The gate isn't checked, as in [`enter_known`].
#[inline(always)]
pub(crate) fn enter_again(task: u64, number: u64, regs: u64) -> bool {
    let compat = is_compat(task);
    let Some(batch) = of_tid(tid(task)) else {
        return false;
    };
    let key = key(compat, number);
    // SAFETY: the index is 0 or 1.
    let [entered, what, kind] = unsafe { *recent(batch, number) };
    if entered != key {
        return false;
    }
    if kind & u64::from(QUEUES) != 0 {
        let first = first_of(regs, compat);
        if !is_same_queue(batch, &queues::pointers(task, first as u32)) {
            return false;
        }
    }
    batch.entered = key;
    if constant!(UNTIMED) != 0 {
        // The return reads the arguments.
        batch.what = what;
        note_entry(batch, kind >> MARK_SHIFT);
        return true;
    }
    batch.what = what | first_of(regs, compat);
    if kind & u64::from(GETS) != 0 {
        note_entry(batch, mark::LOOKUP);
        return true;
    }
    batch.size = third_of(regs, compat);
    // SAFETY: no arguments.
    note_entry(batch, unsafe { bpf_ktime_get_boot_ns() });
    true
}

/// Where a [`mark`] lies in the last word of [`BatchSlot::recent`].
const MARK_SHIFT: u32 = 32;

/// What stands for the time of a call's entry, if it isn't timed.
#[inline(always)]
fn mark_of(op_bit: u32) -> u64 {
    match op_bit {
        bit if bit & GETS != 0 => mark::LOOKUP,
        bit if bit & MESSAGES != 0 => mark::MESSAGE,
        _ => mark::OTHER,
    }
}

/// The thread's last call whose number is as even as this one.
#[inline(always)]
fn recent(batch: &mut BatchSlot, number: u64) -> *mut [u64; 3] {
    let recent = core::ptr::addr_of_mut!(batch.recent).cast::<[u64; 3]>();
    recent.wrapping_add(masked::<1>(number) as usize)
}

/// Notes the number and the ABI of the call that is described.
#[inline(always)]
fn note_number(batch: &mut BatchSlot, call: Call, number: u64) {
    let key = key(call.is_compat(), number);
    batch.entered = key;
    let what = batch.what & !0xffff_ffff;
    let bit = call.code.bit();
    // SAFETY: the index is 0 or 1.
    unsafe { *recent(batch, number) = [key, what, u64::from(bit) | mark_of(bit) << MARK_SHIFT] };
}

/// As [`enter`], for a call on a queue, if that is the one of the batch's calls on queues.
#[inline(always)]
pub(crate) fn enter_same_queue(
    pid_tgid: u64,
    number: u64,
    call: Call,
    pointers: &Pointers,
) -> bool {
    if !can_be(call) {
        return false;
    }
    match owned(pid_tgid) {
        Some(batch) if is_same_queue(batch, pointers) => {
            note(batch, call, number);
            true
        }
        _ => false,
    }
}

#[inline(always)]
fn is_same_queue(batch: &BatchSlot, pointers: &Pointers) -> bool {
    let [file, inode, ino, sb, ipc_ns] = *pointers;
    let [own_file, own_inode, own_ino, own_sb, own_ipc_ns] = batch.queue;
    file != 0
        && file == own_file
        && inode == own_inode
        && ino == own_ino
        && sb == own_sb
        && ipc_ns == own_ipc_ns
}

/// As [`enter`], for a call on any queue; `pointers`: of the queue, if later calls may be known by them.
#[inline(always)]
pub(crate) fn enter_queue(
    pid_tgid: u64,
    number: u64,
    call: Call,
    queue: &QueueRef,
    pointers: Option<&Pointers>,
) -> bool {
    if !can_be(call) {
        return false;
    }
    let Some(batch) = owned(pid_tgid) else {
        return false;
    };
    batch.queue[0] = 0;
    if !set_queue(batch, pid_tgid, *queue) {
        return false;
    }
    if let Some(pointers) = pointers {
        // SAFETY: both are five words.
        unsafe { copy_words::<5>(batch.queue.as_mut_ptr(), pointers.as_ptr()) };
    }
    note(batch, call, number);
    true
}

/// Sets the queue of the batch's calls. Returns whether that is possible.
#[inline(always)]
fn set_queue(batch: &mut BatchSlot, pid_tgid: u64, mut queue: QueueRef) -> bool {
    queues::compare(&mut queue, batch.record.head.ns);
    // Such a call is sent separately: a full ring must not hold it back.
    if queues::is_foreign(&queue) {
        return false;
    }
    if queues::same(&queue, &batch.record.head.queue) {
        return true;
    }
    // They may be calls on queues.
    if calls_in(batch) != 0 {
        send_batch(pid_tgid);
        if calls_in(batch) != 0 {
            return false;
        }
    }
    // SAFETY: the record is valid for writing.
    unsafe { queues::write(core::ptr::addr_of_mut!(batch.record.head.queue), &queue) };
    true
}

/// As [`enter`], for a call whose function has programs of its own ([`hooked`]), if batches are in use. The gate isn't checked: a thread with a
/// batch is traced, and the reader omits calls that entered after the end.
#[inline(always)]
pub(crate) fn enter_known(regs: impl Fn() -> u64) -> bool {
    let task = current_task();
    let Some(batch) = of_tid(tid(task)) else {
        return false;
    };
    let first = first_of(regs(), hooked::is_compat());
    if hooked::takes_descriptor() && !is_same_queue(batch, &queues::pointers(task, first as u32)) {
        return false;
    }
    batch.what = hooked::known_call() | first;
    if hooked::carries_message() {
        batch.size = third_of(regs(), hooked::is_compat());
    }
    let enter_ns = match constant!(UNTIMED) {
        // SAFETY: no arguments.
        0 => unsafe { bpf_ktime_get_boot_ns() },
        _ => mark::MESSAGE,
    };
    note_entry(batch, enter_ns);
    true
}

#[inline(always)]
fn note(batch: &mut BatchSlot, call: Call, number: u64) {
    let [id, size] = call.id_and_size();
    batch.what = PackedCall { id: id as i32, abi: call.abi as u8, code: call.code.0 }.packed();
    batch.size = size;
    note_number(batch, call, number);
    let enter_ns = match constant!(UNTIMED) {
        // SAFETY: no arguments.
        0 => unsafe { bpf_ktime_get_boot_ns() },
        _ => mark_of(call.code.bit()),
    };
    note_entry(batch, enter_ns);
}

/// Notes a lookup, and its key.
#[inline(always)]
fn describe_lookup(batch: &mut BatchSlot, call: Call) {
    let id = call.first() as i32;
    batch.what = PackedCall { id, abi: call.abi as u8, code: call.code.0 }.packed();
}

/// Whether the thread's batch can go on: the thread is as it was when the batch began, tracing hasn't ended, and if
/// calls are not timed, the period hasn't either.
#[inline(always)]
fn goes_on(batch: &BatchSlot, task: u64) -> bool {
    if constant!(UNTIMED) != 0 {
        return goes_on_untimed(batch, task);
    }
    // SAFETY: `comm` has 16 bytes and is aligned to 8 there.
    let name = unsafe { core::ptr::addr_of!(batch.record.head.comm).cast::<[u64; 2]>().read() };
    is_same(batch, task) && batch.changes == gate::changes() && name == comm(task)
}

/// As [`goes_on`], where calls are not timed: the thread's name is read once in each period.
#[inline(always)]
fn goes_on_untimed(batch: &BatchSlot, task: u64) -> bool {
    is_same(batch, task)
        && (batch.changes == gate::changes() || renew_batch(bpf_get_current_pid_tgid()) != 0)
}

/// Whether the thread has the same user, group and namespaces as when its batch began.
#[inline(always)]
fn is_same(batch: &BatchSlot, task: u64) -> bool {
    let head = &batch.record.head;
    let cred: u64 = field(task, Field::TaskCred);
    // Credentials are never changed, but replaced (Documentation/security/credentials.rst), after two changes
    // possibly by others at the same address: so the user, which findings depend on, is compared as well.
    batch.nsproxy == field::<u64>(task, Field::TaskNsproxy)
        && batch.cred == cred
        && has(cred, Field::CredEuid, head.euid)
}

/// The call with that number returns. Returns whether it is now in the thread's batch.
#[inline(always)]
pub(crate) fn exit(task: u64, regs: u64, ret: i64) -> bool {
    let number = number(regs);
    let Some(batch) = of_tid(tid(task)) else {
        return false;
    };
    if !is_noted(batch, task, number) {
        return false;
    }
    let looks = batch.enter_ns == mark::LOOKUP;
    // Only for lookups that fail is the identifier known not to be an object's; for others it is the result.
    if looks && !failed(ret) {
        return false;
    }
    if constant!(UNTIMED) != 0 {
        let compat = batch.entered & COMPAT != 0;
        let what = batch.what | first_of(regs, compat);
        let carries_message = batch.enter_ns == mark::MESSAGE;
        batch.enter_ns = 0;
        if carries_message {
            return count(batch, what, ret, Some(third_of(regs, compat)));
        }
        return count(batch, what, ret, None);
    }
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let duration_ns = if looks { 0 } else { now - batch.enter_ns };
    add(batch, (now, duration_ns), ret, true)
}

/// As [`exit`], where batches are in use: for a noted call, or for one whose entry has no program. Of lookups only those
/// that fail are taken.
#[inline(always)]
pub(crate) fn exit_known(regs: impl Fn() -> u64, ret: impl Fn() -> i64) -> bool {
    let task = current_task();
    if hooked::looks_up() && !failed(ret()) {
        return false;
    }
    let Some(batch) = of_tid(tid(task)) else {
        return false;
    };
    let is_noted = batch.enter_ns != 0 && batch.what >> 32 == hooked::known_call() >> 32;
    if !hooked::looks_up() && !is_noted || !goes_on(batch, task) {
        return false;
    }
    if constant!(UNTIMED) != 0 {
        // Others have another program then.
        let (what, size) = (batch.what, batch.size);
        batch.enter_ns = 0;
        return count(batch, what, ret(), Some(size));
    }
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    if hooked::looks_up() {
        batch.what = hooked::known_call() | first_of(regs(), hooked::is_compat());
        return add(batch, (now, 0), ret(), false);
    }
    add(batch, (now, now - batch.enter_ns), ret(), hooked::carries_message())
}

/// As [`exit_known`], if there is no program at the entry and calls are not timed.
#[inline(always)]
pub(crate) fn count_known(regs: impl Fn() -> u64, ret: impl Fn() -> i64) -> bool {
    let task = current_task();
    if hooked::looks_up() && !failed(ret()) {
        return false;
    }
    let Some(batch) = of_tid(tid(task)) else {
        return false;
    };
    if !goes_on_untimed(batch, task) {
        return false;
    }
    let what = hooked::known_call() | first_of(regs(), hooked::is_compat());
    let size =
        if hooked::carries_message() { Some(third_of(regs(), hooked::is_compat())) } else { None };
    count(batch, what, ret(), size)
}

/// Whether a call is the one whose entry was noted in the batch, and its thread is unchanged. The noted call may be
/// an earlier one whose return the programs missed. An earlier call with the same number by another ABI isn't
/// distinguished; that would need a second coincidence.
#[inline(always)]
fn is_noted(batch: &BatchSlot, task: u64, number: u64) -> bool {
    batch.enter_ns != 0 && batch.entered & !COMPAT == number && goes_on(batch, task)
}

/// A failed lookup returns, whose entry was not seen because lookups have no program there. Returns whether it is now
/// in the thread's batch.
#[inline(always)]
pub(crate) fn looked_up(pid_tgid: u64, task: u64, call: Call, ret: i64) -> bool {
    if call.code.bit() & GETS == 0 || call.multiplexed != 0 || !failed(ret) {
        return false;
    }
    let Some(batch) = owned(pid_tgid) else {
        return false;
    };
    if !goes_on(batch, task) {
        return false;
    }
    describe_lookup(batch, call);
    if constant!(UNTIMED) != 0 {
        let what = batch.what;
        return count(batch, what, ret, None);
    }
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    add(batch, (now, 0), ret, false)
}
