//! `doctor`: whether tracing works on this host, how, at what cost, and what is missing.
//!
//! | module | its job |
//! | --- | --- |
//! | `containers` | how containers are identified, and which runtimes name them |
//! | [`host`] | checks of `/proc` and `/sys`: privileges, limits, settings |
//! | [`kernel`] | checks that need the kernel: it loads and attaches the programs, as a run would |
//!
//! Invariant: the output says what was observed. A check that was not tried is `null` or `unknown`, and the programs
//! are detached, their gate never opened, before any output.

mod containers;
pub(super) mod host;
pub(super) mod kernel;
#[cfg(test)]
pub(crate) mod tests;

use std::{collections::BTreeMap, io, path::Path, process::ExitCode};

use ipc_trace_common::{
    layout::{Need, ReadMethod as ReadWay},
    op::{Abi, Op},
};

use crate::{
    cli::{DoctorArgs, HowArgs, OutputFormat},
    commands::error::RunError,
    commands::run::setup::{self, SetupError},
    commands::run::terminal,
    event::{
        VERSION,
        doctor::{
            BackendName, BackendReport, BtfFrom, BtfReport, CheckName, CheckStatus, Doctor,
            DoctorCheck, FieldRead, FieldState, Instructions, Operation, PaidBy,
            SyscallEntryReport, Tracepoints,
        },
        value::{AbiName, OpName, OsBytes},
    },
    signals::Signals,
    sinks::output::{Output, OutputError},
    sinks::text,
    sources::host::cgroups::Hierarchy,
    sources::kernel::{
        error::SessionError,
        features::System,
        field_offsets::{BtfFacts, Layout, Resolved, places},
        options::{CallDetail, Cgroups, KernelFilters, SessionOptions},
        plan::{
            self, Backend as PlannedBackend, BackendChoice, BackendUnavailable, Features,
            HookedSyscall, OpPlan, TracepointMode,
        },
        preemption::{PreemptionModel, Sources},
    },
};
use host::Roots;
use kernel::{KernelProbe, Started, ThisKernel};

/// Runs `doctor`: status 0 when tracing works.
///
/// # Errors
/// uname(2) or standard output failed.
pub(super) fn run(args: &DoctorArgs) -> Result<ExitCode, RunError> {
    let system = System::read().map_err(|source| RunError::System { what: "uname", source })?;
    let mut doctor = examine(&system, &Roots::default(), &args.how, &ThisKernel::new());
    doctor.runtimes = containers::runtimes(args.how.runtimes.sockets());
    let text = match args.output {
        OutputFormat::Json => {
            let json = serde_json::to_string_pretty(&doctor)
                .map_err(|e| OutputError::Failed(io::Error::from(e)))?;
            format!("{json}\n")
        }
        OutputFormat::Text => {
            let (palette, width) = terminal();
            text::doctor::text(&doctor, args.all, palette, width).to_string()
        }
    };
    Output::new(Signals::default()).write_all(text.as_bytes())?;
    Ok(if doctor.ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs all checks except those of the runtimes.
pub(super) fn examine(
    system: &System,
    roots: &Roots,
    how: &HowArgs,
    kernel: &dyn KernelProbe,
) -> Doctor {
    let (privileges, mut checks) = host::checks(system, roots);
    let may_load = !privileges.capabilities.iter().any(|c| c.required && c.present == Some(false));
    let (btf, found) = types(roots, how, kernel, &mut checks);
    let layout = found.clone().map(Layout::from_btf);
    let native = plan::native_abi(system.arch);
    let hierarchy = Hierarchy::find(&roots.proc);
    let cgroups = match (&hierarchy, &layout) {
        (Some(hierarchy), Some(Ok(layout))) => hierarchy.kernel_ids(layout),
        _ => None,
    };
    let trial = match (native, layout) {
        _ if !may_load => Trial::Not("not tried without the privileges"),
        (Some(native), Some(Ok(layout))) => {
            match kernel.start(how.backend, &layout, &options(how, native, cgroups)) {
                Ok(started) => Trial::Good(Box::new(started)),
                Err(SetupError::Backend(error)) => Trial::NotPossible(error),
                Err(error) => Trial::Failed(error),
            }
        }
        _ => Trial::Not("not tried"),
    };
    trial.check(&mut checks);
    let model = Sources::read(&roots.proc, &roots.sys, &system.build).model();
    checks.push(preemption(model, trial.started()));
    if found.is_some() {
        checks.push(containers::cgroups(hierarchy.as_ref(), cgroups.is_some()));
    }
    let started = trial.started();
    let operations = native.map(|native| operations(native, &trial)).unwrap_or_default();
    // If it was not tried, as for a kernel with its own BTF.
    let plain_loads = started.is_none_or(|started| started.flavour != TracepointMode::Raw);
    let rows = found.iter().flat_map(|found| &found.rows);
    Doctor {
        v: VERSION,
        host: system.host.clone(),
        kernel: system.kernel.clone(),
        arch: system.arch,
        version: env!("CARGO_PKG_VERSION"),
        ready: started.is_some(),
        verdict: summarize(started.is_some(), &operations, &checks),
        privileges,
        btf,
        backends: backends(how.backend, &trial).into(),
        auto: started.map(|started| backend_name(started.plan.preferred)),
        measured: started.and_then(|started| started.measured),
        runtimes: Vec::new(),
        operations,
        fields: rows.map(|row| field(row, plain_loads)).collect(),
        checks,
    }
}

/// The result of the trial start.
enum Trial {
    /// It was not tried.
    Not(&'static str),
    /// The requested backend is unavailable.
    NotPossible(BackendUnavailable),
    /// It failed.
    Failed(SetupError),
    /// Tracing works.
    Good(Box<Started>),
}

fn options(how: &HowArgs, native: Abi, cgroups: Option<Cgroups>) -> SessionOptions {
    SessionOptions {
        ring_bytes: setup::ring_bytes(how.ring_bytes),
        filters: KernelFilters::default(),
        detail: CallDetail::Calls,
        with_args: false,
        cgroups,
        native,
    }
}

fn check(name: CheckName, status: CheckStatus, detail: impl Into<String>) -> DoctorCheck {
    DoctorCheck { name, status, detail: detail.into(), remedy: None }
}

fn failed(name: CheckName, detail: impl Into<String>, remedy: Option<&str>) -> DoctorCheck {
    DoctorCheck { remedy: remedy.map(str::to_owned), ..check(name, CheckStatus::Failed, detail) }
}

fn warning(name: CheckName, detail: impl Into<String>, remedy: Option<&str>) -> DoctorCheck {
    DoctorCheck { remedy: remedy.map(str::to_owned), ..check(name, CheckStatus::Warning, detail) }
}

/// The kernel's types, and the fields that the programs need.
fn types(
    roots: &Roots,
    how: &HowArgs,
    kernel: &dyn KernelProbe,
    checks: &mut Vec<DoctorCheck>,
) -> (BtfReport, Option<BtfFacts>) {
    let (path, source) = match &how.btf {
        Some(path) => (path.clone(), BtfFrom::File),
        None => (roots.kernel_btf(), BtfFrom::Kernel),
    };
    let found = kernel.read_btf_facts(&path);
    match &found {
        Err(error) => checks.push(failed(CheckName::Btf, error.to_string(), None)),
        Ok(found) => {
            let whose = match source {
                BtfFrom::Kernel => "the kernel's own",
                BtfFrom::File => "named by --btf",
            };
            let detail = format!("{}, {whose}", path.display());
            checks.push(check(CheckName::Btf, CheckStatus::Ok, detail));
            checks.push(fields(&found.rows, &path));
        }
    }
    let error = found.as_ref().err().map(ToString::to_string);
    let path = std::os::unix::ffi::OsStringExt::into_vec(path.into_os_string());
    (BtfReport { path: OsBytes(path.into()), source, usable: error.is_none(), error }, found.ok())
}

/// Whether all fields were found, and what is lost if not.
fn fields(rows: &[Resolved], path: &Path) -> DoctorCheck {
    let missing: Vec<&Resolved> = rows.iter().filter(|row| row.found.is_none()).collect();
    let required: Vec<_> = missing
        .iter()
        .filter(|row| row.spec.need == Need::Required)
        .map(|row| places(row.spec))
        .collect();
    if !required.is_empty() {
        let detail = format!(
            "{} has no field {}, without which nothing can be traced",
            path.display(),
            required.join(", nor ")
        );
        let remedy = "name the BTF of this very kernel by --btf FILE";
        return failed(CheckName::Fields, detail, Some(remedy));
    }
    let mut lost: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for row in &missing {
        if let Need::Optional(what) = row.spec.need {
            lost.entry(what).or_default().push(places(row.spec));
        }
    }
    let found = format!("{} of {} found", rows.len() - missing.len(), rows.len());
    if lost.is_empty() {
        return check(CheckName::Fields, CheckStatus::Ok, found);
    }
    let lost: Vec<_> = lost
        .into_iter()
        .map(|(what, places)| format!("{what} (no field {})", places.join(", nor ")))
        .collect();
    warning(CheckName::Fields, format!("{found}; not known here: {}", lost.join("; ")), None)
}

impl Trial {
    fn started(&self) -> Option<&Started> {
        match self {
            Self::Good(started) => Some(started),
            Self::Not(_) | Self::NotPossible(_) | Self::Failed(_) => None,
        }
    }

    /// Why tracing does not work.
    fn reason(&self) -> String {
        match self {
            Self::Not(reason) => (*reason).to_owned(),
            Self::NotPossible(error) => error.to_string(),
            Self::Failed(error) => error.to_string(),
            Self::Good(_) => String::new(),
        }
    }

    /// The checks that follow from loading and attaching.
    fn check(&self, checks: &mut Vec<DoctorCheck>) {
        match self {
            Self::Not(_) => checks.push(check(
                CheckName::Programs,
                CheckStatus::Unknown,
                "not tried, for want of what has failed",
            )),
            Self::NotPossible(error) => {
                checks.push(failed(CheckName::Backend, error.to_string(), None));
            }
            Self::Failed(error @ SetupError::Session(SessionError::Mismatch { .. })) => {
                checks.push(check(CheckName::Programs, CheckStatus::Ok, "loaded and attached"));
                checks.push(failed(CheckName::Namespace, error.to_string(), None));
            }
            Self::Failed(error) => {
                checks.push(failed(CheckName::Programs, error.to_string(), None));
            }
            Self::Good(started) => checks.extend(attached(started)),
        }
    }
}

fn attached(started: &Started) -> [DoctorCheck; 4] {
    let Started { plan, flavour, fallbacks, namespace_list_refused, namespace_list, took, .. } =
        started;
    let seconds = took.as_secs_f64();
    let functions = match plan.hooks.len() {
        0 => String::new(),
        hooks => format!("{hooks} functions and "),
    };
    let how =
        format!("loaded and attached to {functions}{flavour} in {seconds:.1} s, then detached");
    let programs = match fallbacks.as_slice() {
        [] => check(CheckName::Programs, CheckStatus::Ok, how),
        better => {
            let detail = format!("{how}; not used, though better: {}", better.join("; "));
            warning(CheckName::Programs, detail, None)
        }
    };
    let [namespace, namespace_list] = match namespace_list_refused {
        Some(reason) => [
            check(
                CheckName::Namespace,
                CheckStatus::Unknown,
                "can't be checked without the namespace list",
            ),
            warning(
                CheckName::NamespaceList,
                format!(
                    "{reason}: what exists at the start, and the end of namespaces, is not seen"
                ),
                None,
            ),
        ],
        None => {
            let inum = namespace_list.self_ns_inum;
            let detail = format!("this IPC namespace reads as {inum}, as /proc/self/ns/ipc has it");
            let count = namespace_list.alive.len();
            let noun = if count == 1 { "namespace" } else { "namespaces" };
            let namespace_list = if namespace_list.complete {
                check(
                    CheckName::NamespaceList,
                    CheckStatus::Ok,
                    format!("{count} IPC {noun} listed"),
                )
            } else {
                let detail = format!("{count} IPC {noun} listed, and there may be more");
                warning(CheckName::NamespaceList, detail, None)
            };
            [check(CheckName::Namespace, CheckStatus::Ok, detail), namespace_list]
        }
    };
    [programs, namespace, namespace_list, aux_probes(started)]
}

/// Whether threads are preempted inside programs, and what that costs.
fn preemption(model: PreemptionModel, started: Option<&Started>) -> DoctorCheck {
    let name = CheckName::Preemption;
    let detail = match model {
        PreemptionModel::None | PreemptionModel::Voluntary => {
            format!("{model}: no thread loses its CPU in the middle of a program")
        }
        PreemptionModel::Lazy | PreemptionModel::Full | PreemptionModel::Rt => {
            format!("{model}: threads lose their CPU nearly anywhere in the kernel")
        }
        PreemptionModel::Unknown => {
            "not known, which counts as full: debugfs can't be read, and neither the kernel's \
                           version nor its command line says it"
                .to_owned()
        }
    };
    let mut inexact = started.into_iter().flat_map(|started| started.plan.inexact());
    match inexact.next() {
        Some((backend, why)) => {
            let detail = format!("{detail}; backend {} is not exact: {why}", backend.name());
            let other = started.filter(|started| started.plan.preferred != backend);
            warning(name, detail, other.map(|_| "--backend auto takes the one that is exact"))
        }
        None if model == PreemptionModel::Unknown => check(name, CheckStatus::Unknown, detail),
        None => check(name, CheckStatus::Ok, detail),
    }
}

/// The check of the auxiliary probes.
fn aux_probes(started: &Started) -> DoctorCheck {
    let Started { plan, watched, unseen, untested, .. } = started;
    let how = match watched {
        0 if plan.hooks.is_empty() => {
            "by the descriptors that calls give: not seen are touches of mapped memory, queues that are \
              unlinked or polled by their paths, settings that are written, and descriptors that are \
              received and not used; which call made an object is inferred where it does not say so"
                .to_owned()
        }
        0 => "no function is watched".to_owned(),
        count if untested.is_empty() => {
            format!("{count} functions are watched, each seen to run its program in the self-test")
        }
        count => format!(
            "{count} functions are watched, {} of them seen to run their programs in the self-test; not \
             tested: {}",
            count - untested.len(),
            untested.join(", ")
        ),
    };
    match unseen.as_slice() {
        [] => check(CheckName::AuxiliaryProbes, CheckStatus::Ok, how),
        unseen => {
            let detail = format!("{how}; not seen: {}", unseen.join("; "));
            warning(CheckName::AuxiliaryProbes, detail, None)
        }
    }
}

const fn backend_name(backend: PlannedBackend) -> BackendName {
    match backend {
        PlannedBackend::Function => BackendName::Function,
        PlannedBackend::Syscall => BackendName::Syscall,
    }
}

const fn paid_by(backend: BackendName) -> PaidBy {
    match backend {
        BackendName::Function => PaidBy::IpcCalls,
        BackendName::Syscall => PaidBy::EveryCall,
    }
}

/// What a getppid(2) pays, over an untraced one of 335: Linux 6.12, counted under emulation. The
/// lower figure of `syscall` is `sys_exit` alone.
const fn other_calls(backend: BackendName) -> Instructions {
    match backend {
        BackendName::Function => Instructions { min: 0, max: 2 },
        BackendName::Syscall => Instructions { min: 146, max: 237 },
    }
}

fn backends(choice: BackendChoice, trial: &Trial) -> [BackendReport; 2] {
    let (by_function, by_syscall) = match trial {
        Trial::Not(reason) => {
            ((None, Some((*reason).to_owned())), (None, Some((*reason).to_owned())))
        }
        Trial::NotPossible(error) => {
            ((Some(false), Some(error.reason.clone())), (None, Some(NOT_ASKED_FOR.to_owned())))
        }
        Trial::Failed(error) => {
            ((Some(false), Some(error.to_string())), (Some(false), Some(error.to_string())))
        }
        Trial::Good(started) => {
            let plan = &started.plan;
            let function = match (choice, plan.hooks.len()) {
                (_, 1..) => (Some(true), None),
                (BackendChoice::Syscall, 0) => (None, Some(NOT_ASKED_FOR.to_owned())),
                (BackendChoice::Auto | BackendChoice::Function, 0) => {
                    let reason = plan.ops.first().map(|op| op.reason.clone());
                    match plan.exactness.inexact(PlannedBackend::Function) {
                        Some(why) if reason.as_deref() == Some(why.to_string().as_str()) => {
                            (None, Some(NOT_TAKEN.to_owned()))
                        }
                        _ => (Some(false), reason),
                    }
                }
            };
            let syscall = match plan.syscall_kinds {
                0 => (None, Some("not needed".to_owned())),
                _ => (Some(true), None),
            };
            (function, syscall)
        }
    };
    let backend = |name, (usable, reason): (Option<bool>, Option<String>)| BackendReport {
        name,
        usable,
        reason,
        exact: None,
        inexact: None,
        functions: None,
        tracepoints: None,
        paid_by: paid_by(name),
        other_calls: other_calls(name),
    };
    let mut function = backend(BackendName::Function, by_function);
    let mut syscall = backend(BackendName::Syscall, by_syscall);
    if let Some(started) = trial.started() {
        for (backend, planned) in
            [(&mut function, PlannedBackend::Function), (&mut syscall, PlannedBackend::Syscall)]
        {
            let why = started.plan.exactness.inexact(planned);
            backend.exact = Some(why.is_none());
            backend.inexact = why.map(|why| why.to_string());
        }
        if function.usable == Some(true) {
            function.functions = Some(started.plan.hooks.len());
        }
        if syscall.usable == Some(true) {
            syscall.tracepoints = Some(match started.flavour {
                TracepointMode::Perf => Tracepoints::Perf,
                TracepointMode::Btf => Tracepoints::Btf,
                TracepointMode::Raw => Tracepoints::Raw,
            });
        }
    }
    [function, syscall]
}

/// Why a backend was not tried.
const NOT_ASKED_FOR: &str = "not asked for";
const NOT_TAKEN: &str = "not taken, as it is not exact here";

fn operations(native: Abi, trial: &Trial) -> Vec<Operation> {
    let entries = |op: &OpPlan| {
        let way = |&HookedSyscall { abi, number, call, function }: &HookedSyscall| {
            SyscallEntryReport { abi: AbiName(abi), number, call, function }
        };
        op.entries.iter().map(way).collect()
    };
    let seen = |op: &OpPlan| {
        let backend = backend_name(op.backend);
        Operation {
            op: OpName(op.op),
            backend: Some(backend),
            reason: op.reason.clone(),
            paid_by: Some(paid_by(backend)),
            entries: entries(op),
        }
    };
    let unseen = |op: &OpPlan| Operation {
        backend: None,
        reason: trial.reason(),
        paid_by: None,
        ..seen(op)
    };
    match trial.started() {
        Some(started) => started.plan.ops.iter().map(seen).collect(),
        // The system calls exist all the same, and this plan is always possible.
        None => plan::plan(BackendChoice::Syscall, native, &Features::default())
            .map(|plan| plan.ops.iter().map(unseen).collect())
            .unwrap_or_default(),
    }
}

fn field(row: &Resolved, plain_loads: bool) -> FieldState {
    let Resolved { spec, found } = row;
    let read = match spec.way {
        ReadWay::Direct if plain_loads => FieldRead::Load,
        ReadWay::Direct | ReadWay::Probe => FieldRead::Helper,
        ReadWay::Offset => FieldRead::Offset,
    };
    let (required, gives) = match spec.need {
        Need::Required => (true, None),
        Need::Optional(what) => (false, Some(what)),
    };
    FieldState {
        field: format!("{:?}", spec.field),
        required,
        place: found.as_ref().map(|found| found.0.clone()),
        offset: found.as_ref().map(|found| found.1),
        read: found.as_ref().map(|_| read),
        gives,
        missing: match found {
            Some(_) => None,
            None => Some(format!(
                "the kernel's BTF has no field {}, or several that disagree",
                places(spec)
            )),
        },
    }
}

fn summarize(ready: bool, operations: &[Operation], checks: &[DoctorCheck]) -> String {
    if !ready {
        let failed = checks.iter().find(|check| check.status == CheckStatus::Failed);
        return match failed {
            None => "not ready".to_owned(),
            Some(DoctorCheck { detail, remedy: None, .. }) => format!("not ready: {detail}"),
            Some(DoctorCheck { detail, remedy: Some(remedy), .. }) => {
                format!("not ready: {detail}: {remedy}")
            }
        };
    }
    let by = |name| operations.iter().filter(|op| op.backend == Some(name)).count();
    match (by(BackendName::Function), by(BackendName::Syscall)) {
        (all, 0) if all == Op::ALL.len() => {
            format!("ready: all {all} operations traced by backend function")
        }
        (0, all) if all == Op::ALL.len() => {
            format!("ready: all {all} operations traced by backend syscall")
        }
        (function, syscall) => format!(
            "ready: {function} operations traced by backend function, {syscall} by backend syscall"
        ),
    }
}
