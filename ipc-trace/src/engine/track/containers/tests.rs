//! Containers with changing cgroups, and early and late metadata.

use std::collections::BTreeMap;

use super::*;
use crate::input::container::Labels;

fn id(n: u64) -> String {
    format!("{n:064x}")
}

fn made(containers: &mut Containers, cgroup: u64, n: u64) {
    containers.made(cgroup, format!("/docker/{}", id(n)).as_bytes());
}

fn named(n: u64, name: &str) -> RuntimeMetadata {
    RuntimeMetadata { id: id(n), name: Some(name.to_owned()), ..RuntimeMetadata::default() }
}

fn name(containers: &Containers, cgroup: u64) -> Option<String> {
    let handle = containers.lookup_container(cgroup).unwrap();
    containers.container(&handle).name.as_ref().map(|name| name.to_string())
}

#[test]
fn a_late_name_is_reported_once_and_shown_everywhere() {
    let mut containers = Containers::default();
    made(&mut containers, 5, 1);
    let known = containers.lookup_container(5).unwrap();
    assert_eq!(containers.show(&known).name, None);
    assert!(containers.named(named(1, "app1")).is_some());
    assert!(containers.named(named(1, "app1")).is_none());
    assert_eq!(name(&containers, 5).as_deref(), Some("app1"));
    // The cgroup was removed, and a record arrives late.
    containers.gone(5);
    assert_eq!(name(&containers, 5).as_deref(), Some("app1"));
}

#[test]
fn an_early_name_is_shown_from_the_start() {
    let mut containers = Containers::default();
    assert!(containers.named(named(1, "app1")).is_none());
    made(&mut containers, 5, 1);
    assert_eq!(name(&containers, 5).as_deref(), Some("app1"));
}

#[test]
fn new_metadata_of_a_shown_container_is_reported_once() {
    let mut containers = Containers::default();
    let _ = containers.named(named(1, "app1"));
    made(&mut containers, 5, 1);
    let known = containers.lookup_container(5).unwrap();
    let pod = |label: &str| {
        let kept = BTreeMap::from([("app".to_owned(), label.to_owned())]);
        let labels = Some(Labels { kept, lost: 2 });
        RuntimeMetadata {
            id: id(1),
            pod: Some("web-0".to_owned()),
            labels,
            ..RuntimeMetadata::default()
        }
    };
    // The container hasn't been shown yet.
    assert!(containers.named(pod("shop")).is_none());
    let shown = containers.show(&known);
    assert_eq!(shown.labels, BTreeMap::from([("app".into(), "shop".into())]));
    assert_eq!(shown.labels_lost, 2);
    assert!(containers.named(pod("shop")).is_none());
    let reported = containers.named(pod("bank")).unwrap();
    let reported = containers.container(&reported);
    assert_eq!(reported.labels, BTreeMap::from([("app".into(), "bank".into())]));
    assert_eq!(name(&containers, 5).as_deref(), Some("app1"));
}

#[test]
fn a_forgotten_container_is_recreated_with_current_metadata() {
    let mut containers = Containers::default();
    let path = format!("/docker/{}", id(1));
    for round in 0..2 {
        let first = containers.of_path(path.as_bytes()).unwrap();
        let of = NsRef { inum: round + 2, generation: 1 };
        assert_eq!(containers.first_ns(&first), None);
        containers.is_in(&first, of, 1);
        drop(first);
    }
    let _ = containers.named(named(1, "app1"));
    let handle = containers.of_path(path.as_bytes()).unwrap();
    assert_eq!(
        containers.container(&handle).name.as_ref().map(|name| name.to_string()).as_deref(),
        Some("app1")
    );
    assert_eq!(containers.states.len(), 1);
    assert_eq!(containers.by_id[&id(1)], [0]);
}

#[test]
fn containers_of_the_same_name_stay_separate() {
    let mut containers = Containers::default();
    for n in [1, 2] {
        made(&mut containers, n, n);
        let _ = containers.named(named(n, "app"));
    }
    let ids = [1, 2].map(|n| {
        let handle = containers.lookup_container(n).unwrap();
        containers.container(&handle).id.to_string()
    });
    assert_eq!(ids, [id(1), id(2)]);
}

#[test]
fn a_forged_cgroup_name_gets_no_metadata() {
    let mut containers = Containers::default();
    let path = format!("/docker/{}/docker-{}.scope", id(9), id(1));
    containers.made(5, path.as_bytes());
    made(&mut containers, 6, 1);
    let _ = containers.named(named(1, "app1"));
    assert_eq!(name(&containers, 5), None);
    assert_eq!(name(&containers, 6).as_deref(), Some("app1"));
}

#[test]
fn a_hundred_thousand_containers_use_bounded_memory() {
    let mut containers = Containers::default();
    for n in 0..100_000 {
        made(&mut containers, n + 1, n);
        let _ = containers.named(named(n, "app"));
        containers.gone(n + 1);
    }
    assert!(containers.cgroups.len() <= MAX_REMOVED_CGROUPS);
    assert!(containers.order.len() <= 4 * MAX_REMOVED_CGROUPS);
    assert!(containers.states.len() <= 4 * MAX_REMOVED_CGROUPS);
    assert!(containers.by_id.len() <= containers.states.len());
    assert!(containers.names.len() <= MAX_NAMES && containers.names_order.len() <= MAX_NAMES);
    assert!(containers.forgotten() > 0);
}

#[test]
fn filter_decisions_follow_new_metadata() {
    let mut containers = Containers::default();
    let pattern = crate::input::pattern::Pattern::new("app1").unwrap();
    containers.want(ContainerFilter { containers: vec![pattern], ..ContainerFilter::default() });
    containers.made(1, b"/system.slice/ssh.service");
    made(&mut containers, 5, 1);
    made(&mut containers, 6, 2);
    // A host cgroup is decided at once.
    assert_eq!(containers.take_filter_decisions(), [(1, Some(false))]);
    let known = containers.lookup_container(5).unwrap();
    assert_eq!(containers.is_wanted(&known), None);
    // The wait expired; the decision is still to be taken.
    containers.expire_wait(&known);
    assert_eq!(containers.take_filter_decisions(), [(5, Some(false))]);
    let _ = containers.named(named(1, "app1"));
    let _ = containers.named(named(2, "app2"));
    assert_eq!(containers.take_filter_decisions(), [(5, Some(true)), (6, Some(false))]);
    // Renamed, with another cgroup, and removed.
    containers.made(7, format!("/docker/{}/inner", id(1)).as_bytes());
    let _ = containers.named(named(1, "other"));
    containers.gone(6);
    let mut filter_decisions = containers.take_filter_decisions();
    filter_decisions.sort_unstable();
    assert_eq!(filter_decisions, [(5, Some(false)), (6, None), (7, Some(false)), (7, Some(true))]);
}

/// Many containers in a private namespace each, and all in the host's; queried after each.
#[test]
fn the_only_container_of_a_namespace_is_found_in_constant_time() {
    let own = |n: u64| NsRef { inum: 10 + n as u32, generation: 1 };
    let host = NsRef { inum: 1, generation: 1 };
    crate::steps::assert_linear(5_000, |count| {
        let mut containers = Containers::default();
        for n in 0..count as u64 {
            made(&mut containers, n + 1, n);
            let known = containers.lookup_container(n + 1).unwrap();
            containers.is_in(&known, own(n), 1);
            assert_eq!(containers.alone_in(own(n)).as_ref(), Some(&known));
            containers.is_in(&known, host, 2);
            assert!(containers.alone_in(own(n)).is_none());
            assert_eq!(containers.alone_in(host).is_some(), n == 0);
        }
        assert!(containers.inside.len() <= 2 * 64 + count);
    });
    // One container switches namespaces and returns.
    let mut containers = Containers::default();
    made(&mut containers, 1, 1);
    let known = containers.lookup_container(1).unwrap();
    for n in 0..100_000 {
        containers.is_in(&known, if n % 2 == 0 { host } else { own(1) }, n);
    }
    assert!(containers.inside.values().all(|all| all.len() <= 128));
    assert!(containers.alone_in(own(1)).is_some() && containers.alone_in(host).is_none());
}

#[test]
fn a_filter_decision_visits_only_the_cgroups_of_the_container() {
    crate::steps::assert_linear(5_000, |count| {
        let mut containers = Containers::default();
        let pattern = crate::input::pattern::Pattern::new("app1").unwrap();
        containers
            .want(ContainerFilter { containers: vec![pattern], ..ContainerFilter::default() });
        for n in 0..count as u64 {
            made(&mut containers, n + 1, n);
            let _ = containers.named(named(n, "app1"));
            assert_eq!(containers.take_filter_decisions(), [(n + 1, Some(true))]);
            assert_eq!(containers.take_decided().len(), 1);
        }
    });
}
