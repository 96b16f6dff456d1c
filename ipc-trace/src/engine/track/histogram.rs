//! A histogram of durations: log-linear, with 64 buckets for each power of two.
//!
//! Invariant: a quantile is at most 1.6 % larger than the value that it stands for, and no smaller.

use minicbor::{Decode, Encode};

/// How many buckets a power of two has, as a power of two.
const BITS: u32 = 6;
const BUCKETS: usize = 1 << BITS;

/// How many values there are in each bucket.
#[derive(Clone, Debug, Default, Encode, Decode)]
pub(super) struct DurationHistogram {
    /// It grows as needed
    #[n(0)]
    counts: Vec<u64>,
    #[n(1)]
    max: u64,
}

impl DurationHistogram {
    /// Adds a value.
    #[inline]
    pub(super) fn add(&mut self, value: u64) {
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
    pub(super) const fn max(&self) -> u64 {
        self.max
    }

    /// The smallest value that a part (0 to 1) of all values doesn't exceed, as the largest of its bucket; 0, if there
    /// is no value.
    pub(super) fn quantile(&self, part: f64) -> u64 {
        let all: u64 = self.counts.iter().sum();
        let wanted = ((all as f64 * part).ceil() as u64).max(1);
        let mut sum = 0;
        let found = self.counts.iter().position(|count| {
            sum += count;
            sum >= wanted
        });
        found.map_or(0, |at| largest(at).min(self.max))
    }
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
    }
}
