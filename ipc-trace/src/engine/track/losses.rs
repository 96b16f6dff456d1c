//! Losses since the last update.

use ipc_trace_common::{op::Op, state::DropKey};
use minicbor::{Decode, Encode};

use crate::{
    event::{
        LossBy,
        value::{CallError, OpName},
    },
    input::counters::{Drops, Others},
};

/// The losses known so far.
#[derive(Debug, Default, Encode, Decode)]
pub(crate) struct Losses {
    #[cbor(n(0), with = "ipc_trace_common::cbor")]
    known: Drops,
    #[n(1)]
    dropped: u64,
    #[n(2)]
    others: Others,
}

/// The losses between two updates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NewLosses {
    /// Calls for which the ring had no room.
    pub dropped: u64,
    /// Other losses.
    pub others: Others,
    /// The dropped calls by namespace, operation and error.
    pub by: Vec<LossBy>,
}

impl NewLosses {
    /// Whether nothing was lost.
    #[must_use]
    pub(crate) const fn is_empty(&self) -> bool {
        let Others { missed, metadata, withheld } = self.others;
        self.dropped == 0 && missed == 0 && metadata == 0 && withheld == 0
    }

    /// Whether the tracked state may be wrong. Calls that change objects but found no room in the event ring
    /// are sent on the control ring and counted there.
    #[must_use]
    pub(crate) const fn are_of_state(&self) -> bool {
        self.others.missed > 0 || self.others.metadata > 0
    }
}

impl Losses {
    /// Whether the totals show losses since the last update.
    #[must_use]
    pub(crate) const fn grew(&self, dropped: u64, others: Others) -> bool {
        let Others { missed, metadata, withheld } = others;
        dropped > self.dropped
            || missed > self.others.missed
            || metadata > self.others.metadata
            || withheld > self.others.withheld
    }

    /// Applies new totals. Returns the losses since the last update.
    pub(crate) fn update(&mut self, drops: &Drops, others: Others) -> NewLosses {
        let mut by: Vec<LossBy> = drops
            .iter()
            .filter_map(|(key, count)| {
                let count = count - self.known.get(key).copied().unwrap_or(0).min(*count);
                loss(key, count)
            })
            .collect();
        by.sort_by_key(|l| (std::cmp::Reverse(l.count), l.inum, l.r#gen, l.op, l.error));
        let dropped = by.iter().map(|l| l.count).sum();
        let before = self.others;
        let new = NewLosses {
            dropped,
            others: Others {
                missed: others.missed.saturating_sub(before.missed),
                metadata: others.metadata.saturating_sub(before.metadata),
                withheld: others.withheld.saturating_sub(before.withheld),
            },
            by,
        };
        self.dropped += dropped;
        self.others = others;
        self.known.clone_from(drops);
        new
    }
}

fn loss(key: &DropKey, count: u64) -> Option<LossBy> {
    if count == 0 {
        return None;
    }
    let op = Op::from_number(u8::try_from(key.op).ok()?)?;
    let known = key.inum != 0;
    Some(LossBy {
        inum: known.then_some(key.inum),
        r#gen: known.then_some(key.generation),
        op: OpName(op),
        error: (key.error != 0).then_some(CallError(key.error)),
        count,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(inum: u32, error: u16) -> DropKey {
        DropKey { inum, generation: 1, op: Op::Semop as u16, error }
    }

    #[test]
    fn each_update_reports_only_new_losses() {
        let none = Others::default();
        let mut losses = Losses::default();
        let first = losses.update(&Drops::from([(key(5, 0), 3), (key(5, 11), 1)]), none);
        assert_eq!((first.dropped, first.by.len()), (4, 2));
        assert!(!losses.grew(4, none) && losses.grew(5, none));
        for more in [
            Others { missed: 1, ..none },
            Others { metadata: 1, ..none },
            Others { withheld: 1, ..none },
        ] {
            assert!(losses.grew(4, more));
        }
        let others = Others { missed: 2, metadata: 5, withheld: 1 };
        let drops = Drops::from([(key(5, 0), 3), (key(5, 11), 1), (key(0, 0), 7)]);
        let second = losses.update(&drops, others);
        assert_eq!((second.dropped, second.others), (7, others));
        assert_eq!(second.by[0].inum, None);
        assert!(second.are_of_state());
    }

    #[test]
    fn repeatable_records_are_not_a_loss_of_state() {
        let mut losses = Losses::default();
        let new = losses.update(&Drops::default(), Others { withheld: 9, ..Others::default() });
        assert!(!new.is_empty() && !new.are_of_state());
    }
}
