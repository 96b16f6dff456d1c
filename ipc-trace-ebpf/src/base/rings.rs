//! The two rings. A record is reserved, filled in place, and submitted.

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP, BPF_RB_RING_SIZE},
    helpers::generated::{bpf_ringbuf_query, bpf_ringbuf_reserve, bpf_ringbuf_submit},
    macros::map,
    maps::RingBuf,
};
use ipc_trace_common::{
    record::{Header, RecordKind, VERSION},
    state::{CONTROL_ROW, Counters},
};

use crate::base::{
    constants::constant,
    counts::{Count, count, counters},
};

#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(8 << 20, 0);
#[map]
static CONTROL: RingBuf = RingBuf::with_byte_size(4 << 20, 0);

/// Reserves room for a record in a ring; `None` if it is full.
#[inline(always)]
pub(crate) fn reserve<T>(ring: &'static RingBuf) -> Option<*mut T> {
    // SAFETY: a `RingBuf` is the map's definition, which is what the helper takes.
    let at = unsafe {
        bpf_ringbuf_reserve(core::ptr::from_ref(ring).cast_mut().cast(), size_of::<T>() as u64, 0)
    };
    if at.is_null() { None } else { Some(at.cast()) }
}

/// Whether to wake the reader after so many events on this CPU, the last `count` of them just now: a flag for the
/// ring's helpers.
#[inline(always)]
pub(crate) fn wake_up(emitted: u64, count: u64) -> u64 {
    let due = emitted & u64::from(constant!(WAKE_MASK)) < count;
    u64::from(if due { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP })
}

/// How much of the control ring may be in use, in eighths, when a record is put there. User processes determine how
/// many records of some kinds there are, and these must not push out the kernel's own facts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Share {
    /// Repeatable: a thread's description, a queue's name
    Repeatable = 4,
    /// A change of an object, of which any user can cause millions
    Change = 6,
    /// A call on a queue of another namespace, or another access to a namespace's object
    Access = 7,
    /// A namespace was created, entered or found; a thread ended
    Lifecycle = 8,
}

/// Reserves room for a record in the control ring; counts it if there is none.
#[inline(always)]
pub(crate) fn reserve_control<T>(share: Share) -> Option<*mut T> {
    let (at, counters) = reserve_uncounted(share)?;
    count(counters, Count::Emitted);
    Some(at)
}

#[inline(always)]
fn reserve_uncounted<T>(share: Share) -> Option<(*mut T, *mut Counters)> {
    let counters = counters(CONTROL_ROW)?;
    count(counters, Count::Seen);
    let is_used_up = share != Share::Lifecycle && is_full_beyond(share as u64) != 0;
    let at = if is_used_up { None } else { reserve(&CONTROL) };
    if at.is_none() {
        let repeatable = share == Share::Repeatable;
        count(counters, if repeatable { Count::Withheld } else { Count::Dropped });
    }
    Some((at?, counters))
}

/// As [`reserve_control`], for a call, whose caller counts it as emitted. `access`: 1: it has the share of accesses;
/// 0: that of changes. A number, as the verifier would follow each branch to the end.
#[inline(always)]
pub(crate) fn reserve_call<T>(access: u64) -> Option<(*mut T, *mut Counters)> {
    const { assert!(Share::Access as u64 == Share::Change as u64 + 1) };
    let counters = counters(CONTROL_ROW)?;
    count(counters, Count::Seen);
    let is_used_up = is_full_beyond(Share::Change as u64 + access) != 0;
    let at = if is_used_up { None } else { reserve(&CONTROL) };
    if at.is_none() {
        count(counters, Count::Dropped);
    }
    Some((at?, counters))
}

/// Whether more of the control ring is in use than that many eighths: `1`, or `0`.
///
/// A global function, so that the verifier checks it once.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn is_full_beyond(eighths: u64) -> u64 {
    // SAFETY: a `RingBuf` is the map's definition, which is what the helper takes.
    let (used, size) = unsafe {
        let ring = core::ptr::from_ref(&CONTROL).cast_mut().cast();
        (
            bpf_ringbuf_query(ring, u64::from(BPF_RB_AVAIL_DATA)),
            bpf_ringbuf_query(ring, u64::from(BPF_RB_RING_SIZE)),
        )
    };
    u64::from(used > size / 8 * eighths)
}

/// The header of a record that isn't a call.
#[inline(always)]
pub(crate) fn header(kind: RecordKind, flags: u32) -> Header {
    Header { version: VERSION, kind: kind as u8, abi: 0, code: 0, flags }
}

/// Submits a record without waking the reader, which polls every few milliseconds.
#[inline(always)]
pub(crate) fn submit<T>(record: *mut T) {
    // SAFETY: the record came from a ring and is written.
    unsafe { bpf_ringbuf_submit(record.cast(), u64::from(BPF_RB_NO_WAKEUP)) };
}
