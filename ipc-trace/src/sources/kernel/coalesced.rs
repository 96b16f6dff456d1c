//! Accesses that the eBPF programs only count, since a similar one was reported a moment before.
//!
//! Invariant: no access is counted twice, and none is lost. The eBPF programs increment an entry only within
//! [`COALESCE_NS`] after reporting an access; an entry is removed when it has been unused for much longer.

use std::collections::HashMap as StdHashMap;

use aya::maps::{HashMap, MapData, MapError};
use ipc_trace_common::{
    record::NsRef,
    state::{COALESCE_NS, Coalesced, CoalescedKey},
};

/// Entries that were unused for that long are removed.
const IDLE_NS: u64 = 10 * COALESCE_NS;

/// The table of coalesced accesses.
#[derive(Debug)]
pub(super) struct CoalescedCounts {
    map: HashMap<MapData, [u64; 4], [u64; 2]>,
    /// How many accesses have been taken from each entry
    taken: StdHashMap<CoalescedKey, u64>,
}

impl CoalescedCounts {
    pub(super) fn new(map: HashMap<MapData, [u64; 4], [u64; 2]>) -> Self {
        Self { map, taken: StdHashMap::new() }
    }

    /// The accesses counted since the last call: each key with when an access was last reported, and how many were
    /// coalesced.
    ///
    /// # Errors
    /// The table can't be read.
    pub(super) fn take(&mut self, now: u64) -> Result<Vec<(CoalescedKey, Coalesced)>, MapError> {
        let mut more = Vec::new();
        let mut idle = Vec::new();
        for entry in self.map.iter() {
            let (words, [sent_ns, count]) = entry?;
            let key = key(words);
            let taken = self.taken.entry(key).or_default();
            let new = count.saturating_sub(*taken);
            *taken = count;
            if new > 0 {
                more.push((key, Coalesced { sent_ns, count: new }));
            } else if now.saturating_sub(sent_ns) > IDLE_NS {
                idle.push((words, key));
            }
        }
        for (words, key) in idle {
            self.map.remove(&words)?;
            self.taken.remove(&key);
        }
        Ok(more)
    }
}

/// Decodes a key of the map: `struct CoalescedKey`, little-endian.
const fn key([pid_tgid, file, ns, channel]: [u64; 4]) -> CoalescedKey {
    let ns = NsRef { inum: ns as u32, generation: (ns >> 32) as u32 };
    CoalescedKey { pid_tgid, file, ns, channel: channel as u32, reserved: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_layout_matches_ebpf_programs() {
        let ns = NsRef { inum: 0xf000_0001, generation: 3 };
        let key = key([5 << 32 | 7, 9, 3 << 32 | 0xf000_0001, 12]);
        assert_eq!(
            key,
            CoalescedKey { pid_tgid: 5 << 32 | 7, file: 9, ns, channel: 12, reserved: 0 }
        );
        const { assert!(core::mem::offset_of!(CoalescedKey, ns) == 16) };
        const { assert!(core::mem::offset_of!(CoalescedKey, channel) == 24) };
    }
}
