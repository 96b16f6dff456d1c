//! Functions on the ways to other namespaces' objects that are no operations, and those that make objects:
//! programs are put on each by itself, and what can't be watched is noted, as tracing can do without.

use std::os::fd::{AsFd as _, OwnedFd};

use aya_obj::generated::{bpf_attach_type, bpf_prog_type};
use ipc_trace_common::hooks::{REACHED, Reached};

use super::{
    bpf,
    layout::Layout,
    object::Linked,
    programs::{Programs, Way},
    selftest::{self, Outcome, Proof},
    steady,
};

/// Watches all of them. `preempted`: by the twins for kernels that would preempt the programs.
pub(super) fn watch(programs: &mut Programs, linked: &Linked, preempted: bool, layout: &Layout) {
    for (row, way) in REACHED.iter().enumerate() {
        let put = if preempted { by_fprobe } else { by_trampoline };
        match put(linked, way, layout) {
            Ok((link, program)) => programs.ways.push(Way::new(row, link, program)),
            Err(reason) => programs.unseen.push(unseen(way, &reason)),
        }
    }
}

fn unseen(way: &Reached, reason: &str) -> String {
    format!("{} ({reason})", way.gives)
}

/// Lets go of those that were silent in the self-test. Returns which could not be tested, and why.
pub(super) fn judge(
    programs: &mut Programs,
    outcome: &Outcome,
    ran: impl Fn(u32) -> bool,
) -> Vec<String> {
    let mut untested = Vec::new();
    let Programs { ways, unseen: lost, .. } = programs;
    ways.retain(|way| match selftest::proof(way.row, outcome, &ran) {
        Proof::Ran => true,
        Proof::Silent => {
            lost.push(unseen(&REACHED[way.row], "its function was called and no program was run"));
            false
        }
        Proof::None(reason) => {
            untested.push(reason);
            true
        }
    });
    untested
}

fn by_trampoline(
    linked: &Linked,
    way: &Reached,
    layout: &Layout,
) -> Result<(OwnedFd, OwnedFd), String> {
    let described = way.functions.iter().find_map(|name| layout.functions().get(name));
    let function = described
        .ok_or_else(|| format!("the kernel's BTF has no {}", way.functions.join(" or ")))?;
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

fn by_fprobe(linked: &Linked, way: &Reached, _: &Layout) -> Result<(OwnedFd, OwnedFd), String> {
    steady::function(linked, way.program, way.functions, way.at_return)
}
