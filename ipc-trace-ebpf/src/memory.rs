//! Reading kernel and user memory. The only module that follows kernel pointers.
//!
//! A kernel field is read by its row of the layout table. Whether with a plain load, through a
//! pointer that the verifier knows, or with `bpf_probe_read_kernel`, is part of the row's constant
//! ([`Offset::PROBE`]): the verifier sees one way and removes the other, so there is one set of
//! programs for all kernels.

use aya_ebpf::helpers::generated::{
    bpf_get_current_task, bpf_get_current_task_btf, bpf_probe_read_kernel, bpf_probe_read_user,
};
use ipc_trace_common::layout::{Field, Offset};

use crate::constants::offset;

/// The current task: known to the verifier where tasks' fields are read with plain loads.
#[inline(always)]
pub(crate) fn current_task() -> u64 {
    if offset(Field::TaskNsproxy) & Offset::PROBE == 0 {
        // SAFETY: no arguments; the verifier allows it from 5.11 on, and drops it before.
        unsafe { bpf_get_current_task_btf() as u64 }
    } else {
        // SAFETY: no arguments.
        unsafe { bpf_get_current_task() }
    }
}

/// The field of the structure at `base`; zero when it is absent or can't be read.
///
/// Which ways are possible is known when this is built, and which of them it is when it is loaded.
#[inline(always)]
pub(crate) fn field<T: Copy + Default>(base: u64, field: Field) -> T {
    let at = offset(field);
    if !field.is_required() && at == Offset::ABSENT.0 {
        T::default()
    } else if field.is_direct() && at & Offset::PROBE == 0 {
        // SAFETY: `base` is a pointer that the verifier knows, which checks the access; the
        // kernel turns a fault into zero (BPF_PROBE_MEM).
        unsafe { ((base + u64::from(at)) as *const T).read_volatile() }
    } else {
        kernel(base + u64::from(at & !Offset::PROBE))
    }
}

/// Whether the field exists in this kernel.
#[inline(always)]
pub(crate) fn exists(field: Field) -> bool {
    field.is_required() || offset(field) != Offset::ABSENT.0
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

/// `value & MASK`, where the compiler can't see it: a bound that it thinks to know already, it would
/// optimise away, and the verifier would miss it.
#[inline(always)]
pub(crate) fn masked<const MASK: u64>(mut value: u64) -> u64 {
    // SAFETY: the instruction touches the register alone.
    unsafe { core::arch::asm!("{value} &= {mask}", value = inout(reg) value, mask = const MASK) };
    value
}
