//! Containers whose cgroups come and go, and whose names come early and late.

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
fn a_name_that_comes_late_is_told_once_and_shown_everywhere() {
    let mut containers = Containers::default();
    made(&mut containers, 5, 1);
    let known = containers.lookup_container(5).unwrap();
    assert_eq!(containers.show(&known).name, None);
    assert!(containers.named(named(1, "app1")).is_some());
    assert!(containers.named(named(1, "app1")).is_none());
    assert_eq!(name(&containers, 5).as_deref(), Some("app1"));
    // It was removed, and its record comes late.
    containers.gone(5);
    assert_eq!(name(&containers, 5).as_deref(), Some("app1"));
}

#[test]
fn a_name_that_comes_early_is_there_from_the_beginning() {
    let mut containers = Containers::default();
    assert!(containers.named(named(1, "app1")).is_none());
    made(&mut containers, 5, 1);
    assert_eq!(name(&containers, 5).as_deref(), Some("app1"));
}

#[test]
fn what_is_learnt_of_a_shown_one_is_told_once_whatever_it_is() {
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
    // Nobody has seen it yet.
    assert!(containers.named(pod("shop")).is_none());
    let shown = containers.show(&known);
    assert_eq!(shown.labels, BTreeMap::from([("app".into(), "shop".into())]));
    assert_eq!(shown.labels_lost, 2);
    assert!(containers.named(pod("shop")).is_none());
    let told = containers.named(pod("bank")).unwrap();
    let told = containers.container(&told);
    assert_eq!(told.labels, BTreeMap::from([("app".into(), "bank".into())]));
    assert_eq!(name(&containers, 5).as_deref(), Some("app1"));
}

#[test]
fn one_that_nobody_knew_any_more_begins_anew_with_what_runtimes_said_since() {
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
fn two_containers_of_one_name_are_two() {
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
fn a_name_is_not_for_one_who_calls_its_cgroup_so() {
    let mut containers = Containers::default();
    let path = format!("/docker/{}/docker-{}.scope", id(9), id(1));
    containers.made(5, path.as_bytes());
    made(&mut containers, 6, 1);
    let _ = containers.named(named(1, "app1"));
    assert_eq!(name(&containers, 5), None);
    assert_eq!(name(&containers, 6).as_deref(), Some("app1"));
}

#[test]
fn a_hundred_thousand_containers_leave_little_behind() {
    let mut containers = Containers::default();
    for n in 0..100_000 {
        made(&mut containers, n + 1, n);
        let _ = containers.named(named(n, "app"));
        containers.gone(n + 1);
    }
    assert!(containers.cgroups.len() <= REMOVED);
    assert!(containers.order.len() <= 4 * REMOVED);
    assert!(containers.states.len() <= 4 * REMOVED);
    assert!(containers.by_id.len() <= containers.states.len());
    assert!(containers.names.len() <= NAMES && containers.names_order.len() <= NAMES);
    assert!(containers.forgotten() > 0);
}

#[test]
fn verdicts_follow_what_becomes_known() {
    let mut containers = Containers::default();
    let pattern = crate::input::pattern::Pattern::new("app1").unwrap();
    containers.want(Wanted { containers: vec![pattern], ..Wanted::default() });
    containers.made(1, b"/system.slice/ssh.service");
    made(&mut containers, 5, 1);
    made(&mut containers, 6, 2);
    // The host's is known at once.
    assert_eq!(containers.take_verdicts(), [(1, Some(false))]);
    let known = containers.lookup_container(5).unwrap();
    assert_eq!(containers.is_wanted(&known), None);
    // Waiting for it ended, and is told yet.
    containers.give_up(&known);
    assert_eq!(containers.take_verdicts(), [(5, Some(false))]);
    let _ = containers.named(named(1, "app1"));
    let _ = containers.named(named(2, "app2"));
    assert_eq!(containers.take_verdicts(), [(5, Some(true)), (6, Some(false))]);
    // Renamed, with a cgroup more, and gone.
    containers.made(7, format!("/docker/{}/inner", id(1)).as_bytes());
    let _ = containers.named(named(1, "other"));
    containers.gone(6);
    let mut verdicts = containers.take_verdicts();
    verdicts.sort_unstable();
    assert_eq!(verdicts, [(5, Some(false)), (6, None), (7, Some(false)), (7, Some(true))]);
}

/// Many containers in a namespace of their own each, and all in the host's; asked about after each.
#[test]
fn who_is_alone_in_a_namespace_is_found_without_looking_at_all_containers() {
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
    // One goes from one to the other and back.
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
fn a_decision_looks_at_the_containers_own_cgroups_alone() {
    crate::steps::assert_linear(5_000, |count| {
        let mut containers = Containers::default();
        let pattern = crate::input::pattern::Pattern::new("app1").unwrap();
        containers.want(Wanted { containers: vec![pattern], ..Wanted::default() });
        for n in 0..count as u64 {
            made(&mut containers, n + 1, n);
            let _ = containers.named(named(n, "app1"));
            assert_eq!(containers.take_verdicts(), [(n + 1, Some(true))]);
            assert_eq!(containers.take_decided().len(), 1);
        }
    });
}
