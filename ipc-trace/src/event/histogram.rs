//! Histograms of durations: log-linear, with 64 buckets for each power of two. One kind is fast and has room for all
//! buckets; the other one is small and has only those with values.
//!
//! Invariant: a quantile is at most 1.6 % larger than the value that it stands for, and no smaller.

use ipc_trace_common::cbor::{Encoded, invalid};
use minicbor::{Decode, Decoder, Encode, Encoder, decode::Error, encode::Write};

/// How many buckets a power of two has, as a power of two.
const BITS: u32 = 6;
const BUCKETS: usize = 1 << BITS;

/// How many values there are in each bucket.
#[derive(Clone, Debug, Default, Encode, Decode)]
pub(crate) struct DurationHistogram {
    /// It grows as needed
    #[n(0)]
    counts: Vec<u64>,
    #[n(1)]
    max: u64,
}

impl DurationHistogram {
    /// Adds a value.
    #[inline]
    pub(crate) fn add(&mut self, value: u64) {
        let at = index(value);
        match self.counts.get_mut(at) {
            Some(count) => *count += 1,
            None => self.grow(at),
        }
        self.max = self.max.max(value);
    }

    /// Adds a value that needs more buckets than there are.
    #[cold]
    fn grow(&mut self, at: usize) {
        self.counts.resize((at / BUCKETS + 1) * BUCKETS, 0);
        if let Some(count) = self.counts.get_mut(at) {
            *count = 1;
        }
    }

    /// The largest value; 0, if there is none.
    pub(crate) const fn max(&self) -> u64 {
        self.max
    }

    /// The smallest value that a part (0 to 1) of all values doesn't exceed, as the largest of its bucket; 0, if there
    /// is no value.
    pub(crate) fn quantile(&self, part: f64) -> u64 {
        quantile(self.counts.iter().copied().enumerate(), self.max, part)
    }
}

/// The values of one second are few, and in few buckets: only these are kept, so that there can be many such histograms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SparseHistogram {
    /// Buckets with how many values they have, in their order
    counts: Vec<(u16, u64)>,
    max: u64,
}

impl SparseHistogram {
    /// Counts a value.
    #[inline]
    pub(crate) fn insert(&mut self, value: u64) {
        self.add_to(index(value) as u16, 1);
        self.max = self.max.max(value);
    }

    #[inline]
    fn add_to(&mut self, bucket: u16, count: u64) {
        let place = self.counts.binary_search_by_key(&bucket, |(bucket, _)| *bucket);
        match place.map(|at| self.counts.get_mut(at)) {
            Ok(Some((_, known))) => *known = known.saturating_add(count),
            Ok(None) => {}
            Err(at) => self.counts.insert(at, (bucket, count)),
        }
    }

    /// Adds the values of another one.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn add(&mut self, other: &Self) {
        other.counts.iter().for_each(|(bucket, count)| self.add_to(*bucket, *count));
        self.max = self.max.max(other.max);
    }

    /// Whether it has no value.
    pub(crate) const fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// How many values it has.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn count(&self) -> u64 {
        self.counts.iter().fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }

    /// The largest value; 0, if there is none.
    #[cfg(any(feature = "sqlite", feature = "parquet", test, fuzzing))]
    pub(crate) const fn max(&self) -> u64 {
        self.max
    }

    /// As [`DurationHistogram::quantile`].
    #[cfg(any(feature = "sqlite", feature = "parquet", test, fuzzing))]
    pub(crate) fn quantile(&self, part: f64) -> u64 {
        let counts = self.counts.iter().map(|(bucket, count)| (usize::from(*bucket), *count));
        quantile(counts, self.max, part)
    }
}

/// An array of the largest value, and of a bucket and its number of values by turns.
impl<C> Encode<C> for SparseHistogram {
    fn encode<W: Write>(&self, to: &mut Encoder<W>, _: &mut C) -> Encoded<W> {
        to.array(1 + 2 * self.counts.len() as u64)?.u64(self.max)?;
        self.counts.iter().try_for_each(|(bucket, count)| {
            to.u16(*bucket)?.u64(*count)?;
            Ok(())
        })
    }
}

impl<'b, C> Decode<'b, C> for SparseHistogram {
    fn decode(from: &mut Decoder<'b>, _: &mut C) -> Result<Self, Error> {
        let len = from.array()?.filter(|len| len % 2 == 1);
        let len = len.ok_or_else(|| invalid("a histogram of another length"))?;
        let mut all = Self { counts: Vec::new(), max: from.u64()? };
        // The length isn't trusted. Buckets go up, so there are no more of them than exist.
        for _ in 0..len / 2 {
            let (bucket, count) = (from.u16()?, from.u64()?);
            let follows = all.counts.last().is_none_or(|(last, _)| *last < bucket);
            if !follows || count == 0 || usize::from(bucket) > index(u64::MAX) {
                return Err(invalid("a histogram has no such bucket"));
            }
            all.counts.push((bucket, count));
        }
        Ok(all)
    }
}

/// A quantile of buckets with their numbers of values, in their order.
fn quantile(mut counts: impl Iterator<Item = (usize, u64)> + Clone, max: u64, part: f64) -> u64 {
    let all = counts.clone().fold(0_u64, |sum, (_, count)| sum.saturating_add(count));
    let wanted = ((all as f64 * part).ceil() as u64).max(1);
    let mut sum = 0_u64;
    let found = counts.find(|(_, count)| {
        sum = sum.saturating_add(*count);
        sum >= wanted
    });
    found.map_or(0, |(at, _)| largest(at).min(max))
}

/// The bucket of a value.
#[inline]
const fn index(value: u64) -> usize {
    // 0 for values that have buckets of their own.
    let power = (value | (BUCKETS as u64 - 1)).ilog2() - (BITS - 1);
    let within = value >> power.saturating_sub(1) & (BUCKETS as u64 - 1);
    (power as usize) << BITS | within as usize
}

/// The largest value of a bucket.
const fn largest(at: usize) -> u64 {
    let (power, within) = (at >> BITS, (at & (BUCKETS - 1)) as u64);
    if power == 0 {
        return within;
    }
    let smallest = (BUCKETS as u64 + within) << (power - 1);
    smallest + ((1 << (power - 1)) - 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_bucket_ends_where_the_next_begins() {
        assert_eq!(index(0), 0);
        let last = index(u64::MAX);
        for at in 0..last {
            assert_eq!((index(largest(at)), index(largest(at) + 1)), (at, at + 1));
        }
        assert_eq!(largest(last), u64::MAX);
    }

    #[test]
    fn histogram_without_values_has_zeros() {
        let none = DurationHistogram::default();
        assert_eq!((none.quantile(0.5), none.max()), (0, 0));
    }

    proptest! {
        #[test]
        fn quantiles_are_close_to_those_of_the_values(
            mut values in prop::collection::vec(prop_oneof![0..2000_u64, any::<u64>()], 1..200),
            part in 0.0..=1.0_f64,
        ) {
            let mut histogram = DurationHistogram::default();
            values.iter().for_each(|value| histogram.add(*value));
            values.sort_unstable();
            let at = ((values.len() as f64 * part).ceil() as usize).max(1) - 1;
            let (exact, found) = (values[at], histogram.quantile(part));
            prop_assert!(exact <= found && found - exact <= exact / 60, "{exact} {found}");
            prop_assert_eq!(Some(&histogram.max()), values.last());
        }

        /// Both kinds say the same of the same values, in one histogram or in two, after encoding, too.
        #[test]
        fn sparse_histograms_are_as_the_others(
            values in prop::collection::vec(prop_oneof![0..2000_u64, any::<u64>()], 0..200),
            split in 0..200_usize,
            part in 0.0..=1.0_f64,
        ) {
            let mut whole = DurationHistogram::default();
            values.iter().for_each(|value| whole.add(*value));
            let [mut first, mut second] = [(); 2].map(|()| SparseHistogram::default());
            let (before, behind) = values.split_at(split.min(values.len()));
            before.iter().for_each(|value| first.insert(*value));
            behind.iter().for_each(|value| second.insert(*value));
            first.add(&second);
            let bytes = minicbor::to_vec(&first).unwrap();
            let again: SparseHistogram = minicbor::decode(&bytes).unwrap();
            prop_assert_eq!(&again, &first);
            prop_assert_eq!(again.count(), values.len() as u64);
            prop_assert_eq!(again.is_empty(), values.is_empty());
            prop_assert_eq!(again.quantile(part), whole.quantile(part));
            prop_assert_eq!(again.max(), whole.max());
        }

        /// What was decoded is in order, so it is the same after encoding.
        #[test]
        fn any_bytes_are_a_sparse_histogram_or_refused(
            buckets in prop::collection::vec((any::<u16>(), any::<u64>()), 0..5),
            rest in prop::collection::vec(any::<u8>(), 0..5),
        ) {
            let mut bytes = Vec::new();
            let mut to = Encoder::new(&mut bytes);
            to.array(1 + 2 * buckets.len() as u64).unwrap().u64(7).unwrap();
            for (bucket, count) in &buckets {
                to.u16(bucket % 5000).unwrap().u64(*count).unwrap();
            }
            let kept = bytes.len().saturating_sub(rest.len());
            bytes.splice(kept.., rest);
            if let Ok(first) = minicbor::decode::<SparseHistogram>(&bytes) {
                let again = minicbor::decode(&minicbor::to_vec(&first).unwrap()).unwrap();
                prop_assert_eq!(&first, &again);
                prop_assert!(first.quantile(1.0) <= first.max());
            }
        }
    }
}
