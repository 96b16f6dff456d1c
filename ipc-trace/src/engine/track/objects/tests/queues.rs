//! Queue names that are reused.

use super::*;

/// A name leads to another queue after it was unlinked: calls from before or during a snapshot aren't about
/// the queue that the snapshot found.
#[test]
fn a_queue_found_by_a_snapshot_is_not_an_earlier_one_of_its_name() {
    let name = || OsBytes(b"q".as_slice().into());
    let queue = |ino| QueueRef { ns: NS, ino, dev: 7, flags: 0 };
    let local = ObjectId::Queue(7, 2);
    let found = || {
        let mut objects = complete_tracker();
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
    objects.apply(&applied(9, 1, CallEffect::Unlinked(name())), None);
    assert!(!is_removed(&objects), "before the snapshot");
    objects.apply(&applied(15, 1, CallEffect::Unlinked(name())), None);
    assert!(is_removed(&objects), "during the snapshot, or after it");
    objects.apply(&applied(16, 2, made), Some(NS));
    assert!(!is_removed(&objects), "that was an earlier queue");
    objects.apply(&applied(30, 1, CallEffect::Unlinked(name())), None);
    assert!(is_removed(&objects), "its name leads to it again");
}
