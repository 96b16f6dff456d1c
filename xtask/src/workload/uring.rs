//! Requests by io_uring (io_uring_setup(2)), one at a time: operations without the system call of that name.

use std::{
    ffi::CStr,
    io,
    num::NonZeroUsize,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    ptr::NonNull,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    errno::Errno,
    sys::mman::{MapFlags, ProtFlags, mmap, munmap},
};

// include/uapi/linux/io_uring.h
const IORING_OP_OPENAT: u8 = 18;
const IORING_OP_READ: u8 = 22;
const IORING_ENTER_GETEVENTS: u32 = 1;
const IORING_OFF_SQES: libc::off_t = 0x1000_0000;
/// The request is handed to a worker, and not tried by the caller first.
const IOSQE_ASYNC: u8 = 1 << 4;

/// Where things are in the submission's and the completion's ring, bytes from the mapping's beginning
/// (`struct io_sqring_offsets`, `struct io_cqring_offsets`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Offsets {
    head: u32,
    tail: u32,
    ring_mask: u32,
    ring_entries: u32,
    /// `flags`; `overflow` of the completion's
    fifth: u32,
    /// `dropped`; `cqes` of the completion's
    sixth: u32,
    /// `array`; `flags` of the completion's
    seventh: u32,
    reserved: u32,
    user_addr: u64,
}

/// `struct io_uring_params`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Parameters {
    sq_entries: u32,
    cq_entries: u32,
    flags: u32,
    sq_thread_cpu: u32,
    sq_thread_idle: u32,
    features: u32,
    wq_fd: u32,
    reserved: [u32; 3],
    submission: Offsets,
    completion: Offsets,
}

/// `struct io_uring_sqe`, as far as it is used
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Sqe {
    opcode: u8,
    flags: u8,
    ioprio: u16,
    fd: i32,
    offset: u64,
    address: u64,
    len: u32,
    /// `open_flags`
    how: u32,
    user_data: u64,
    rest: [u64; 3],
}

/// `struct io_uring_cqe`
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Completion {
    user_data: u64,
    result: i32,
    flags: u32,
}

const _: () = {
    assert!(size_of::<Parameters>() == 120);
    assert!(size_of::<Sqe>() == 64);
    assert!(size_of::<Completion>() == 16);
};

/// What executes a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Submitter {
    /// The caller, as far as it need not wait
    Caller,
    /// A worker of the kernel's
    Worker,
}

/// A ring for one request and its completion.
#[derive(Debug)]
pub(crate) struct Uring {
    ring: OwnedFd,
    parameters: Parameters,
    /// Both rings
    rings: UringMemory,
    requests: UringMemory,
}

/// Memory of the kernel's.
#[derive(Debug)]
struct UringMemory {
    at: NonNull<libc::c_void>,
    len: usize,
}

impl UringMemory {
    fn new(ring: &OwnedFd, len: usize, offset: libc::off_t) -> Result<Self> {
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_POPULATE;
        let bytes = NonZeroUsize::new(len).context("a ring is not empty")?;
        // SAFETY: a new mapping, at an address of the kernel's choice.
        let at = unsafe { mmap(None, bytes, access, flags, ring, offset) }?;
        Ok(Self { at, len })
    }

    /// What is at an offset that the kernel reported, or that this code chose within the mapping.
    fn place<T>(&self, offset: usize) -> *mut T {
        assert!(offset + size_of::<T>() <= self.len);
        // SAFETY: it lies within the mapping.
        unsafe { self.at.as_ptr().byte_add(offset).cast() }
    }

    /// A number that the kernel reads or writes meanwhile.
    fn shared(&self, offset: u32) -> &AtomicU32 {
        // SAFETY: it is aligned, as the kernel's numbers are, and lives as long as the mapping.
        unsafe { AtomicU32::from_ptr(self.place(offset as usize)) }
    }
}

impl Drop for UringMemory {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`, and no place is used any more.
        let _ = unsafe { munmap(self.at, self.len) };
    }
}

impl Uring {
    /// A new one. `Err` inside: the kernel has none, or is configured to refuse it (`kernel.io_uring_disabled`, 6.6).
    ///
    /// # Errors
    ///
    /// When it is refused for any other reason.
    pub(crate) fn new() -> Result<Result<Self, Errno>> {
        let mut parameters = Parameters::default();
        // SAFETY: the kernel reads and writes the parameters, which are as large as it takes them to be.
        let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, &raw mut parameters) };
        if fd < 0 {
            let error = Errno::last();
            let refused = matches!(error, Errno::EPERM | Errno::ENOSYS);
            ensure!(refused, "io_uring_setup: {error}");
            return Ok(Err(error));
        }
        // SAFETY: it is new, and nobody else's.
        let ring = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        let Parameters { submission, completion, .. } = parameters;
        // One mapping has both rings (IORING_FEAT_SINGLE_MMAP, 5.4).
        let submissions =
            submission.seventh as usize + parameters.sq_entries as usize * size_of::<u32>();
        let completions =
            completion.sixth as usize + parameters.cq_entries as usize * size_of::<Completion>();
        let rings = UringMemory::new(&ring, submissions.max(completions), 0)?;
        let requests = parameters.sq_entries as usize * size_of::<Sqe>();
        let requests = UringMemory::new(&ring, requests, IORING_OFF_SQES)?;
        Ok(Ok(Self { ring, parameters, rings, requests }))
    }

    /// Makes a request, and waits for its result.
    fn request(&mut self, request: Sqe) -> Result<i32> {
        let Parameters { submission, completion, .. } = self.parameters;
        let tail = self.rings.shared(submission.tail);
        let at = tail.load(Ordering::Relaxed)
            & self.rings.shared(submission.ring_mask).load(Ordering::Relaxed);
        // SAFETY: the place is within the mapping, and the kernel does not read it before the tail moves.
        unsafe { self.requests.place::<Sqe>(at as usize * size_of::<Sqe>()).write(request) };
        self.rings.shared(submission.seventh + at * 4).store(at, Ordering::Relaxed);
        tail.fetch_add(1, Ordering::Release);
        // SAFETY: a descriptor of ours and numbers.
        let done = unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                self.ring.as_raw_fd(),
                1,
                1,
                IORING_ENTER_GETEVENTS,
                0,
                0,
            )
        };
        ensure!(done == 1, "io_uring_enter: {done}, {}", io::Error::last_os_error());
        let head = self.rings.shared(completion.head);
        let next = head.load(Ordering::Relaxed);
        ensure!(
            self.rings.shared(completion.tail).load(Ordering::Acquire) != next,
            "no completion"
        );
        let mask = self.rings.shared(completion.ring_mask).load(Ordering::Relaxed);
        let offset = completion.sixth as usize + (next & mask) as usize * size_of::<Completion>();
        // SAFETY: the place is within the mapping, and the kernel has written it, as the tail says.
        let result = unsafe { self.rings.place::<Completion>(offset).read() }.result;
        head.store(next.wrapping_add(1), Ordering::Release);
        Ok(result)
    }

    /// As openat(2), from the current directory.
    ///
    /// # Errors
    ///
    /// When the file can't be opened.
    pub(crate) fn open(&mut self, path: &CStr, flags: i32, by: Submitter) -> Result<OwnedFd> {
        let fd = self.request(Sqe {
            opcode: IORING_OP_OPENAT,
            flags: by.flags(),
            fd: libc::AT_FDCWD,
            address: path.as_ptr() as u64,
            how: flags.cast_unsigned(),
            ..Sqe::default()
        })?;
        ensure!(fd >= 0, "openat by io_uring: {}", Errno::from_raw(-fd));
        // SAFETY: it is new, and nobody else's.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// As pread(2) from the beginning: how many bytes there were.
    ///
    /// # Errors
    ///
    /// When the file can't be read.
    pub(crate) fn read(
        &mut self,
        file: &OwnedFd,
        bytes: &mut [u8],
        by: Submitter,
    ) -> Result<usize> {
        let count = self.request(Sqe {
            opcode: IORING_OP_READ,
            flags: by.flags(),
            fd: file.as_raw_fd(),
            address: bytes.as_mut_ptr() as u64,
            len: bytes.len() as u32,
            ..Sqe::default()
        })?;
        ensure!(count >= 0, "read by io_uring: {}", Errno::from_raw(-count));
        Ok(count as usize)
    }
}

impl Submitter {
    const fn flags(self) -> u8 {
        match self {
            Self::Caller => 0,
            Self::Worker => IOSQE_ASYNC,
        }
    }
}
