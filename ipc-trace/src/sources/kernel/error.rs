//! Why a session can't start, or go on.

use std::{collections::BTreeMap, io};

use aya::maps::MapError;

use super::namespace_list::NamespaceListError;

/// Why tracing can't start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    /// Maps can't be created.
    #[error("can't create the maps: {0}; is there enough memory, and may this process lock it?")]
    Maps(String),
    /// Programs can't be attached to functions: a plan without these may work. Each with the reason.
    #[error("can't attach programs to the functions of system calls: {}", reasons(.0))]
    Functions(BTreeMap<&'static str, String>),
    /// Programs on functions can't come in copies: a plan without copies may work.
    #[error("can't attach copies of programs to functions: {0}")]
    Copies(String),
    /// No function accepts programs: a plan without functions may work.
    #[error("{0}")]
    Fentry(String),
    /// No method of loading or attaching a program worked.
    #[error("can't trace system calls: {}", .0.join("; "))]
    Programs(Vec<String>),
    /// A map is missing, or not as expected.
    #[error("map {name} of the programs can't be used: {reason}")]
    Map {
        /// Which
        name: &'static str,
        /// Why
        reason: String,
    },
    /// The namespace list contradicts `/proc`.
    #[error(
        "the kernel's fields are not where its BTF says: the programs read {read} as this process's IPC namespace, and /proc/self/ns/ipc shows {proc}; give this kernel's own BTF with --btf FILE"
    )]
    Mismatch {
        /// What the programs read
        read: u32,
        /// What `/proc` says
        proc: u32,
    },
    /// The self-test can't be run.
    #[error("can't test whether the programs run: {0}")]
    SelfTest(io::Error),
    /// No namespaces can be listed.
    #[error(transparent)]
    NamespaceList(#[from] NamespaceListError),
}

fn reasons(reasons: &BTreeMap<&'static str, String>) -> String {
    let texts: Vec<_> = reasons.iter().map(|(name, reason)| format!("{name}: {reason}")).collect();
    texts.join("; ")
}

/// Why programs could not be attached.
#[derive(Debug)]
pub(crate) enum AttachError {
    /// Another tracepoint mode or backend would not help.
    Session(SessionError),
    /// Another tracepoint mode may work.
    Flavour(String),
    /// A plan without these functions may work: each with the reason.
    Functions(BTreeMap<&'static str, String>),
    /// A plan without copies of programs on functions may work.
    Copies(String),
    /// A plan without any function may work.
    Fentry(String),
}

pub(super) fn map_error(name: &'static str, error: &MapError) -> SessionError {
    SessionError::Map { name, reason: error.to_string() }
}
