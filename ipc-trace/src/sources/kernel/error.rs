//! Why a session can't start, or go on.

use std::{collections::BTreeMap, io};

use aya::maps::MapError;

use super::namespace_list::NamespaceListError;

/// Why tracing can't start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    /// Maps can't be made.
    #[error("can't create the maps: {0}; is there enough memory, and may this process lock it?")]
    Maps(String),
    /// Programs can't be put on functions: a plan without them may do. Each with the reason.
    #[error("can't put programs on the functions of system calls: {}", reasons(.0))]
    Functions(BTreeMap<&'static str, String>),
    /// Programs on functions can't come in copies: a plan without that may do.
    #[error("can't put copies of programs on functions: {0}")]
    Copies(String),
    /// No function takes programs: a plan without any may do.
    #[error("{0}")]
    Fentry(String),
    /// A program can't be loaded or attached, in any way that was tried.
    #[error("can't trace system calls: {}", .0.join("; "))]
    Programs(Vec<String>),
    /// A map is not there, or not as expected.
    #[error("map {name} of the programs can't be used: {reason}")]
    Map {
        /// Which
        name: &'static str,
        /// Why
        reason: String,
    },
    /// The namespace list contradicts `/proc`.
    #[error(
        "the kernel's fields are not where its BTF says: the IPC namespace of this process reads as {read}, and /proc/self/ns/ipc says {proc}; name the BTF of this very kernel by --btf FILE"
    )]
    Mismatch {
        /// What the programs read
        read: u32,
        /// What `/proc` says
        proc: u32,
    },
    /// The self-test can't be made.
    #[error("can't test whether the programs are run: {0}")]
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
    /// Another flavour or backend would not help.
    Session(SessionError),
    /// Another flavour may.
    Flavour(String),
    /// A plan without these functions may: each with the reason.
    Functions(BTreeMap<&'static str, String>),
    /// A plan without copies of programs on functions may.
    Copies(String),
    /// A plan without any function may.
    Fentry(String),
}

pub(super) fn map_error(name: &'static str, error: &MapError) -> SessionError {
    SessionError::Map { name, reason: error.to_string() }
}
