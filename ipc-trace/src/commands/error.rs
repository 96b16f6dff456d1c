//! Errors of commands, and their exit statuses.

use std::{error::Error, io, path::PathBuf, process::ExitCode};

use crate::{
    engine::policy::parse::PolicyError,
    recording::reader::ReadError,
    sinks::output::OutputError,
    sources::{host::SnapshotError, kernel::error::SessionError},
};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum RunError {
    /// It can't start.
    #[error("{error}")]
    Begin {
        /// The cause
        error: Box<dyn Error>,
        /// The exit status for it
        status: u8,
    },
    /// The maps can't be used.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// No snapshot can be taken.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The policy is invalid.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// Output failed.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// The system refused something.
    #[error("{what}: {source}")]
    System {
        /// The operation
        what: &'static str,
        /// The system's error
        source: io::Error,
    },
    /// A signal ended an export early.
    #[error("a signal came before everything was exported, so nothing is kept")]
    Interrupted,
    /// Options that don't go together.
    #[error("{0}")]
    Usage(&'static str),
    /// A recording can't be written.
    #[error("can't record to {target}: {source}")]
    Recording {
        /// Where to
        target: String,
        /// The system's error
        source: io::Error,
    },
    /// A recording can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A query failed.
    #[cfg(feature = "sqlite")]
    #[error(transparent)]
    Query(#[from] crate::query::QueryError),
    /// Options that don't go together, with what was given.
    #[cfg(feature = "sqlite")]
    #[error("{0}")]
    Given(String),
    /// A file or directory can't be written.
    #[error("can't write {}: {source}", path.display())]
    File {
        /// Its path
        path: PathBuf,
        /// The system's error
        source: io::Error,
    },
}

impl RunError {
    /// The exit status for the error.
    #[must_use]
    pub(super) fn status(&self) -> ExitCode {
        match self {
            Self::Begin { status, .. } => ExitCode::from(*status),
            Self::Policy(_) | Self::Usage(_) => ExitCode::from(2),
            #[cfg(feature = "sqlite")]
            Self::Given(_) | Self::Query(crate::query::QueryError::Sql { .. }) => ExitCode::from(2),
            #[cfg(feature = "sqlite")]
            Self::Query(_) => ExitCode::FAILURE,
            Self::Output(OutputError::Closed) => ExitCode::SUCCESS,
            Self::Session(_)
            | Self::Snapshot(_)
            | Self::Output(_)
            | Self::System { .. }
            | Self::Interrupted
            | Self::Recording { .. }
            | Self::Read(_)
            | Self::File { .. } => ExitCode::FAILURE,
        }
    }
}

/// Makes an error of an operation that the system refused.
pub(super) fn system(what: &'static str) -> impl Fn(io::Error) -> RunError {
    move |source| RunError::System { what, source }
}
