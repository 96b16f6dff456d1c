//! What the eBPF programs have counted, and what came out of its rings.

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
    /// Taken out by filters
    pub filtered: u64,
    /// Put into the ring
    pub emitted: u64,
    /// No room
    pub dropped: u64,
    /// Never made by the kernel: none of the others
    pub not_made: u64,
    /// Those of them for which there was no room
    pub not_made_dropped: u64,
    /// Not told, though it could have been told again
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
    /// Runs of programs that the kernel left out
    pub missed: u64,
}

/// How many were lost so far, of what the tables do not tell apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Others {
    /// Calls for which no program ran
    pub missed: u64,
    /// Records for which the control ring had no room
    pub facts: u64,
    /// Records that were not put there, so that others found room
    pub withheld: u64,
}

impl AllCounts {
    /// What was lost, beside the calls that are counted by operation.
    #[must_use]
    pub(crate) const fn others(&self) -> Others {
        let CallCounters { dropped: facts, withheld, .. } = self.control;
        Others { missed: self.missed, facts, withheld }
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

/// Lost calls by namespace, operation and error; namespace 0: no room to tell.
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
    /// Those of the eBPF programs
    pub counts: AllCounts,
    /// What was lost, in detail; `None`: nothing more than before
    #[borsh(serialize_with = "put_drops", deserialize_with = "get_drops")]
    pub drops: Option<Drops>,
    /// What came out of the rings
    pub delivered: Delivered,
    /// Rare conditions, by name, with how often they came up
    pub diagnostics: BTreeMap<String, u64>,
    /// The longest processor time of the reader between two looks at the rings, nanoseconds
    pub reader_max_ns: u64,
}
