//! `completions`: the script by which a shell asks this program for completions.

use std::process::ExitCode;

use clap_complete::{Shell, env::Shells};

use super::error::RunError;
use crate::sinks::output;

const NAME: &str = "ipc-trace";

/// The variable by which the script asks this program: its value is the shell.
pub(super) const VARIABLE: &str = "IPC_TRACE_COMPLETE";

/// Prints the script for a shell. It calls this program at each completion, so that namespaces, processes and
/// containers are the current ones.
///
/// # Errors
/// Standard output failed, or the shell has no such script.
pub(super) fn print(shell: Shell) -> Result<ExitCode, RunError> {
    let name = shell.to_string();
    let mut script = Vec::new();
    let shells = Shells::builtins();
    let completer = shells
        .completer(&name)
        .ok_or_else(|| std::io::Error::other(format!("no completions for {name}")));
    completer
        .and_then(|it| it.write_registration(VARIABLE, NAME, NAME, NAME, &mut script))
        .map_err(|source| RunError::System { what: "the shell's script", source })?;
    output::print(String::from_utf8_lossy(&script).trim_end())?;
    Ok(ExitCode::SUCCESS)
}
