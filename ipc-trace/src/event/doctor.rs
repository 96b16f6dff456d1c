//! The object that `doctor -o json` prints.

use schemars::JsonSchema;
use serde::Serialize;

use super::value::{AbiName, OpName, OsBytes};

/// Whether tracing works on this host, and why.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(title = "The output of ipc-trace doctor -o json")]
pub(crate) struct Doctor {
    /// The version of this object
    pub v: u8,
    /// The host's name
    pub host: String,
    /// The kernel's release
    pub kernel: String,
    /// The machine
    pub arch: &'static str,
    /// The version of ipc-trace
    pub version: &'static str,
    /// Whether tracing works: the programs could be attached, and were detached again
    pub ready: bool,
    /// The same in words, with what is missing and how to fix it
    pub verdict: String,
    /// The privileges of this process
    pub privileges: Privileges,
    /// The kernel's type information (BTF)
    pub btf: BtfReport,
    /// The backends, by which calls can be observed
    pub backends: Vec<BackendReport>,
    /// The backend that `--backend auto` uses for all operations that it can observe; `null`: unknown
    pub auto: Option<BackendName>,
    /// The overhead measured while the programs were attached; `null`: they weren't
    pub measured: Option<Measured>,
    /// The container runtimes asked for names
    pub runtimes: Vec<RuntimeReport>,
    /// The operations, and how each is observed. Empty on an unsupported machine
    pub operations: Vec<Operation>,
    /// The kernel's fields that the programs read. Empty if the BTF can't be used
    pub fields: Vec<FieldState>,
    /// The checks, each after the checks that it depends on
    pub checks: Vec<DoctorCheck>,
}

/// The privileges of this process.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct Privileges {
    /// The relevant capabilities
    pub capabilities: Vec<Capability>,
    /// Whether it is in the initial user namespace, whose capabilities alone count; `null`: unknown
    pub initial_user_ns: Option<bool>,
}

/// A capability.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct Capability {
    /// Its name
    pub name: &'static str,
    /// Whether it is effective, or implied by `CAP_SYS_ADMIN`; `null`: unknown
    pub present: Option<bool>,
    /// Whether tracing needs it
    pub required: bool,
    /// Its purpose
    pub purpose: &'static str,
}

/// The kernel's type information (BTF).
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct BtfReport {
    /// Path of the file
    pub path: OsBytes<'static>,
    /// The source of the file
    pub source: BtfFrom,
    /// Whether it can be read and parsed
    pub usable: bool,
    /// Why not; `null`: it is usable
    pub error: Option<String>,
}

/// The source of a BTF file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum BtfFrom {
    /// The running kernel's own
    Kernel,
    /// Named by --btf
    File,
}

/// A backend, by which calls can be observed.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct BackendReport {
    /// Its name
    pub name: BackendName,
    /// Whether it works; `null`: it wasn't tried
    pub usable: Option<bool>,
    /// Why it doesn't work, or wasn't tried; `null`: it works
    pub reason: Option<String>,
    /// Whether it observes every call on this kernel under any load; `null`: unknown
    pub exact: Option<bool>,
    /// Why it may miss calls; `null`: it doesn't
    pub inexact: Option<String>,
    /// Number of functions with programs: each was observed to fire, or has no system call on this host;
    /// `null`: they weren't attached
    pub functions: Option<usize>,
    /// The kind of tracepoint programs that it uses; `null`: none
    pub tracepoints: Option<Tracepoints>,
    /// Which calls it slows down
    pub paid_by: PaidBy,
    /// The overhead of a system call that is no IPC
    pub other_calls: Instructions,
}

/// A backend's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum BackendName {
    /// Programs on the system calls' entry functions
    Function,
    /// Programs on the tracepoints `sys_enter` and `sys_exit`
    Syscall,
}

/// The kind of tracepoint programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Tracepoints {
    /// As perf events: on this kernel other programs may be preempted, and miss calls
    Perf,
    /// Fields are read with plain loads
    Btf,
    /// Every field is read with a helper, which is slower
    Raw,
}

/// The calls that a backend slows down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PaidBy {
    /// Every system call of every process
    EveryCall,
    /// IPC calls alone
    IpcCalls,
}

/// Instructions per call, measured on Linux 6.12.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Instructions {
    /// At least
    pub min: u32,
    /// At most
    pub max: u32,
}

/// The duration of a system call that is no IPC on this host: the minimum of several runs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub(crate) struct Measured {
    /// The system call
    pub call: &'static str,
    /// Nanoseconds before the programs were attached
    pub before_ns: u64,
    /// Nanoseconds while they were
    pub attached_ns: u64,
}

/// A container runtime that is asked for names.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct RuntimeReport {
    /// Its name
    pub runtime: &'static str,
    /// Its socket
    pub socket: OsBytes<'static>,
    /// Whether it has reported its containers; `null`: there is no such socket, or it hasn't answered yet
    pub answers: Option<bool>,
    /// Why not; `null`: it answers, or is pending
    pub reason: Option<String>,
}

/// An operation, and how it is observed.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct Operation {
    /// The operation
    pub op: OpName,
    /// The backend that observes it; `null`: none does
    pub backend: Option<BackendName>,
    /// Why this backend, or why none
    pub reason: String,
    /// Which calls the backend slows down; `null`: there is none
    pub paid_by: Option<PaidBy>,
    /// The system call entries
    pub entries: Vec<SyscallEntryReport>,
}

/// A system call entry.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
pub(crate) struct SyscallEntryReport {
    /// The calling convention
    pub abi: AbiName,
    /// The system call's number, without x32's bit 30
    pub number: u16,
    /// With `ipc(2)`: the call's number there; `null` otherwise
    pub call: Option<u8>,
    /// The hooked function, with backend `function`; `null`: it is observed by tracepoints, or the kernel
    /// lacks this entry
    pub function: Option<&'static str>,
}

/// A field of a kernel structure that the programs read.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct FieldState {
    /// Its name in the kernel-layout table
    pub field: String,
    /// Whether tracing needs it
    pub required: bool,
    /// Structure and member where it was found; `null`: it wasn't
    pub place: Option<String>,
    /// Offset in the structure in bytes; `null`: it wasn't found
    pub offset: Option<u32>,
    /// How it is read; `null`: it wasn't found
    pub read: Option<FieldRead>,
    /// Which information depends on it; `null`: tracing needs it
    pub gives: Option<&'static str>,
    /// Why it wasn't found; `null`: it was
    pub missing: Option<String>,
}

/// How a field is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FieldRead {
    /// With a plain load
    Load,
    /// With `bpf_probe_read_kernel`, or since 6.2 with a plain load of any address
    Helper,
    /// Not read: its offset locates the enclosing structure
    Offset,
}

/// A check.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct DoctorCheck {
    /// The check
    pub name: CheckName,
    /// The result
    pub status: CheckStatus,
    /// What was found
    pub detail: String,
    /// How to fix it; `null`: nothing to do
    pub remedy: Option<String>,
}

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CheckStatus {
    /// Passed
    Ok,
    /// Tracing works with a restriction that `detail` describes
    Warning,
    /// Tracing is impossible
    Failed,
    /// It couldn't be checked
    Unknown,
}

/// The name of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CheckName {
    /// Version and machine
    Kernel,
    /// Capabilities
    Privileges,
    /// Whether the capabilities count
    UserNamespace,
    /// Whether this process is in the initial pid namespace
    PidNamespace,
    /// Whether this process is in the initial time namespace
    TimeNamespace,
    /// Whether the kernel lets programs read its memory
    Lockdown,
    /// The limit on locked memory
    Memlock,
    /// Whether programs are compiled to machine code
    Jit,
    /// Whether the kernel measures the run time of each program
    BpfStats,
    /// Whether threads are preempted in the middle of programs
    Preemption,
    /// The kernel's type information (BTF)
    Btf,
    /// The fields that the programs read
    Fields,
    /// Whether the backend requested with --backend is available
    Backend,
    /// The programs, loaded and attached
    Programs,
    /// A field that the programs read, compared with `/proc`
    Namespace,
    /// The namespace list
    NamespaceList,
    /// Probes of accesses to other namespaces' objects that are no IPC operations
    AuxiliaryProbes,
    /// The cgroups that identify containers
    Containers,
}

impl CheckName {
    /// The name in words.
    #[must_use]
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Privileges => "privileges",
            Self::UserNamespace => "user namespace",
            Self::PidNamespace => "pid namespace",
            Self::TimeNamespace => "time namespace",
            Self::Lockdown => "lockdown",
            Self::Memlock => "locked memory",
            Self::Jit => "BPF compiler",
            Self::BpfStats => "BPF statistics",
            Self::Preemption => "preemption",
            Self::Btf => "BTF",
            Self::Fields => "fields",
            Self::Backend => "backend",
            Self::Programs => "programs",
            Self::Namespace => "namespace",
            Self::NamespaceList => "namespace listing",
            Self::AuxiliaryProbes => "auxiliary probes",
            Self::Containers => "containers",
        }
    }
}
