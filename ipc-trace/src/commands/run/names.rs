//! Containers of a run: what runtimes call them, and where they are in the end.

use std::time::{Duration, Instant};

use super::{Mode, NAP, Run};
use crate::{
    engine::track::{Tracker, clock::boot_ns},
    event::ls::Ls,
};

/// How long names are waited for in the end, where a runtime answers.
const LAST_NAMES: Duration = Duration::from_millis(250);

impl Run {
    /// Takes what runtimes have said.
    pub(super) fn take_names(&mut self) {
        while let Some(named) = self.names.heard() {
            if let Some(known) = self.pipeline.tracker.containers.named(named) {
                self.mode.container(&known, &self.pipeline.tracker);
            }
        }
    }

    /// Has the kernel side know which cgroups' calls are wanted, and shows calls whose container is known
    /// to be wanted now.
    pub(super) fn filter_containers(&mut self) {
        if !self.pipeline.tracker.containers.are_filtered() {
            return;
        }
        let verdicts = self.pipeline.tracker.containers.take_verdicts();
        if let Err(reason) = self.setup.session.filter_cgroups(&verdicts)
            && !std::mem::replace(&mut self.filter_incomplete, true)
        {
            log::warn!(
                "the kernel's container filter is incomplete ({reason}): calls of containers that are not in it \
                 are filtered in user space, with the same result at a higher cost; trace fewer containers, or \
                 give --ipc-ns too"
            );
        }
        self.pipeline.release(boot_ns(), &mut self.mode);
    }

    /// Names of containers that began just before the end are on their way.
    pub(super) async fn take_last_names(&mut self) {
        let deadline = Instant::now() + LAST_NAMES;
        loop {
            self.take_names();
            let waits = self.names.any_answers() && self.pipeline.tracker.containers.waits();
            if !waits || Instant::now() >= deadline {
                return;
            }
            tokio::time::sleep(NAP).await;
        }
    }

    /// Which containers have processes in which namespaces, at the end.
    pub(super) fn who_lives(&mut self, ls: &mut Ls) {
        let Mode::Report(stats, _) = &mut self.mode else { return };
        let Tracker { containers, namespaces, .. } = &mut self.pipeline.tracker;
        containers.fill(ls, |inum, known| {
            if let Some(ns) = namespaces.of_inum(inum) {
                stats.lives(ns, known);
            }
        });
    }
}
