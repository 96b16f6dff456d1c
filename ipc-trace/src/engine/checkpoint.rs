//! The engine's whole state as bytes (CBOR, by the numbers of fields), and back.
//!
//! A value that several others share is encoded once; afterwards its number stands for it. So a task, an ancestor or a
//! container is shared as before, and takes no more memory.
//!
//! Not in it: what the run's metadata says, the policy, and the counts of a report, which begin anew.

use std::{collections::BTreeMap, rc::Rc, sync::Arc};

use ipc_trace_common::cbor::{Encoded, invalid};
use minicbor::{Decode, Decoder, Encode, Encoder, decode::Error, encode::Write};

use super::{
    Engine,
    track::{containers::ContainerHandle, contexts::TaskInfo},
};
#[cfg(test)]
use super::{detect::Detect, track::Tracker};
use crate::event::{
    identity::Ancestor,
    shared::{
        SharedAncestors, SharedValues, decode_optional, decode_shared, encode_optional,
        encode_shared,
    },
};

/// What the state shares: the context of encoding and decoding it.
pub(crate) trait SharedState: SharedAncestors {
    /// Tasks
    fn tasks(&mut self) -> &mut SharedValues<Rc<TaskInfo>>;
    /// Containers, by the index of their state
    fn containers(&mut self) -> &mut BTreeMap<usize, ContainerHandle>;
}

/// The values that a state shares.
#[derive(Debug, Default)]
struct SharedTables {
    tasks: SharedValues<Rc<TaskInfo>>,
    ancestors: SharedValues<Arc<Ancestor>>,
    containers: BTreeMap<usize, ContainerHandle>,
}

impl SharedAncestors for SharedTables {
    fn ancestors(&mut self) -> &mut SharedValues<Arc<Ancestor>> {
        &mut self.ancestors
    }
}

impl SharedState for SharedTables {
    fn tasks(&mut self) -> &mut SharedValues<Rc<TaskInfo>> {
        &mut self.tasks
    }

    fn containers(&mut self) -> &mut BTreeMap<usize, ContainerHandle> {
        &mut self.containers
    }
}

/// For `#[cbor(with = …)]`: a task.
pub(crate) mod task {
    use super::*;

    pub(crate) fn encode<C: SharedState, W: Write>(
        task: &Rc<TaskInfo>,
        to: &mut Encoder<W>,
        context: &mut C,
    ) -> Encoded<W> {
        encode_shared(&**task, to, context, C::tasks)
    }

    pub(crate) fn decode<C: SharedState>(
        from: &mut Decoder<'_>,
        context: &mut C,
    ) -> Result<Rc<TaskInfo>, Error> {
        decode_shared(from, context, C::tasks, Rc::new)
    }
}

/// For `#[cbor(with = …)]`: a task that may be unknown.
pub(crate) mod optional_task {
    use super::*;

    pub(crate) fn encode<C: SharedState, W: Write>(
        task: &Option<Rc<TaskInfo>>,
        to: &mut Encoder<W>,
        context: &mut C,
    ) -> Encoded<W> {
        encode_optional(task.as_ref(), to, context, task::encode)
    }

    pub(crate) fn decode<C: SharedState>(
        from: &mut Decoder<'_>,
        context: &mut C,
    ) -> Result<Option<Rc<TaskInfo>>, Error> {
        decode_optional(from, context, task::decode)
    }
}

impl<C: SharedState> Encode<C> for ContainerHandle {
    fn encode<W: Write>(&self, to: &mut Encoder<W>, _: &mut C) -> Encoded<W> {
        to.u64(self.index() as u64)?;
        Ok(())
    }
}

impl<'b, C: SharedState> Decode<'b, C> for ContainerHandle {
    fn decode(from: &mut Decoder<'b>, context: &mut C) -> Result<Self, Error> {
        let index = usize::decode(from, context)?;
        let known = context.containers().entry(index);
        Ok(known.or_insert_with(|| Self::new(index)).clone())
    }
}

fn to_bytes(state: &impl Encode<SharedTables>) -> Vec<u8> {
    let encoded = minicbor::to_vec_with(state, &mut SharedTables::default());
    // Writing to memory can't fail, and no type refuses a value.
    encoded.unwrap_or_default()
}

impl Engine {
    /// The state, but for the counts of a report.
    #[must_use]
    pub(crate) fn checkpoint(&self) -> Vec<u8> {
        to_bytes(self)
    }

    /// Takes the place of an engine that handed out this state, as the run's metadata and the policy of this one say.
    ///
    /// # Errors
    /// The bytes are no state.
    pub(crate) fn restore(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let mut tables = SharedTables::default();
        let state: Self = minicbor::decode_with(bytes, &mut tables)?;
        let last = tables.containers.last_key_value().map(|(index, _)| *index);
        if !state.tracker.containers.is_whole(last) {
            return Err(invalid("a container without a state"));
        }
        drop(tables);
        let before = std::mem::replace(self, state);
        self.begin = before.begin;
        self.call_filter = before.call_filter;
        self.stats = before.stats;
        self.tracker.restored(before.tracker);
        self.detect.restored(before.detect);
        Ok(())
    }
}

/// Hands out the state and takes it back: tests run as if they were resumed from a checkpoint at any time.
#[cfg(test)]
pub(crate) fn reload(tracker: &mut Tracker, detect: &mut Detect) {
    let bytes = to_bytes(&(&*tracker, &*detect));
    let mut tables = SharedTables::default();
    let (new_tracker, new_detect): (Tracker, Detect) =
        minicbor::decode_with(&bytes, &mut tables).unwrap();
    drop(tables);
    let before = std::mem::replace(tracker, new_tracker);
    tracker.restored(before);
    let before = std::mem::replace(detect, new_detect);
    detect.restored(before);
    assert_eq!(to_bytes(&(&*tracker, &*detect)), bytes, "equal states are equal bytes");
}
