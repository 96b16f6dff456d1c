//! Names of queues that lead to others.

use super::*;

/// The name of a queue leads to another after it was unlinked: what a look found is not what calls from
/// before it, or from while it was taken, were about.
#[test]
fn a_queue_that_a_look_found_is_not_the_one_of_its_name_that_was_unlinked() {
    let name = || OsBytes(b"q".as_slice().into());
    let queue = |ino| QueueRef { ns: NS, ino, dev: 7, flags: 0 };
    let local = ObjectId::Queue(7, 2);
    let found = || {
        let mut objects = whole();
        let mut one = TrackedObject::new(ObjectOrigin::Found(20));
        one.name = Some(b"q".as_slice().into());
        let (space, host) = objects.space(NS);
        space.listed = (10, 20);
        space.found(local, Box::new(one), host);
        objects
    };
    let is_removed = |objects: &ObjectTracker| objects.get(NS, local).unwrap().is_removed();
    let made = CallEffect::Opened {
        queue: queue(2),
        name: Some(name()),
        made: Creation::Maybe,
        like: NewObjectAttrs::default(),
    };
    let mut objects = found();
    objects.act(&act(9, 1, CallEffect::Unlinked(name())), None);
    assert!(!is_removed(&objects), "before the look");
    objects.act(&act(15, 1, CallEffect::Unlinked(name())), None);
    assert!(is_removed(&objects), "while the look was taken, or after it");
    objects.act(&act(16, 2, made), Some(NS));
    assert!(!is_removed(&objects), "that was another, and then came this one");
    objects.act(&act(30, 1, CallEffect::Unlinked(name())), None);
    assert!(is_removed(&objects), "its name leads to it again");
}
