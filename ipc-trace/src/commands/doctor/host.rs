//! Privileges, limits and settings in `/proc` and `/sys` that affect tracing.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use caps::Capability as Cap;

use super::{check, failed, warning};
use crate::{
    event::doctor::{Capability, CheckName, CheckStatus, DoctorCheck, Privileges},
    sources::kernel::{
        features::{self, KernelVersion, System, version},
        plan,
    },
};

/// The roots of the system's files.
#[derive(Clone, Debug)]
pub(crate) struct Roots {
    /// `/proc`
    pub proc: PathBuf,
    /// `/sys`
    pub sys: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self { proc: "/proc".into(), sys: "/sys".into() }
    }
}

impl Roots {
    /// The running kernel's BTF: [`crate::sources::kernel::field_offsets::KERNEL_BTF`].
    #[must_use]
    pub(crate) fn kernel_btf(&self) -> PathBuf {
        self.sys.join("kernel/btf/vmlinux")
    }
}

/// The checks that need only the host's files.
pub(super) fn checks(system: &System, roots: &Roots) -> (Privileges, Vec<DoctorCheck>) {
    let version = version(&system.kernel);
    let privileges = Privileges {
        capabilities: capabilities(&roots.proc, version),
        initial_user_ns: is_initial(&roots.proc, "user", features::PROC_USER_INIT_INO),
    };
    let checks = vec![
        kernel(system, version),
        privileges_check(&privileges),
        user_namespace(privileges.initial_user_ns),
        pid_namespace(is_initial(&roots.proc, "pid", features::PROC_PID_INIT_INO)),
        time_namespace(is_initial(&roots.proc, "time", features::PROC_TIME_INIT_INO)),
        lockdown(&roots.sys),
        memlock(&roots.proc, version),
        jit(&roots.proc),
        bpf_stats(&roots.proc),
    ];
    (privileges, checks)
}

fn kernel(system: &System, version: Option<KernelVersion>) -> DoctorCheck {
    let System { kernel, arch, .. } = system;
    let name = CheckName::Kernel;
    if plan::native_abi(arch).is_none() {
        let detail = format!("ipc-trace knows x86_64 and aarch64, not {arch}");
        return failed(name, detail, None);
    }
    match version {
        Some(version) if version < (5, 10) => {
            let detail = format!("Linux {kernel} is older than 5.10, the oldest that is tested");
            warning(name, detail, None)
        }
        Some(_) => check(name, CheckStatus::Ok, format!("not older than 5.10, on {arch}")),
        None => check(name, CheckStatus::Unknown, format!("release {kernel} has no version")),
    }
}

fn capabilities(proc: &Path, version: Option<KernelVersion>) -> Vec<Capability> {
    let set = features::effective_capabilities(proc);
    let has = |cap: Cap| set.map(|set| set & cap.bitmask() != 0);
    // bpf_capable and perfmon_capable, include/linux/capability.h.
    let or_admin = |cap| Some(has(cap)? || has(Cap::CAP_SYS_ADMIN)?);
    let needed = |name, present, purpose| Capability { name, present, required: true, purpose };
    let useful =
        |name, cap, purpose| Capability { name, present: has(cap), required: false, purpose };
    let mut all = vec![
        needed("CAP_BPF", or_admin(Cap::CAP_BPF), "loading programs"),
        needed("CAP_PERFMON", or_admin(Cap::CAP_PERFMON), "reading the kernel's memory"),
        useful(
            "CAP_SYS_NICE",
            Cap::CAP_SYS_NICE,
            "a raised priority, to lose nothing on a busy host",
        ),
        useful(
            "CAP_SYS_PTRACE",
            Cap::CAP_SYS_PTRACE,
            "--ipc-ns pid:PID for other users' processes",
        ),
    ];
    if version.is_some_and(counts_locked_memory) {
        all.push(useful(
            "CAP_SYS_RESOURCE",
            Cap::CAP_SYS_RESOURCE,
            "lifting the limit on locked memory",
        ));
    }
    all
}

fn privileges_check(privileges: &Privileges) -> DoctorCheck {
    let name = CheckName::Privileges;
    let all = &privileges.capabilities;
    let names = |required, present| {
        let those = all.iter().filter(|c| c.required == required && c.present == Some(present));
        those.map(|c| c.name).collect::<Vec<_>>()
    };
    if all.iter().any(|c| c.present.is_none()) {
        let detail = "/proc/self/status does not show this process's capabilities";
        return check(name, CheckStatus::Unknown, detail);
    }
    let missing = names(true, false);
    if !missing.is_empty() {
        let is = if missing.len() == 1 { "is" } else { "are" };
        let detail = format!("{} {is} missing", missing.join(" and "));
        let remedy = "run it as root, or give it these capabilities (with setpriv, or systemd's AmbientCapabilities=)";
        return failed(name, detail, Some(remedy));
    }
    let lacking: Vec<_> = all
        .iter()
        .filter(|c| c.present == Some(false))
        .map(|c| format!("{} ({})", c.name, c.purpose))
        .collect();
    if lacking.is_empty() {
        check(name, CheckStatus::Ok, [names(true, true), names(false, true)].concat().join(", "))
    } else {
        let detail = format!("{}; without {}", names(true, true).join(", "), lacking.join(" and "));
        warning(name, detail, None)
    }
}

/// Whether this process is in the initial namespace of a kind, by its fixed number (include/linux/proc_ns.h).
fn is_initial(proc: &Path, kind: &str, initial: u32) -> Option<bool> {
    let link = fs::read_link(proc.join("self/ns").join(kind)).ok()?;
    let inum = link.to_str()?.strip_prefix(kind)?.strip_prefix(":[")?.strip_suffix(']')?;
    Some(inum.parse::<u32>().ok()? == initial)
}

fn user_namespace(initial: Option<bool>) -> DoctorCheck {
    let name = CheckName::UserNamespace;
    match initial {
        Some(true) => check(name, CheckStatus::Ok, "the initial one"),
        // `bpf_capable` checks against init_user_ns (include/linux/capability.h).
        Some(false) => failed(
            name,
            "this process is in a user namespace of its own, whose capabilities do not count here",
            Some("run it as root of the host, outside of rootless containers"),
        ),
        None => check(name, CheckStatus::Unknown, "/proc/self/ns/user does not show which"),
    }
}

fn pid_namespace(initial: Option<bool>) -> DoctorCheck {
    let name = CheckName::PidNamespace;
    match initial {
        Some(true) => check(name, CheckStatus::Ok, "the initial one"),
        Some(false) => warning(
            name,
            "this process is in a pid namespace of its own: events show the numbers of the initial one, so --pid and \
             --ipc-ns pid:PID are refused",
            Some("run it in the host's pid namespace (docker run --pid=host)"),
        ),
        None => check(name, CheckStatus::Unknown, "/proc/self/ns/pid does not show which"),
    }
}

fn time_namespace(initial: Option<bool>) -> DoctorCheck {
    let name = CheckName::TimeNamespace;
    match initial {
        Some(true) => check(name, CheckStatus::Ok, "the initial one"),
        Some(false) => {
            check(name, CheckStatus::Ok, "of its own: times are shown by the host's clocks")
        }
        None => check(name, CheckStatus::Unknown, "/proc/self/ns/time does not show which"),
    }
}

/// A file's text; `None`: it does not exist.
fn text(path: &Path) -> Result<Option<String>, String> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("{} can't be read: {error}", path.display())),
    }
}

/// With lockdown=confidentiality no program may read the kernel's memory
/// (LOCKDOWN_BPF_READ_KERNEL, bpf_tracing_func_proto, kernel/trace/bpf_trace.c).
fn lockdown(sys: &Path) -> DoctorCheck {
    let name = CheckName::Lockdown;
    let folder = sys.join("kernel/security");
    match text(&folder.join("lockdown")) {
        Ok(Some(modes)) => {
            let mode = modes.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
            match mode.map(|(mode, _)| mode) {
                Some("confidentiality") => failed(
                    name,
                    "confidentiality: the kernel lets no program read its memory",
                    Some("boot with lockdown=integrity or lockdown=none"),
                ),
                Some(mode) => check(name, CheckStatus::Ok, mode),
                None => check(name, CheckStatus::Unknown, "the kernel's word is not understood"),
            }
        }
        // Every kernel has the list of security modules next to it.
        Ok(None) if folder.join("lsm").exists() => {
            check(name, CheckStatus::Ok, "not in this kernel")
        }
        Ok(None) => check(name, CheckStatus::Unknown, "unknown: securityfs is not mounted"),
        Err(error) => check(name, CheckStatus::Unknown, error),
    }
}

/// Until 5.11, maps and programs count as locked memory (bpf_map_charge_init,
/// kernel/bpf/syscall.c).
fn counts_locked_memory(version: KernelVersion) -> bool {
    version < (5, 11)
}

fn memlock(proc: &Path, version: Option<KernelVersion>) -> DoctorCheck {
    let name = CheckName::Memlock;
    if version.is_some_and(|version| !counts_locked_memory(version)) {
        return check(name, CheckStatus::Ok, "not limited: since 5.11 BPF maps do not count");
    }
    let limits = match text(&proc.join("self/limits")) {
        Ok(Some(limits)) => limits,
        Ok(None) => return check(name, CheckStatus::Unknown, "/proc/self/limits is missing"),
        Err(error) => return check(name, CheckStatus::Unknown, error),
    };
    let limit = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max locked memory"))
        .and_then(|line| line.split_whitespace().next());
    match limit {
        Some("unlimited") => check(name, CheckStatus::Ok, "not limited"),
        Some(bytes) => warning(
            name,
            format!("limited to {bytes} bytes, against which this kernel counts BPF maps"),
            Some("ulimit -l unlimited, or give it CAP_SYS_RESOURCE"),
        ),
        None => check(name, CheckStatus::Unknown, "/proc/self/limits is not understood"),
    }
}

/// `bpf_jit_enable` and `bpf_jit_harden` (net/core/sysctl_net_core.c). Hardening of 1 leaves
/// privileged programs alone, 2 does not (bpf_jit_blinding_enabled, include/linux/filter.h).
fn jit(proc: &Path) -> DoctorCheck {
    let name = CheckName::Jit;
    let read = |file: &str| text(&proc.join("sys/net/core").join(file));
    let enabled = match read("bpf_jit_enable") {
        Ok(Some(value)) => value,
        Ok(None) => {
            return check(
                name,
                CheckStatus::Unknown,
                "net.core.bpf_jit_enable is not to be seen here",
            );
        }
        Err(error) => return check(name, CheckStatus::Unknown, error),
    };
    if enabled.trim() == "0" {
        return warning(
            name,
            "net.core.bpf_jit_enable is 0: programs are interpreted, which costs several times more",
            Some("sysctl net.core.bpf_jit_enable=1"),
        );
    }
    match read("bpf_jit_harden") {
        Ok(Some(value)) if value.trim() == "2" => warning(
            name,
            "net.core.bpf_jit_harden is 2: programs are compiled with blinded constants, which costs more",
            Some("sysctl net.core.bpf_jit_harden=1 hardens unprivileged programs alone"),
        ),
        Ok(_) | Err(_) => check(name, CheckStatus::Ok, "programs are compiled to machine code"),
    }
}

/// With statistics on, the kernel measures the time of each run of a program (bpf_stats_enabled_key,
/// kernel/bpf/syscall.c and trampoline.c).
fn bpf_stats(proc: &Path) -> DoctorCheck {
    let name = CheckName::BpfStats;
    match text(&proc.join("sys/kernel/bpf_stats_enabled")) {
        Ok(Some(value)) if value.trim() == "0" => check(name, CheckStatus::Ok, "off"),
        Ok(Some(_)) => warning(
            name,
            "kernel.bpf_stats_enabled is on: each run of a program is timed, which costs more",
            Some("sysctl kernel.bpf_stats_enabled=0"),
        ),
        Ok(None) => check(name, CheckStatus::Ok, "not in this kernel"),
        Err(error) => check(name, CheckStatus::Unknown, error),
    }
}
