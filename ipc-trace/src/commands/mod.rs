//! One file for each command: from options to an exit status.

#[cfg(test)]
mod checkpoint_tests;
mod completions;
pub(crate) mod doctor;
mod error;
mod export;
#[cfg(test)]
mod json_reference;
mod ls;
mod man;
mod policy;
#[cfg(feature = "sqlite")]
mod query;
mod recording;
mod replay;
mod run;
mod schema;
mod seal;

use std::{io::Write as _, process::ExitCode};

use clap::{CommandFactory as _, Parser as _};
use clap_complete::CompleteEnv;
use env_logger::Env;
use log::LevelFilter;

use crate::{
    cli::{Cli, CliCommand, PolicyCommand, RecordingCommand},
    sinks::output::{self, OutputError},
    sources::kernel::options::CallDetail,
};
use error::RunError;
use run::RunOutput;

/// Runs the command of this process's arguments.
#[must_use]
pub fn main() -> ExitCode {
    // A shell that requests completions gets them here, and the process exits.
    CompleteEnv::with_factory(Cli::command).var(completions::VARIABLE).complete();
    let cli = Cli::parse();
    cli.color.write_global();
    start_logging(&cli);
    let result = match &cli.command {
        CliCommand::Live(args) => run::run(RunOutput::Lines, CallDetail::Calls, args),
        CliCommand::Report(args) if !args.from.is_empty() => replay::report(args),
        CliCommand::Report(args) if args.range.is_given() => Err(RunError::Usage(
            "--since, --until: they select a part of a recording, so give it with --from",
        )),
        CliCommand::Report(args) => run::run(RunOutput::Report, args.detail(), &args.trace),
        CliCommand::Record(args) => run::run(RunOutput::Nothing, args.detail(), &args.trace()),
        CliCommand::Recording { what: RecordingCommand::Info { files, output } } => {
            recording::info(files, *output)
        }
        CliCommand::Recording { what: RecordingCommand::Repair { file, write } } => {
            recording::repair(file, write)
        }
        CliCommand::Ls(args) => ls::run(args),
        CliCommand::Replay(args) => replay::run(args),
        #[cfg(feature = "sqlite")]
        CliCommand::Query(args) => query::run(args),
        CliCommand::Export(args) => export::run(args),
        CliCommand::Doctor(args) => doctor::run(args),
        CliCommand::Policy { what: PolicyCommand::Check { file } } => policy::check(file),
        CliCommand::Completions { shell } => completions::print(*shell),
        CliCommand::Man { folder } => man::write(folder)
            .map(|()| ExitCode::SUCCESS)
            .map_err(|source| RunError::File { path: folder.clone(), source }),
        CliCommand::Schema { of } => output::print(&schema::schema_json(*of))
            .map(|()| ExitCode::SUCCESS)
            .map_err(RunError::from),
    };
    result.unwrap_or_else(|error| {
        if !matches!(error, RunError::Output(OutputError::Closed)) {
            // If this can't be written either, the exit status still reports the failure.
            let _ = writeln!(std::io::stderr(), "ipc-trace: error: {error}");
        }
        error.status()
    })
}

/// Log messages go to standard error. `-v` and `-q` choose which of this program; `RUST_LOG` does if neither is given.
fn start_logging(cli: &Cli) {
    let mut logger = env_logger::Builder::new();
    if cli.verbosity.is_present() {
        let level = cli.verbosity.log_level_filter();
        logger.filter_level(level.min(LevelFilter::Warn)).filter_module("ipc_trace", level);
    } else {
        logger.parse_env(Env::default().default_filter_or("warn"));
    }
    logger
        .format(|f, record| {
            let level = record.level().as_str().to_ascii_lowercase();
            writeln!(f, "ipc-trace: {level}: {}", record.args())
        })
        .init();
}
