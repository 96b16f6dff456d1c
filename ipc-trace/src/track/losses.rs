//! What was lost since the last look.

use ipc_trace_common::{op::Op, state::DropKey};

use crate::{
    event::{
        LossBy,
        value::{Error, OpName},
    },
    kernel::session::Drops,
};

/// What is known to be lost.
#[derive(Debug, Default)]
pub struct Losses {
    known: Drops,
    dropped: u64,
    missed: u64,
    facts: u64,
}

/// What was lost between two looks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewLosses {
    /// Calls for which the ring had no room
    pub dropped: u64,
    /// Calls for which no program ran
    pub missed: u64,
    /// Records on the control ring for which it had no room
    pub facts: u64,
    /// The dropped ones in detail
    pub by: Vec<LossBy>,
}

impl NewLosses {
    /// Whether nothing was lost.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.dropped == 0 && self.missed == 0 && self.facts == 0
    }
}

impl Losses {
    /// Whether the totals say that something was lost since the last look.
    #[must_use]
    pub const fn grew(&self, dropped: u64, missed: u64, facts: u64) -> bool {
        dropped > self.dropped || missed > self.missed || facts > self.facts
    }

    /// What is new in the tables. `missed` and `facts` are totals.
    pub fn update(&mut self, drops: Drops, missed: u64, facts: u64) -> NewLosses {
        let mut by: Vec<LossBy> = drops
            .iter()
            .filter_map(|(key, count)| {
                let count = count - self.known.get(key).copied().unwrap_or(0).min(*count);
                loss(key, count)
            })
            .collect();
        by.sort_by(|a, b| b.count.cmp(&a.count).then(a.inum.cmp(&b.inum)).then(a.op.cmp(&b.op)));
        let dropped = by.iter().map(|l| l.count).sum();
        let new = NewLosses {
            dropped,
            missed: missed - self.missed.min(missed),
            facts: facts - self.facts.min(facts),
            by,
        };
        self.dropped += dropped;
        self.missed = missed;
        self.facts = facts;
        self.known = drops;
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
        error: (key.error != 0).then_some(Error(key.error)),
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
    fn each_look_tells_what_is_new() {
        let mut losses = Losses::default();
        let first = losses.update(Drops::from([(key(5, 0), 3), (key(5, 11), 1)]), 0, 0);
        assert_eq!((first.dropped, first.by.len()), (4, 2));
        assert!(!losses.grew(4, 0, 0));
        assert!(losses.grew(5, 0, 0) && losses.grew(4, 1, 0) && losses.grew(4, 0, 1));
        let second =
            losses.update(Drops::from([(key(5, 0), 3), (key(5, 11), 1), (key(0, 0), 7)]), 2, 5);
        assert_eq!((second.dropped, second.missed, second.facts), (7, 2, 5));
        assert_eq!(second.by[0].inum, None);
    }
}
