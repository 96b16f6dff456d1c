//! Reading a policy; `policy check`.

use std::{path::Path, process::ExitCode, time::SystemTime};

use super::run::RunError;
use crate::{
    cli,
    engine::policy::{
        Policy, check,
        judge::{self, Judges},
        parse::PolicyError,
    },
    event::escape::escaped,
    sinks::output,
};

/// The policy in a file.
///
/// # Errors
/// It is none.
fn read(file: &Path) -> Result<Policy, PolicyError> {
    Policy::read(file, &cli::user)
}

/// Who judges findings: by the rules of a file, if there is one. Those of them that hold no longer are
/// said.
///
/// # Errors
/// The file is no policy.
pub(in crate::commands) fn judges(file: Option<&Path>) -> Result<Judges, PolicyError> {
    let Some(file) = file else { return Ok(Judges::default()) };
    let policy = read(file)?;
    for rule in judge::expired(&policy, SystemTime::now()) {
        let name = escaped(rule.name.as_bytes(), usize::MAX);
        let until = rule.until.as_ref().map_or("", |until| until.text.as_str());
        log::warn!(
            "a rule of the policy holds no longer: {} \"{name}\", line {}, until {until}",
            rule.does.table(),
            rule.line,
        );
    }
    Ok(Judges::by(policy))
}

/// Tells which rules are in a file.
///
/// # Errors
/// The file is no policy, or output can't go on.
pub(super) fn check(file: &Path) -> Result<ExitCode, RunError> {
    let policy = read(file)?;
    output::print(check::text(&policy, SystemTime::now()).trim_end())?;
    Ok(ExitCode::SUCCESS)
}
