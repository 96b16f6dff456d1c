//! Parses a cgroup's path to its container: pure.
//!
//! Runtimes name cgroups after their containers. The name depends on the cgroup driver (`cgroupfs` creates
//! folders, `systemd` units), not on the version of cgroups. Containers create cgroups below their own, so
//! the innermost match counts. A process that may create cgroups in a container can forge another container's
//! name: so the result says whether a runtime of this host can know the container, and only such containers
//! get metadata.

use minicbor::{Decode, Encode};

use crate::{event::escape::unescaped, input::container::RuntimeKind};

/// The identity of a container.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub(crate) struct ContainerIdentity {
    /// Its runtime.
    #[n(0)]
    pub runtime: RuntimeKind,
    /// Its id: 64 hexadecimal digits; for LXC and systemd-nspawn its name.
    #[n(1)]
    pub id: String,
    /// The pod's uid in Kubernetes, or its id in Podman.
    #[n(2)]
    pub pod_uid: Option<String>,
    /// Whether a runtime of this host's root may know it: it isn't inside another container, nor a user's.
    #[n(3)]
    pub of_host: bool,
}

/// Prefixes of containers' cgroup names before the id, by runtime.
const PREFIXES: [(&str, RuntimeKind); 6] = [
    ("docker-", RuntimeKind::Docker),
    ("cri-containerd-", RuntimeKind::Containerd),
    ("nerdctl-", RuntimeKind::Containerd),
    ("crio-", RuntimeKind::Crio),
    // A service with --cgroups=split.
    ("libpod-payload-", RuntimeKind::Podman),
    ("libpod-", RuntimeKind::Podman),
];

/// The container of a cgroup path, from the root of its hierarchy. `None`: the host.
#[must_use]
pub(crate) fn of_path(path: &[u8]) -> Option<ContainerIdentity> {
    let names: Vec<&[u8]> =
        path.split(|byte| *byte == b'/').filter(|one| !one.is_empty()).collect();
    let at = (0..names.len()).rev().find_map(|at| Some((at, at_component(&names, at)?)));
    let (at, (runtime, id)) = at?;
    let above = names.get(..at)?;
    let nested = (0..at).any(|at| at_component(above, at).is_some());
    let users = above.iter().any(|name| name.starts_with(b"user-") || name.starts_with(b"user@"));
    let pod_uid = above.iter().rev().find_map(|name| pod(name));
    Some(ContainerIdentity { runtime, id, pod_uid, of_host: !nested && !users })
}

fn at_component(names: &[&[u8]], at: usize) -> Option<(RuntimeKind, String)> {
    let name = *names.get(at)?;
    let parent = at.checked_sub(1).and_then(|at| names.get(at)).copied().unwrap_or_default();
    let unit = name.strip_suffix(b".scope").unwrap_or(name);
    for (prefix, runtime) in PREFIXES {
        if let Some(id) = unit.strip_prefix(prefix.as_bytes()).and_then(id) {
            return Some((runtime, id));
        }
    }
    if let Some(id) = id(name) {
        let runtime = match parent {
            b"docker" => RuntimeKind::Docker,
            _ if pod(parent).is_some() => RuntimeKind::Cri,
            _ => RuntimeKind::Unknown,
        };
        return Some((runtime, id));
    }
    let below = names.get(at + 1).copied().unwrap_or_default();
    let named = lxc(name, parent).map(|name| (RuntimeKind::Lxc, name));
    named.or_else(|| machine(name, parent, below)).filter(|(_, name)| !name.is_empty())
}

/// An id as Docker, containerd, CRI-O and Podman make them.
fn id(text: &[u8]) -> Option<String> {
    let hex = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
    (text.len() == 64 && text.iter().all(hex)).then(|| String::from_utf8_lossy(text).into_owned())
}

/// The uid in the name of a pod's cgroup. systemd's driver has `_` for `-`, which would make another
/// slice of it.
fn pod(name: &[u8]) -> Option<String> {
    let name = std::str::from_utf8(name).ok()?;
    if let Some(slice) = name.strip_suffix(".slice") {
        if let Some((_, pod)) = slice.split_once("-libpod_pod_") {
            return id(pod.as_bytes());
        }
        let (above, uid) = slice.rsplit_once("-pod")?;
        return (above.starts_with("kubepods") || above.contains("-kubepods"))
            .then(|| uid.replace('_', "-"))
            .filter(|uid| is_uid(uid));
    }
    let uid = name.strip_prefix("pod")?;
    is_uid(uid).then(|| uid.to_owned())
}

/// A pod's uid is a UUID, or of a static pod the MD5 of its manifest.
fn is_uid(text: &str) -> bool {
    let digits = text.bytes().filter(u8::is_ascii_hexdigit).count();
    let dashes = text.bytes().filter(|byte| *byte == b'-').count();
    digits == 32 && digits + dashes == text.len()
}

/// `lxc.payload.NAME`, `lxc.payload/NAME`, `lxc/NAME`. The monitor is the host's.
fn lxc(name: &[u8], parent: &[u8]) -> Option<String> {
    let name = match name.strip_prefix(b"lxc.payload.") {
        Some(name) => name,
        None if parent == b"lxc" || parent == b"lxc.payload" => name,
        None => return None,
    };
    (!name.is_empty()).then(|| String::from_utf8_lossy(name).into_owned())
}

/// Machines that systemd-machined knows. Virtual machines are processes of the host.
fn machine(name: &[u8], parent: &[u8], below: &[u8]) -> Option<(RuntimeKind, String)> {
    if parent != b"machine.slice" || below == b"supervisor" {
        return None;
    }
    if let Some(name) =
        name.strip_prefix(b"systemd-nspawn@").and_then(|n| n.strip_suffix(b".service"))
    {
        return Some((RuntimeKind::Nspawn, unescape(name)));
    }
    let name = unescape(name.strip_prefix(b"machine-")?.strip_suffix(b".scope")?);
    if name.starts_with("qemu-") {
        return None;
    }
    // libvirt: lxc-PID-NAME
    match name.strip_prefix("lxc-").and_then(|rest| rest.split_once('-')) {
        Some((pid, name)) if pid.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some((RuntimeKind::Lxc, name.to_owned()))
        }
        _ => Some((RuntimeKind::Nspawn, name)),
    }
}

/// systemd.unit(5), "string escaping": `\xNN`.
fn unescape(name: &[u8]) -> String {
    String::from_utf8_lossy(&unescaped(name, b"\\x", 2, 16)).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "d8522205927a2b6a4f1b7c3c0e9d5a4f8e7d6c5b4a39281706f5e4d3c2b1a090";
    const OTHER: &str = "00000000927a2b6a4f1b7c3c0e9d5a4f8e7d6c5b4a39281706f5e4d3c2b1a090";
    const UID: &str = "6d1c1d3a-7f7e-4f0c-9d0c-0a1b2c3d4e5f";
    const UNDERSCORED: &str = "6d1c1d3a_7f7e_4f0c_9d0c_0a1b2c3d4e5f";
    const STATIC: &str = "0123456789abcdef0123456789abcdef";

    fn parse_path(path: &str) -> Option<(RuntimeKind, String, Option<String>, bool)> {
        let path = path.replace("ID", ID).replace("UID_", UNDERSCORED);
        let found = of_path(path.as_bytes())?;
        Some((found.runtime, found.id, found.pod_uid, found.of_host))
    }

    #[test]
    fn cgroup_paths_of_all_runtimes_and_drivers_are_parsed() {
        use RuntimeKind::{Containerd, Cri, Crio, Docker, Lxc, Nspawn, Podman, Unknown};
        let besteffort = "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort";
        let burstable = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable";
        let rootless = "user.slice/user-1000.slice/user@1000.service/user.slice";
        let rows: Vec<(String, RuntimeKind, &str, Option<&str>, bool)> = vec![
            // Docker: cgroupfs (v1, v2), systemd, rootless, with a parent of its own
            (format!("/docker/{ID}"), Docker, ID, None, true),
            (format!("/docker/{ID}/init.scope"), Docker, ID, None, true),
            (format!("/system.slice/docker-{ID}.scope"), Docker, ID, None, true),
            (format!("/{rootless}/docker-{ID}.scope"), Docker, ID, None, false),
            (format!("/batch/{ID}"), Unknown, ID, None, true),
            // Kubernetes: cgroupfs
            (format!("/kubepods/besteffort/pod{UID}/{ID}"), Cri, ID, Some(UID), true),
            (format!("/kubepods/burstable/pod{UID}/{ID}"), Cri, ID, Some(UID), true),
            (format!("/kubepods/pod{UID}/{ID}"), Cri, ID, Some(UID), true),
            (format!("/kubepods/pod{STATIC}/{ID}"), Cri, ID, Some(STATIC), true),
            (format!("/kubepods/burstable/pod{UID}/crio-{ID}"), Crio, ID, Some(UID), true),
            // Kubernetes: systemd
            (
                format!("/{besteffort}-pod{UNDERSCORED}.slice/cri-containerd-{ID}.scope"),
                Containerd,
                ID,
                Some(UID),
                true,
            ),
            (
                format!("/{burstable}-pod{UNDERSCORED}.slice/crio-{ID}.scope/container"),
                Crio,
                ID,
                Some(UID),
                true,
            ),
            (
                format!("/kubepods.slice/kubepods-pod{UNDERSCORED}.slice/docker-{ID}.scope"),
                Docker,
                ID,
                Some(UID),
                true,
            ),
            // nerdctl
            (format!("/system.slice/nerdctl-{ID}.scope"), Containerd, ID, None, true),
            (format!("/default/{ID}"), Unknown, ID, None, true),
            // Podman: systemd, cgroupfs, in a pod, rootless, split
            (format!("/machine.slice/libpod-{ID}.scope/container"), Podman, ID, None, true),
            (format!("/libpod_parent/libpod-{ID}"), Podman, ID, None, true),
            (
                format!("/machine.slice/machine-libpod_pod_{OTHER}.slice/libpod-{ID}.scope"),
                Podman,
                ID,
                Some(OTHER),
                true,
            ),
            (format!("/{rootless}/libpod-{ID}.scope/container"), Podman, ID, None, false),
            (format!("/system.slice/app.service/libpod-payload-{ID}"), Podman, ID, None, true),
            // LXC
            ("/lxc.payload.web1".to_owned(), Lxc, "web1", None, true),
            ("/lxc.payload.web1/system.slice/cron.service".to_owned(), Lxc, "web1", None, true),
            ("/lxc.payload/web1".to_owned(), Lxc, "web1", None, true),
            ("/lxc/100/ns/init.scope".to_owned(), Lxc, "100", None, true),
            (
                r"/machine.slice/machine-lxc\x2d4242\x2ddb\x2d1.scope".to_owned(),
                Lxc,
                "db-1",
                None,
                true,
            ),
            // systemd-nspawn
            (r"/machine.slice/machine-a\x2db.scope/payload".to_owned(), Nspawn, "a-b", None, true),
            (
                "/machine.slice/systemd-nspawn@deb.service/payload".to_owned(),
                Nspawn,
                "deb",
                None,
                true,
            ),
            // Docker in Docker, Kubernetes in Docker
            (format!("/docker/{OTHER}/docker/{ID}"), Docker, ID, None, false),
            (
                format!("/docker/{OTHER}/kubelet/kubepods/besteffort/pod{UID}/{ID}"),
                Cri,
                ID,
                Some(UID),
                false,
            ),
        ];
        for (path, runtime, id, pod, of_host) in rows {
            let expected = (runtime, id.to_owned(), pod.map(str::to_owned), of_host);
            assert_eq!(parse_path(&path), Some(expected), "{path}");
        }
    }

    #[test]
    fn host_cgroups_are_not_containers() {
        for path in [
            "/",
            "",
            "/system.slice/docker.service",
            "/system.slice/containerd.service",
            "/user.slice/user-1000.slice/session-1.scope",
            "/machine.slice/libpod-conmon-ID.scope",
            "/machine.slice/crio-conmon-ID.scope",
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podUID_.slice",
            "/lxc.monitor.web1",
            "/lxc",
            r"/machine.slice/machine-qemu\x2d1\x2dvm.scope",
            "/machine.slice/systemd-nspawn@deb.service/supervisor",
            "/machine.slice/systemd-nspawn@.service",
            r"/machine.slice/machine-lxc\x2d4242\x2d.scope",
            "/docker/short",
            "/docker/D8522205927A2B6A4F1B7C3C0E9D5A4F8E7D6C5B4A39281706F5E4D3C2B1A090",
        ] {
            assert_eq!(parse_path(path), None, "{path}");
        }
    }

    proptest! {
        #[test]
        fn any_path_has_a_valid_identity_or_none(path in proptest::collection::vec(any::<u8>(), 0..200)) {
            crate::fuzzing::cgroups(&path);
        }

        #[test]
        fn any_names_have_a_valid_identity_or_none(names in proptest::collection::vec(
            prop_oneof![
                Just("machine.slice".to_owned()), Just("lxc".to_owned()), Just("docker".to_owned()),
                Just(format!("docker-{ID}.scope")), Just(format!("pod{UID}")),
                r"(machine-|systemd-nspawn@|kubepods-pod|lxc\.payload\.)[\\x0-9a-z-]{0,9}(\.scope|\.slice|\.service)?",
            ],
            0..6,
        )) {
            crate::fuzzing::cgroups(names.join("/").as_bytes());
        }
    }
}
