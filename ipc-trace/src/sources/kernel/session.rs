//! Attached programs, and their maps.
//!
//! Invariant: a session is built completely or not at all, and the error names the program, the hook or the map; a
//! dropped session leaves nothing in the kernel.

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

use aya::maps::{Array, HashMap, MapData};
use aya_log::EbpfLogger;
use ipc_trace_common::{
    op::Op,
    record::NsRef,
    state::{
        self, BATCHES, CONTROL_ROW, COPIES_ROW, COUNTER_ROWS, Coalesced, CoalescedKey, Diagnostic,
        DropKey, gate,
    },
};

use tokio::io::{Interest, unix::AsyncFd};

use super::{
    attach::attach,
    attachments::Attachments,
    aux_probes,
    batches::{self, Batches},
    bpf,
    coalesced::CoalescedCounts,
    detach,
    error::{AttachError, SessionError, map_error},
    features,
    field_offsets::Layout,
    loader::{self, LoadedObject},
    mmap::Words,
    namespace_list::{Lister, NamespaceListError, listed},
    options::{SessionOptions, processors},
    plan::{self, Plan, TracepointMode},
    ring::KernelRing,
    selftest,
    task_iter::TaskIterators,
};
use crate::{
    input::{
        counters::{AllCounts, CallCounters, Drops},
        namespace_list::NamespaceList,
    },
    sources::clock::boot_ns,
};

/// The program of the namespace list, and the one that logs rare conditions, which is loaded when there are any.
const NAMESPACE_LIST: &str = "namespace_list";
const DIAGNOSTICS: &str = "diagnostics";

/// Attached programs, and their maps.
pub(crate) struct Session {
    /// Calls
    pub events: KernelRing,
    /// Everything else
    pub control: KernelRing,
    /// How the programs are attached
    pub flavour: TracepointMode,
    /// Why better modes were not available
    pub fallbacks: Vec<String>,
    /// Why the namespace list is unavailable
    pub namespace_list_refused: Option<String>,
    /// Functions that can't be hooked, and why
    pub unseen: Vec<String>,
    /// Auxiliary probes for which the self-test could not show that their programs run, and why
    pub untested: Vec<String>,
    counters: Words,
    processors: usize,
    drops: HashMap<MapData, [u32; 3], u64>,
    drops_rest: HashMap<MapData, [u32; 3], u64>,
    coalesced: CoalescedCounts,
    gate: Words,
    /// Calls that are not sent yet
    batches: Option<Batches>,
    /// Calls are not timed
    is_untimed: bool,
    /// Calls that user space took from threads' slots, by operation: the programs have not counted them
    taken: BTreeMap<Op, u64>,
    /// Runs that were missed before tracing began
    missed_before: u64,
    /// Counts read since
    readings: RefCell<VecDeque<u64>>,
    is_closed: bool,
    namespaces_filter: HashMap<MapData, [u32; 2], u8>,
    cgroups_filter: HashMap<MapData, u64, u8>,
    /// Counts of rare conditions
    diagnostics: Words,
    /// The counts when they were last logged
    logged: u64,
    /// The program of the namespace list
    namespace_list: Lister,
    self_pid: u32,
    /// Whether programs on functions that create objects always run
    creation_is_known: bool,
    linked: LoadedObject,
    // The programs and their links.
    programs: Attachments,
    /// Dropped last: see [`detach`].
    hold: Option<detach::DetachGuard>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("flavour", &self.flavour).finish_non_exhaustive()
    }
}

impl Session {
    /// Loads and attaches the programs by the plan; they report namespaces' creations and ends, and calls after
    /// [`Self::open`] is called. Returns the namespaces and calls that existed at that time.
    ///
    /// # Errors
    /// Maps or programs can't be created, or what they read contradicts `/proc`.
    pub(crate) fn start(
        plan: &Plan,
        layout: &Layout,
        options: &SessionOptions,
    ) -> Result<(Self, NamespaceList), SessionError> {
        let mut fallbacks = Vec::new();
        for flavour in &plan.flavours {
            match attach(plan, *flavour, layout, options) {
                Ok((linked, programs)) => {
                    let mut session =
                        Self::from_maps(linked, programs, *flavour, fallbacks, options)?;
                    if !plan.hooks.is_empty() {
                        session.hold = detach::DetachGuard::new();
                    }
                    session.creation_is_known =
                        plan.exactness.inexact(plan::Backend::Function).is_none();
                    session.namespace_list_refused.clone_from(&plan.namespace_list_refused);
                    let begin = Instant::now();
                    session.test(plan)?;
                    log::debug!("the self-test took {:?}", begin.elapsed());
                    let namespace_list = session.begin(layout)?;
                    log::debug!("after {:?} it was known what exists", begin.elapsed());
                    return Ok((session, namespace_list));
                }
                Err(AttachError::Session(error)) => return Err(error),
                Err(AttachError::Functions(reasons)) => {
                    return Err(SessionError::Functions(reasons));
                }
                Err(AttachError::Copies(reason)) => return Err(SessionError::Copies(reason)),
                Err(AttachError::Fentry(reason)) => return Err(SessionError::Fentry(reason)),
                Err(AttachError::Flavour(reason)) => {
                    fallbacks.push(format!("{flavour}: {reason}"));
                }
            }
        }
        Err(SessionError::Programs(fallbacks))
    }

    fn from_maps(
        mut linked: LoadedObject,
        mut programs: Attachments,
        flavour: TracepointMode,
        fallbacks: Vec<String>,
        options: &SessionOptions,
    ) -> Result<Self, SessionError> {
        let processors = processors();
        let rows = processors * ROW_WORDS * COUNTER_ROWS as usize;
        Ok(Self {
            events: linked.ring("EVENTS")?,
            control: linked.ring("CONTROL")?,
            flavour,
            fallbacks,
            namespace_list_refused: None,
            unseen: std::mem::take(&mut programs.unseen),
            untested: Vec::new(),
            counters: linked.words("COUNTERS", rows)?,
            processors,
            drops: linked.take("DROPS")?,
            drops_rest: linked.take("DROPS_REST")?,
            coalesced: CoalescedCounts::new(linked.take("COALESCED_ACCESSES")?),
            gate: linked.words(loader::GATE, gate::WORDS as usize)?,
            batches: match options.is_batched() {
                true => Some(Batches::new(
                    linked.words(loader::BATCHES, batches::WORDS * BATCHES as usize)?,
                    linked.take("BATCHES_TAKEN")?,
                    linked.take("NOTED_CALLS")?,
                )),
                false => None,
            },
            is_untimed: !options.times_calls(),
            taken: BTreeMap::new(),
            missed_before: 0,
            readings: RefCell::default(),
            is_closed: false,
            namespaces_filter: linked.take("FILTER_NAMESPACES")?,
            cgroups_filter: linked.take("FILTER_CGROUPS")?,
            diagnostics: linked.words("DIAGNOSTIC_COUNTS", state::DIAGNOSTICS as usize)?,
            logged: 0,
            namespace_list: Lister::default(),
            self_pid: initial_pid(),
            creation_is_known: false,
            linked,
            programs,
            hold: None,
        })
    }

    /// The number of attached auxiliary probes.
    #[must_use]
    pub(crate) fn watched(&self) -> usize {
        self.programs.ways.len()
    }

    /// Runs the self-test. Auxiliary probes that don't fire are dropped, as tracing works without them.
    fn test(&mut self, plan: &Plan) -> Result<(), SessionError> {
        if plan.hooks.is_empty() {
            return Ok(());
        }
        let fired: Array<_, u32> = self.linked.map("FIRED")?;
        let outcome = selftest::run(plan).map_err(SessionError::SelfTest)?;
        let ran = |at: u32| fired.get(&at, 0).is_ok_and(|mark| mark != 0);
        let silent = selftest::silent(plan, &outcome, ran);
        if !silent.is_empty() {
            return Err(SessionError::Functions(silent));
        }
        self.untested = aux_probes::apply_selftest(&mut self.programs, &outcome, ran);
        self.unseen.append(&mut self.programs.unseen);
        Ok(())
    }

    /// Takes the first namespace list, which also reports this process's pid in the initial pid namespace.
    fn begin(&mut self, layout: &Layout) -> Result<NamespaceList, SessionError> {
        // Objects created before the gate is at `CONTROL` are part of the initial snapshot. If programs may be
        // missed, a missing run doesn't prove that no object was created.
        let creation_ops = if self.creation_is_known { self.programs.creation_ops() } else { 0 };
        self.gate.set(gate::CREATED_KNOWN_OPS as usize, u64::from(creation_ops));
        // Until the start time is known, any call may have begun earlier.
        self.gate.set(gate::STARTED as usize, u64::MAX);
        self.set_gate(gate::CONTROL);
        if self.namespace_list_refused.is_none() {
            match self.linked.iterator(NAMESPACE_LIST, "task", layout) {
                Ok(program) => self.namespace_list = Lister::new(program),
                Err(reason) => self.namespace_list_refused = Some(reason),
            }
        }
        if self.namespace_list_refused.is_some() {
            self.gate.set(gate::STARTED as usize, boot_ns());
            return Ok(NamespaceList::default());
        }
        let namespace_list = self.namespace_list()?;
        // By the programs' clock: this process may be in a time namespace.
        self.gate.set(gate::STARTED as usize, namespace_list.boot_ns);
        let own = Path::new("/proc/self/ns/ipc");
        if let Ok(proc) = features::namespace_inum(own)
            && proc != namespace_list.self_ns_inum
        {
            return Err(SessionError::Mismatch { read: namespace_list.self_ns_inum, proc });
        }
        self.self_pid = namespace_list.self_pid;
        self.set_gate(gate::CONTROL);
        Ok(namespace_list)
    }

    /// The current namespaces and calls. Empty and incomplete if [`Self::namespace_list_refused`] is set.
    ///
    /// # Errors
    /// The iterator can't be opened or read.
    pub(crate) fn namespace_list(&self) -> Result<NamespaceList, NamespaceListError> {
        self.namespace_list.list()
    }

    /// Takes namespace lists, for another thread.
    #[must_use]
    pub(crate) fn lister(&self) -> Lister {
        self.namespace_list.clone()
    }

    /// Makes the eBPF programs log rare conditions, if any occurred since the last call.
    pub(crate) fn log_diagnostics(&mut self, layout: &Layout) {
        let so_far = (0..state::DIAGNOSTICS as usize).map(|at| self.diagnostics.get(at)).sum();
        if so_far == std::mem::replace(&mut self.logged, so_far) {
            return;
        }
        let logged = self.linked.iterator(DIAGNOSTICS, "task", layout).and_then(|program| {
            let mut logger = EbpfLogger::init_from_id(number(program.as_fd())?)
                .map_err(|e| format!("its log: {e}"))?;
            listed(program.as_fd()).map_err(|e| e.to_string())?;
            logger.flush();
            Ok(())
        });
        if let Err(reason) = logged {
            log::warn!("rare conditions, {so_far} in all, can't be logged one by one: {reason}");
        }
    }

    /// Rare conditions that occurred, with their counts.
    #[must_use]
    pub(crate) fn diagnosed(&self) -> BTreeMap<String, u64> {
        let counts = Diagnostic::ALL
            .iter()
            .map(|one| (one.name().to_owned(), self.diagnostics.get(*one as usize)));
        counts.filter(|(_, count)| *count > 0).collect()
    }

    /// The task iterators.
    ///
    /// # Errors
    /// Nothing can be listed, and why.
    pub(crate) fn task_iter(&self, layout: &Layout) -> Result<TaskIterators, String> {
        match &self.namespace_list_refused {
            Some(reason) => Err(reason.clone()),
            None => Ok(TaskIterators::load_from(&self.linked, layout)),
        }
    }

    /// The event ring's descriptor, which becomes readable when the eBPF programs wake the reader.
    ///
    /// # Errors
    /// It can't be duplicated or watched.
    pub(crate) fn events_fd(&self) -> io::Result<AsyncFd<OwnedFd>> {
        let fd = self.events.as_fd().try_clone_to_owned()?;
        // SAFETY: an `OwnedFd` keeps one descriptor, its own, until it is dropped.
        unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }
            .map_err(|e| e.into_parts().1)
    }

    /// Adds namespaces that the filter lets through, before [`Self::open`].
    ///
    /// # Errors
    /// There are more than the filter's table holds.
    pub(crate) fn filter_namespaces(&mut self, namespaces: &[NsRef]) -> Result<(), SessionError> {
        for ns in namespaces {
            self.namespaces_filter
                .insert([ns.inum, ns.generation], 0, 0)
                .map_err(|e| map_error("FILTER_NAMESPACES", &e))?;
        }
        Ok(())
    }

    /// Stores whether a cgroup's calls are wanted in the eBPF programs' table; `None`: the cgroup was removed. If a
    /// cgroup can't be stored, its calls are sent, and user space evaluates the filter.
    ///
    /// # Errors
    /// The first cgroup that could not be stored, and why. The others are stored.
    pub(crate) fn filter_cgroups(
        &mut self,
        decisions: &[(u64, Option<bool>)],
    ) -> Result<(), String> {
        let mut failed = Ok(());
        for (cgroup, wanted) in decisions {
            let result = match wanted {
                Some(wanted) => self.cgroups_filter.insert(cgroup, u8::from(*wanted), 0),
                // It may never have been stored.
                None => {
                    let _ = self.cgroups_filter.remove(cgroup);
                    Ok(())
                }
            };
            if let Err(error) = result {
                log::debug!("cgroup {cgroup} is not in the kernel's filter: {error}");
                failed = failed.and(Err(format!("cgroup {cgroup}: {error}")));
            }
        }
        failed
    }

    /// From now on calls are reported.
    pub(crate) fn open(&mut self) {
        self.missed_before = self.settled_counts();
        self.set_gate(gate::OPEN);
    }

    /// Stops tracing. Programs that are running may still report.
    pub(crate) fn close(&mut self) {
        self.set_gate(gate::CLOSED);
        // Threads with batches look at this alone.
        self.end_period();
        self.is_closed = true;
    }

    fn end_period(&mut self) {
        self.gate.add(gate::CHANGES as usize, gate::PERIOD);
    }

    /// Waits until all programs that were running when the gate was closed have ended, as they may write to the
    /// batches that [`Self::take_unsent_batches`] reads.
    pub(crate) fn wait_for_programs(&self) {
        if self.batches.is_some() {
            batches::wait_for_programs();
        }
    }

    /// Records of calls that had not been sent when the gate was closed, each in words.
    #[must_use]
    pub(crate) fn take_unsent_batches(&self) -> Vec<Vec<u64>> {
        self.batches.as_ref().map(Batches::left).unwrap_or_default()
    }

    /// Records of calls that have waited too long to be sent, each in words. Called once a second.
    pub(crate) fn take_idle(&mut self) -> Vec<Vec<u64>> {
        if self.is_untimed {
            self.end_period();
        }
        self.batches.as_mut().map(Batches::take).unwrap_or_default()
    }

    /// Notes that so many calls came in such records.
    pub(crate) fn note_taken(&mut self, op: Op, calls: u64) {
        *self.taken.entry(op).or_default() += calls;
    }

    fn set_gate(&mut self, value: u32) {
        self.gate.set(0, gate::value(value, self.self_pid));
    }

    /// The current counters.
    #[must_use]
    pub(crate) fn counts(&self) -> AllCounts {
        let missed = if self.is_closed { self.settled_counts() } else { self.missed_by_now() };
        let missed = missed.saturating_sub(self.missed_before);
        AllCounts { control: self.row(CONTROL_ROW), missed, ops: self.counts_of_ops() }
    }

    /// The counters of the operations only.
    #[must_use]
    pub(crate) fn counts_of_ops(&self) -> BTreeMap<Op, CallCounters> {
        let count = |op| {
            let mut row = self.row(op as u32);
            let taken = self.taken.get(&op).copied().unwrap_or(0);
            (row.seen, row.emitted) = (row.seen + taken, row.emitted + taken);
            (op, row)
        };
        Op::ALL.into_iter().map(count).collect()
    }

    /// The counters of a row, of all CPUs together.
    fn row(&self, row: u32) -> CallCounters {
        (0..self.processors).fold(CallCounters::default(), |sum, cpu| {
            let at = (cpu * COUNTER_ROWS as usize + row as usize) * ROW_WORDS;
            // In the order of `state::Counters`.
            CallCounters {
                seen: sum.seen + self.counters.get(at),
                filtered: sum.filtered + self.counters.get(at + 1),
                emitted: sum.emitted + self.counters.get(at + 2),
                dropped: sum.dropped + self.counters.get(at + 3),
                not_made: sum.not_made + self.counters.get(at + 4),
                not_made_dropped: sum.not_made_dropped + self.counters.get(at + 5),
                withheld: sum.withheld + self.counters.get(at + 6),
            }
        })
    }

    /// Lost calls so far.
    ///
    /// # Errors
    /// The table can't be read.
    pub(crate) fn drops(&self) -> Result<Drops, SessionError> {
        let mut drops = Drops::new();
        for (name, map) in [("DROPS", &self.drops), ("DROPS_REST", &self.drops_rest)] {
            for entry in map.iter() {
                let ([inum, generation, op_error], count) =
                    entry.map_err(|e| map_error(name, &e))?;
                // struct DropKey: two 16-bit values in the last word, little-endian.
                let [a, b, c, d] = op_error.to_le_bytes();
                let key = DropKey {
                    inum,
                    generation,
                    op: u16::from_le_bytes([a, b]),
                    error: u16::from_le_bytes([c, d]),
                };
                *drops.entry(key).or_default() += count;
            }
        }
        Ok(drops)
    }

    /// The accesses that were coalesced since the last call.
    ///
    /// # Errors
    /// The table can't be read.
    pub(crate) fn coalesced_accesses(
        &mut self,
        now: u64,
    ) -> Result<Vec<(CoalescedKey, Coalesced)>, SessionError> {
        self.coalesced.take(now).map_err(|e| map_error("COALESCED_ACCESSES", &e))
    }

    /// As [`Self::missed`], without runs that count as missed only for a moment: a thread may be preempted after one
    /// copy of a program was skipped, and before the next one does its work. The count is never too small, so the
    /// lowest of several readings is closest.
    fn missed_by_now(&self) -> u64 {
        const READINGS: usize = 4;
        let mut readings = self.readings.borrow_mut();
        readings.push_back(self.missed());
        if readings.len() > READINGS {
            readings.pop_front();
        }
        readings.iter().copied().min().unwrap_or(0)
    }

    /// Likewise, when there is no time for later readings.
    fn settled_counts(&self) -> u64 {
        let mut least = self.missed();
        if self.programs.meters().next().is_some() {
            for _ in 0..5 {
                std::thread::sleep(Duration::from_millis(2));
                least = least.min(self.missed());
            }
        }
        least
    }

    /// Runs that the kernel skipped because the program was running on that CPU already, or for fprobe and perf events
    /// since 6.7 because a thread was in bpf(2) there (`recursion_misses`, bpf_prog_show_fdinfo, kernel/bpf/syscall.c);
    /// and runs for which fprobe had no room. For programs in copies: events for which no copy ran. And calls without a
    /// return ([`Diagnostic::Unreturned`]); those whose return was skipped as above are counted twice.
    fn missed(&self) -> u64 {
        let misses = |program| bpf::program_info(program).ok().map(|info| info.recursion_misses);
        let left_out = self.programs.all().filter_map(misses);
        let by_fprobe = self.programs.fprobes().filter_map(|link| bpf::multi_missed(link).ok());
        // Read before the counter of work done by other copies, which grows later.
        let by_meters: u64 = self.programs.meters().filter_map(misses).sum();
        let copies = self.row(COPIES_ROW);
        let done_without = copies.seen.saturating_sub(copies.filtered);
        let of_all = by_meters.saturating_sub(done_without) + copies.dropped;
        let unreturned = self.diagnostics.get(Diagnostic::Unreturned as usize);
        left_out.chain(by_fprobe).sum::<u64>() + of_all + unreturned
    }
}

/// A program's id.
fn number(program: BorrowedFd<'_>) -> Result<u32, String> {
    let info = bpf::program_info(program);
    Ok(info.map_err(|e| format!("the kernel does not report its id: {e}"))?.id)
}

/// Words of one row of counters.
const ROW_WORDS: usize = size_of::<state::Counters>() / size_of::<u64>();

/// This process's pid in the initial pid namespace, until the namespace list has reported it; `0`: it is in another
/// one.
fn initial_pid() -> u32 {
    match features::is_in_initial_pid_namespace(Path::new("/proc")) {
        Ok(true) => std::process::id(),
        Ok(false) | Err(_) => 0,
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(hold) = &mut self.hold {
            hold.detach_in_background();
        }
    }
}

const _: () = assert!(size_of::<DropKey>() == 12 && size_of::<state::Counters>() == 64);
