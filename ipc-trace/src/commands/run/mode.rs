//! What is made of the events: lines, or a report.

use ipc_trace_common::record::BatchHead;

use crate::{
    cli::OutputFormat,
    engine::detect::store::Shown,
    engine::pipeline::{Change, Sink, looks::Reconciled},
    engine::track::containers::Known,
    engine::track::{Tracker, clock::boot_ns, losses::NewLosses, objects, stats::Stats},
    input::Call,
    input::batch::Group,
    sinks::live::Live,
};

/// What is made of the events.
#[derive(Debug)]
pub(crate) enum Mode {
    /// Lines while they happen
    Live(Live),
    /// A report in the end
    Report(Box<Stats>, OutputFormat),
}

impl Sink for Mode {
    fn call(&mut self, call: &Call<'_>, tracker: &Tracker) -> Option<u64> {
        match self {
            Self::Live(live) => live.call(call, tracker),
            Self::Report(stats, _) => {
                stats.call(call, tracker);
                None
            }
        }
    }

    fn group(&mut self, head: &BatchHead, group: &Group<'_>, tracker: &Tracker) {
        match self {
            Self::Live(live) => live.group(head, group, tracker),
            Self::Report(stats, _) => stats.group(head, group, tracker),
        }
    }

    fn is_full(&self) -> bool {
        match self {
            Self::Live(live) => live.is_full(),
            Self::Report(..) => false,
        }
    }

    fn objects(&mut self, changes: &[objects::Change], tracker: &Tracker) {
        match self {
            Self::Live(live) => live.objects(changes, tracker),
            // The tracker keeps them.
            Self::Report(..) => {}
        }
    }

    fn finding(&mut self, shown: &Shown, now: u64, tracker: &Tracker) {
        match self {
            Self::Live(live) => live.finding(shown, now, tracker),
            // They are kept for the end.
            Self::Report(..) => {}
        }
    }

    fn namespace(&mut self, change: &Change, tracker: &Tracker) -> Option<u64> {
        match self {
            Self::Live(live) => live.namespace(change, tracker),
            Self::Report(stats, _) => {
                if change.death.is_some() {
                    stats.died(change.ns);
                }
                None
            }
        }
    }
}

impl Mode {
    pub(super) fn container(&mut self, known: &Known, tracker: &Tracker) {
        match self {
            Self::Live(live) => live.container(known, boot_ns(), tracker),
            // It has the name in the end.
            Self::Report(..) => {}
        }
    }

    pub(super) fn resync(&mut self, reconciled: &Reconciled, tracker: &Tracker) {
        match self {
            Self::Live(live) => live.resync(reconciled, boot_ns(), tracker),
            // The accounting says it.
            Self::Report(..) => {}
        }
    }

    pub(super) fn loss(&mut self, losses: &NewLosses, tracker: &Tracker) {
        match self {
            Self::Live(live) => live.loss(losses, boot_ns(), tracker),
            Self::Report(stats, _) => losses.by.iter().for_each(|loss| stats.lost(loss)),
        }
    }
}
