//! What breaks a rule today, and why. The list is to become empty: an exception that nothing needs is a failure,
//! too.

use super::violation::{Check, Violation};

/// Files that may break a rule.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exception {
    /// The rule
    pub(super) check: Check,
    /// Files; with a slash at its end, a folder with all that is in it
    pub(super) paths: &'static [&'static str],
    /// Why they may, and until when
    pub(super) reason: &'static str,
}

/// All of them.
pub(super) const EXCEPTIONS: &[Exception] = &[
    Exception {
        check: Check::Layers,
        paths: &["ipc-trace/src/cli/mod.rs", "ipc-trace/src/commands/"],
        reason: "the types of options are in cli/ and made of the engine's and the sources' own, and commands read \
                 them there",
    },
    Exception {
        check: Check::Layers,
        paths: &[
            "ipc-trace/src/engine/detect/processes.rs",
            "ipc-trace/src/engine/pipeline.rs",
            "ipc-trace/src/engine/pipeline/",
            "ipc-trace/src/engine/track/containers/identity.rs",
            "ipc-trace/src/engine/track/containers/mod.rs",
            "ipc-trace/src/engine/track/contexts.rs",
            "ipc-trace/src/engine/track/identity.rs",
            "ipc-trace/src/engine/track/losses.rs",
            "ipc-trace/src/engine/track/namespaces.rs",
        ],
        reason: "the engine reads records and asks the host itself, until inputs carry both",
    },
    Exception {
        check: Check::Layers,
        paths: &[
            "ipc-trace/src/engine/policy/judge.rs",
            "ipc-trace/src/engine/track/containers/wanted.rs",
        ],
        reason: "what findings are judged by is in detect/, and what filters are made of is in policy/",
    },
    Exception {
        check: Check::Layers,
        paths: &["ipc-trace/src/input/"],
        reason: "decoded arguments are an event's own types",
    },
    Exception {
        check: Check::Layers,
        paths: &["ipc-trace/src/signals.rs"],
        reason: "the clock is in the engine",
    },
    Exception {
        check: Check::Layers,
        paths: &["ipc-trace/src/sinks/"],
        reason: "sinks are handed what the engine tracks, until an event carries all that they show",
    },
    Exception {
        check: Check::Layers,
        paths: &[
            "ipc-trace/src/sources/host/",
            "ipc-trace/src/sources/kernel/ring.rs",
            "ipc-trace/src/sources/kernel/session.rs",
            "ipc-trace/src/sources/runtimes/",
        ],
        reason: "sources answer in the engine's and the events' types, until inputs have types of their own",
    },
    Exception {
        check: Check::Cycles,
        paths: &["ipc-trace/src/engine/", "ipc-trace/src/sources/"],
        reason: "the engine asks sources, and these know its types; detect/, track/ and policy/ know each other; \
                 classes of findings share what is in one of them; loading, attaching and the session are not in \
                 layers yet",
    },
    Exception {
        check: Check::Cycles,
        paths: &["ipc-trace/src/commands/policy.rs", "ipc-trace/src/commands/run/mod.rs"],
        reason: "the errors of every command are those of a run",
    },
    Exception {
        check: Check::Cycles,
        paths: &["ipc-trace-ebpf/src/"],
        reason: "the kernel side is not in folders by layer yet",
    },
    Exception {
        check: Check::Purity,
        paths: &[
            "ipc-trace/src/engine/detect/processes.rs",
            "ipc-trace/src/engine/pipeline.rs",
            "ipc-trace/src/engine/pipeline/",
            "ipc-trace/src/engine/policy/mod.rs",
            "ipc-trace/src/engine/track/clock.rs",
            "ipc-trace/src/engine/track/contexts.rs",
            "ipc-trace/src/engine/track/identity.rs",
            "ipc-trace/src/engine/track/objects/looks.rs",
        ],
        reason: "clocks and /proc are still in the engine, until it asks by requests",
    },
    Exception {
        check: Check::Size,
        paths: &[
            "ipc-trace-common/src/record.rs",
            "ipc-trace/src/engine/track/objects/tests.rs",
            "ipc-trace/src/sources/kernel/plan.rs",
            "ipc-trace/src/sources/kernel/session.rs",
        ],
        reason: "they grew",
    },
];

/// The messages: what no exception is for, and exceptions that are for nothing.
pub(super) fn apply(found: &[Violation], exceptions: &[Exception]) -> Vec<String> {
    let is_for = |check: Check, path: &str, one: &Violation| {
        let is_there =
            if path.ends_with('/') { one.path.starts_with(path) } else { one.path == path };
        one.check == check && is_there
    };
    let paths = || {
        exceptions.iter().flat_map(|exception| {
            exception.paths.iter().map(move |path| (exception.check, *path, exception.reason))
        })
    };
    let broken = found
        .iter()
        .filter(|one| !paths().any(|(check, path, _)| is_for(check, path, one)))
        .map(Violation::to_string);
    let idle = paths()
        .filter(|(check, path, _)| !found.iter().any(|one| is_for(*check, path, one)))
        .map(|(check, path, reason)| {
            format!("{path} keeps the rule {check:?}, and has an exception ({reason}): remove it from {}", file!())
        });
    broken.chain(idle).collect()
}
