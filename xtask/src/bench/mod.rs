//! `cargo xtask bench`: what tracing costs, and how long it takes to begin and to end.
//!
//! | module | its job |
//! | --- | --- |
//! | [`host`] | the figures of the running kernel, one after the other |
//! | [`cost`] | how much slower a loop of calls gets |
//! | [`memory`] | whether the tracer grows with the events |
//! | [`times`] | start to first event, end to exit, and what an idle tracer costs |
//! | [`tracer`] | the tracer beside the bench, and what `/proc` says of it |
//! | [`vm`] | instructions a call, in emulated machines |
//! | [`figure`] | a result with its limit, as a row of a table |
//! | [`machine`] | what the results depend on |
//!
//! Invariant: a figure is measured against the untraced case in the same run where it can be, so
//! that it means something on another machine. Programs are those that are released: an unoptimised
//! loop would hide a part of the cost.

mod cost;
mod figure;
mod host;
mod machine;
mod memory;
mod times;
mod tracer;
mod vm;

use std::process::ExitCode;

/// Options of `cargo xtask bench`.
#[derive(Clone, Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    what: Option<Bench>,
    #[command(flatten)]
    host: host::HostArgs,
}

/// What is measured.
#[derive(Clone, Debug, clap::Subcommand)]
enum Bench {
    /// The running kernel (needs root); what is done without a word more
    Host(host::HostArgs),
    /// Instructions a call, in emulated machines, beside bpftrace and strace
    Vm(vm::BenchVmArgs),
    /// What runs inside those machines
    #[command(hide = true)]
    Inside(vm::inside::InsideArgs),
    /// Empty programs on the hooks of a backend
    #[command(hide = true)]
    Empty(vm::empty::EmptyArgs),
}

/// Runs `cargo xtask bench`. Fails, too, when a limit is not kept.
pub(crate) fn main(args: BenchArgs) -> anyhow::Result<ExitCode> {
    let within = match args.what {
        Some(Bench::Host(args)) => host::run(&args)?,
        Some(Bench::Vm(args)) => vm::run(&args)?,
        Some(Bench::Inside(args)) => vm::inside::run(&args)?,
        Some(Bench::Empty(args)) => vm::empty::run(&args)?,
        None => host::run(&args.host)?,
    };
    Ok(if within { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
