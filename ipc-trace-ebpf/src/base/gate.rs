//! The gate: what the programs currently do, which user space changes while they run; and which programs ran.

use aya_ebpf::{macros::map, maps::Array};
use ipc_trace_common::state::{FIRED as PROGRAMS, gate};

/// See [`ipc_trace_common::state::gate`]. A variable in a section, and so in a map, of its own, which user space
/// maps. Every call reads it twice, and its address is a constant, whereas an array would need a lookup.
#[unsafe(link_section = ".data.gate")]
#[unsafe(no_mangle)]
static mut GATE: [u64; gate::WORDS as usize] = [0; gate::WORDS as usize];
/// By [`ipc_trace_common::state::fired_at`]: whether the program ran.
#[map]
static FIRED: Array<u32> = Array::with_max_entries(PROGRAMS, 0);

/// What the programs do, and which process they ignore.
#[derive(Clone, Copy)]
pub(crate) struct Gate(u64);

/// The current gate.
#[inline(always)]
pub(crate) fn gate() -> Gate {
    Gate(gate_word::<0>())
}

/// A word of the gate.
#[inline(always)]
fn gate_word<const AT: usize>() -> u64 {
    const { assert!(AT < gate::WORDS as usize) };
    // SAFETY: the variable is there, with as many words; user space writes whole ones.
    unsafe { (&raw const GATE).cast::<u64>().add(AT).read_volatile() }
}

/// The operations, as bits, for which it is known whether a call created its object.
#[inline(always)]
pub(crate) fn created_known_ops() -> u32 {
    gate_word::<{ gate::CREATED_KNOWN_OPS as usize }>() as u32
}

/// When tracing began.
#[inline(always)]
pub(crate) fn started() -> u64 {
    gate_word::<{ gate::STARTED as usize }>()
}

/// What ends batches when it changes.
#[inline(always)]
pub(crate) fn changes() -> u64 {
    gate_word::<{ gate::CHANGES as usize }>()
}

/// The half of it that counts moves between cgroups.
#[inline(always)]
pub(crate) fn cgroup_moves() -> u32 {
    changes() as u32
}

/// Counts a move. If two are counted as one, the number has changed nevertheless.
#[inline(always)]
pub(crate) fn count_cgroup_move() {
    let moves = cgroup_moves().wrapping_add(1);
    // SAFETY: as in `gate_word`; user space writes the other half.
    unsafe {
        (&raw mut GATE)
            .cast::<u64>()
            .add(gate::CHANGES as usize)
            .cast::<u32>()
            .write_volatile(moves)
    };
}

/// The inode of the tracer's executable; `0`: not known.
#[inline(always)]
pub(crate) fn own_executable() -> u64 {
    gate_word::<{ gate::EXECUTABLE as usize }>()
}

/// Stores the inode of the tracer's executable.
#[inline(always)]
pub(crate) fn set_own_executable(inode: u64) {
    // SAFETY: as in `gate_word`; only the tracer's own process gets here.
    unsafe { (&raw mut GATE).cast::<u64>().add(gate::EXECUTABLE as usize).write_volatile(inode) };
}

/// The distance from a task's stack to its registers; `0`: unknown.
#[cfg(feature = "probe")]
#[inline(always)]
pub(crate) fn registers_at() -> u64 {
    gate_word::<{ gate::REGISTERS as usize }>()
}

/// Stores that distance.
#[cfg(feature = "probe")]
#[inline(always)]
pub(crate) fn set_registers_at(at: u64) {
    // SAFETY: as in `gate_word`; all write the same.
    unsafe { (&raw mut GATE).cast::<u64>().add(gate::REGISTERS as usize).write_volatile(at) };
}

impl Gate {
    /// Whether calls are reported.
    #[inline(always)]
    pub(crate) fn is_open(self) -> bool {
        self.0 as u32 == gate::OPEN
    }

    /// Whether programs only mark that they ran.
    #[inline(always)]
    pub(crate) fn is_test(self) -> bool {
        self.0 as u32 == gate::TEST
    }

    /// Whether this process is ignored: tracing has ended or has not begun, or it is the tracer.
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

/// Marks that a program ran.
#[inline(always)]
pub(crate) fn fired(at: u32) {
    if let Some(mark) = FIRED.get_ptr_mut(at) {
        // SAFETY: the map gave the pointer; all write the same.
        unsafe { mark.write_volatile(1) };
    }
}
