//! What is remembered of a thread between programs: its context, the call that it is in, and what that took from
//! the caller's memory.
//!
//! A slot is found by the low 16 bits of the tid, in a plain array: the cheapest map there is. It is its
//! thread's from the first time that something is to be remembered until the thread ends; who takes it, an
//! insertion into a hash decides, which only one thread can make. Threads with the same low bits get slots
//! in the spill, which evicts nobody. So a thread's slot is never another's, whatever others do.

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    macros::map,
    maps::{Array, HashMap},
};
use ipc_trace_common::{
    layout::Field,
    op::Op,
    record::{GIVEN_NAME_LEN, NsRef, QueueRef, flag},
    state::{Diagnostic, SLOT_COUNT, SPILLED_SLOTS},
};

use crate::base::{
    counts, gate,
    memory::{current_task, kernel_field},
    words::{is_zero, masked, zero_words},
};

/// By `tid & 0xffff`.
#[map]
static SLOTS: Array<Slot> = Array::with_max_entries(SLOT_COUNT, 0);
/// Places in [`SLOTS`] that threads have, by number: to take one is atomic.
#[map]
static SLOTS_TAKEN: HashMap<u32, u8> = HashMap::with_max_entries(SLOT_COUNT, 0);
/// By pid_tgid, for threads whose place another thread has; user space makes it smaller where no two threads
/// can have the same.
#[map]
static SLOTS_SPILL: HashMap<u64, Slot> = HashMap::with_max_entries(SPILLED_SLOTS, 0);

/// By pid_tgid: what has no room in a slot of what calls take from memory.
#[map]
pub(crate) static LARGE_INPUTS: HashMap<u64, LargeInput> = HashMap::with_max_entries(1 << 12, 0);

/// What a call took from memory, in a slot.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Input {
    /// Flags of the call's record; `0`: it was not read at the entry
    pub(crate) flags: u32,
    /// `1`: there is an entry in [`LARGE_INPUTS`]
    pub(crate) large: u32,
    /// Arguments of `ipc(2)` that lie in memory: see `Call::indirect`
    pub(crate) indirect: u64,
    /// The operation's own: of semop a `SemopPart`, of msgsnd the type, of queues what `QueuePart::input` has
    pub(crate) bytes: [u64; 8],
}

impl Input {
    pub(crate) const EMPTY: Self = Self { flags: 0, large: 0, indirect: 0, bytes: [0; 8] };
}

/// What has no room in a slot: of mq_open and mq_unlink the name and, behind it, the attributes; of shmctl, semctl
/// and msgctl the structure.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct LargeInput {
    pub(crate) name_len: u32,
    pub(crate) reserved: u32,
    pub(crate) name: [u64; GIVEN_NAME_LEN / 8],
    pub(crate) attr: [u64; 4],
}

/// A thread's slot.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Slot {
    /// Whose it is; `0`: nobody's
    pub(crate) pid_tgid: u64,
    /// The context that was sent; `0`: none
    pub(crate) context: u64,
    /// The call that the thread was seen to enter: `Call::packed`; `0`: none, or it has returned
    pub(crate) entered: u64,
    /// When that began, if it can block; `0`: it can't
    pub(crate) enter_ns: u64,
    /// The first argument of such a call; with `made`, what the call made
    pub(crate) arg0: u64,
    /// The queue that its descriptor led to, or that it opened
    pub(crate) queue: QueueRef,
    /// When the thread's last call returned that is to be sent
    pub(crate) exit_ns: u64,
    /// How long that took, or `NO_DURATION`
    pub(crate) duration_ns: u64,
    /// The namespace before a call that changes it
    pub(crate) from: NsRef,
    /// The cgroup that the context tells
    pub(crate) cgroup: u64,
    /// `struct task_struct *` of the parent that the context tells
    pub(crate) parent: u64,
    /// `struct nsproxy *` of the thread when the context was sent
    pub(crate) nsproxy: u64,
    /// Its `struct cred *` then
    pub(crate) cred: u64,
    /// How many moves between cgroups there had been when that was looked at
    pub(crate) moves: u32,
    /// Of the call that is to be sent: flags of its record
    pub(crate) flags: u32,
    /// What that took from the caller's memory
    pub(crate) input: Input,
    /// The operation's number, when the call that the thread is in has made an object; `0`: none did
    pub(crate) made: u8,
    /// Whether the thread was ever seen to enter a call
    pub(crate) seen: u8,
    /// Whether the context tells that the executable was deleted
    pub(crate) exe_deleted: u8,
    /// Whether the user namespace had no map yet when the context was sent
    pub(crate) unmapped: u8,
    /// Which programs have been run for the call that the thread makes or made last: see `copies`
    pub(crate) ran: u16,
    pub(crate) reserved: [u8; 2],
}

impl Slot {
    /// The thread is in no call any more.
    #[inline(always)]
    pub(crate) fn leave(&mut self) {
        // SAFETY: both are words. By a function, as the two lie side by side.
        unsafe { zero_words::<2>(core::ptr::addr_of_mut!(self.entered)) };
    }
}

const _: () = {
    assert!(core::mem::offset_of!(Slot, enter_ns) == core::mem::offset_of!(Slot, entered) + 8);
    assert!(size_of::<Slot>() % 8 == 0 && core::mem::offset_of!(Slot, pid_tgid) == 0);
};

/// A slot of nobody: what a new one in the spill begins as.
static EMPTY: Slot = Slot {
    pid_tgid: 0,
    context: 0,
    entered: 0,
    enter_ns: 0,
    arg0: 0,
    queue: QueueRef { ns: NsRef { inum: 0, generation: 0 }, ino: 0, dev: 0, flags: 0 },
    exit_ns: 0,
    duration_ns: 0,
    from: NsRef { inum: 0, generation: 0 },
    cgroup: 0,
    parent: 0,
    nsproxy: 0,
    cred: 0,
    moves: 0,
    flags: 0,
    input: Input::EMPTY,
    made: 0,
    seen: 0,
    exe_deleted: 0,
    unmapped: 0,
    ran: 0,
    reserved: [0; 2],
};

/// The place of a thread's slot in the array.
#[inline(always)]
fn place(pid_tgid: u64) -> u32 {
    pid_tgid as u32 & (SLOT_COUNT - 1)
}

/// The thread's slot, if it has one.
#[inline(always)]
pub(crate) fn find(pid_tgid: u64) -> Option<&'static mut Slot> {
    let slot = SLOTS.get_ptr_mut(place(pid_tgid))?;
    // SAFETY: the map gave the pointer, and only the thread whose slot it is looks beyond `pid_tgid`.
    let slot = unsafe { &mut *slot };
    if slot.pid_tgid == pid_tgid {
        return Some(slot);
    }
    SLOTS_SPILL.get_ptr_mut(&pid_tgid).map(|slot| {
        // SAFETY: the map gave the pointer; the entry is the thread's, and goes with it.
        unsafe { &mut *slot }
    })
}

/// The thread's slot; it gets one if it has none. None is to be had when the spill is full, which is counted as
/// the loss of `what`, and for a thread that is ending, of which nobody would take it back.
#[inline(always)]
pub(crate) fn find_or_take(pid_tgid: u64, what: Diagnostic) -> Option<&'static mut Slot> {
    let found = find(pid_tgid);
    if found.is_some() {
        return found;
    }
    take_slot(pid_tgid, what as u64);
    find(pid_tgid)
}

/// Gives a slot to a thread that has none: the current one, or one that it is making. A global function, so
/// that the verifier looks at it once.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn take_slot(pid_tgid: u64, what: u64) -> u64 {
    if is_ending() {
        return 0;
    }
    let place = place(pid_tgid);
    let Some(slot) = SLOTS.get_ptr_mut(place) else {
        return 0;
    };
    // SAFETY: the map gave the pointer.
    let slot = unsafe { &mut *slot };
    if slot.pid_tgid == 0 && SLOTS_TAKEN.insert(&place, &0, u64::from(BPF_NOEXIST)).is_ok() {
        // SAFETY: a slot is made of words, of which the first says whose it is.
        unsafe {
            let words = core::ptr::from_mut(slot).cast::<u64>();
            zero_words::<{ size_of::<Slot>() / 8 - 1 }>(words.add(1));
        }
        slot.pid_tgid = pid_tgid;
        return 0;
    }
    if SLOTS_SPILL.insert(&pid_tgid, &EMPTY, u64::from(BPF_NOEXIST)).is_err() {
        counts::diagnosed_at(what);
        return 0;
    }
    if let Some(slot) = SLOTS_SPILL.get_ptr_mut(&pid_tgid) {
        // SAFETY: the map gave the pointer.
        unsafe { (*slot).pid_tgid = pid_tgid };
    }
    0
}

/// Whether the current thread is ending: `process_exit` may have run, or is about to.
#[inline(always)]
pub(crate) fn is_ending() -> bool {
    /// `PF_EXITING` (include/linux/sched.h): set before `sched_process_exit` (`do_exit`, kernel/exit.c).
    const EXITING: u32 = 4;
    kernel_field::<u32>(current_task(), Field::TaskFlags) & EXITING != 0
}

/// The call has returned, and what it took is not needed any more.
#[inline(always)]
pub(crate) fn forget_input(slot: &mut Slot) {
    if slot.input.large != 0 {
        slot.input.large = 0;
        slot.input.flags = 0;
        let _ = LARGE_INPUTS.remove(&slot.pid_tgid);
    }
}

/// Takes a thread's slot back: the context that it had; `0`: none.
#[inline(always)]
pub(crate) fn give_back(pid_tgid: u64) -> u64 {
    let Some(slot) = find(pid_tgid) else {
        return 0;
    };
    forget_input(slot);
    let context = slot.context;
    let place = place(pid_tgid);
    let own = SLOTS.get_ptr_mut(place).is_some_and(|slot| {
        // SAFETY: the map gave the pointer.
        let slot = unsafe { &mut *slot };
        let own = slot.pid_tgid == pid_tgid;
        if own {
            slot.pid_tgid = 0;
        }
        own
    });
    if own {
        let _ = SLOTS_TAKEN.remove(&place);
    } else {
        let _ = SLOTS_SPILL.remove(&pid_tgid);
    }
    context
}

/// What a call that made an object gives: of System V the id, which the function that makes it gives, too;
/// a queue's descriptor is not known to that yet.
#[inline(always)]
fn made(op: Op, ret: i64) -> u64 {
    if matches!(op, Op::MqOpen) { 0 } else { u64::from(ret as u32) }
}

/// The call of `op` that the thread is in has made an object. It is in no other that needs to be
/// remembered, as none of these can block. It always returns: also if the thread is to be killed, and none of
/// these is restarted. Were the program at its return left out, which counts as missed, the mark would stay until
/// the thread's next call of these: of mq_open, its entry takes the mark back; of the others, that would be taken
/// for the one that made an object only if it gave the same id, which this thread did make.
#[inline(always)]
pub(crate) fn note_birth(pid_tgid: u64, op: Op, ret: i64) {
    if let Some(slot) = find_or_take(pid_tgid, Diagnostic::NoSlotForCreation) {
        slot.arg0 = made(op, ret);
        slot.made = op as u8;
    }
}

/// The call of `op` that the thread was in has returned: what its record says of the birth of the object, in
/// bits of `flag`.
#[inline(always)]
pub(crate) fn birth(slot: &mut Slot, op: Op, ret: i64) -> u32 {
    // Without a branch: the verifier would go through all that follows once for each outcome.
    let other = u64::from(slot.made ^ op as u8) | slot.arg0 ^ made(op, ret);
    slot.made = 0;
    let known = masked::<1>(u64::from(gate::births() >> (op as u32)));
    (known | (known & is_zero(other)) << 1) as u32 * flag::BIRTH_KNOWN
}

const _: () = assert!(flag::MADE == flag::BIRTH_KNOWN << 1);
