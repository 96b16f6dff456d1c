//! Merging, counting, bounding and showing of findings.

use std::time::SystemTime;

use ipc_trace_common::{
    op::Op,
    record::{AccessPath, NsSwitchKind},
};

use super::{A, B, DetectWorld, HOST, queue, task};
use crate::{
    engine::detect::{
        finding_policy::{FindingDecision, FindingPolicy},
        finding_store::FindingSelection,
    },
    event::finding::{Class, Finding, Severity},
};

const NOW: SystemTime = SystemTime::UNIX_EPOCH;

#[test]
fn calls_on_own_queues_are_not_reported() {
    let mut world = DetectWorld::new();
    for _ in 0..10 {
        world.queue_call(task(7, A), Op::MqSend, queue(A, 5, A), 0);
    }
    assert!(world.all().is_empty());
}

#[test]
fn a_thousand_calls_are_one_finding() {
    let mut world = DetectWorld::new();
    for _ in 0..1000 {
        world.queue_call(task(7, B), Op::MqSend, queue(A, 5, B), 0);
    }
    let all = world.all();
    let [one] = all.as_slice() else { panic!("{all:?}") };
    assert_eq!((one.class, one.severity, one.count), (Class::ForeignObject, Severity::High, 1000));
    assert_eq!(one.evidence.len(), 64);
    assert_eq!((one.evidence.first(), one.evidence.last()), (Some(&1), Some(&1000)));
    let counts: Vec<_> = one.events.iter().map(|event| event.count).collect();
    assert_eq!(counts, [1, 1, 1, 1, 1, 1, 1, 993]);
    assert_eq!(one.events.last().unwrap().seq, Some(1000));
    assert_eq!(one.object.as_ref().unwrap().ipc_ns.unwrap().inum, A.inum);
    assert!(one.confidence >= 90);
}

#[test]
fn each_process_and_queue_has_its_own_finding() {
    let mut world = DetectWorld::new();
    for (pid, ino) in [(7, 5), (7, 6), (8, 5), (7, 5)] {
        world.queue_call(task(pid, B), Op::MqReceive, queue(A, ino, B), -11);
    }
    let mut counts: Vec<_> = world.all().iter().map(|one| one.count).collect();
    counts.sort_unstable();
    assert_eq!(counts, [1, 1, 2]);
}

#[test]
fn a_received_descriptor_is_escalated_when_used() {
    let mut world = DetectWorld::new();
    world.access(task(7, B), AccessPath::QueueReceived, queue(A, 5, B), 0);
    let severity = |world: &mut DetectWorld| world.all().first().map(|one| one.severity);
    assert_eq!(severity(&mut world), Some(Severity::Low));
    world.queue_call(task(7, B), Op::MqSend, queue(A, 5, B), 0);
    assert_eq!(severity(&mut world), Some(Severity::High));
    assert_eq!(world.all().len(), 1);
}

#[test]
fn a_finding_is_shown_once_and_again_when_updated() {
    let mut world = DetectWorld::new();
    let show = |world: &mut DetectWorld, which| {
        let shown = world.detect.findings.show(which, &mut world.tracker, NOW);
        shown.iter().map(|one| (one.new, one.finding.count)).collect::<Vec<_>>()
    };
    assert!(!world.detect.findings.has_new());
    world.queue_call(task(7, B), Op::MqSend, queue(A, 5, B), 0);
    assert!(world.detect.findings.has_new());
    assert_eq!(show(&mut world, FindingSelection::New), [(true, 1)]);
    assert_eq!(show(&mut world, FindingSelection::Updated), []);
    world.queue_call(task(7, B), Op::MqSend, queue(A, 5, B), 0);
    assert!(!world.detect.findings.has_new());
    assert_eq!(show(&mut world, FindingSelection::Updated), [(false, 2)]);
    assert_eq!(show(&mut world, FindingSelection::All), [(false, 2)]);
}

#[test]
fn observations_over_the_limit_are_counted() {
    let mut world = DetectWorld::new();
    for ino in 0..600 {
        world.queue_call(task(7, B), Op::MqSend, queue(A, ino + 1, B), 0);
    }
    assert_eq!(world.all().len(), 512);
    let accounting = world.detect.findings.accounting(0);
    assert_eq!(accounting.over_limit.get(&Class::ForeignObject), Some(&88));
    assert_eq!(accounting.by_class.get(&Class::ForeignObject), Some(&512));
}

#[test]
fn reported_findings_are_evicted_when_stale() {
    let mut world = DetectWorld::new();
    world.detect.findings.allow_eviction();
    for ino in 0..512 {
        world.queue_call(task(7, B), Op::MqSend, queue(A, ino + 1, B), 0);
    }
    world.all();
    world.now += 400_000_000_000;
    world.queue_call(task(7, B), Op::MqSend, queue(A, 9000, B), 0);
    assert_eq!(world.all().len(), 1);
    let accounting = world.detect.findings.accounting(0);
    assert_eq!((accounting.folded, accounting.by_class[&Class::ForeignObject]), (512, 513));
    assert!(accounting.over_limit.is_empty());
    assert_eq!(world.detect.findings.max_severity(), Some(Severity::High));
}

#[derive(Debug)]
struct FixedPolicy(FindingDecision);

impl FindingPolicy for FixedPolicy {
    fn decide(&self, _: &Finding, _: SystemTime) -> FindingDecision {
        self.0.clone()
    }

    fn suggest(&self, _: &Finding) -> Option<String> {
        Some("rule".to_owned())
    }
}

fn world_with_policy(decision: FindingDecision) -> DetectWorld {
    let mut world = DetectWorld::new();
    world.detect.findings.set_policy(Box::new(FixedPolicy(decision)));
    world.queue_call(task(7, B), Op::MqSend, queue(A, 5, B), 0);
    world
}

#[test]
fn muted_findings_are_counted_and_not_shown() {
    let mut world = world_with_policy(FindingDecision {
        muted: Some("noise".into()),
        ..FindingDecision::default()
    });
    assert!(world.all().is_empty());
    let accounting = world.detect.findings.accounting(0);
    assert_eq!((accounting.muted[&Class::ForeignObject], accounting.by_class.len()), (1, 0));
    assert_eq!(accounting.muted_by["noise"], 1);
    assert_eq!(world.detect.findings.max_severity(), None);
}

#[test]
fn allowed_findings_are_info_and_do_not_fail_the_run() {
    let declared_by = Some("backup".to_owned());
    let mut world =
        world_with_policy(FindingDecision { declared_by, ..FindingDecision::default() });
    let all = world.all();
    assert_eq!((all[0].severity, all[0].declared_by.as_deref()), (Severity::Info, Some("backup")));
    assert_eq!(all[0].policy, None);
    assert_eq!(world.detect.findings.max_severity(), None);
}

#[test]
fn a_policy_sets_the_severity() {
    let mut world = world_with_policy(FindingDecision {
        severity: Some(Severity::Critical),
        ..FindingDecision::default()
    });
    assert_eq!(world.all()[0].severity, Severity::Critical);
    assert_eq!(world.all()[0].policy.as_deref(), Some("rule"));
    assert_eq!(world.detect.findings.max_severity(), Some(Severity::Critical));
}

#[test]
fn plain_calls_and_own_namespaces_are_not_reported() {
    let mut world = DetectWorld::new();
    let host = task(7, HOST);
    world.call(host, Op::Semop, [3, 0, 1, 0, 0], 0);
    let inside = world.moved(host, A, NsSwitchKind::Unshare, None);
    world.call(inside, Op::Semop, [3, 0, 1, 0, 0], 0);
    world.wait(2_000_000_000);
    assert!(world.all().is_empty());
}
