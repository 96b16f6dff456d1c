//! What is known of a process beyond its number: whom it descends from, what it may, what it was called
//! with.

use std::{borrow::Cow, sync::Arc};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};

use super::value::OsBytes;

/// Who a process is, beside its numbers on the host. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct ProcessIdentity {
    /// Its number in its own pid namespace
    pub ns_pid: Option<u32>,
    /// Its effective user in its own user namespace; `null`: that has none for it, or is not known
    pub ns_uid: Option<u32>,
    /// Its effective capabilities that bear on IPC, in its own user namespace, as they were at its first
    /// call since it was executed; `null`: not known, also where it changed its user since
    pub capabilities: Option<Capabilities>,
    /// The systemd unit that it belongs to; `null`: none, or it is in a container
    pub unit: Option<Arc<OsBytes<'static>>>,
    /// What it was called with, as it lies in its memory, at most 512 bytes: with `--with-args` alone, as
    /// passwords may be among it
    #[serde(skip_serializing_if = "Option::is_none")]
    pub args: Option<Arc<[OsBytes<'static>]>>,
    /// Whether there are more arguments
    #[serde(skip_serializing_if = "super::is_false")]
    pub args_truncated: bool,
    /// Whom it descends from: its parent first, up to the first process of its container or of the host. On
    /// lines of calls with `--with-ancestry` alone
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ancestry: Option<Arc<[Arc<Ancestor>]>>,
    /// Whether there are more than the 8 that are followed
    #[serde(skip_serializing_if = "super::is_false")]
    pub ancestry_truncated: bool,
}

/// A process that another one descends from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, JsonSchema)]
pub(crate) struct Ancestor {
    /// In the initial pid namespace
    pub pid: u32,
    /// When it started, on `CLOCK_BOOTTIME`, nanoseconds; with `pid` it is the process
    pub start_boot_ns: u64,
    /// Its name then
    pub comm: OsBytes<'static>,
    /// Path of its executable; `null`: it had ended before that was looked at, or hides it
    pub exe: Option<OsBytes<'static>>,
}

/// Capabilities that bear on IPC, by their numbers' bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Capabilities(pub u64);

impl Capabilities {
    /// Those that IPC asks for (include/uapi/linux/capability.h): to lock segments in memory, to pass by an
    /// object's mode, to change or remove what is another's, to go beyond limits.
    pub(crate) const KNOWN: [(u32, &str); 4] = [
        (14, "CAP_IPC_LOCK"),
        (15, "CAP_IPC_OWNER"),
        (21, "CAP_SYS_ADMIN"),
        (24, "CAP_SYS_RESOURCE"),
    ];

    /// Their names.
    pub(crate) fn names(self) -> impl Iterator<Item = &'static str> {
        let has = move |bit: u32| self.0 & 1 << bit != 0;
        Self::KNOWN.into_iter().filter(move |(bit, _)| has(*bit)).map(|(_, name)| name)
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
    fn capabilities_that_have_nothing_to_do_with_ipc_are_not_named() {
        let all = serde_json::to_value(Capabilities(u64::MAX)).unwrap();
        assert_eq!(all.as_array().unwrap().len(), Capabilities::KNOWN.len());
        let some = Capabilities(1 << 15 | 1 << 24 | 1);
        assert_eq!(some.names().collect::<Vec<_>>(), ["CAP_IPC_OWNER", "CAP_SYS_RESOURCE"]);
        assert_eq!(serde_json::to_string(&Capabilities(0)).unwrap(), "[]");
    }
}
