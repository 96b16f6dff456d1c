//! fentry and fexit: a program of a few instructions on each function, which calls a shared one. So the large
//! programs are verified once, and not for each function.
//!
//! The kernel lets programs call each other only if their functions have the same prototype, names of arguments
//! included (`__bpf_prog_map_compatible`, kernel/bpf/core.c, 6.12), and there are two: calls that a kernel may be
//! built without have theirs from kernel/sys_ni.c. So there is one large program for each prototype.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
};

use aya_obj::generated::{bpf_attach_type, bpf_prog_type};
use ipc_trace_common::{
    hooks::patch,
    op::{Abi, Op, SyscallCode},
};

use super::{
    attachments::Attachments,
    bpf::{self, FunctionTypes, ProgramCode},
    btf::Function,
    error::AttachError,
    loader::LoadedObject,
    plan::Hook,
};

/// The programs for entries or returns.
#[derive(Clone, Copy, Debug)]
struct AttachPoint {
    entry: bool,
    /// The large program
    of_all: &'static str,
    /// The program for moves between namespaces
    of_moves: &'static str,
    /// The name of the program on a function. It does not identify the function, as the kernel would keep 15 bytes of
    /// the function's name: the link does.
    call: &'static str,
    /// The name of the program on a function whose calls can come in batches
    of_batches: &'static str,
    attach: bpf_attach_type,
}

const PLACES: [AttachPoint; 2] = [
    AttachPoint {
        entry: true,
        of_all: "function_entry",
        of_moves: "move_entry",
        call: "on_entry",
        of_batches: "batch_entry",
        attach: bpf_attach_type::BPF_TRACE_FENTRY,
    },
    AttachPoint {
        entry: false,
        of_all: "function_return",
        of_moves: "move_return",
        call: "on_return",
        of_batches: "batch_return",
        attach: bpf_attach_type::BPF_TRACE_FEXIT,
    },
];

/// Attaches programs to functions. If one fails, the others are tried: a new plan can leave out all that fail.
pub(super) fn attach(
    linked: &LoadedObject,
    hooks: &[Hook],
    functions: &BTreeMap<&'static str, Function>,
    batched: bool,
) -> Result<Attachments, AttachError> {
    let mut programs = Attachments::default();
    // The prototypes of calls.
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
        for place in PLACES {
            if place.entry && !hook.entry {
                continue;
            }
            let of_calls = of_calls.contains(&function.prototype);
            let name = if of_calls { place.of_all } else { place.of_moves };
            let array = match shared.entry((place.entry, function.prototype)) {
                Entry::Occupied(made) => made.into_mut(),
                Entry::Vacant(free) => {
                    free.insert(share(&mut programs, linked, name, place.attach, *function)?)
                }
            };
            let (name, code, types) = match hook.batched.filter(|_| batched) {
                Some(kind) => {
                    // A lookup has no entry even if calls are timed.
                    let name = if hook.is_counted && !place.entry {
                        "count_return"
                    } else {
                        place.of_batches
                    };
                    let (code, types) = linked.program(name).map_err(AttachError::Flavour)?;
                    (name, patched(code, kind, array.as_fd()), types)
                }
                None => (place.call, call_of(array.as_fd()).to_vec(), None),
            };
            let code = code_on(place.attach, *function, name, (&code, types));
            if let Err(reason) = put(&mut programs, code) {
                failed.insert(hook.function, reason);
            }
        }
    }
    programs.keep_arrays(shared.into_values());
    if failed.is_empty() { Ok(programs) } else { Err(AttachError::Functions(failed)) }
}

/// Loads a large program, and creates an array by which others call it.
fn share(
    programs: &mut Attachments,
    linked: &LoadedObject,
    name: &str,
    attach: bpf_attach_type,
    function: Function,
) -> Result<OwnedFd, AttachError> {
    let code = linked.program(name).map_err(AttachError::Flavour)?;
    let code = code_on(attach, function, name, code);
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

/// The program for a function.
fn code_on<'a>(
    attach: bpf_attach_type,
    function: Function,
    name: &'a str,
    (instructions, types): (&'a [u64], Option<FunctionTypes<'a>>),
) -> ProgramCode<'a> {
    let kind = bpf_prog_type::BPF_PROG_TYPE_TRACING;
    ProgramCode { name, kind, attach: attach as u32, function: function.id, instructions, types }
}

/// Attaches a program to one function.
fn put(programs: &mut Attachments, code: ProgramCode<'_>) -> Result<(), String> {
    let program = code.load().map_err(|e| e.to_string())?;
    let link = bpf::attach_tracing(program.as_fd()).map_err(|e| format!("attaching: {e}"))?;
    programs.keep(program);
    programs.keep_link(link);
    Ok(())
}

/// include/uapi/linux/bpf.h
const BPF_PSEUDO_MAP_FD: u64 = 1;
/// `BPF_LD | BPF_IMM | BPF_DW`: the low half of the number is in this instruction, the high half in the next.
const LOAD: u64 = 0x18;

/// A program of the object, with its [`patch`] placeholders replaced.
fn patched(code: &[u64], kind: u16, array: BorrowedFd<'_>) -> Vec<u64> {
    let halves = |number: u64| [number << 32, number & !0xffff_ffff];
    let mut code = code.to_vec();
    let [abi, syscall] = kind.to_le_bytes();
    let is_compat = Abi::ALL.iter().any(|one| *one as u8 == abi && one.is_32_bit());
    let op = SyscallCode(syscall).op();
    for at in 1..code.len() {
        let [Some(first), Some(second)] = [code.get(at - 1).copied(), code.get(at).copied()] else {
            continue;
        };
        let register = first & 0xf00;
        let is = |number| [first & !0xf00, second] == [halves(number)[0] | LOAD, halves(number)[1]];
        let array = u64::from(array.as_raw_fd().cast_unsigned());
        let (number, source) = match () {
            () if is(patch::COMPAT) => (u64::from(is_compat), 0),
            () if is(patch::QUEUE) => (u64::from(op.is_some_and(Op::takes_descriptor)), 0),
            () if is(patch::LOOKUP) => (u64::from(op.is_some_and(Op::looks_up)), 0),
            () if is(patch::MESSAGE) => (u64::from(op.is_some_and(Op::carries_message)), 0),
            () if is(patch::WHAT) => (u64::from(kind) << 32, 0),
            () if is(patch::ALL) => (array, BPF_PSEUDO_MAP_FD << 12),
            () => continue,
        };
        if let Some(pair) = code.get_mut(at - 1..=at) {
            let [low, high] = halves(number);
            pair.copy_from_slice(&[LOAD | register | source | low, high]);
        }
    }
    code
}

/// A program that calls the one in the array, with its own context, and returns 0.
pub(super) fn call_of(array: BorrowedFd<'_>) -> [u64; 6] {
    const BPF_FUNC_TAIL_CALL: u64 = 12;
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
        // Reached only if the array is empty.
        MOVE | to(0),
        EXIT,
    ]
}

/// Whether the kernel rejects all such programs: some hosts refuse them (EPERM), and arm64 had no trampolines for
/// them before 6.4 (ENOTSUPP, `bpf_trampoline_link_prog`, kernel/bpf/trampoline.c).
fn is_refusal(error: &io::Error) -> bool {
    const ENOTSUPP: i32 = 524;
    matches!(error.raw_os_error(), Some(libc::EPERM | ENOTSUPP | libc::EOPNOTSUPP))
}
