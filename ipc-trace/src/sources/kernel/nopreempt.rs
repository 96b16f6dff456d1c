//! Ways of attaching on which programs are not preempted: functions by fprobe, many by one link, and
//! tracepoints as perf events. Why they are needed is said on the eBPF programs, in `nopreempt.rs`.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
};

use aya_obj::generated::{bpf_attach_type, bpf_prog_type};

use super::{
    bpf, copies, layout::Layout, object::LoadedObject, owned, plan::Hook, programs::Attachments,
};

/// Puts two programs on all functions: one at entries where there is need, one at returns. `backed`: copies of them
/// are put there, too.
///
/// # Errors
/// The kernel can't: a text that says what it was asked for.
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

/// Puts copies of programs on all functions.
///
/// # Errors
/// The kernel can't: why.
pub(super) fn back(
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

/// The name of a program's twin.
pub(super) fn twin(program: &str) -> String {
    format!("steady_{program}")
}

/// Puts a program on functions, at their entries or their returns: the link and the program. With cookies, it
/// is told which function it is, by that of the same place.
///
/// # Errors
/// The kernel can't: a text that says what it was asked for.
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

/// The number of a tracepoint, which tracefs tells: where it is mounted, or by a mount that nobody sees.
fn tracefs_id(tracepoint: &str) -> io::Result<u64> {
    let path = format!("events/{tracepoint}/id");
    let text = match std::fs::read_to_string(format!("/sys/kernel/tracing/{path}")) {
        Ok(text) => text,
        Err(_) => super::mounts::read_detached(c"tracefs", &path)?,
    };
    text.trim().parse().map_err(|_| io::Error::other(format!("tracefs says {text:?} in {path}")))
}

/// A perf event that runs the program at each hit of the tracepoint, on whatever CPU: the program is
/// the tracepoint's, not the event's (`perf_event_attach_bpf_prog`, kernel/trace/bpf_trace.c).
fn open_perf_event(program: BorrowedFd<'_>, id: u64) -> io::Result<OwnedFd> {
    const PERF_TYPE_TRACEPOINT: u32 = 2;
    const PERF_EVENT_IOC_ENABLE: libc::c_ulong = 0x2400;
    const PERF_EVENT_IOC_SET_BPF: libc::c_ulong = 0x4004_2408;
    const PERF_FLAG_FD_CLOEXEC: u64 = 1 << 3;
    /// The first published `struct perf_event_attr` (include/uapi/linux/perf_event.h).
    #[repr(C)]
    struct PerfEventAttr {
        kind: u32,
        size: u32,
        config: u64,
        sample_period: u64,
        sample_type: u64,
        read_format: u64,
        flags: u64,
        wakeup_events: u32,
        breakpoint_type: u32,
        config1: u64,
    }
    let attributes = PerfEventAttr {
        kind: PERF_TYPE_TRACEPOINT,
        size: size_of::<PerfEventAttr>() as u32,
        config: id,
        sample_period: 0,
        sample_type: 0,
        read_format: 0,
        flags: 0,
        wakeup_events: 0,
        breakpoint_type: 0,
        config1: 0,
    };
    // SAFETY: the attributes are as large as they say. Every process, on the first CPU, of no group.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            std::ptr::from_ref(&attributes),
            -1,
            0,
            -1,
            PERF_FLAG_FD_CLOEXEC,
        )
    };
    let event = owned(fd)?;
    for (request, argument) in
        [(PERF_EVENT_IOC_SET_BPF, program.as_raw_fd()), (PERF_EVENT_IOC_ENABLE, 0)]
    {
        // SAFETY: both requests take a number.
        if unsafe { libc::ioctl(event.as_raw_fd(), request, argument) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(event)
}
