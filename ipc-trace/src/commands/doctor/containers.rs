//! By what containers are told, and which runtimes tell their names.

use std::time::Duration;

use super::{check, warning};
use crate::{
    event::{
        doctor::{CheckName, CheckStatus, DoctorCheck, RuntimeReport},
        value::OsBytes,
    },
    sources::host::cgroups::Hierarchy,
    sources::runtimes::{RuntimeClients, RuntimeState, Socket},
};

/// How long runtimes are waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether threads' cgroups tell their containers; `known`: whether the programs can read them.
pub(super) fn cgroups(hierarchy: Option<&Hierarchy>, known: bool) -> DoctorCheck {
    const UNTOLD: &str = "containers are not told, and filters for them are refused";
    let Some(hierarchy) = hierarchy else {
        let detail = format!("/proc/self/cgroup can't be read: {UNTOLD}");
        return warning(CheckName::Containers, detail, None);
    };
    let which = match hierarchy.controller {
        Some(controller) => format!("cgroups of version 1, controller {controller}"),
        None => "cgroups of version 2".to_owned(),
    };
    if !known {
        let detail = format!("by {which}, which the kernel's types do not describe: {UNTOLD}");
        return warning(CheckName::Containers, detail, None);
    }
    match &hierarchy.root {
        Some(root) => {
            let detail = format!("told by {which} at {}", root.display());
            check(CheckName::Containers, CheckStatus::Ok, detail)
        }
        None => {
            let detail = format!(
                "told by {which}, which are mounted nowhere: of those made before the start, a container is known when a process \
                 of it is seen"
            );
            warning(CheckName::Containers, detail, None)
        }
    }
}

/// Asks every runtime at its socket.
pub(super) fn runtimes(sockets: Vec<Socket>) -> Vec<RuntimeReport> {
    let asked = sockets.clone();
    let states = match RuntimeClients::ask(sockets) {
        Ok(mut names) => {
            names.wait(PATIENCE, drop);
            names.states().to_vec()
        }
        Err(error) => vec![RuntimeState::Silent(format!("can't be asked: {error}")); asked.len()],
    };
    let answer = |(socket, state): (Socket, RuntimeState)| {
        let (answers, reason) = match state {
            RuntimeState::Caught => (Some(true), None),
            RuntimeState::Asked => {
                (None, Some(format!("no answer within {} s", PATIENCE.as_secs())))
            }
            RuntimeState::Silent(_) if !socket.path.exists() => {
                (None, Some("no such socket".to_owned()))
            }
            RuntimeState::Silent(reason) => (Some(false), Some(reason)),
        };
        let path = std::os::unix::ffi::OsStringExt::into_vec(socket.path.into_os_string());
        RuntimeReport {
            runtime: socket.runtime.name(),
            socket: OsBytes(path.into()),
            answers,
            reason,
        }
    };
    asked.into_iter().zip(states).map(answer).collect()
}
