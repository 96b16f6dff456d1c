//! Conditions of a rule on subject and object, and their evaluation.

use ipc_trace_common::op::ObjectKind;

use super::finding_view::{ContainerScope, FindingView, Party};
use crate::event::{Container, value::OsBytes};
use crate::input::container_filter::is_called;
use crate::input::pattern::Pattern;

/// An attribute that a rule can match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attribute {
    /// The container's name or id
    Container,
    /// The container's image
    Image,
    /// The name of the container's pod
    Pod,
    /// That pod's namespace in Kubernetes
    PodNamespace,
    /// A label of that pod
    Label,
    /// The user
    User,
    /// The cgroup's path
    Cgroup,
    /// The executable's path
    Exe,
    /// The thread's name
    Comm,
    /// The IPC namespace
    IpcNs,
    /// The object's kind
    Kind,
    /// The object's key
    Key,
    /// The queue's name
    Name,
}

impl Attribute {
    /// All attributes, in the order of the documentation.
    pub(crate) const ALL: [Self; 13] = [
        Self::Container,
        Self::Image,
        Self::Pod,
        Self::PodNamespace,
        Self::Label,
        Self::User,
        Self::Cgroup,
        Self::Exe,
        Self::Comm,
        Self::IpcNs,
        Self::Kind,
        Self::Key,
        Self::Name,
    ];

    /// The key in the file.
    #[must_use]
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Image => "image",
            Self::Pod => "pod",
            Self::PodNamespace => "pod_namespace",
            Self::Label => "label",
            Self::User => "user",
            Self::Cgroup => "cgroup",
            Self::Exe => "exe",
            Self::Comm => "comm",
            Self::IpcNs => "ipc_ns",
            Self::Kind => "kind",
            Self::Key => "key",
            Self::Name => "name",
        }
    }

    /// Whether a subject has this attribute.
    #[must_use]
    pub(crate) const fn of_subject(self) -> bool {
        match self {
            Self::Container
            | Self::Image
            | Self::Pod
            | Self::PodNamespace
            | Self::Label
            | Self::User
            | Self::Cgroup
            | Self::Exe
            | Self::Comm
            | Self::IpcNs => true,
            Self::Kind | Self::Key | Self::Name => false,
        }
    }

    /// Whether an object or its owner has this attribute.
    #[must_use]
    pub(crate) const fn of_object(self) -> bool {
        match self {
            Self::Container
            | Self::Image
            | Self::Pod
            | Self::PodNamespace
            | Self::Label
            | Self::User
            | Self::Exe
            | Self::IpcNs
            | Self::Kind
            | Self::Key
            | Self::Name => true,
            Self::Cgroup | Self::Comm => false,
        }
    }
}

/// A value that a condition matches.
#[derive(Clone, Debug)]
pub(crate) enum Matcher {
    /// A name or path that matches this pattern.
    Text(Pattern),
    /// This number of a user, key or namespace.
    Number(u32),
    /// No container: the host.
    None,
    /// Any container.
    Some,
    /// The host's namespace.
    Host,
    /// This kind of object.
    Kind(ObjectKind),
}

/// A condition: the attribute must match one of the values.
#[derive(Clone, Debug)]
pub(crate) struct Condition {
    /// The attribute.
    pub what: Attribute,
    /// The values, one of which must match.
    pub any: Vec<Matcher>,
}

impl Condition {
    /// Whether the condition holds for a party of a finding.
    #[must_use]
    pub(crate) fn holds(&self, side: &Party<'_>, case: &FindingView<'_>) -> bool {
        self.any.iter().any(|want| self.what.is(want, side, case))
    }
}

impl Attribute {
    fn is(self, want: &Matcher, side: &Party<'_>, case: &FindingView<'_>) -> bool {
        match self {
            Self::Container => match want {
                Matcher::None => side.scope == ContainerScope::Host,
                Matcher::Some => side.scope.container().is_some(),
                Matcher::Text(pattern) => {
                    side.scope.container().is_some_and(|one| is_called(pattern, one))
                }
                Matcher::Number(_) | Matcher::Host | Matcher::Kind(_) => false,
            },
            Self::Image => text(want, value_in(side, |one| one.image.as_ref())),
            Self::Pod => text(want, value_in(side, |one| one.pod.as_ref())),
            Self::PodNamespace => text(want, value_in(side, |one| one.pod_namespace.as_ref())),
            Self::Label => {
                let labels = side.scope.container().into_iter().flat_map(|one| &one.labels);
                let written = |(key, value): (&OsBytes<'_>, &OsBytes<'_>)| {
                    [key.0.as_ref(), b"=", value.0.as_ref()].concat()
                };
                labels.map(written).any(|label| text(want, Some(&label)))
            }
            Self::User => number(want, side.uid),
            Self::Cgroup => text(want, side.cgroup),
            Self::Exe => text(want, side.exe),
            Self::Comm => text(want, side.comm),
            Self::IpcNs => match want {
                Matcher::Host => side.ipc_ns.is_some_and(|ns| ns.1),
                Matcher::Number(_) => number(want, side.ipc_ns.map(|ns| ns.0)),
                Matcher::Text(_) | Matcher::None | Matcher::Some | Matcher::Kind(_) => false,
            },
            Self::Kind => match want {
                Matcher::Kind(kind) => case.kind == Some(*kind),
                Matcher::Text(_)
                | Matcher::Number(_)
                | Matcher::None
                | Matcher::Some
                | Matcher::Host => false,
            },
            Self::Key => number(want, case.key),
            Self::Name => text(want, case.name),
        }
    }
}

fn value_in<'a>(
    side: &Party<'a>,
    get: impl FnOnce(&'a Container) -> Option<&'a OsBytes<'static>>,
) -> Option<&'a [u8]> {
    side.scope.container().and_then(get).map(|text| text.0.as_ref())
}

fn text(want: &Matcher, known: Option<&[u8]>) -> bool {
    match want {
        Matcher::Text(pattern) => known.is_some_and(|known| pattern.matches(known)),
        Matcher::Number(_) | Matcher::None | Matcher::Some | Matcher::Host | Matcher::Kind(_) => {
            false
        }
    }
}

fn number(want: &Matcher, known: Option<u32>) -> bool {
    match want {
        Matcher::Number(number) => known == Some(*number),
        Matcher::Text(_) | Matcher::None | Matcher::Some | Matcher::Host | Matcher::Kind(_) => {
            false
        }
    }
}
