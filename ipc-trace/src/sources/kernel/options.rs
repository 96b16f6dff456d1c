//! What a session is to be like.

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

/// The hierarchy of cgroups that containers are told by, as the programs know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cgroups {
    /// Its number; 0 is the default one
    pub hierarchy: u32,
    /// The number of a controller in it; `None`: it is the default one
    pub controller: Option<u32>,
}

/// What a session is to be like.
#[derive(Clone, Debug)]
pub(crate) struct SessionOptions {
    /// Bytes of the event ring: a power of two, at least a page
    pub ring_bytes: u32,
    /// Filters
    pub filters: KernelFilters,
    /// Whether what arguments point to is wanted, where it is for show alone
    pub arguments: bool,
    /// Whether what processes were called with is wanted
    pub with_args: bool,
    /// The cgroups that tell containers; `None`: there are none
    pub cgroups: Option<Cgroups>,
    /// The machine's native ABI
    pub native: Abi,
}

impl SessionOptions {
    /// Whether calls come in batches, without their arguments: no filter may look at what differs between
    /// calls of one thread.
    pub(super) const fn is_batched(&self) -> bool {
        use state::filter::{CGROUP, COMM, FAILED, MIN_DURATION, OP, UID};
        const DIFFERS: u32 = FAILED | UID | COMM | MIN_DURATION | OP | CGROUP;
        !self.arguments && self.filters.bits & DIFFERS == 0
    }
}

/// One more than the highest number that a CPU can have. There may be fewer: numbers can be left out.
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
    fn highest_cpu_number_counts_where_numbers_are_left_out() {
        assert_eq!(highest_cpu("0\n"), Some(0));
        assert_eq!(highest_cpu("0-7\n"), Some(7));
        assert_eq!(highest_cpu("0,2-3,9\n"), Some(9));
        assert_eq!(highest_cpu("\n"), None);
    }
}
