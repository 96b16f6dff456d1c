//! A session's options.

use std::fs;

use ipc_trace_common::{op::Abi, state};

/// Filters that the eBPF programs evaluate.
#[derive(Clone, Debug, Default)]
pub(crate) struct KernelFilters {
    /// Bits of [`state::filter`]
    pub bits: u32,
    /// Bits of operations
    pub ops: u32,
    /// Nanoseconds
    pub min_duration_ns: u64,
    /// Processes
    pub pids: Vec<u32>,
    /// Users
    pub uids: Vec<u32>,
    /// Thread names, NUL-padded
    pub comms: Vec<[u8; 16]>,
}

/// The cgroup hierarchy that identifies containers, in the form that the programs use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cgroups {
    /// Its number; 0 is the default one
    pub hierarchy: u32,
    /// The number of a controller in it; `None`: it is the default one
    pub controller: Option<u32>,
}

/// What is reported of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallDetail {
    /// Each one, with its arguments
    Calls,
    /// How many there are, and what each took
    Durations,
    /// How many there are
    Counts,
}

/// A session's options.
#[derive(Clone, Debug)]
pub(crate) struct SessionOptions {
    /// Bytes of the event ring: a power of two, at least a page
    pub ring_bytes: u32,
    /// Filters
    pub filters: KernelFilters,
    /// What is reported of calls
    pub detail: CallDetail,
    /// Whether process arguments are sent
    pub with_args: bool,
    /// The cgroups that identify containers; `None`: there are none
    pub cgroups: Option<Cgroups>,
    /// The machine's native ABI
    pub native: Abi,
}

impl SessionOptions {
    /// Whether calls come in batches, without their arguments: no filter may depend on values that differ between
    /// calls of one thread.
    pub(super) const fn is_batched(&self) -> bool {
        use state::filter::{CGROUP, COMM, FAILED, MIN_DURATION, OP, UID};
        const DIFFERS: u32 = FAILED | UID | COMM | MIN_DURATION | OP | CGROUP;
        !self.shows_calls() && self.filters.bits & DIFFERS == 0
    }

    /// Whether data behind arguments is read even if it is only shown.
    pub(super) const fn shows_calls(&self) -> bool {
        matches!(self.detail, CallDetail::Calls)
    }

    /// Whether calls are timed.
    pub(crate) const fn times_calls(&self) -> bool {
        !matches!(self.detail, CallDetail::Counts)
    }
}

/// One more than the highest possible CPU number. There may be fewer CPUs: numbers can be skipped.
pub(super) fn processors() -> usize {
    let possible = fs::read_to_string("/sys/devices/system/cpu/possible").ok();
    let highest = possible.as_deref().and_then(highest_cpu);
    highest.map_or_else(|| aya::util::nr_cpus().unwrap_or(1), |highest| highest + 1)
}

/// The highest number in a list such as `0-3,8`, whose ranges ascend.
fn highest_cpu(list: &str) -> Option<usize> {
    list.trim().rsplit([',', '-']).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::highest_cpu;

    #[test]
    fn highest_cpu_counts_with_gaps() {
        assert_eq!(highest_cpu("0\n"), Some(0));
        assert_eq!(highest_cpu("0-7\n"), Some(7));
        assert_eq!(highest_cpu("0,2-3,9\n"), Some(9));
        assert_eq!(highest_cpu("\n"), None);
    }
}
