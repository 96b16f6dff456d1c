//! Accesses that the eBPF programs count and does not tell of, since one like them was told of a moment before.
//!
//! Invariant: none is taken twice and none is lost. The eBPF programs only adds to an entry, and only within
//! [`FOLD_NS`] after it told of one; an entry is taken away when it has been left alone for much longer.

use std::collections::HashMap as StdHashMap;

use aya::maps::{HashMap, MapData, MapError};
use ipc_trace_common::{
    record::NsRef,
    state::{FOLD_NS, Fold, FoldKey},
};

/// Entries that were left alone for so long are taken away.
const IDLE_NS: u64 = 10 * FOLD_NS;

/// The table.
#[derive(Debug)]
pub(super) struct Folds {
    map: HashMap<MapData, [u64; 4], [u64; 2]>,
    /// How many have been taken of each
    taken: StdHashMap<FoldKey, u64>,
}

impl Folds {
    pub(super) fn new(map: HashMap<MapData, [u64; 4], [u64; 2]>) -> Self {
        Self { map, taken: StdHashMap::new() }
    }

    /// Those that were counted since this was asked last: each key with when one was told of, and how
    /// many were not.
    ///
    /// # Errors
    /// The table can't be read.
    pub(super) fn take(&mut self, now: u64) -> Result<Vec<(FoldKey, Fold)>, MapError> {
        let mut more = Vec::new();
        let mut idle = Vec::new();
        for entry in self.map.iter() {
            let (words, [sent_ns, count]) = entry?;
            let key = key(words);
            let taken = self.taken.entry(key).or_default();
            let new = count.saturating_sub(*taken);
            *taken = count;
            if new > 0 {
                more.push((key, Fold { sent_ns, count: new }));
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

/// A key as it lies in the map: `struct FoldKey`, little-endian.
const fn key([pid_tgid, file, ns, channel]: [u64; 4]) -> FoldKey {
    let ns = NsRef { inum: ns as u32, generation: (ns >> 32) as u32 };
    FoldKey { pid_tgid, file, ns, channel: channel as u32, reserved: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_as_the_kernel_side_has_them() {
        let ns = NsRef { inum: 0xf000_0001, generation: 3 };
        let key = key([5 << 32 | 7, 9, 3 << 32 | 0xf000_0001, 12]);
        assert_eq!(key, FoldKey { pid_tgid: 5 << 32 | 7, file: 9, ns, channel: 12, reserved: 0 });
        const { assert!(core::mem::offset_of!(FoldKey, ns) == 16) };
        const { assert!(core::mem::offset_of!(FoldKey, channel) == 24) };
    }
}
