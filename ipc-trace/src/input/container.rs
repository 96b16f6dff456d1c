//! Runtime metadata of containers.

use borsh::{BorshDeserialize, BorshSerialize};
use std::collections::BTreeMap;

/// A container runtime.
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
    /// Some runtime of Kubernetes that the path doesn't identify.
    Cri,
    /// LXC, Incus, LXD, and LXC containers of libvirt
    Lxc,
    /// systemd-nspawn
    Nspawn,
    /// Unknown: the path doesn't identify it.
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

/// The metadata of a container, as its runtime reports it.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct RuntimeMetadata {
    /// Its id
    pub id: String,
    /// Its runtime, if the answer says more than the cgroup.
    pub runtime: Option<RuntimeKind>,
    /// Its name
    pub name: Option<String>,
    /// Its image
    pub image: Option<String>,
    /// Its pod's name
    pub pod: Option<String>,
    /// That pod's uid, which not every cgroup has.
    pub pod_uid: Option<String>,
    /// That pod's namespace
    pub pod_namespace: Option<String>,
    /// That pod's labels
    pub labels: Option<Labels>,
    /// Its IPC mode: `private`, `shareable`, `host`, `container:ID`, `pod`, …
    pub ipc_mode: Option<String>,
}

/// The labels of a pod, bounded.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Labels {
    /// The labels kept.
    pub kept: BTreeMap<String, String>,
    /// Number of labels left out or cut.
    pub lost: u32,
}

impl RuntimeMetadata {
    /// Merges the metadata of a later answer.
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
