//! What a policy makes of findings.

use ipc_trace_common::op::Op;

use super::{A, B, DetectWorld, TestTask, queue, task};
use crate::{
    engine::policy::{judge::PolicyEngine, parse},
    event::finding::{Class, Severity},
};

/// Where nothing has happened, with a policy.
fn by_policy(text: &str) -> DetectWorld {
    let policy = parse::policy(text.as_bytes(), &|_| Err("no such user".to_owned()));
    let mut world = DetectWorld::new();
    world.detect.findings.judged_by(Box::new(PolicyEngine::by(policy.unwrap())));
    world
}

/// What is left of a worker's use of another container's queue.
fn judged(text: &str) -> DetectWorld {
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
fn all_that_is_known_of_a_finding_can_be_asked() {
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
        let mut world = judged(&format!("[[allow]]\nname = 'r'\n{asked}\n"));
        let all = world.all();
        assert_eq!(all[0].declared_by.as_deref(), Some("r"), "{asked}: {all:#?}");
        assert_eq!(all[0].severity, Severity::Info);
        assert_eq!(world.detect.findings.worst(), None);
    }
    for other in ["container = false", "user = 0", "exe = '/owner'", "ipc_ns = 'host'"] {
        let mut world = judged(&format!("[[allow]]\nname = 'r'\nsubject = {{ {other} }}\n"));
        assert_eq!(world.all()[0].declared_by, None, "{other}");
    }
}

#[test]
fn what_is_muted_is_counted_by_its_rule_and_can_be_silent_for_ever() {
    let rule = "[[mute]]\nname = 'noise'\nreason = 'r'\nclass = 'foreign-object'\n";
    let mut world = judged(rule);
    world.detect.findings.are_told();
    assert!(world.all().is_empty());
    // It makes room for others, and counts on.
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
    assert_eq!(world.detect.findings.worst(), None);
}

#[test]
fn a_rule_waits_for_a_name_that_it_may_ask_for() {
    use crate::engine::detect::store::FindingSelection;
    let show = |world: &mut DetectWorld, which| {
        let now = std::time::SystemTime::UNIX_EPOCH;
        world.detect.findings.show(which, &mut world.tracker, now).len()
    };
    let rule = "[[mute]]\nname = 'r'\nreason = 'r'\nsubject = { container = 'app3' }\n";
    for (text, named, shown) in [("", false, [1, 0]), (rule, false, [0, 1]), (rule, true, [0, 0])] {
        let mut world = judged(text);
        world.all();
        world.container(3);
        let worker = TestTask { cgroup: 3, ..task(300, B) };
        world.queue_call(worker, Op::MqSend, queue(A, 5, B), 0);
        let now = show(&mut world, FindingSelection::New);
        if named {
            world.given(3, "private");
        }
        assert_eq!([now, show(&mut world, FindingSelection::Grown)], shown, "{text} {named}");
    }
}

#[test]
fn a_finding_carries_the_rule_that_declares_it() {
    let mut world = judged("");
    let rule = world.all()[0].policy.clone().unwrap();
    assert_eq!(world.detect.findings.worst(), Some(Severity::High));
    let mut again = judged(&rule);
    let all = again.all();
    assert!(all[0].declared_by.is_some(), "{rule}\n{all:#?}");
    assert_eq!(all[0].policy, None);
}

#[test]
fn a_name_that_a_caller_gave_allows_and_mutes_nothing() {
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
