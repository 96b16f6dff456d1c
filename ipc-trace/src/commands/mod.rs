//! One file a command: it puts a run together. Options in, exit status out.

pub(crate) mod doctor;
mod error;
mod ls;
mod policy;
mod replay;
mod run;
mod schema;

use std::{io::Write as _, process::ExitCode};

use clap::Parser as _;

use crate::{
    cli::{Cli, CliCommand, PolicyCommand},
    sinks::output::{self, OutputError},
};
use error::RunError;

/// Runs the command of this process's arguments.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn"))
        .format(|f, record| {
            let level = record.level().as_str().to_ascii_lowercase();
            writeln!(f, "ipc-trace: {level}: {}", record.args())
        })
        .init();
    let result = match &cli.command {
        CliCommand::Live(args) => run::run(true, args),
        CliCommand::Report(args) => run::run(false, args),
        CliCommand::Ls(args) => ls::run(args),
        CliCommand::Replay(args) => replay::run(args),
        CliCommand::Doctor(args) => doctor::run(args),
        CliCommand::Policy { what: PolicyCommand::Check { file } } => policy::check(file),
        CliCommand::Schema { of } => output::print(&schema::schema_json(*of))
            .map(|()| ExitCode::SUCCESS)
            .map_err(RunError::from),
    };
    result.unwrap_or_else(|error| {
        if !matches!(error, RunError::Output(OutputError::Closed)) {
            // Where this can't be written either, the exit status still says it.
            let _ = writeln!(std::io::stderr(), "ipc-trace: error: {error}");
        }
        error.status()
    })
}
