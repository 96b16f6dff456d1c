//! How containers are identified, and which runtimes report their names.

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

/// How long to wait for runtimes.
const RUNTIME_WAIT: Duration = Duration::from_secs(2);

/// Whether threads' cgroups identify their containers; `known`: whether the programs can read them.
pub(super) fn cgroups(hierarchy: Option<&Hierarchy>, known: bool) -> DoctorCheck {
    const UNKNOWN: &str = "containers are not identified, and filters for them are rejected";
    let Some(hierarchy) = hierarchy else {
        let detail = format!("/proc/self/cgroup can't be read: {UNKNOWN}");
        return warning(CheckName::Containers, detail, None);
    };
    let which = match hierarchy.controller {
        Some(controller) => format!("cgroups of version 1, controller {controller}"),
        None => "cgroups of version 2".to_owned(),
    };
    if !known {
        let detail = format!("{which}: the kernel's BTF does not describe them: {UNKNOWN}");
        return warning(CheckName::Containers, detail, None);
    }
    match &hierarchy.root {
        Some(root) => {
            let detail = format!("identified by {which} at {}", root.display());
            check(CheckName::Containers, CheckStatus::Ok, detail)
        }
        None => {
            let detail = format!(
                "identified by {which}, which aren't mounted: a container created before the start is known only after \
                 one of its processes is seen"
            );
            warning(CheckName::Containers, detail, None)
        }
    }
}

/// Connects to every runtime at its socket.
pub(super) fn runtimes(sockets: Vec<Socket>) -> Vec<RuntimeReport> {
    let asked = sockets.clone();
    let states = match RuntimeClients::ask(sockets) {
        Ok(mut names) => {
            names.wait(RUNTIME_WAIT, drop);
            names.states().to_vec()
        }
        Err(error) => vec![RuntimeState::Silent(format!("can't be asked: {error}")); asked.len()],
    };
    let answer = |(socket, state): (Socket, RuntimeState)| {
        let (answers, reason) = match state {
            RuntimeState::Caught => (Some(true), None),
            RuntimeState::Asked => {
                (None, Some(format!("no answer within {} s", RUNTIME_WAIT.as_secs())))
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
