//! Reading a policy; `policy check`.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
    process::ExitCode,
    time::SystemTime,
};

use super::error::RunError;
use crate::{
    cli,
    engine::policy::{
        LARGEST, Policy, check,
        judge::{self, PolicyEngine},
        parse::{PolicyError, Problem},
    },
    event::escape::escaped,
    sinks::output,
};

/// The policy in a file.
///
/// # Errors
/// The file can't be read, is too large, or is no policy; says where and why.
fn read(path: &Path) -> Result<Policy, PolicyError> {
    let failed =
        |text| PolicyError { file: path.to_owned(), problems: vec![Problem::of_file(text)] };
    let cannot = |error: io::Error| failed(format!("can't read it: {error}"));
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(cannot)?;
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > LARGEST {
        return Err(failed(format!("it has more than {} KiB", LARGEST >> 10)));
    }
    Policy::parse(path, &bytes, &cli::user)
}

/// Who judges findings: by the rules of a file, if there is one. Those of them that hold no longer are
/// said.
///
/// # Errors
/// The file is no policy.
pub(in crate::commands) fn judges(file: Option<&Path>) -> Result<PolicyEngine, PolicyError> {
    let Some(file) = file else { return Ok(PolicyEngine::default()) };
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
    Ok(PolicyEngine::by(policy))
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
