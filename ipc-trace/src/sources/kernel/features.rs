//! The features of this kernel, and the privileges of this user.

use std::{fs, io, path::Path};

use caps::Capability;
use nix::sys::utsname;

/// Capabilities that tracing needs and that are missing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "loading BPF programs needs {}, which this process does not have: run it as root, or give it these capabilities (with setpriv, or systemd's AmbientCapabilities=)",
    missing.join(" and ")
)]
pub(crate) struct MissingCapabilities {
    /// Their names
    pub missing: Vec<&'static str>,
}

/// The kernel and the machine.
#[derive(Clone, Debug)]
pub(crate) struct System {
    /// The host's name
    pub host: String,
    /// The kernel's release
    pub kernel: String,
    /// The kernel's build string: `uname -v`
    pub build: String,
    /// The machine: `x86_64` or `aarch64`
    pub arch: &'static str,
    /// The host's boot id, if the kernel reports it
    pub boot_id: Option<String>,
}

impl System {
    /// Asks uname(2).
    ///
    /// # Errors
    /// The system call failed.
    pub(crate) fn read() -> io::Result<Self> {
        let name = utsname::uname()?;
        Ok(Self {
            host: name.nodename().to_string_lossy().into_owned(),
            kernel: name.release().to_string_lossy().into_owned(),
            build: name.version().to_string_lossy().into_owned(),
            arch: std::env::consts::ARCH,
            boot_id: std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
                .ok()
                .map(|id| id.trim_end().to_owned()),
        })
    }
}

/// A kernel's version: major and minor.
pub(crate) type KernelVersion = (u32, u32);

/// The version at the start of a release string.
#[must_use]
pub(crate) fn version(release: &str) -> Option<KernelVersion> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Whether kernels of that version skip a program on a function while it is running on that CPU: since 5.12
/// (`__bpf_prog_enter`, kernel/bpf/trampoline.c). Earlier kernels skip none, wherever it is preempted.
#[must_use]
pub(crate) fn guards_functions(version: KernelVersion) -> bool {
    version >= (5, 12)
}

/// Whether kernels of that version run programs on tracepoints with preemption on: all since 7.0
/// (`__DECLARE_TRACE`, include/linux/tracepoint.h).
#[must_use]
pub(crate) fn preempts_on_tracepoints(version: KernelVersion) -> bool {
    version >= (7, 0)
}

/// Checks the effective capabilities that `/proc/self/status`, under `proc`, shows.
///
/// # Errors
/// Required ones are missing. If the file can't be read, the kernel decides later.
pub(crate) fn check_capabilities(proc: &Path) -> Result<(), MissingCapabilities> {
    effective_capabilities(proc).map_or(Ok(()), missing)
}

/// The effective capabilities, one bit each, that `/proc/self/status`, under `proc`, shows.
#[must_use]
pub(crate) fn effective_capabilities(proc: &Path) -> Option<u64> {
    effective(&fs::read_to_string(proc.join("self/status")).ok()?)
}

fn effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn missing(set: u64) -> Result<(), MissingCapabilities> {
    let has = |cap: Capability| set & cap.bitmask() != 0;
    // CAP_SYS_ADMIN stands for both (include/linux/capability.h: bpf_capable, perfmon_capable).
    if has(Capability::CAP_SYS_ADMIN) {
        return Ok(());
    }
    let missing: Vec<_> =
        [(Capability::CAP_BPF, "CAP_BPF"), (Capability::CAP_PERFMON, "CAP_PERFMON")]
            .into_iter()
            .filter(|(cap, _)| !has(*cap))
            .map(|(_, name)| name)
            .collect();
    if missing.is_empty() { Ok(()) } else { Err(MissingCapabilities { missing }) }
}

/// Whether the kernel has no x32 calls: it rejects them, and no seccomp filter of this process, which
/// `/proc/self/status` under `proc` would show, has answered instead.
#[must_use]
pub(crate) fn has_no_x32(proc: &Path) -> bool {
    let unfiltered = fs::read_to_string(proc.join("self/status"))
        .is_ok_and(|status| status.lines().any(|line| line == "Seccomp:\t0"));
    unfiltered && !x32_answers()
}

#[cfg(target_arch = "x86_64")]
fn x32_answers() -> bool {
    let getpid = libc::SYS_getpid | ipc_trace_common::hooks::X32_BIT as i64;
    // SAFETY: getpid takes no arguments.
    unsafe { libc::syscall(getpid) != -1 || nix::errno::Errno::last() != nix::errno::Errno::ENOSYS }
}

#[cfg(not(target_arch = "x86_64"))]
const fn x32_answers() -> bool {
    false
}

/// Whether the kernel was booted with a parameter that is a single word. False if that can't be read.
#[must_use]
pub(crate) fn has_boot_parameter(proc: &Path, name: &str) -> bool {
    let cmdline = fs::read_to_string(proc.join("cmdline")).unwrap_or_default();
    cmdline.split_whitespace().take_while(|word| *word != "--").any(|word| word == name)
}

/// The initial namespaces' inode numbers (include/linux/proc_ns.h).
pub(crate) const PROC_USER_INIT_INO: u32 = 0xefff_fffd;
/// As above, of pid namespaces
pub(crate) const PROC_PID_INIT_INO: u32 = 0xefff_fffc;
/// As above, of time namespaces
pub(crate) const PROC_TIME_INIT_INO: u32 = 0xefff_fffa;

/// Whether this process is in the initial pid namespace, whose pids the programs use.
///
/// # Errors
/// The namespace can't be read in `proc`.
pub(crate) fn is_in_initial_pid_namespace(proc: &Path) -> io::Result<bool> {
    Ok(namespace_inum(&proc.join("self/ns/pid"))? == PROC_PID_INIT_INO)
}

/// The inode number of a namespace file, such as `/proc/self/ns/ipc`.
///
/// # Errors
/// The file can't be inspected.
pub(crate) fn namespace_inum(path: &Path) -> io::Result<u32> {
    use std::os::unix::fs::MetadataExt as _;
    // `proc_ns` numbers are 32-bit (include/linux/ns_common.h, inum).
    Ok(fs::metadata(path)?.ino() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_capabilities_are_named() {
        let names = |set| missing(set).map_err(|e| e.missing);
        assert_eq!(names(u64::MAX), Ok(()));
        assert_eq!(names(Capability::CAP_SYS_ADMIN.bitmask()), Ok(()));
        assert_eq!(
            names(Capability::CAP_BPF.bitmask() | Capability::CAP_PERFMON.bitmask()),
            Ok(())
        );
        assert_eq!(names(Capability::CAP_BPF.bitmask()), Err(vec!["CAP_PERFMON"]));
        assert_eq!(names(0), Err(vec!["CAP_BPF", "CAP_PERFMON"]));
    }

    #[test]
    fn version_decides_which_runs_are_skipped() {
        let of =
            |release| version(release).map(|v| (guards_functions(v), preempts_on_tracepoints(v)));
        assert_eq!(of("5.10.0-32-amd64"), Some((false, false)));
        assert_eq!(of("6.1.0-50-rt-amd64"), Some((true, false)));
        assert_eq!(of("6.19.2"), Some((true, false)));
        assert_eq!(of("7.3.4+deb13-cloud-amd64"), Some((true, true)));
        assert_eq!(of("next"), None);
    }

    #[test]
    fn parses_status_file() {
        assert_eq!(effective("Name:\tx\nCapEff:\t000001ffffffffff\n"), Some(0x1ff_ffff_ffff));
        assert_eq!(effective("Name:\tx\n"), None);
    }
}
