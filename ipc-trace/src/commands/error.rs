//! Why a command ended badly, and the exit status that says so.

use std::{error::Error, io, process::ExitCode};

use crate::{
    engine::policy::parse::PolicyError,
    sinks::output::OutputError,
    sources::{host::LookError, kernel::error::SessionError},
};

/// Why a command ended badly.
#[derive(Debug, thiserror::Error)]
pub(super) enum RunError {
    /// It can't begin.
    #[error("{error}")]
    Begin {
        /// Why
        error: Box<dyn Error>,
        /// The exit status that says so
        status: u8,
    },
    /// The maps can't be used.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// There is nothing to be seen.
    #[error(transparent)]
    Look(#[from] LookError),
    /// The policy is none.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// Output can't go on.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// The system refused something.
    #[error("{what}: {source}")]
    System {
        /// What was tried
        what: &'static str,
        /// What the system said
        source: io::Error,
    },
}

impl RunError {
    /// The exit status that says so.
    #[must_use]
    pub(super) fn status(&self) -> ExitCode {
        match self {
            Self::Begin { status, .. } => ExitCode::from(*status),
            Self::Policy(_) => ExitCode::from(2),
            Self::Output(OutputError::Closed) => ExitCode::SUCCESS,
            Self::Session(_) | Self::Look(_) | Self::Output(_) | Self::System { .. } => {
                ExitCode::FAILURE
            }
        }
    }
}

/// What the system refused.
pub(super) fn system(what: &'static str) -> impl Fn(io::Error) -> RunError {
    move |source| RunError::System { what, source }
}
