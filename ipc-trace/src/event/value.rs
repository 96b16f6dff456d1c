//! Values with a JSON form of their own: names, keys, flags, times.

use std::{
    borrow::Cow,
    fmt,
    time::{Duration, SystemTime},
};

use ipc_trace_common::cbor::{self, Cbor, Element, Encoded, encode_as_cbor};
use ipc_trace_common::op::{Abi, ObjectKind, Op};
use minicbor::{Decode, Decoder, Encode, Encoder, decode::Error, encode::Write};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};

/// Implements `Serialize` by `Display`, and a schema that is a string with `extra` members.
macro_rules! as_string {
    ($type:ty, $name:literal, $extra:tt) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($extra)
            }
        }
    };
}

/// Implements the traits of a name from a closed list.
macro_rules! as_name {
    ($type:ident($inner:ty), $schema:literal, $all:expr) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.0.name())
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.0.name())
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $schema.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                let names: Vec<_> = <$inner>::ALL.iter().map(|one| one.name()).collect();
                json_schema!({ "type": "string", "enum": names })
            }
        }

        impl Cbor for $type {
            fn put<W: Write>(&self, to: &mut Encoder<W>) -> Encoded<W> {
                let at = $all.iter().position(|one| *one == self.0);
                at.and_then(|at| u8::try_from(at).ok()).unwrap_or(u8::MAX).put(to)
            }

            fn take(from: &mut Decoder<'_>) -> Result<Self, Error> {
                let one = $all.get(usize::from(u8::take(from)?)).copied();
                one.map(Self).ok_or_else(|| cbor::invalid("a name without a meaning"))
            }
        }

        encode_as_cbor!($type);
    };
}

/// An operation's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct OpName(pub Op);
as_name!(OpName(Op), "Op", Op::ALL);

/// An ABI's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct AbiName(pub Abi);
as_name!(AbiName(Abi), "Abi", Abi::ALL);

/// A kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct KindName(pub ObjectKind);
as_name!(KindName(ObjectKind), "Kind", ObjectKind::ALL);

/// An error that the kernel returned, positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub(crate) struct CallError(#[n(0)] pub u16);

impl CallError {
    /// The error of a raw result (`IS_ERR_VALUE`, include/linux/err.h).
    #[must_use]
    pub(crate) fn from_ret(ret: i64) -> Option<Self> {
        (-4095..0).contains(&ret).then(|| Self(ret.unsigned_abs() as u16))
    }

    /// Whether the kernel will restart the call, or end it with `EINTR`
    /// (include/linux/errno.h): `ERESTARTSYS` and its like.
    #[must_use]
    pub(crate) const fn is_restart(self) -> bool {
        matches!(self.0, 512..=514 | 516)
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Those of include/linux/errno.h never reach a program, so no library knows them.
        let name = match self.0 {
            512 => "ERESTARTSYS",
            513 => "ERESTARTNOINTR",
            514 => "ERESTARTNOHAND",
            515 => "ENOIOCTLCMD",
            516 => "ERESTART_RESTARTBLOCK",
            517 => "EPROBE_DEFER",
            518 => "EOPENSTALE",
            519 => "ENOPARAM",
            524 => "ENOTSUPP",
            number => {
                let known = nix::errno::Errno::from_raw(i32::from(number));
                if known == nix::errno::Errno::UnknownErrno {
                    return f.pad(&format!("E{number}"));
                }
                return f.pad(&format!("{known:?}"));
            }
        };
        f.pad(name)
    }
}
as_string!(CallError, "Error", {
    "type": "string",
    "description": "The error's name, also ERESTARTSYS and its like; E and the number where it has none",
    "pattern": "^E[A-Z0-9_]+$"
});

/// A 32-bit number in hexadecimal: a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub(crate) struct Hex32(#[n(0)] pub u32);

impl fmt::Display for Hex32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#010x}", self.0)
    }
}
as_string!(Hex32, "Key", { "type": "string", "pattern": "^0x[0-9a-f]{8}$" });

/// An address in the caller's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address(pub u64);

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}
as_string!(Address, "Address", { "type": "string", "pattern": "^0x[0-9a-f]+$" });

/// Permission bits, in octal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct FileMode(#[n(0)] pub u32);

impl fmt::Display for FileMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}
as_string!(FileMode, "Mode", { "type": "string", "pattern": "^[0-7]{4,}$" });

/// Bits with names: a list of the names, and one `"0x…"` for all bits without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flags {
    /// The value
    pub bits: u64,
    /// Mask, value and name of each field; a name applies if the bits under the mask equal the value
    pub names: &'static [(u64, u64, &'static str)],
}

impl Flags {
    /// The names that hold, in the table's order.
    pub(crate) fn iter(self) -> impl Iterator<Item = &'static str> {
        self.names.iter().filter(move |n| self.bits & n.0 == n.1).map(|n| n.2)
    }

    /// The bits that no name covers.
    #[must_use]
    pub(crate) fn unknown(self) -> u64 {
        self.names.iter().filter(|n| self.bits & n.0 == n.1).fold(self.bits, |rest, n| rest & !n.0)
    }
}

impl Serialize for Flags {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeSeq as _;
        let mut list = serializer.serialize_seq(None)?;
        for name in self.iter() {
            list.serialize_element(name)?;
        }
        if self.unknown() != 0 {
            list.serialize_element(&Address(self.unknown()))?;
        }
        list.end()
    }
}

impl JsonSchema for Flags {
    fn schema_name() -> Cow<'static, str> {
        "Flags".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "array",
            "items": { "type": "string" },
            "description": "The names of the bits that are set; bits without a name are one \"0x…\" string"
        })
    }
}

/// A name of the system: any bytes but NUL. In JSON it is the text itself if it is valid UTF-8; an invalid
/// byte becomes `\xNN`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct OsBytes<'a>(pub Cow<'a, [u8]>);

impl Cbor for OsBytes<'_> {
    fn put<W: Write>(&self, to: &mut Encoder<W>) -> Encoded<W> {
        to.bytes(&self.0)?;
        Ok(())
    }

    fn take(from: &mut Decoder<'_>) -> Result<Self, Error> {
        Ok(Self(Cow::Owned(from.bytes()?.to_vec())))
    }
}

encode_as_cbor!(OsBytes<'_>);

impl Element for OsBytes<'_> {}

impl From<&str> for OsBytes<'static> {
    fn from(text: &str) -> Self {
        Self(Cow::Owned(text.as_bytes().to_vec()))
    }
}

impl<'a> OsBytes<'a> {
    /// The bytes before the first NUL.
    #[must_use]
    pub(crate) fn until_nul(bytes: &'a [u8]) -> Self {
        let len = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
        Self(Cow::Borrowed(bytes.get(..len).unwrap_or_default()))
    }

    /// The same, owned.
    #[must_use]
    pub(crate) fn into_owned(self) -> OsBytes<'static> {
        OsBytes(Cow::Owned(self.0.into_owned()))
    }

    /// As a string, with invalid bytes as `\xNN`.
    #[must_use]
    pub(crate) fn to_str(&self) -> Cow<'_, str> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => Cow::Borrowed(text),
            Err(_) => Cow::Owned(self.to_string()),
        }
    }
}

impl fmt::Debug for OsBytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.to_str(), f)
    }
}

impl fmt::Display for OsBytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            f.write_str(chunk.valid())?;
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl Serialize for OsBytes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_str())
    }
}

impl JsonSchema for OsBytes<'_> {
    fn schema_name() -> Cow<'static, str> {
        "Text".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "A name as the system has it; bytes that are no valid UTF-8 are written \\xNN"
        })
    }
}

/// A time: RFC 3339, UTC, nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Timestamp(pub SystemTime);

impl Cbor for Timestamp {
    fn put<W: Write>(&self, to: &mut Encoder<W>) -> Encoded<W> {
        let since = self.0.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX).put(to)
    }

    fn take(from: &mut Decoder<'_>) -> Result<Self, Error> {
        let since = Duration::from_nanos(u64::take(from)?);
        Ok(Self(SystemTime::UNIX_EPOCH + since))
    }
}

encode_as_cbor!(Timestamp);

/// The end of the year 9999, the last one of RFC 3339.
const LAST_FORMATTED: Duration = Duration::new(253_402_300_799, 999_999_999);

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Formatting any other moment fails, and an event with it.
        let since = self.0.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let shown = SystemTime::UNIX_EPOCH + since.min(LAST_FORMATTED);
        write!(f, "{}", humantime::format_rfc3339_nanos(shown))
    }
}
as_string!(Timestamp, "Time", { "type": "string", "format": "date-time" });

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_their_names() {
        let name = |ret| CallError::from_ret(ret).map(|e| e.to_string());
        assert_eq!(name(-11).as_deref(), Some("EAGAIN"));
        assert_eq!(name(-43).as_deref(), Some("EIDRM"));
        assert_eq!(name(-512).as_deref(), Some("ERESTARTSYS"));
        assert_eq!(name(-516).as_deref(), Some("ERESTART_RESTARTBLOCK"));
        assert_eq!(name(-4000).as_deref(), Some("E4000"));
        assert_eq!(name(0), None);
        // An address returned by shmat.
        assert_eq!(name(0x7f00_0000_0000), None);
    }

    #[test]
    fn flags_are_names_and_a_remainder() {
        const NAMES: &[(u64, u64, &str)] = &[(3, 0, "READ"), (3, 1, "WRITE"), (8, 8, "NEW")];
        let json = |bits| serde_json::to_string(&Flags { bits, names: NAMES }).unwrap();
        assert_eq!(json(0), r#"["READ"]"#);
        assert_eq!(json(9), r#"["WRITE","NEW"]"#);
        assert_eq!(json(0x189), r#"["WRITE","NEW","0x180"]"#);
        assert_eq!(json(3), r#"["0x3"]"#);
    }

    #[test]
    fn names_of_any_bytes_are_valid_json() {
        let json = |bytes: &[u8]| serde_json::to_string(&OsBytes::until_nul(bytes)).unwrap();
        assert_eq!(json(b"plain\0rest"), r#""plain""#);
        assert_eq!(json(b"\x1b[31m\n"), "\"\\u001b[31m\\n\"");
        assert_eq!(json(b"a\xffb\xc3"), r#""a\\xffb\\xc3""#);
        assert_eq!(json("é".as_bytes()), "\"é\"");
    }

    #[test]
    fn moments_outside_of_rfc_3339_are_its_first_or_last() {
        let (epoch, far) = (SystemTime::UNIX_EPOCH, Duration::from_secs(1 << 40));
        assert_eq!(Timestamp(epoch - far).to_string(), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(Timestamp(epoch + far).to_string(), "9999-12-31T23:59:59.999999999Z");
    }

    #[test]
    fn keys_have_eight_digits() {
        assert_eq!(Hex32(0).to_string(), "0x00000000");
        assert_eq!(Hex32(0x8cd1_ab21).to_string(), "0x8cd1ab21");
    }
}
