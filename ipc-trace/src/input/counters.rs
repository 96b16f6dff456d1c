//! Counters of the eBPF programs and of the ring readers.

use borsh::{BorshDeserialize, BorshSerialize, io};
use std::collections::BTreeMap;

use super::raw;
use ipc_trace_common::{
    op::{self, Op},
    state::DropKey,
};

/// Counters of one row, summed over the CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct CallCounters {
    /// Calls that returned (`ipc_trace_common::state::Counters`)
    pub seen: u64,
    /// Excluded by filters
    pub filtered: u64,
    /// Put into the ring
    pub emitted: u64,
    /// The ring had no room.
    pub dropped: u64,
    /// Never made by the kernel; not in the other counters.
    pub not_made: u64,
    /// Those of them for which the ring had no room.
    pub not_made_dropped: u64,
    /// Repeatable records that were withheld, to leave room for others.
    pub withheld: u64,
}

/// The counters of all operations and of the control ring.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct AllCounts {
    /// By operation
    #[borsh(serialize_with = "put_ops", deserialize_with = "get_ops")]
    pub ops: BTreeMap<Op, CallCounters>,
    /// The control ring
    pub control: CallCounters,
    /// Runs of programs that the kernel skipped.
    pub missed: u64,
}

/// Losses so far that the tables don't distinguish.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Others {
    /// Calls for which no program ran
    pub missed: u64,
    /// Records for which the control ring had no room
    pub metadata: u64,
    /// Repeatable records that were withheld, to leave room for others.
    pub withheld: u64,
}

impl AllCounts {
    /// Losses besides the calls counted by operation.
    #[must_use]
    pub(crate) const fn others(&self) -> Others {
        let CallCounters { dropped: metadata, withheld, .. } = self.control;
        Others { missed: self.missed, metadata, withheld }
    }

    /// All operations together.
    #[must_use]
    pub(crate) fn total(&self) -> CallCounters {
        self.ops.values().fold(CallCounters::default(), |sum, one| CallCounters {
            seen: sum.seen + one.seen,
            filtered: sum.filtered + one.filtered,
            emitted: sum.emitted + one.emitted,
            dropped: sum.dropped + one.dropped,
            not_made: sum.not_made + one.not_made,
            not_made_dropped: sum.not_made_dropped + one.not_made_dropped,
            withheld: sum.withheld + one.withheld,
        })
    }
}

/// Lost calls by namespace, operation and error; namespace 0: the table had no room for details.
pub(crate) type Drops = std::collections::HashMap<DropKey, u64>;

fn put_ops<W: io::Write>(ops: &BTreeMap<Op, CallCounters>, to: &mut W) -> io::Result<()> {
    raw::put_len(ops.len(), to)?;
    ops.iter().try_for_each(|(op, counts)| (*op as u8, *counts).serialize(to))
}

fn get_ops<R: io::Read>(from: &mut R) -> io::Result<BTreeMap<Op, CallCounters>> {
    let len = u32::deserialize_reader(from)?;
    (0..len).map(|_| Ok((raw::op(from)?, CallCounters::deserialize_reader(from)?))).collect()
}

fn put_drops<W: io::Write>(drops: &Option<Drops>, to: &mut W) -> io::Result<()> {
    let Some(drops) = drops else { return false.serialize(to) };
    true.serialize(to)?;
    raw::put_len(drops.len(), to)?;
    drops.iter().try_for_each(|(key, count)| {
        raw::put(key, to)?;
        count.serialize(to)
    })
}

fn get_drops<R: io::Read>(from: &mut R) -> io::Result<Option<Drops>> {
    if !bool::deserialize_reader(from)? {
        return Ok(None);
    }
    let len = u32::deserialize_reader(from)?;
    (0..len)
        .map(|_| Ok((raw::get(from)?, u64::deserialize_reader(from)?)))
        .collect::<io::Result<_>>()
        .map(Some)
}

/// Records that came out of the rings.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Delivered {
    /// By the operation's number
    pub ops: [u64; op::COUNT + 1],
    /// Control records
    pub control: u64,
    /// Records that could not be decoded; they are among the others
    pub malformed: u64,
}

impl Delivered {
    /// All calls.
    #[must_use]
    pub(crate) fn calls(&self) -> u64 {
        self.ops.iter().sum()
    }
}

/// All counters, at one moment.
#[derive(Clone, Debug, Default, BorshSerialize, BorshDeserialize)]
pub(crate) struct Counted {
    /// Counters of the eBPF programs.
    pub counts: AllCounts,
    /// Details of lost calls; `None`: unchanged.
    #[borsh(serialize_with = "put_drops", deserialize_with = "get_drops")]
    pub drops: Option<Drops>,
    /// Records read from the rings.
    pub delivered: Delivered,
    /// Rare conditions by name, with the number of occurrences.
    pub diagnostics: BTreeMap<String, u64>,
    /// The longest CPU time of the reader between two reads of the rings, nanoseconds.
    pub reader_max_ns: u64,
}
