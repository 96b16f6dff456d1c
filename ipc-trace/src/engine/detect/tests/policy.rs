//! Findings under a policy.

use ipc_trace_common::op::Op;

use super::{A, B, DetectWorld, TestTask, queue, task};
use crate::{
    engine::policy::{engine::PolicyEngine, parse},
    event::finding::{Class, Severity},
};

/// An empty world with a policy.
fn by_policy(text: &str) -> DetectWorld {
    let policy = parse::policy(text.as_bytes(), &|_| Err("no such user".to_owned()));
    let mut world = DetectWorld::new();
    world.detect.findings.set_policy(Box::new(PolicyEngine::by(policy.unwrap())));
    world
}

/// A world with a policy where a worker used another container's queue.
fn world_with_policy(text: &str) -> DetectWorld {
    let mut world = by_policy(text);
    for number in [1, 2] {
        world.container(number);
        world.given(number, "private");
    }
    let owner = TestTask { cgroup: 1, uid: 33, exe: "owner", ..task(100, A) };
    world.named(owner, Op::MqOpen, b"jobs", 0o302, Ok(5));
    let worker = TestTask { cgroup: 2, uid: 1000, ..task(200, B) };
    world.queue_call(worker, Op::MqSend, queue(A, 5, B), 0);
    world
}

#[test]
fn rules_match_every_known_attribute_of_a_finding() {
    let cgroup = format!("/docker/{}", super::container_id(2));
    let subjects = [
        "container = 'app2'".to_owned(),
        "container = true".to_owned(),
        "image = 'image?'".to_owned(),
        "user = 1000".to_owned(),
        format!("cgroup = '{cgroup}'"),
        "exe = '/worker'".to_owned(),
        "comm = 'work'".to_owned(),
        format!("ipc_ns = {}", B.inum),
    ];
    let objects = [
        "container = 'app1'",
        "image = 'image1'",
        "user = 33",
        "exe = '/owner'",
        "kind = 'mq'",
        "name = 'jobs'",
        "ipc_ns = 4026532180",
    ];
    let subjects = subjects.map(|one| format!("subject = {{ {one} }}"));
    let objects = objects.map(|one| format!("object = {{ {one} }}"));
    for asked in subjects.iter().chain(&objects) {
        let mut world = world_with_policy(&format!("[[allow]]\nname = 'r'\n{asked}\n"));
        let all = world.all();
        assert_eq!(all[0].declared_by.as_deref(), Some("r"), "{asked}: {all:#?}");
        assert_eq!(all[0].severity, Severity::Info);
        assert_eq!(world.detect.findings.max_severity(), None);
    }
    for other in ["container = false", "user = 0", "exe = '/owner'", "ipc_ns = 'host'"] {
        let mut world =
            world_with_policy(&format!("[[allow]]\nname = 'r'\nsubject = {{ {other} }}\n"));
        assert_eq!(world.all()[0].declared_by, None, "{other}");
    }
}

#[test]
fn muted_findings_are_counted_by_rule_and_evicted() {
    let rule = "[[mute]]\nname = 'noise'\nreason = 'r'\nclass = 'foreign-object'\n";
    let mut world = world_with_policy(rule);
    world.detect.findings.allow_eviction();
    assert!(world.all().is_empty());
    // It is evicted and still counted.
    world.now += 400_000_000_000;
    let worker = TestTask { cgroup: 2, uid: 1000, ..task(200, B) };
    for ino in 10..700 {
        world.queue_call(worker, Op::MqSend, queue(A, ino, B), 0);
        if ino == 520 {
            world.all();
            world.now += 400_000_000_000;
        }
    }
    world.all();
    let accounting = world.detect.findings.accounting(0);
    assert_eq!(accounting.muted_by["noise"], accounting.muted[&Class::ForeignObject]);
    let over_limit = accounting.over_limit.get(&Class::ForeignObject).copied().unwrap_or(0);
    assert_eq!(accounting.muted_by["noise"] + over_limit, 691);
    assert_eq!(world.detect.findings.max_severity(), None);
}

#[test]
fn a_finding_waits_for_a_container_name_that_a_rule_needs() {
    use crate::engine::detect::finding_store::FindingSelection;
    let show = |world: &mut DetectWorld, which| {
        let now = std::time::SystemTime::UNIX_EPOCH;
        world.detect.findings.show(which, &mut world.tracker, now).len()
    };
    let rule = "[[mute]]\nname = 'r'\nreason = 'r'\nsubject = { container = 'app3' }\n";
    for (text, named, shown) in [("", false, [1, 0]), (rule, false, [0, 1]), (rule, true, [0, 0])] {
        let mut world = world_with_policy(text);
        world.all();
        world.container(3);
        let worker = TestTask { cgroup: 3, ..task(300, B) };
        world.queue_call(worker, Op::MqSend, queue(A, 5, B), 0);
        let now = show(&mut world, FindingSelection::New);
        if named {
            world.given(3, "private");
        }
        assert_eq!([now, show(&mut world, FindingSelection::Updated)], shown, "{text} {named}");
    }
}

#[test]
fn a_finding_names_the_rule_that_allows_it() {
    let mut world = world_with_policy("");
    let rule = world.all()[0].policy.clone().unwrap();
    assert_eq!(world.detect.findings.max_severity(), Some(Severity::High));
    let mut again = world_with_policy(&rule);
    let all = again.all();
    assert!(all[0].declared_by.is_some(), "{rule}\n{all:#?}");
    assert_eq!(all[0].policy, None);
}

#[test]
fn an_unproven_name_matches_no_allow_or_mute_rule() {
    for (table, what) in
        [("allow", "object = { name = 'jobs' }"), ("mute", "object = { name = 'j*' }")]
    {
        let rule = "name = 'r'\nreason = 'a test'\nclass = 'probe-name'";
        let mut world = by_policy(&format!("[[{table}]]\n{rule}\n{what}\n"));
        world.named(TestTask { uid: 33, ..task(100, A) }, Op::MqOpen, b"jobs", 0o302, Ok(5));
        world.named(task(200, B), Op::MqOpen, b"jobs", 0, Err(2));
        let all = world.all();
        assert_eq!((all[0].class, all[0].declared_by.as_deref()), (Class::ProbeName, None));
    }
}
