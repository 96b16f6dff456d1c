//! The JSON of callers, kept for their next calls: half of a call's line describes the caller, as the line before did.

use std::{cell::RefCell, sync::Arc};

use serde::{Serialize as _, Serializer, ser::Error as _};
use serde_json::value::{RawValue, to_raw_value};

use super::{Container, Process};

/// How many callers are kept, and how many containers.
const KEPT: usize = 256;

/// Values, and their JSON.
type Kept<T> = Vec<Option<(T, Box<RawValue>)>>;

thread_local! {
    /// By the low bits of their tids.
    static PROCESSES: RefCell<Kept<Process<'static>>> = RefCell::new(empty());
    /// By their addresses.
    static CONTAINERS: RefCell<Kept<Arc<Container>>> = RefCell::new(empty());
}

fn empty<T>() -> Kept<T> {
    (0..KEPT).map(|_| None).collect()
}

/// Serialises a process: with serde_json alone.
///
/// # Errors
/// As the serialiser says.
pub(super) fn process<S: Serializer>(process: &Process<'_>, to: S) -> Result<S::Ok, S::Error> {
    PROCESSES.with_borrow_mut(|kept| {
        let at = process.tid as usize;
        serialize(
            kept,
            at,
            to,
            |one| one == process,
            || Ok((process.clone().into_owned(), to_raw_value(process)?)),
        )
    })
}

/// Likewise, a container.
///
/// # Errors
/// As the serialiser says.
pub(super) fn container<S: Serializer>(
    container: &Option<Arc<Container>>,
    to: S,
) -> Result<S::Ok, S::Error> {
    let Some(container) = container else {
        return to.serialize_none();
    };
    CONTAINERS.with_borrow_mut(|kept| {
        // The address of a container that is kept is no other one's.
        let at = Arc::as_ptr(container).addr() / size_of::<Container>();
        serialize(
            kept,
            at,
            to,
            |one| Arc::ptr_eq(one, container),
            || Ok((Arc::clone(container), to_raw_value(container)?)),
        )
    })
}

fn serialize<T, S: Serializer>(
    kept: &mut Kept<T>,
    at: usize,
    to: S,
    is_it: impl Fn(&T) -> bool,
    new: impl Fn() -> serde_json::Result<(T, Box<RawValue>)>,
) -> Result<S::Ok, S::Error> {
    #[expect(clippy::indexing_slicing, reason = "the index is less than the length")]
    let place = &mut kept[at % KEPT];
    if place.as_ref().is_some_and(|(one, _)| !is_it(one)) {
        *place = None;
    }
    let (_, json) = match place {
        Some(kept) => kept,
        free => free.insert(new().map_err(S::Error::custom)?),
    };
    json.serialize(to)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::{Ipc, identity::Capabilities},
        sinks::text::fixtures::every_operation,
    };

    fn container(name: Option<&str>) -> Option<Arc<Container>> {
        Some(Arc::new(Container {
            runtime: "docker".into(),
            id: "0123".into(),
            name: name.map(Into::into),
            image: None,
            pod: None,
            pod_uid: None,
            pod_namespace: None,
            labels: std::collections::BTreeMap::default(),
            labels_lost: 0,
            ipc_mode: None,
        }))
    }

    #[test]
    fn kept_callers_are_written_as_they_are_now() {
        // What changes between two calls of a thread, or between threads that share a place.
        let changes: [fn(&mut Ipc<'_>); 6] = [
            |_| {},
            |ipc| ipc.process.comm = "other".into(),
            |ipc| ipc.process.uid += 1,
            |ipc| ipc.process.tid += KEPT as u32,
            |ipc| ipc.process.exe = None,
            |ipc| ipc.process.identity.capabilities = Some(Capabilities(1 << 15)),
        ];
        for change in changes {
            for container in [None, container(None), container(Some("db")), None] {
                for mut ipc in every_operation() {
                    change(&mut ipc);
                    ipc.container.clone_from(&container);
                    let line = serde_json::to_string(&ipc).unwrap();
                    let [process, container] = [
                        serde_json::to_string(&ipc.process).unwrap(),
                        serde_json::to_string(&ipc.container).unwrap(),
                    ];
                    assert!(line.contains(&format!("\"process\":{process},")), "{line}");
                    assert!(line.contains(&format!("\"container\":{container},")), "{line}");
                }
            }
        }
        assert_eq!(PROCESSES.with_borrow(|kept| kept.iter().flatten().count()), 1);
    }
}
