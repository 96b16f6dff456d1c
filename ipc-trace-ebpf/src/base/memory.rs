//! Reading kernel and user memory. The only module that follows kernel pointers.
//!
//! A kernel field is read as its row of the layout table says: with a plain load, through a pointer that the verifier
//! knows, or with `bpf_probe_read_kernel`. There are two builds of the programs, from the same source: one with plain
//! loads where the row allows them, and one without any (feature `probe`), for kernels whose verifier does not know
//! the pointers. A choice at load time, for each access, would leave the verifier a hundred branches to remove from
//! every program.
//!
//! Kernels since 6.2 let programs call a number a pointer (`bpf_rdonly_cast`, kernel/bpf/helpers.c); the call itself
//! costs nothing, as the verifier replaces it with a move. There, all numbers are read with plain loads, and a fault
//! gives zero, as for pointers that the verifier knows.

#[cfg(not(feature = "probe"))]
use aya_ebpf::helpers::generated::bpf_task_pt_regs;
use aya_ebpf::helpers::generated::{
    bpf_get_current_task, bpf_get_current_task_btf, bpf_probe_read_kernel, bpf_probe_read_user,
};
use ipc_trace_common::{
    hooks::patch,
    layout::{ABSENT, Field, OfField},
};

#[cfg(not(feature = "probe"))]
use crate::base::constants::constant;
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

/// The registers with which the current task entered the kernel.
#[cfg(not(feature = "probe"))]
#[inline(always)]
pub(crate) fn user_registers() -> u64 {
    // SAFETY: the argument is a task; the kernel has both from 5.15 on.
    unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) as u64 }
}

/// As above, if the kernel doesn't report them: at the distance from the task's stack that [`learn_registers`] found
/// during the self-test; `0`: unknown.
#[cfg(feature = "probe")]
#[inline(always)]
pub(crate) fn user_registers() -> u64 {
    match crate::base::gate::registers_at() {
        0 => 0,
        at => field::<u64>(current_task(), Field::TaskStack) + at,
    }
}

/// Stores the distance to the current task's registers.
#[inline(always)]
pub(crate) fn learn_registers(_regs: u64) {
    #[cfg(feature = "probe")]
    if exists(Field::TaskStack) {
        crate::base::gate::set_registers_at(_regs - field::<u64>(current_task(), Field::TaskStack));
    }
}

/// The registers of the current task's call, for a function whose caller has `regs`. `0` where the verifier knows
/// registers, since it does not let known pointers into a function; else their address.
#[inline(always)]
pub(crate) fn registers(regs: u64) -> u64 {
    #[cfg(not(feature = "probe"))]
    let regs = {
        // Else the compiler, which sees that the value is not used, would pass any register, and the verifier accepts
        // only a number.
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
    if PLAIN && field.is_direct() { load(base, field) } else { kernel(base + bytes(field)) }
}

/// Loads the field of the structure at `base`, a pointer that the verifier knows.
#[inline(always)]
fn load<T: Copy + Default>(base: u64, field: Field) -> T {
    const { assert!(matches!(size_of::<T>(), 1 | 2 | 4 | 8)) };
    let value = number_at(base, field, size_of::<T>());
    // SAFETY: a number of that size, in the low bytes: eBPF is little-endian here.
    unsafe { core::ptr::addr_of!(value).cast::<T>().read() }
}

/// As [`load`], of so many bytes, extended with zeros: one instruction, into which user space patches the offset.
#[inline(always)]
fn number_at(base: u64, field: Field, size: usize) -> u64 {
    struct Load(u64, usize);
    impl OfField for Load {
        type Output = u64;

        #[inline(always)]
        fn act_on<const FIELD: u32>(self) -> u64 {
            let value: u64;
            let Self(base, size) = self;
            macro_rules! load {
                ($size:literal) => {
                    // SAFETY: the verifier checks the access; the kernel turns a fault into zero (BPF_PROBE_MEM).
                    unsafe {
                        core::arch::asm!(
                            concat!("{value} = *(", $size, " *)({base} + {at})"),
                            value = lateout(reg) value, base = in(reg) base,
                            at = const patch::LOAD + FIELD as i16,
                            options(readonly, nostack, preserves_flags)
                        );
                    }
                };
            }
            match size {
                1 => load!("u8"),
                2 => load!("u16"),
                4 => load!("u32"),
                _ => load!("u64"),
            }
            value
        }
    }
    field.select(Load(base, size))
}

/// Whether a field of 32 bits has that value. The comparison of two such values would extend both anew.
#[inline(always)]
pub(crate) fn has(base: u64, field: Field, value: u32) -> bool {
    low_half(base, field) == u64::from(value)
}

/// The first 32 bits of a field, extended with zeros.
#[inline(always)]
pub(crate) fn low_half(base: u64, field: Field) -> u64 {
    if PLAIN && field.is_direct() {
        number_at(base, field, 4)
    } else {
        kernel::<u32>(base + bytes(field)).into()
    }
}

/// The thread's number in the initial pid namespace, without a call, as `bpf_get_current_pid_tgid` is.
#[inline(always)]
pub(crate) fn tid(task: u64) -> u64 {
    low_half(task, Field::TaskPid)
}

/// The field of the structure at `base`, an argument of a hooked function or what was loaded from one: read with a
/// plain load where the verifier knows such pointers, whatever the row of the layout table says.
#[inline(always)]
pub(crate) fn typed_field<T: Copy + Default>(base: u64, field: Field) -> T {
    if PLAIN { load(base, field) } else { kernel(base + bytes(field)) }
}

/// Whether the field exists in this kernel.
#[inline(always)]
pub(crate) fn exists(field: Field) -> bool {
    field.is_required() || offset(field) != u64::from(ABSENT)
}

/// The value, with its type hidden from the verifier: a pointer becomes a number, as functions take it, and a number
/// any number, so that each step of a loop looks like the one before.
#[inline(always)]
pub(crate) fn unknown<T: Copy + Default>(value: T) -> T {
    kernel(core::ptr::addr_of!(value) as u64)
}

/// The value at a kernel address; zero if it can't be read.
#[inline(always)]
pub(crate) fn kernel<T: Copy + Default>(address: u64) -> T {
    #[cfg(not(feature = "probe"))]
    {
        let structure = constant!(CAST);
        if structure != 0 && size_of::<T>() <= size_of::<u64>() {
            // SAFETY: the structure has that many bytes, as the verifier checks; the kernel turns a fault into zero.
            return unsafe { cast(address, structure).cast::<T>().read_volatile() };
        }
    }
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

/// The address as a pointer to the structure with that number.
#[cfg(not(feature = "probe"))]
#[inline(always)]
unsafe fn cast(address: u64, structure: u32) -> *const u8 {
    // SAFETY: user space replaces the number with that of the kernel's function, which takes these arguments, or the
    // verifier never gets here.
    unsafe {
        let cast: unsafe extern "C" fn(u64, u32) -> *const u8 =
            core::mem::transmute(patch::CAST as usize);
        cast(address, structure)
    }
}

/// Reads a field with the helper that other programs read with plain loads, as the verifier does not know this
/// pointer.
#[inline(always)]
pub(crate) fn kernel_field<T: Copy + Default>(base: u64, field: Field) -> T {
    kernel(base + bytes(field))
}

/// A field's offset, whatever the read method. Not for absent fields.
#[inline(always)]
pub(crate) fn bytes(field: Field) -> u64 {
    offset(field)
}

/// The name of a task that the verifier knows.
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

/// The value at a user address.
#[inline(always)]
pub(crate) fn user<T: Copy + Default>(address: u64) -> Option<T> {
    let mut value = T::default();
    // SAFETY: `value` has room for itself.
    let read = unsafe {
        user_bytes(core::ptr::addr_of_mut!(value).cast(), size_of::<T>() as u32, address)
    };
    read.then_some(value)
}
