//! The groups of a batch (`batches`): equal calls of its thread, which are counted together, and sent.

use aya_ebpf::{
    bindings::BPF_RB_NO_WAKEUP,
    helpers::{
        bpf_get_current_pid_tgid,
        generated::{bpf_ktime_get_boot_ns, bpf_ringbuf_output},
    },
};
use ipc_trace_common::{
    op::SyscallCode,
    record::{BATCH, BATCH_NS, BatchRecord, BatchedDuration, BatchedGroup, GROUPS, PackedCall},
    state::{BATCH_ROW, BatchSlot},
};

use crate::{
    base::{
        constants::constant,
        counts::{self, Count},
        gate::gate,
        registers::{error, failed},
        rings::{self, EVENTS},
        words::{masked, zero_words},
    },
    thread::batch_slots::{calls_in, current_place},
};

/// Adds the thread's call to its batch, or counts it as lost. Returns whether it did: not if the call took longer than
/// a batch can say. `sums`: it may be a call whose lengths are added up.
///
/// By a pointer: the functions called here write to the batch, too, which a reference would hide from the compiler.
#[inline(always)]
pub(super) fn add(
    batch: *mut BatchSlot,
    (now, duration_ns): (u64, u64),
    ret: i64,
    sums: bool,
) -> bool {
    // SAFETY: the map gave the pointer, and the thread alone writes there.
    let batch = unsafe { &mut *batch };
    if duration_ns > BatchedDuration::MAX_NS {
        return false;
    }
    let mut what = batch.what;
    if failed(ret) {
        what |= (-ret as u64) << BatchedGroup::ERROR_SHIFT;
    }
    let mut at = 0;
    // SAFETY: the index lies within the array.
    let mut is_current = unsafe { (*group(batch, 0)).what } == what;
    if !is_current {
        at = 1;
        // SAFETY: likewise.
        is_current = unsafe { (*group(batch, 1)).what } == what;
    }
    if !is_current || !takes(batch, now) {
        let pid_tgid = bpf_get_current_pid_tgid();
        at = find_group(pid_tgid, what, now);
        if at >= GROUPS as u64 {
            drop_one(pid_tgid, what, ret as u64);
            batch.enter_ns = 0;
            return true;
        }
        at = masked::<{ GROUPS as u64 - 1 }>(at);
    }
    let count = calls_in(batch);
    let last = masked::<{ BATCH as u64 - 1 }>(u64::from(count));
    // SAFETY: both indexes lie within their arrays.
    unsafe {
        let size = if sums { Some(batch.size) } else { None };
        let group = group(batch, at);
        count_in(group, ret, size);
        (*group).last_ns = now;
        let durations = core::ptr::addr_of_mut!(batch.record.durations).cast::<u32>();
        let word = duration_ns | at << BatchedDuration::NS_BITS;
        durations.add(last as usize).write_volatile(word as u32);
    }
    batch.record.head.count = count + 1;
    batch.enter_ns = 0;
    true
}

/// As [`add`], where calls are not timed; `size`: of the message, if it sends or receives one. Returns that it did.
#[inline(always)]
pub(super) fn count(batch: *mut BatchSlot, mut what: u64, ret: i64, size: Option<u64>) -> bool {
    // SAFETY: as in `add`.
    let batch = unsafe { &mut *batch };
    if failed(ret) {
        // SAFETY: no instructions; they keep the compiler from computing this for calls that succeed.
        unsafe { core::arch::asm!("") };
        what |= (-ret as u64) << BatchedGroup::ERROR_SHIFT;
    }
    let mut found = group(batch, 0);
    // SAFETY: the index lies within the array.
    if unsafe { (*found).what } != what {
        found = group(batch, 1);
        // SAFETY: likewise.
        if unsafe { (*found).what } != what {
            let sums = u64::from(size.is_some());
            count_in_group(what, ret as u64, size.unwrap_or(0), sums);
            return true;
        }
    }
    // SAFETY: it is one of the batch's.
    unsafe { count_in(found, ret, size) };
    true
}

/// Counts a call in its group; `size`: of the message, if it sends or receives one.
///
/// # Safety
/// The group is the thread's own.
#[inline(always)]
unsafe fn count_in(group: *mut BatchedGroup, ret: i64, size: Option<u64>) {
    // SAFETY: as the caller says.
    unsafe {
        (*group).count += 1;
        if let Some(size) = size
            && !failed(ret)
        {
            (*group).sent += size;
            (*group).results += ret as u64;
        }
    }
}

/// As [`count`], in any group. `sums`: whether there is a size.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn count_in_group(what: u64, ret: u64, size: u64, sums: u64) -> u64 {
    let pid_tgid = bpf_get_current_pid_tgid();
    let batch = current_place(pid_tgid);
    let at = find_group(pid_tgid, what, 0);
    if at >= GROUPS as u64 {
        drop_one(pid_tgid, what, ret);
        return 0;
    }
    let found = group(batch, masked::<{ GROUPS as u64 - 1 }>(at));
    // SAFETY: it is one of the batch's.
    unsafe { count_in(found, ret as i64, (sums != 0).then_some(size)) };
    0
}

/// Whether a batch with calls has room for one more, and did not begin too long ago. Where calls are not timed,
/// [`renew_batch`] ends it.
#[inline(always)]
fn takes(batch: &BatchSlot, now: u64) -> bool {
    if constant!(UNTIMED) != 0 {
        return true;
    }
    batch.record.head.count < BATCH as u32 && now - batch.record.head.first_ns <= BATCH_NS
}

/// Where to look for a group, if it is neither of the first two, which most threads need alone. Ids of System V differ
/// in their low bits most; errors are rare.
#[inline(always)]
fn group_at(what: u64) -> u64 {
    masked::<{ GROUPS as u64 - 1 }>(what ^ what >> 40)
}

/// The group with that index, which must be below [`GROUPS`].
#[inline(always)]
fn group(batch: &mut BatchSlot, at: u64) -> *mut BatchedGroup {
    let groups = core::ptr::addr_of_mut!(batch.record.groups).cast::<BatchedGroup>();
    groups.wrapping_add(at as usize)
}

/// Finds a group or begins it, after the batch was sent if it has no room for the group or for another call, or began
/// too long ago. Returns its index; [`GROUPS`]: the batch could not be sent.
///
/// A global function, like `context::send_context`; so are the next ones.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn find_group(pid_tgid: u64, what: u64, now: u64) -> u64 {
    let batch = current_place(pid_tgid);
    let first = group_at(what);
    let now = match constant!(UNTIMED) {
        0 => now,
        // SAFETY: no arguments.
        _ => unsafe { bpf_ktime_get_boot_ns() },
    };
    if calls_in(batch) != 0 && takes(batch, now) {
        let mut tries = 0;
        loop {
            let at = if tries < 2 { tries } else { first ^ tries };
            let at = masked::<{ GROUPS as u64 - 1 }>(at);
            // SAFETY: the index is masked.
            unsafe {
                let group = group(batch, at);
                if (*group).what == what {
                    return at;
                }
                if (*group).what == 0 {
                    begin_group(group, what, now);
                    return at;
                }
            }
            tries += 1;
            if tries == 6 {
                break;
            }
        }
    }
    if calls_in(batch) != 0 {
        send_batch(pid_tgid);
        if calls_in(batch) != 0 {
            return GROUPS as u64;
        }
    }
    batch.record.head.first_ns = now;
    if constant!(UNTIMED) != 0 {
        batch.record.head.count = 1;
    }
    // SAFETY: the index lies within the array.
    unsafe { begin_group(group(batch, 0), what, now) };
    0
}

/// # Safety
/// The group is the thread's own.
#[inline(always)]
unsafe fn begin_group(group: *mut BatchedGroup, what: u64, now: u64) {
    // SAFETY: as the caller says.
    unsafe {
        (*group).what = what;
        // By a function, as they are adjacent.
        zero_words::<4>(core::ptr::addr_of_mut!((*group).count));
        (*group).last_ns = now;
    }
}

/// Empties all groups.
#[inline(always)]
pub(super) fn end_groups(batch: &mut BatchSlot) {
    for at in 0..GROUPS as u64 {
        // SAFETY: the index lies within the array.
        unsafe { core::ptr::addr_of_mut!((*group(batch, at)).what).write_volatile(0) };
    }
    batch.record.head.count = 0;
}

/// Counts a call as lost because there was no room.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn drop_one(pid_tgid: u64, what: u64, ret: u64) -> u64 {
    let batch = current_place(pid_tgid);
    let kind = SyscallCode(PackedCall::unpacked(what).code).kind();
    if let Some(counters) = counts::counters(u32::from(kind)) {
        counts::count(counters, Count::Seen);
        counts::count(counters, Count::Dropped);
    }
    let error = error(i64::from(ret as i32));
    let ns = batch.record.head.ns;
    counts::count_drop(ns.inum, ns.generation, u16::from(kind), error);
    0
}

/// Sends the batch in this thread's entry, if the gate is open and the ring has room; else it stays there.
#[inline(never)]
#[unsafe(no_mangle)]
pub(super) extern "C" fn send_batch(pid_tgid: u64) -> u64 {
    let batch = current_place(pid_tgid);
    let count = u64::from(batch.record.head.count);
    // Records consist of words.
    let durations = match constant!(UNTIMED) {
        0 => (count * size_of::<BatchedDuration>() as u64 + 7) & !7,
        _ => 0,
    };
    let len = core::mem::offset_of!(BatchRecord, durations) as u64 + durations;
    // The length, and not the count, is what the verifier wants to know.
    if !gate().is_open() || count == 0 || len > size_of::<BatchRecord>() as u64 {
        return 0;
    }
    // SAFETY: a `RingBuf` is the map's definition, which is what the helper takes; `len` is at most the size of a
    // complete record.
    let sent = unsafe {
        bpf_ringbuf_output(
            core::ptr::from_ref(&EVENTS).cast_mut().cast(),
            core::ptr::addr_of_mut!(batch.record).cast(),
            len,
            wake_up(count),
        )
    };
    if sent != 0 {
        return 0;
    }
    let mut at = 0;
    loop {
        // SAFETY: the index is masked.
        let (what, count) = unsafe {
            let group = group(batch, masked::<{ GROUPS as u64 - 1 }>(at));
            ((*group).what, (*group).count)
        };
        if what != 0 {
            let kind = SyscallCode(PackedCall::unpacked(what).code).kind();
            if let Some(counters) = counts::counters(u32::from(kind)) {
                counts::count_many(counters, Count::Seen, count);
                counts::count_many(counters, Count::Emitted, count);
            }
        }
        at += 1;
        if at == GROUPS as u64 {
            break;
        }
    }
    end_groups(batch);
    0
}

/// Whether to wake the reader: as for single calls, by the number of calls sent before.
#[inline(always)]
fn wake_up(count: u64) -> u64 {
    match counts::counters(BATCH_ROW) {
        Some(counters) => {
            rings::wake_up(counts::count_many(counters, Count::Emitted, count), count)
        }
        None => u64::from(BPF_RB_NO_WAKEUP),
    }
}
