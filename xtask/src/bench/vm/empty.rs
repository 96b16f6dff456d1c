//! Empty programs on the hooks of a backend, while a command runs: what no tracer on these hooks can go below.

use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};
use aya_obj::{
    btf::{Btf, BtfKind},
    generated::{bpf_attach_type, bpf_attr, bpf_cmd, bpf_prog_type},
};

/// Options of `cargo xtask bench empty`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct EmptyArgs {
    /// Whose hooks
    backend: HookedBackend,
    /// What to run meanwhile
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum HookedBackend {
    Function,
    /// Without entries of calls that take no descriptor
    FunctionCounts,
    Syscall,
}

/// Functions with programs at their entries, at their returns, or at both, on 6.12, as far as the loops get there.
const FUNCTIONS: [(&str, bool, bool); 8] = [
    ("__x64_sys_semtimedop", true, true),
    ("__x64_sys_msgsnd", true, true),
    ("__x64_sys_msgrcv", true, true),
    ("__x64_sys_shmget", false, true),
    ("__x64_sys_mq_timedsend", true, true),
    ("__x64_sys_mq_timedreceive", true, true),
    ("security_file_open", true, false),
    ("shm_fault", true, false),
];

/// Functions whose entries are of interest only if calls are timed.
const ENTRIES_OF_TIMES: [&str; 3] =
    ["__x64_sys_semtimedop", "__x64_sys_msgsnd", "__x64_sys_msgrcv"];

/// Tracepoints of system calls.
const OF_CALLS: [&str; 2] = ["sys_enter", "sys_exit"];

/// Tracepoints that every backend uses.
const OF_TASKS: [&str; 4] =
    ["task_newtask", "sched_process_exec", "sched_process_exit", "cgroup_attach_task"];

/// Attaches the programs, and runs the command: whether it succeeded.
pub(crate) fn run(args: &EmptyArgs) -> Result<bool> {
    let btf = Btf::from_sys_fs().context("the kernel's BTF")?;
    let tracepoints = match args.backend {
        HookedBackend::Function | HookedBackend::FunctionCounts => &[][..],
        HookedBackend::Syscall => &OF_CALLS,
    };
    let mut links = Vec::new();
    for tracepoint in tracepoints.iter().chain(&OF_TASKS) {
        let name = format!("btf_trace_{tracepoint}");
        let hook = btf.id_by_type_name_kind(&name, BtfKind::Typedef)?;
        links.push(attach(hook, bpf_attach_type::BPF_TRACE_RAW_TP).context(name)?);
    }
    if !matches!(args.backend, HookedBackend::Syscall) {
        for (name, entry, exit) in FUNCTIONS {
            let counts = matches!(args.backend, HookedBackend::FunctionCounts);
            let entry = entry && !(counts && ENTRIES_OF_TIMES.contains(&name));
            let hook = btf.id_by_type_name_kind(name, BtfKind::Func)?;
            for (wanted, attach_type) in [
                (entry, bpf_attach_type::BPF_TRACE_FENTRY),
                (exit, bpf_attach_type::BPF_TRACE_FEXIT),
            ] {
                if wanted {
                    links.push(attach(hook, attach_type).context(name)?);
                }
            }
        }
    }
    let (program, words) = args.command.split_first().context("there is no command")?;
    let status = Command::new(program).args(words).status().context(program.clone())?;
    ensure!(status.success(), "{program} ended with {status}");
    drop(links);
    Ok(true)
}

/// Loads and attaches an empty program: the link, and the program.
fn attach(hook: u32, attach_type: bpf_attach_type) -> Result<[OwnedFd; 2]> {
    /// `r0 = 0; exit`, two instructions of `struct bpf_insn` (include/uapi/linux/bpf.h)
    const CODE: [u64; 2] = [0xb7, 0x95];
    let license = CString::new("GPL")?;
    // SAFETY: of a union of numbers, all zeros are a value.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    // SAFETY: as above, for every member.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    load.prog_type = bpf_prog_type::BPF_PROG_TYPE_TRACING as u32;
    load.expected_attach_type = attach_type as u32;
    load.attach_btf_id = hook;
    load.insns = CODE.as_ptr() as u64;
    load.insn_cnt = CODE.len() as u32;
    load.license = license.as_ptr() as u64;
    let program = bpf(bpf_cmd::BPF_PROG_LOAD, &attr).context("an empty program")?;
    // SAFETY: as above.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.raw_tracepoint.prog_fd = program.as_raw_fd().cast_unsigned();
    let link = bpf(bpf_cmd::BPF_RAW_TRACEPOINT_OPEN, &attr).context("its attachment")?;
    Ok([link, program])
}

/// bpf(2), for commands that return a descriptor.
fn bpf(command: bpf_cmd, attr: &bpf_attr) -> Result<OwnedFd> {
    // SAFETY: the union is as long as that, and what it points to lives until the call returns.
    let fd = unsafe {
        libc::syscall(libc::SYS_bpf, command as libc::c_long, attr, size_of::<bpf_attr>())
    };
    match i32::try_from(fd) {
        // SAFETY: the kernel has just made the descriptor.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => bail!(io::Error::last_os_error()),
    }
}
