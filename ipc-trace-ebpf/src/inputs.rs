//! What the kernel takes from the caller's memory: read when the call enters, as another thread can change it
//! while the call is in the kernel, and kept until it returns.
//!
//! What is small is kept in the thread's slot, names and structures in a table of their own. What can't be read at
//! the entry, since nobody has touched that memory yet, is read at the return instead, and its record says so.

use aya_ebpf::{bindings::BPF_ANY, helpers::bpf_get_current_pid_tgid, macros::map, maps::HashMap};
use ipc_trace_common::{
    op::Op,
    record::{GIVEN_NAME_LEN, flag},
    state::Diagnostic,
};

use crate::{
    constants::constant,
    counts,
    detail::{self, Facts},
    memory::{PLAIN, registers},
    registers::Call,
    slots::{self, Slot},
};

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
    /// Arguments of `ipc(2)` that lie in memory: see [`Call::indirect`]
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

static EMPTY: LargeInput =
    LargeInput { name_len: 0, reserved: 0, name: [0; GIVEN_NAME_LEN / 8], attr: [0; 4] };

/// Whether something is to be read for calls of an operation: what is for show alone, where it is wanted.
#[inline(always)]
fn wanted(op: Op) -> bool {
    op.reads_memory() && (constant!(ARGUMENTS) != 0 || is_large(op))
}

#[inline(always)]
fn is_large(op: Op) -> bool {
    matches!(op, Op::MqOpen | Op::MqUnlink | Op::Shmctl | Op::Semctl | Op::Msgctl)
}

/// Reads what the call that the thread enters takes from memory.
#[inline(always)]
pub(crate) fn read(slot: &mut Slot, call: Call, op: Op, regs: u64) {
    if wanted(op) {
        slot.input.flags = 0;
        read_input(call.packed(), if PLAIN { 0 } else { regs });
    }
}

/// A global function, so that the verifier looks at it once.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn read_input(packed: u64, regs: u64) -> u64 {
    let call = Call::unpacked(registers(regs), packed);
    let Some(op) = call.code.op() else {
        return 0;
    };
    let pid_tgid = bpf_get_current_pid_tgid();
    let Some(slot) = slots::find(pid_tgid) else {
        return 0;
    };
    let input = &mut slot.input;
    if call.has_indirect() {
        let (indirect, read) = call.indirect();
        input.indirect = indirect;
        if !read {
            return 0;
        }
    }
    let (args, _) = call.arguments(input.indirect);
    let facts = Facts { call, op, ret: 0, args, flags: 0 };
    let to = core::ptr::addr_of_mut!(input.bytes);
    // SAFETY: `bytes` has 64 bytes, as much as the largest of these needs, and is aligned to 8.
    let read = unsafe {
        match op {
            Op::Semop if detail::fits_inline(call, &args) => detail::sembuf(to.cast(), facts),
            Op::Semop => detail::semop(to.cast(), facts),
            Op::Msgsnd => detail::mtype(to.cast(), facts),
            Op::MqSend | Op::MqReceive | Op::MqNotify | Op::MqGetsetattr => {
                detail::queue_input(to.cast(), facts)
            }
            Op::Shmctl | Op::Semctl | Op::Msgctl if !detail::sets(&facts) => 0,
            Op::Shmctl | Op::Semctl | Op::Msgctl | Op::MqOpen | Op::MqUnlink => {
                if LARGE_INPUTS.insert(&pid_tgid, &EMPTY, u64::from(BPF_ANY)).is_err() {
                    counts::diagnose(Diagnostic::InputsFull);
                    return 0;
                }
                input.large = 1;
                let Some(large) = LARGE_INPUTS.get_ptr_mut(&pid_tgid) else {
                    return 0;
                };
                if matches!(op, Op::MqOpen | Op::MqUnlink) {
                    detail::name(large, facts)
                } else {
                    detail::ctl(core::ptr::addr_of_mut!((*large).name).cast(), facts)
                }
            }
            Op::Msgrcv | Op::Shmget | Op::Shmat | Op::Shmdt | Op::Semget | Op::Msgget => 0,
        }
    };
    if read & flag::FAULT == 0 {
        input.flags = read | flag::AT_ENTRY;
    }
    0
}

/// The call has returned, and what it took is not needed any more.
#[inline(always)]
pub(crate) fn forget(slot: &mut Slot) {
    if slot.input.large != 0 {
        slot.input.large = 0;
        slot.input.flags = 0;
        let _ = LARGE_INPUTS.remove(&slot.pid_tgid);
    }
}

const _: () = assert!(size_of::<ipc_trace_common::record::CtlPart>() <= GIVEN_NAME_LEN);
