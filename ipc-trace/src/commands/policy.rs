//! Reads a policy; `policy check`.

use std::{
    cell::RefCell,
    collections::BTreeMap,
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
        MAX_POLICY_BYTES, Policy, check,
        engine::{self, PolicyEngine},
        parse::{PolicyError, Problem},
    },
    event::escape::escaped,
    recording::head::RecordedPolicy,
    sinks::output,
};

/// Reads the policy in a file, with the users that it names.
///
/// # Errors
/// The file can't be read, is too large, or is invalid: where and why.
pub(in crate::commands) fn read(path: &Path) -> Result<(Policy, RecordedPolicy), PolicyError> {
    let bytes = read_bytes(path)?;
    let users = RefCell::new(BTreeMap::new());
    let policy = Policy::parse(path, &bytes, &|name| {
        let number = cli::user(name)?;
        users.borrow_mut().insert(name.to_owned(), number);
        Ok(number)
    })?;
    let recorded = RecordedPolicy {
        file: path.display().to_string(),
        // What is not UTF-8 is no policy.
        text: String::from_utf8_lossy(&bytes).into_owned(),
        users: users.into_inner(),
    };
    Ok((policy, recorded))
}

/// The policy engine with a recorded policy, whose users are those of the host that recorded.
///
/// # Errors
/// The policy is invalid.
pub(in crate::commands) fn engine_of(policy: &RecordedPolicy) -> Result<PolicyEngine, PolicyError> {
    let user = |name: &str| {
        let known = policy.users.get(name).copied();
        known.or_else(|| name.parse().ok()).ok_or_else(|| "no such user".to_owned())
    };
    let policy = Policy::parse(Path::new(&policy.file), policy.text.as_bytes(), &user)?;
    Ok(PolicyEngine::by(policy))
}

fn read_bytes(path: &Path) -> Result<Vec<u8>, PolicyError> {
    let failed =
        |text| PolicyError { file: path.to_owned(), problems: vec![Problem::of_file(text)] };
    let cannot = |error: io::Error| failed(format!("can't read it: {error}"));
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(cannot)?;
    file.take(MAX_POLICY_BYTES + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > MAX_POLICY_BYTES {
        return Err(failed(format!("it has more than {} KiB", MAX_POLICY_BYTES >> 10)));
    }
    Ok(bytes)
}

/// The policy engine, with the rules of a file if there is one, and what a recording holds of that. Expired rules are
/// logged.
///
/// # Errors
/// The policy is invalid.
pub(in crate::commands) fn load_engine(
    file: Option<&Path>,
) -> Result<(PolicyEngine, Option<RecordedPolicy>), PolicyError> {
    let Some(file) = file else { return Ok((PolicyEngine::default(), None)) };
    let (policy, recorded) = read(file)?;
    for rule in engine::expired(&policy, SystemTime::now()) {
        let name = escaped(rule.name.as_bytes(), usize::MAX);
        let until = rule.until.as_ref().map_or("", |until| until.text.as_str());
        log::warn!(
            "a rule of the policy has expired: {} \"{name}\", line {}, until {until}",
            rule.action.table(),
            rule.line,
        );
    }
    Ok((PolicyEngine::by(policy), Some(recorded)))
}

/// Prints the rules in a file.
///
/// # Errors
/// The policy is invalid, or output failed.
pub(super) fn check(file: &Path) -> Result<ExitCode, RunError> {
    let (policy, _) = read(file)?;
    output::print(check::text(&policy, SystemTime::now()).trim_end())?;
    Ok(ExitCode::SUCCESS)
}
