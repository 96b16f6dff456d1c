//! From the hook table and the kernel's features to the programs that are attached: pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use ipc_trace_common::{
    hooks::{ACCESS_KINDS, MULTIPLEXED, SYSCALLS, SyscallEntry, multiplexed_kinds, place, row_of},
    op::{Abi, Op, SyscallCode, Timeout},
};

use super::preemption::PreemptionModel;

/// Which backend the user asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum BackendChoice {
    /// The cheaper one for each operation
    Auto,
    /// Programs on the system calls' entry functions
    Function,
    /// Programs on the tracepoints `sys_enter` and `sys_exit`
    Syscall,
}

/// The backend that sees an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    /// By programs on the system calls' entry functions
    Function,
    /// By programs on the tracepoints `sys_enter` and `sys_exit`
    Syscall,
}

impl Backend {
    /// The name in events.
    #[must_use]
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Function => "function",
            Self::Syscall => "syscall",
        }
    }
}

/// How programs are attached to tracepoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TracepointMode {
    /// Perf events, on which programs are not preempted, with plain loads
    Perf,
    /// BTF tracepoints: the verifier knows the pointers, fields are read with plain loads
    Btf,
    /// Raw tracepoints: every field is read with a helper
    Raw,
}

impl fmt::Display for TracepointMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Perf => "tracepoints as perf events",
            Self::Btf => "BTF tracepoints",
            Self::Raw => "raw tracepoints",
        })
    }
}

/// The kernel's features that the plan depends on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Features {
    /// The kernel has its own BTF, without which neither BTF tracepoints nor iterators nor fentry programs load
    pub kernel_btf: bool,
    /// Functions of the hook table in its BTF: programs can be attached to them
    pub described: BTreeSet<&'static str>,
    /// Functions of the hook table that the kernel has; `None`: not known
    pub present: Option<BTreeSet<&'static str>>,
    /// The kernel has no x32 calls
    pub no_x32: bool,
    /// Whether threads are preempted inside programs that run with preemption on
    pub preemption: PreemptionModel,
    /// Programs on functions run with preemption on, and are skipped while they are running on that CPU
    pub guards_functions: bool,
    /// Programs on tracepoints likewise, but not those on perf events
    pub preempts_on_tracepoints: bool,
    /// One program can be attached to many functions by fprobe, and is not preempted
    pub fprobe: bool,
    /// One program can be attached to many functions like fentry and fexit, in any number of copies
    pub tracing_multi: bool,
    /// Why fentry programs can't be used; `None`: no known reason
    pub fentry_refused: Option<String>,
    /// Functions that programs can't be attached to, and why: found by trying
    pub unusable: BTreeMap<&'static str, String>,
}

impl Features {
    /// Whether programs on functions come in copies: otherwise some runs would be skipped at random.
    const fn copies_functions(&self) -> bool {
        self.preempts_on_tracepoints && self.tracing_multi
    }
}

/// What prevents programs from running while threads are preempted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MissCause {
    /// A thread that is preempted inside a program on a function: other threads on that CPU do not run the program
    Functions,
    /// A thread that is preempted inside bpf(2): programs by fprobe and on perf events do not run on that CPU
    Bpf,
}

/// Why calls may be missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Inexact {
    /// The cause of missed calls
    pub cause: MissCause,
    /// The kernel's preemption model
    pub model: PreemptionModel,
}

impl fmt::Display for Inexact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.model == PreemptionModel::Unknown {
            f.write_str("this kernel may preempt threads, ")?;
        } else {
            write!(f, "this kernel preempts threads (model {}), ", self.model)?;
        }
        f.write_str(match self.cause {
            MissCause::Functions => {
                "and calls are missed on a CPU where one is preempted inside of a program on a function"
            }
            MissCause::Bpf => {
                "and calls are missed on a CPU where one is preempted while it uses a BPF map"
            }
        })
    }
}

/// Which backends see every call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Exactness {
    /// The kernel's preemption model
    pub model: PreemptionModel,
    /// Why `function` would miss calls if threads are preempted; `None`: it sees all of them
    pub function: Option<MissCause>,
    /// Likewise for `syscall`
    pub syscall: Option<MissCause>,
}

impl Exactness {
    /// Derives the exactness from the features.
    #[must_use]
    pub(crate) fn from_features(features: &Features) -> Self {
        let function = match (features.fprobe, features.guards_functions) {
            _ if features.copies_functions() => None,
            (true, _) => Some(MissCause::Bpf),
            (false, true) => Some(MissCause::Functions),
            (false, false) => None,
        };
        let syscall = features.preempts_on_tracepoints.then_some(MissCause::Bpf);
        Self { model: features.preemption, function, syscall }
    }

    /// Why a backend may miss calls; `None`: it sees all of them.
    #[must_use]
    pub(crate) fn inexact(&self, backend: Backend) -> Option<Inexact> {
        let cause = match backend {
            Backend::Function => self.function,
            Backend::Syscall => self.syscall,
        };
        let cause = cause.filter(|_| self.model.preempts())?;
        Some(Inexact { cause, model: self.model })
    }

    /// Why `auto` avoids `function`: it may miss calls, and `syscall` does not.
    fn against_function(&self) -> Option<Inexact> {
        let inexact = self.inexact(Backend::Function)?;
        self.inexact(Backend::Syscall).is_none().then_some(inexact)
    }
}

/// The chosen backend is unavailable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("backend `function` can't be used: {reason}; use --backend auto or --backend syscall")]
pub(crate) struct BackendUnavailable {
    /// Why
    pub reason: String,
}

/// The programs to attach.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Modes of attaching to the tracepoints, the best one first
    pub flavours: Vec<TracepointMode>,
    /// Each operation
    pub ops: Vec<OpPlan>,
    /// The hooked functions
    pub hooks: Vec<Hook>,
    /// All functions share the same programs, attached by fprobe, instead of programs of their own
    pub fprobe: bool,
    /// Programs that every plan needs come in copies
    pub copied: bool,
    /// Programs on functions come in copies
    pub copied_functions: bool,
    /// Kinds of code that backend `syscall` sees: bits of [`SyscallCode::bit`]; none: its tracepoints are not
    /// attached
    pub syscall_kinds: u32,
    /// Why the namespace list is unavailable, if it is
    pub namespace_list_refused: Option<String>,
    /// Which backends see every call
    pub exactness: Exactness,
    /// The backend that `auto` prefers
    pub preferred: Backend,
}

impl Plan {
    /// For calls that are only counted: a function whose calls can be in a batch, and don't need their descriptor's
    /// file as it was at the entry, has no program there. Copies need one, and a program that serves all functions by
    /// fprobe knows a batch's call by its entry.
    pub(crate) fn omit_entries(&mut self) {
        if self.fprobe || self.copied_functions {
            return;
        }
        for hook in self.hooks.iter_mut().filter(|hook| hook.batched.is_some()) {
            let op = SYSCALLS.get(hook.row).and_then(|entry| entry.code.op());
            hook.entry = op.is_none_or(Op::takes_descriptor);
            hook.is_counted = !hook.entry;
        }
    }

    /// Why the attached programs may miss calls.
    pub(crate) fn inexact(&self) -> impl Iterator<Item = (Backend, Inexact)> {
        let used = [
            (Backend::Function, !self.hooks.is_empty()),
            (Backend::Syscall, self.syscall_kinds != 0),
        ];
        let used = used.into_iter().filter(|(_, is_used)| *is_used);
        used.filter_map(|(backend, _)| Some((backend, self.exactness.inexact(backend)?)))
    }
}

/// The plan for one operation.
#[derive(Clone, Debug)]
pub(crate) struct OpPlan {
    /// The operation
    pub op: Op,
    /// Its backend
    pub backend: Backend,
    /// The reason for that backend
    pub reason: String,
    /// The hooked system calls of this machine's ABIs
    pub entries: Vec<HookedSyscall>,
}

/// A hooked system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HookedSyscall {
    /// ABI
    pub abi: Abi,
    /// System-call number
    pub number: u16,
    /// With `ipc(2)`: the call's number
    pub call: Option<u8>,
    /// The hooked function
    pub function: Option<&'static str>,
}

/// A hooked function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Hook {
    /// Its name
    pub function: &'static str,
    /// Its first row in the hook table
    pub row: usize,
    /// Whether there is a program at its entry, too
    pub entry: bool,
    /// Whether its calls are only counted, when they return
    pub is_counted: bool,
    /// Its system call, if its calls can come in batches and by one ABI only: ABI, and above it the code, 8 bits each
    pub batched: Option<u16>,
}

impl Hook {
    pub(super) fn new(function: &'static str, features: &Features) -> Self {
        let row = row_of(function);
        let code = SYSCALLS.get(row).map_or(SyscallCode(0), |entry| entry.code);
        let exists = |entry: &&SyscallEntry| !(entry.abi == Abi::X32 && features.no_x32);
        let entries = SYSCALLS.iter().filter(|entry| entry.functions.contains(&function));
        let mut kinds: BTreeSet<_> = entries
            .filter(exists)
            .map(|entry| u16::from(entry.abi as u8) | u16::from(entry.code.0) << 8)
            .collect();
        let can_be = code.op().is_some_and(Op::can_be_batched);
        let kind = kinds.pop_first();
        let batched = kind.filter(|_| can_be && kinds.is_empty());
        // Copies at a return distinguish calls by those at the entry.
        let entry = code.needs_entry() || features.copies_functions();
        Self { function, row, entry, is_counted: false, batched }
    }

    /// Whether it implements a move between namespaces.
    #[must_use]
    pub(crate) fn is_move(&self) -> bool {
        let code = SYSCALLS.get(self.row).map(|entry| entry.code);
        code == Some(SyscallCode::UNSHARE) || code == Some(SyscallCode::SETNS)
    }

    /// The index in the dispatch table of the calls that its first row names.
    #[must_use]
    pub(crate) fn place(&self) -> usize {
        SYSCALLS.get(self.row).map_or(0, |entry| place(entry.abi, entry.number))
    }
}

/// The modes to try first, as the kernel's features allow.
fn flavours(features: &Features) -> Vec<TracepointMode> {
    let mut flavours = vec![TracepointMode::Raw];
    if features.kernel_btf {
        flavours.insert(0, TracepointMode::Btf);
        if features.preempts_on_tracepoints && features.preemption.preempts() {
            flavours.insert(0, TracepointMode::Perf);
        }
    }
    flavours
}

/// Computes the plan.
///
/// # Errors
/// `function` was requested and is not available for every operation.
pub(crate) fn plan(
    choice: BackendChoice,
    native: Abi,
    features: &Features,
) -> Result<Plan, BackendUnavailable> {
    let exactness = Exactness::from_features(features);
    let impossible = match features.kernel_btf {
        false => Some("the kernel has no BTF, so no fentry programs".to_owned()),
        true => features.fentry_refused.clone(),
    };
    let inexact = exactness.against_function().map(|why| why.to_string());
    let preferred = match (&impossible, &inexact) {
        (None, None) => Backend::Function,
        _ => Backend::Syscall,
    };
    let refused = match choice {
        BackendChoice::Syscall => Some("--backend syscall".to_owned()),
        BackendChoice::Auto => impossible.or(inexact),
        BackendChoice::Function => impossible,
    };
    let mut plan = Plan {
        flavours: flavours(features),
        ops: Vec::new(),
        hooks: Vec::new(),
        fprobe: features.fprobe,
        copied: features.preempts_on_tracepoints,
        copied_functions: features.copies_functions(),
        syscall_kinds: 0,
        namespace_list_refused: (!features.kernel_btf)
            .then(|| "the kernel has no BTF, so no iterators".to_owned()),
        exactness,
        preferred,
    };
    let mut hooks = BTreeSet::new();
    for code in kinds() {
        let (backend, reason, entries) = match &refused {
            Some(reason) => (Backend::Syscall, reason.clone(), hooked_syscalls(code, native)),
            None => by_function(code, native, features),
        };
        match backend {
            Backend::Function => hooks.extend(entries.iter().filter_map(|way| way.function)),
            Backend::Syscall if choice == BackendChoice::Function => {
                let what = code.op().map_or("moves between namespaces", Op::name);
                return Err(BackendUnavailable { reason: format!("{what}: {reason}") });
            }
            Backend::Syscall => plan.syscall_kinds |= code.bit(),
        }
        if let Some(op) = code.op() {
            plan.ops.push(OpPlan { op, backend, reason, entries });
        }
    }
    // If functions are hooked, those that open files report them, and other calls have no overhead.
    if hooks.is_empty() {
        plan.syscall_kinds |= ACCESS_KINDS;
    }
    plan.hooks = hooks.into_iter().map(|name| Hook::new(name, features)).collect();
    Ok(plan)
}

/// Whether the functions in BTF cover every system call. If not, it matters which others the kernel has.
#[must_use]
pub(crate) fn describes_all(native: Abi, features: &Features) -> bool {
    SYSCALLS
        .iter()
        .filter(|entry| abis(native).contains(&entry.abi))
        .filter(|entry| !(entry.abi == Abi::X32 && features.no_x32))
        .all(|entry| entry.functions.iter().any(|name| features.described.contains(name)))
}

/// The kinds that are traced: the operations, and moves between namespaces.
fn kinds() -> impl Iterator<Item = SyscallCode> {
    let ops = Op::ALL.into_iter().map(|op| SyscallCode::new(op, Timeout::None));
    ops.chain([SyscallCode::UNSHARE, SyscallCode::SETNS])
}

/// The kinds that the tracepoints must handle for `kinds`: `ipc(2)` with the operations it multiplexes.
#[must_use]
pub(crate) const fn dispatched(kinds: u32) -> u32 {
    if kinds & multiplexed_kinds() == 0 { kinds } else { kinds | SyscallCode::IPC.bit() }
}

/// By the functions of all system calls that this kernel has; if one of them is unavailable, by none, since the
/// tracepoints would see the others again.
fn by_function(
    code: SyscallCode,
    native: Abi,
    features: &Features,
) -> (Backend, String, Vec<HookedSyscall>) {
    let mut ways = hooked_syscalls(code, native);
    for way in &mut ways {
        match function_of(way, features) {
            Ok(function) => way.function = function,
            Err(reason) => return (Backend::Syscall, reason, hooked_syscalls(code, native)),
        }
    }
    (Backend::Function, "programs on its functions cost other calls nothing".to_owned(), ways)
}

/// The function of a system call; `None`: the kernel does not have this call.
fn function_of(way: &HookedSyscall, features: &Features) -> Result<Option<&'static str>, String> {
    let entry = SYSCALLS.iter().find(|entry| entry.abi == way.abi && entry.number == way.number);
    let names = entry.map_or(&[][..], |entry| entry.functions);
    if let Some(name) = names.iter().find(|name| features.described.contains(*name)) {
        return match features.unusable.get(name) {
            Some(reason) => Err(format!("{name}: {reason}")),
            None => Ok(Some(name)),
        };
    }
    if way.abi == Abi::X32 && features.no_x32 {
        return Ok(None);
    }
    match &features.present {
        Some(present) if !names.iter().any(|name| present.contains(name)) => Ok(None),
        Some(_) => Err(format!("{}: the kernel's BTF does not describe it", names.join(" or "))),
        // The self-test would not detect it: a missing function never fires.
        None => Err(format!(
            "{}: not in the kernel's BTF, and /proc/kallsyms does not show whether the kernel has it",
            names.join(" or ")
        )),
    }
}

/// The ABIs of a machine.
#[must_use]
pub(crate) const fn abis(native: Abi) -> &'static [Abi] {
    match native {
        Abi::X86_64 | Abi::I386 | Abi::X32 => &[Abi::X86_64, Abi::I386, Abi::X32],
        Abi::Aarch64 | Abi::Arm => &[Abi::Aarch64, Abi::Arm],
    }
}

fn hooked_syscalls(code: SyscallCode, native: Abi) -> Vec<HookedSyscall> {
    let mut ways = Vec::new();
    let here = |entry: &&SyscallEntry| abis(native).contains(&entry.abi);
    for entry in SYSCALLS.iter().filter(here) {
        let way =
            HookedSyscall { abi: entry.abi, number: entry.number, call: None, function: None };
        if entry.code.kind() == code.kind() {
            ways.push(way);
        } else if entry.code == SyscallCode::IPC {
            let calls = MULTIPLEXED.iter().filter(|m| m.1.kind() == code.kind());
            ways.extend(calls.map(|m| HookedSyscall { call: Some(m.0), ..way }));
        }
    }
    ways
}

/// The machine's native ABI, if ipc-trace knows the machine.
#[must_use]
pub(crate) fn native_abi(arch: &str) -> Option<Abi> {
    match arch {
        "x86_64" => Some(Abi::X86_64),
        "aarch64" => Some(Abi::Aarch64),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
