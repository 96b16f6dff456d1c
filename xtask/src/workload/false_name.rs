//! `false-name`: calls with a queue's name that another thread overwrites while the kernel holds the call, after
//! it has copied the name. Afterwards, memory has the name of another queue, which exists as well.
//!
//! Listing the queues' directory with a buffer that page-faults keeps the directory's lock, and so holds every
//! thread that opens or unlinks a queue. Some names lie in memory that the process has not touched yet: only the
//! kernel itself can read those before the call.

use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Instant;

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};

use super::abi::{self, is_error};
use super::calls::CountingCaller;
use super::oracle::{WorkloadOp, outcome};
use super::process;

/// What is held, and whether its name lies in memory that was touched before.
const CALLS: [(WorkloadOp, i32, bool); 6] = [
    (WorkloadOp::MqOpen, libc::O_RDWR | libc::O_NONBLOCK, true),
    (WorkloadOp::MqOpen, libc::O_RDWR | libc::O_NONBLOCK, false),
    (WorkloadOp::MqOpen, libc::O_RDWR | libc::O_NONBLOCK | libc::O_CREAT, true),
    (WorkloadOp::MqOpen, libc::O_RDWR | libc::O_NONBLOCK | libc::O_CREAT, false),
    (WorkloadOp::MqUnlink, 0, true),
    (WorkloadOp::MqUnlink, 0, false),
];

const PAGE: usize = 4096;

fn true_name(at: usize) -> String {
    format!("payments-{at}")
}

fn false_name(at: usize) -> String {
    format!("jobs-{at}")
}

pub(crate) fn run() -> Result<()> {
    let mut caller = CountingCaller::new("home")?;
    let x = caller.unshare("x")?;
    let queues = directory()?;
    let mut open = Vec::new();
    let mut calls = Vec::new();
    for (at, (op, oflag, touched)) in CALLS.into_iter().enumerate() {
        let create = libc::O_CREAT | libc::O_EXCL | libc::O_RDWR;
        let is_new = op == WorkloadOp::MqOpen && oflag & libc::O_CREAT != 0;
        let names = [true_name(at), false_name(at)];
        // One that is opened with O_CREAT is not there yet.
        for name in &names[usize::from(is_new)..] {
            let fd = caller.mq_open(name.as_bytes(), create, 0o600, Some((1, 8)));
            ensure!(!is_error(fd), "mq_open: {}", outcome(fd));
            super::mq::close(fd);
        }
        let (tid, ret) = held(&queues, op, oflag, touched, &names)?;
        ensure!(!is_error(ret), "call {at}: {}", outcome(ret));
        caller.note_many(op, ret, 1);
        calls.push(json!({"tid": tid, "op": op, "name": names[0], "false_name": names[1],
                          "touched": touched, "ret": ret}));
        if op == WorkloadOp::MqOpen {
            open.push((ret as i32, names[0].clone()));
        }
    }
    let y = caller.unshare("y")?;
    for (fd, _) in &open {
        let sent = caller.mq_send(*fd, b"x", 1, None);
        ensure!(sent == 0, "mq_send: {}", outcome(sent));
    }
    let used: Vec<Value> = open.into_iter().map(|(_, name)| name.into()).collect();
    caller
        .report()
        .fact("calls", calls)
        .fact("used", used)
        .fact("pid", std::process::id())
        .fact("x", x)
        .fact("y", y)
        .print()
}

fn descriptor(what: &str, fd: i64) -> Result<OwnedFd> {
    ensure!(fd >= 0, "{what}: {}", std::io::Error::last_os_error());
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// The directory of the namespace's queues, mounted nowhere.
fn directory() -> Result<OwnedFd> {
    /// `FSCONFIG_CMD_CREATE` (include/uapi/linux/mount.h)
    const CREATE: i32 = 6;
    // SAFETY: a string and numbers, as these calls want them.
    unsafe {
        let context = descriptor("fsopen", libc::syscall(libc::SYS_fsopen, c"mqueue".as_ptr(), 0))?;
        let made = libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), CREATE, 0, 0, 0);
        ensure!(made == 0, "fsconfig: {}", std::io::Error::last_os_error());
        let root =
            descriptor("fsmount", libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), 0, 0))?;
        let flags = libc::O_RDONLY | libc::O_DIRECTORY;
        // A directory of its own for the listing, which outlives the root's descriptor.
        descriptor("openat", i64::from(libc::openat(root.as_raw_fd(), c".".as_ptr(), flags)))
    }
}

fn map(fd: i32, flags: i32) -> Result<u64> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a mapping at an address of the kernel's choice touches nothing that exists.
    let page = unsafe { libc::mmap(std::ptr::null_mut(), PAGE, protection, flags, fd, 0) };
    ensure!(page != libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
    Ok(page as u64)
}

/// A page of memory in which the first thread that touches it waits for [`Trap::release`].
struct Trap {
    page: u64,
    faults: OwnedFd,
}

impl Trap {
    /// Numbers and structures of include/uapi/linux/userfaultfd.h.
    const API: libc::c_ulong = 0xc018_aa3f;
    const REGISTER: libc::c_ulong = 0xc020_aa00;
    const ZEROPAGE: libc::c_ulong = 0xc020_aa04;

    fn new() -> Result<Self> {
        let page = map(-1, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS)?;
        // SAFETY: numbers alone.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) };
        let trap = Self { page, faults: descriptor("userfaultfd", fd)? };
        trap.control(Self::API, &mut [0xaa, 0, 0])?;
        // For pages that are missing.
        trap.control(Self::REGISTER, &mut [page, PAGE as u64, 1, 0])?;
        Ok(trap)
    }

    fn control<const N: usize>(&self, command: libc::c_ulong, words: &mut [u64; N]) -> Result<()> {
        // SAFETY: the structure of each of these commands has as many words as are given.
        let ret = unsafe { libc::ioctl(self.faults.as_raw_fd(), command, words.as_mut_ptr()) };
        ensure!(ret == 0, "userfaultfd: {}", std::io::Error::last_os_error());
        Ok(())
    }

    /// Waits until a thread faults.
    fn wait(&self) -> Result<()> {
        let message = &mut [0; 32];
        ensure!(nix::unistd::read(&self.faults, message)? == message.len(), "no fault");
        Ok(())
    }

    fn release(&self) -> Result<()> {
        self.control(Self::ZEROPAGE, &mut [self.page, PAGE as u64, 0, 0])
    }
}

impl Drop for Trap {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own.
        unsafe { libc::munmap(self.page as *mut libc::c_void, PAGE) };
    }
}

/// A name in a file's page, which is in memory, but in nobody's until it is touched.
struct NamePage {
    file: OwnedFd,
    page: u64,
}

impl NamePage {
    fn new(name: &str, touched: bool) -> Result<Self> {
        // SAFETY: a string and a number.
        let fd = unsafe { libc::memfd_create(c"name".as_ptr(), libc::MFD_CLOEXEC) };
        let file = descriptor("memfd_create", i64::from(fd))?;
        nix::unistd::ftruncate(&file, PAGE as i64)?;
        let page = map(file.as_raw_fd(), libc::MAP_SHARED)?;
        let this = Self { file, page };
        this.set(name)?;
        if touched {
            // SAFETY: the page was just mapped.
            unsafe { (page as *const u8).read_volatile() };
        }
        Ok(this)
    }

    /// Writes another name, without touching the page.
    fn set(&self, name: &str) -> Result<()> {
        let bytes = format!("{name}\0");
        let written = nix::sys::uio::pwrite(&self.file, bytes.as_bytes(), 0)?;
        ensure!(written == bytes.len(), "the name was cut");
        Ok(())
    }
}

impl Drop for NamePage {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own.
        unsafe { libc::munmap(self.page as *mut libc::c_void, PAGE) };
    }
}

/// Makes the call in a thread of its own, and overwrites its name while it is held. Thread and result.
fn held(
    queues: &OwnedFd,
    op: WorkloadOp,
    oflag: i32,
    touched: bool,
    [good, bad]: &[String; 2],
) -> Result<(i32, i64)> {
    let trap = Trap::new()?;
    let name = NamePage::new(good, touched)?;
    let tid = AtomicI32::new(0);
    let number = if op == WorkloadOp::MqOpen { libc::SYS_mq_open } else { libc::SYS_mq_unlink };
    std::thread::scope(|scope| {
        let (page, list) = (trap.page, queues.as_raw_fd());
        let listing = scope.spawn(move || {
            // SAFETY: a descriptor, and a page of that size.
            unsafe {
                libc::lseek(list, 0, libc::SEEK_SET);
                libc::syscall(libc::SYS_getdents64, list, page, PAGE)
            }
        });
        trap.wait()?;
        let (tid, at) = (&tid, name.page);
        let caller = scope.spawn(move || {
            tid.store(process::tid(), Ordering::Release);
            // SAFETY: the name ends within its page; no attributes are given.
            unsafe { abi::native(number, [at, oflag as u64, 0o600, 0, 0, 0]) }
        });
        let is_held = wait_held(tid, number);
        name.set(bad)?;
        trap.release()?;
        let ret = caller.join().expect("the caller panicked");
        listing.join().expect("the listing panicked");
        is_held?;
        Ok((tid.load(Ordering::Acquire), ret))
    })
}

/// Waits until the thread is in that call and does not run.
fn wait_held(tid: &AtomicI32, number: i64) -> Result<()> {
    let begin = Instant::now();
    while begin.elapsed() < process::WAIT_TIMEOUT {
        let task = format!("/proc/self/task/{}", tid.load(Ordering::Acquire));
        let stat = fs::read_to_string(format!("{task}/stat")).unwrap_or_default();
        let call = fs::read_to_string(format!("{task}/syscall")).unwrap_or_default();
        let inside = call.split(' ').next().and_then(|word| word.parse().ok()) == Some(number);
        if inside && stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('D')) {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    bail!("the call is not held")
}
