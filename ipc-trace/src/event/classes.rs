//! The classes of findings: one row each.
//!
//! A row is what the class says has happened, the name of its variant and of its type, its name, the file in
//! `engine/detect/` that finds it, and what of such a finding is the same next time ([`About`]).
//!
//! **To add a class**: a row here, and the file that it names, with a type of the variant's name that is a
//! `Detector`. Nothing else has to know of it.
//!
//! Invariant: classes are asked in this order, and listed in it.
//!
//! [`About`]: super::finding::About

/// Hands all rows to a macro.
macro_rules! for_each_class {
    ($with:ident) => {
        $with! {
            /// An operation on a queue whose namespace is not the caller's
            ForeignObject = "foreign-object", foreign_object, Process;
            /// A queue was opened, made, read or unlinked through another namespace's mqueue file system
            ForeignMount = "foreign-mount", foreign_mount, Process;
            /// Shared memory of one namespace is mapped, or was touched, by a thread that lives in another
            CarriedMapping = "carried-mapping", carried_mapping, Process;
            /// Another namespace's `/proc/sysvipc` was read, or its settings were written
            ForeignView = "foreign-view", foreign_view, Process;
            /// A thread entered a namespace that is neither of its own making nor its home, and kept its
            /// other namespaces
            NamespaceMismatch = "namespace-mismatch", namespace_mismatch, Process;
            /// A lookup of a key failed that exists in another namespace
            ProbeKey = "probe-key", probe_key, Process;
            /// A call on an id failed that exists in another namespace
            ProbeId = "probe-id", probe_id, Process;
            /// A lookup of a queue's name failed that exists in another namespace
            ProbeName = "probe-name", probe_name, Process;
            /// Two containers use one object
            CrossContainer = "cross-container", cross_container, Container;
            /// A container uses the host's IPC namespace
            HostIpc = "host-ipc", host_ipc, Container;
            /// Permission was denied on an object that another container made
            CrossContainerDenied = "cross-container-denied", cross_container_denied, Process;
            /// An object that anybody may write is used by more than one user or container
            WeakMode = "weak-mode", weak_mode, Object;
        }
    };
}

pub(crate) use for_each_class;
