//! Whether containers share an IPC namespace because their runtimes were configured to: pure.

use std::sync::Arc;

use crate::event::{Container, Sharing, value::OsBytes};

/// The IPC mode that the runtime reports.
fn mode(container: &Container) -> Option<&[u8]> {
    container.ipc_mode.as_ref().map(|OsBytes(mode)| mode.as_ref())
}

/// How the containers of one IPC namespace share it. `host`: it is the host's. `None`: they don't share.
#[must_use]
pub(crate) fn classify_sharing(containers: &[Arc<Container>], host: bool) -> Option<Sharing> {
    if host {
        let each = containers.iter().map(|one| match mode(one) {
            Some(b"host") => Sharing::Declared,
            Some(_) => Sharing::Undeclared,
            None => Sharing::Unknown,
        });
        // The result for several containers is the worst one of any.
        return each.max();
    }
    let [first, _, ..] = containers else { return None };
    if first.pod_uid.is_some() && containers.iter().all(|one| one.pod_uid == first.pod_uid) {
        return Some(Sharing::Declared);
    }
    // One of them owns the namespace, the others were configured to join it.
    let joins = |one: &Container, with: &dyn Fn(&[u8]) -> bool| {
        mode(one).and_then(|mode| mode.strip_prefix(b"container:")).is_some_and(with)
    };
    let is_called = |one: &Container, other: &[u8]| {
        other == one.id.0.as_ref() || one.name.as_ref().is_some_and(|name| other == name.0.as_ref())
    };
    let among = |other: &[u8]| containers.iter().any(|one| is_called(one, other));
    let gone = |other: &[u8]| !among(other);
    // The container that they all joined may have ended.
    let owner = containers.iter().filter(|one| !joins(one, &among));
    let mut owners = owner.filter(|one| !joins(one, &gone));
    match (owners.next(), owners.next()) {
        (None, _) => Some(Sharing::Declared),
        (Some(_), None) => Some(Sharing::Declared),
        _ if containers.iter().any(|one| mode(one).is_none()) => Some(Sharing::Unknown),
        _ => Some(Sharing::Undeclared),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(id: &str, mode: Option<&str>, pod: Option<&str>) -> Arc<Container> {
        Arc::new(Container {
            runtime: "docker".into(),
            id: id.into(),
            name: Some(format!("app{id}").as_str().into()),
            image: None,
            pod: None,
            pod_uid: pod.map(OsBytes::from),
            pod_namespace: None,
            labels: std::collections::BTreeMap::new(),
            labels_lost: 0,
            ipc_mode: mode.map(OsBytes::from),
        })
    }

    #[test]
    fn sharing_configured_in_the_runtimes_is_declared() {
        let owner = || container("1", Some("shareable"), None);
        let of = |all: &[Arc<Container>]| classify_sharing(all, false);
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[owner()]), None);
        let by = |mode| container("2", Some(mode), None);
        assert_eq!(of(&[owner(), by("container:1")]), Some(Sharing::Declared));
        assert_eq!(of(&[by("container:app1"), owner()]), Some(Sharing::Declared));
        assert_eq!(of(&[owner(), by("private")]), Some(Sharing::Undeclared));
        assert_eq!(of(&[owner(), container("2", None, None)]), Some(Sharing::Unknown));
        let pod = |id, pod| container(id, None, Some(pod));
        assert_eq!(of(&[pod("1", "p"), pod("2", "p")]), Some(Sharing::Declared));
        assert_eq!(of(&[pod("1", "p"), pod("2", "q")]), Some(Sharing::Unknown));
        let third = || container("3", Some("container:9"), None);
        assert_eq!(of(&[by("container:9"), third()]), Some(Sharing::Declared));
    }

    #[test]
    fn in_the_host_namespace_every_container_must_be_configured() {
        let by = |mode| container("1", mode, None);
        assert_eq!(classify_sharing(&[], true), None);
        assert_eq!(classify_sharing(&[by(Some("host"))], true), Some(Sharing::Declared));
        assert_eq!(classify_sharing(&[by(Some("host")), by(None)], true), Some(Sharing::Unknown));
        assert_eq!(
            classify_sharing(&[by(None), by(Some("private"))], true),
            Some(Sharing::Undeclared)
        );
    }
}
