//! Looks at what exists: at the start, now and then, at the end.

use std::{collections::BTreeSet, time::Duration};

use ipc_trace_common::record::NsRef;

use super::{Run, setup::Setup};
use crate::{
    engine::track::clock::boot_ns,
    event::ls::Ls,
    sources::host::{
        self,
        inside::{self, Target, Way},
    },
    sources::kernel::census::Census,
};

/// Gives memory back that a look took, several times as much as the tracker needs for what was found.
pub(super) fn give_back() {
    // SAFETY: no pointers; only memory that is free is touched.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// From now on, threads have no heaps of their own: free memory at the end of those is never given back
/// (`mtrim`, malloc/malloc.c, glibc 2.36). To be called before there are other threads.
pub(super) fn one_heap() {
    // SAFETY: no pointers.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

impl Run {
    /// Looks at what exists, and opens the gate.
    pub(super) fn look(&mut self) {
        let began = boot_ns();
        let ls = self.what_exists(false);
        self.started = boot_ns();
        let took = Duration::from_nanos(self.started - began);
        log::debug!("the look at what exists took {took:?}");
        self.setup.session.open();
        let census = self.setup.session.census().unwrap_or_else(|error| {
            log::warn!("{error}");
            Census::default()
        });
        let (session, censuses) = (&mut self.setup.session, (&self.setup.census, &census));
        let (control, started) = (&mut session.control, self.started);
        self.pipeline.looked(ls.as_ref(), censuses, started, control, &mut self.mode);
        drop(ls);
        give_back();
    }

    /// A look; `None` where there is nothing to be seen. `cgroups`: those of all processes, too.
    pub(super) fn what_exists(&mut self, cgroups: bool) -> Option<Ls> {
        let Setup { session, layout, .. } = &self.setup;
        // Loaded once for all looks.
        let survey = self.survey.get_or_insert_with(|| session.survey(layout));
        let cgroups = self.pipeline.tracker.containers.hierarchy().filter(|_| cgroups);
        let ls = host::look(&host::Options { cgroups, ..host::Options::default() }, survey)
            .inspect_err(|error| log::warn!("objects that were there are not known: {error}"))
            .ok()?;
        for unseen in &ls.unseen {
            log::info!("not seen of what exists: {unseen}");
        }
        Some(ls)
    }

    /// Looks whether removed segments are gone: nothing tells when the last attachment ends.
    pub(super) fn look_for_the_removed(&mut self) {
        let now = boot_ns();
        let lingering = self.pipeline.tracker.objects.lingering(now);
        if lingering.is_empty() {
            return;
        }
        let own = self.setup.census.self_ns_inum;
        let namespaces = &self.pipeline.tracker.namespaces;
        let target = |(ns, pids): &(NsRef, BTreeSet<u32>)| {
            let id = namespaces.show(*ns).ns_id.map(Way::Id);
            let threads = pids.iter().map(|pid| Way::Thread(*pid, *pid));
            let ways = match ns.inum == own {
                true => vec![Way::Own],
                false => id.into_iter().chain(threads).collect(),
            };
            Target { inum: ns.inum, ways }
        };
        let targets: Vec<Target> = lingering.iter().map(target).collect();
        match inside::look(&targets) {
            Ok(found) => {
                for ((ns, _), inside) in lingering.iter().zip(found) {
                    if let Some(inside) = inside.filter(|inside| inside.unseen.is_empty()) {
                        self.pipeline.lingered(*ns, &inside.objects, now, &mut self.mode);
                    }
                }
            }
            Err(error) => log::warn!("removed segments can't be looked for: {error}"),
        }
    }
}
