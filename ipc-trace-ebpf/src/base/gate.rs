//! What the programs are to do now, which user space says as it goes; and which of them were run.

use aya_ebpf::{macros::map, maps::Array};
use ipc_trace_common::state::{FIRED as PROGRAMS, gate};

/// See [`ipc_trace_common::state::gate`]. A variable in a section, and so in a map, of its own, which user space
/// maps: every call asks for it twice, and its address is a constant, where an array would have to be looked into.
#[unsafe(link_section = ".data.gate")]
#[unsafe(no_mangle)]
static mut GATE: [u64; gate::WORDS as usize] = [0; gate::WORDS as usize];
/// By [`ipc_trace_common::state::fired_at`]: whether the program was run.
#[map]
static FIRED: Array<u32> = Array::with_max_entries(PROGRAMS, 0);

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
    // SAFETY: the variable is there, with as many words; user space writes whole ones.
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
