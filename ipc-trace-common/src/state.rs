//! The values of the maps that both sides touch, the filters' bits and the counters.

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
    /// Calls that a filter took out
    pub filtered: u64,
    /// Records put into the ring
    pub emitted: u64,
    /// Calls for which the ring had no room
    pub dropped: u64,
    /// Calls that the kernel never made; they are none of the others
    pub not_made: u64,
    /// Those of them for which the ring had no room
    pub not_made_dropped: u64,
    /// On the control ring, what can be told again and was not told, as others would have found no room
    pub withheld: u64,
    /// Padding, to a line of the cache
    pub reserved: u64,
}

/// The row of the control ring's records in the counters' array; operations have their numbers.
pub const CONTROL_ROW: u32 = 0;
/// The row that counts calls which were sent in batches, for the eBPF programs' own use.
pub const BATCH_ROW: u32 = op::COUNT as u32 + 1;
/// The row that counts how often programs that come in [`copies`] were run: `seen` by another than the meter first,
/// `filtered` of those by the meter all the same, `dropped` what was lost although one was run.
pub const COPIES_ROW: u32 = op::COUNT as u32 + 2;
/// Rows of the counters' array that belong to one CPU, of which the first are used.
pub const COUNTER_ROWS: u32 = (op::COUNT as u32 + 3).next_multiple_of(4);

/// Programs that come in several copies, as a thread may be preempted inside of each.
pub mod copies {
    /// How many copies there are, numbered from 1; number 0 is a program by fprobe. A thread is inside of one at a
    /// time, so an event can be lost only while as many threads as there are copies are preempted on one CPU, each
    /// in another. With four, eight threads that do nothing but calls lost none of 96,000, and with three 231.
    pub const COUNT: u64 = 6;
    /// The copy of which it is counted how often it was left out. Copies are run from the last one on.
    pub const METER: u64 = COUNT;

    /// Rows of tracepoints in [`cookie`]; those of functions are below.
    pub const PROCESS_EXIT: u64 = 0xff;
    /// `sched_process_exec`
    pub const PROCESS_EXEC: u64 = 0xfe;
    /// `task_newtask`
    pub const TASK_NEWTASK: u64 = 0xfd;

    /// What the attachment of a copy says of it.
    pub const fn cookie(row: u64, copy: u64) -> u64 {
        row | copy << 8
    }

    /// The row in [`crate::hooks::AUX_PROBES`], or that of a tracepoint.
    pub const fn row(cookie: u64) -> u64 {
        cookie & 0xff
    }

    /// The number of the copy.
    pub const fn copy(cookie: u64) -> u64 {
        cookie >> 8 & 7
    }
}

/// What a dropped call is counted under.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct DropKey {
    /// The caller's namespace; `0` where the table was full
    pub inum: u32,
    /// Its generation
    pub generation: u32,
    /// The operation's number
    pub op: u16,
    /// The error's number, positive; `0`: the call succeeded
    pub error: u16,
}

/// Places for what is remembered of threads, by the low bits of their tids.
pub const SLOT_COUNT: u32 = 1 << 16;
/// How many threads are remembered beside those, whose places others have.
pub const SPILLED_SLOTS: u32 = 1 << 17;

/// Places for [`BatchSlot`]es.
pub const BATCHES: u32 = 1 << 12;

/// A thread's calls that have not been sent yet. Once the gate is closed it is the reader's.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BatchSlot {
    /// Whose it is; `0`: nobody's
    pub pid_tgid: u64,
    /// When the call that the thread is in began; `0`: it is in none that is going to be among these
    pub enter_ns: u64,
    /// That call's `Outcome::what`
    pub what: u64,
    /// That call's size, as it lies above the result in an `Outcome`
    pub size: u64,
    /// `struct nsproxy *` of the thread when this was begun
    pub nsproxy: u64,
    /// Its `struct cred *` then
    pub cred: u64,
    /// How many moves between cgroups there had been then
    pub moves: u32,
    /// What tells the call that the thread is in from others, for the eBPF programs' own use
    pub entered: u32,
    /// How many calls there are, by the kind of their code
    pub counts: [u32; 32],
    /// The calls
    pub record: BatchRecord,
}

/// In [`BatchSlot::pid_tgid`]: the batch is its thread's no more, and user space's.
pub const NOBODYS: u64 = u64::MAX;

/// A call that a thread is in, whose [`BatchSlot`] was taken from it meanwhile.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct NotedCall {
    /// [`BatchSlot::enter_ns`]
    pub enter_ns: u64,
    /// [`BatchSlot::what`]
    pub what: u64,
    /// The queue that it is on
    pub queue: QueueRef,
    /// The thread's context
    pub context: u64,
}

/// How long repeated accesses of one kind are counted, and not told of, after one was: nanoseconds.
pub const FOLD_NS: u64 = 1_000_000_000;
/// Kinds of accesses that can be counted at a time.
pub const FOLDS: u32 = 1 << 11;

/// Accesses that are the same but for their time: what their [`crate::record::AccessRecord`]s have in common.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct FoldKey {
    /// The thread, and above it the process
    pub pid_tgid: u64,
    /// As in the record
    pub file: u64,
    /// Whose it is, as in the record
    pub ns: crate::record::NsRef,
    /// A [`crate::record::Channel`]
    pub channel: u32,
    /// Padding
    pub reserved: u32,
}

/// What is known of such accesses.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct Fold {
    /// When one was told of
    pub sent_ns: u64,
    /// How many were not told of
    pub count: u64,
}

/// Rare conditions of the eBPF programs: counted, and logged by the namespace list, so never per event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Diagnostic {
    /// There was no slot for a thread, as its own was another's and the spill is full: when its call began,
    /// and what it took from memory, could not be noted.
    NoSlotForCall = 0,
    /// More combinations of namespace, operation and error were dropped than the table holds.
    DropTableFull = 1,
    /// The return of a move between namespaces had no entry.
    MoveWithoutEntry = 2,
    /// A namespace's number lies outside the table, whose spill is full.
    NamespaceTableFull = 3,
    /// A kernel field could not be read.
    Unreadable = 4,
    /// A process has more descriptors than are looked at when it gets into another namespace.
    ManyDescriptors = 5,
    /// More processes hold files of other namespaces' /proc/sysvipc than there is room for.
    ReadersFull = 6,
    /// No slot: the namespace that a thread was about to leave could not be noted.
    NoSlotForMove = 7,
    /// No slot: who made a call could not be told.
    NoSlotForTask = 8,
    /// No slot: that a call made an object could not be noted.
    NoSlotForCreation = 9,
    /// Names and structures of more calls at a time than there is room for: they were read at the return.
    InputsFull = 10,
}

impl Diagnostic {
    /// All of them, in the order of their numbers.
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
    ];

    /// Its name in what the program says.
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
        }
    }
}

/// How many diagnostics there are.
pub const DIAGNOSTICS: u32 = 11;

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

/// Values that a filter's table has room for.
pub const FILTER_VALUES: u32 = 1024;

/// Cgroups that the filter for containers has room for: others are judged in user space.
pub const FILTER_CGROUPS: u32 = 1 << 16;

/// What the programs do: the low half of the gate. The high half is the tracer's own process, in the
/// initial pid namespace, which is not traced.
pub mod gate {
    /// Nothing yet: programs only mark that they were run, for the self-test
    pub const TEST: u32 = 0;
    /// Moves, births, ends, and calls that change objects only
    pub const CONTROL: u32 = 1;
    /// Everything
    pub const OPEN: u32 = 2;
    /// Nothing more
    pub const CLOSED: u32 = 3;

    /// Words of the gate's map: the gate itself, and beside it
    pub const WORDS: u32 = 5;
    /// the operations, by their bits, of whose calls it is known whether they made an object,
    pub const BIRTHS: u32 = 1;
    /// how far into a task's stack its registers lie, for kernels that do not say,
    pub const REGISTERS: u32 = 2;
    /// when tracing began: calls of threads that are older may have begun before it,
    pub const STARTED: u32 = 3;
    /// and the kernel's address of the inode of the executable that the tracer runs, which stays where it is while it
    /// runs. The namespace list notes it.
    pub const EXECUTABLE: u32 = 4;

    /// The gate's value.
    pub const fn value(gate: u32, self_pid: u32) -> u64 {
        (self_pid as u64) << 32 | gate as u64
    }
}

/// Places in the table of functions whose programs were run while the gate stood at `gate::TEST`: by
/// the call's place in [`hooks::Dispatch`], for the entry and then for the return; and then by the row of
/// [`hooks::AUX_PROBES`].
pub const FIRED: u32 = OF_CALLS + hooks::AUX_PROBES.len() as u32;
/// Those of calls.
const OF_CALLS: u32 = 2 * size_of::<hooks::Dispatch>() as u32;

/// The place of the program at a function's entry or return, for a call.
pub const fn fired_at(place: usize, entry: bool) -> u32 {
    (2 * place + if entry { 0 } else { 1 }) as u32
}

/// The place of the program of a row of [`hooks::AUX_PROBES`].
pub const fn way_fired_at(row: usize) -> u32 {
    OF_CALLS + row as u32
}

/// The first inode number that the namespace table covers. `PROC_IPC_INIT_INO` is 0xEFFFFFFF and
/// `PROC_DYNAMIC_FIRST` 0xF0000000, from where numbers are given out densely, the lowest free one
/// first (include/linux/proc_ns.h, `proc_alloc_inum`, fs/proc/generic.c).
pub const FIRST_INUM: u32 = 0xEFFF_FFF0;
/// Entries of the namespace table; numbers beyond go to its spill.
pub const INUMS: u32 = 1 << 17;
/// The initial IPC namespace's number (`PROC_IPC_INIT_INO`).
pub const HOST_INUM: u32 = 0xEFFF_FFFF;

const _: () = {
    assert!(size_of::<Counters>() == 64);
    assert!(size_of::<BatchSlot>() == 184 + size_of::<BatchRecord>());
    assert!((hooks::AUX_PROBES.len() as u64) < copies::TASK_NEWTASK);
    assert!(size_of::<DropKey>() == 12);
    assert!(size_of::<FoldKey>() == 32);
    assert!(size_of::<Fold>() == 16);
};
