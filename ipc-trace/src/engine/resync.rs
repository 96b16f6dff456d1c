//! After a loss of records that the state rests on, what exists is listed anew: when, and what came of it.
//!
//! Invariant: it happens within a bounded time after the loss, and the seldomer the more often something is
//! lost: a host that loses all the time is not listed all the time.

use crate::event::ResyncAccounting;

/// So long nothing must have been lost before what exists is listed, as long as that succeeds:
const CALM_NS: u64 = 900_000_000;
/// so long that is waited for.
const PATIENCE_NS: u64 = 10_000_000_000;
/// From one snapshot to the next: at first, and at most. It doubles each time,
const MIN_INTERVAL_NS: u64 = 2_000_000_000;
const MAX_INTERVAL_NS: u64 = 128_000_000_000;
/// until nothing was lost for so long.
const RARE_NS: u64 = 120_000_000_000;

/// When what exists is listed anew: pure.
#[derive(Debug)]
struct Schedule {
    /// Since when something is lost that no snapshot has mended, and when it was lost last
    lost: Option<(u64, u64)>,
    /// No snapshot before then
    not_before: u64,
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
                let calm = now.saturating_sub(last) >= CALM_NS;
                now >= self.not_before && (calm || self.is_impatient(now))
            }
            None => false,
        }
    }

    /// Whether it is done although more is lost.
    const fn is_impatient(&self, now: u64) -> bool {
        match self.lost {
            Some((since, _)) => now.saturating_sub(since) >= PATIENCE_NS,
            None => false,
        }
    }

    /// A snapshot begins. Since when it mends what was lost.
    fn begin(&mut self, now: u64) -> u64 {
        if now >= self.not_before.saturating_add(RARE_NS) {
            self.interval_ns = MIN_INTERVAL_NS;
        }
        self.not_before = now.saturating_add(self.interval_ns);
        self.interval_ns = self.interval_ns.saturating_mul(2).min(MAX_INTERVAL_NS);
        self.lost.take().map_or(now, |lost| lost.0)
    }

    /// It was of no use, or not whole: what was lost since then is still to be mended.
    fn failed(&mut self, since: u64, now: u64) {
        let last = self.lost.map_or(now, |lost| lost.1);
        self.lost = Some((since, last));
    }
}

/// What is done about losses.
#[derive(Debug, Default)]
pub(super) struct Resync {
    schedule: Schedule,
    /// Since when the snapshot that is being taken mends what was lost
    taken_since: Option<u64>,
    complete: u64,
    partial: u64,
}

impl Resync {
    /// Records were lost that the state rests on.
    pub(super) fn note_loss(&mut self, now: u64) {
        self.schedule.note_loss(now);
    }

    /// Whether a snapshot is to be taken now; then it counts as begun.
    pub(super) fn begin(&mut self, now: u64) -> bool {
        let due = self.taken_since.is_none() && self.schedule.is_due(now);
        if due {
            self.taken_since = Some(self.schedule.begin(now));
        }
        due
    }

    /// A snapshot is there. Since when it mends what was lost, and whether nothing more was lost meanwhile.
    pub(super) const fn taken(&mut self) -> Option<(u64, bool)> {
        match self.taken_since.take() {
            Some(since) => Some((since, self.schedule.lost.is_none())),
            None => None,
        }
    }

    /// It was whole, or not.
    pub(super) fn done(&mut self, complete: bool, since: u64, now: u64) {
        if complete {
            self.complete += 1;
        } else {
            self.partial += 1;
            self.schedule.failed(since, now);
        }
    }

    /// There is none.
    pub(super) fn failed(&mut self, since: u64, now: u64) {
        self.schedule.failed(since, now);
    }

    /// No more are taken.
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

    /// Ticks, each with a loss or not: when snapshots were begun.
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
                // The next tick finds it done, and whole if nothing was lost meanwhile.
                if lost(second + 1) {
                    schedule.failed(since, now);
                }
            }
        }
        begun
    }

    #[test]
    fn one_loss_is_mended_once_and_soon() {
        assert!(begun(1_000, |_| false).is_empty());
        assert_eq!(begun(1_000, |second| second == 100), [101]);
        assert_eq!(begun(1_000, |second| (100..105).contains(&second)), [105]);
    }

    #[test]
    fn losses_far_apart_are_mended_soon_each() {
        let begun = begun(10_000, |second| second % 1_000 == 0);
        assert_eq!(begun, Vec::from_iter((1..10).map(|n| n * 1_000 + 1)));
    }

    #[test]
    fn who_loses_all_the_time_is_not_listed_all_the_time() {
        for every in [1, 2, 3, 7] {
            let hour = begun(3_600, |second| second % every == 0);
            assert!((20..=40).contains(&hour.len()), "{every}: {hour:?}");
            let apart = hour.windows(2).map(|two| two[1] - two[0]).max().unwrap();
            assert!(apart <= 128 + 10, "{every}: {apart}");
        }
    }
}
