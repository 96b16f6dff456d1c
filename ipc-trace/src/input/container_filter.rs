//! The container filter: by name or id, image, pod. Pure.

use minicbor::{Decode, Encode};

use super::pattern::Pattern;
use crate::event::{Container, value::OsBytes};

/// Conditions on a container. All kinds given must match; of each kind one pattern suffices.
#[derive(Clone, Debug, Default, Encode, Decode)]
pub(crate) struct ContainerFilter {
    /// Its name, its id, or the first 12 digits of that or more
    #[n(0)]
    pub containers: Vec<Pattern>,
    /// Its image
    #[n(1)]
    pub images: Vec<Pattern>,
    /// Its pod, alone or as `NAMESPACE/POD`
    #[n(2)]
    pub pods: Vec<Pattern>,
}

impl ContainerFilter {
    /// Whether there are no conditions.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.containers.is_empty() && self.images.is_empty() && self.pods.is_empty()
    }

    /// Whether a container matches. `None`: its metadata doesn't decide yet.
    pub(crate) fn is(&self, one: &Container) -> Option<bool> {
        let bytes = |text: &Option<OsBytes<'static>>| text.as_ref().map(|text| text.0.to_vec());
        let (image, pod) = (bytes(&one.image), bytes(&one.pod));
        let in_pod = one.pod_uid.is_some();
        let qualified = pod.as_ref().zip(bytes(&one.pod_namespace));
        let qualified = qualified.map(|(pod, namespace)| [&namespace[..], b"/", pod].concat());
        let is_pod = |pattern: &Pattern| {
            [&pod, &qualified].into_iter().flatten().any(|name| pattern.matches(name))
        };
        let answers = [
            answer(&self.containers, one.name.is_some(), |pattern| is_called(pattern, one)),
            answer(&self.images, image.is_some(), |pattern| {
                image.as_ref().is_some_and(|image| pattern.matches(image))
            }),
            answer(&self.pods, pod.is_some() || !in_pod, is_pod),
        ];
        if answers.contains(&Some(false)) {
            return Some(false);
        }
        answers.iter().all(Option::is_some).then_some(true)
    }
}

/// Whether a container has this name or id, or an id with this prefix.
pub(crate) fn is_called(pattern: &Pattern, container: &Container) -> bool {
    let id = container.id.0.as_ref();
    let name = container.name.as_ref().map(|name| name.0.as_ref());
    name.is_some_and(|name| pattern.matches(name)) || pattern.matches(id) || pattern.begins(id)
}

/// The result for one kind of condition; `known`: whether a mismatch is final.
fn answer(any: &[Pattern], known: bool, holds: impl Fn(&Pattern) -> bool) -> Option<bool> {
    if any.is_empty() || any.iter().any(holds) {
        return Some(true);
    }
    known.then_some(false)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const ID: &str = "d8522205927a2b6a4f1b7c3c0e9d5a4f8e7d6c5b4a39281706f5e4d3c2b1a090";

    fn container(name: Option<&str>, image: Option<&str>, pod: Option<(&str, &str)>) -> Container {
        Container {
            runtime: "docker".into(),
            id: ID.into(),
            name: name.map(OsBytes::from),
            image: image.map(OsBytes::from),
            pod: pod.map(|pod| pod.1.into()),
            pod_uid: pod.map(|_| "uid".into()),
            pod_namespace: pod.map(|pod| pod.0.into()),
            labels: BTreeMap::new(),
            labels_lost: 0,
            ipc_mode: None,
        }
    }

    fn patterns(all: &[&str]) -> Vec<Pattern> {
        all.iter().map(|text| Pattern::new(text).unwrap()).collect()
    }

    #[test]
    fn an_id_decides_at_once_and_a_name_when_known() {
        let by = |what: &[&str]| ContainerFilter {
            containers: patterns(what),
            ..ContainerFilter::default()
        };
        let (nameless, app1) = (container(None, None, None), container(Some("app1"), None, None));
        assert_eq!(by(&[ID]).is(&nameless), Some(true));
        assert_eq!(by(&[&ID[..12]]).is(&nameless), Some(true));
        assert_eq!(by(&["app1"]).is(&nameless), None);
        assert_eq!(by(&["app1"]).is(&app1), Some(true));
        assert_eq!(by(&["app?", "other"]).is(&app1), Some(true));
        assert_eq!(by(&["app2", &ID[..11]]).is(&app1), Some(false));
    }

    #[test]
    fn all_filter_kinds_must_match() {
        let both = ContainerFilter {
            containers: patterns(&["app1"]),
            images: patterns(&["alpine:*"]),
            ..ContainerFilter::default()
        };
        assert_eq!(both.is(&container(Some("app1"), Some("alpine:3"), None)), Some(true));
        assert_eq!(both.is(&container(Some("app1"), Some("debian:12"), None)), Some(false));
        assert_eq!(both.is(&container(Some("app1"), None, None)), None);
        assert_eq!(both.is(&container(Some("app2"), None, None)), Some(false));
    }

    #[test]
    fn a_pod_matches_with_or_without_its_namespace() {
        let by = |what| ContainerFilter { pods: patterns(&[what]), ..ContainerFilter::default() };
        let web = container(None, None, Some(("shop", "web-0")));
        assert_eq!(by("web-0").is(&web), Some(true));
        assert_eq!(by("shop/web-*").is(&web), Some(true));
        assert_eq!(by("bank/web-*").is(&web), Some(false));
        // Its pod's name is unknown, or it is in no pod.
        let mut unknown = container(Some("app"), None, None);
        assert_eq!(by("web-0").is(&unknown), Some(false));
        unknown.pod_uid = Some("uid".into());
        assert_eq!(by("web-0").is(&unknown), None);
    }
}
