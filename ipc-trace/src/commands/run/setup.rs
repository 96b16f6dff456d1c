//! From options to a session that traces.

use std::{
    io,
    path::{Path, PathBuf},
    time::Instant,
};

use ipc_trace_common::{
    op::Abi,
    record::NsRef,
    state::{FILTER_VALUES, HOST_INUM, filter},
};

use crate::{
    cli::{Filters, HowArgs, NamespaceName},
    commands::error::RunError,
    event::{Backends, value::OpName},
    input::namespace_list::NamespaceList,
    sources::host::cgroups::Hierarchy,
    sources::kernel::{
        attach,
        error::SessionError,
        features::{self, MissingCapabilities, System},
        field_offsets::{Fprobe, KERNEL_BTF, Layout, LayoutError},
        options::{CallDetail, KernelFilters, SessionOptions},
        plan::{self, BackendChoice, BackendUnavailable, Features, Plan},
        preemption::{self, Watch},
        session::Session,
    },
};

/// The kernel's list of symbols.
const KALLSYMS: &str = "/proc/kallsyms";

/// Why tracing can't start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SetupError {
    /// Capabilities are missing.
    #[error(transparent)]
    Capabilities(#[from] MissingCapabilities),
    /// The machine is not supported.
    #[error("ipc-trace knows x86_64 and aarch64, not {0}")]
    Machine(&'static str),
    /// The kernel's fields are unknown.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The backend is unavailable.
    #[error(transparent)]
    Backend(#[from] BackendUnavailable),
    /// Programs can't be loaded.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// A named namespace does not exist.
    #[error("--ipc-ns {name}: {reason}")]
    Namespace {
        /// As the user named it
        name: String,
        /// The reason
        reason: String,
    },
    /// Pids are ambiguous because this process is not in the initial pid namespace.
    #[error(
        "{option}: this process is not in the initial pid namespace, so its pids differ from those in events; \
         run it in the host's pid namespace, or name a namespace by its inode number"
    )]
    PidNamespace {
        /// The option
        option: &'static str,
    },
    /// A filter for containers, but nothing identifies them.
    #[error(
        "--container, --image, --pod: no cgroups identify containers; mount a cgroup file system, and \
         see ipc-trace doctor"
    )]
    NoCgroups,
    /// A filter has more values than the eBPF programs can hold.
    #[error("{option}: {given} values are more than the {FILTER_VALUES} that are possible")]
    Values {
        /// The option
        option: &'static str,
        /// The number of values
        given: usize,
    },
    /// The system refused something.
    #[error("{what}: {source}")]
    System {
        /// The operation
        what: &'static str,
        /// The system's error
        source: io::Error,
    },
}

impl SetupError {
    /// Whether the user's options are invalid: exit status 2.
    #[must_use]
    pub(crate) const fn is_usage(&self) -> bool {
        matches!(self, Self::Namespace { .. } | Self::Values { .. } | Self::PidNamespace { .. })
    }
}

impl From<SetupError> for RunError {
    fn from(error: SetupError) -> Self {
        let status = if error.is_usage() { 2 } else { 1 };
        Self::Begin { error: Box::new(error), status }
    }
}

/// Everything that is needed to trace.
#[derive(Debug)]
pub(crate) struct Setup {
    /// The host
    pub system: System,
    /// The machine's native ABI
    pub native: Abi,
    /// The backend of each operation
    pub backends: Backends,
    /// The programs
    pub session: Session,
    /// The namespaces and calls that existed when they had been attached
    pub namespace_list: NamespaceList,
    /// The kernel's fields
    pub layout: Layout,
    /// The cgroups that identify containers
    pub hierarchy: Option<Hierarchy>,
    /// The kernel's preemption model
    pub preemption: Watch,
    /// The plan that is attached
    pub plan: Plan,
}

/// Loads and attaches the programs for the options. `with_args`: whether process arguments are shown. `only_command`:
/// whether only calls of COMMAND are.
///
/// # Errors
/// Something is missing: what.
pub(crate) fn setup(
    how: &HowArgs,
    filters: &Filters,
    detail: CallDetail,
    with_args: bool,
    only_command: bool,
) -> Result<Setup, SetupError> {
    let system = System::read().map_err(|source| SetupError::System { what: "uname", source })?;
    features::check_capabilities(Path::new("/proc"))?;
    let native =
        plan::native_abi(system.arch).ok_or(SetupError::Machine(std::env::consts::ARCH))?;
    if let Err(error) = attach::lift_memory_lock_limit() {
        log::info!("the limit on locked memory can't be lifted: {error}");
    }
    check_numbers(filters)?;
    check_pid_namespace(filters, Path::new("/proc"))?;
    let begin = Instant::now();
    let layout = Layout::from_file(&btf_path(how))?;
    log::debug!("the kernel's fields were found after {:?}", begin.elapsed());
    let hierarchy = Hierarchy::find(Path::new("/proc"));
    let cgroups = hierarchy.as_ref().and_then(|hierarchy| hierarchy.kernel_ids(&layout));
    if cgroups.is_none() && !filters.containers().is_empty() {
        return Err(SetupError::NoCgroups);
    }
    let options = SessionOptions {
        ring_bytes: ring_bytes(how.ring_bytes),
        filters: kernel_filters(filters, only_command),
        detail,
        with_args,
        cgroups,
        native,
    };
    let namespaces = filters
        .ipc_ns
        .iter()
        .map(|name| Ok((describe(*name), inum(*name)?)))
        .collect::<Result<Vec<_>, SetupError>>()?;
    let (plan, mut session, namespace_list) = start(how.backend, &layout, &options)?;
    log::debug!("the session was ready after {:?}", begin.elapsed());
    let wanted = namespaces
        .iter()
        .map(|(name, inum)| existing(name, *inum, &namespace_list))
        .collect::<Result<Vec<_>, SetupError>>()?;
    session.filter_namespaces(&wanted)?;
    for reason in &session.fallbacks {
        log::warn!("not used, though better: {reason}");
    }
    for (backend, why) in plan.inexact() {
        log::warn!("backend {} is not exact: {why}; those are counted as missed", backend.name());
    }
    for what in &session.unseen {
        log::warn!("not seen on this kernel: {what}");
    }
    for function in &session.untested {
        log::info!("the self-test could not check its program: {function}");
    }
    for (field, what) in layout.losses() {
        log::info!("not known on this kernel: {what} (no field {field})");
    }
    let backends = plan.ops.iter().map(|op| (OpName(op.op), op.backend.name().into())).collect();
    let hierarchy = hierarchy.filter(|_| cgroups.is_some());
    let preemption = Watch::new(&system.build);
    Ok(Setup {
        system,
        native,
        backends,
        session,
        namespace_list,
        layout,
        hierarchy,
        preemption,
        plan,
    })
}

/// Starts a session by the best plan. What a kernel accepts is found by trying: after a rejection, the next plan
/// omits what was rejected.
pub(crate) fn start(
    choice: BackendChoice,
    layout: &Layout,
    options: &SessionOptions,
) -> Result<(Plan, Session, NamespaceList), SetupError> {
    let system = System::read().map_err(|source| SetupError::System { what: "uname", source })?;
    let version = features::version(&system.kernel);
    let mut known = Features {
        kernel_btf: Path::new(KERNEL_BTF).exists(),
        described: layout.functions().keys().copied().collect(),
        no_x32: features::has_no_x32(Path::new("/proc")),
        preemption: preemption::read(&system.build),
        guards_functions: version.is_none_or(features::guards_functions),
        preempts_on_tracepoints: version.is_some_and(features::preempts_on_tracepoints),
        fprobe: layout.fprobe() == Fprobe::All,
        tracing_multi: layout.has_tracing_multi(),
        ..Features::default()
    };
    // A quarter of a million lines, which matter only if BTF leaves something open.
    if choice != BackendChoice::Syscall && !plan::describes_all(options.native, &known) {
        known.present = attach::present_functions(Path::new(KALLSYMS));
    }
    loop {
        let mut plan = plan::plan(choice, options.native, &known)?;
        if !options.times_calls() {
            plan.omit_entries();
        }
        match Session::start(&plan, layout, options) {
            Ok((session, namespace_list)) => return Ok((plan, session, namespace_list)),
            // Each time there are fewer functions left to try.
            Err(SessionError::Functions(reasons)) => known.unusable.extend(reasons),
            Err(SessionError::Copies(reason)) => {
                log::info!("programs on functions don't come in copies: {reason}");
                known.tracing_multi = false;
            }
            Err(SessionError::Fentry(reason)) => known.fentry_refused = Some(reason),
            Err(error) => return Err(error.into()),
        }
    }
}

/// The BTF file from which the layout is read.
#[must_use]
pub(crate) fn btf_path(how: &HowArgs) -> PathBuf {
    how.btf.clone().unwrap_or_else(|| PathBuf::from(KERNEL_BTF))
}

/// The size of the ring: a power of two, at least a page.
#[must_use]
pub(crate) fn ring_bytes(wanted: u32) -> u32 {
    let page = match nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE) {
        Ok(Some(page)) => u32::try_from(page).unwrap_or(4096),
        Ok(None) | Err(_) => 4096,
    };
    wanted.max(page).next_power_of_two()
}

fn kernel_filters(filters: &Filters, only_command: bool) -> KernelFilters {
    let mut bits = 0;
    let mut when = |condition: bool, bit: u32| {
        if condition {
            bits |= bit;
        }
    };
    when(filters.failed, filter::FAILED);
    when(!filters.pid.is_empty(), filter::PID);
    when(!filters.uid.is_empty(), filter::UID);
    when(!filters.comm.is_empty(), filter::COMM);
    when(!filters.ipc_ns.is_empty(), filter::NAMESPACE);
    when(filters.min_duration.is_some(), filter::MIN_DURATION);
    when(only_command, filter::COMMAND);
    when(!filters.op.is_empty(), filter::OP);
    when(!filters.containers().is_empty(), filter::CGROUP);
    KernelFilters {
        bits,
        ops: filters.op.iter().fold(0, |all, op| all | op.0),
        min_duration_ns: filters
            .min_duration
            .map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)),
        pids: filters.pid.clone(),
        uids: filters.uid.clone(),
        comms: filters.comm.iter().map(|comm| comm.0).collect(),
    }
}

/// Checks that the eBPF programs can hold all values.
fn check_numbers(filters: &Filters) -> Result<(), SetupError> {
    let numbers = [
        ("--ipc-ns", filters.ipc_ns.len()),
        ("--pid", filters.pid.len()),
        ("--comm", filters.comm.len()),
        ("--uid", filters.uid.len()),
    ];
    match numbers.into_iter().find(|(_, given)| *given > FILTER_VALUES as usize) {
        Some((option, given)) => Err(SetupError::Values { option, given }),
        None => Ok(()),
    }
}

/// Checks that pids are those of the initial pid namespace.
fn check_pid_namespace(filters: &Filters, proc: &Path) -> Result<(), SetupError> {
    let by_pid = |name: &NamespaceName| matches!(name, NamespaceName::OfPid(_));
    let option = match () {
        () if !filters.pid.is_empty() => "--pid",
        () if filters.ipc_ns.iter().any(by_pid) => "--ipc-ns pid:PID",
        () => return Ok(()),
    };
    match features::is_in_initial_pid_namespace(proc) {
        Ok(false) => Err(SetupError::PidNamespace { option }),
        Ok(true) | Err(_) => Ok(()),
    }
}

fn describe(name: NamespaceName) -> String {
    match name {
        NamespaceName::Inum(inum) => inum.to_string(),
        NamespaceName::Own => "self".to_owned(),
        NamespaceName::Host => "host".to_owned(),
        NamespaceName::OfPid(pid) => format!("pid:{pid}"),
    }
}

/// The inode number of a namespace that the user named.
pub(in crate::commands) fn inum(name: NamespaceName) -> Result<u32, SetupError> {
    let of = |path: &str| {
        features::namespace_inum(Path::new(path)).map_err(|error| SetupError::Namespace {
            name: describe(name),
            reason: if error.kind() == io::ErrorKind::NotFound {
                "no such process".to_owned()
            } else {
                format!("{path}: {error}")
            },
        })
    };
    match name {
        NamespaceName::Inum(inum) => Ok(inum),
        NamespaceName::Host => Ok(HOST_INUM),
        NamespaceName::Own => of("/proc/self/ns/ipc"),
        NamespaceName::OfPid(pid) => of(&format!("/proc/{pid}/ns/ipc")),
    }
}

/// The namespace with that number, which must exist if that can be checked.
fn existing(name: &str, inum: u32, namespace_list: &NamespaceList) -> Result<NsRef, SetupError> {
    match namespace_list.alive.iter().find(|alive| alive.ns.inum == inum) {
        Some(alive) => Ok(alive.ns),
        None if !namespace_list.complete => Ok(NsRef { inum, generation: 1 }),
        None => Err(SetupError::Namespace {
            name: name.to_owned(),
            reason: "no IPC namespace has that number (any more); lsns -t ipc lists those \
                     that have processes"
                .to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ring_size_is_power_of_two_and_at_least_a_page() {
        assert_eq!(ring_bytes(1), 4096);
        assert_eq!(ring_bytes(4096), 4096);
        assert_eq!(ring_bytes(5000), 8192);
        assert_eq!(ring_bytes(1 << 30), 1 << 30);
    }
}
