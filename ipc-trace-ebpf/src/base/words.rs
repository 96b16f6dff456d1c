//! Arithmetic on words and copies of words, in a form that suits the verifier: plain code would be compiled to
//! branches, loops over bytes, or nothing at all.

/// 1 if the value is 0, else 0. Without a branch, which the compiler would make of code that it understands.
#[inline(always)]
pub(crate) fn is_zero(value: u64) -> u64 {
    let zero: u64;
    // SAFETY: the instructions touch the registers alone.
    unsafe {
        core::arch::asm!(
            "{zero} = {value}",
            "{zero} = -{zero}",
            "{zero} |= {value}",
            "{zero} >>= 63",
            "{zero} ^= 1",
            value = in(reg) value,
            zero = out(reg) zero,
        );
    }
    zero
}

/// Zeroes words, one by one: the compiler turns assignments into a call of `memset`, which is a loop over bytes here.
///
/// # Safety
/// `at` points to that many words, aligned.
#[inline(always)]
pub(crate) unsafe fn zero_words<const N: usize>(at: *mut u64) {
    let mut word = 0;
    while word < N {
        // SAFETY: as the caller says.
        unsafe { at.add(word).write_volatile(0) };
        word += 1;
    }
}

/// Copies words, one by one: likewise, instead of `memmove`.
///
/// # Safety
/// Both addresses point to that many words, aligned.
#[inline(always)]
pub(crate) unsafe fn copy_words<const N: usize>(to: *mut u64, from: *const u64) {
    let mut word = 0;
    while word < N {
        // SAFETY: as the caller says.
        unsafe { to.add(word).write_volatile(from.add(word).read_volatile()) };
        word += 1;
    }
}

/// `value & MASK`, hidden from the compiler: it would optimise away a bound that it believes to know already, and the
/// verifier would miss it.
#[inline(always)]
pub(crate) fn masked<const MASK: u64>(mut value: u64) -> u64 {
    // SAFETY: the instruction touches the register alone.
    unsafe { core::arch::asm!("{value} &= {mask}", value = inout(reg) value, mask = const MASK) };
    value
}

/// The element of an array with that index. By an instruction that the compiler doesn't understand: in the object, the
/// array has one element, and user space makes it larger.
#[inline(always)]
pub(crate) fn element<T>(first: *mut T, index: u64) -> *mut T {
    let mut at = first;
    let offset = index * size_of::<T>() as u64;
    // SAFETY: the instruction touches the register alone.
    unsafe { core::arch::asm!("{at} += {offset}", at = inout(reg) at, offset = in(reg) offset) };
    at
}
