//! Containers and users that share namespaces and objects.

use ipc_trace_common::{op::Op, record::NsRef};

use super::{A, B, DetectWorld, HOST, TestTask, only, queue, quiet, task};
use crate::event::finding::{Class, Severity};

const SECOND: u64 = 1_000_000_000;
const KEY: u64 = 0x8cd1_ab21;
const PRIVATE: u64 = 0o3600;

const fn task_in(cgroup: u64, ns: NsRef) -> TestTask {
    TestTask { cgroup, uid: 1000, ..task(100 + cgroup as u32, ns) }
}

fn make(world: &mut DetectWorld, task: TestTask, mode: u64) {
    world.call(task, Op::Semget, [KEY, 1, 0o3000 | mode, 0, 0], 3);
}

fn using(world: &mut DetectWorld, task: TestTask) {
    world.call(task, Op::Semop, [3, 0, 1, 0, 0], 0);
}

fn world(modes: &[(u64, &str)]) -> DetectWorld {
    let mut world = DetectWorld::new();
    for number in [1, 2] {
        world.container(number);
    }
    for (number, mode) in modes {
        world.given(*number, mode);
    }
    world
}

#[test]
fn containers_sharing_an_object_are_reported_and_declared_by_their_runtime() {
    let joins = format!("container:{}", super::container_id(1));
    for (modes, severity) in [
        ([(1, "shareable"), (2, joins.as_str())], Severity::Info),
        ([(1, "private"), (2, "private")], Severity::Medium),
    ] {
        let mut world = world(&modes);
        make(&mut world, task_in(1, A), PRIVATE);
        using(&mut world, task_in(1, A));
        quiet(&mut world);
        using(&mut world, task_in(2, A));
        let one = only(&mut world, Class::CrossContainer);
        assert_eq!((one.severity, one.count, one.confidence), (severity, 1, 90));
        assert_eq!(one.declared_by.is_some(), severity == Severity::Info);
        assert!(
            one.title.contains("app2 shares sem 3") && one.title.contains("app1"),
            "{}",
            one.title
        );
        let object = one.object.unwrap();
        assert_eq!(object.owner_container.unwrap().name.as_ref().unwrap().to_string(), "app1");
        // Later calls are counted.
        for _ in 0..5 {
            using(&mut world, task_in(2, A));
        }
        world.wait(SECOND);
        assert_eq!(only(&mut world, Class::CrossContainer).count, 6);
    }
}

#[test]
fn a_finding_waits_for_runtime_metadata_and_is_amended_later() {
    let joins = format!("container:{}", super::container_id(1));
    let mut late = world(&[]);
    make(&mut late, task_in(1, A), PRIVATE);
    using(&mut late, task_in(2, A));
    quiet(&mut late);
    late.wait(SECOND);
    quiet(&mut late);
    late.given(1, "shareable");
    late.given(2, &joins);
    late.wait(SECOND);
    assert_eq!(only(&mut late, Class::CrossContainer).severity, Severity::Info);

    let mut later = world(&[]);
    make(&mut later, task_in(1, A), PRIVATE);
    using(&mut later, task_in(2, A));
    later.wait(4 * SECOND);
    assert_eq!(only(&mut later, Class::CrossContainer).severity, Severity::Medium);
    later.given(1, "shareable");
    later.given(2, &joins);
    later.wait(SECOND);
    let one = only(&mut later, Class::CrossContainer);
    assert_eq!((one.severity, one.count), (Severity::Info, 1));

    let mut never = world(&[]);
    make(&mut never, task_in(1, A), PRIVATE);
    using(&mut never, task_in(2, A));
    never.finish();
    assert_eq!(only(&mut never, Class::CrossContainer).severity, Severity::Medium);
}

#[test]
fn a_single_container_or_host_process_is_not_reported() {
    let mut world = world(&[(1, "private")]);
    make(&mut world, task_in(1, A), PRIVATE);
    // docker exec: another process and user of the same container.
    using(&mut world, TestTask { pid: 300, ..task_in(1, A) });
    using(&mut world, TestTask { pid: 301, uid: 0, ..task_in(1, A) });
    // A host process that entered the namespace.
    using(&mut world, task(7, A));
    world.wait(5 * SECOND);
    quiet(&mut world);
}

#[test]
fn containers_in_private_namespaces_are_not_reported() {
    let mut world = world(&[(1, "private"), (2, "private")]);
    for (number, ns) in [(1, A), (2, B)] {
        make(&mut world, task_in(number, ns), PRIVATE);
        using(&mut world, task_in(number, ns));
        world.call(task_in(number, ns), Op::Shmget, [5_432_001, 4096, 0o3600, 0, 0], 0);
    }
    world.wait(5 * SECOND);
    quiet(&mut world);
}

#[test]
fn a_queue_used_from_another_namespace_is_not_shared() {
    let mut world = world(&[(1, "private"), (2, "private")]);
    world.queue_call(task_in(1, A), Op::MqSend, queue(A, 5, A), 0);
    world.queue_call(task_in(2, B), Op::MqSend, queue(A, 5, B), 0);
    world.queue_call(task_in(1, A), Op::MqSend, queue(A, 5, A), 0);
    world.wait(5 * SECOND);
    only(&mut world, Class::ForeignObject);
}

#[test]
fn a_container_in_the_host_namespace_is_one_finding_with_its_calls() {
    for (mode, severity) in [
        (Some("host"), Severity::Info),
        (Some("private"), Severity::Medium),
        (None, Severity::Medium),
    ] {
        let mut world = world(&[]);
        if let Some(mode) = mode {
            world.given(1, mode);
        }
        let one = task_in(1, HOST);
        world.call(one, Op::Semget, [KEY, 1, 0, 0, 0], -2);
        world.wait(4 * SECOND);
        quiet(&mut world);
        make(&mut world, one, PRIVATE);
        for _ in 0..9 {
            using(&mut world, one);
        }
        world.wait(4 * SECOND);
        world.wait(SECOND);
        let found = only(&mut world, Class::HostIpc);
        assert_eq!((found.severity, found.count), (severity, 10), "{found:#?}");
        assert_eq!(found.declared_by.is_some(), severity == Severity::Info);
    }
}

#[test]
fn denied_access_to_another_containers_object_is_reported() {
    let mut world = world(&[(1, "private"), (2, "private")]);
    make(&mut world, task_in(1, A), PRIVATE);
    let other = TestTask { uid: 2000, ..task_in(2, A) };
    world.call(other, Op::Semop, [3, 0, 1, 0, 0], -13);
    world.call(other, Op::Semctl, [3, 0, 0, 0, 0], -1);
    world.call(other, Op::Semget, [KEY, 1, 0o666, 0, 0], -13);
    world.batch(other, Op::Semop, 3, &[-13, -11]);
    let one = only(&mut world, Class::CrossContainerDenied);
    assert_eq!((one.severity, one.count, one.confidence), (Severity::Medium, 4, 90));
    let object = one.object.unwrap();
    assert_eq!(object.id, Some(3));
    assert_eq!(object.owner_container.unwrap().name.as_ref().unwrap().to_string(), "app1");
}

#[test]
fn denied_access_within_a_container_or_to_the_host_is_not_reported() {
    let mut world = world(&[(1, "private"), (2, "private")]);
    make(&mut world, task_in(1, A), PRIVATE);
    world.call(TestTask { uid: 2000, ..task_in(1, A) }, Op::Semop, [3, 0, 1, 0, 0], -13);
    world.call(task_in(2, A), Op::Semop, [4, 0, 1, 0, 0], -13);
    world.call(task(7, A), Op::Semop, [3, 0, 1, 0, 0], -13);
    quiet(&mut world);
}

#[test]
fn denied_access_to_a_queue_name_is_reported() {
    let mut world = world(&[(1, "private"), (2, "private")]);
    world.named(task_in(1, A), Op::MqOpen, b"jobs", 0o302, Ok(5));
    world.named(task_in(2, A), Op::MqOpen, b"jobs", 0, Err(13));
    world.named(task_in(2, A), Op::MqUnlink, b"jobs", 0, Err(1));
    assert_eq!(only(&mut world, Class::CrossContainerDenied).count, 2);
}

#[test]
fn a_world_writable_object_with_several_users_is_reported() {
    let mut world = DetectWorld::new();
    let one = TestTask { uid: 1000, ..task(7, A) };
    world.call(one, Op::Semget, [KEY, 1, 0o3666, 0, 0], 3);
    using(&mut world, one);
    quiet(&mut world);
    using(&mut world, TestTask { pid: 8, uid: 1001, ..one });
    let found = only(&mut world, Class::WeakMode);
    assert_eq!((found.severity, found.confidence), (Severity::Low, 90));
    assert!(
        found.title.contains("0666") && found.title.contains("several users"),
        "{}",
        found.title
    );
    using(&mut world, TestTask { pid: 9, uid: 1002, ..one });
    world.wait(SECOND);
    assert_eq!(only(&mut world, Class::WeakMode).count, 2);
}

#[test]
fn a_mode_set_later_is_reported_if_world_writable() {
    for (mode, found) in [(0o3660, 0), (0o3664, 0), (0o3622, 1)] {
        let mut world = DetectWorld::new();
        let one = task(7, A);
        world.call(one, Op::Semget, [KEY, 1, mode, 0, 0], 3);
        using(&mut world, TestTask { pid: 8, uid: 1001, ..one });
        assert_eq!(world.all().len(), found, "{mode:o}");
    }
}
