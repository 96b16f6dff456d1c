//! The machine that the results depend on: processor, memory, kernel, and what else is running.

use std::{fmt, fs};

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

/// The machine.
#[derive(Clone, Debug)]
pub(super) struct HostMachine {
    processor: String,
    processors: usize,
    memory_gib: f64,
    kernel: String,
    load: String,
}

fn field(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim_start_matches([' ', '\t', ':']).to_owned())
}

impl HostMachine {
    /// Inspects it.
    pub(super) fn inspect() -> Self {
        let kib = field("/proc/meminfo", "MemTotal").unwrap_or_default();
        let kib: f64 = kib.trim_end_matches(" kB").parse().unwrap_or(0.0);
        let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
        Self {
            processor: field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".into()),
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            memory_gib: kib / f64::from(1 << 20),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load: read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned(),
        }
    }
}

impl fmt::Display for HostMachine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { processor, processors, memory_gib, kernel, load } = self;
        write!(
            f,
            "{processor}, {processors} processors, {memory_gib:.0} GiB, Linux {kernel}, \
             load {load} at the start"
        )
    }
}

/// Keeps this process, and what it starts, on two processors: with more of them, what the reader
/// uses would cost the caller nothing.
pub(super) fn stay_on_two_processors() -> nix::Result<()> {
    let allowed = sched_getaffinity(Pid::from_raw(0))?;
    let mut two = CpuSet::new();
    let numbers = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu) == Ok(true));
    for cpu in numbers.take(2) {
        two.set(cpu)?;
    }
    sched_setaffinity(Pid::from_raw(0), &two)
}
