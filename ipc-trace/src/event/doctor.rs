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
    /// Whether tracing works: the programs were attached, and let go of again
    pub ready: bool,
    /// The same in words, with what is missing and what to do
    pub verdict: String,
    /// What this process may do
    pub privileges: Privileges,
    /// The kernel's description of its types
    pub btf: BtfReport,
    /// How calls can be seen
    pub backends: Vec<BackendReport>,
    /// Which of them --backend auto takes, for all operations that it can see; `null`: not known
    pub auto: Option<BackendName>,
    /// What was paid here while the programs were attached
    pub measured: Option<Measured>,
    /// Whom names of containers are asked of
    pub runtimes: Vec<RuntimeReport>,
    /// The operations, and how each is seen. Empty on a machine that is not known
    pub operations: Vec<Operation>,
    /// The kernel's fields that the programs read. Empty where the BTF can't be used
    pub fields: Vec<FieldState>,
    /// What was looked at, in the order in which one thing needs the other
    pub checks: Vec<DoctorCheck>,
}

/// What this process may do.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct Privileges {
    /// Capabilities that matter here
    pub capabilities: Vec<Capability>,
    /// Whether it is in the initial user namespace, the only one whose capabilities count
    pub initial_user_ns: Option<bool>,
}

/// A capability.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct Capability {
    /// Its name
    pub name: &'static str,
    /// Whether it is effective, or `CAP_SYS_ADMIN` stands for it; `null`: can't be told
    pub present: Option<bool>,
    /// Whether nothing can be traced without it
    pub required: bool,
    /// What it is for
    pub purpose: &'static str,
}

/// The kernel's description of its types.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct BtfReport {
    /// The file
    pub path: OsBytes<'static>,
    /// Whose it is
    pub source: BtfFrom,
    /// Whether it can be read and understood
    pub usable: bool,
    /// Why not
    pub error: Option<String>,
}

/// Whose file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum BtfFrom {
    /// The running kernel's own
    Kernel,
    /// Named by --btf
    File,
}

/// A way to see calls.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct BackendReport {
    /// Its name
    pub name: BackendName,
    /// Whether it works; `null`: it was not tried
    pub usable: Option<bool>,
    /// Why it does not work, or was not tried
    pub reason: Option<String>,
    /// Whether it sees every call on this kernel, however busy that is; `null`: not known
    pub exact: Option<bool>,
    /// Why it may miss calls
    pub inexact: Option<String>,
    /// How many functions have programs: each was seen to fire, or answers no call on this host
    pub functions: Option<usize>,
    /// The kind of tracepoint programs that it was attached with
    pub tracepoints: Option<Tracepoints>,
    /// Who pays for it
    pub paid_by: PaidBy,
    /// What a system call that is no IPC pays
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
    /// As perf events: on this kernel programs might be preempted otherwise, and miss calls
    Perf,
    /// Fields are read with plain loads
    Btf,
    /// Every field is read with a helper, which costs more
    Raw,
}

/// Who pays for a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PaidBy {
    /// Every system call of every process
    EveryCall,
    /// IPC calls alone
    IpcCalls,
}

/// Instructions a call, measured on Linux 6.12.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Instructions {
    /// At least
    pub min: u32,
    /// At most
    pub max: u32,
}

/// What a system call that is no IPC took, here and now: the shortest of several times.
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
    /// Whether it has told of its containers; `null`: there is no such socket, or it takes its time
    pub answers: Option<bool>,
    /// Why not
    pub reason: Option<String>,
}

/// An operation, and how it is seen.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct Operation {
    /// Which
    pub op: OpName,
    /// By what it is seen; `null`: it is not
    pub backend: Option<BackendName>,
    /// Why by that one, or why not
    pub reason: String,
    /// Who pays for it
    pub paid_by: Option<PaidBy>,
    /// The ways into the kernel
    pub entries: Vec<SyscallEntryReport>,
}

/// A way into the kernel.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
pub(crate) struct SyscallEntryReport {
    /// The calling convention
    pub abi: AbiName,
    /// The system call's number, without x32's bit 30
    pub number: u16,
    /// With `ipc(2)`: the call's number there
    pub call: Option<u8>,
    /// The function by which it is seen, with backend `function`; `null`: by tracepoints, or the
    /// kernel does not have this way in
    pub function: Option<&'static str>,
}

/// A field of a kernel structure that the programs read.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct FieldState {
    /// Its name in the kernel-layout table
    pub field: String,
    /// Whether nothing can be traced without it
    pub required: bool,
    /// Structure and member where it is
    pub place: Option<String>,
    /// Bytes from the structure's start
    pub offset: Option<u32>,
    /// How it is read
    pub read: Option<FieldRead>,
    /// What is known by it alone
    pub gives: Option<&'static str>,
    /// Why it was not found
    pub missing: Option<String>,
}

/// How a field is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FieldRead {
    /// With a plain load
    Load,
    /// With `bpf_probe_read_kernel`
    Helper,
    /// Not at all: its offset leads to the structure around it
    Offset,
}

/// Something that was looked at.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct DoctorCheck {
    /// What
    pub name: CheckName,
    /// How it stands
    pub status: CheckStatus,
    /// What was found
    pub detail: String,
    /// What to do
    pub remedy: Option<String>,
}

/// How something stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CheckStatus {
    /// As it should be
    Ok,
    /// Tracing works, at a price that the detail tells
    Warning,
    /// Nothing can be traced
    Failed,
    /// It can't be checked
    Unknown,
}

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CheckName {
    /// Version and machine
    Kernel,
    /// Capabilities
    Privileges,
    /// Whether they count
    UserNamespace,
    /// Whose numbers of processes it takes
    PidNamespace,
    /// Whose clocks it reads
    TimeNamespace,
    /// Whether the kernel lets programs read its memory
    Lockdown,
    /// The limit on locked memory
    Memlock,
    /// Whether programs are compiled to machine code
    Jit,
    /// Whether the kernel takes the time of each program
    BpfStats,
    /// Whether threads are preempted in the middle of programs
    Preemption,
    /// The kernel's description of its types
    Btf,
    /// The fields that the programs read
    Fields,
    /// Whether what --backend asks for can be had
    Backend,
    /// The programs, loaded and attached
    Programs,
    /// A field that the programs read against what `/proc` says
    Namespace,
    /// The list of what exists
    NamespaceList,
    /// AuxiliaryProbes to other namespaces' objects that are no operations
    AuxiliaryProbes,
    /// The cgroups that containers are told by
    Containers,
}

impl CheckName {
    /// In words.
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
