//! Loads the object and attaches the programs of a plan.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap as StdHashMap},
    ffi::CString,
    fs, io,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    thread,
    time::Instant,
};

use aya::{Pod, maps::HashMap};
use aya_obj::generated::{bpf_attach_type, bpf_prog_type};
use ipc_trace_common::{
    hooks,
    layout::ABSENT,
    op::Abi,
    record::CallRecord,
    state::{
        BATCHES, COUNTER_ROWS, FILTER_CGROUPS, SLOT_COUNT, SPILLED_SLOTS,
        copies::{PROCESS_EXEC, PROCESS_EXIT, TASK_NEWTASK},
        filter, gate,
    },
};
use zerocopy::IntoBytes as _;

use super::{
    attachments::Attachments,
    aux_probes, bpf, copies,
    error::{AttachError, SessionError, map_error},
    field_offsets::Layout,
    loader::{self, LoadedObject, Settings},
    nopreempt,
    options::{KernelFilters, SessionOptions, processors},
    plan::{Plan, TracepointMode, dispatched},
    trampolines,
};

/// The eBPF programs, with plain loads where they are allowed, and without any.
static PLAIN: &[u8] = aya::include_bytes_aligned!(env!("IPC_TRACE_EBPF_PLAIN"));
static PROBE: &[u8] = aya::include_bytes_aligned!(env!("IPC_TRACE_EBPF_PROBE"));

/// The variant of a program for kernels that may preempt it on its tracepoint.
#[derive(Clone, Copy)]
enum NoPreempt {
    /// A non-preemptible variant on the tracepoint as a perf event: with the category that tracefs lists it under
    Event(&'static str),
    /// Copies, with the row in their cookies
    Copies(u64),
    /// None: it is not preempted there
    Nothing,
}

/// A program, its tracepoint, and its variant for such kernels.
type OnTracepoint = (&'static str, &'static str, NoPreempt);

/// Programs that every plan needs. The gate is closed until the session begins, so their order does not matter.
const CONTROL: [OnTracepoint; 3] = [
    ("process_exit", "sched_process_exit", NoPreempt::Copies(PROCESS_EXIT)),
    ("process_exec", "sched_process_exec", NoPreempt::Copies(PROCESS_EXEC)),
    ("task_newtask", "task_newtask", NoPreempt::Copies(TASK_NEWTASK)),
];

/// Programs on cgroup tracepoints. They are optional.
const CGROUPS: [OnTracepoint; 3] = [
    ("cgroup_mkdir", "cgroup_mkdir", NoPreempt::Nothing),
    ("cgroup_rmdir", "cgroup_rmdir", NoPreempt::Nothing),
    ("cgroup_attach_task", "cgroup_attach_task", NoPreempt::Nothing),
];

/// Programs of backend `syscall`.
const SYSCALL: [OnTracepoint; 2] = [
    ("sys_enter", "sys_enter", NoPreempt::Event("raw_syscalls/sys_enter")),
    ("sys_exit", "sys_exit", NoPreempt::Event("raw_syscalls/sys_exit")),
];

/// Functions of the hook table that the kernel has, by `kallsyms`. `None`: not known.
#[must_use]
pub(crate) fn present_functions(kallsyms: &Path) -> Option<BTreeSet<&'static str>> {
    let text = fs::read(kallsyms).ok()?;
    let wanted: BTreeSet<&'static str> = hooks::functions().collect();
    let mut found = BTreeSet::new();
    // ADDRESS TYPE NAME [MODULE]; addresses may be hidden, names are not.
    for line in text.split(|byte| *byte == b'\n') {
        let Some(name) = line.split(|byte| *byte == b' ').nth(2) else { continue };
        // A cheap check that all wanted names pass.
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
    flavour: TracepointMode,
    layout: &Layout,
    options: &SessionOptions,
) -> Result<(LoadedObject, Attachments), AttachError> {
    let begin = Instant::now();
    let mut linked = link(plan, flavour, layout, options).map_err(AttachError::Session)?;
    log::debug!("the object's maps were created after {:?}", begin.elapsed());
    fill_filters(&mut linked, &options.filters).map_err(AttachError::Session)?;
    let (functions, others, syscall) = thread::scope(|scope| {
        // The verifier takes most of the start, and checks as many programs at a time as there are processors.
        let functions = scope.spawn(|| hook_functions(&linked, (flavour, plan), layout, options));
        let syscall = if plan.syscall_kinds == 0 { &[][..] } else { &SYSCALL };
        let syscall: Vec<_> = syscall
            .iter()
            .map(|on| scope.spawn(|| hook_syscall(&linked, (flavour, plan), layout, *on)))
            .collect();
        let others = hook_others(&linked, (flavour, plan), layout, options);
        let syscall: Vec<_> = syscall.into_iter().map(joined).collect();
        (joined(functions), others, syscall)
    });
    let mut programs = functions?;
    programs.append(others?);
    for attached in syscall {
        programs.append(attached?);
    }
    log::debug!("all programs were attached after {:?}", begin.elapsed());
    Ok((linked, programs))
}

fn joined<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Hooks the functions of calls.
fn hook_functions(
    linked: &LoadedObject,
    (flavour, plan): (TracepointMode, &Plan),
    layout: &Layout,
    options: &SessionOptions,
) -> Result<Attachments, AttachError> {
    if plan.hooks.is_empty() {
        return Ok(Attachments::default());
    }
    let begin = Instant::now();
    let is_copied = plan.copied_functions && flavour != TracepointMode::Raw;
    let fprobe = plan.fprobe && flavour != TracepointMode::Raw;
    let mut programs = match fprobe.then(|| nopreempt::hook(linked, &plan.hooks, is_copied)) {
        Some(Ok(hooked)) => hooked,
        refused if is_copied => {
            if let Some(Err(reason)) = refused {
                log::info!("functions are hooked by copies alone: {reason}");
            }
            Attachments::default()
        }
        refused => {
            if let Some(Err(reason)) = refused {
                log::info!("functions are hooked one by one: {reason}");
            }
            trampolines::attach(linked, &plan.hooks, layout.functions(), options.is_batched())?
        }
    };
    if is_copied {
        nopreempt::back_with_copies(&mut programs, linked, &plan.hooks, layout)
            .map_err(AttachError::Copies)?;
    }
    log::debug!("{} functions were hooked within {:?}", plan.hooks.len(), begin.elapsed());
    Ok(programs)
}

/// Attaches a program of backend `syscall`.
fn hook_syscall(
    linked: &LoadedObject,
    (flavour, plan): (TracepointMode, &Plan),
    layout: &Layout,
    on: OnTracepoint,
) -> Result<Attachments, AttachError> {
    let mut programs = Attachments::default();
    attach_one(&mut programs, linked, (flavour, plan), layout, on).map_err(AttachError::Flavour)?;
    Ok(programs)
}

/// Attaches the programs that don't see calls.
fn hook_others(
    linked: &LoadedObject,
    (flavour, plan): (TracepointMode, &Plan),
    layout: &Layout,
    options: &SessionOptions,
) -> Result<Attachments, AttachError> {
    let mut programs = Attachments::default();
    let begin = Instant::now();
    if !plan.hooks.is_empty() {
        aux_probes::watch(&mut programs, linked, flavour, layout, plan.copied_functions)
            .map_err(AttachError::Copies)?;
        log::debug!(
            "{} auxiliary probes were attached within {:?}",
            programs.ways.len(),
            begin.elapsed()
        );
    }
    for on in &CONTROL {
        attach_one(&mut programs, linked, (flavour, plan), layout, *on)
            .map_err(AttachError::Flavour)?;
    }
    for on in CGROUPS.iter().filter(|_| options.cgroups.is_some()) {
        if let Err(reason) = attach_one(&mut programs, linked, (flavour, plan), layout, *on) {
            programs.unseen.push(format!("moves of threads between containers ({reason})"));
        }
    }
    Ok(programs)
}

const fn object(flavour: TracepointMode) -> &'static [u8] {
    match flavour {
        TracepointMode::Perf | TracepointMode::Btf => PLAIN,
        TracepointMode::Raw => PROBE,
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

/// Loads the object for iterators only, which need no rings.
pub(super) fn link_for_iterators(layout: &Layout) -> Result<LoadedObject, SessionError> {
    // A page on every machine.
    const RING_BYTES: u32 = 1 << 16;
    let settings = Settings {
        constants: StdHashMap::new(),
        fields: layout.offsets().to_vec(),
        // The object has no casts.
        cast: None,
        entries: BTreeMap::from([
            ("EVENTS", RING_BYTES),
            (loader::BATCHES, 1),
            ("BATCHES_TAKEN", 1),
            ("LAST_RUNS", 1),
            ("CONTROL", RING_BYTES),
            ("SLOTS", 1),
            ("SLOTS_TAKEN", 1),
            ("SLOTS_SPILL", 1),
            ("LARGE_INPUTS", 1),
            ("DROPS", 1),
            ("EXECUTABLES", 64),
            ("DESCENDANTS", 1),
        ]),
    };
    // No iterator reads a field with a plain load, so this object suits every kernel.
    LoadedObject::new(PROBE, &settings).map_err(SessionError::Maps)
}

fn link(
    plan: &Plan,
    flavour: TracepointMode,
    layout: &Layout,
    options: &SessionOptions,
) -> Result<LoadedObject, SessionError> {
    let dispatch = hooks::dispatch(options.native, u32::MAX);
    let kinds = dispatched(plan.syscall_kinds);
    let at_entry = hooks::any(&hooks::dispatch(options.native, kinds & !hooks::ACCESS_KINDS));
    let at_return = hooks::any(&hooks::dispatch(options.native, kinds));
    let cast = layout.cast(Path::new("/proc")).filter(|_| flavour != TracepointMode::Raw);
    let cast_to = cast.map_or(0, |cast| cast.structure);
    let is_x86 = u32::from(options.native == Abi::X86_64);
    // TS_COMPAT (arch/x86/include/asm/thread_info.h), _TIF_32BIT (arch/arm64/include/asm/…).
    let compat_bit: u32 = if is_x86 == 1 { 0x2 } else { 1 << 22 };
    let filters = &options.filters;
    let arguments = u32::from(options.shows_calls());
    let untimed = u32::from(!options.times_calls());
    let batched = u32::from(options.is_batched());
    let with_args = u32::from(options.with_args);
    let copied = u32::from(plan.copied && flavour != TracepointMode::Raw);
    let last_runs = if copied == 0 { 1 } else { SLOT_COUNT };
    let processors = processors();
    let wake_mask = wake_every(options.ring_bytes, processors) - 1;
    // The kernel allocates memory for all entries at once.
    let descendants = if filters.bits & filter::COMMAND != 0 { 1 << 16 } else { 1 };
    let hierarchy = options.cgroups.map_or(u32::MAX, |cgroups| cgroups.hierarchy);
    let controller = options.cgroups.and_then(|cgroups| cgroups.controller);
    // struct cgroup_subsys_state *subsys[CGROUP_SUBSYS_COUNT]
    let subsystem = controller.map_or(ABSENT, |number| number * size_of::<u64>() as u32);
    let batches = if options.is_batched() { BATCHES } else { 1 };
    let last_batch = batches - 1;
    let cgroups = if filters.bits & filter::CGROUP != 0 { FILTER_CGROUPS } else { 1 };
    let mut settings = Settings {
        constants: StdHashMap::from([
            ("DISPATCH", dispatch.as_bytes()),
            ("DISPATCH_ENTRY", at_entry.as_bytes()),
            ("DISPATCH_RETURN", at_return.as_bytes()),
            ("IS_X86", is_x86.as_bytes()),
            ("COMPAT_BIT", compat_bit.as_bytes()),
            ("SYSCALL_KINDS", plan.syscall_kinds.as_bytes()),
            ("WAKE_MASK", wake_mask.as_bytes()),
            ("FILTERS", filters.bits.as_bytes()),
            ("ARGUMENTS", arguments.as_bytes()),
            ("BATCHED", batched.as_bytes()),
            ("LAST_BATCH", last_batch.as_bytes()),
            ("UNTIMED", untimed.as_bytes()),
            ("WITH_ARGS", with_args.as_bytes()),
            ("COPIED", copied.as_bytes()),
            ("OPS", filters.ops.as_bytes()),
            ("CGROUP_HIERARCHY", hierarchy.as_bytes()),
            ("CGROUP_SUBSYSTEM", subsystem.as_bytes()),
            ("MIN_DURATION_NS", filters.min_duration_ns.as_bytes()),
        ]),
        fields: layout.offsets().to_vec(),
        cast,
        entries: BTreeMap::from([
            ("EVENTS", options.ring_bytes),
            (loader::BATCHES, batches),
            ("BATCHES_TAKEN", batches),
            ("NOTED_CALLS", batches),
            ("LAST_RUNS", last_runs),
            ("FILTER_CGROUPS", cgroups),
            ("DESCENDANTS", descendants),
            ("COUNTERS", processors as u32 * COUNTER_ROWS),
            ("SLOTS_SPILL", spilled_slots(Path::new("/proc"))),
        ]),
    };
    if cast.is_some() {
        settings.constants.insert("CAST", cast_to.as_bytes());
    }
    LoadedObject::new(object(flavour), &settings).map_err(SessionError::Maps)
}

/// How many live threads may need a slot in the spill because another thread has theirs in `SLOTS`. If tids are so
/// small that no two share their low 16 bits there are none, but that limit can be changed during tracing.
fn spilled_slots(proc: &Path) -> u32 {
    const FOR_A_CHANGE: u32 = 1 << 13;
    let path = proc.join("sys/kernel/pid_max");
    let max: Option<u32> = fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok());
    if max.is_some_and(|max| max <= SLOT_COUNT) { FOR_A_CHANGE } else { SPILLED_SLOTS }
}

// Maps start zeroed, so the gate has this value from the first program on.
const _: () = assert!(gate::value(gate::TEST, 0) == 0);

/// Attaches a program to its tracepoint, in copies if it has them and they are needed.
fn attach_one(
    programs: &mut Attachments,
    linked: &LoadedObject,
    (flavour, plan): (TracepointMode, &Plan),
    layout: &Layout,
    (name, tracepoint, no_preempt): OnTracepoint,
) -> Result<(), String> {
    let attached = match (flavour, no_preempt) {
        (TracepointMode::Perf, NoPreempt::Event(event)) => {
            on_perf_event(programs, linked, name, event)
        }
        (TracepointMode::Perf | TracepointMode::Btf, NoPreempt::Copies(row)) if plan.copied => {
            let name = format!("copied_{name}");
            layout
                .hook(&format!("btf_trace_{tracepoint}"))
                .and_then(|hook| copies::on_tracepoint(programs, linked, &name, hook, row))
        }
        (TracepointMode::Perf | TracepointMode::Btf, _) => {
            on_tracepoint(programs, linked, name, tracepoint, layout)
        }
        (TracepointMode::Raw, _) => on_raw_tracepoint(programs, linked, name, tracepoint),
    };
    attached.map_err(|reason| format!("program {name} on {tracepoint}: {reason}"))
}

/// Attaches to a tracepoint whose arguments the verifier knows.
fn on_tracepoint(
    programs: &mut Attachments,
    linked: &LoadedObject,
    name: &str,
    tracepoint: &str,
    layout: &Layout,
) -> Result<(), String> {
    let hook = layout.hook(&format!("btf_trace_{tracepoint}"))?;
    let kind = bpf_prog_type::BPF_PROG_TYPE_TRACING;
    let program = linked.load(name, kind, bpf_attach_type::BPF_TRACE_RAW_TP, hook)?;
    keep_attached(programs, bpf::attach_tracing(program.as_fd()), program)
}

/// Attaches to a tracepoint whose arguments the verifier doesn't know.
fn on_raw_tracepoint(
    programs: &mut Attachments,
    linked: &LoadedObject,
    name: &str,
    tracepoint: &str,
) -> Result<(), String> {
    let kind = bpf_prog_type::BPF_PROG_TYPE_RAW_TRACEPOINT;
    let program = linked.load(name, kind, OF_NO_TYPE, 0)?;
    let tracepoint = CString::new(tracepoint).map_err(|e| e.to_string())?;
    keep_attached(programs, bpf::attach_raw(program.as_fd(), Some(&tracepoint)), program)
}

/// Attaches to a tracepoint by a perf event, with the program's non-preemptible variant.
fn on_perf_event(
    programs: &mut Attachments,
    linked: &LoadedObject,
    name: &str,
    event: &str,
) -> Result<(), String> {
    let kind = bpf_prog_type::BPF_PROG_TYPE_TRACEPOINT;
    let program = linked.load(&nopreempt::nopreempt_name(name), kind, OF_NO_TYPE, 0)?;
    let link = nopreempt::perf_event(program.as_fd(), event);
    keep_attached(programs, link, program).map_err(|e| format!("as perf event {event}: {e}"))
}

/// The attach type of programs for which the kernel requires none: 0.
const OF_NO_TYPE: bpf_attach_type = bpf_attach_type::BPF_CGROUP_INET_INGRESS;

fn keep_attached(
    programs: &mut Attachments,
    link: io::Result<OwnedFd>,
    program: OwnedFd,
) -> Result<(), String> {
    programs.keep_attached((link.map_err(|e| format!("attaching: {e}"))?, program));
    Ok(())
}

fn fill_filters(linked: &mut LoadedObject, filters: &KernelFilters) -> Result<(), SessionError> {
    fn fill<K: Pod>(
        linked: &mut LoadedObject,
        name: &'static str,
        keys: &[K],
    ) -> Result<(), SessionError> {
        let mut map: HashMap<_, K, u8> = linked.map(name)?;
        for key in keys {
            map.insert(key, 0, 0).map_err(|e| map_error(name, &e))?;
        }
        Ok(())
    }
    fill(linked, "FILTER_PIDS", &filters.pids)?;
    fill(linked, "FILTER_UIDS", &filters.uids)?;
    fill(linked, "FILTER_COMMS", &filters.comms)
}

/// Lifts the limit on locked memory, against which kernels before 5.11 count maps.
///
/// # Errors
/// The limit can't be set.
pub(crate) fn lift_memory_lock_limit() -> io::Result<()> {
    use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
    Ok(setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reader_wakes_before_ring_is_full() {
        assert_eq!(wake_every(8 << 20, 2), 4096);
        assert_eq!(wake_every(8 << 20, 64), 256);
        assert_eq!(wake_every(8 << 20, 3), 4096);
        assert_eq!(wake_every(1 << 20, 3), 512);
        assert_eq!(wake_every(4096, 512), 64);
    }

    #[test]
    fn reads_symbols_with_and_without_addresses() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kallsyms");
        assert_eq!(present_functions(&path), None);
        let text = "0000000000000000 T __x64_sys_semop\nffffffff81000000 t other\n\
                    0000000000000000 t __x64_sys_mq_open\t[module]\nbroken\n";
        fs::write(&path, text).unwrap();
        assert_eq!(present_functions(&path), Some(BTreeSet::from(["__x64_sys_semop"])));
    }
}
