//! How often calls were made, by second.

use std::sync::Arc;

use minicbor::{Decode, Encode};

use super::{
    Container, IpcNs,
    histogram::SparseHistogram,
    shared::SharedState,
    value::{CallError, OpName},
};

/// The calls of one second that are alike. Several such counts may be of the same calls' kind: they add up.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(context_bound = "SharedState")]
pub(crate) struct SecondCounts {
    /// The time of day when the calls returned, in seconds since 1970
    #[n(0)]
    pub second: u64,
    /// The namespace of the callers; `None`: unknown, of lost calls alone
    #[n(1)]
    pub ipc_ns: Option<IpcNs>,
    /// The container of the calling threads, as far as it was known then; `None`: on the host, or the calls are lost
    #[cbor(n(2), with = "crate::event::shared::optional")]
    pub container: Option<Arc<Container>>,
    /// The operation
    #[n(3)]
    pub op: OpName,
    /// The error; `None`: the calls succeeded
    #[n(4)]
    pub error: Option<CallError>,
    /// How many calls, lost ones among them
    #[n(5)]
    pub calls: u64,
    /// Bytes of the messages sent or received; `None`: the operation has none
    #[n(6)]
    pub bytes: Option<u64>,
    /// How many of the calls were on objects of other namespaces
    #[n(7)]
    pub foreign: u64,
    /// Of how many of the calls only counts are known, because the ring had no room
    #[n(8)]
    pub lost: u64,
    /// How long calls took, nanoseconds; `None`: not measured
    #[n(9)]
    pub durations: Option<SparseHistogram>,
}
