//! Loads the object and attaches the programs of a plan.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::fd::AsFd as _,
    time::Instant,
};

use aya::{
    Btf, Ebpf, EbpfLoader, Pod,
    maps::{HashMap, MapError},
    programs::{BtfTracePoint, Iter, Program, ProgramError, RawTracePoint, TracePoint},
};
use ipc_trace_common::{
    hooks,
    layout::ABSENT,
    op::Abi,
    record::CallRecord,
    state::{BATCHES, COUNTER_ROWS, filter, gate},
};

use super::{
    bpf::Linked,
    layout::{KERNEL_BTF, Layout},
    plan::{Flavour, Plan, dispatched},
    programs::Programs,
    session::{KernelFilters, Options, SessionError, map_error, processors},
    steady, trampolines,
};

/// The kernel side, with plain loads where they are allowed, and without any.
static PLAIN: &[u8] = aya::include_bytes_aligned!(env!("IPC_TRACE_EBPF_PLAIN"));
static PROBE: &[u8] = aya::include_bytes_aligned!(env!("IPC_TRACE_EBPF_PROBE"));

/// A program, its tracepoint, and what this is called as a perf event: with the kind that tracefs has
/// it under, where the program has a twin for perf events.
type OnTracepoint = (&'static str, &'static str, Option<&'static str>);

/// Programs that every plan needs. The gate is closed until the session is begun, so their order does
/// not matter. A perf event does not lead to the new thread; the program there is done after a few
/// instructions for all but the births of namespaces.
const CONTROL: [OnTracepoint; 3] = [
    ("process_exit", "sched_process_exit", Some("sched/sched_process_exit")),
    ("process_exec", "sched_process_exec", Some("sched/sched_process_exec")),
    ("task_newtask", "task_newtask", None),
];

/// Those that tell of cgroups. Tracing can do without them.
const CGROUPS: [&str; 3] = ["cgroup_mkdir", "cgroup_rmdir", "cgroup_attach_task"];

/// Those of backend `syscall`.
const SYSCALL: [OnTracepoint; 2] = [
    ("sys_enter", "sys_enter", Some("raw_syscalls/sys_enter")),
    ("sys_exit", "sys_exit", Some("raw_syscalls/sys_exit")),
];

/// Why programs could not be attached.
#[derive(Debug)]
pub enum AttachError {
    /// Another flavour or backend would not help.
    Session(SessionError),
    /// Another flavour may.
    Flavour(String),
    /// A plan without these functions may: each with the reason.
    Functions(BTreeMap<&'static str, String>),
    /// A plan without any function may.
    Fentry(String),
}

/// The running kernel's BTF, in which the programs' hooks are found.
///
/// # Errors
/// It can't be read.
pub fn kernel_btf() -> Result<Btf, SessionError> {
    Btf::parse_file(KERNEL_BTF, aya::Endianness::default())
        .map_err(|e| SessionError::Btf { path: KERNEL_BTF.to_owned(), reason: e.to_string() })
}

/// Functions of the hook table that the kernel has, by `kallsyms`. `None`: it does not say.
#[must_use]
pub fn present_functions(kallsyms: &std::path::Path) -> Option<BTreeSet<&'static str>> {
    let text = fs::read(kallsyms).ok()?;
    let wanted: BTreeSet<&'static str> = hooks::functions().collect();
    let mut found = BTreeSet::new();
    // ADDRESS TYPE NAME [MODULE]; addresses may be hidden, names are not.
    for line in text.split(|byte| *byte == b'\n') {
        let Some(name) = line.split(|byte| *byte == b' ').nth(2) else { continue };
        // Cheap to look at, and true of all that is wanted.
        if !name.starts_with(b"__") {
            continue;
        }
        if let Some(name) = std::str::from_utf8(name).ok().and_then(|name| wanted.get(name)) {
            found.insert(*name);
        }
    }
    (!found.is_empty()).then_some(found)
}

/// Loads the object for a plan and attaches its programs, with the gate at `gate::TEST`.
pub(super) fn attach(
    plan: &Plan,
    flavour: Flavour,
    layout: &Layout,
    options: &Options,
    btf: Option<&Btf>,
) -> Result<(Ebpf, Programs), AttachError> {
    let begin = Instant::now();
    let mut ebpf = load(plan, flavour, layout, options, btf).map_err(AttachError::Session)?;
    log::debug!("the object was loaded after {:?}", begin.elapsed());
    let mut programs = Programs::default();
    if !plan.hooks.is_empty() {
        let linked = Linked::new(object(flavour), &ebpf).map_err(AttachError::Flavour)?;
        let fprobe = plan.fprobe && flavour != Flavour::Raw;
        programs = match fprobe.then(|| steady::hook(&linked, &plan.hooks)) {
            Some(Ok(hooked)) => hooked,
            refused => {
                if let Some(Err(reason)) = refused {
                    log::info!("functions are hooked one by one: {reason}");
                }
                let batched = options.is_batched();
                trampolines::attach(&linked, &plan.hooks, layout.functions(), batched)?
            }
        };
    }
    log::debug!("{} functions were hooked after {:?}", plan.hooks.len(), begin.elapsed());
    let syscall = if plan.syscall_kinds == 0 { &[][..] } else { &SYSCALL };
    for (name, tracepoint, event) in CONTROL.iter().chain(syscall) {
        let attached = match event.filter(|_| flavour == Flavour::Perf) {
            Some(event) => attach_perf_event(&mut ebpf, &mut programs, name, event),
            None => attach_tracepoint(&mut ebpf, flavour, name, tracepoint, btf),
        };
        attached.map_err(|reason| {
            AttachError::Flavour(format!("program {name} on {tracepoint}: {reason}"))
        })?;
    }
    if options.cgroups.is_some() {
        for name in CGROUPS {
            if let Err(reason) = attach_tracepoint(&mut ebpf, flavour, name, name, btf) {
                log::warn!("containers are not told for certain: program {name}: {reason}");
            }
        }
    }
    log::debug!("all programs were attached after {:?}", begin.elapsed());
    Ok((ebpf, programs))
}

const fn object(flavour: Flavour) -> &'static [u8] {
    match flavour {
        Flavour::Perf | Flavour::Btf => PLAIN,
        Flavour::Raw => PROBE,
    }
}

/// After how many events of an operation on one CPU the reader is woken: a power of two. All CPUs
/// together then fill a quarter of the ring at most, by one operation; a wake-up costs the caller
/// some microseconds, so it is never for few events.
fn wake_every(ring_bytes: u32, processors: usize) -> u32 {
    let records = ring_bytes as usize / size_of::<CallRecord>().next_power_of_two();
    let share = records / (4 * processors.max(1));
    let every = share.clamp(64, 4096) as u32;
    1 << every.ilog2()
}

/// Loads the object, without any program, for iterators alone, which need no rings.
pub(super) fn load_for_iterators(layout: &Layout, btf: &Btf) -> Result<Ebpf, SessionError> {
    // A page on every machine.
    const RING_BYTES: u32 = 1 << 16;
    let fields = layout.constants();
    // No field is read with a plain load by an iterator, so this one suits every kernel.
    EbpfLoader::new()
        .btf(Some(btf))
        .override_global("FIELDS", &fields, true)
        .map_max_entries("EVENTS", RING_BYTES)
        .map_max_entries("BATCHES", 1)
        .map_max_entries("BATCHES_TAKEN", 1)
        .map_max_entries("CONTROL", RING_BYTES)
        .map_max_entries("SLOTS", 1)
        .map_max_entries("SLOTS_SPILL", 64)
        .map_max_entries("DROPS", 1)
        .map_max_entries("EXECUTABLES", 64)
        .map_max_entries("DESCENDANTS", 1)
        .load(PROBE)
        .map_err(|e| SessionError::Maps(root_cause(&e)))
}

fn load(
    plan: &Plan,
    flavour: Flavour,
    layout: &Layout,
    options: &Options,
    btf: Option<&Btf>,
) -> Result<Ebpf, SessionError> {
    let fields = layout.constants();
    let dispatch = hooks::dispatch(options.native, u32::MAX);
    let any = hooks::any(&hooks::dispatch(options.native, dispatched(plan.syscall_kinds)));
    let is_x86 = u32::from(options.native == Abi::X86_64);
    // TS_COMPAT (arch/x86/include/asm/thread_info.h), _TIF_32BIT (arch/arm64/include/asm/…).
    let compat_bit: u32 = if is_x86 == 1 { 0x2 } else { 1 << 22 };
    let filters = &options.filters;
    let arguments = u32::from(options.arguments);
    let processors = processors();
    let wake_mask = wake_every(options.ring_bytes, processors) - 1;
    // Memory is taken for all entries at once.
    let descendants = if filters.bits & filter::COMMAND != 0 { 1 << 16 } else { 1 };
    let hierarchy = options.cgroups.map_or(u32::MAX, |cgroups| cgroups.hierarchy);
    let controller = options.cgroups.and_then(|cgroups| cgroups.controller);
    // struct cgroup_subsys_state *subsys[CGROUP_SUBSYS_COUNT]
    let subsystem = controller.map_or(ABSENT, |number| number * size_of::<u64>() as u32);
    let batches = if options.is_batched() { BATCHES } else { 1 };
    let mut ebpf = EbpfLoader::new()
        .btf(btf)
        .override_global("FIELDS", &fields, true)
        .override_global("DISPATCH", &dispatch, true)
        .override_global("DISPATCH_ANY", &any, true)
        .override_global("IS_X86", &is_x86, true)
        .override_global("COMPAT_BIT", &compat_bit, true)
        .override_global("SYSCALL_KINDS", &plan.syscall_kinds, true)
        .override_global("WAKE_MASK", &wake_mask, true)
        .override_global("FILTERS", &filters.bits, true)
        .override_global("ARGUMENTS", &arguments, true)
        .override_global("BATCHED", &u32::from(options.is_batched()), true)
        .override_global("OPS", &filters.ops, true)
        .override_global("CGROUP_HIERARCHY", &hierarchy, true)
        .override_global("CGROUP_SUBSYSTEM", &subsystem, true)
        .override_global("MIN_DURATION_NS", &filters.min_duration_ns, true)
        .map_max_entries("EVENTS", options.ring_bytes)
        .map_max_entries("BATCHES", batches)
        .map_max_entries("DESCENDANTS", descendants)
        .map_max_entries("BATCHES_TAKEN", batches)
        .map_max_entries("COUNTERS", processors as u32 * COUNTER_ROWS)
        .load(object(flavour))
        .map_err(|e| SessionError::Maps(root_cause(&e)))?;
    fill_filters(&mut ebpf, filters)?;
    Ok(ebpf)
}

// A map begins with zeros, so the gate stands there from the first program on.
const _: () = assert!(gate::value(gate::TEST, 0) == 0);

fn attach_tracepoint(
    ebpf: &mut Ebpf,
    flavour: Flavour,
    name: &str,
    tracepoint: &str,
    btf: Option<&Btf>,
) -> Result<(), String> {
    match (flavour, btf) {
        (Flavour::Perf | Flavour::Btf, Some(btf)) => {
            let program: &mut BtfTracePoint = program(ebpf, name)?;
            program.load(tracepoint, btf).map_err(|e| describe(&e))?;
            program.attach().map_err(|e| describe(&e))?;
        }
        (Flavour::Raw, _) | (_, None) => {
            let program: &mut RawTracePoint = program(ebpf, name)?;
            program.load().map_err(|e| describe(&e))?;
            program.attach(tracepoint).map_err(|e| describe(&e))?;
        }
    }
    Ok(())
}

fn attach_perf_event(
    ebpf: &mut Ebpf,
    programs: &mut Programs,
    name: &str,
    event: &str,
) -> Result<(), String> {
    let program: &mut TracePoint = program(ebpf, &format!("steady_{name}"))?;
    program.load().map_err(|e| describe(&e))?;
    let fd = program.fd().map_err(|e| describe(&e))?;
    steady::perf_event(programs, fd.as_fd(), event)
        .map_err(|e| format!("as perf event {event}: {e}"))
}

fn program<'a, T>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut T, String>
where
    &'a mut T: TryFrom<&'a mut Program, Error = ProgramError>,
{
    let program = ebpf.program_mut(name).ok_or("it is not in the object")?;
    program.try_into().map_err(|e: ProgramError| describe(&e))
}

/// An iterator's program.
pub(super) fn iterator<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Iter, String> {
    program(ebpf, name)
}

/// A map that stays with the object.
pub(super) fn map<'a, T>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<T, SessionError>
where
    T: TryFrom<&'a mut aya::maps::Map, Error = MapError>,
{
    let map = ebpf
        .map_mut(name)
        .ok_or_else(|| SessionError::Map { name, reason: "it is not in the object".to_owned() })?;
    T::try_from(map).map_err(|e| map_error(name, &e))
}

fn fill_filters(ebpf: &mut Ebpf, filters: &KernelFilters) -> Result<(), SessionError> {
    fn fill<K: Pod>(ebpf: &mut Ebpf, name: &'static str, keys: &[K]) -> Result<(), SessionError> {
        let mut map: HashMap<_, K, u8> = map(ebpf, name)?;
        for key in keys {
            map.insert(key, 0, 0).map_err(|e| map_error(name, &e))?;
        }
        Ok(())
    }
    fill(ebpf, "FILTER_PIDS", &filters.pids)?;
    fill(ebpf, "FILTER_UIDS", &filters.uids)?;
    fill(ebpf, "FILTER_COMMS", &filters.comms)
}

/// A program's error in one line: what the kernel said, and the verifier's last word.
pub(super) fn describe(error: &ProgramError) -> String {
    if let ProgramError::LoadError { io_error, verifier_log } = error {
        let log = verifier_log.to_string();
        log::trace!("the verifier's log: {log}");
        return refusal(io_error, &log);
    }
    root_cause(error)
}

/// A refusal in one line, with the last word in the verifier's log.
pub(super) fn refusal(error: &io::Error, log: &str) -> String {
    let complaint = log.lines().rev().map(str::trim).find(|l| {
        !l.is_empty()
            && !l.starts_with("processed")
            && !l.starts_with("stack depth")
            && !l.starts_with("verification time")
    });
    match complaint {
        Some(complaint) => format!("the kernel refused it: {error} ({complaint})"),
        None => format!("the kernel refused it: {error}, without a word by the verifier"),
    }
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

/// Lifts the limit on locked memory, against which kernels before 5.11 count maps.
///
/// # Errors
/// The limit can't be set.
pub fn lift_memory_lock_limit() -> io::Result<()> {
    use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
    Ok(setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reader_is_woken_before_all_processors_fill_the_ring() {
        assert_eq!(wake_every(8 << 20, 2), 4096);
        assert_eq!(wake_every(8 << 20, 64), 256);
        assert_eq!(wake_every(8 << 20, 3), 4096);
        assert_eq!(wake_every(1 << 20, 3), 512);
        assert_eq!(wake_every(4096, 512), 64);
    }

    #[test]
    fn symbols_are_read_with_and_without_addresses() {
        let path = std::env::temp_dir().join(format!("ipc-trace-kallsyms-{}", std::process::id()));
        let text = "0000000000000000 T __x64_sys_semop\nffffffff81000000 t other\n\
                    0000000000000000 t __x64_sys_mq_open\t[module]\nbroken\n";
        fs::write(&path, text).unwrap();
        let found = present_functions(&path);
        fs::remove_file(&path).unwrap();
        assert_eq!(found, Some(BTreeSet::from(["__x64_sys_semop"])));
        assert_eq!(present_functions(&path), None);
    }
}
