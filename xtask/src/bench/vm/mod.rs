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
//! Invariant: a machine has one processor, so that nothing that a call causes is done beside it; and
//! each way to trace has a machine of its own, so that none pays for another.

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
use inside::LoopOutcome;
use table::Outcomes;
use tracers::BenchTracer;

/// Options of `cargo xtask bench vm`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct BenchVmArgs {
    /// The suite of Debian whose kernel is booted
    #[arg(long, default_value = "trixie")]
    suite: String,
    /// Only these ways to trace, besides `untraced`; limits that need others are not checked
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
    let mut files = Initramfs::new(&programs.xtask, &cache.busybox()?)?;
    for (name, program) in [
        ("xtask", &programs.xtask),
        ("ipc-trace", &programs.tracer),
        ("bpftrace", &bpftrace),
        ("strace", &strace),
    ] {
        files.program(program)?;
        files.command(name, program)?;
    }
    println!("Linux {}, {}, {}\n", kernel.release, version(&bpftrace)?, version(&strace)?);
    let wanted = |tracer: &BenchTracer| {
        args.only.is_empty() || *tracer == BenchTracer::Untraced || args.only.contains(tracer)
    };
    let queue = BenchTracer::ALL.into_iter().filter(wanted);
    let queue = queue.map(|tracer| planned(&cache, &kernel, &files, tracer)).collect();
    let mut outcomes = Outcomes(BTreeMap::new());
    run_all(queue, args.jobs.unwrap_or_else(default_jobs), |planned, ran| {
        eprintln!("xtask: {}: done after {:.0} s", planned.name, ran.took.as_secs_f64());
        outcomes.0.insert(planned.what, outcome(&ran).context(planned.name)?);
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
    tracer: BenchTracer,
) -> Planned<BenchTracer> {
    let what = format!("bench-{}", tracer.name());
    let argv = ["/bin/xtask", "bench", "inside", tracer.name()].map(str::to_owned).to_vec();
    Planned {
        name: format!("bench::vm::{}", tracer.name()),
        machine: QemuMachine {
            processors: 1,
            mebibytes: MEBIBYTES,
            clock: MachineClock::Instructions,
            append: APPEND.to_owned(),
            ..cache.machine(kernel, files.clone(), &what)
        },
        job: Job { argv, env: BTreeMap::new(), preemption: Preemption::Default },
        what: tracer,
    }
}

/// The outcome that the job in a machine printed.
fn outcome(ran: &Ran) -> Result<LoopOutcome> {
    if let Some(trouble) = &ran.trouble {
        bail!("{trouble}; it printed:\n{}\n{}", ran.output, ran.console);
    }
    let outcome = ran.output.lines().find_map(|line| serde_json::from_str(line).ok());
    outcome.with_context(|| format!("there are no figures in its output:\n{}", ran.output))
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
