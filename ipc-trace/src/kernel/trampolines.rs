//! fentry and fexit: a program on each function, of a few instructions, that calls one which is the same
//! for all. So the large programs are verified once, and not for each of the functions.
//!
//! The kernel lets only those programs call each other whose functions have the same prototype, names of
//! arguments included (`__bpf_prog_map_compatible`, kernel/bpf/core.c, 6.12), and there are two: calls
//! that a kernel may be built without have theirs from kernel/sys_ni.c. So there is one large program
//! for each prototype.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
};

use aya_obj::generated::{bpf_attach_type, bpf_prog_type};

use super::{
    attach::AttachError,
    bpf::{self, Code, Linked},
    btf::Function,
    plan::Hook,
    programs::Programs,
};

/// Where a program is put: whether at the entry, the large program's name, that of the one which serves
/// moves between namespaces alone, and how it is attached.
const PLACES: [(bool, &str, &str, bpf_attach_type); 2] = [
    (true, "function_entry", "move_entry", bpf_attach_type::BPF_TRACE_FENTRY),
    (false, "function_return", "move_return", bpf_attach_type::BPF_TRACE_FEXIT),
];

/// Puts programs on functions. Where one fails, the others are tried: a new plan can leave out all that
/// fail.
pub(super) fn attach(
    programs: &mut Programs,
    linked: &Linked,
    hooks: &[Hook],
    functions: &BTreeMap<&'static str, Function>,
) -> Result<(), AttachError> {
    // Prototypes that calls have.
    let of_calls: BTreeSet<_> = hooks
        .iter()
        .filter(|hook| !hook.is_move())
        .filter_map(|hook| Some(functions.get(hook.function)?.prototype))
        .collect();
    let mut shared = BTreeMap::new();
    let mut failed = BTreeMap::new();
    for hook in hooks {
        let Some(function) = functions.get(hook.function) else {
            failed.insert(hook.function, "the kernel's BTF does not describe it".to_owned());
            continue;
        };
        for (entry, of_all, of_moves, attach) in PLACES {
            if entry && !hook.entry {
                continue;
            }
            let name = if of_calls.contains(&function.prototype) { of_all } else { of_moves };
            let array = match shared.entry((entry, function.prototype)) {
                Entry::Occupied(made) => made.into_mut(),
                Entry::Vacant(place) => {
                    place.insert(share(programs, linked, name, attach, *function)?)
                }
            };
            if let Err(reason) = put(programs, hook, attach, *function, array.as_fd()) {
                failed.insert(hook.function, reason);
            }
        }
    }
    programs.keep_arrays(shared.into_values());
    if failed.is_empty() { Ok(()) } else { Err(AttachError::Functions(failed)) }
}

/// Loads a large program, and makes an array for others to call it by.
fn share(
    programs: &mut Programs,
    linked: &Linked,
    name: &str,
    attach: bpf_attach_type,
    function: Function,
) -> Result<OwnedFd, AttachError> {
    let code = Code {
        name,
        kind: bpf_prog_type::BPF_PROG_TYPE_TRACING,
        attach,
        function: function.id,
        instructions: linked.instructions(name).map_err(AttachError::Flavour)?,
    };
    let program = code.load().map_err(|refused| {
        if is_refusal(&refused.error) {
            AttachError::Fentry(format!("no fentry programs: {refused}"))
        } else {
            AttachError::Flavour(format!("program {name}: {refused}"))
        }
    })?;
    let array = bpf::array_of(program.as_fd())
        .map_err(|e| AttachError::Flavour(format!("program {name} can't be shared: {e}")))?;
    programs.keep(program);
    Ok(array)
}

/// Puts a program on one function.
fn put(
    programs: &mut Programs,
    hook: &Hook,
    attach: bpf_attach_type,
    function: Function,
    array: BorrowedFd<'_>,
) -> Result<(), String> {
    let code = Code {
        // Without the underscores, as the kernel keeps 15 bytes.
        name: hook.function.trim_start_matches('_'),
        kind: bpf_prog_type::BPF_PROG_TYPE_TRACING,
        attach,
        function: function.id,
        instructions: &call_of(array),
    };
    let program = code.load().map_err(|e| e.to_string())?;
    let link = bpf::attach_tracing(program.as_fd()).map_err(|e| format!("attaching: {e}"))?;
    programs.keep(program);
    programs.keep_link(link);
    Ok(())
}

/// A program that calls the one in the array, with its own context, and returns 0.
fn call_of(array: BorrowedFd<'_>) -> [u64; 6] {
    /// include/uapi/linux/bpf.h
    const BPF_PSEUDO_MAP_FD: u64 = 1;
    const BPF_FUNC_TAIL_CALL: u64 = 12;
    const LOAD: u64 = 0x18;
    const MOVE: u64 = 0xb7;
    const CALL: u64 = 0x85;
    const EXIT: u64 = 0x95;
    let to = |register: u64| register << 8;
    let immediate = |value: u64| value << 32;
    let array = u64::from(array.as_raw_fd().cast_unsigned());
    [
        LOAD | to(2) | BPF_PSEUDO_MAP_FD << 12 | immediate(array),
        0,
        MOVE | to(3),
        CALL | immediate(BPF_FUNC_TAIL_CALL),
        // Only where the array is empty.
        MOVE | to(0),
        EXIT,
    ]
}

/// Whether the kernel takes no such programs at all: some hosts refuse them (EPERM), and arm64 has
/// had no trampolines to attach them by before 6.4 (ENOTSUPP, `bpf_trampoline_link_prog`,
/// kernel/bpf/trampoline.c).
fn is_refusal(error: &io::Error) -> bool {
    const ENOTSUPP: i32 = 524;
    matches!(error.raw_os_error(), Some(libc::EPERM | ENOTSUPP | libc::EOPNOTSUPP))
}
