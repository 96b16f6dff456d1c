//! The classes of findings: one row each.
//!
//! A row has the class's description, the name of its variant and of its type, its name, the file in
//! `engine/detect/` that detects it, and which part of such a finding is the same next time ([`About`]).
//!
//! **To add a class**: add a row here and the file that it names, with a type of the variant's name that
//! implements `Detector`. Nothing else depends on it.
//!
//! Invariant: detectors run in this order, and classes are listed in it.
//!
//! [`About`]: super::finding::About

/// Passes all rows to a macro.
macro_rules! for_each_class {
    ($with:ident) => {
        $with! {
            /// An operation on a queue of another namespace than the caller's
            ForeignObject = "foreign-object", foreign_object, Process;
            /// A queue was opened, created, read or unlinked through another namespace's mqueue file system
            ForeignMount = "foreign-mount", foreign_mount, Process;
            /// Shared memory of one namespace is mapped or was touched by a thread in another namespace
            CarriedMapping = "carried-mapping", carried_mapping, Process;
            /// Another namespace's `/proc/sysvipc` was read, or its settings were written
            ForeignView = "foreign-view", foreign_view, Process;
            /// A thread entered a namespace that it didn't create and that isn't its home, and kept its other
            /// namespaces
            NamespaceMismatch = "namespace-mismatch", namespace_mismatch, Process;
            /// A lookup failed of a key that exists in another namespace
            ProbeKey = "probe-key", probe_key, Process;
            /// A call failed on an id that exists in another namespace
            ProbeId = "probe-id", probe_id, Process;
            /// A lookup failed of a queue's name that exists in another namespace
            ProbeName = "probe-name", probe_name, Process;
            /// Two containers use one object
            CrossContainer = "cross-container", cross_container, Container;
            /// A container uses the host's IPC namespace
            HostIpc = "host-ipc", host_ipc, Container;
            /// Permission was denied on an object that another container created
            CrossContainerDenied = "cross-container-denied", cross_container_denied, Process;
            /// A world-writable object is used by more than one user or container
            WeakMode = "weak-mode", weak_mode, Object;
        }
    };
}

pub(crate) use for_each_class;
