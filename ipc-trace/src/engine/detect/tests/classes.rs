//! The detectors on small scenarios.

use ipc_trace_common::{
    op::Op,
    record::{AccessPath, NsRef, NsSwitchKind, QueueRef, queue_flag},
};

use super::{A, B, DetectWorld, HOST, TestTask, only, queue, quiet, task};
use crate::{
    event::finding::{Class, Severity},
    input::process::Mapped,
};

const SECOND: u64 = 1_000_000_000;

/// A host with init in the initial namespaces, where a process created A and B.
fn host() -> DetectWorld {
    let mut world = DetectWorld::new();
    world.host.namespaces.insert(1, (HOST.inum, 100));
    for (pid, ns) in [(500, A), (501, B)] {
        world.moved(task(pid, HOST), ns, NsSwitchKind::Unshare, None);
    }
    world
}

const ATTACHED: i64 = 0x7f00_0000_0000;

fn attach(world: &mut DetectWorld, task: TestTask, id: u64) {
    world.call(task, Op::Shmget, [42, 4096, 0o1600, 0, 0], id.cast_signed());
    world.call(task, Op::Shmat, [id, 0, 0, 0, 0], ATTACHED);
}

fn mapping(id: i32) -> Mapped {
    Mapped { start: ATTACHED.cast_unsigned(), id, key: 42 }
}

#[test]
fn accesses_to_queues_of_another_namespace_are_reported() {
    for channel in [
        AccessPath::QueueOpen,
        AccessPath::QueueCreate,
        AccessPath::QueueUnlink,
        AccessPath::QueueRead,
        AccessPath::QueuePoll,
        AccessPath::QueueList,
        AccessPath::QueueMount,
    ] {
        let mut world = host();
        world.access(task(7, B), channel, queue(B, 5, B), 0);
        quiet(&mut world);
        world.access(task(7, B), channel, queue(A, 5, B), 0);
        world.access(task(7, B), channel, queue(A, 5, B), 0);
        let one = only(&mut world, Class::ForeignMount);
        assert_eq!((one.severity, one.count), (Severity::High, 2));
        assert_eq!(one.object.unwrap().ipc_ns.unwrap().inum, A.inum);
    }
}

#[test]
fn a_queue_of_a_dead_namespace_is_foreign() {
    let mut world = host();
    let dead = QueueRef {
        ns: NsRef::default(),
        ino: 5,
        dev: 77,
        flags: queue_flag::KNOWN | queue_flag::DEAD | queue_flag::FOREIGN,
    };
    world.queue_call(task(7, B), Op::MqReceive, dead, 3);
    let one = only(&mut world, Class::ForeignObject);
    assert!(one.object.unwrap().ipc_ns_dead);
}

#[test]
fn reading_foreign_tables_is_reported_above_holding_them() {
    let mut world = host();
    let of = |ns| QueueRef { ino: 0, dev: 0, ..queue(ns, 0, B) };
    world.access(task(7, B), AccessPath::SysvipcRead, of(B), 0);
    quiet(&mut world);
    world.access(task(7, B), AccessPath::SysvipcHeld, of(A), 0);
    let held = only(&mut world, Class::ForeignView);
    world.access(task(7, B), AccessPath::SysvipcRead, of(A), 0);
    let read = only(&mut world, Class::ForeignView);
    assert_eq!((held.severity, read.severity), (Severity::Medium, Severity::Medium));
    assert!(held.confidence < read.confidence);
    assert!(read.title.contains("read /proc/sysvipc/jobs"), "{}", read.title);
}

#[test]
fn a_mapping_kept_across_a_namespace_switch_is_reported_at_once() {
    for way in [NsSwitchKind::Unshare, NsSwitchKind::Setns] {
        for mapped in [None, Some(vec![]), Some(vec![mapping(3)])] {
            let mut world = host();
            let there = mapped.as_ref().is_some_and(|all| !all.is_empty());
            let carrier = task(7, A);
            attach(&mut world, carrier, 3);
            world.host.mapped.extend(mapped.map(|all| (7, all)));
            world.host.namespaces.insert(7, (HOST.inum, 100));
            world.moved(carrier, HOST, way, None);
            let one = only(&mut world, Class::CarriedMapping);
            assert_eq!((one.severity, one.count), (Severity::High, 1));
            assert_eq!(one.confidence, if there { 90 } else { 80 });
            let object = one.object.unwrap();
            assert_eq!((object.id, object.ipc_ns.unwrap().inum), (Some(3), A.inum));
        }
    }
}

#[test]
fn repeated_switches_without_mappings_are_inspected_at_intervals() {
    let mut world = host();
    let carrier = task(7, A);
    let before = world.host.asked;
    world.host.mapped.insert(7, vec![]);
    for way in [NsSwitchKind::Unshare, NsSwitchKind::Setns].repeat(500) {
        world.moved(carrier, B, way, None);
    }
    assert_eq!(world.host.asked, before + 1);
    // An attachment may have been missed since.
    world.host.mapped.insert(7, vec![mapping(3)]);
    world.wait(SECOND);
    world.moved(carrier, B, NsSwitchKind::Setns, None);
    assert_eq!(world.host.asked, before + 2);
    // An observed attachment needs no inspection.
    attach(&mut world, carrier, 3);
    world.moved(carrier, HOST, NsSwitchKind::Setns, None);
    assert!(only(&mut world, Class::CarriedMapping).confidence >= 90);
}

#[test]
fn detached_or_execed_mappings_are_not_reported() {
    let mut world = host();
    let carrier = task(7, A);
    attach(&mut world, carrier, 3);
    world.call(carrier, Op::Shmdt, [ATTACHED.cast_unsigned(), 0, 0, 0, 0], 0);
    world.moved(carrier, HOST, NsSwitchKind::Setns, None);
    quiet(&mut world);
    let runner = task(8, A);
    attach(&mut world, runner, 4);
    world.moved(TestTask { exe: "another", ..runner }, HOST, NsSwitchKind::Setns, None);
    quiet(&mut world);
}

#[test]
fn an_inherited_mapping_is_reported_after_a_second() {
    let inherit = |kept: Option<Vec<Mapped>>, ends: bool| {
        let mut world = host();
        let parent = task(7, A);
        attach(&mut world, parent, 3);
        let child = TestTask { ppid: 7, ..task(8, B) };
        world.moved(parent, B, NsSwitchKind::Clone, Some(child));
        world.wait(SECOND / 2);
        quiet(&mut world);
        world.host.mapped.extend(kept.map(|all| (8, all)));
        if ends {
            world.ended(child);
        }
        world.wait(SECOND);
        world.all()
    };
    assert!(inherit(None, false).is_empty(), "it ended");
    assert!(inherit(Some(vec![]), false).is_empty(), "it called exec");
    assert!(
        inherit(Some(vec![mapping(3)]), true).is_empty(),
        "it ended, and its number is another's"
    );
    let all = inherit(Some(vec![mapping(3)]), false);
    assert_eq!((all[0].class, all[0].severity), (Class::CarriedMapping, Severity::High));
    assert!(all[0].confidence >= 80);
}

#[test]
fn a_segment_attached_by_the_child_is_not_reported() {
    let mut world = host();
    let parent = task(7, A);
    attach(&mut world, parent, 3);
    let child = TestTask { ppid: 7, ..task(8, B) };
    world.moved(parent, B, NsSwitchKind::Clone, Some(child));
    attach(&mut world, child, 3);
    world.host.mapped.insert(8, vec![mapping(3)]);
    world.wait(2 * SECOND);
    quiet(&mut world);
}

#[test]
fn a_touched_mapping_is_reported_at_once_in_the_same_finding() {
    let mut world = host();
    let parent = task(7, A);
    attach(&mut world, parent, 3);
    let child = TestTask { ppid: 7, ..task(8, B) };
    world.moved(parent, B, NsSwitchKind::Clone, Some(child));
    let segment = |ns| QueueRef { ino: 3, dev: 0, ..queue(ns, 3, B) };
    world.access(child, AccessPath::MappingTouched, segment(B), 42);
    quiet(&mut world);
    world.access(child, AccessPath::MappingTouched, segment(A), 42);
    let one = only(&mut world, Class::CarriedMapping);
    assert!(one.confidence >= 95 && one.title.contains("touched"));
    world.host.mapped.insert(8, vec![mapping(3)]);
    world.wait(2 * SECOND);
    assert_eq!(only(&mut world, Class::CarriedMapping).count, 2);
}

#[test]
fn a_missing_segment_namespace_is_resolved_by_id_and_key() {
    let unknown = QueueRef { ino: 3, ..QueueRef::default() };
    let mut world = host();
    world.access(task(8, B), AccessPath::MapFiles, unknown, 42);
    quiet(&mut world);
    assert_eq!(world.detect.undetermined(), 1);
    attach(&mut world, task(7, A), 3);
    world.access(task(8, B), AccessPath::MapFiles, unknown, 42);
    let one = only(&mut world, Class::CarriedMapping);
    assert_eq!(one.confidence, 80);
    // Its own namespace has the same id and key.
    let mut world = host();
    attach(&mut world, task(7, A), 3);
    attach(&mut world, task(8, B), 3);
    world.access(task(8, B), AccessPath::MapFiles, unknown, 42);
    quiet(&mut world);
    // Two other namespaces have it.
    world.access(task(9, HOST), AccessPath::MapFiles, unknown, 42);
    assert_eq!(only(&mut world, Class::CarriedMapping).confidence, 40);
}

/// A thread that enters A from the host.
fn visit(world: &mut DetectWorld, visitor: TestTask) -> TestTask {
    world.moved(visitor, A, NsSwitchKind::Setns, None)
}

#[test]
fn a_call_after_entering_is_reported_and_counted() {
    let mut world = host();
    let inside = visit(&mut world, task(7, HOST));
    quiet(&mut world);
    for _ in 0..3 {
        world.call(inside, Op::Semop, [3, 0, 1, 0, 0], 0);
    }
    let one = only(&mut world, Class::NamespaceMismatch);
    assert_eq!((one.severity, one.count), (Severity::High, 4));
    assert_eq!(one.events[0].what, "setns");
    assert_eq!(one.events[1].what, "semop");
    assert!(one.confidence >= 90, "{one:#?}");
    world.wait(5 * SECOND);
    assert_eq!(world.all().len(), 1);
}

#[test]
fn calls_of_a_child_are_counted_with_its_parent() {
    let mut world = host();
    let inside = visit(&mut world, task(7, HOST));
    world.call(TestTask { pid: 8, ppid: 7, ..inside }, Op::Semop, [3, 0, 1, 0, 0], 0);
    let one = only(&mut world, Class::NamespaceMismatch);
    assert_eq!((one.count, one.subject.process.unwrap().pid), (2, 7));
}

#[test]
fn joining_all_namespaces_is_not_reported() {
    // It joins the mount namespace first.
    let mut world = host();
    world.host.namespaces.insert(500, (A.inum, 200));
    let inside = visit(&mut world, TestTask { mnt: 200, ..task(7, HOST) });
    world.call(inside, Op::Semop, [3, 0, 1, 0, 0], 0);
    world.wait(2 * SECOND);
    quiet(&mut world);
    // It joins the mount namespace afterwards, then makes a call.
    let mut world = host();
    let inside = visit(&mut world, task(7, HOST));
    let joined = TestTask { mnt: 200, ..inside };
    world.context(joined);
    world.call(joined, Op::Semop, [3, 0, 1, 0, 0], 0);
    world.wait(2 * SECOND);
    quiet(&mut world);
    // It joins afterwards, and a child calls exec.
    let mut world = host();
    let inside = visit(&mut world, task(7, HOST));
    let child = TestTask { pid: 8, ppid: 7, mnt: 200, ..inside };
    world.call(child, Op::Semop, [3, 0, 1, 0, 0], 0);
    world.wait(2 * SECOND);
    quiet(&mut world);
    // It joins afterwards, without any call.
    let mut world = host();
    visit(&mut world, task(7, HOST));
    world.host.namespaces.insert(7, (A.inum, 200));
    world.wait(SECOND / 10);
    world.wait(2 * SECOND);
    quiet(&mut world);
}

#[test]
fn keeping_a_separate_mount_namespace_is_reported() {
    let mut world = host();
    world.host.namespaces.insert(500, (A.inum, 200));
    let inside = visit(&mut world, TestTask { mnt: 300, ..task(7, HOST) });
    world.call(inside, Op::Semop, [3, 0, 1, 0, 0], 0);
    assert_eq!(only(&mut world, Class::NamespaceMismatch).severity, Severity::High);
}

#[test]
fn an_idle_visitor_is_reported_after_a_second_or_on_leaving() {
    let mut world = host();
    visit(&mut world, task(7, HOST));
    world.host.namespaces.insert(7, (A.inum, 100));
    world.wait(SECOND / 10);
    quiet(&mut world);
    world.wait(SECOND);
    assert_eq!(only(&mut world, Class::NamespaceMismatch).severity, Severity::High);

    let mut world = host();
    let inside = visit(&mut world, task(7, HOST));
    world.moved(inside, HOST, NsSwitchKind::Setns, None);
    assert_eq!(only(&mut world, Class::NamespaceMismatch).severity, Severity::High);
}

#[test]
fn a_visitor_that_exits_early_has_low_confidence() {
    let mut world = host();
    let inside = visit(&mut world, task(7, HOST));
    world.ended(inside);
    let one = only(&mut world, Class::NamespaceMismatch);
    assert_eq!(one.severity, Severity::Low);
    assert!(one.confidence <= 40);
}

#[test]
fn own_and_home_namespaces_are_not_a_mismatch() {
    let mut world = host();
    // The creator, which returns; its child; its grandchild.
    world.parents.insert(8, 500);
    for one in [
        task(500, HOST),
        TestTask { ppid: 500, ..task(8, HOST) },
        TestTask { ppid: 8, ..task(9, HOST) },
    ] {
        let inside = visit(&mut world, one);
        world.call(inside, Op::Semop, [3, 0, 1, 0, 0], 0);
        world.moved(inside, HOST, NsSwitchKind::Setns, None);
    }
    // The namespace that it came from.
    let away = world.moved(task(10, B), HOST, NsSwitchKind::Setns, None);
    world.moved(away, B, NsSwitchKind::Setns, None);
    world.wait(2 * SECOND);
    quiet(&mut world);
}

#[test]
fn a_process_named_ipc_trace_is_not_exempt() {
    let mut world = host();
    let called = TestTask { exe: "ipc-trace", ..task(7, HOST) };
    let inside = world.moved(called, A, NsSwitchKind::Setns, None);
    world.queue_call(inside, Op::MqGetsetattr, queue(A, 5, A), 0);
    assert_eq!(only(&mut world, Class::NamespaceMismatch).severity, Severity::High);
}

#[test]
fn another_ipc_trace_is_info_while_it_only_reads() {
    let mut world = host();
    let other = TestTask { is_tracer: true, ..task(7, HOST) };
    let inside = world.moved(other, A, NsSwitchKind::Setns, None);
    world.queue_call(inside, Op::MqGetsetattr, queue(A, 5, A), 0);
    let inside = world.moved(inside, B, NsSwitchKind::Setns, None);
    world.moved(inside, HOST, NsSwitchKind::Setns, None);
    assert_eq!(only(&mut world, Class::NamespaceMismatch).severity, Severity::Info);
    let inside = world.moved(other, A, NsSwitchKind::Setns, None);
    world.call(inside, Op::Semop, [3, 0, 1, 0, 0], 0);
    assert_eq!(only(&mut world, Class::NamespaceMismatch).severity, Severity::High);
}

#[test]
fn the_tracer_itself_is_not_reported() {
    let mut world = host();
    let own = task(9999, B);
    world.queue_call(own, Op::MqSend, queue(A, 5, B), 0);
    world.access(own, AccessPath::QueueOpen, queue(A, 5, B), 0);
    world.moved(task(9999, HOST), A, NsSwitchKind::Setns, None);
    world.wait(3 * SECOND);
    quiet(&mut world);
}
