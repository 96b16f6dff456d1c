//! Programs that are attached, and their maps.
//!
//! Invariant: a session that can't be built whole is not built, and the error names the program,
//! the hook or the map; a dropped session leaves nothing in the kernel.

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    fs, io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

use aya::maps::{Array, HashMap, MapData};
use aya_log::EbpfLogger;
use ipc_trace_common::{
    op::Op,
    record::NsRef,
    state::{
        self, BATCHES, CONTROL_ROW, COPIES_ROW, COUNTER_ROWS, Diagnostic, DropKey, Fold, FoldKey,
        gate,
    },
};

use tokio::io::{Interest, unix::AsyncFd};

use super::{
    attach::attach,
    aux_probes,
    batches::{self, Batches},
    bpf, detach,
    error::{AttachError, SessionError, map_error},
    features,
    folds::Folds,
    layout::Layout,
    mmap::Words,
    namespace_list::{Lister, NamespaceListError, listed},
    object::{self, LoadedObject},
    options::{SessionOptions, processors},
    plan::{self, Plan, TracepointMode},
    programs::Attachments,
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

/// The program of the namespace list, and that which logs what is rare, which is loaded when there is something.
const NAMESPACE_LIST: &str = "namespace_list";
const DIAGNOSTICS: &str = "diagnostics";

/// Programs that are attached, and their maps.
pub(crate) struct Session {
    /// Calls
    pub events: KernelRing,
    /// Everything else
    pub control: KernelRing,
    /// How the programs are attached
    pub flavour: TracepointMode,
    /// Why better flavours were not to be had
    pub fallbacks: Vec<String>,
    /// Why no namespace list can be taken
    pub namespace_list_refused: Option<String>,
    /// What is not seen, and why
    pub unseen: Vec<String>,
    /// Functions on ways to objects that are no operations of which nothing shows that their programs are
    /// run, and why
    pub untested: Vec<String>,
    counters: Words,
    processors: usize,
    drops: HashMap<MapData, [u32; 3], u64>,
    drops_rest: HashMap<MapData, [u32; 3], u64>,
    folds: Folds,
    gate: Words,
    /// Calls that are not sent yet
    batches: Option<Batches>,
    /// Calls that were taken out of the places of others, by operation: the programs have not counted them
    taken: BTreeMap<Op, u64>,
    /// Runs that were left out before calls were wanted
    missed_before: u64,
    /// What was read of them since
    readings: RefCell<VecDeque<u64>>,
    is_closed: bool,
    namespaces_filter: HashMap<MapData, [u32; 2], u8>,
    cgroups_filter: HashMap<MapData, u64, u8>,
    /// What is rare, counted
    diagnostics: Words,
    /// How often it had come up when it was logged last
    logged: u64,
    /// The program that lists what exists
    namespace_list: Lister,
    self_pid: u32,
    /// Whether programs where objects are made are always run
    births_are_known: bool,
    linked: LoadedObject,
    // The programs and their links.
    programs: Attachments,
    /// Dropped last: see [`detach`].
    hold: Option<detach::Hold>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("flavour", &self.flavour).finish_non_exhaustive()
    }
}

impl Session {
    /// Loads and attaches the programs by the plan; they report namespaces' lives, and calls once
    /// [`Self::open`] was called. Returns what existed when that began.
    ///
    /// # Errors
    /// Maps or programs can't be made, or what they read contradicts `/proc`.
    pub(crate) fn start(
        plan: &Plan,
        layout: &Layout,
        options: &SessionOptions,
    ) -> Result<(Self, NamespaceList), SessionError> {
        let mut fallbacks = Vec::new();
        for flavour in &plan.flavours {
            match attach(plan, *flavour, layout, options) {
                Ok((linked, programs)) => {
                    let batched = options.is_batched();
                    let mut session =
                        Self::from_maps(linked, programs, *flavour, fallbacks, batched)?;
                    if !plan.hooks.is_empty() {
                        session.hold = detach::Hold::new();
                    }
                    session.births_are_known =
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
        batched: bool,
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
            folds: Folds::new(linked.take("ACCESS_FOLDS")?),
            gate: linked.words(object::GATE, gate::WORDS as usize)?,
            batches: match batched {
                true => Some(Batches::new(
                    linked.words("BATCHES", batches::WORDS * BATCHES as usize)?,
                    linked.take("BATCHES_TAKEN")?,
                    linked.take("NOTED_CALLS")?,
                )),
                false => None,
            },
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
            births_are_known: false,
            linked,
            programs,
            hold: None,
        })
    }

    /// How many functions are watched beside those of the system calls.
    #[must_use]
    pub(crate) fn watched(&self) -> usize {
        self.programs.ways.len()
    }

    /// Makes the calls whose functions are hooked, and sees whether the programs were run. What is silent on
    /// auxiliary probes, tracing can do without.
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

    /// The first namespace list: it also tells which process this is, in the initial pid namespace.
    fn begin(&mut self, layout: &Layout) -> Result<NamespaceList, SessionError> {
        // What is made before the gate is at `CONTROL` was there when the look at the start comes to it.
        // Where programs may be left out, that none was run does not prove that nothing was made.
        let births = if self.births_are_known { self.programs.births() } else { 0 };
        self.gate.set(gate::BIRTHS as usize, u64::from(births));
        // Until it is known when that was, any call may have begun before.
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

    /// What exists now. Empty and incomplete where [`Self::namespace_list_refused`].
    ///
    /// # Errors
    /// The iterator can't be opened or read.
    pub(crate) fn namespace_list(&self) -> Result<NamespaceList, NamespaceListError> {
        self.namespace_list.list()
    }

    /// What lists what exists, for another thread.
    #[must_use]
    pub(crate) fn lister(&self) -> Lister {
        self.namespace_list.clone()
    }

    /// Has the eBPF programs log what is rare, if it came up since this was asked last.
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
            log::warn!("rare conditions, {so_far} in all, can't be told apart: {reason}");
        }
    }

    /// What is rare and came up, with how often.
    #[must_use]
    pub(crate) fn diagnosed(&self) -> BTreeMap<String, u64> {
        let counts = Diagnostic::ALL
            .iter()
            .map(|one| (one.name().to_owned(), self.diagnostics.get(*one as usize)));
        counts.filter(|(_, count)| *count > 0).collect()
    }

    /// What lists who holds what.
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

    /// Tells the eBPF programs whether a cgroup's calls are wanted; `None`: the cgroup is gone. If one can't be
    /// put into their table, its calls come, and user space evaluates the filter.
    ///
    /// # Errors
    /// The first cgroup that could not be put into the table, and why. The others are.
    pub(crate) fn filter_cgroups(
        &mut self,
        verdicts: &[(u64, Option<bool>)],
    ) -> Result<(), String> {
        let mut failed = Ok(());
        for (cgroup, wanted) in verdicts {
            let result = match wanted {
                Some(wanted) => self.cgroups_filter.insert(cgroup, u8::from(*wanted), 0),
                // It may never have been there.
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
        self.missed_before = self.settled();
        self.set_gate(gate::OPEN);
    }

    /// From now on nothing is reported. Programs that are running may still do so.
    pub(crate) fn close(&mut self) {
        self.set_gate(gate::CLOSED);
        self.is_closed = true;
    }

    /// Waits until all programs that ran when the gate was closed have ended, where they may write to
    /// what [`Self::left`] reads.
    pub(crate) fn wait_for_programs(&self) {
        if self.batches.is_some() {
            batches::wait_for_programs();
        }
    }

    /// Records of calls that had not been sent when the gate was closed, each in words.
    #[must_use]
    pub(crate) fn left(&self) -> Vec<Vec<u64>> {
        self.batches.as_ref().map(Batches::left).unwrap_or_default()
    }

    /// Records of calls that have waited for too long to be sent, each in words.
    pub(crate) fn take_idle(&mut self) -> Vec<Vec<u64>> {
        self.batches.as_mut().map(Batches::take).unwrap_or_default()
    }

    /// So many calls came in such records.
    pub(crate) fn note_taken(&mut self, op: Op, calls: u64) {
        *self.taken.entry(op).or_default() += calls;
    }

    fn set_gate(&mut self, value: u32) {
        self.gate.set(0, gate::value(value, self.self_pid));
    }

    /// The counters as they are now.
    #[must_use]
    pub(crate) fn counts(&self) -> AllCounts {
        let missed = if self.is_closed { self.settled() } else { self.missed_by_now() };
        let missed = missed.saturating_sub(self.missed_before);
        AllCounts { control: self.row(CONTROL_ROW), missed, ops: self.counts_of_ops() }
    }

    /// The counters of the operations alone.
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
            // As `state::Counters` has them.
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

    /// Accesses that were counted since this was asked last, and not told of.
    ///
    /// # Errors
    /// The table can't be read.
    pub(crate) fn folded(&mut self, now: u64) -> Result<Vec<(FoldKey, Fold)>, SessionError> {
        self.folds.take(now).map_err(|e| map_error("ACCESS_FOLDS", &e))
    }

    /// As [`Self::missed`], without what is counted as missed for a moment: a thread may be preempted after one
    /// copy of a program was left out, and before the next one does its work. That is never too little, so the least
    /// of several readings is nearest.
    fn missed_by_now(&self) -> u64 {
        const READINGS: usize = 4;
        let mut readings = self.readings.borrow_mut();
        readings.push_back(self.missed());
        if readings.len() > READINGS {
            readings.pop_front();
        }
        readings.iter().copied().min().unwrap_or(0)
    }

    /// Likewise, where there is no time to wait for later readings.
    fn settled(&self) -> u64 {
        let mut least = self.missed();
        if self.programs.meters().next().is_some() {
            for _ in 0..5 {
                std::thread::sleep(Duration::from_millis(2));
                least = least.min(self.missed());
            }
        }
        least
    }

    /// Runs that the kernel left out because the program was running on that CPU already, or for fprobe and
    /// perf events since 6.7 because a thread was in bpf(2) there (`recursion_misses`, bpf_prog_show_fdinfo,
    /// kernel/bpf/syscall.c); and what fprobe had no room for. Of programs in copies, events for which none of
    /// them was run.
    fn missed(&self) -> u64 {
        let misses = |fd| fact(fd, "recursion_misses:");
        let left_out = self.programs.all().filter_map(misses);
        let by_fprobe = self.programs.fprobes().filter_map(|link| bpf::multi_missed(link).ok());
        // Before what others did without them is counted, which comes later.
        let by_meters: u64 = self.programs.meters().filter_map(misses).sum();
        let copies = self.row(COPIES_ROW);
        let done_without = copies.seen.saturating_sub(copies.filtered);
        let of_all = by_meters.saturating_sub(done_without) + copies.dropped;
        left_out.chain(by_fprobe).sum::<u64>() + of_all
    }
}

/// A number that the kernel tells of a descriptor.
fn fact(fd: BorrowedFd<'_>, name: &str) -> Option<u64> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).ok()?;
    info.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok()
}

/// A program's number.
fn number(program: BorrowedFd<'_>) -> Result<u32, String> {
    let number = fact(program, "prog_id:").and_then(|number| u32::try_from(number).ok());
    number.ok_or_else(|| "the kernel does not tell its number".to_owned())
}

/// Words of one batch.
/// Words of one row of counters.
const ROW_WORDS: usize = size_of::<state::Counters>() / size_of::<u64>();

/// This process's number in the initial pid namespace, as long as the namespace list has not told; `0`: it is in another one.
fn initial_pid() -> u32 {
    match features::is_in_initial_pid_namespace(Path::new("/proc")) {
        Ok(true) => std::process::id(),
        Ok(false) | Err(_) => 0,
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(hold) = &mut self.hold {
            hold.pass_on();
        }
    }
}

const _: () = assert!(size_of::<DropKey>() == 12 && size_of::<state::Counters>() == 64);
