//! Reading kernel and user memory. The only module that follows kernel pointers.
//!
//! A kernel field is read by its row of the layout table: with a plain load, through a pointer that the
//! verifier knows, or with `bpf_probe_read_kernel`. There are two builds of the programs, from the same
//! source: one with plain loads where the row allows them, and one without any (feature `probe`), for
//! kernels whose verifier does not know the pointers. A choice at load time, for each access, would
//! leave the verifier a hundred branches to cut out of every program.

#[cfg(not(feature = "probe"))]
use aya_ebpf::helpers::generated::bpf_task_pt_regs;
use aya_ebpf::helpers::generated::{
    bpf_get_current_task, bpf_get_current_task_btf, bpf_probe_read_kernel, bpf_probe_read_user,
};
use ipc_trace_common::layout::{ABSENT, Field};

use crate::base::constants::offset;

/// Whether plain loads are allowed.
pub(crate) const PLAIN: bool = cfg!(not(feature = "probe"));

/// The current task: known to the verifier where tasks' fields are read with plain loads.
#[inline(always)]
pub(crate) fn current_task() -> u64 {
    if PLAIN {
        // SAFETY: no arguments; the kernel has it from 5.11 on.
        unsafe { bpf_get_current_task_btf() as u64 }
    } else {
        // SAFETY: no arguments.
        unsafe { bpf_get_current_task() }
    }
}

/// The registers that the current task had when it came into the kernel.
#[cfg(not(feature = "probe"))]
#[inline(always)]
pub(crate) fn user_registers() -> u64 {
    // SAFETY: the argument is a task; the kernel has both from 5.15 on.
    unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) as u64 }
}

/// As above, where the kernel does not tell: as far into the task's stack as during the self-test, when
/// [`learn_registers`] was told; `0`: that is not known.
#[cfg(feature = "probe")]
#[inline(always)]
pub(crate) fn user_registers() -> u64 {
    match crate::base::gate::registers_at() {
        0 => 0,
        at => field::<u64>(current_task(), Field::TaskStack) + at,
    }
}

/// Notes where the registers of the current task lie.
#[inline(always)]
pub(crate) fn learn_registers(_regs: u64) {
    #[cfg(feature = "probe")]
    if exists(Field::TaskStack) {
        crate::base::gate::set_registers_at(_regs - field::<u64>(current_task(), Field::TaskStack));
    }
}

/// The registers of the current task's call, for a function that was given `regs`: `0` where the verifier
/// knows registers, since it does not let what it knows into a function; else where they are.
#[inline(always)]
pub(crate) fn registers(regs: u64) -> u64 {
    #[cfg(not(feature = "probe"))]
    let regs = {
        // Else the compiler, which sees that the value is not used, would pass whatever is at hand, and
        // the verifier takes nothing but a number.
        // SAFETY: a register is moved to itself.
        unsafe { core::arch::asm!("{regs} = {regs}", regs = inout(reg) regs => _) };
        user_registers()
    };
    regs
}

/// The field of the structure at `base`; zero when it is absent or can't be read.
#[inline(always)]
pub(crate) fn field<T: Copy + Default>(base: u64, field: Field) -> T {
    if !exists(field) {
        return T::default();
    }
    let address = base + u64::from(offset(field));
    if PLAIN && field.is_direct() {
        // SAFETY: `base` is a pointer that the verifier knows, which checks the access; the
        // kernel turns a fault into zero (BPF_PROBE_MEM).
        unsafe { (address as *const T).read_volatile() }
    } else {
        kernel(address)
    }
}

/// Whether the field exists in this kernel.
#[inline(always)]
pub(crate) fn exists(field: Field) -> bool {
    field.is_required() || offset(field) != ABSENT
}

/// The value, of which the verifier knows nothing any more: a pointer is a number to it, as functions take
/// them, and a number any number, so that it finds each step of a loop like the one before.
#[inline(always)]
pub(crate) fn unknown<T: Copy + Default>(value: T) -> T {
    kernel(core::ptr::addr_of!(value) as u64)
}

/// What is at a kernel address; zero when it can't be read.
#[inline(always)]
pub(crate) fn kernel<T: Copy + Default>(address: u64) -> T {
    let mut value = T::default();
    // SAFETY: the helper copies that many bytes to `value`, or fails and zeroes it.
    unsafe {
        bpf_probe_read_kernel(
            core::ptr::addr_of_mut!(value).cast(),
            size_of::<T>() as u32,
            address as *const _,
        );
    }
    value
}

/// A field that other programs read with plain loads, read with the helper: what leads here is
/// not known to the verifier.
#[inline(always)]
pub(crate) fn kernel_field<T: Copy + Default>(base: u64, field: Field) -> T {
    kernel(base + bytes(field))
}

/// A field's offset, however it is read. Not for absent fields.
#[inline(always)]
pub(crate) fn bytes(field: Field) -> u64 {
    u64::from(offset(field))
}

/// The task's name, of a task that the verifier knows.
#[inline(always)]
pub(crate) fn comm(task: u64) -> [u64; 2] {
    let from = task + bytes(Field::TaskComm);
    if PLAIN {
        let from = from as *const u64;
        // SAFETY: the task is known to the verifier, and `comm` has 16 bytes.
        unsafe { [from.read_volatile(), from.add(1).read_volatile()] }
    } else {
        kernel(from)
    }
}

/// Copies `len` bytes of kernel memory to `to`; whether that worked.
///
/// # Safety
/// `to` has room for `len` bytes.
#[inline(always)]
pub(crate) unsafe fn kernel_bytes(to: *mut u8, len: u32, address: u64) -> bool {
    // SAFETY: as the caller says.
    unsafe { bpf_probe_read_kernel(to.cast(), len, address as *const _) == 0 }
}

/// Copies `len` bytes of the current task's user memory to `to`; whether that worked.
///
/// # Safety
/// `to` has room for `len` bytes.
#[inline(always)]
pub(crate) unsafe fn user_bytes(to: *mut u8, len: u32, address: u64) -> bool {
    // SAFETY: as the caller says.
    unsafe { bpf_probe_read_user(to.cast(), len, address as *const _) == 0 }
}

/// What is at a user address.
#[inline(always)]
pub(crate) fn user<T: Copy + Default>(address: u64) -> Option<T> {
    let mut value = T::default();
    // SAFETY: `value` has room for itself.
    let read = unsafe {
        user_bytes(core::ptr::addr_of_mut!(value).cast(), size_of::<T>() as u32, address)
    };
    read.then_some(value)
}
