//! Ways of attaching on which programs are not preempted: functions by fprobe, many by one link, and
//! tracepoints as perf events. aya has neither; why they are needed is said on the kernel side, in
//! `steady.rs`.

use std::{
    collections::HashSet,
    ffi::CString,
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
};

use super::{owned, plan::Hook};
use aya::{Ebpf, maps::Map};
use aya_obj::{
    Object,
    generated::{bpf_attach_type, bpf_attr, bpf_cmd, bpf_insn, bpf_prog_type},
};

/// BPF_F_KPROBE_MULTI_RETURN (include/uapi/linux/bpf.h): at the return, not at the entry.
const AT_RETURN: u32 = 1;

/// Programs that aya does not know of. Dropped, they are let go of.
#[derive(Debug, Default)]
pub(super) struct Steady {
    links: Vec<OwnedFd>,
    programs: Vec<OwnedFd>,
}

impl Steady {
    /// The programs' descriptors.
    pub(super) fn programs(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.programs.iter().map(|fd| fd.as_fd())
    }

    /// Puts programs of `object`, which `ebpf` was loaded from, on all functions: with two links.
    ///
    /// # Errors
    /// The kernel can't: a text that says what it was asked for.
    pub(super) fn hook(
        &mut self,
        object: &[u8],
        ebpf: &Ebpf,
        hooks: &[Hook],
    ) -> Result<(), String> {
        let object = linked(object, ebpf)?;
        let entries: Vec<_> = hooks.iter().filter(|hook| hook.entry).collect();
        let returns: Vec<_> = hooks.iter().collect();
        for (name, hooks, flags) in
            [("functions_entry", entries, 0), ("functions_return", returns, AT_RETURN)]
        {
            let program = load(&object, name).map_err(|e| format!("program {name}: {e}"))?;
            let link = link(&program, &hooks, flags)
                .map_err(|e| format!("program {name} on {} functions: {e}", hooks.len()))?;
            self.links.push(link);
            self.programs.push(program);
        }
        Ok(())
    }

    /// Attaches a loaded program to a tracepoint, such as `sched/sched_process_exec`.
    ///
    /// # Errors
    /// There is no such tracepoint, or the kernel refuses.
    pub(super) fn perf_event(
        &mut self,
        program: BorrowedFd<'_>,
        tracepoint: &str,
    ) -> io::Result<()> {
        self.links.push(perf_event(program, tracefs_id(tracepoint)?)?);
        Ok(())
    }
}

/// The object's programs, with the maps that `ebpf` has made.
fn linked(object: &[u8], ebpf: &Ebpf) -> Result<Object, String> {
    let mut object = Object::parse(object).map_err(|e| e.to_string())?;
    let maps = std::mem::take(&mut object.maps);
    let made = ebpf.maps().filter_map(|(name, map)| {
        let (name, of_object) = maps.get_key_value(name)?;
        Some((name.as_str(), descriptor(map)?, of_object))
    });
    let sections: HashSet<_> = object.functions.keys().map(|(section, _)| *section).collect();
    object.relocate_maps(made, &sections).map_err(|e| e.to_string())?;
    object.relocate_calls(&sections).map_err(|e| e.to_string())?;
    Ok(object)
}

/// A map's descriptor. `None`: a kind that the object has none of.
#[expect(clippy::wildcard_enum_match_arm, reason = "aya knows thirty kinds, and more to come")]
fn descriptor(map: &Map) -> Option<i32> {
    match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::PerCpuHashMap(data)
        | Map::RingBuf(data) => Some(data.fd().as_fd().as_raw_fd()),
        _ => None,
    }
}

fn load(object: &Object, name: &str) -> Result<OwnedFd, String> {
    let missing = || "it is not in the object".to_owned();
    let program = object.programs.get(name).ok_or_else(missing)?;
    let function = object.functions.get(&program.function_key()).ok_or_else(missing)?;
    let instructions: &[bpf_insn] = &function.instructions;
    // SAFETY: all zero is a valid value of the union.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    // SAFETY: of an all-zero union, every member may be used.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    load.prog_type = bpf_prog_type::BPF_PROG_TYPE_KPROBE as u32;
    load.expected_attach_type = bpf_attach_type::BPF_TRACE_KPROBE_MULTI as u32;
    load.insns = instructions.as_ptr() as u64;
    load.insn_cnt = instructions.len() as u32;
    load.license = program.license.as_ptr() as u64;
    // The terminating NUL stays.
    for (to, from) in load.prog_name.iter_mut().take(15).zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let error = match bpf(bpf_cmd::BPF_PROG_LOAD, &mut attr) {
        Ok(program) => return Ok(program),
        Err(error) => error,
    };
    // Once more, for what the verifier says.
    let mut log = vec![0u8; 1 << 16];
    // SAFETY: as above.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    load.log_level = 1;
    load.log_buf = log.as_mut_ptr() as u64;
    load.log_size = log.len() as u32;
    let _ = bpf(bpf_cmd::BPF_PROG_LOAD, &mut attr);
    let log = String::from_utf8_lossy(&log);
    Err(super::attach::refusal(&error, log.trim_end_matches('\0')))
}

fn link(program: &OwnedFd, hooks: &[&Hook], flags: u32) -> io::Result<OwnedFd> {
    let names: Vec<_> = hooks.iter().filter_map(|hook| CString::new(hook.function).ok()).collect();
    let symbols: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
    // SAFETY: all zero is a valid value of the union.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.link_create.__bindgen_anon_1.prog_fd = program.as_raw_fd().cast_unsigned();
    attr.link_create.attach_type = bpf_attach_type::BPF_TRACE_KPROBE_MULTI as u32;
    // SAFETY: of an all-zero union, every member may be used.
    let multi = unsafe { &mut attr.link_create.__bindgen_anon_3.kprobe_multi };
    multi.flags = flags;
    multi.cnt = symbols.len() as u32;
    multi.syms = symbols.as_ptr() as u64;
    bpf(bpf_cmd::BPF_LINK_CREATE, &mut attr)
}

fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    // SAFETY: the union is as large as said, and what it points to lives in the callers.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as u32,
            std::ptr::from_mut(attr),
            size_of::<bpf_attr>(),
        )
    };
    owned(fd)
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
fn perf_event(program: BorrowedFd<'_>, id: u64) -> io::Result<OwnedFd> {
    const PERF_TYPE_TRACEPOINT: u32 = 2;
    const PERF_EVENT_IOC_ENABLE: libc::c_ulong = 0x2400;
    const PERF_EVENT_IOC_SET_BPF: libc::c_ulong = 0x4004_2408;
    const PERF_FLAG_FD_CLOEXEC: u64 = 1 << 3;
    /// The first published `struct perf_event_attr` (include/uapi/linux/perf_event.h).
    #[repr(C)]
    struct Attributes {
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
    let attributes = Attributes {
        kind: PERF_TYPE_TRACEPOINT,
        size: size_of::<Attributes>() as u32,
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
