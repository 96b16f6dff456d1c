//! `export`: recordings as files for other programs. The inputs are untrusted: before it decodes the first one, this
//! process gives up the right to open files that exist, and sockets.
//!
//! | module | its job |
//! | --- | --- |
//! | `lines` | ndjson and trace: one pass |
//! | `tables` | parquet and sqlite: calls and losses, then a report, then what is in the files |

mod lines;
#[cfg(any(feature = "sqlite", feature = "parquet"))]
mod tables;

use std::{
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
};

use super::{
    error::{RunError, system},
    policy, replay,
    replay::Replayer,
    run::exit_status,
};
use crate::{
    cli::{ExportArgs, ExportFormat},
    event::finding::Severity,
    export::new_path::NewFile,
    recording::reader::{self, OpenFile},
    signals::Signals,
    sinks::text::units::{Bytes, GroupedCount},
};

/// Runs `export`.
///
/// # Errors
/// A file can't be read, or the new one can't be written.
pub(crate) fn run(args: &ExportArgs) -> Result<ExitCode, RunError> {
    let signals = Signals::handle().map_err(system("can't handle signals"))?;
    let policy = args.findings.policy.as_deref().map(policy::read).transpose()?;
    let filter = replay::call_filter(&args.filters)?;
    let files = reader::open_files(&args.files)?;
    let replayer = Replayer {
        range: replay::range(&args.range, &files)?,
        filter,
        containers: args.filters.containers(),
        policy: policy.map(|(_, recorded)| recorded),
        min_confidence: args.findings.min_confidence,
        lines: true,
        ..Replayer::default()
    };
    let export = Export { args, signals, files, replayer };
    let worst = match args.to {
        #[cfg(feature = "parquet")]
        ExportFormat::Parquet => tables::run(export)?,
        #[cfg(feature = "sqlite")]
        ExportFormat::Sqlite => tables::run(export)?,
        ExportFormat::Ndjson => lines::ndjson(&export)?,
        ExportFormat::Trace => lines::trace(&export)?,
    };
    let fails = args.findings.fail_on.is_some_and(|least| worst >= Some(least));
    Ok(ExitCode::from(exit_status(fails, None)))
}

/// What to export, and how.
struct Export<'a> {
    args: &'a ExportArgs,
    signals: Signals,
    files: Vec<OpenFile>,
    replayer: Replayer,
}

/// The severity of the worst finding.
type Worst = Option<Severity>;

impl Export<'_> {
    /// Where to write.
    fn path(&self) -> &Path {
        &self.args.write
    }

    fn is_stdout(&self) -> bool {
        self.path() == Path::new("-")
    }

    /// The new file; `None`: standard output.
    fn new_file(&self) -> Result<Option<NewFile>, RunError> {
        let file = (!self.is_stdout()).then(|| NewFile::create(self.path()));
        file.transpose().map_err(|error| self.failed(error))
    }

    /// Whether to go on.
    fn check(&self) -> Result<(), RunError> {
        if self.signals.end() { Err(RunError::Interrupted) } else { Ok(()) }
    }

    /// Why the new file can't be written.
    fn failed(&self, source: io::Error) -> RunError {
        let source = match source.kind() == io::ErrorKind::AlreadyExists {
            true => io::Error::other("it exists; name a new one, or remove it"),
            false => source,
        };
        RunError::File { path: self.path().to_owned(), source }
    }

    /// Keeps a file that is whole. Returns its bytes; `None`: it is standard output.
    fn keep(&self, file: Option<NewFile>) -> Result<Option<u64>, RunError> {
        let Some(file) = file else { return Ok(None) };
        self.check()?;
        file.keep().map(Some).map_err(|error| self.failed(error))
    }

    /// Says what was written: how many of what, and bytes, if they are known.
    fn say(&self, counts: &[(&str, u64)], bytes: Option<u64>) {
        let counts: Vec<_> =
            counts.iter().map(|(what, count)| format!("{what} {}", GroupedCount(*count))).collect();
        let bytes = bytes.map(|bytes| format!("; {}", Bytes(bytes))).unwrap_or_default();
        let to = match self.is_stdout() {
            true => "standard output".into(),
            false => self.path().display().to_string(),
        };
        // If this can't be written, the exit status still says that all went well.
        let _ = writeln!(io::stderr(), "ipc-trace: {to}: {}{bytes}", counts.join(", "));
    }
}
