//! After a loss of records that the state rests on, what exists is listed anew, by a thread of its own, while
//! calls go on being shown.
//!
//! Invariant: it happens within a bounded time after the loss, and the seldomer the more often something is
//! lost: a host that loses all the time is not listed all the time.

use std::{
    io,
    thread::{self, JoinHandle},
};

use super::{Run, RunError, looks::give_back, system};
use crate::{
    engine::pipeline::looks::Reconciled,
    engine::track::clock::boot_ns,
    event::{ResyncAccounting, ls::Ls},
    sources::host::{self, LookError},
    sources::kernel::{census::Census, survey::Survey},
};

/// So long nothing must have been lost before what exists is listed, as long as that is not in vain:
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

/// What lists who holds what, or why there is nothing that does.
type Lister = Result<Survey, String>;

/// A snapshot that is being taken.
#[derive(Debug)]
struct Task {
    /// When the loss was noticed that it mends
    since: u64,
    /// What was listed before it
    before: Census,
    thread: JoinHandle<(Lister, Result<Ls, LookError>)>,
}

/// What is done about losses.
#[derive(Debug, Default)]
pub(super) struct Resync {
    schedule: Schedule,
    task: Option<Task>,
    complete: u64,
    partial: u64,
}

impl Resync {
    /// Records were lost that the state rests on.
    pub(super) fn note_loss(&mut self, now: u64) {
        self.schedule.note_loss(now);
    }

    pub(super) const fn accounting(&self) -> ResyncAccounting {
        let pending = self.schedule.lost.is_some() || self.task.is_some();
        ResyncAccounting { complete: self.complete, partial: self.partial, pending }
    }
}

impl Run {
    /// Lists what exists anew, where that is due, and takes in what was found.
    pub(super) fn resync(&mut self) -> Result<(), RunError> {
        if self.resync.task.as_ref().is_some_and(|task| task.thread.is_finished()) {
            self.finish_resync()?;
        }
        match self.resync.task.is_none() && self.resync.schedule.is_due(boot_ns()) {
            true => self.begin_resync(),
            false => Ok(()),
        }
    }

    fn begin_resync(&mut self) -> Result<(), RunError> {
        self.catch_up(boot_ns())?;
        let now = boot_ns();
        if self.take_losses()? && !self.resync.schedule.is_impatient(now) {
            return Ok(());
        }
        let since = self.resync.schedule.begin(now);
        self.pipeline.tracker.objects.sees_again();
        let before = self.list();
        let setup = &self.setup;
        let survey = self.survey.take().unwrap_or_else(|| setup.session.survey(&setup.layout));
        let take = move || {
            usual_priority();
            let ls = host::look(&host::Options::default(), &survey);
            (survey, ls)
        };
        let thread = thread::Builder::new().name("ipc-trace-sync".to_owned());
        let thread = thread.spawn(take).map_err(system("can't start a thread"))?;
        self.resync.task = Some(Task { since, before, thread });
        Ok(())
    }

    fn finish_resync(&mut self) -> Result<(), RunError> {
        let Some(Task { since, before, thread }) = self.resync.task.take() else { return Ok(()) };
        let ls = match thread.join() {
            Ok((survey, ls)) => {
                self.survey = Some(survey);
                ls
            }
            Err(_) => {
                let source = io::Error::other("the thread failed");
                Err(LookError::System { what: "listing what exists", source })
            }
        };
        let after = self.list();
        self.catch_up(boot_ns())?;
        let more_lost = self.take_losses()? || self.resync.schedule.lost.is_some();
        let now = boot_ns();
        let ls = match ls {
            Ok(ls) => ls,
            Err(error) => {
                log::warn!("what exists can't be listed anew: {error}");
                self.resync.schedule.failed(since, now);
                return Ok(());
            }
        };
        // Else what was read may be of another life of the number.
        let identified = before.complete && after.complete;
        let complete = !more_lost && (identified || self.setup.session.census_refused.is_some());
        let lists = (&before, &after);
        let reconciled: Reconciled =
            self.pipeline.reconcile(&ls, lists, (since, complete), &mut self.mode);
        if complete {
            self.resync.complete += 1;
        } else {
            self.resync.partial += 1;
            self.resync.schedule.failed(since, now);
        }
        self.mode.resync(&reconciled, &self.pipeline.tracker);
        drop(ls);
        give_back();
        Ok(())
    }

    /// No more is to be listed: gives back what lists.
    pub(super) fn stop_resync(&mut self) {
        let Some(Task { since, thread, .. }) = self.resync.task.take() else { return };
        self.resync.schedule.failed(since, boot_ns());
        if let Ok((survey, _)) = thread.join() {
            self.survey = Some(survey);
        }
    }
}

/// The thread that calls this is not more urgent than others: the reader is.
fn usual_priority() {
    // SAFETY: no pointers; 0 is this thread, as Linux has it.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 0) } != 0 {
        log::debug!("a thread's priority stays raised: {}", io::Error::last_os_error());
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
