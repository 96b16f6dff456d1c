//! The counters: calls by operation, lost calls by namespace and error, rare conditions.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_NOEXIST},
    helpers::generated::bpf_get_smp_processor_id,
    macros::map,
    maps::{Array, HashMap},
};
use ipc_trace_common::{
    op,
    state::{COUNTER_ROWS, Counters, DIAGNOSTICS, Diagnostic, DropKey},
};

use crate::base::gate::gate;

/// By CPU and row; user space sizes it by the number of CPUs.
#[map]
static COUNTERS: Array<Counters> = Array::with_max_entries(COUNTER_ROWS, BPF_F_MMAPABLE);
/// Lost calls by namespace, operation and error.
#[map]
static DROPS: HashMap<DropKey, u64> = HashMap::with_max_entries(1 << 16, 0);
/// Lost calls by operation and error, for when [`DROPS`] is full.
#[map]
static DROPS_REST: HashMap<DropKey, u64> = HashMap::with_max_entries(1 << 12, 0);
#[map]
static DIAGNOSTIC_COUNTS: Array<u64> = Array::with_max_entries(DIAGNOSTICS, BPF_F_MMAPABLE);
#[map]
static DIAGNOSTIC_LOGGED: Array<u64> = Array::with_max_entries(DIAGNOSTICS, 0);

/// Which counter to increment.
#[derive(Clone, Copy)]
pub(crate) enum Count {
    Seen,
    Filtered,
    Emitted,
    Dropped,
    NotMade,
    NotMadeDropped,
    Withheld,
}

/// This CPU's counters of a row.
#[inline(always)]
pub(crate) fn counters(row: u32) -> Option<*mut Counters> {
    // SAFETY: no arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    COUNTERS.get_ptr_mut(cpu * COUNTER_ROWS + row)
}

/// Increments a counter, and returns its value on this CPU. The increment is atomic (XADD), as a program can be
/// interrupted by another that counts in the same row. So the value is approximate, and fit only for a decision that
/// may be wrong now and then.
#[inline(always)]
pub(crate) fn count(counters: *mut Counters, which: Count) -> u64 {
    count_many(counters, which, 1)
}

/// As [`count`], by several at once.
#[inline(always)]
pub(crate) fn count_many(counters: *mut Counters, which: Count, by: u64) -> u64 {
    // SAFETY: the map gave the pointer; the value lives as long as the map.
    let counter = unsafe {
        match which {
            Count::Seen => core::ptr::addr_of_mut!((*counters).seen),
            Count::Filtered => core::ptr::addr_of_mut!((*counters).filtered),
            Count::Emitted => core::ptr::addr_of_mut!((*counters).emitted),
            Count::Dropped => core::ptr::addr_of_mut!((*counters).dropped),
            Count::NotMade => core::ptr::addr_of_mut!((*counters).not_made),
            Count::NotMadeDropped => core::ptr::addr_of_mut!((*counters).not_made_dropped),
            Count::Withheld => core::ptr::addr_of_mut!((*counters).withheld),
        }
    };
    add(counter, by);
    // SAFETY: as above.
    unsafe { counter.read_volatile() }
}

/// Adds without fetching: the form of an atomic addition that all kernels support (fetching ones need 5.12).
#[inline(always)]
pub(crate) fn add(counter: *mut u64, by: u64) {
    // `AtomicU64::fetch_add` does not exist for this target, which has no compare-and-swap.
    // SAFETY: the pointer came from a map and is aligned.
    unsafe {
        core::arch::asm!("lock *(u64 *)({at} + 0) += {by}", at = in(reg) counter, by = in(reg) by);
    }
}

/// Counts a lost call.
#[inline(never)]
pub(crate) fn count_drop(inum: u32, generation: u32, op: u16, error: u16) {
    let key = DropKey { inum, generation, op, error };
    if count_in(&DROPS, &key) {
        return;
    }
    diagnose(Diagnostic::DropTableFull);
    count_in(&DROPS_REST, &DropKey { inum: 0, generation: 0, op, error });
}

#[inline(always)]
fn count_in(map: &HashMap<DropKey, u64>, key: &DropKey) -> bool {
    if map.get_ptr_mut(key).is_none() {
        // Fails if another CPU was quicker, or if the map is full: the second lookup distinguishes the two.
        let _ = map.insert(key, &0, u64::from(BPF_NOEXIST));
    }
    match map.get_ptr_mut(key) {
        Some(counter) => {
            add(counter, 1);
            true
        }
        None => false,
    }
}

/// Counts a rare condition, for the log.
#[inline(always)]
pub(crate) fn diagnose(what: Diagnostic) {
    diagnosed_at(what as u64);
}

/// As [`diagnose`], by the condition's number.
#[inline(always)]
pub(crate) fn diagnosed_at(what: u64) {
    if let Some(counter) = DIAGNOSTIC_COUNTS.get_ptr_mut(what as u32) {
        add(counter, 1);
    }
}

/// Counts an earlier call of the current thread as missed: its entry was noted, and no program ran at its return. A
/// global function, as callers have no registers to spare for a rare event.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn count_unreturned() -> u64 {
    if gate().is_open() {
        diagnose(Diagnostic::Unreturned);
    }
    0
}

/// How often a condition occurred, if that changed since the last call.
#[inline(always)]
pub(crate) fn diagnosed(what: Diagnostic) -> Option<u64> {
    let what = what as u32;
    let count = *DIAGNOSTIC_COUNTS.get(what)?;
    let logged = DIAGNOSTIC_LOGGED.get_ptr_mut(what)?;
    // SAFETY: the pointer came from the map; only the diagnostics touch this one.
    unsafe {
        if *logged == count {
            return None;
        }
        *logged = count;
    }
    Some(count)
}

const _: () = assert!(op::COUNT + 2 < COUNTER_ROWS as usize);
