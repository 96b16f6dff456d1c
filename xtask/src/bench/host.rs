//! The figures of the running kernel, one after the other.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::{
    cost::{self, GETPPID, SEMOP},
    figure::{Figure, HEADING},
    machine::{self, HostMachine},
    memory, times,
    tracer::BenchPrograms,
};

/// Options of `cargo xtask bench host`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct HostArgs {
    /// How often a loop runs untraced and traced
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Calls of a loop
    #[arg(long, default_value_t = 3_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    calls: u64,
    /// Events before the second measurement of memory
    #[arg(long, default_value_t = 50_000_000)]
    events: u64,
    /// The tracer's backend
    #[arg(long, default_value = "syscall")]
    backend: String,
    /// Only these figures
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<FigureGroup>,
}

/// A group of figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum FigureGroup {
    /// The semop loop
    Semop,
    /// The getppid loop
    Getppid,
    /// Start, end, idle
    Times,
    /// Resident memory
    Memory,
}

/// Events before the first measurement of memory.
const FEW: u64 = 1_000_000;

/// Measures and prints: whether all limits are kept.
pub(super) fn run(args: &HostArgs) -> Result<bool> {
    ensure!(nix::unistd::geteuid().is_root(), "loading BPF programs needs root");
    let (_, programs) = BenchPrograms::build(&args.backend)?;
    machine::stay_on_two_processors().context("cannot stay on two processors")?;
    println!("{}\n\n{HEADING}", HostMachine::inspect());
    let mut within = true;
    let mut show = |figures: &[Figure]| {
        for figure in figures {
            println!("{figure}");
            within &= figure.is_within();
        }
    };
    let wanted = |part| args.only.is_empty() || args.only.contains(&part);
    let rounds = usize::from(args.rounds);
    if wanted(FigureGroup::Semop) {
        show(&cost::measure(&programs, SEMOP, rounds, args.calls)?);
    }
    if wanted(FigureGroup::Getppid) {
        show(&cost::measure(&programs, GETPPID, rounds, args.calls)?);
    }
    if wanted(FigureGroup::Times) {
        show(&times::measure(&programs, rounds)?);
        show(&[times::idle(&programs, Duration::from_secs(10))?]);
    }
    if wanted(FigureGroup::Memory) {
        show(&memory::measure(&programs, FEW, args.events)?);
    }
    Ok(within)
}
