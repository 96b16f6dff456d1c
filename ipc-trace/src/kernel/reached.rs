//! Functions on the ways to other namespaces' objects that are no operations, and those that make objects:
//! programs are put on each by itself, and what can't be watched is noted, as tracing can do without.

use std::os::fd::AsFd as _;

use aya_obj::generated::{bpf_attach_type, bpf_prog_type};
use ipc_trace_common::hooks::{REACHED, Reached};

use super::{bpf, layout::Layout, object::Linked, programs::Programs};

/// Watches all of them. `preempted`: by the twins for kernels that would preempt the programs.
pub(super) fn watch(programs: &mut Programs, linked: &Linked, preempted: bool, layout: &Layout) {
    for way in &REACHED {
        let put = if preempted { by_fprobe } else { by_trampoline };
        match put(programs, linked, way, layout) {
            Ok(()) => match way.births_of {
                Some(op) => programs.births |= op.bit(),
                None => programs.watched += 1,
            },
            Err(reason) => programs.unseen.push(format!("{} ({reason})", way.gives)),
        }
    }
}

fn by_trampoline(
    programs: &mut Programs,
    linked: &Linked,
    way: &Reached,
    layout: &Layout,
) -> Result<(), String> {
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
    programs.keep_link(link);
    programs.keep(program);
    Ok(())
}

fn by_fprobe(
    programs: &mut Programs,
    linked: &Linked,
    way: &Reached,
    _: &Layout,
) -> Result<(), String> {
    let name = format!("steady_{}", way.program);
    let kind = bpf_prog_type::BPF_PROG_TYPE_KPROBE;
    let program = linked.load(&name, kind, bpf_attach_type::BPF_TRACE_KPROBE_MULTI, 0)?;
    let mut refused = String::new();
    for function in way.functions {
        match bpf::attach_multi(program.as_fd(), std::iter::once(*function), way.at_return) {
            Ok(link) => {
                programs.keep_link(link);
                programs.keep(program);
                return Ok(());
            }
            Err(error) => refused = format!("attaching {name} to {function}: {error}"),
        }
    }
    Err(refused)
}
