//! The two entry points into the kernel: the `syscall` instruction and `int 0x80`, and memory
//! which both can reach.
//!
//! Neither goes through glibc, so one function call here is exactly one system call, and a
//! failure comes back as the kernel gave it (`-errno`).

use std::arch::asm;

use anyhow::{Result, bail};

/// Makes a native x86-64 system call; the kernel's raw answer is returned.
///
/// # Safety
///
/// As of the call made: every address among `args` must suit it.
#[inline(always)]
pub(crate) unsafe fn native(number: i64, args: [u64; 6]) -> i64 {
    let ret;
    // SAFETY: the registers are those of the x86-64 system call convention, rcx and r11 are
    // declared as lost; what the call does to memory is the caller's promise.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => ret,
            in("rdi") args[0],
            in("rsi") args[1],
            in("rdx") args[2],
            in("r10") args[3],
            in("r8") args[4],
            in("r9") args[5],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    ret
}

/// Makes an i386 system call from this 64-bit process. Errors are sign-extended (`-errno`),
/// all else is taken as unsigned, since `shmat` may answer with an address above 2 GiB.
///
/// # Safety
///
/// As of the call made: every address among `args` must suit it.
pub(crate) unsafe fn int80(number: u32, args: [u32; 6]) -> i64 {
    let eax: u64;
    // SAFETY: rbx and rbp belong to LLVM, so they are saved on the stack (the absence of
    // `nostack` permits this) and restored; r8 to r11 are declared as lost.
    unsafe {
        asm!(
            "push rbx",
            "push rbp",
            "mov ebx, r8d",
            "mov ebp, r9d",
            "int 0x80",
            "pop rbp",
            "pop rbx",
            inlateout("rax") u64::from(number) => eax,
            inlateout("r8") u64::from(args[0]) => _,
            in("rcx") u64::from(args[1]),
            in("rdx") u64::from(args[2]),
            in("rsi") u64::from(args[3]),
            in("rdi") u64::from(args[4]),
            inlateout("r9") u64::from(args[5]) => _,
            lateout("r10") _,
            lateout("r11") _,
        );
    }
    let low = eax as u32;
    if is_error(i64::from(low as i32)) { i64::from(low as i32) } else { i64::from(low) }
}

/// Whether a raw answer means failure.
pub(crate) fn is_error(ret: i64) -> bool {
    (-4095..0).contains(&ret)
}

/// A piece of memory below 2 GiB, so that 32-bit calls can point into it.
#[derive(Debug)]
pub(crate) struct Arena {
    base: usize,
}

impl Arena {
    /// Its size in bytes.
    pub(crate) const SIZE: usize = 0x1_0000;

    /// Maps a zeroed arena.
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches nothing
        // that exists.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                Self::SIZE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            bail!("mmap below 2 GiB: {}", std::io::Error::last_os_error());
        }
        Ok(Self { base: base as usize })
    }

    /// The address of the byte at `offset`.
    pub(crate) fn at(&self, offset: usize) -> u64 {
        (self.base + offset) as u64
    }

    /// Copies `bytes` to `offset`.
    ///
    /// # Panics
    ///
    /// If they do not fit.
    pub(crate) fn write(&mut self, offset: usize, bytes: &[u8]) {
        assert!(offset.checked_add(bytes.len()).is_some_and(|end| end <= Self::SIZE));
        // SAFETY: the range was just checked to lie in the mapping, which this value owns
        // and which no Rust reference points into.
        unsafe {
            std::ptr::copy_nonoverlapping(
                bytes.as_ptr(),
                (self.base + offset) as *mut u8,
                bytes.len(),
            );
        }
    }

    /// Copies the `N` bytes at `offset` out.
    ///
    /// # Panics
    ///
    /// If the arena ends before them.
    pub(crate) fn read<const N: usize>(&self, offset: usize) -> [u8; N] {
        assert!(offset.checked_add(N).is_some_and(|end| end <= Self::SIZE));
        // SAFETY: the range was just checked, a byte array has no alignment and accepts every
        // content.
        unsafe { std::ptr::read((self.base + offset) as *const [u8; N]) }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own and ends with it.
        unsafe { libc::munmap(self.base as *mut libc::c_void, Self::SIZE) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const I386_GETPID: u32 = 20;
    const I386_IPC: u32 = 117;

    #[test]
    fn both_entry_points_reach_the_same_kernel() {
        let pid = i64::from(std::process::id());
        // SAFETY: getpid takes no argument.
        assert_eq!(unsafe { native(libc::SYS_getpid, [0; 6]) }, pid);
        // SAFETY: as above.
        assert_eq!(unsafe { int80(I386_GETPID, [0; 6]) }, pid);
        // SAFETY: ipc(2) with an unknown call number fails before it reads anything.
        let ret = unsafe { int80(I386_IPC, [0xfff, 0, 0, 0, 0, 0]) };
        assert_eq!(ret, -i64::from(libc::ENOSYS));
    }

    #[test]
    fn arena_is_below_2_gib_and_keeps_its_contents() {
        let mut arena = Arena::new().unwrap();
        assert!(arena.at(Arena::SIZE) < 1 << 31);
        arena.write(Arena::SIZE - 4, &[1, 2, 3, 4]);
        assert_eq!(arena.read::<4>(Arena::SIZE - 4), [1, 2, 3, 4]);
    }
}
