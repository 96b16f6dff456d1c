//! The maps, and access to them. None is newer than Linux 5.10.

use aya_ebpf::{
    bindings::{
        BPF_F_MMAPABLE, BPF_NOEXIST, BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP,
        BPF_RB_RING_SIZE,
    },
    helpers::generated::{bpf_get_smp_processor_id, bpf_ringbuf_query, bpf_ringbuf_reserve},
    macros::map,
    maps::{Array, HashMap, LruHashMap, RingBuf},
};
use ipc_trace_common::{
    op,
    record::NsRef,
    state::{
        BATCHES as BATCH_COUNT, Batch, CONTROL_ROW, COUNTER_ROWS, Counters, DIAGNOSTICS,
        Diagnostic, DropKey, FILTER_VALUES, FIRED as PROGRAMS, FOLDS, Fold, FoldKey, INUMS,
        NotedCall, SLOT_COUNT, SPILLED_SLOTS, gate,
    },
};

use crate::{constants::constant, inputs::LargeInput, slots::Slot};

#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(8 << 20, 0);
#[map]
pub(crate) static CONTROL: RingBuf = RingBuf::with_byte_size(4 << 20, 0);
/// By CPU and row; the user side makes it as large as the number of CPUs asks for.
#[map]
static COUNTERS: Array<Counters> = Array::with_max_entries(COUNTER_ROWS, BPF_F_MMAPABLE);
/// Lost calls by namespace, operation and error.
#[map]
static DROPS: HashMap<DropKey, u64> = HashMap::with_max_entries(1 << 16, 0);
/// Lost calls by operation and error, for which [`DROPS`] was full.
#[map]
static DROPS_REST: HashMap<DropKey, u64> = HashMap::with_max_entries(1 << 12, 0);
/// By `tid & 0xffff`.
#[map]
pub(crate) static SLOTS: Array<Slot> = Array::with_max_entries(SLOT_COUNT, 0);
/// Places in [`SLOTS`] that threads have, by number: to take one is atomic.
#[map]
pub(crate) static SLOTS_TAKEN: HashMap<u32, u8> = HashMap::with_max_entries(SLOT_COUNT, 0);
/// By pid_tgid, for threads whose place another thread has; the user side makes it smaller where no two threads
/// can have the same.
#[map]
pub(crate) static SLOTS_SPILL: HashMap<u64, Slot> = HashMap::with_max_entries(SPILLED_SLOTS, 0);
/// By pid_tgid: what has no room in a slot of what calls take from memory.
#[map]
pub(crate) static LARGE_INPUTS: HashMap<u64, LargeInput> = HashMap::with_max_entries(1 << 12, 0);
/// By `tid % BATCHES`.
#[map]
pub(crate) static BATCHES: Array<Batch> = Array::with_max_entries(BATCH_COUNT, BPF_F_MMAPABLE);
/// Places of [`BATCHES`] that threads have, by number: to take one is atomic.
#[map]
pub(crate) static BATCHES_TAKEN: HashMap<u32, u8> = HashMap::with_max_entries(BATCH_COUNT, 0);
/// By `tid & 0xffff`; the user side makes it smaller where programs do not come in copies.
#[cfg(not(feature = "probe"))]
#[map]
pub(crate) static LAST_RUNS: Array<crate::copies::LastRun> = Array::with_max_entries(SLOT_COUNT, 0);
/// By pid_tgid: the calls that threads are in whose batches the user side has taken.
#[map]
pub(crate) static NOTED_CALLS: HashMap<u64, NotedCall> = HashMap::with_max_entries(BATCH_COUNT, 0);
/// By number, from [`ipc_trace_common::state::FIRST_INUM`]: generation, and whether it was sent.
#[map]
pub(crate) static NAMESPACES: Array<u64> = Array::with_max_entries(INUMS, 0);
/// By number, for those beyond [`NAMESPACES`].
#[map]
pub(crate) static NAMESPACES_SPILL: HashMap<u32, u64> = HashMap::with_max_entries(1 << 13, 0);
/// Queues met, by `ino & 0xfff`.
#[map]
pub(crate) static QUEUES: Array<crate::queues::Met> = Array::with_max_entries(1 << 12, 0);
/// Queues whose names were sent, by their numbers: those of mqueue file systems do not repeat for 2^32 inodes.
#[map]
pub(crate) static NAMED_QUEUES: LruHashMap<u64, u8> = LruHashMap::with_max_entries(1 << 14, 0);
/// See [`ipc_trace_common::state::gate`]. A variable in a section, and so in a map, of its own, which the user side
/// maps: every call asks for it twice, and its address is a constant, where an array would have to be looked into.
#[unsafe(link_section = ".data.gate")]
#[unsafe(no_mangle)]
static mut GATE: [u64; gate::WORDS as usize] = [0; gate::WORDS as usize];
/// By [`ipc_trace_common::state::fired_at`]: whether the program was run.
#[map]
static FIRED: Array<u32> = Array::with_max_entries(PROGRAMS, 0);
#[map]
static DIAGNOSTIC_COUNTS: Array<u64> = Array::with_max_entries(DIAGNOSTICS, BPF_F_MMAPABLE);
#[map]
static DIAGNOSTIC_LOGGED: Array<u64> = Array::with_max_entries(DIAGNOSTICS, 0);

/// Accesses that are counted, and not told of each.
#[map]
pub(crate) static ACCESS_FOLDS: HashMap<FoldKey, Fold> = HashMap::with_max_entries(FOLDS, 0);
/// Processes that hold files of other namespaces' `/proc/sysvipc`.
#[map]
pub(crate) static READERS: HashMap<u32, u8> = HashMap::with_max_entries(1 << 12, 0);

/// [0]: where the census stands.
#[map]
pub(crate) static WALK: Array<crate::census::Walk> = Array::with_max_entries(1, 0);

#[map]
pub(crate) static FILTER_PIDS: HashMap<u32, u8> = HashMap::with_max_entries(FILTER_VALUES, 0);
#[map]
pub(crate) static FILTER_UIDS: HashMap<u32, u8> = HashMap::with_max_entries(FILTER_VALUES, 0);
#[map]
pub(crate) static FILTER_COMMS: HashMap<[u64; 2], u8> = HashMap::with_max_entries(FILTER_VALUES, 0);
#[map]
pub(crate) static FILTER_NAMESPACES: HashMap<NsRef, u8> =
    HashMap::with_max_entries(FILTER_VALUES, 0);
/// By cgroup: whether calls of threads in it are wanted. The user side makes it as large as that filter
/// asks for.
#[map]
pub(crate) static FILTER_CGROUPS: HashMap<u64, u8> = HashMap::with_max_entries(1, 0);
/// The command's process and its descendants.
#[map]
pub(crate) static DESCENDANTS: HashMap<u32, u8> = HashMap::with_max_entries(1 << 16, 0);

/// What the programs are to do, and for whom not.
#[derive(Clone, Copy)]
pub(crate) struct Gate(u64);

/// The gate as it is now.
#[inline(always)]
pub(crate) fn gate() -> Gate {
    Gate(gate_word::<0>())
}

/// One of its words.
#[inline(always)]
fn gate_word<const AT: usize>() -> u64 {
    const { assert!(AT < gate::WORDS as usize) };
    // SAFETY: the variable is there, with as many words; the user side writes whole ones.
    unsafe { (&raw const GATE).cast::<u64>().add(AT).read_volatile() }
}

/// The operations, by their bits, of whose calls it is known whether they made an object.
#[inline(always)]
pub(crate) fn births() -> u32 {
    gate_word::<{ gate::BIRTHS as usize }>() as u32
}

/// When tracing began.
#[inline(always)]
pub(crate) fn started() -> u64 {
    gate_word::<{ gate::STARTED as usize }>()
}

/// The inode of the executable that the tracer runs; `0`: not known.
#[inline(always)]
pub(crate) fn own_executable() -> u64 {
    gate_word::<{ gate::EXECUTABLE as usize }>()
}

/// Notes that.
#[inline(always)]
pub(crate) fn set_own_executable(inode: u64) {
    // SAFETY: as in `gate_word`; only the tracer's own process gets here.
    unsafe { (&raw mut GATE).cast::<u64>().add(gate::EXECUTABLE as usize).write_volatile(inode) };
}

/// How far into a task's stack its registers lie; `0`: that was not found out.
#[cfg(feature = "probe")]
#[inline(always)]
pub(crate) fn registers_at() -> u64 {
    gate_word::<{ gate::REGISTERS as usize }>()
}

/// Notes that.
#[cfg(feature = "probe")]
#[inline(always)]
pub(crate) fn set_registers_at(at: u64) {
    // SAFETY: as in `gate_word`; all write the same.
    unsafe { (&raw mut GATE).cast::<u64>().add(gate::REGISTERS as usize).write_volatile(at) };
}

impl Gate {
    /// Whether calls are wanted.
    #[inline(always)]
    pub(crate) fn is_open(self) -> bool {
        self.0 as u32 == gate::OPEN
    }

    /// Whether programs only mark that they were run.
    #[inline(always)]
    pub(crate) fn is_test(self) -> bool {
        self.0 as u32 == gate::TEST
    }

    /// Whether nothing is wanted of this process: tracing has ended or has not begun, or it is the
    /// tracer.
    #[inline(always)]
    pub(crate) fn keeps_out(self, pid: u32) -> bool {
        self.0 as u32 == gate::CLOSED || self.is_test() || self.is_self(pid)
    }

    /// Whether tracing has begun and not ended.
    #[inline(always)]
    pub(crate) fn is_tracing(self) -> bool {
        self.0 as u32 == gate::CONTROL || self.is_open()
    }

    /// Whether this process is the tracer.
    #[inline(always)]
    pub(crate) fn is_self(self, pid: u32) -> bool {
        (self.0 >> 32) as u32 == pid
    }
}

/// Marks that a program was run.
#[inline(always)]
pub(crate) fn fired(at: u32) {
    if let Some(mark) = FIRED.get_ptr_mut(at) {
        // SAFETY: the map gave the pointer; all write the same.
        unsafe { mark.write_volatile(1) };
    }
}

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

/// Increments a counter, and returns its value on this CPU. The increment is atomic (XADD), as a
/// program can be interrupted by another that counts in the same row; the value is good for nothing
/// but a decision that may be wrong now and then.
#[inline(always)]
pub(crate) fn count(counters: *mut Counters, which: Count) -> u64 {
    count_many(counters, which, 1)
}

/// As [`count`], of several at once.
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

/// Adds without fetching: the form of an atomic addition that all kernels know (fetching ones need
/// 5.12).
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
        // Fails when another CPU was quicker, or when it is full: the second look tells.
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

/// Room for a record in a ring, or nothing when it is full.
#[inline(always)]
pub(crate) fn reserve<T>(ring: &'static RingBuf) -> Option<*mut T> {
    // SAFETY: a `RingBuf` is the map's definition, which is what the helper takes.
    let at = unsafe {
        bpf_ringbuf_reserve(core::ptr::from_ref(ring).cast_mut().cast(), size_of::<T>() as u64, 0)
    };
    if at.is_null() { None } else { Some(at.cast()) }
}

/// Whether the reader is woken up, when so many events were put into the ring on this CPU, the last `count`
/// of them just now: a flag for the ring's helpers.
#[inline(always)]
pub(crate) fn wake_up(emitted: u64, count: u64) -> u64 {
    let due = emitted & u64::from(constant!(WAKE_MASK)) < count;
    u64::from(if due { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP })
}

/// How much of the control ring may be in use, in eighths, for a record to be put there. Others decide how many there
/// are of some records, which must not push out those that rest on nobody's word but the kernel's.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Share {
    /// What can be told again: who a thread is, a queue's name
    Repeatable = 4,
    /// A change of an object, which any user can make by the million
    Change = 6,
    /// A call on a queue of another namespace, or another access to what is a namespace's
    Access = 7,
    /// A namespace was made, entered or found; a thread ended
    Whole = 8,
}

/// Room for a record in the control ring; when there is none, that is counted.
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
    let is_used_up = share != Share::Whole && is_full_beyond(share as u64) != 0;
    let at = if is_used_up { None } else { reserve(&CONTROL) };
    if at.is_none() {
        let repeatable = share == Share::Repeatable;
        count(counters, if repeatable { Count::Withheld } else { Count::Dropped });
    }
    Some((at?, counters))
}

/// As [`reserve_control`], of a call, for who counts it among the emitted; `access`: 1, if it has the share of accesses,
/// else 0, and that of changes. A number, as the verifier would follow each choice to the end.
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

/// Whether more of the control ring is in use than so many eighths: `1`, or `0`.
///
/// A global function, so that the verifier looks at it once.
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

/// Counts a rare condition; the census logs it.
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

/// How often a condition came up, if more often than when this was asked last.
#[inline(always)]
pub(crate) fn diagnosed(what: Diagnostic) -> Option<u64> {
    let what = what as u32;
    let count = *DIAGNOSTIC_COUNTS.get(what)?;
    let logged = DIAGNOSTIC_LOGGED.get_ptr_mut(what)?;
    // SAFETY: the pointer came from the map; only the census touches this one.
    unsafe {
        if *logged == count {
            return None;
        }
        *logged = count;
    }
    Some(count)
}

const _: () = assert!(op::COUNT + 2 < COUNTER_ROWS as usize);
