//! Decides when to take a new snapshot after a loss of records that the tracked state depends on.
//!
//! Invariant: a resync follows a loss within a bounded time. The more often losses occur, the rarer resyncs
//! become: a host that loses records continuously isn't listed continuously.

use minicbor::{Decode, Encode};

use crate::event::ResyncAccounting;

/// How long no loss must have occurred before a snapshot is taken, nanoseconds. This wait ends after
const QUIET_NS: u64 = 900_000_000;
/// this time.
const MAX_DELAY_NS: u64 = 10_000_000_000;
/// Interval between snapshots: the initial and the maximum one, nanoseconds. It doubles with each snapshot,
const MIN_INTERVAL_NS: u64 = 2_000_000_000;
const MAX_INTERVAL_NS: u64 = 128_000_000_000;
/// and is reset after this time without loss.
const RESET_NS: u64 = 120_000_000_000;

/// The schedule of resyncs: pure.
#[derive(Debug, Encode, Decode)]
struct Schedule {
    /// When the first loss not yet repaired by a snapshot occurred, and when the last one did.
    #[n(0)]
    lost: Option<(u64, u64)>,
    /// Earliest time of the next snapshot.
    #[n(1)]
    not_before: u64,
    #[n(2)]
    interval_ns: u64,
}

impl Default for Schedule {
    fn default() -> Self {
        Self { lost: None, not_before: 0, interval_ns: MIN_INTERVAL_NS }
    }
}

impl Schedule {
    fn note_loss(&mut self, now: u64) {
        let since = self.lost.map_or(now, |lost| lost.0);
        self.lost = Some((since, now));
    }

    const fn is_due(&self, now: u64) -> bool {
        match self.lost {
            Some((_, last)) => {
                let calm = now.saturating_sub(last) >= QUIET_NS;
                now >= self.not_before && (calm || self.is_overdue(now))
            }
            None => false,
        }
    }

    /// Whether a snapshot is taken although losses go on.
    const fn is_overdue(&self, now: u64) -> bool {
        match self.lost {
            Some((since, _)) => now.saturating_sub(since) >= MAX_DELAY_NS,
            None => false,
        }
    }

    /// A snapshot begins. Returns since when it repairs losses.
    fn begin(&mut self, now: u64) -> u64 {
        if now >= self.not_before.saturating_add(RESET_NS) {
            self.interval_ns = MIN_INTERVAL_NS;
        }
        self.not_before = now.saturating_add(self.interval_ns);
        self.interval_ns = self.interval_ns.saturating_mul(2).min(MAX_INTERVAL_NS);
        self.lost.take().map_or(now, |lost| lost.0)
    }

    /// The snapshot failed or was incomplete: losses since `since` remain to be repaired.
    fn failed(&mut self, since: u64, now: u64) {
        let last = self.lost.map_or(now, |lost| lost.1);
        self.lost = Some((since, last));
    }
}

/// The resync state.
#[derive(Debug, Default, Encode, Decode)]
pub(super) struct Resync {
    #[n(0)]
    schedule: Schedule,
    /// Since when the snapshot in progress repairs losses.
    #[n(1)]
    taken_since: Option<u64>,
    #[n(2)]
    complete: u64,
    #[n(3)]
    partial: u64,
}

impl Resync {
    /// Records were lost that the tracked state depends on.
    pub(super) fn note_loss(&mut self, now: u64) {
        self.schedule.note_loss(now);
    }

    /// Whether a snapshot is due now; if so, it counts as begun.
    pub(super) fn begin(&mut self, now: u64) -> bool {
        let due = self.taken_since.is_none() && self.schedule.is_due(now);
        if due {
            self.taken_since = Some(self.schedule.begin(now));
        }
        due
    }

    /// A snapshot has arrived. Returns since when it repairs losses, and whether nothing more was lost
    /// meanwhile.
    pub(super) const fn taken(&mut self) -> Option<(u64, bool)> {
        match self.taken_since.take() {
            Some(since) => Some((since, self.schedule.lost.is_none())),
            None => None,
        }
    }

    /// The snapshot was applied, completely or not.
    pub(super) fn done(&mut self, complete: bool, since: u64, now: u64) {
        if complete {
            self.complete += 1;
        } else {
            self.partial += 1;
            self.schedule.failed(since, now);
        }
    }

    /// The snapshot failed.
    pub(super) fn failed(&mut self, since: u64, now: u64) {
        self.schedule.failed(since, now);
    }

    /// No more snapshots are taken.
    pub(super) fn end(&mut self, now: u64) {
        if let Some(since) = self.taken_since.take() {
            self.schedule.failed(since, now);
        }
    }

    pub(super) const fn accounting(&self) -> ResyncAccounting {
        let pending = self.schedule.lost.is_some() || self.taken_since.is_some();
        ResyncAccounting { complete: self.complete, partial: self.partial, pending }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Runs ticks, each with or without a loss. Returns when snapshots began.
    fn begun(seconds: u64, lost: impl Fn(u64) -> bool) -> Vec<u64> {
        let mut schedule = Schedule::default();
        let mut begun = Vec::new();
        for second in 1..=seconds {
            let now = second * SECOND;
            if lost(second) {
                schedule.note_loss(now);
            }
            if schedule.is_due(now) {
                let since = schedule.begin(now);
                begun.push(second);
                // The next tick finds the snapshot done, and complete if nothing was lost meanwhile.
                if lost(second + 1) {
                    schedule.failed(since, now);
                }
            }
        }
        begun
    }

    #[test]
    fn a_single_loss_causes_one_prompt_resync() {
        assert!(begun(1_000, |_| false).is_empty());
        assert_eq!(begun(1_000, |second| second == 100), [101]);
        assert_eq!(begun(1_000, |second| (100..105).contains(&second)), [105]);
    }

    #[test]
    fn each_distant_loss_causes_a_prompt_resync() {
        let begun = begun(10_000, |second| second % 1_000 == 0);
        assert_eq!(begun, Vec::from_iter((1..10).map(|n| n * 1_000 + 1)));
    }

    #[test]
    fn continuous_loss_backs_off_resyncs() {
        for every in [1, 2, 3, 7] {
            let hour = begun(3_600, |second| second % every == 0);
            assert!((20..=40).contains(&hour.len()), "{every}: {hour:?}");
            let apart = hour.windows(2).map(|two| two[1] - two[0]).max().unwrap();
            assert!(apart <= 128 + 10, "{every}: {apart}");
        }
    }
}
