//! `doctor` on hosts that are temporary directories, with a simulated kernel.

use std::{fs, os::unix::fs::symlink, path::Path, time::Duration};

use ipc_trace_common::{
    hooks,
    layout::{FIELDS, Field},
    record::NsRef,
};

use super::*;
use crate::{
    cli::RuntimeArgs,
    event::doctor::Measured,
    input::namespace_list::{Alive, NamespaceList},
    sources::kernel::{
        btf::Function,
        field_offsets::{self, Fprobe, LayoutError},
        preemption::PreemptionModel,
    },
};

/// The files of a fully working host. They include all files that `doctor` reads, except the BTF and the links of
/// namespaces.
const FILES: &[(&str, &str)] = &[
    ("proc/self/status", "Name:\tipc-trace\nCapEff:\t000001ffffffffff\n"),
    (
        "proc/self/limits",
        "Max locked memory         unlimited            unlimited            bytes\n",
    ),
    ("proc/sys/net/core/bpf_jit_enable", "1\n"),
    ("proc/sys/net/core/bpf_jit_harden", "0\n"),
    ("proc/sys/kernel/bpf_stats_enabled", "0\n"),
    ("sys/kernel/security/lsm", "lockdown,capability"),
    ("sys/kernel/security/lockdown", "[none] integrity confidentiality\n"),
    ("sys/kernel/debug/sched/preempt", "none (voluntary) full\n"),
    ("proc/self/cgroup", "0::/\n"),
    ("proc/self/mountinfo", "30 1 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"),
    ("sys/kernel/btf/vmlinux", "not read by the kernel of the tests"),
];

/// A host in a temporary directory.
pub(crate) struct FakeHost {
    root: tempfile::TempDir,
    system: System,
}

impl FakeHost {
    /// A fully working host.
    pub(crate) fn new(name: &str) -> Self {
        let host = Self::empty(name);
        for (kind, inum) in [("user", 4026531837_u32), ("pid", 4026531836), ("time", 4026531834)] {
            let link = host.root.path().join("proc/self/ns").join(kind);
            symlink(format!("{kind}:[{inum}]"), link).unwrap();
        }
        FILES.iter().fold(host, |host, (path, text)| host.file(path, text))
    }

    /// A host without files.
    fn empty(name: &str) -> Self {
        let root = tempfile::Builder::new().prefix(name).tempdir().unwrap();
        fs::create_dir_all(root.path().join("proc/self/ns")).unwrap();
        let system = System {
            host: "web1".to_owned(),
            kernel: "6.12.117".to_owned(),
            build: "#1 SMP PREEMPT_DYNAMIC Debian 6.12.117-1 (2026-11-12)".to_owned(),
            arch: "x86_64",
            boot_id: None,
        };
        Self { root, system }
    }

    pub(crate) fn file(self, path: &str, text: impl AsRef<[u8]>) -> Self {
        let path = self.root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn without(self, path: &str) -> Self {
        fs::remove_file(self.root.path().join(path)).unwrap();
        self
    }

    pub(crate) fn release(mut self, release: &str) -> Self {
        self.system.kernel = release.to_owned();
        self
    }

    /// A host whose kernel preempts threads.
    pub(crate) fn preempts(self) -> Self {
        self.file("sys/kernel/debug/sched/preempt", "none voluntary (full)\n")
    }

    pub(crate) fn name(mut self, name: &str) -> Self {
        self.system.host = name.to_owned();
        self
    }

    pub(crate) fn examine(&self, how: &HowArgs, kernel: &dyn KernelProbe) -> Doctor {
        let roots =
            Roots { proc: self.root.path().join("proc"), sys: self.root.path().join("sys") };
        let mut doctor = examine(&self.system, &roots, how, kernel);
        // The directory's path differs from run to run.
        let root = self.root.path().to_str().unwrap();
        for check in &mut doctor.checks {
            check.detail = check.detail.replace(root, "");
        }
        doctor.verdict = doctor.verdict.replace(root, "");
        doctor
    }
}

/// A simulated kernel.
#[derive(Default)]
pub(crate) struct FakeKernel {
    /// Members that no structure has
    lacks: &'static [&'static str],
    /// Whether fields are resolved in the named file
    real_fields: bool,
    fentry_refused: Option<&'static str>,
    fallbacks: &'static [&'static str],
    namespace_list_refused: Option<&'static str>,
    /// The model, if programs on functions miss calls
    preempts: Option<PreemptionModel>,
    fails: Option<fn() -> SessionError>,
    must_not_be_asked: bool,
}

impl FakeKernel {
    /// A kernel that rejects fentry programs.
    pub(crate) fn refusing(reason: &'static str) -> Self {
        Self { fentry_refused: Some(reason), ..Self::default() }
    }

    /// A kernel that preempts programs on functions.
    pub(crate) fn preempting(model: PreemptionModel) -> Self {
        Self { preempts: Some(model), ..Self::default() }
    }

    /// A kernel without these members and functions.
    pub(crate) fn lacking(lacks: &'static [&'static str]) -> Self {
        Self { lacks, ..Self::default() }
    }

    /// A kernel whose fields are resolved in the named file.
    pub(crate) fn reading_files() -> Self {
        Self { real_fields: true, ..Self::default() }
    }

    /// A kernel with few features.
    pub(crate) fn poor() -> Self {
        Self {
            lacks: &["ns.ns_id", "exe_file"],
            fentry_refused: Some("no fentry programs: refused"),
            fallbacks: &["BTF tracepoints: program sys_exit on sys_exit: refused"],
            namespace_list_refused: Some("the kernel has no BTF, so no iterators"),
            ..Self::default()
        }
    }
}

impl KernelProbe for FakeKernel {
    fn read_btf_facts(&self, btf: &Path) -> Result<BtfFacts, LayoutError> {
        if self.real_fields {
            return field_offsets::read_btf_facts(btf);
        }
        let rows = field_offsets::rows(|structure, path| {
            let is_x86 = !matches!(path, "regs" | "syscallno");
            let there = is_x86 && !self.lacks.contains(&path);
            there.then(|| (8 * structure.len() + path.len()) as u32)
        });
        let there = hooks::functions().filter(|name| !self.lacks.contains(name));
        let described = there.map(|name| (name, Function { id: 1, prototype: 1 })).collect();
        Ok(BtfFacts {
            rows,
            functions: described,
            hooks: BTreeMap::new(),
            controllers: BTreeMap::new(),
            fprobe: Fprobe::None,
            tracing_multi: false,
        })
    }

    fn start(
        &self,
        choice: BackendChoice,
        layout: &Layout,
        options: &SessionOptions,
    ) -> Result<Started, SetupError> {
        assert!(!self.must_not_be_asked);
        if let Some(error) = self.fails {
            return Err(error().into());
        }
        let features = Features {
            kernel_btf: true,
            described: layout.functions().keys().copied().collect(),
            fentry_refused: self.fentry_refused.map(str::to_owned),
            preemption: self.preempts.unwrap_or(PreemptionModel::Voluntary),
            guards_functions: true,
            ..Features::default()
        };
        let plan = plan::plan(choice, options.native, &features)?;
        let alive = |inum| Alive { ns: NsRef { inum, generation: 1 }, ns_id: None };
        Ok(Started {
            measured: Some(Measured {
                call: "getppid",
                before_ns: 199,
                attached_ns: if plan.syscall_kinds == 0 { 199 } else { 365 },
            }),
            flavour: plan.flavours.get(self.fallbacks.len()).copied().unwrap(),
            fallbacks: self.fallbacks.iter().map(|&reason| reason.to_owned()).collect(),
            namespace_list_refused: self.namespace_list_refused.map(str::to_owned),
            watched: if plan.hooks.is_empty() { 0 } else { hooks::AUX_PROBES.len() },
            plan,
            unseen: Vec::new(),
            untested: Vec::new(),
            namespace_list: NamespaceList {
                alive: vec![alive(4_026_531_839), alive(4_026_532_180)],
                complete: true,
                self_ns_inum: 4_026_531_839,
                ..NamespaceList::default()
            },
            took: Duration::from_millis(283),
        })
    }
}

pub(crate) fn how(backend: BackendChoice) -> HowArgs {
    HowArgs { backend, ring_bytes: 8 << 20, btf: None, runtimes: RuntimeArgs::default() }
}

#[track_caller]
fn assert_check(doctor: &Doctor, name: CheckName, status: CheckStatus, words: &str) {
    let check = doctor.checks.iter().find(|check| check.name == name).unwrap();
    assert_eq!(check.status, status, "{check:?}");
    let text = format!("{}: {}", check.detail, check.remedy.as_deref().unwrap_or_default());
    assert!(text.contains(words), "{words:?} is not in {text:?}");
}

#[test]
fn working_host_is_ready() {
    let doctor = FakeHost::new("well").examine(&how(BackendChoice::Auto), &FakeKernel::default());
    assert!(doctor.ready);
    assert_eq!(doctor.verdict, "ready: all 17 operations traced by backend function");
    let well = doctor.checks.iter().all(|check| check.status == CheckStatus::Ok);
    assert!(well, "{:?}", doctor.checks);
    assert_eq!(doctor.operations.len(), 17);
    assert_eq!(doctor.fields.len(), FIELDS.len());
    assert!(doctor.fields.iter().all(|field| field.place.is_some() && field.missing.is_none()));
}

#[test]
fn files_are_read_below_roots() {
    use CheckName as Name;
    for (path, text, name, status, words) in [
        ("proc/self/status", "CapEff:\t0\n", Name::Privileges, CheckStatus::Failed, "CAP_PERFMON"),
        ("proc/self/status", "CapEff:\tx\n", Name::Privileges, CheckStatus::Unknown, "status"),
        (
            "proc/self/limits",
            "Max locked memory  65536  65536  bytes\n",
            Name::Memlock,
            CheckStatus::Warning,
            "65536 bytes",
        ),
        ("proc/self/limits", "\n", Name::Memlock, CheckStatus::Unknown, "not understood"),
        (
            "proc/sys/net/core/bpf_jit_enable",
            "0\n",
            Name::Jit,
            CheckStatus::Warning,
            "jit_enable=1",
        ),
        (
            "proc/sys/net/core/bpf_jit_harden",
            "2\n",
            Name::Jit,
            CheckStatus::Warning,
            "jit_harden=1",
        ),
        ("proc/sys/kernel/bpf_stats_enabled", "1\n", Name::BpfStats, CheckStatus::Warning, "timed"),
        (
            "sys/kernel/debug/sched/preempt",
            "none voluntary (full)\n",
            Name::Preemption,
            CheckStatus::Ok,
            "full: threads lose",
        ),
        ("sys/kernel/realtime", "1\n", Name::Preemption, CheckStatus::Ok, "rt: threads lose"),
        (
            "sys/kernel/debug/sched/preempt",
            "?\n",
            Name::Preemption,
            CheckStatus::Unknown,
            "as full",
        ),
        (
            "sys/kernel/security/lockdown",
            "none integrity [confidentiality]\n",
            Name::Lockdown,
            CheckStatus::Failed,
            "lockdown=integrity",
        ),
        (
            "sys/kernel/security/lockdown",
            "none\n",
            Name::Lockdown,
            CheckStatus::Unknown,
            "understood",
        ),
    ] {
        let host = FakeHost::new("files").release("5.10.223").file(path, text);
        assert_check(
            &host.examine(&how(BackendChoice::Auto), &FakeKernel::default()),
            name,
            status,
            words,
        );
    }
    // No other file is read: without any, nothing is known.
    let kernel = FakeKernel::reading_files();
    let doctor =
        FakeHost::empty("files").release("5.10.223").examine(&how(BackendChoice::Auto), &kernel);
    for (name, status) in [
        (Name::Privileges, CheckStatus::Unknown),
        (Name::UserNamespace, CheckStatus::Unknown),
        (Name::PidNamespace, CheckStatus::Unknown),
        (Name::TimeNamespace, CheckStatus::Unknown),
        (Name::Memlock, CheckStatus::Unknown),
        (Name::Jit, CheckStatus::Unknown),
        (Name::Preemption, CheckStatus::Unknown),
        (Name::Lockdown, CheckStatus::Unknown),
        (Name::Btf, CheckStatus::Failed),
        (Name::Programs, CheckStatus::Unknown),
    ] {
        assert_check(&doctor, name, status, "");
    }
    assert_eq!(doctor.privileges.initial_user_ns, None);
    assert!(doctor.privileges.capabilities.iter().all(|c| c.present.is_none()));
}

#[test]
fn unreadable_file_is_unknown() {
    let unreadable = [0xff, 0xfe];
    let host = FakeHost::new("unreadable")
        .file("sys/kernel/security/lockdown", unreadable)
        .file("proc/sys/net/core/bpf_jit_enable", unreadable)
        .file("proc/sys/kernel/bpf_stats_enabled", unreadable);
    let doctor = host.examine(&how(BackendChoice::Auto), &FakeKernel::default());
    assert!(doctor.ready);
    for name in [CheckName::Lockdown, CheckName::Jit, CheckName::BpfStats] {
        assert_check(&doctor, name, CheckStatus::Unknown, "can't be read");
    }
}

#[test]
fn missing_capabilities_are_named_and_nothing_is_loaded() {
    let kernel = FakeKernel { must_not_be_asked: true, ..FakeKernel::default() };
    for (set, missing) in [(0, "CAP_BPF and CAP_PERFMON are"), (1_u64 << 39, "CAP_PERFMON is")] {
        let host = FakeHost::new("caps").file("proc/self/status", format!("CapEff:\t{set:016x}\n"));
        let doctor = host.examine(&how(BackendChoice::Auto), &kernel);
        assert!(!doctor.ready);
        let verdict = format!("not ready: {missing} missing: run it as root");
        assert!(doctor.verdict.starts_with(&verdict), "{}", doctor.verdict);
        assert!(doctor.backends.iter().all(|backend| backend.usable.is_none()));
        // Checks that need no privilege are made all the same.
        assert_eq!(doctor.operations.len(), 17);
        assert_eq!(doctor.fields.len(), FIELDS.len());
    }
}

#[test]
fn optional_capabilities_do_not_prevent_tracing() {
    let set = 1_u64 << 38 | 1 << 39;
    let host = FakeHost::new("few").file("proc/self/status", format!("CapEff:\t{set:016x}\n"));
    let doctor = host.examine(&how(BackendChoice::Auto), &FakeKernel::default());
    assert!(doctor.ready);
    assert_check(&doctor, CheckName::Privileges, CheckStatus::Warning, "CAP_SYS_NICE");
}

#[test]
fn user_namespace_is_reported_as_reason() {
    let host = FakeHost::new("userns").without("proc/self/ns/user");
    symlink("user:[4026532999]", host.root.path().join("proc/self/ns/user")).unwrap();
    let kernel = FakeKernel {
        fails: Some(|| SessionError::Maps("EPERM".to_owned())),
        ..FakeKernel::default()
    };
    let doctor = host.examine(&how(BackendChoice::Auto), &kernel);
    assert!(doctor.verdict.starts_with("not ready: this process is in a user namespace"));
    assert_check(&doctor, CheckName::Programs, CheckStatus::Failed, "EPERM");
}

#[test]
fn pid_or_time_namespace_is_ready_with_warning() {
    let host = FakeHost::new("own").without("proc/self/ns/pid").without("proc/self/ns/time");
    for (kind, inum) in [("pid", 4026532501_u32), ("time", 4026532502)] {
        symlink(format!("{kind}:[{inum}]"), host.root.path().join("proc/self/ns").join(kind))
            .unwrap();
    }
    let doctor = host.examine(&how(BackendChoice::Auto), &FakeKernel::default());
    assert!(doctor.ready);
    assert_check(
        &doctor,
        CheckName::PidNamespace,
        CheckStatus::Warning,
        "--pid and --ipc-ns pid:PID",
    );
    assert_check(&doctor, CheckName::TimeNamespace, CheckStatus::Ok, "by the host's clocks");
}

#[test]
fn missing_btf_and_invalid_btf_have_different_messages() {
    let kernel = FakeKernel::reading_files();
    let none = FakeHost::new("no-btf").without("sys/kernel/btf/vmlinux");
    let garbage = FakeHost::new("garbage").file("sys/kernel/btf/vmlinux", [0xff; 64]);
    for (host, words) in [(none, "can't read"), (garbage, "is not BTF that can be used")] {
        let doctor = host.examine(&how(BackendChoice::Auto), &kernel);
        assert!(!doctor.ready && !doctor.btf.usable && doctor.fields.is_empty());
        assert!(doctor.verdict.contains(words), "{}", doctor.verdict);
        assert!(doctor.verdict.contains("--btf FILE"), "{}", doctor.verdict);
    }
}

#[test]
fn missing_optional_field_warns_and_required_field_fails() {
    let host = FakeHost::new("fields");
    let kernel = FakeKernel::lacking(&["ns.ns_id"]);
    let doctor = host.examine(&how(BackendChoice::Auto), &kernel);
    assert!(doctor.ready);
    assert_check(&doctor, CheckName::Fields, CheckStatus::Warning, "ipc_namespace.ns.ns_id");
    let field = &doctor.fields[Field::IpcNsId as usize];
    assert!(field.offset.is_none() && field.gives.unwrap().contains("own number"));
    assert!(field.missing.as_ref().unwrap().contains("ipc_namespace.ns.ns_id"));

    let kernel = FakeKernel::lacking(&["nsproxy"]);
    let doctor = host.examine(&how(BackendChoice::Auto), &kernel);
    assert!(!doctor.ready);
    assert!(doctor.verdict.contains("task_struct.nsproxy"), "{}", doctor.verdict);
    assert_eq!(doctor.fields.len(), FIELDS.len());
    assert_check(&doctor, CheckName::Programs, CheckStatus::Unknown, "not tried");
}

#[test]
fn fentry_refusal_shows_kernel_error() {
    let kernel = FakeKernel::refusing("EPERM from the kernel");
    let host = FakeHost::new("fentry");
    let doctor = host.examine(&how(BackendChoice::Auto), &kernel);
    assert!(doctor.ready);
    assert_eq!(doctor.backends[0].usable, Some(false));
    assert_eq!(doctor.backends[0].reason.as_deref(), Some("EPERM from the kernel"));
    assert!(doctor.operations.iter().all(|op| op.reason == "EPERM from the kernel"));

    let doctor = host.examine(&how(BackendChoice::Function), &kernel);
    assert!(!doctor.ready);
    assert!(doctor.verdict.contains("EPERM from the kernel"), "{}", doctor.verdict);
    assert!(doctor.operations.iter().all(|op| op.backend.is_none() && !op.entries.is_empty()));
}

#[test]
fn inexact_backend_is_avoided_or_warned_about() {
    let host = FakeHost::new("preempted").preempts();
    let kernel = FakeKernel::preempting(PreemptionModel::Full);
    let doctor = host.examine(&how(BackendChoice::Auto), &kernel);
    assert_eq!(doctor.verdict, "ready: all 17 operations traced by backend syscall");
    assert_eq!(doctor.auto, Some(BackendName::Syscall));
    let [function, syscall] = doctor.backends.as_slice() else { panic!() };
    assert_eq!((function.usable, function.exact), (None, Some(false)));
    assert!(function.inexact.as_ref().unwrap().contains("model full"));
    assert_eq!((syscall.usable, syscall.exact), (Some(true), Some(true)));
    assert_check(&doctor, CheckName::Preemption, CheckStatus::Ok, "full");

    let doctor = host.examine(&how(BackendChoice::Function), &kernel);
    assert!(doctor.ready);
    assert_eq!(doctor.auto, Some(BackendName::Syscall));
    assert_check(&doctor, CheckName::Preemption, CheckStatus::Warning, "function is not exact");
}

#[test]
fn missing_function_moves_operation_to_syscall() {
    let kernel = FakeKernel::lacking(&["__x64_sys_semtimedop"]);
    let doctor = FakeHost::new("mixed").examine(&how(BackendChoice::Auto), &kernel);
    let verdict = "ready: 16 operations traced by backend function, 1 by backend syscall";
    assert_eq!(doctor.verdict, verdict);
    assert!(doctor.backends.iter().all(|backend| backend.usable == Some(true)));
    for operation in &doctor.operations {
        let is_semop = operation.op == OpName(Op::Semop);
        let by = if is_semop { BackendName::Syscall } else { BackendName::Function };
        assert_eq!(operation.backend, Some(by));
        assert_eq!(operation.reason.contains("__x64_sys_semtimedop"), is_semop);
        assert_eq!(operation.entries.iter().any(|way| way.function.is_some()), !is_semop);
    }
}

#[test]
fn old_kernel_works_with_warnings() {
    let doctor = FakeHost::new("poor").examine(&how(BackendChoice::Auto), &FakeKernel::poor());
    assert!(doctor.ready);
    assert_eq!(doctor.backends[1].tracepoints, Some(Tracepoints::Raw));
    assert_check(
        &doctor,
        CheckName::Programs,
        CheckStatus::Warning,
        "BTF tracepoints: program sys_exit",
    );
    assert_check(&doctor, CheckName::NamespaceList, CheckStatus::Warning, "no iterators");
    assert_check(&doctor, CheckName::Namespace, CheckStatus::Unknown, "namespace list");
    let reads = |read| doctor.fields.iter().any(|field| field.read == Some(read));
    assert!(reads(FieldRead::Helper) && !reads(FieldRead::Load));
}

#[test]
fn wrong_field_offsets_are_detected() {
    let kernel = FakeKernel {
        fails: Some(|| SessionError::Mismatch { read: 7, proc: 4_026_531_839 }),
        ..FakeKernel::default()
    };
    let doctor = FakeHost::new("lies").examine(&how(BackendChoice::Auto), &kernel);
    assert!(!doctor.ready);
    assert_check(&doctor, CheckName::Namespace, CheckStatus::Failed, "read 7 as");
}

#[test]
fn unknown_machines_and_kernels_are_named() {
    let mut host = FakeHost::new("machine").release("4.19.0");
    assert_check(
        &host.examine(&how(BackendChoice::Auto), &FakeKernel::default()),
        CheckName::Kernel,
        CheckStatus::Warning,
        "4.19.0 is older",
    );
    host.system.arch = "riscv64";
    let doctor = host.examine(&how(BackendChoice::Auto), &FakeKernel::default());
    assert!(!doctor.ready && doctor.operations.is_empty());
    assert!(doctor.verdict.contains("riscv64"), "{}", doctor.verdict);
}

#[test]
fn json_follows_schema() {
    let schema = crate::commands::schema::schema_json(crate::cli::SchemaOf::Doctor);
    let validator = jsonschema::validator_for(&serde_json::from_str(&schema).unwrap()).unwrap();
    for kernel in [FakeKernel::default(), FakeKernel::poor()] {
        let doctor = FakeHost::new("schema").examine(&how(BackendChoice::Auto), &kernel);
        let value = serde_json::to_value(&doctor).unwrap();
        assert!(validator.is_valid(&value), "{value:#}");
    }
}
