//! Tasks, ancestors and containers that several parts of the state share: encoded once; afterwards a number stands for
//! them.

use std::{collections::BTreeMap, rc::Rc, sync::Arc};

use ipc_trace_common::cbor::Encoded;
use minicbor::{Decode, Decoder, Encode, Encoder, decode::Error, encode::Write};

use super::{containers::ContainerHandle, contexts::TaskInfo};
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
pub(crate) struct SharedTables {
    tasks: SharedValues<Rc<TaskInfo>>,
    ancestors: SharedValues<Arc<Ancestor>>,
    containers: BTreeMap<usize, ContainerHandle>,
}

impl SharedTables {
    /// The largest index of a container.
    pub(crate) fn last_container(&self) -> Option<usize> {
        self.containers.last_key_value().map(|(index, _)| *index)
    }
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
