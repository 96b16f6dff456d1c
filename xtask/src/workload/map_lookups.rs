//! Neighbours that look up a value in a BPF map without a pause, one on each processor, at the lowest priority.
//!
//! While bpf(2) does so, programs of kprobes, fprobes and perf events are skipped on that processor
//! (`bpf_disable_instrumentation`, include/linux/bpf.h); a thread that is preempted there keeps them off until
//! it runs again.

use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context as _, Result, ensure};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use super::oracle::WorkloadReport;
use super::process::{self, Flag, WorkloadChild};

/// Of bpf(2), include/uapi/linux/bpf.h.
const MAP_CREATE: i32 = 0;
const MAP_LOOKUP_ELEM: i32 = 1;
const MAP_TYPE_ARRAY: u32 = 2;

/// Large, so that most of the lookup is copying it.
const VALUE: usize = 16 * 1024;

/// What the neighbours share with us.
#[derive(Debug, Default)]
struct SharedFlags {
    over: AtomicBool,
    lookups: AtomicU64,
}

/// The neighbours.
#[derive(Debug)]
pub(super) struct MapLookups {
    shared: &'static SharedFlags,
    children: Vec<WorkloadChild>,
}

impl MapLookups {
    /// Starts one on each processor that this process may use; each has made a lookup by then.
    ///
    /// # Errors
    ///
    /// bpf(2) is refused.
    pub(super) fn start() -> Result<Self> {
        let shared = shared()?;
        let ready = Flag::new()?;
        let mine = sched_getaffinity(Pid::from_raw(0))?;
        let mut children = Vec::new();
        for cpu in (0..CpuSet::count()).filter(|cpu| mine.is_set(*cpu).unwrap_or(false)) {
            let work = || {
                let mut one = CpuSet::new();
                one.set(cpu)?;
                sched_setaffinity(Pid::from_raw(0), &one)?;
                // SAFETY: numbers alone.
                let nice = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) };
                ensure!(nice == 0, "setpriority: {}", std::io::Error::last_os_error());
                look_up(shared, &ready)
            };
            children.push(process::spawn(b"map-lookups", work)?);
        }
        for _ in &children {
            ready.wait()?;
        }
        Ok(Self { shared, children })
    }

    /// Ends them: how many lookups they made.
    pub(super) fn end(self) -> Result<u64> {
        self.shared.over.store(true, Ordering::Relaxed);
        process::join_all(self.children)?;
        Ok(self.shared.lookups.load(Ordering::Relaxed))
    }
}

/// Memory that is the same in children.
fn shared() -> Result<&'static SharedFlags> {
    // SAFETY: an anonymous mapping at an address of the kernel's choice touches nothing that exists.
    let at = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            size_of::<SharedFlags>(),
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    ensure!(at != libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
    // SAFETY: the mapping is large enough, aligned to a page, zeroed, which is a value of both atomics, and
    // is never unmapped.
    Ok(unsafe { &*at.cast::<SharedFlags>() })
}

fn look_up(shared: &SharedFlags, ready: &Flag) -> Result<WorkloadReport> {
    // The beginning of `union bpf_attr`: map_type, key_size, value_size, max_entries.
    let create = [MAP_TYPE_ARRAY, size_of::<u32>() as u32, VALUE as u32, 1];
    // SAFETY: as long as it says, and only read.
    let map =
        unsafe { libc::syscall(libc::SYS_bpf, MAP_CREATE, create.as_ptr(), size_of_val(&create)) };
    ensure!(map >= 0, "making a BPF map: {}", std::io::Error::last_os_error());
    // SAFETY: the descriptor is new and nobody else's.
    let map = unsafe { OwnedFd::from_raw_fd(map as i32) };
    let (key, mut value) = (0_u32, vec![0_u8; VALUE]);
    // map_fd, key, value, flags.
    let attr = [
        u64::from(map.as_raw_fd().unsigned_abs()),
        (&raw const key) as u64,
        value.as_mut_ptr() as u64,
        0,
    ];
    let mut first = true;
    while !shared.over.load(Ordering::Relaxed) {
        // SAFETY: `key` and `value` are as long as the map's, and nobody else uses them.
        let done = unsafe {
            libc::syscall(libc::SYS_bpf, MAP_LOOKUP_ELEM, attr.as_ptr(), size_of_val(&attr))
        };
        ensure!(done == 0, "looking up: {}", std::io::Error::last_os_error());
        shared.lookups.fetch_add(1, Ordering::Relaxed);
        if std::mem::take(&mut first) {
            ready.raise(1).context("reporting that it has started")?;
        }
    }
    Ok(WorkloadReport::default())
}
