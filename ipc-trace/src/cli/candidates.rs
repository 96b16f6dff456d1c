//! Values that a shell can complete: what exists on this host when the user presses Tab.
//!
//! A name that has spaces, quotes or control characters is left out: a process or an image chooses it, and it would
//! end up on the command line of whoever completes. What describes a value is escaped.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use clap_complete::engine::CompletionCandidate;
use ipc_trace_common::op::{ObjectKind, Op};

use super::RuntimeArgs;
use crate::{
    event::escape::escaped, input::container::RuntimeMetadata, sources::kernel::features,
    sources::runtimes::RuntimeClients,
};

/// Cells of a name in a description.
const MAX_WIDTH: usize = 60;
/// How long container runtimes may take to answer before the completion goes on without them.
const RUNTIMES_WAIT: Duration = Duration::from_millis(500);

/// IPC namespaces that processes are in, each with one of these processes; then the names for two of them.
pub(super) fn namespaces() -> Vec<CompletionCandidate> {
    let mut found: BTreeMap<u32, String> = BTreeMap::new();
    for pid in processes() {
        let folder = Path::new("/proc").join(pid.to_string());
        let Ok(inum) = features::namespace_inum(&folder.join("ns/ipc")) else { continue };
        found
            .entry(inum)
            .or_insert_with(|| format!("{}[{pid}]", comm(&folder).unwrap_or_default()));
    }
    let described = |(inum, help): (u32, String)| {
        CompletionCandidate::new(inum.to_string()).help(Some(help.into()))
    };
    let names = [("self", "the namespace of this shell"), ("host", "the initial namespace")];
    let named = names.map(|(name, help)| CompletionCandidate::new(name).help(Some(help.into())));
    found.into_iter().map(described).chain(named).collect()
}

/// Processes, with their names.
pub(super) fn pids() -> Vec<CompletionCandidate> {
    let described = |pid: u32| {
        let comm = comm(&Path::new("/proc").join(pid.to_string()))?;
        Some(CompletionCandidate::new(pid.to_string()).help(Some(comm.into())))
    };
    processes().filter_map(described).collect()
}

/// Operations, and kinds of objects, which stand for all their operations.
pub(super) fn operations() -> Vec<CompletionCandidate> {
    let kinds = ObjectKind::ALL.map(ObjectKind::name).into_iter();
    kinds.chain(Op::ALL.map(Op::name)).map(CompletionCandidate::new).collect()
}

/// Names of containers; ids of those that have no name.
pub(super) fn containers() -> Vec<CompletionCandidate> {
    of_containers(|one| {
        Some((one.name.clone().unwrap_or_else(|| one.id.clone()), one.image.clone()))
    })
}

/// Images of containers.
pub(super) fn images() -> Vec<CompletionCandidate> {
    of_containers(|one| Some((one.image.clone()?, None)))
}

/// Pods, as `NAMESPACE/POD` where the namespace is known.
pub(super) fn pods() -> Vec<CompletionCandidate> {
    of_containers(|one| {
        let pod = one.pod.clone()?;
        let full = one.pod_namespace.as_ref().map(|namespace| format!("{namespace}/{pod}"));
        Some((full.unwrap_or(pod), None))
    })
}

fn of_containers(
    of: impl Fn(&RuntimeMetadata) -> Option<(String, Option<String>)>,
) -> Vec<CompletionCandidate> {
    let mut found = BTreeMap::new();
    if let Ok(mut runtimes) = RuntimeClients::ask(RuntimeArgs::default().sockets()) {
        runtimes.wait(RUNTIMES_WAIT, |one| found.extend(of(&one)));
    }
    found.iter().filter_map(|(name, help)| candidate(name, help.as_deref())).collect()
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The name of the process whose folder of `/proc` this is, for a description. `None`: it has ended.
fn comm(folder: &Path) -> Option<String> {
    let comm = fs::read(folder.join("comm")).ok()?;
    Some(shown(comm.strip_suffix(b"\n").unwrap_or(&comm)))
}

/// A name in a description, which the shell prints.
fn shown(name: &[u8]) -> String {
    escaped(name, MAX_WIDTH).to_string()
}

/// A value with its description, if a shell can take the value as it is.
fn candidate(value: &str, help: Option<&str>) -> Option<CompletionCandidate> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:@+".contains(c);
    (!value.is_empty() && !value.starts_with('-') && value.chars().all(plain)).then(|| {
        CompletionCandidate::new(value).help(help.map(|help| shown(help.as_bytes()).into()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_a_shell_would_interpret_is_left_out() {
        for good in ["web-1", "registry.local:5000/app@sha256:0f", "default/web", "4026531839"] {
            assert!(candidate(good, None).is_some(), "{good}");
        }
        for bad in ["", "-rf", "a b", "$(reboot)", "`id`", "a;b", "a\nb", "\u{1b}[2J", "a'b", "*"] {
            assert!(candidate(bad, None).is_none(), "{bad}");
        }
    }

    #[test]
    fn descriptions_are_escaped() {
        assert_eq!(shown(b"web 1"), "web 1");
        for hostile in ["\u{1b}[2J", "a\nb", "\u{202e}gnp", "\u{200b}"] {
            let help = candidate("web", Some(hostile)).unwrap().get_help().unwrap().to_string();
            assert!(help.chars().all(|c| c.is_ascii_graphic()), "{hostile:?}");
        }
    }

    #[test]
    fn this_process_and_its_namespace_are_among_the_candidates() {
        let has = |all: Vec<CompletionCandidate>, value: &str| {
            all.iter().any(|one| one.get_value() == value)
        };
        let own = features::namespace_inum(Path::new("/proc/self/ns/ipc")).unwrap();
        assert!(has(namespaces(), &own.to_string()));
        assert!(has(pids(), &std::process::id().to_string()));
        assert!(has(operations(), "mq_send") && has(operations(), "shm"));
    }
}
