//! Runtime metadata of containers.

use minicbor::{Decode, Encode};
use std::collections::BTreeMap;

/// A container runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub(crate) enum RuntimeKind {
    /// Docker
    #[n(0)]
    Docker,
    /// containerd, by Kubernetes or by nerdctl
    #[n(1)]
    Containerd,
    /// CRI-O
    #[n(2)]
    Crio,
    /// Podman
    #[n(3)]
    Podman,
    /// Some runtime of Kubernetes that the path doesn't identify.
    #[n(4)]
    Cri,
    /// LXC, Incus, LXD, and LXC containers of libvirt
    #[n(5)]
    Lxc,
    /// systemd-nspawn
    #[n(6)]
    Nspawn,
    /// Unknown: the path doesn't identify it.
    #[n(7)]
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(crate) struct RuntimeMetadata {
    /// Its id
    #[n(0)]
    pub id: String,
    /// Its runtime, if the answer says more than the cgroup.
    #[n(1)]
    pub runtime: Option<RuntimeKind>,
    /// Its name
    #[n(2)]
    pub name: Option<String>,
    /// Its image
    #[n(3)]
    pub image: Option<String>,
    /// Its pod's name
    #[n(4)]
    pub pod: Option<String>,
    /// That pod's uid, which not every cgroup has.
    #[n(5)]
    pub pod_uid: Option<String>,
    /// That pod's namespace
    #[n(6)]
    pub pod_namespace: Option<String>,
    /// That pod's labels
    #[n(7)]
    pub labels: Option<Labels>,
    /// Its IPC mode: `private`, `shareable`, `host`, `container:ID`, `pod`, …
    #[n(8)]
    pub ipc_mode: Option<String>,
}

/// The labels of a pod, bounded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Labels {
    /// The labels kept.
    #[n(0)]
    pub kept: BTreeMap<String, String>,
    /// Number of labels left out or cut.
    #[n(1)]
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
