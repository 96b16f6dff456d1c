//! The further identity of a process: ancestors, capabilities, arguments, systemd unit.

use std::{borrow::Cow, sync::Arc};

use caps::Capability;
use minicbor::{Decode, Encode};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};

use super::shared::SharedState;
use super::value::OsBytes;

/// The identity of a process besides its numbers on the host. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema, Encode, Decode)]
#[cbor(context_bound = "SharedState")]
pub(crate) struct ProcessIdentity {
    /// Its number in its own pid namespace; `null`: unknown
    #[n(0)]
    pub ns_pid: Option<u32>,
    /// Its effective user in its own user namespace; `null`: unmapped or unknown
    #[n(1)]
    pub ns_uid: Option<u32>,
    /// Its effective capabilities relevant to IPC, in its own user namespace, as of its first call after
    /// exec; `null`: unknown, or its user has changed since
    #[n(2)]
    pub capabilities: Option<Capabilities>,
    /// The systemd unit that it belongs to; `null`: none, or it is in a container
    #[cbor(n(3), with = "ipc_trace_common::cbor")]
    pub unit: Option<Arc<OsBytes<'static>>>,
    /// Its arguments as in its memory, at most 512 bytes; `null` without `--with-args`, as they may contain
    /// secrets, and if they couldn't be read
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cbor(n(4), with = "ipc_trace_common::cbor")]
    pub args: Option<Arc<[OsBytes<'static>]>>,
    /// Whether there are more arguments
    #[serde(skip_serializing_if = "super::is_false")]
    #[n(5)]
    pub args_truncated: bool,
    /// Its ancestors: its parent first, up to the first process of its container or of the host; `null` on
    /// lines of calls without `--with-ancestry`, and if unknown
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cbor(n(6), with = "super::shared::optional_arcs")]
    pub ancestry: Option<Arc<[Arc<Ancestor>]>>,
    /// Whether it has more ancestors than the 8 listed
    #[serde(skip_serializing_if = "super::is_false")]
    #[n(7)]
    pub ancestry_truncated: bool,
}

/// An ancestor of a process.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, JsonSchema, Encode, Decode)]
pub(crate) struct Ancestor {
    /// Its number in the initial pid namespace
    #[n(0)]
    pub pid: u32,
    /// When it started, on `CLOCK_BOOTTIME`, nanoseconds; with `pid` it identifies the process
    #[n(1)]
    pub start_boot_ns: u64,
    /// Its name at that time
    #[n(2)]
    pub comm: OsBytes<'static>,
    /// Path of its executable; `null`: it had exited before it was inspected, or hides it
    #[n(3)]
    pub exe: Option<OsBytes<'static>>,
}

/// Capabilities relevant to IPC, as a bit mask of their numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Capabilities(#[n(0)] pub u64);

impl Capabilities {
    /// The capabilities that IPC checks (include/uapi/linux/capability.h): to lock segments in memory, to
    /// bypass an object's mode, to change or remove another user's objects, to exceed limits.
    pub(crate) const KNOWN: [(Capability, &str); 4] = [
        (Capability::CAP_IPC_LOCK, "CAP_IPC_LOCK"),
        (Capability::CAP_IPC_OWNER, "CAP_IPC_OWNER"),
        (Capability::CAP_SYS_ADMIN, "CAP_SYS_ADMIN"),
        (Capability::CAP_SYS_RESOURCE, "CAP_SYS_RESOURCE"),
    ];

    /// Whether a capability is in the set.
    pub(crate) fn has(self, capability: Capability) -> bool {
        self.0 & capability.bitmask() != 0
    }

    /// Their names.
    pub(crate) fn names(self) -> impl Iterator<Item = &'static str> {
        Self::KNOWN.into_iter().filter(move |(one, _)| self.has(*one)).map(|(_, name)| name)
    }
}

impl Serialize for Capabilities {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.names())
    }
}

impl JsonSchema for Capabilities {
    fn schema_name() -> Cow<'static, str> {
        "Capabilities".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let names: Vec<_> = Self::KNOWN.iter().map(|(_, name)| *name).collect();
        json_schema!({ "type": "array", "items": { "type": "string", "enum": names } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_unrelated_to_ipc_are_omitted() {
        let all = serde_json::to_value(Capabilities(u64::MAX)).unwrap();
        assert_eq!(all.as_array().unwrap().len(), Capabilities::KNOWN.len());
        let some = Capabilities(1 << 15 | 1 << 24 | 1);
        assert_eq!(some.names().collect::<Vec<_>>(), ["CAP_IPC_OWNER", "CAP_SYS_RESOURCE"]);
        assert_eq!(serde_json::to_string(&Capabilities(0)).unwrap(), "[]");
    }
}
