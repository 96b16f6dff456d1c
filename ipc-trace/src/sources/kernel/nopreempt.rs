//! Hooks on which programs are not preempted: functions by fprobe, many by one link, and tracepoints as perf events.
//! `nopreempt.rs` of the eBPF programs explains why they are needed.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
};

use aya_obj::generated::{
    PERF_EVENT_IOC_ENABLE, PERF_EVENT_IOC_SET_BPF, PERF_FLAG_FD_CLOEXEC, bpf_attach_type,
    bpf_prog_type, perf_event_attr, perf_type_id,
};
use libc::c_ulong;

use super::{
    attachments::Attachments, bpf, copies, field_offsets::Layout, loader::LoadedObject, owned,
    plan::Hook,
};

/// Attaches two programs to all functions: one at the entries that need it, one at the returns. `backed`: copies back
/// them up.
///
/// # Errors
/// The kernel can't: what was tried, and the error.
pub(super) fn hook(
    linked: &LoadedObject,
    hooks: &[Hook],
    backed: bool,
) -> Result<Attachments, String> {
    let mut programs = Attachments::default();
    for (name, at_return) in [("fprobe_entry", false), ("fprobe_return", true)] {
        let hooked = hooks.iter().filter(|hook| at_return || hook.entry);
        let hooked: Vec<_> = hooked.map(|hook| hook.function).collect();
        let attached = functions(linked, name, &hooked, &[], at_return)?;
        if backed {
            programs.keep_backed(attached);
        } else {
            programs.keep_fprobe(attached);
        }
    }
    Ok(programs)
}

/// Attaches copies of programs to all functions.
///
/// # Errors
/// The kernel can't: why.
pub(super) fn back_with_copies(
    programs: &mut Attachments,
    linked: &LoadedObject,
    hooks: &[Hook],
    layout: &Layout,
) -> Result<(), String> {
    for (name, at_return) in [(copies::AT_CALLS, false), ("copied_return", true)] {
        let function = |hook: &Hook| Some((layout.functions().get(hook.function)?.id, 0));
        let functions: Vec<_> = hooks.iter().filter_map(function).collect();
        copies::on_functions(programs, linked, name, &functions, at_return)?;
    }
    Ok(())
}

/// The name of a program's non-preemptible variant.
pub(super) fn nopreempt_name(program: &str) -> String {
    format!("nopreempt_{program}")
}

/// Attaches a program to functions, at their entries or their returns: returns the link and the program. The cookie
/// at a function's index identifies the function to the program.
///
/// # Errors
/// The kernel can't: what was tried, and the error.
pub(super) fn functions(
    linked: &LoadedObject,
    name: &str,
    functions: &[&str],
    cookies: &[u64],
    at_return: bool,
) -> Result<(OwnedFd, OwnedFd), String> {
    let kind = bpf_prog_type::BPF_PROG_TYPE_KPROBE;
    let program = linked
        .load(name, kind, bpf_attach_type::BPF_TRACE_KPROBE_MULTI, 0)
        .map_err(|e| format!("program {name}: {e}"))?;
    let link = bpf::attach_multi(program.as_fd(), functions, cookies, at_return)
        .map_err(|e| format!("program {name} on {}: {e}", functions.join(", ")))?;
    Ok((link, program))
}

/// Attaches a loaded program to a tracepoint, such as `sched/sched_process_exec`.
///
/// # Errors
/// There is no such tracepoint, or the kernel refuses.
pub(super) fn perf_event(program: BorrowedFd<'_>, tracepoint: &str) -> io::Result<OwnedFd> {
    open_perf_event(program, tracefs_id(tracepoint)?)
}

/// The id of a tracepoint in tracefs, from its mount, or from a detached mount.
fn tracefs_id(tracepoint: &str) -> io::Result<u64> {
    let path = format!("events/{tracepoint}/id");
    let text = match std::fs::read_to_string(format!("/sys/kernel/tracing/{path}")) {
        Ok(text) => text,
        Err(_) => super::fsmount::read_detached(c"tracefs", &path)?,
    };
    text.trim().parse().map_err(|_| io::Error::other(format!("tracefs has {text:?} in {path}")))
}

/// A perf event that runs the program at each hit of the tracepoint, on any CPU: the program is attached to the
/// tracepoint, not to the event (`perf_event_attach_bpf_prog`, kernel/trace/bpf_trace.c).
fn open_perf_event(program: BorrowedFd<'_>, id: u64) -> io::Result<OwnedFd> {
    // SAFETY: integers and bit fields, for all of which zero is a value.
    let mut attributes: perf_event_attr = unsafe { std::mem::zeroed() };
    attributes.type_ = perf_type_id::PERF_TYPE_TRACEPOINT as u32;
    attributes.size = size_of::<perf_event_attr>() as u32;
    attributes.config = id;
    // SAFETY: the size in the attributes is right. Every process, on the first CPU, without a group.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            std::ptr::from_ref(&attributes),
            -1,
            0,
            -1,
            c_ulong::from(PERF_FLAG_FD_CLOEXEC),
        )
    };
    let event = owned(fd)?;
    for (request, argument) in
        [(PERF_EVENT_IOC_SET_BPF, program.as_raw_fd()), (PERF_EVENT_IOC_ENABLE, 0)]
    {
        // SAFETY: both requests take a number.
        if unsafe { libc::ioctl(event.as_raw_fd(), c_ulong::from(request), argument) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(event)
}
