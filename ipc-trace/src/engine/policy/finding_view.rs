//! The attributes of a finding that rules can match, and no others.

use ipc_trace_common::op::ObjectKind;

use crate::event::{
    Container,
    finding::{Class, Severity},
};

/// The container that a party belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ContainerScope<'a> {
    /// Unknown.
    #[default]
    Unknown,
    /// None: the host.
    Host,
    /// This container.
    Container(&'a Container),
}

impl<'a> ContainerScope<'a> {
    /// The container, if there is one.
    #[must_use]
    pub(crate) const fn container(self) -> Option<&'a Container> {
        match self {
            Self::Unknown | Self::Host => None,
            Self::Container(container) => Some(container),
        }
    }
}

/// A party of a finding: the subject, or the object's owner. Unknown attributes match no rule.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Party<'a> {
    /// Its container.
    pub scope: ContainerScope<'a>,
    /// Its effective user.
    pub uid: Option<u32>,
    /// Path of its cgroup, from the root of the hierarchy.
    pub cgroup: Option<&'a [u8]>,
    /// Path of its executable.
    pub exe: Option<&'a [u8]>,
    /// The thread's name.
    pub comm: Option<&'a [u8]>,
    /// Its IPC namespace: the inode number, and whether it is the host's.
    pub ipc_ns: Option<(u32, bool)>,
}

/// A finding, as a policy sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FindingView<'a> {
    /// The class.
    pub class: Class,
    /// The process or container that accessed the object.
    pub subject: Party<'a>,
    /// The object's owner: its creator, and its namespace.
    pub owner: Party<'a>,
    /// The object's kind.
    pub kind: Option<ObjectKind>,
    /// The object's key.
    pub key: Option<u32>,
    /// A queue's name, without the slash.
    pub name: Option<&'a [u8]>,
    /// Whether the name is the queue's own rather than one read from the caller's memory: another thread may
    /// have changed that, so it must not match a rule that hides the finding.
    pub name_is_proven: bool,
    /// The finding's own severity.
    pub severity: Severity,
}
