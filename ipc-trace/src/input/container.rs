//! What runtimes say of their containers.

use borsh::{BorshDeserialize, BorshSerialize};
use std::collections::BTreeMap;

/// What runs a container.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize,
)]
pub(crate) enum RuntimeKind {
    /// Docker
    Docker,
    /// containerd, by Kubernetes or by nerdctl
    Containerd,
    /// CRI-O
    Crio,
    /// Podman
    Podman,
    /// Some runtime of Kubernetes, whose name the path does not tell
    Cri,
    /// LXC, Incus, LXD, and LXC containers of libvirt
    Lxc,
    /// systemd-nspawn
    Nspawn,
    /// The path does not tell
    Unknown,
}

impl RuntimeKind {
    /// Its name.
    #[must_use]
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Containerd => "containerd",
            Self::Crio => "cri-o",
            Self::Podman => "podman",
            Self::Cri => "cri",
            Self::Lxc => "lxc",
            Self::Nspawn => "systemd-nspawn",
            Self::Unknown => "unknown",
        }
    }
}

/// What a runtime says of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct RuntimeMetadata {
    /// Its id
    pub id: String,
    /// What runs it, where the answer tells more than the cgroup
    pub runtime: Option<RuntimeKind>,
    /// Its name
    pub name: Option<String>,
    /// Its image
    pub image: Option<String>,
    /// Its pod's name
    pub pod: Option<String>,
    /// That pod's uid, which not every cgroup tells
    pub pod_uid: Option<String>,
    /// That pod's namespace
    pub pod_namespace: Option<String>,
    /// That pod's labels
    pub labels: Option<Labels>,
    /// Which IPC namespace it was given: `private`, `shareable`, `host`, `container:ID`, `pod`, …
    pub ipc_mode: Option<String>,
}

/// Labels of a pod, as far as they are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Labels {
    /// Those
    pub kept: BTreeMap<String, String>,
    /// Others that there are, and those that are cut
    pub lost: u32,
}

impl RuntimeMetadata {
    /// Takes over what a later answer knows.
    pub(crate) fn merge(&mut self, later: Self) {
        fn take<T>(to: &mut Option<T>, from: Option<T>) {
            if from.is_some() {
                *to = from;
            }
        }
        take(&mut self.runtime, later.runtime);
        take(&mut self.name, later.name);
        take(&mut self.image, later.image);
        take(&mut self.pod, later.pod);
        take(&mut self.pod_uid, later.pod_uid);
        take(&mut self.pod_namespace, later.pod_namespace);
        take(&mut self.labels, later.labels);
        take(&mut self.ipc_mode, later.ipc_mode);
    }
}
