//! Reading a policy; `policy check`.

use std::{path::Path, process::ExitCode, time::SystemTime};

use super::RunError;
use crate::{
    cli,
    policy::{Policy, check, parse::PolicyError},
    sinks::output,
};

/// The policy in a file.
///
/// # Errors
/// It is none.
pub(super) fn read(file: &Path) -> Result<Policy, PolicyError> {
    Policy::read(file, &cli::user)
}

/// Tells which rules are in a file.
///
/// # Errors
/// The file is no policy, or output can't go on.
pub fn check(file: &Path) -> Result<ExitCode, RunError> {
    let policy = read(file)?;
    output::print(check::text(&policy, SystemTime::now()).trim_end())?;
    Ok(ExitCode::SUCCESS)
}
