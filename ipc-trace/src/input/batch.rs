//! Calls of one thread that came together, grouped by what they are and what they were done to.

use ipc_trace_common::{
    op::Op,
    record::{BATCH, BatchHead, BatchedCall, Header, PackedCall, QueueRef, RecordKind},
};
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::{DecodeError, meaning, view};

/// Calls of one thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallBatch<'a> {
    /// What they have in common
    pub head: &'a BatchHead,
    outcomes: &'a [BatchedCall],
}

/// Those of a batch that are the same call on the same object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchGroup<'a> {
    /// What was called
    pub op: Op,
    /// The object's id, for System V; the key, of calls that look for one
    pub id: i32,
    /// What the descriptor led to, for operations that take one
    pub queue: Option<&'a QueueRef>,
    /// When the last one returned
    pub last_ns: u64,
    /// Calls that succeeded
    pub succeeded: u64,
    /// When the last one of those returned; `0`: there is none
    pub succeeded_ns: u64,
    /// Lengths of the messages that those were to send, together
    pub sent: u64,
    /// Their results, together: of receiving operations, the lengths of messages
    pub results: i64,
    outcomes: &'a [BatchedCall],
    /// Bits of outcomes
    members: u32,
}

const _: () = assert!(BATCH <= u32::BITS as usize);

impl<'a> CallBatch<'a> {
    /// Its record in words: [`Self::new`] takes them.
    #[must_use]
    pub(crate) fn to_words(self) -> Box<[u64]> {
        super::words(&[self.head.as_bytes(), self.outcomes.as_bytes()])
    }

    /// The record in `bytes`.
    ///
    /// # Errors
    /// They are too few, or the record has more calls than there can be.
    pub(crate) fn new(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let kind = RecordKind::Batch as u8;
        let (head, rest) = view::<BatchHead>(bytes, kind)?;
        let count = head.count as usize;
        let outcomes = <[BatchedCall]>::ref_from_prefix_with_elems(rest, count);
        match outcomes {
            Ok((outcomes, _)) if count <= BATCH => Ok(Self { head, outcomes }),
            Ok(_) | Err(_) => Err(DecodeError::Short { kind, len: bytes.len() }),
        }
    }

    /// When the last call returned.
    #[must_use]
    pub(crate) fn boot_ns(&self) -> u64 {
        self.outcomes.last().map_or(0, |last| last.boot_ns)
    }

    /// How many calls there are of each operation. A group that is no call which exists is an error.
    #[inline]
    pub(crate) fn count(&self, mut count: impl FnMut(Result<(Op, u64), DecodeError>)) {
        let Some(first) = self.outcomes.first() else { return };
        // Mostly they are all the same, and that is quickly seen.
        if self.outcomes.iter().all(|one| one.what == first.what) {
            let op = op_of(self.head, first.what);
            count(op.map(|op| (op, self.outcomes.len() as u64)));
        } else {
            self.groups().for_each(|group| count(group.map(|group| (group.op, group.count()))));
        }
    }

    /// All calls. A group that is no call which exists is an error.
    pub(crate) fn groups(
        &self,
    ) -> impl Iterator<Item = Result<BatchGroup<'a>, DecodeError>> + use<'a> {
        let (head, outcomes) = (self.head, self.outcomes);
        let mut left = u32::MAX >> (u32::BITS as usize - outcomes.len().max(1));
        if outcomes.is_empty() {
            left = 0;
        }
        std::iter::from_fn(move || {
            let first = outcomes.get(left.trailing_zeros() as usize)?.what;
            let (mut members, mut succeeded, mut succeeded_ns) = (0, 0, 0);
            let (mut sent, mut results, mut last_ns) = (0, 0, 0);
            for (at, outcome) in outcomes.iter().enumerate() {
                if outcome.what == first {
                    members |= 1 << at;
                    last_ns = outcome.boot_ns;
                    if outcome.ret >= 0 {
                        succeeded += 1;
                        succeeded_ns = outcome.boot_ns;
                        sent += u64::from(outcome.size);
                        results += i64::from(outcome.ret);
                    }
                }
            }
            left &= !members;
            Some(op_of(head, first).map(|op| BatchGroup {
                op,
                id: PackedCall::unpacked(first).id,
                queue: op.takes_descriptor().then_some(&head.queue),
                last_ns,
                succeeded,
                succeeded_ns,
                sent,
                results,
                outcomes,
                members,
            }))
        })
    }
}

/// Which operation a call of a batch is.
fn op_of(head: &BatchHead, what: u64) -> Result<Op, DecodeError> {
    let PackedCall { abi, code, .. } = PackedCall::unpacked(what);
    Ok(meaning(&Header { abi, code, ..head.header })?.0)
}

impl<'a> BatchGroup<'a> {
    /// How many calls.
    #[must_use]
    pub(crate) const fn count(&self) -> u64 {
        self.members.count_ones() as u64
    }

    /// Each call, in the order in which they returned.
    pub(crate) fn calls(&self) -> impl Iterator<Item = &'a BatchedCall> + use<'a> {
        let Self { outcomes, mut members, .. } = *self;
        std::iter::from_fn(move || {
            let next = outcomes.get(members.trailing_zeros() as usize)?;
            members &= members - 1;
            Some(next)
        })
    }
}

#[cfg(test)]
mod tests {
    use ipc_trace_common::{
        op::{SyscallCode, Timeout},
        record::{BatchRecord, VERSION},
    };
    use zerocopy::IntoBytes as _;

    use super::*;

    /// A record with calls on these objects.
    fn record(calls: &[(Op, i32)]) -> Vec<u64> {
        let mut words = vec![0_u64; size_of::<BatchRecord>() / 8];
        let head = size_of::<BatchHead>() / 8;
        words[0] = u64::from(VERSION) | u64::from(RecordKind::Batch as u8) << 8;
        words[head - 1] = calls.len() as u64;
        for (at, (op, id)) in calls.iter().enumerate() {
            let code = SyscallCode::new(*op, Timeout::None).0;
            words[head + 4 * at] = at as u64;
            words[head + 4 * at + 3] = PackedCall { id: *id, abi: 0, code }.packed();
        }
        words
    }

    fn groups(words: &[u64]) -> Vec<(Op, i32, Vec<u64>)> {
        let batch = CallBatch::new(words.as_bytes()).unwrap();
        let shown = |group: BatchGroup<'_>| {
            let times: Vec<_> = group.calls().map(|call| call.boot_ns).collect();
            assert_eq!(group.count() as usize, times.len());
            assert_eq!((group.succeeded, Some(&group.succeeded_ns)), (group.count(), times.last()));
            (group.op, group.id, times)
        };
        batch.groups().map(|group| shown(group.unwrap())).collect()
    }

    #[test]
    fn every_call_is_in_one_group_with_its_like() {
        let calls = [(Op::Semop, 1), (Op::Msgsnd, 1), (Op::Semop, 1), (Op::Semop, -2)];
        let expected =
            [(Op::Semop, 1, vec![0, 2]), (Op::Msgsnd, 1, vec![1]), (Op::Semop, -2, vec![3])];
        assert_eq!(groups(&record(&calls)), expected);
        assert_eq!(groups(&record(&[])), []);
        let full = [(Op::Msgrcv, 7); BATCH];
        assert_eq!(groups(&record(&full)), [(Op::Msgrcv, 7, (0..BATCH as u64).collect())]);
    }

    #[test]
    fn what_is_no_batch_is_an_error() {
        let mut words = record(&[(Op::Semop, 1); 2]);
        let head = size_of::<BatchHead>();
        assert!(CallBatch::new(&words.as_bytes()[..head + 63]).is_err());
        assert!(CallBatch::new(&words.as_bytes()[..head + 64]).is_ok());
        words[head / 8 - 1] = BATCH as u64 + 1;
        let mut longer = words.clone();
        longer.extend([0; 8]);
        assert!(CallBatch::new(longer.as_bytes()).is_err());
        words[head / 8 - 1] = 1;
        words[head / 8 + 3] = u64::MAX;
        let batch = CallBatch::new(words.as_bytes()).unwrap();
        assert!(batch.groups().all(|group| group.is_err()));
        assert_eq!(batch.groups().count(), 1);
    }
}
