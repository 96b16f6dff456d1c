//! Loads and attaches the programs, and owns their maps: all that has to do with aya.
//!
//! Invariant: a session that can't be built whole is not built, and the error names the program,
//! the hook or the map; a dropped session leaves nothing in the kernel.

use std::{
    collections::BTreeMap,
    fs, io,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    path::Path,
};

use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{Array, HashMap, MapData, MapError, PerCpuArray, RingBuf},
    programs::{BtfTracePoint, FEntry, Iter, ProgramError, RawTracePoint},
};
use aya_log::EbpfLogger;
use ipc_trace_common::{
    hooks,
    op::{Abi, Op},
    record::NsRef,
    state::{self, CONTROL_ROW, DropKey, gate},
};

use tokio::io::{Interest, unix::AsyncFd};

use super::{
    census::{Census, CensusError},
    layout::{KERNEL_BTF, Layout},
    plan::{Flavour, Plan},
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("IPC_TRACE_EBPF_OBJECT"));

/// Programs and the tracepoints that they hook. The gate is closed to calls until the session is
/// opened, so their order does not matter.
const TRACEPOINTS: [(&str, &str); 5] = [
    ("process_exit", "sched_process_exit"),
    ("process_exec", "sched_process_exec"),
    ("task_newtask", "task_newtask"),
    ("sys_enter", "sys_enter"),
    ("sys_exit", "sys_exit"),
];

/// Why tracing can't start.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The kernel's BTF can't be read.
    #[error("can't read BTF for the programs from {path}: {reason}")]
    Btf {
        /// Which file
        path: String,
        /// Why
        reason: String,
    },
    /// Maps can't be made.
    #[error("can't create the maps: {0}; is there enough memory, and may this process lock it?")]
    Maps(String),
    /// A program can't be loaded or attached, in any way that was tried.
    #[error("can't trace system calls: {}", .0.join("; "))]
    Programs(Vec<String>),
    /// A map is not there, or not as expected.
    #[error("map {name} of the programs can't be used: {reason}")]
    Map {
        /// Which
        name: &'static str,
        /// Why
        reason: String,
    },
    /// The census contradicts `/proc`.
    #[error(
        "the kernel's fields are not where its BTF says: the IPC namespace of this process reads as {read}, and /proc/self/ns/ipc says {proc}; name the BTF of this very kernel by --btf FILE"
    )]
    Mismatch {
        /// What the programs read
        read: u32,
        /// What `/proc` says
        proc: u32,
    },
    /// No namespaces can be listed.
    #[error(transparent)]
    Census(#[from] CensusError),
}

/// Filters that the kernel side evaluates.
#[derive(Clone, Debug, Default)]
pub struct KernelFilters {
    /// Bits of [`state::filter`]
    pub bits: u32,
    /// Bits of operations
    pub ops: u32,
    /// Nanoseconds
    pub min_duration_ns: u64,
    /// Processes
    pub pids: Vec<u32>,
    /// Users
    pub uids: Vec<u32>,
    /// Thread names, NUL-padded
    pub comms: Vec<[u8; 16]>,
}

/// What a session is to be like.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes of the event ring: a power of two, at least a page
    pub ring_bytes: u32,
    /// Filters
    pub filters: KernelFilters,
    /// Whether what arguments point to is wanted, where it is for show alone
    pub arguments: bool,
    /// The machine's native ABI
    pub native: Abi,
}

/// Counters of one row, summed over the CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// See [`state::Counters`]
    pub seen: u64,
    /// Taken out by filters
    pub filtered: u64,
    /// Put into the ring
    pub emitted: u64,
    /// No room
    pub dropped: u64,
}

/// The counters of all operations and of the control ring.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllCounts {
    /// By operation
    pub ops: BTreeMap<Op, Counts>,
    /// The control ring
    pub control: Counts,
    /// Runs of programs that the kernel left out
    pub missed: u64,
}

impl AllCounts {
    /// All operations together.
    #[must_use]
    pub fn total(&self) -> Counts {
        self.ops.values().fold(Counts::default(), |sum, one| Counts {
            seen: sum.seen + one.seen,
            filtered: sum.filtered + one.filtered,
            emitted: sum.emitted + one.emitted,
            dropped: sum.dropped + one.dropped,
        })
    }
}

/// Lost calls by namespace, operation and error; namespace 0: no room to tell.
pub type Drops = std::collections::HashMap<DropKey, u64>;

/// Programs that are attached, and their maps.
pub struct Session {
    /// Calls
    pub events: RingBuf<MapData>,
    /// Everything else
    pub control: RingBuf<MapData>,
    /// How the programs are attached
    pub flavour: Flavour,
    /// Why better flavours were not to be had
    pub fallbacks: Vec<String>,
    /// Why no census can be taken
    pub census_refused: Option<String>,
    counters: PerCpuArray<MapData, [u64; 4]>,
    drops: HashMap<MapData, [u32; 3], u64>,
    drops_rest: HashMap<MapData, [u32; 3], u64>,
    gate: Array<MapData, u64>,
    namespaces_filter: HashMap<MapData, [u32; 2], u8>,
    logger: Option<EbpfLogger<&'static dyn log::Log>>,
    self_pid: u32,
    // Keeps the programs and their links.
    ebpf: Ebpf,
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
    pub fn start(
        plan: &Plan,
        layout: &Layout,
        options: &Options,
    ) -> Result<(Self, Census), SessionError> {
        let btf = match plan.flavours.contains(&Flavour::Btf) {
            true => Some(kernel_btf()?),
            false => None,
        };
        let mut fallbacks = Vec::new();
        for flavour in &plan.flavours {
            match attach(*flavour, layout, options, btf.as_ref()) {
                Ok(ebpf) => {
                    let mut session = Self::from_maps(ebpf, *flavour, fallbacks)?;
                    session.census_refused.clone_from(&plan.census_refused);
                    let census = session.begin(btf.as_ref())?;
                    return Ok((session, census));
                }
                Err(AttachError::Session(error)) => return Err(error),
                Err(AttachError::Program(reason)) => fallbacks.push(format!("{flavour}: {reason}")),
            }
        }
        Err(SessionError::Programs(fallbacks))
    }

    fn from_maps(
        mut ebpf: Ebpf,
        flavour: Flavour,
        fallbacks: Vec<String>,
    ) -> Result<Self, SessionError> {
        fn take<T: TryFrom<aya::maps::Map, Error = MapError>>(
            ebpf: &mut Ebpf,
            name: &'static str,
        ) -> Result<T, SessionError> {
            let map = ebpf.take_map(name).ok_or_else(|| SessionError::Map {
                name,
                reason: "it is not in the object".to_owned(),
            })?;
            T::try_from(map).map_err(|e| SessionError::Map { name, reason: e.to_string() })
        }
        let logger = match EbpfLogger::init(&mut ebpf) {
            Ok(logger) => Some(logger),
            Err(error) => {
                log::warn!("the kernel side's log can't be read: {error}");
                None
            }
        };
        Ok(Self {
            events: take(&mut ebpf, "EVENTS")?,
            control: take(&mut ebpf, "CONTROL")?,
            flavour,
            fallbacks,
            census_refused: None,
            counters: take(&mut ebpf, "COUNTERS")?,
            drops: take(&mut ebpf, "DROPS")?,
            drops_rest: take(&mut ebpf, "DROPS_REST")?,
            gate: take(&mut ebpf, "GATE")?,
            namespaces_filter: take(&mut ebpf, "FILTER_NAMESPACES")?,
            logger,
            self_pid: std::process::id(),
            ebpf,
        })
    }

    /// The first census: it also tells which process this is, in the initial pid namespace.
    fn begin(&mut self, btf: Option<&Btf>) -> Result<Census, SessionError> {
        self.set_gate(gate::CONTROL)?;
        let Some(btf) = btf.filter(|_| self.census_refused.is_none()) else {
            return Ok(Census::default());
        };
        let loaded = iterator(&mut self.ebpf)
            .and_then(|program| program.load("task", btf).map_err(|e| describe(&e)));
        if let Err(reason) = loaded {
            self.census_refused = Some(reason);
            return Ok(Census::default());
        }
        let census = self.census()?;
        let own = Path::new("/proc/self/ns/ipc");
        if let Ok(proc) = super::features::namespace_inum(own)
            && proc != census.self_ns_inum
        {
            return Err(SessionError::Mismatch { read: census.self_ns_inum, proc });
        }
        self.self_pid = census.self_pid;
        self.set_gate(gate::CONTROL)?;
        Ok(census)
    }

    /// What exists now. Empty and incomplete where [`Self::census_refused`].
    ///
    /// # Errors
    /// The iterator can't be opened or read.
    pub fn census(&mut self) -> Result<Census, CensusError> {
        if self.census_refused.is_some() {
            return Ok(Census::default());
        }
        let Ok(program) = iterator(&mut self.ebpf) else {
            return Ok(Census::default());
        };
        let link = program.attach()?;
        let file = program.take_link(link)?.into_file()?;
        let census = Census::read(file)?;
        if let Some(logger) = &mut self.logger {
            logger.flush();
        }
        Ok(census)
    }

    /// The event ring's descriptor, which becomes readable when the kernel side wakes the reader.
    ///
    /// # Errors
    /// It can't be duplicated or watched.
    pub fn events_fd(&self) -> io::Result<AsyncFd<OwnedFd>> {
        let fd = self.events.as_fd().try_clone_to_owned()?;
        // SAFETY: an `OwnedFd` keeps one descriptor, its own, until it is dropped.
        unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }
            .map_err(|e| e.into_parts().1)
    }

    /// Adds namespaces that the filter lets through, before [`Self::open`].
    ///
    /// # Errors
    /// There are more than the filter's table holds.
    pub fn filter_namespaces(&mut self, namespaces: &[NsRef]) -> Result<(), SessionError> {
        for ns in namespaces {
            self.namespaces_filter
                .insert([ns.inum, ns.generation], 0, 0)
                .map_err(|e| map_error("FILTER_NAMESPACES", &e))?;
        }
        Ok(())
    }

    /// From now on calls are reported.
    ///
    /// # Errors
    /// The gate can't be written.
    pub fn open(&mut self) -> Result<(), SessionError> {
        self.set_gate(gate::OPEN)
    }

    /// From now on nothing is reported. Programs that are running may still do so.
    ///
    /// # Errors
    /// The gate can't be written.
    pub fn close(&mut self) -> Result<(), SessionError> {
        self.set_gate(gate::CLOSED)
    }

    fn set_gate(&mut self, value: u32) -> Result<(), SessionError> {
        self.gate.set(0, gate::value(value, self.self_pid), 0).map_err(|e| map_error("GATE", &e))
    }

    /// The counters as they are now.
    ///
    /// # Errors
    /// They can't be read.
    pub fn counts(&self) -> Result<AllCounts, SessionError> {
        let row = |row: u32| -> Result<Counts, SessionError> {
            let cpus = self.counters.get(&row, 0).map_err(|e| map_error("COUNTERS", &e))?;
            Ok(cpus.iter().fold(Counts::default(), |sum, [seen, filtered, emitted, dropped]| {
                Counts {
                    seen: sum.seen + seen,
                    filtered: sum.filtered + filtered,
                    emitted: sum.emitted + emitted,
                    dropped: sum.dropped + dropped,
                }
            }))
        };
        let mut counts =
            AllCounts { control: row(CONTROL_ROW)?, missed: self.missed(), ..Default::default() };
        for op in Op::ALL {
            counts.ops.insert(op, row(op as u32)?);
        }
        Ok(counts)
    }

    /// Lost calls so far.
    ///
    /// # Errors
    /// The table can't be read.
    pub fn drops(&self) -> Result<Drops, SessionError> {
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

    /// Runs that the kernel left out because the program was running on that CPU already
    /// (`recursion_misses`, bpf_prog_show_fdinfo, kernel/bpf/syscall.c).
    fn missed(&self) -> u64 {
        let fd_of = |name: &str| {
            let program = self.ebpf.program(&program_name(name, self.flavour))?;
            Some(program.fd().ok()?.as_fd().as_raw_fd())
        };
        TRACEPOINTS
            .iter()
            .filter_map(|(name, _)| fd_of(name))
            .filter_map(|fd| fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok())
            .filter_map(|info| {
                let line = info.lines().find_map(|l| l.strip_prefix("recursion_misses:"))?;
                line.trim().parse::<u64>().ok()
            })
            .sum()
    }
}

fn map_error(name: &'static str, error: &MapError) -> SessionError {
    SessionError::Map { name, reason: error.to_string() }
}

fn kernel_btf() -> Result<Btf, SessionError> {
    Btf::parse_file(KERNEL_BTF, aya::Endianness::default())
        .map_err(|e| SessionError::Btf { path: KERNEL_BTF.to_owned(), reason: e.to_string() })
}

fn program_name(name: &str, flavour: Flavour) -> String {
    match flavour {
        Flavour::Btf => name.to_owned(),
        Flavour::Raw => format!("{name}_raw"),
    }
}

enum AttachError {
    /// Another flavour would not help.
    Session(SessionError),
    /// Another flavour may.
    Program(String),
}

fn attach(
    flavour: Flavour,
    layout: &Layout,
    options: &Options,
    btf: Option<&Btf>,
) -> Result<Ebpf, AttachError> {
    let fields = layout.constants(flavour == Flavour::Btf);
    let dispatch = hooks::dispatch(options.native);
    let any = hooks::any(&dispatch);
    let is_x86 = u32::from(options.native == Abi::X86_64);
    // TS_COMPAT (arch/x86/include/asm/thread_info.h), _TIF_32BIT (arch/arm64/include/asm/…).
    let compat_bit: u32 = if is_x86 == 1 { 0x2 } else { 1 << 22 };
    let filters = &options.filters;
    let arguments = u32::from(options.arguments);
    let mut ebpf = EbpfLoader::new()
        .btf(btf)
        .override_global("FIELDS", &fields, true)
        .override_global("DISPATCH", &dispatch, true)
        .override_global("DISPATCH_ANY", &any, true)
        .override_global("IS_X86", &is_x86, true)
        .override_global("COMPAT_BIT", &compat_bit, true)
        .override_global("FILTERS", &filters.bits, true)
        .override_global("ARGUMENTS", &arguments, true)
        .override_global("OPS", &filters.ops, true)
        .override_global("MIN_DURATION_NS", &filters.min_duration_ns, true)
        .map_max_entries("EVENTS", options.ring_bytes)
        .load(OBJECT)
        .map_err(|e| AttachError::Session(SessionError::Maps(root_cause(&e))))?;
    fill_filters(&mut ebpf, filters).map_err(AttachError::Session)?;
    for (name, tracepoint) in TRACEPOINTS {
        let at = |e: &ProgramError| {
            AttachError::Program(format!("program {name} on {tracepoint}: {}", describe(e)))
        };
        let missing = || AttachError::Program(format!("program {name} is not in the object"));
        let program = ebpf.program_mut(&program_name(name, flavour)).ok_or_else(missing)?;
        match (flavour, btf) {
            (Flavour::Btf, Some(btf)) => {
                let program: &mut BtfTracePoint = program.try_into().map_err(|e| at(&e))?;
                program.load(tracepoint, btf).map_err(|e| at(&e))?;
                program.attach().map_err(|e| at(&e))?;
            }
            (Flavour::Raw | Flavour::Btf, _) => {
                let program: &mut RawTracePoint = program.try_into().map_err(|e| at(&e))?;
                program.load().map_err(|e| at(&e))?;
                program.attach(tracepoint).map_err(|e| at(&e))?;
            }
        }
    }
    Ok(ebpf)
}

fn fill_filters(ebpf: &mut Ebpf, filters: &KernelFilters) -> Result<(), SessionError> {
    fn fill<K: aya::Pod>(
        ebpf: &mut Ebpf,
        name: &'static str,
        keys: &[K],
    ) -> Result<(), SessionError> {
        let Some(map) = ebpf.map_mut(name) else {
            return Err(SessionError::Map { name, reason: "it is not in the object".to_owned() });
        };
        let mut map: HashMap<_, K, u8> = map.try_into().map_err(|e| map_error(name, &e))?;
        for key in keys {
            map.insert(key, 0, 0).map_err(|e| map_error(name, &e))?;
        }
        Ok(())
    }
    fill(ebpf, "FILTER_PIDS", &filters.pids)?;
    fill(ebpf, "FILTER_UIDS", &filters.uids)?;
    fill(ebpf, "FILTER_COMMS", &filters.comms)
}

fn iterator(ebpf: &mut Ebpf) -> Result<&mut Iter, String> {
    let program = ebpf.program_mut("census").ok_or("program census is not in the object")?;
    program.try_into().map_err(|e: ProgramError| describe(&e))
}

/// A program's error in one line: what the kernel said, and the verifier's last word.
fn describe(error: &ProgramError) -> String {
    if let ProgramError::LoadError { io_error, verifier_log } = error {
        let log = verifier_log.to_string();
        let complaint = log.lines().rev().map(str::trim).find(|l| {
            !l.is_empty()
                && !l.starts_with("processed")
                && !l.starts_with("stack depth")
                && !l.starts_with("verification time")
        });
        return match complaint {
            Some(complaint) => format!("the kernel refused it: {io_error} ({complaint})"),
            None => format!("the kernel refused it: {io_error}, without a word by the verifier"),
        };
    }
    root_cause(error)
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = error.source();
    }
    text
}

/// Why this kernel takes no fentry programs; `None`: it does. Loads a program that does nothing,
/// and does not attach it.
#[must_use]
pub fn fentry_refused() -> Option<String> {
    let attempt = || -> Result<(), String> {
        let btf = kernel_btf().map_err(|e| e.to_string())?;
        let mut ebpf = EbpfLoader::new()
            .btf(Some(&btf))
            .map_max_entries("EVENTS", 4096)
            .load(OBJECT)
            .map_err(|e| root_cause(&e))?;
        let program = ebpf.program_mut("fentry_probe").ok_or("program fentry_probe is missing")?;
        let program: &mut FEntry = program.try_into().map_err(|e: ProgramError| describe(&e))?;
        program.load("do_sys_openat2", &btf).map_err(|e| describe(&e))
    };
    attempt().err().map(|reason| format!("no fentry programs: {reason}"))
}

/// Lifts the limit on locked memory, against which kernels before 5.11 count maps.
///
/// # Errors
/// The limit can't be set.
pub fn lift_memory_lock_limit() -> io::Result<()> {
    use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
    Ok(setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY)?)
}

const _: () = assert!(size_of::<DropKey>() == 12 && size_of::<state::Counters>() == 32);
