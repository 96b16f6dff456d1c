//! Batched calls of one thread, grouped by operation, object and error.

use ipc_trace_common::{
    op::Op,
    record::{
        BATCH, BatchHead, BatchedDuration, BatchedGroup, GROUPS, Header, PackedCall, QueueRef,
        RecordKind, flag,
    },
};
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::{DecodeError, meaning, view};
use crate::event::value::CallError;

/// The largest number of equal calls in a batch that was not timed: more than a thread can make in an hour.
const MAX_UNTIMED: u64 = 1 << 36;

/// A batch of calls of one thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallBatch<'a> {
    /// The fields that they share.
    pub head: &'a BatchHead,
    groups: &'a [BatchedGroup; GROUPS],
    durations: &'a [BatchedDuration],
}

/// Equal calls of a batch: on one object, with one error or none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchGroup<'a> {
    /// The operation.
    pub op: Op,
    /// The object's id, for System V; the key, for lookups.
    pub id: i32,
    /// The queue behind the descriptor, for operations that take one.
    pub queue: Option<&'a QueueRef>,
    /// The error of all calls; `None`: they succeeded.
    pub error: Option<CallError>,
    /// How many calls
    pub count: u64,
    /// When the last one returned, boot time in nanoseconds; if they were not timed, the first one.
    pub last_ns: u64,
    /// Sum of the message lengths passed to successful sends, in bytes.
    pub sent: u64,
    /// Sum of their results; for receiving operations the lengths of messages.
    pub results: u64,
    durations: &'a [BatchedDuration],
    index: usize,
}

impl<'a> CallBatch<'a> {
    /// Its record in parts, which together are what [`Self::new`] takes.
    #[must_use]
    pub(crate) fn parts(&self) -> [&'a [u8]; 3] {
        [self.head.as_bytes(), self.groups.as_bytes(), self.durations.as_bytes()]
    }

    /// Decodes the record in `bytes`.
    ///
    /// # Errors
    /// There are too few bytes, or the record has more calls than possible, or, if they were timed, not as many as its
    /// groups have.
    pub(crate) fn new(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let kind = RecordKind::Batch as u8;
        let (head, rest) = view::<BatchHead>(bytes, kind)?;
        let short = || DecodeError::Short { kind, len: bytes.len() };
        let (groups, rest) =
            <[BatchedGroup; GROUPS]>::ref_from_prefix(rest).map_err(|_| short())?;
        if head.header.flags & flag::UNTIMED != 0 {
            if groups.iter().any(|group| group.count > MAX_UNTIMED) {
                return Err(short());
            }
            return Ok(Self { head, groups, durations: &[] });
        }
        let count = head.count as usize;
        let durations = <[BatchedDuration]>::ref_from_prefix_with_elems(rest, count);
        let (durations, _) = durations.map_err(|_| short())?;
        let grouped = groups.iter().filter(|group| group.what != 0).map(|group| group.count);
        let all = grouped.fold(0, u64::saturating_add);
        if count > BATCH || all != count as u64 {
            return Err(short());
        }
        Ok(Self { head, groups, durations })
    }

    /// When the last call returned.
    #[must_use]
    pub(crate) fn boot_ns(&self) -> u64 {
        self.used().map(|(_, group)| group.last_ns).max().unwrap_or(self.head.first_ns)
    }

    /// Counts the calls of each operation. An invalid group is an error.
    #[inline]
    pub(crate) fn count(&self, mut count: impl FnMut(Result<(Op, u64), DecodeError>)) {
        for (_, group) in self.used() {
            count(op_of(self.head, group.what).map(|op| (op, group.count)));
        }
    }

    /// Groups with calls, and their indexes.
    #[inline]
    fn used(&self) -> impl Iterator<Item = (usize, &'a BatchedGroup)> + use<'a> {
        self.groups.iter().enumerate().filter(|(_, group)| group.what != 0 && group.count != 0)
    }

    /// Yields the groups. An invalid group is an error.
    #[inline]
    pub(crate) fn groups(
        &self,
    ) -> impl Iterator<Item = Result<BatchGroup<'a>, DecodeError>> + use<'a> {
        let Self { head, durations, .. } = *self;
        self.used().map(move |(index, group)| {
            let BatchedGroup { what, count, last_ns, sent, results } = *group;
            let op = op_of(head, what)?;
            Ok(BatchGroup {
                op,
                id: PackedCall::unpacked(what).id,
                queue: op.takes_descriptor().then_some(&head.queue),
                error: CallError::from_ret(-i64::from(group.error())),
                count,
                last_ns,
                sent,
                results,
                durations,
                index,
            })
        })
    }
}

/// The operation of a batched call.
fn op_of(head: &BatchHead, what: u64) -> Result<Op, DecodeError> {
    let PackedCall { abi, code, .. } = PackedCall::unpacked(what);
    Ok(meaning(&Header { abi, code, ..head.header })?.0)
}

impl BatchGroup<'_> {
    /// How many calls succeeded.
    #[must_use]
    pub(crate) const fn succeeded(&self) -> u64 {
        if self.error.is_none() { self.count } else { 0 }
    }

    /// What each call took, in nanoseconds, in the order of their returns; of untimed calls nothing.
    #[inline]
    pub(crate) fn durations(&self) -> impl Iterator<Item = u64> {
        let own = self.durations.iter().filter(|duration| duration.group() == self.index);
        own.map(|duration| duration.ns())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use ipc_trace_common::{
        op::{SyscallCode, Timeout},
        record::{BatchRecord, VERSION},
    };
    use zerocopy::{FromZeros as _, IntoBytes as _};

    use super::*;

    /// A batch of calls that took 0, 1, 2, … ns and returned at those times, each an operation on an object with a
    /// result. The kernel's programs put the groups elsewhere.
    pub(crate) fn record(calls: &[(Op, i32, i32)]) -> BatchRecord {
        let mut record = BatchRecord::new_zeroed();
        (record.head.header.version, record.head.header.kind) = (VERSION, RecordKind::Batch as u8);
        record.head.count = calls.len() as u32;
        for (at, (op, id, ret)) in calls.iter().enumerate() {
            let code = SyscallCode::new(*op, Timeout::None).0;
            let error = if *ret < 0 { u64::from(ret.unsigned_abs()) } else { 0 };
            let what =
                PackedCall { id: *id, abi: 0, code }.packed() | error << BatchedGroup::ERROR_SHIFT;
            let is_its = |group: &BatchedGroup| group.what == what || group.what == 0;
            let index = record.groups.iter().position(is_its).unwrap();
            let group = &mut record.groups[index];
            group.what = what;
            group.count += 1;
            group.last_ns = at as u64;
            if error == 0 {
                group.results += u64::from(ret.unsigned_abs());
            }
            record.durations[at] = BatchedDuration((at | index << BatchedDuration::NS_BITS) as u32);
        }
        record
    }

    fn groups(record: &BatchRecord) -> Vec<(Op, i32, Option<CallError>, Vec<u64>)> {
        let batch = CallBatch::new(record.as_bytes()).unwrap();
        let shown = |group: BatchGroup<'_>| {
            let durations: Vec<_> = group.durations().collect();
            assert_eq!(group.count as usize, durations.len());
            assert_eq!(Some(&group.last_ns), durations.last());
            (group.op, group.id, group.error, durations)
        };
        batch.groups().map(|group| shown(group.unwrap())).collect()
    }

    #[test]
    fn each_call_is_in_one_group_of_equal_calls() {
        let calls = [
            (Op::Semop, 1, 0),
            (Op::Msgsnd, 1, 0),
            (Op::Semop, 1, 0),
            (Op::Semop, -2, 0),
            (Op::Semop, 1, -11),
        ];
        let expected = [
            (Op::Semop, 1, None, vec![0, 2]),
            (Op::Msgsnd, 1, None, vec![1]),
            (Op::Semop, -2, None, vec![3]),
            (Op::Semop, 1, Some(CallError(11)), vec![4]),
        ];
        assert_eq!(groups(&record(&calls)), expected);
        assert_eq!(groups(&record(&[])), []);
        let full = [(Op::Msgrcv, 7, 0); BATCH];
        assert_eq!(groups(&record(&full)), [(Op::Msgrcv, 7, None, (0..BATCH as u64).collect())]);
    }

    #[test]
    fn a_malformed_batch_is_an_error() {
        let mut record = record(&[(Op::Semop, 1, 0); 2]);
        let needed = core::mem::offset_of!(BatchRecord, durations) + 2 * 4;
        assert!(CallBatch::new(&record.as_bytes()[..needed - 1]).is_err());
        assert!(CallBatch::new(&record.as_bytes()[..needed]).is_ok());
        record.head.count = 3;
        assert!(CallBatch::new(record.as_bytes()).is_err());
        (record.head.count, record.groups[0].count) = (BATCH as u32 + 1, BATCH as u64 + 1);
        let longer = [record.as_bytes(), &[0; 8]].concat();
        assert!(CallBatch::new(&longer).is_err());
        (record.head.count, record.groups[0].count, record.groups[0].what) = (1, 1, u64::MAX);
        let batch = CallBatch::new(record.as_bytes()).unwrap();
        assert!(batch.groups().all(|group| group.is_err()));
        assert_eq!(batch.groups().count(), 1);
    }
}
