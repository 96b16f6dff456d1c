//! Attaches the auxiliary probes: functions on access paths to other namespaces' objects without an IPC call, and
//! functions that create objects. A function that can't be hooked is noted, as tracing works without it.

use std::os::fd::{AsFd as _, OwnedFd};

use aya_obj::generated::{bpf_attach_type, bpf_prog_type};
use ipc_trace_common::hooks::{AUX_PROBES, AuxProbe};

use super::{
    attachments::{AttachedProbe, Attachments},
    bpf,
    btf::Function,
    copies,
    field_offsets::{Fprobe, Layout},
    loader::LoadedObject,
    nopreempt,
    plan::TracepointMode,
    selftest::{self, HookStatus, SelftestResult},
};

/// Hooks all of them. If the kernel supports it, rarely called functions share a program, and so do all if programs
/// of their own would be preempted. `copied`: shared programs are backed up by copies.
///
/// # Errors
/// The kernel rejects the copies: why.
pub(super) fn watch(
    programs: &mut Attachments,
    linked: &LoadedObject,
    flavour: TracepointMode,
    layout: &Layout,
    copied: bool,
) -> Result<(), String> {
    let mut alone = Vec::new();
    for at_return in [false, true] {
        let mut together = Vec::new();
        let ways = AUX_PROBES.iter().enumerate().filter(|(_, way)| way.at_return == at_return);
        for (row, way) in ways {
            match described(way, layout) {
                Ok(function) if copied || shares(way, flavour, layout.fprobe()) => {
                    together.push((row, function));
                }
                Ok(function) => alone.push((row, function)),
                Err(reason) => programs.unseen.push(unseen(way, &reason)),
            }
        }
        if together.is_empty() {
            continue;
        }
        if copied {
            let name = if at_return { "copied_way_returned" } else { "copied_way_entered" };
            let functions: Vec<_> =
                together.iter().map(|(row, (_, function))| (function.id, *row as u64)).collect();
            copies::on_functions(programs, linked, name, &functions, at_return)?;
        }
        match by_fprobe(linked, &together, at_return) {
            Err(reason) if copied => {
                log::info!("functions are hooked by copies alone: {reason}");
                programs
                    .ways
                    .extend(together.into_iter().map(|(row, _)| AttachedProbe { row, own: None }));
            }
            Ok(attached) => {
                if copied {
                    programs.keep_backed(attached);
                } else {
                    programs.keep_fprobe(attached);
                }
                programs
                    .ways
                    .extend(together.into_iter().map(|(row, _)| AttachedProbe { row, own: None }));
            }
            Err(reason) => {
                log::info!("functions are hooked one by one: {reason}");
                alone.extend(together);
            }
        }
    }
    for (row, (_, function)) in alone {
        let way = &AUX_PROBES[row];
        match by_trampoline(linked, way, function) {
            Ok(own) => programs.ways.push(AttachedProbe { row, own: Some(own) }),
            Err(reason) => programs.unseen.push(unseen(way, &reason)),
        }
    }
    Ok(())
}

/// Whether a function uses the shared program.
const fn shares(way: &AuxProbe, flavour: TracepointMode, fprobe: Fprobe) -> bool {
    let can = match fprobe {
        Fprobe::All => true,
        Fprobe::Entries => !way.at_return,
        Fprobe::None => false,
    };
    let is_to = match flavour {
        TracepointMode::Perf => true,
        TracepointMode::Btf => !way.often,
        TracepointMode::Raw => false,
    };
    can && is_to
}

fn unseen(way: &AuxProbe, reason: &str) -> String {
    format!("{} ({reason})", way.gives)
}

/// Detaches probes that did not fire in the self-test. Returns which could not be tested, and why.
pub(super) fn apply_selftest(
    programs: &mut Attachments,
    outcome: &SelftestResult,
    ran: impl Fn(u32) -> bool,
) -> Vec<String> {
    let mut untested = Vec::new();
    let Attachments { ways, unseen: lost, .. } = programs;
    ways.retain(|way| match selftest::proof(way.row, outcome, &ran) {
        HookStatus::Ran => true,
        HookStatus::Silent => {
            lost.push(unseen(&AUX_PROBES[way.row], "its function was called and no program ran"));
            false
        }
        HookStatus::None(reason) => {
            untested.push(reason);
            true
        }
    });
    untested
}

fn by_trampoline(
    linked: &LoadedObject,
    way: &AuxProbe,
    function: Function,
) -> Result<(OwnedFd, OwnedFd), String> {
    let attach = if way.at_return {
        bpf_attach_type::BPF_TRACE_FEXIT
    } else {
        bpf_attach_type::BPF_TRACE_FENTRY
    };
    let kind = bpf_prog_type::BPF_PROG_TYPE_TRACING;
    let program = linked.load(way.program, kind, attach, function.id)?;
    let link = bpf::attach_tracing(program.as_fd())
        .map_err(|e| format!("attaching {}: {e}", way.program))?;
    Ok((link, program))
}

/// Attaches one program to the functions of these rows.
fn by_fprobe(
    linked: &LoadedObject,
    rows: &[(usize, Described)],
    at_return: bool,
) -> Result<(OwnedFd, OwnedFd), String> {
    let functions: Vec<_> = rows.iter().map(|(_, (name, _))| *name).collect();
    let cookies: Vec<_> = rows.iter().map(|(row, _)| *row as u64).collect();
    let name = if at_return { "way_returned" } else { "way_entered" };
    nopreempt::functions(linked, name, &functions, &cookies, at_return)
}

/// A function, with its description in the kernel's BTF.
type Described = (&'static str, Function);

/// The first function of a row that the kernel has.
fn described(way: &AuxProbe, layout: &Layout) -> Result<Described, String> {
    let mut known =
        way.functions.iter().filter_map(|name| Some((*name, *layout.functions().get(name)?)));
    known.next().ok_or_else(|| format!("the kernel's BTF has no {}", way.functions.join(" or ")))
}
