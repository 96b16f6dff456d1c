//! `cargo xtask`: sets up the eBPF toolchain, builds, tests and shows `ipc-trace`.
//!
//! Invariant: a command which needs something built first makes it itself, so that each of them
//! works in a fresh clone.

mod apt;
mod bench;
mod budget;
mod build;
mod child;
pub mod containers;
mod demo;
mod fuzz;
mod pictures;
mod programs;
mod scenarios;
mod soak;
mod tally;
mod test;
#[cfg(test)]
mod tidy;
mod toolchain;
mod tools;
pub mod tracer;
mod vm;
mod workload;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use apt::find_on_path;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about)]
struct XtaskCli {
    #[command(subcommand)]
    command: XtaskCommand,
}

#[derive(Debug, Subcommand)]
enum XtaskCommand {
    /// Make the toolchain for the eBPF programs available
    Setup,
    /// Build the eBPF programs, then target/release/ipc-trace with it inside
    Build(build::BuildArgs),
    /// Build, check the style, and run all tests
    Test(test::TestArgs),
    /// Build, then run the live tests on other kernels, in emulated machines
    Vm(vm::VmArgs),
    /// Build, then trace the demo workload and report (needs root)
    Demo(demo::DemoArgs),
    /// Run the fuzz targets, each on the kept corpus first
    Fuzz(fuzz::FuzzArgs),
    /// Build, then measure what tracing costs (needs root)
    Bench(bench::BenchArgs),
    /// Print how large the kernel makes the programs, against what is stored
    #[command(subcommand)]
    Budget(budget::BudgetCommand),
    /// Build, then run scenarios that must, or must not, lead to findings (needs root)
    Scenarios(scenarios::Scenarios),
    /// Build, then trace a busy host for some time, which must lead to no finding (needs root)
    Soak(soak::SoakArgs),
    /// Build, then make the pictures of the documents, in an emulated machine
    Pictures,
    /// Run a program that makes IPC calls, for tests, the demo and benches
    #[command(subcommand)]
    Workload(workload::Workload),
}

/// Runs the command that this process's arguments name.
pub fn main() -> ExitCode {
    if vm::init::is_wanted() {
        vm::init::main();
    }
    let result = match XtaskCli::parse().command {
        XtaskCommand::Setup => {
            build::workspace_root().and_then(|root| toolchain::ensure(&root)).map(|toolchain| {
                println!("{toolchain}");
                ExitCode::SUCCESS
            })
        }
        XtaskCommand::Build(args) => build::main(&args).map(|()| ExitCode::SUCCESS),
        XtaskCommand::Test(args) => test::main(&args),
        XtaskCommand::Vm(args) => vm::main(&args),
        XtaskCommand::Demo(args) => demo::main(&args),
        XtaskCommand::Fuzz(args) => fuzz::main(&args),
        XtaskCommand::Bench(args) => bench::main(args),
        XtaskCommand::Budget(what) => budget::main(&what),
        XtaskCommand::Scenarios(args) => scenarios::main(&args),
        XtaskCommand::Soak(args) => soak::main(&args),
        XtaskCommand::Pictures => pictures::main(),
        XtaskCommand::Workload(workload) => workload::run(workload).map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error| {
        // `{:#}`: the causes in one line, and no backtrace.
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
