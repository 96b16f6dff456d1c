//! From the hook table and what the kernel can do to what is attached: pure.

use std::{fmt, path::PathBuf};

use ipc_trace_common::{
    hooks::{ENTRIES, Entry, MULTIPLEXED},
    op::{Abi, Code, Op},
};

/// Which backend the user asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Choice {
    /// The cheaper one, for each operation that it can see
    Auto,
    /// Programs on the system calls' entry functions
    Function,
    /// Programs on the tracepoints `sys_enter` and `sys_exit`
    Syscall,
}

/// How an operation is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// By programs on the system calls' entry functions
    Function,
    /// By programs on the tracepoints `sys_enter` and `sys_exit`
    Syscall,
}

impl Backend {
    /// As events name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Function => "function",
            Self::Syscall => "syscall",
        }
    }
}

/// How programs are attached to tracepoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// BTF tracepoints: the verifier knows the pointers, fields are read with plain loads
    Btf,
    /// Raw tracepoints: every field is read with a helper
    Raw,
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Btf => "BTF tracepoints",
            Self::Raw => "raw tracepoints",
        })
    }
}

/// What the kernel at hand can do, as far as the plan depends on it.
#[derive(Clone, Debug)]
pub struct Features {
    /// The kernel has BTF of its own, without which neither BTF tracepoints nor iterators nor
    /// fentry programs load.
    pub kernel_btf: bool,
    /// Why fentry programs can't be used; `None`: they can
    pub fentry_refused: Option<String>,
}

/// A choice that can't be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("backend `function` can't be used: {reason}; use --backend auto or --backend syscall")]
pub struct NotPossible {
    /// Why
    pub reason: String,
}

/// What to attach.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Ways to attach to the tracepoints, the best one first
    pub flavours: Vec<Flavour>,
    /// Each operation
    pub ops: Vec<OpPlan>,
    /// Why the census can't be had, if it can't
    pub census_refused: Option<String>,
}

/// How an operation is going to be seen.
#[derive(Clone, Debug)]
pub struct OpPlan {
    /// Which
    pub op: Op,
    /// How
    pub backend: Backend,
    /// Why not by the cheaper backend
    pub reason: String,
    /// The ways in of this machine's ABIs
    pub entries: Vec<WayIn>,
}

/// A way into the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WayIn {
    /// ABI
    pub abi: Abi,
    /// System-call number
    pub number: u16,
    /// With `ipc(2)`: the call's number
    pub call: Option<u8>,
}

/// What is tried first: the flavours that the kernel's features allow.
fn flavours(features: &Features) -> Vec<Flavour> {
    if features.kernel_btf { vec![Flavour::Btf, Flavour::Raw] } else { vec![Flavour::Raw] }
}

/// The plan.
///
/// # Errors
/// `function` was asked for and can't be had.
pub fn plan(choice: Choice, native: Abi, features: &Features) -> Result<Plan, NotPossible> {
    let reason = match &features.fentry_refused {
        Some(reason) => reason.clone(),
        None => "this version has no programs on the entry functions".to_owned(),
    };
    let reason = match choice {
        Choice::Auto => reason,
        Choice::Syscall => "--backend syscall".to_owned(),
        Choice::Function => return Err(NotPossible { reason }),
    };
    let ops = Op::ALL
        .into_iter()
        .map(|op| OpPlan {
            op,
            backend: Backend::Syscall,
            reason: reason.clone(),
            entries: ways_in(op, native),
        })
        .collect();
    let census_refused =
        (!features.kernel_btf).then(|| "the kernel has no BTF, so no iterators".to_owned());
    Ok(Plan { flavours: flavours(features), ops, census_refused })
}

/// The ABIs of a machine.
#[must_use]
pub const fn abis(native: Abi) -> &'static [Abi] {
    match native {
        Abi::X86_64 | Abi::I386 | Abi::X32 => &[Abi::X86_64, Abi::I386, Abi::X32],
        Abi::Aarch64 | Abi::Arm => &[Abi::Aarch64, Abi::Arm],
    }
}

fn ways_in(op: Op, native: Abi) -> Vec<WayIn> {
    let mut ways = Vec::new();
    let here = |entry: &&Entry| abis(native).contains(&entry.abi);
    for entry in ENTRIES.iter().filter(here) {
        if entry.code.op() == Some(op) {
            ways.push(WayIn { abi: entry.abi, number: entry.number, call: None });
        } else if entry.code == Code::IPC {
            ways.extend(MULTIPLEXED.iter().filter(|m| m.1.op() == Some(op)).map(|m| WayIn {
                abi: entry.abi,
                number: entry.number,
                call: Some(m.0),
            }));
        }
    }
    ways
}

/// The machine's native ABI, if ipc-trace knows the machine.
#[must_use]
pub fn native_abi(arch: &str) -> Option<Abi> {
    match arch {
        "x86_64" => Some(Abi::X86_64),
        "aarch64" => Some(Abi::Aarch64),
        _ => None,
    }
}

/// Where the kernel's BTF is read from.
#[derive(Clone, Debug)]
pub enum BtfSource {
    /// The running kernel's own
    Kernel,
    /// A file that the user named
    File(PathBuf),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(kernel_btf: bool, fentry: Option<&str>) -> Features {
        Features { kernel_btf, fentry_refused: fentry.map(str::to_owned) }
    }

    #[test]
    fn auto_ends_up_on_syscall_where_fentry_is_refused_and_says_why() {
        let plan = plan(Choice::Auto, Abi::X86_64, &features(true, Some("EPERM"))).unwrap();
        assert!(plan.ops.iter().all(|o| o.backend == Backend::Syscall && o.reason == "EPERM"));
        assert_eq!(plan.flavours, [Flavour::Btf, Flavour::Raw]);
        assert_eq!(plan.census_refused, None);
    }

    #[test]
    fn without_btf_only_raw_tracepoints_are_left() {
        let plan = plan(Choice::Syscall, Abi::X86_64, &features(false, None)).unwrap();
        assert_eq!(plan.flavours, [Flavour::Raw]);
        assert!(plan.census_refused.is_some());
    }

    #[test]
    fn function_is_an_error_that_says_why() {
        let error =
            plan(Choice::Function, Abi::X86_64, &features(true, Some("refused"))).unwrap_err();
        assert!(error.to_string().contains("refused"), "{error}");
    }

    #[test]
    fn every_operation_has_a_way_in_for_each_abi() {
        for native in [Abi::X86_64, Abi::Aarch64] {
            let plan = plan(Choice::Auto, native, &features(true, None)).unwrap();
            for op in plan.ops {
                for abi in abis(native) {
                    assert!(op.entries.iter().any(|e| e.abi == *abi), "{op:?} {abi:?}");
                }
            }
        }
    }
}
