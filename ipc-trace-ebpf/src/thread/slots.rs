//! The state kept for a thread between programs: its context, its current call, and what that call took from the
//! caller's memory.
//!
//! A slot is found by the low 16 bits of the tid, in a plain array: the cheapest map there is. The thread owns it
//! from the first time that something must be stored until the thread ends. An insertion into a hash decides the
//! owner, because only one thread can insert a key. Threads with the same low bits get slots in the spill, which
//! evicts no entry. So a thread's slot never changes its owner while the thread lives.

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
/// Entries of [`SLOTS`] that are taken, by number: taking one is atomic.
#[map]
static SLOTS_TAKEN: HashMap<u32, u8> = HashMap::with_max_entries(SLOT_COUNT, 0);
/// By pid_tgid, for threads whose entry another thread owns; user space makes it smaller if no two threads can have
/// the same entry.
#[map]
static SLOTS_SPILL: HashMap<u64, Slot> = HashMap::with_max_entries(SPILLED_SLOTS, 0);

/// How many entries [`SLOTS_SPILL`] has, which is usually none. Lookups in a hash are slow, and threads that end ask.
#[unsafe(no_mangle)]
static mut SPILLED: u64 = 0;

/// By pid_tgid: data that calls take from memory and that does not fit into a slot.
#[map]
pub(crate) static LARGE_INPUTS: HashMap<u64, LargeInput> = HashMap::with_max_entries(1 << 12, 0);

/// The data that a call took from memory, in a slot.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Input {
    /// Flags of the call's record; `0`: it was not read at the entry
    pub(crate) flags: u32,
    /// `1`: there is an entry in [`LARGE_INPUTS`]
    pub(crate) large: u32,
    /// Arguments of `ipc(2)` that lie in memory: see `Call::indirect`
    pub(crate) indirect: u64,
    /// The operation's own data: of semop a `SemopPart`, of msgsnd the type, of queues `QueuePart::input`
    pub(crate) bytes: [u64; 8],
}

impl Input {
    pub(crate) const EMPTY: Self = Self { flags: 0, large: 0, indirect: 0, bytes: [0; 8] };
}

/// Data that does not fit into a slot: of mq_open and mq_unlink the name, followed by the attributes; of shmctl,
/// semctl and msgctl the structure.
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
    /// The owning thread; `0`: none
    pub(crate) pid_tgid: u64,
    /// The context that was sent; `0`: none
    pub(crate) context: u64,
    /// The thread's current call: `Call::packed`; `0`: none, or it has returned
    pub(crate) entered: u64,
    /// When that call began, if it can block; `0`: it can't
    pub(crate) enter_ns: u64,
    /// The first argument of such a call; with `made`, the id of the created object
    pub(crate) arg0: u64,
    /// The queue behind its descriptor, or the queue that it opened
    pub(crate) queue: QueueRef,
    /// When the thread's last call returned that is to be sent
    pub(crate) exit_ns: u64,
    /// How long that call took, or `NO_DURATION`
    pub(crate) duration_ns: u64,
    /// The namespace before a call that changes it
    pub(crate) from: NsRef,
    /// The cgroup in the context
    pub(crate) cgroup: u64,
    /// `struct task_struct *` of the parent in the context
    pub(crate) parent: u64,
    /// `struct nsproxy *` of the thread when the context was sent
    pub(crate) nsproxy: u64,
    /// Its `struct cred *` at that time
    pub(crate) cred: u64,
    /// How many moves between cgroups there had been when the cgroup was read
    pub(crate) moves: u32,
    /// Flags of the record of the call that is to be sent
    pub(crate) flags: u32,
    /// What that call took from the caller's memory
    pub(crate) input: Input,
    /// The operation's number, if the thread's current call has created an object; `0`: none did
    pub(crate) made: u8,
    /// Whether the programs have seen the thread enter any call
    pub(crate) seen: u8,
    /// Whether the context says that the executable was deleted
    pub(crate) exe_deleted: u8,
    /// Whether the user namespace had no map yet when the context was sent
    pub(crate) unmapped: u8,
    /// Which programs ran for the thread's current or last call: see `copies`
    pub(crate) ran: u16,
    pub(crate) reserved: [u8; 2],
}

impl Slot {
    /// The thread has left its call.
    #[inline(always)]
    pub(crate) fn leave(&mut self) {
        // SAFETY: both are words. By a function, as the two are adjacent.
        unsafe { zero_words::<2>(core::ptr::addr_of_mut!(self.entered)) };
    }

    /// The thread is in no call any more that it entered before: counts one that it has not left.
    #[inline(always)]
    pub(crate) fn count_if_unreturned(&self) {
        if self.entered != 0 {
            counts::count_unreturned();
        }
    }
}

const _: () = {
    assert!(core::mem::offset_of!(Slot, enter_ns) == core::mem::offset_of!(Slot, entered) + 8);
    assert!(size_of::<Slot>() % 8 == 0 && core::mem::offset_of!(Slot, pid_tgid) == 0);
};

/// A slot without an owner: the initial value of a new one in the spill.
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

/// The index of a thread's slot in the array.
#[inline(always)]
fn place(pid_tgid: u64) -> u32 {
    pid_tgid as u32 & (SLOT_COUNT - 1)
}

/// The thread's slot, if it has one.
#[inline(always)]
pub(crate) fn find(pid_tgid: u64) -> Option<&'static mut Slot> {
    let slot = SLOTS.get_ptr_mut(place(pid_tgid))?;
    // SAFETY: the map gave the pointer, and only the owning thread accesses fields beyond `pid_tgid`.
    let slot = unsafe { &mut *slot };
    if slot.pid_tgid == pid_tgid {
        return Some(slot);
    }
    // SAFETY: the variable is there; programs change it by atomic additions.
    if unsafe { (&raw const SPILLED).read_volatile() } == 0 {
        return None;
    }
    SLOTS_SPILL.get_ptr_mut(&pid_tgid).map(|slot| {
        // SAFETY: the map gave the pointer; the entry is the thread's, and is removed with it.
        unsafe { &mut *slot }
    })
}

/// The thread's slot; it gets one if it has none. There is none if the spill is full, which is counted as the loss of
/// `what`, and for a thread that is ending, because nothing would release it.
#[inline(always)]
pub(crate) fn find_or_take(pid_tgid: u64, what: Diagnostic) -> Option<&'static mut Slot> {
    let found = find(pid_tgid);
    if found.is_some() {
        return found;
    }
    take_slot(pid_tgid, what as u64);
    find(pid_tgid)
}

/// Gives a slot to a thread that has none: the current one, or one that it is creating. A global function, so that
/// the verifier checks it once.
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
        // SAFETY: a slot consists of words, of which the first is the owner.
        unsafe {
            let words = core::ptr::from_mut(slot).cast::<u64>();
            zero_words::<{ size_of::<Slot>() / 8 - 1 }>(words.add(1));
        }
        slot.pid_tgid = pid_tgid;
        return 0;
    }
    // Before the entry is there, so that the thread finds it.
    counts::add(&raw mut SPILLED, 1);
    if SLOTS_SPILL.insert(&pid_tgid, &EMPTY, u64::from(BPF_NOEXIST)).is_err() {
        counts::add(&raw mut SPILLED, u64::MAX);
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

/// The call has returned, and its input is not needed any more.
#[inline(always)]
pub(crate) fn forget_input(slot: &mut Slot) {
    if slot.input.large != 0 {
        slot.input.large = 0;
        slot.input.flags = 0;
        let _ = LARGE_INPUTS.remove(&slot.pid_tgid);
    }
}

/// Releases a thread's slot: returns the context that it had; `0`: none.
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
    } else if SLOTS_SPILL.remove(&pid_tgid).is_ok() {
        counts::add(&raw mut SPILLED, u64::MAX);
    }
    context
}

/// The result of a call that created an object: for System V the id, which the function that creates it returns, too;
/// that function does not know a queue's descriptor yet.
#[inline(always)]
fn made(op: Op, ret: i64) -> u64 {
    if matches!(op, Op::MqOpen) { 0 } else { u64::from(ret as u32) }
}

/// The thread's current call, of `op`, has created an object. It is in no other call that needs the slot, as none of
/// these can block. It always returns, even if the thread is being killed, and none of these is restarted. If the
/// program at its return were missed, the mark would stay until the thread's next call of these: for mq_open, the
/// entry clears the mark; for the others, the next call would be recorded as the creator only if it returned the same
/// id, which this thread did create.
#[inline(always)]
pub(crate) fn note_creation(pid_tgid: u64, op: Op, ret: i64) {
    if let Some(slot) = find_or_take(pid_tgid, Diagnostic::NoSlotForCreation) {
        slot.arg0 = made(op, ret);
        slot.made = op as u8;
    }
}

/// The thread's call of `op` has returned: what its record says about the creation of the object, in bits of `flag`.
#[inline(always)]
pub(crate) fn creation_flags(slot: &mut Slot, op: Op, ret: i64) -> u32 {
    // Without a branch: the verifier would follow all that comes after it once for each outcome.
    let other = u64::from(slot.made ^ op as u8) | slot.arg0 ^ made(op, ret);
    slot.made = 0;
    let known = masked::<1>(u64::from(gate::created_known_ops() >> (op as u32)));
    (known | (known & is_zero(other)) << 1) as u32 * flag::CREATED_KNOWN
}

const _: () = assert!(flag::MADE == flag::CREATED_KNOWN << 1);
