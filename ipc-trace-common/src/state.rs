//! The values of the maps that both the eBPF programs and user space use, the filters' bits, and the counters.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    hooks, op,
    record::{BatchRecord, QueueRef},
};

/// Counters of one operation on one CPU: `seen = filtered + emitted + dropped`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Counters {
    /// Calls that a program saw return
    pub seen: u64,
    /// Calls that a filter removed
    pub filtered: u64,
    /// Records put into the ring
    pub emitted: u64,
    /// Calls for which the ring had no room
    pub dropped: u64,
    /// Calls that the kernel never made; the other counters don't include them
    pub not_made: u64,
    /// Calls among `not_made` for which the ring had no room
    pub not_made_dropped: u64,
    /// On the control ring: repeatable records that were held back, so that others find room
    pub withheld: u64,
    /// Padding to a cache line
    pub reserved: u64,
}

/// The row of the control ring's records in the counters' array; operations have their numbers.
pub const CONTROL_ROW: u32 = 0;
/// The row that counts calls which were sent in batches. Only the eBPF programs use it.
pub const BATCH_ROW: u32 = op::COUNT as u32 + 1;
/// The row that counts runs of programs that come in [`copies`]. `seen`: a copy other than the meter ran first;
/// `filtered`: the meter ran for those all the same; `dropped`: events lost although a copy ran.
pub const COPIES_ROW: u32 = op::COUNT as u32 + 2;
/// Rows of the counters' array for each CPU; the first ones are used.
pub const COUNTER_ROWS: u32 = (op::COUNT as u32 + 3).next_multiple_of(4);

/// Programs that come in several copies, as a thread can be preempted inside any of them.
pub mod copies {
    /// How many copies there are, numbered from 1; number 0 is a program by fprobe. A thread is inside one copy at a
    /// time, so an event can be lost only while as many threads as there are copies are preempted on one CPU, each in
    /// another copy. With four copies, eight threads that do nothing but calls lost none of 96,000; with three copies
    /// they lost 231.
    pub const COUNT: u64 = 6;
    /// The copy whose skipped runs are counted. Copies run from the last one to the first.
    pub const METER: u64 = COUNT;

    /// Rows of tracepoints in [`cookie`]; lower rows are functions.
    pub const PROCESS_EXIT: u64 = 0xff;
    /// `sched_process_exec`
    pub const PROCESS_EXEC: u64 = 0xfe;
    /// `task_newtask`
    pub const TASK_NEWTASK: u64 = 0xfd;

    /// The cookie of a copy's attachment.
    pub const fn cookie(row: u64, copy: u64) -> u64 {
        row | copy << 8
    }

    /// The row in [`crate::hooks::AUX_PROBES`], or the tracepoint's row.
    pub const fn row(cookie: u64) -> u64 {
        cookie & 0xff
    }

    /// The number of the copy.
    pub const fn copy(cookie: u64) -> u64 {
        cookie >> 8 & 7
    }
}

/// The key under which dropped calls are counted.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
)]
#[repr(C)]
pub struct DropKey {
    /// The caller's namespace; `0` if the table was full
    pub inum: u32,
    /// Its generation
    pub generation: u32,
    /// The operation's number
    pub op: u16,
    /// The error's number, positive; `0`: the call succeeded
    pub error: u16,
}

/// Slots for the state of threads, by the low bits of their tids.
pub const SLOT_COUNT: u32 = 1 << 16;
/// Further slots, for threads whose own slot is taken.
pub const SPILLED_SLOTS: u32 = 1 << 17;

/// Slots for [`BatchSlot`]s: a power of two. They are one value of a map, for which kernels have a limit
/// (`KMALLOC_MAX_SIZE` in `array_map_alloc_check`, kernel/bpf/arraymap.c, 5.10).
pub const BATCHES: u32 = 1 << 11;
const _: () = assert!(BATCHES as usize * size_of::<BatchSlot>() <= 4 << 20);

/// A thread's calls that have not been sent yet. After tracing stops, the reader takes them.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BatchSlot {
    /// The owning thread; `0`: none
    pub pid_tgid: u64,
    /// When the thread's current call began; `0`: it isn't in a call that will be part of this batch
    pub enter_ns: u64,
    /// That call, as a packed `PackedCall`
    pub what: u64,
    /// The length of the message that it sends
    pub size: u64,
    /// `struct nsproxy *` of the thread when the batch began
    pub nsproxy: u64,
    /// `struct cred *` of the thread when the batch began
    pub cred: u64,
    /// [`gate::CHANGES`] when the batch began, or was renewed
    pub changes: u64,
    /// Identifies the thread's current or last call, by its number and whether its ABI is one of 32 bits. Only the
    /// eBPF programs use it.
    pub entered: u64,
    /// The thread's last calls with even and with odd numbers: each as in `entered`, as in `what` without the id,
    /// and the operation's bit. Only the eBPF programs use it.
    pub recent: [[u64; 3]; 2],
    /// The queue of the batch's calls on queues, as the kernel has it: file, inode, inode number, superblock, IPC
    /// namespace. Only the eBPF programs use it.
    pub queue: [u64; 5],
    /// The calls
    pub record: BatchRecord,
}

/// In [`BatchSlot::pid_tgid`]: the batch belongs to user space, and no longer to its thread.
pub const UNOWNED: u64 = u64::MAX;

/// A thread's current call, after its [`BatchSlot`] was taken from it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct NotedCall {
    /// [`BatchSlot::enter_ns`]
    pub enter_ns: u64,
    /// [`BatchSlot::what`]
    pub what: u64,
    /// The call's queue
    pub queue: QueueRef,
    /// The thread's context
    pub context: u64,
}

/// How long repeated accesses of one kind are coalesced after one was reported, nanoseconds.
pub const COALESCE_NS: u64 = 1_000_000_000;
/// Kinds of accesses that can be coalesced at a time.
pub const MAX_COALESCED: u32 = 1 << 11;

/// Accesses that differ only in their time: the fields that their [`crate::record::AccessRecord`]s share.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct CoalescedKey {
    /// The thread, and above it the process
    pub pid_tgid: u64,
    /// As in the record
    pub file: u64,
    /// The namespace of the object, as in the record
    pub ns: crate::record::NsRef,
    /// A [`crate::record::AccessPath`]
    pub channel: u32,
    /// Padding
    pub reserved: u32,
}

/// The state of such accesses.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct Coalesced {
    /// When an access was last reported
    pub sent_ns: u64,
    /// How many accesses were coalesced since
    pub count: u64,
}

/// Rare conditions of the eBPF programs: counted, and logged when the namespaces are listed, so never per event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Diagnostic {
    /// A thread got no slot, as its own was taken and the spill is full: when its call began, and what it took from
    /// memory, could not be noted.
    NoSlotForCall = 0,
    /// More combinations of namespace, operation and error were dropped than the table holds.
    DropTableFull = 1,
    /// The return of a move between namespaces had no entry.
    MoveWithoutEntry = 2,
    /// A namespace's number lies outside the table, whose spill is full.
    NamespaceTableFull = 3,
    /// A kernel field could not be read.
    Unreadable = 4,
    /// A process that entered another namespace has more descriptors than are inspected.
    ManyDescriptors = 5,
    /// More processes hold files of other namespaces' /proc/sysvipc than there is room for.
    ReadersFull = 6,
    /// No slot: the namespace that a thread was about to leave could not be noted.
    NoSlotForMove = 7,
    /// No slot: the caller could not be described.
    NoSlotForTask = 8,
    /// No slot: the creation of an object by a call could not be noted.
    NoSlotForCreation = 9,
    /// Too many calls at a time whose names and structures must be kept: they were read at the return.
    InputsFull = 10,
    /// A call was entered, and its thread's next call or end came before the program at its return ran: the kernel
    /// leaves it out if a program is attached to the function, or detached from it, during the call
    /// (`bpf_tramp_image_put`, kernel/bpf/trampoline.c, 5.10). Such calls are counted as missed.
    Unreturned = 11,
}

impl Diagnostic {
    /// All diagnostics, in the order of their numbers.
    pub const ALL: [Self; DIAGNOSTICS as usize] = [
        Self::NoSlotForCall,
        Self::DropTableFull,
        Self::MoveWithoutEntry,
        Self::NamespaceTableFull,
        Self::Unreadable,
        Self::ManyDescriptors,
        Self::ReadersFull,
        Self::NoSlotForMove,
        Self::NoSlotForTask,
        Self::NoSlotForCreation,
        Self::InputsFull,
        Self::Unreturned,
    ];

    /// The name in the program's output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoSlotForCall => "no_slot_for_call_entry",
            Self::DropTableFull => "drop_table_full",
            Self::MoveWithoutEntry => "move_without_entry",
            Self::NamespaceTableFull => "namespace_table_full",
            Self::Unreadable => "unreadable_field",
            Self::ManyDescriptors => "descriptors_beyond_4096",
            Self::ReadersFull => "table_holders_full",
            Self::NoSlotForMove => "no_slot_for_namespace_move",
            Self::NoSlotForTask => "no_slot_for_process_metadata",
            Self::NoSlotForCreation => "no_slot_for_object_creation",
            Self::InputsFull => "entry_arguments_full",
            Self::Unreturned => "calls_without_return",
        }
    }
}

/// How many diagnostics there are.
pub const DIAGNOSTICS: u32 = 12;

/// Bits of the constant `FILTERS`: which filters are in force.
pub mod filter {
    /// Only failed calls
    pub const FAILED: u32 = 1;
    /// Only processes of the pid table
    pub const PID: u32 = 1 << 1;
    /// Only users of the uid table
    pub const UID: u32 = 1 << 2;
    /// Only names of the comm table
    pub const COMM: u32 = 1 << 3;
    /// Only namespaces of the namespace table, the caller's or the object's
    pub const NAMESPACE: u32 = 1 << 4;
    /// Only calls of at least `MIN_DURATION_NS`
    pub const MIN_DURATION: u32 = 1 << 5;
    /// Only descendants of the command
    pub const COMMAND: u32 = 1 << 6;
    /// Only operations of `OPS`
    pub const OP: u32 = 1 << 7;
    /// Only threads in cgroups that are marked as wanted in the table, or not marked at all yet
    pub const CGROUP: u32 = 1 << 8;
}

/// How many values a filter's table can hold.
pub const FILTER_VALUES: u32 = 1024;

/// How many cgroups the container filter can hold; user space filters the others.
pub const FILTER_CGROUPS: u32 = 1 << 16;

/// What the programs do: the low half of the gate. The high half is the tracer's own process, in the initial pid
/// namespace, which is not traced.
pub mod gate {
    /// Self-test: programs only mark that they ran
    pub const TEST: u32 = 0;
    /// Only moves, creations, ends, and calls that change objects
    pub const CONTROL: u32 = 1;
    /// Tracing: everything
    pub const OPEN: u32 = 2;
    /// Stopped: nothing more
    pub const CLOSED: u32 = 3;

    /// Words of the gate's map: the gate itself, followed by
    pub const WORDS: u32 = 6;
    /// the operations, as bits, for which it is known whether a call created its object,
    pub const CREATED_KNOWN_OPS: u32 = 1;
    /// the distance from a task's stack to its registers, for kernels that don't report it,
    pub const REGISTERS: u32 = 2;
    /// when tracing began: calls of older threads may have begun before it,
    pub const STARTED: u32 = 3;
    /// and the kernel's address of the inode of the tracer's executable, which stays the same while it runs. The
    /// namespace list notes it,
    pub const EXECUTABLE: u32 = 4;
    /// and what ends batches when it changes: how often threads were moved between cgroups, and in the high half the
    /// number of the period. Where calls are not timed, user space begins one each second; and when tracing ends.
    pub const CHANGES: u32 = 5;
    /// The next period, as a summand.
    pub const PERIOD: u64 = 1 << 32;

    /// The gate's value.
    pub const fn value(gate: u32, self_pid: u32) -> u64 {
        (self_pid as u64) << 32 | gate as u64
    }
}

/// Entries in the table of programs that ran while the gate was `gate::TEST`: by the call's index in
/// [`hooks::Dispatch`], for the entry and then for the return; then by the row of [`hooks::AUX_PROBES`].
pub const FIRED: u32 = OF_CALLS + hooks::AUX_PROBES.len() as u32;
/// The entries for calls.
const OF_CALLS: u32 = 2 * size_of::<hooks::Dispatch>() as u32;

/// The entry of the program at a function's entry or return, for a call.
pub const fn fired_at(place: usize, entry: bool) -> u32 {
    (2 * place + if entry { 0 } else { 1 }) as u32
}

/// The entry of the program of a row of [`hooks::AUX_PROBES`].
pub const fn way_fired_at(row: usize) -> u32 {
    OF_CALLS + row as u32
}

/// The first inode number that the namespace table covers. `PROC_IPC_INIT_INO` is 0xEFFFFFFF and `PROC_DYNAMIC_FIRST`
/// 0xF0000000, from where numbers are allocated densely, the lowest free one first (include/linux/proc_ns.h,
/// `proc_alloc_inum`, fs/proc/generic.c).
pub const FIRST_INUM: u32 = 0xEFFF_FFF0;
/// Entries of the namespace table; numbers beyond go to its spill.
pub const INUMS: u32 = 1 << 17;
/// The initial IPC namespace's number (`PROC_IPC_INIT_INO`).
pub const HOST_INUM: u32 = 0xEFFF_FFFF;

const _: () = {
    assert!(size_of::<Counters>() == 64);
    assert!(size_of::<BatchSlot>() == 152 + size_of::<BatchRecord>());
    assert!((hooks::AUX_PROBES.len() as u64) < copies::TASK_NEWTASK);
    assert!(size_of::<DropKey>() == 12);
    assert!(size_of::<CoalescedKey>() == 32);
    assert!(size_of::<Coalesced>() == 16);
};
