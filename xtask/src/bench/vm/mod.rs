//! `cargo xtask bench vm`: instructions a call, in emulated machines whose clock counts those, untraced
//! and traced by ipc-trace and its peers.
//!
//! | module | its job |
//! | --- | --- |
//! | [`tracers`] | how each tracer is run, and what it reports |
//! | [`empty`] | programs that do nothing, on the hooks of a backend |
//! | [`inside`] | what runs inside a machine |
//! | [`table`] | figures and limits |
//!
//! Invariant: a machine has one processor, so that nothing that a call causes is done beside it. What is subtracted from
//! one another ran by turns in one machine, where addresses are the same.

pub(super) mod empty;
pub(super) mod inside;
mod table;
mod tracers;

use std::{collections::BTreeMap, path::Path, process::Command};

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    figure::{Figure, HEADING},
    tracer::BenchPrograms,
};
use crate::{
    apt,
    vm::{
        BootKernel, Initramfs, Job, MachineClock, Planned, Preemption, QemuMachine, Ran, VmCache,
        default_jobs, run_all,
    },
};
use table::{Outcomes, Runs};
use tracers::BenchTracer;

/// Options of `cargo xtask bench vm`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct BenchVmArgs {
    /// The suite of Debian whose kernel is booted
    #[arg(long, default_value = "trixie")]
    suite: String,
    /// Only these ways to trace, each beside `untraced`; limits that need others are not checked
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<BenchTracer>,
    /// How many machines run at a time [default: one for each processor, and one more; eight at most]
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
}

/// bpftrace's compiler, and the files of all of them: they lie in memory.
const MEBIBYTES: u32 = 3072;

/// The same addresses on each boot.
const APPEND: &str = "nokaslr";

/// Measures and prints: whether all limits are kept.
pub(super) fn run(args: &BenchVmArgs) -> Result<bool> {
    let (built, programs) = BenchPrograms::build("auto")?;
    let cache = VmCache::take(&built)?;
    let kernel = cache.kernel(&args.suite)?;
    let bpftrace = apt::program("bpftrace", "bpftrace")?;
    let strace = apt::program("strace", "strace")?;
    let perf = apt::program("perf", "linux-perf")?;
    let mut files = Initramfs::new(&programs.xtask, &cache.busybox()?)?;
    for (name, program) in [
        ("xtask", &programs.xtask),
        ("ipc-trace", &programs.tracer),
        ("bpftrace", &bpftrace),
        ("strace", &strace),
        ("perf", &perf),
    ] {
        files.program(program)?;
        files.command(name, program)?;
    }
    let [bpftrace, strace, perf] = [&bpftrace, &strace, &perf].map(|peer| version(peer));
    println!("Linux {}, {}, {}, {}\n", kernel.release, bpftrace?, strace?, perf?);
    let is_wanted = |tracer: &BenchTracer| {
        let mut only = args.only.iter();
        args.only.is_empty() || only.any(|one| one == tracer || one.floor() == Some(*tracer))
    };
    let mut queue = Vec::new();
    for (turns, tracers) in BenchTracer::MACHINES {
        let mut wanted: Vec<_> = tracers.iter().copied().filter(is_wanted).collect();
        if !wanted.is_empty() {
            wanted.insert(0, BenchTracer::Untraced);
            queue.push(planned(&cache, &kernel, &files, turns, wanted));
        }
    }
    let mut outcomes = Outcomes::default();
    run_all(queue, args.jobs.unwrap_or_else(default_jobs), |planned, ran| {
        eprintln!("xtask: {}: done after {:.0} s", planned.name, ran.took.as_secs_f64());
        outcomes.0.push(runs(&ran, &planned.what).context(planned.name)?);
        Ok(())
    })?;
    println!("{}\n{HEADING}", outcomes.table()?);
    let figures = outcomes.figures()?;
    figures.iter().for_each(|figure| println!("{figure}"));
    Ok(figures.iter().all(Figure::is_within))
}

fn planned(
    cache: &VmCache,
    kernel: &BootKernel,
    files: &Initramfs,
    turns: u32,
    tracers: Vec<BenchTracer>,
) -> Planned<Vec<BenchTracer>> {
    let names: Vec<_> = tracers.iter().map(|tracer| tracer.name()).collect();
    let turns = turns.to_string();
    let argv = ["/bin/xtask", "bench", "inside", "--turns", &turns];
    let argv = argv.into_iter().chain(names.iter().copied()).map(str::to_owned).collect();
    let what = format!("bench-{}", names.join("-"));
    Planned {
        name: format!("bench::vm: {}", names.join(", ")),
        machine: QemuMachine {
            processors: 1,
            mebibytes: MEBIBYTES,
            clock: MachineClock::Instructions,
            append: APPEND.to_owned(),
            ..cache.machine(kernel, files.clone(), &what)
        },
        job: Job { argv, env: BTreeMap::new(), preemption: Preemption::Default },
        what: tracers,
    }
}

/// The outcomes that the job in a machine printed: of each tracer one a turn.
fn runs(ran: &Ran, tracers: &[BenchTracer]) -> Result<Runs> {
    if let Some(trouble) = &ran.trouble {
        bail!("{trouble}; it printed:\n{}\n{}", ran.output, ran.console);
    }
    let mut runs: Runs = tracers.iter().map(|tracer| (*tracer, Vec::new())).collect();
    for (tracer, outcome) in ran.output.lines().filter_map(|line| serde_json::from_str(line).ok()) {
        runs.entry(tracer).or_default().push(outcome);
    }
    ensure!(
        runs.values().all(|outcomes| !outcomes.is_empty()),
        "there are figures missing in its output:\n{}",
        ran.output
    );
    Ok(runs)
}

/// The first line of a program's `--version`.
fn version(program: &Path) -> Result<String> {
    let output = Command::new(program)
        .arg("--version")
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    ensure!(output.status.success(), "{} --version: {}", program.display(), output.status);
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
}
