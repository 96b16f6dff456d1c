//! Programs in several copies, for kernels that preempt them: `copies.rs` of the eBPF programs explains why. A copy
//! is a program of a few instructions that calls a shared one.

use std::os::fd::{AsFd as _, OwnedFd};

use aya_obj::generated::{bpf_attach_type, bpf_prog_type};
use ipc_trace_common::state::copies::{COUNT, METER, cookie};

use super::{
    attachments::Attachments,
    bpf::{self, ProgramCode},
    loader::LoadedObject,
    trampolines::call_of,
};

/// `BPF_TRACE_FENTRY_MULTI` and `BPF_TRACE_FEXIT_MULTI` (include/uapi/linux/bpf.h, 7.3): one program on many
/// functions, whatever their prototypes.
const AT_ENTRIES: u32 = 59;
const AT_RETURNS: u32 = 60;

/// The program at the entry of calls. If it is missed, no call is lost, as the one at the return compensates.
pub(super) const AT_CALLS: &str = "copied_entry";

/// Attaches copies of a program to a tracepoint with that type in the kernel's BTF. `row`: see [`cookie`].
///
/// # Errors
/// The kernel refuses: why.
pub(super) fn on_tracepoint(
    programs: &mut Attachments,
    linked: &LoadedObject,
    name: &str,
    hook: u32,
    row: u64,
) -> Result<(), String> {
    let attach = bpf_attach_type::BPF_TRACE_RAW_TP as u32;
    each(programs, linked, name, (attach, hook), |copy, program| {
        bpf::attach_with_cookie(program.as_fd(), cookie(row, copy))
    })
}

/// Attaches copies of a program to functions, at their entries or their returns: the functions' types in the kernel's
/// BTF, each with its row.
///
/// # Errors
/// The kernel refuses: why.
pub(super) fn on_functions(
    programs: &mut Attachments,
    linked: &LoadedObject,
    name: &str,
    functions: &[(u32, u64)],
    at_return: bool,
) -> Result<(), String> {
    let attach = if at_return { AT_RETURNS } else { AT_ENTRIES };
    let ids: Vec<_> = functions.iter().map(|(id, _)| *id).collect();
    each(programs, linked, name, (attach, 0), |copy, program| {
        let cookies: Vec<_> = functions.iter().map(|(_, row)| cookie(*row, copy)).collect();
        bpf::attach_tracing_multi(program.as_fd(), attach, &ids, &cookies)
    })
}

fn each(
    programs: &mut Attachments,
    linked: &LoadedObject,
    name: &str,
    (attach, function): (u32, u32),
    link: impl Fn(u64, &OwnedFd) -> std::io::Result<OwnedFd>,
) -> Result<(), String> {
    let error = |reason: String| format!("copies of program {name}: {reason}");
    let kind = bpf_prog_type::BPF_PROG_TYPE_TRACING;
    let (instructions, types) = linked.program(name)?;
    let all = ProgramCode { name, kind, attach, function, instructions, types };
    let all = all.load().map_err(|refused| error(refused.to_string()))?;
    let array = bpf::array_of(all.as_fd()).map_err(|e| error(e.to_string()))?;
    let instructions = &call_of(array.as_fd());
    for copy in 1..=COUNT {
        let code = ProgramCode { name, kind, attach, function, instructions, types: None };
        let program = code.load().map_err(|refused| error(refused.to_string()))?;
        let link = link(copy, &program).map_err(|e| error(format!("attaching: {e}")))?;
        let is_meter = copy == METER && name != AT_CALLS;
        programs.keep_copy(link, program, is_meter);
    }
    programs.keep_uncounted(all);
    programs.keep_arrays(std::iter::once(array));
    Ok(())
}
