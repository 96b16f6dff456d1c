//! What the kernel takes from the caller's memory: read when the call enters, as another thread can change it while
//! the call is in the kernel, and kept until it returns.
//!
//! Small data is kept in the thread's slot, names and structures in a separate table. Data that can't be read at the
//! entry, because that memory was never touched, is read at the return instead, and the record is marked so.

use aya_ebpf::{bindings::BPF_ANY, helpers::bpf_get_current_pid_tgid};
use ipc_trace_common::{
    op::{Detail, Op},
    record::{GIVEN_NAME_LEN, flag},
    state::Diagnostic,
};

use crate::{
    base::{
        constants::constant,
        counts,
        memory::{PLAIN, registers},
        registers::Call,
    },
    call::payload::{self, CallInfo},
    thread::slots::{self, LARGE_INPUTS, LargeInput, Slot},
};

static EMPTY: LargeInput =
    LargeInput { name_len: 0, reserved: 0, name: [0; GIVEN_NAME_LEN / 8], attr: [0; 4] };

/// Whether an operation's input is read: data that is only shown is read only if it is wanted.
#[inline(always)]
fn wanted(op: Op) -> bool {
    op.reads_memory() && (constant!(ARGUMENTS) != 0 || is_large(op))
}

#[inline(always)]
fn is_large(op: Op) -> bool {
    matches!(op.detail(), Detail::Name | Detail::Control)
}

/// Reads the data that the entered call takes from memory.
#[inline(always)]
pub(crate) fn read(slot: &mut Slot, call: Call, op: Op, regs: u64) {
    if wanted(op) {
        slot.input.flags = 0;
        read_input(call.packed(), if PLAIN { 0 } else { regs });
    }
}

/// A global function, so that the verifier checks it once.
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
    let info = CallInfo { call, op, ret: 0, args, flags: 0 };
    let to = core::ptr::addr_of_mut!(input.bytes);
    // SAFETY: `bytes` has 64 bytes, as much as the largest input needs, and is aligned to 8.
    let read = unsafe {
        match op.detail() {
            Detail::Semop if payload::fits_inline(call, &args) => payload::sembuf(to.cast(), info),
            Detail::Semop => payload::semop(to.cast(), info),
            Detail::Message if matches!(op, Op::Msgsnd) => payload::mtype(to.cast(), info),
            Detail::Queue => payload::queue_input(to.cast(), info),
            Detail::Control if !payload::sets(&info) => 0,
            Detail::Control | Detail::Name => {
                if LARGE_INPUTS.insert(&pid_tgid, &EMPTY, u64::from(BPF_ANY)).is_err() {
                    counts::diagnose(Diagnostic::InputsFull);
                    return 0;
                }
                input.large = 1;
                let Some(large) = LARGE_INPUTS.get_ptr_mut(&pid_tgid) else {
                    return 0;
                };
                if matches!(op.detail(), Detail::Name) {
                    payload::name(large, info)
                } else {
                    payload::ctl(core::ptr::addr_of_mut!((*large).name).cast(), info)
                }
            }
            Detail::Message | Detail::Plain => 0,
        }
    };
    if read & flag::FAULT == 0 {
        input.flags = read | flag::AT_ENTRY;
    }
    0
}

const _: () = assert!(size_of::<ipc_trace_common::record::CtlPart>() <= GIVEN_NAME_LEN);
