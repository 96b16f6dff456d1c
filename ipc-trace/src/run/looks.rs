//! Looks at what exists: at the start, now and then, at the end.

use std::{collections::BTreeSet, time::Instant};

use ipc_trace_common::record::NsRef;

use super::Run;
use crate::{
    event::ls::Ls,
    kernel::census::Census,
    look::{
        self,
        inside::{self, Target, Way},
    },
    track::clock::boot_ns,
};

impl Run {
    /// Looks at what exists, and opens the gate.
    pub(super) fn look(&mut self) {
        let begin = Instant::now();
        let ls = self.what_exists();
        log::debug!("the look at what exists took {:?}", begin.elapsed());
        self.started = boot_ns();
        self.setup.session.open();
        let census = self.setup.session.census().unwrap_or_else(|error| {
            log::warn!("{error}");
            Census::default()
        });
        let (session, censuses) = (&mut self.setup.session, (&self.setup.census, &census));
        let (control, started) = (&mut session.control, self.started);
        self.pipeline.looked(ls.as_ref(), censuses, started, control, &mut self.mode);
    }

    /// A look; `None` where there is nothing to be seen.
    pub(super) fn what_exists(&mut self) -> Option<Ls> {
        let layout = Some(&self.setup.layout);
        let cgroups = self.pipeline.tracker.containers.hierarchy();
        let options = look::Options { layout, cgroups, ..look::Options::default() };
        // Loaded once for all looks; the kernel's BTF, which is large, is not needed afterwards.
        let btf = self.setup.btf.take();
        let survey = self.survey.get_or_insert_with(|| look::survey(&options, btf.as_ref()));
        drop(btf);
        let ls = look::look(&options, survey)
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
