//! By what containers are told, and which runtimes tell their names.

use std::time::Duration;

use super::{check, warning};
use crate::{
    event::{
        doctor::{Check, CheckName, Runtime, Status},
        value::Text,
    },
    sources::host::cgroups::Hierarchy,
    sources::runtimes::{Names, Socket, State},
};

/// How long runtimes are waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether threads' cgroups tell their containers; `known`: whether the programs can read them.
pub(super) fn cgroups(hierarchy: Option<&Hierarchy>, known: bool) -> Check {
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
            check(CheckName::Containers, Status::Ok, detail)
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
pub(super) fn runtimes(sockets: Vec<Socket>) -> Vec<Runtime> {
    let asked = sockets.clone();
    let states = match Names::ask(sockets) {
        Ok(mut names) => {
            names.wait(PATIENCE, drop);
            names.states().to_vec()
        }
        Err(error) => vec![State::Silent(format!("can't be asked: {error}")); asked.len()],
    };
    let answer = |(socket, state): (Socket, State)| {
        let (answers, reason) = match state {
            State::Caught => (Some(true), None),
            State::Asked => (None, Some(format!("no answer within {} s", PATIENCE.as_secs()))),
            State::Silent(_) if !socket.path.exists() => (None, Some("no such socket".to_owned())),
            State::Silent(reason) => (Some(false), Some(reason)),
        };
        let path = std::os::unix::ffi::OsStringExt::into_vec(socket.path.into_os_string());
        Runtime { runtime: socket.runtime.name(), socket: Text(path.into()), answers, reason }
    };
    asked.into_iter().zip(states).map(answer).collect()
}
