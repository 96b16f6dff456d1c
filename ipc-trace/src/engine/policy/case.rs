//! What a policy judges: who reached what of whose, with nothing that a rule could not name.

use ipc_trace_common::op::Family;

use crate::event::{
    Container,
    finding::{Class, Severity},
};

/// In which container something is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Home<'a> {
    /// It is not known
    #[default]
    Unknown,
    /// On the host, in none
    Host,
    /// In this one
    Container(&'a Container),
}

impl<'a> Home<'a> {
    /// The container, if it is one.
    #[must_use]
    pub(crate) const fn container(self) -> Option<&'a Container> {
        match self {
            Self::Unknown | Self::Host => None,
            Self::Container(container) => Some(container),
        }
    }
}

/// One side of a case: who reached something, or whose it is. What is not known matches no rule.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Side<'a> {
    /// Its container
    pub home: Home<'a>,
    /// Its effective user
    pub uid: Option<u32>,
    /// Path of its cgroup, from the root of the hierarchy
    pub cgroup: Option<&'a [u8]>,
    /// Path of its executable
    pub exe: Option<&'a [u8]>,
    /// The thread's name
    pub comm: Option<&'a [u8]>,
    /// Its IPC namespace: its number, and whether it is the host's
    pub ipc_ns: Option<(u32, bool)>,
}

/// A finding, as a policy sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FindingView<'a> {
    /// What happened
    pub class: Class,
    /// Who did it
    pub subject: Side<'a>,
    /// Whose the object is: its creator, and the namespace that it belongs to
    pub owner: Side<'a>,
    /// The object's kind
    pub kind: Option<Family>,
    /// Its key
    pub key: Option<u32>,
    /// A queue's name, without the slash
    pub name: Option<&'a [u8]>,
    /// Whether that is the queue's own, and not what a caller gave: what another thread may have changed must not
    /// talk a rule into allowing something
    pub name_is_proven: bool,
    /// How much it weighs by itself
    pub severity: Severity,
}
