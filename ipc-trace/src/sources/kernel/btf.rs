//! Reads the kernel's type information (BTF): offsets of structures' members, and which functions it describes. It is
//! read at every start, 150,000 types of which a few dozen matter, so types are skipped by their length, and only
//! wanted types are decoded.
//!
//! Format: include/uapi/linux/btf.h, Documentation/bpf/btf.rst (6.18).
//!
//! Invariant: any bytes yield types or an error; every read is checked.

use std::collections::{BTreeMap, BTreeSet};

/// `BTF_MAGIC`, little-endian.
const MAGIC: [u8; 2] = [0x9f, 0xeb];
/// `struct btf_header` up to `str_len`.
const HEADER: usize = 24;
/// `struct btf_type`
const TYPE: usize = 12;
/// `struct btf_member`
const MEMBER: usize = 12;
/// `struct btf_enum`
const ENUMERATOR: usize = 8;
/// How deep members are followed into anonymous structures, and types through typedefs. The kernel's
/// own limit on nesting is 32 (`MAX_RESOLVE_DEPTH`, kernel/bpf/btf.c).
const DEPTH: u32 = 32;

const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const TYPEDEF: u32 = 8;
const VOLATILE: u32 = 9;
const CONST: u32 = 10;
const RESTRICT: u32 = 11;
const FUNC: u32 = 12;
const TYPE_TAG: u32 = 18;

/// Prefixes of the names of system calls' functions, of auxiliary probes, and of functions that create objects.
const BEGINNINGS: &[&[u8]] =
    &[b"__", b"security_file_", b"sysvipc_", b"mqueue_", b"shm_", b"proc_sys_", b"new"];

/// Bytes that follow a `struct btf_type`, by its kind and the number of its members.
fn trailing(kind: u32, vlen: usize) -> Option<usize> {
    Some(match kind {
        // INT, VAR, DECL_TAG
        1 | 14 | 17 => 4,
        // PTR, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC, FLOAT, TYPE_TAG
        2 | 7..=12 | 16 | 18 => 0,
        // ARRAY
        3 => 12,
        // STRUCT, UNION, DATASEC, ENUM64
        4 | 5 | 15 | 19 => 12 * vlen,
        // ENUM, FUNC_PROTO
        6 | 13 => 8 * vlen,
        _ => return None,
    })
}

/// A `struct btf_type`.
#[derive(Clone, Copy, Debug)]
struct Type {
    name: u32,
    kind: u32,
    vlen: usize,
    /// Members give the sizes of bit fields in the upper byte of their offsets.
    bit_fields: bool,
    /// The type that it refers to, if any
    target: u32,
    /// The offset of the data that follows
    rest: usize,
}

/// Types, by number.
#[derive(Debug)]
pub(crate) struct BtfTypes {
    bytes: Vec<u8>,
    /// The offset of each type; the first has the number 1
    at: Vec<usize>,
    /// The offset of the strings
    strings: std::ops::Range<usize>,
}

/// A function with type information.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Function {
    /// Its type's number
    pub id: u32,
    /// The number of its prototype's type: prototypes with different argument names differ
    pub prototype: u32,
}

impl BtfTypes {
    /// Indexes the types in `bytes`.
    ///
    /// # Errors
    /// They are malformed: how.
    pub(crate) fn new(bytes: Vec<u8>) -> Result<Self, String> {
        if bytes.get(..2) != Some(&MAGIC) || bytes.len() < HEADER {
            return Err("it does not start as little-endian BTF does".to_owned());
        }
        let word = |at| word(&bytes, at).map_or(0, |word| word as usize);
        let header = word(4);
        let section = |offset: usize, len: usize| {
            let begin = header.checked_add(offset)?;
            let end = begin.checked_add(len)?;
            (end <= bytes.len()).then_some(begin..end)
        };
        let cut = || "the file ends too early".to_owned();
        let types = section(word(8), word(12)).ok_or_else(cut)?;
        let strings = section(word(16), word(20)).ok_or_else(cut)?;
        let mut found = Self { bytes, at: Vec::new(), strings };
        let mut at = types.start;
        while at < types.end {
            let one = found.read(at).ok_or_else(cut)?;
            let more = trailing(one.kind, one.vlen).ok_or_else(|| {
                format!("type {} is of an unknown kind, {}", found.at.len() + 1, one.kind)
            })?;
            found.at.push(at);
            at = one.rest + more;
        }
        if at == types.end { Ok(found) } else { Err(cut()) }
    }

    fn read(&self, at: usize) -> Option<Type> {
        let info = word(&self.bytes, at + 4)?;
        Some(Type {
            name: word(&self.bytes, at)?,
            kind: info >> 24 & 0x1f,
            vlen: (info & 0xffff) as usize,
            bit_fields: info >> 31 != 0,
            target: word(&self.bytes, at + 8)?,
            rest: at + TYPE,
        })
    }

    fn type_at(&self, id: u32) -> Option<Type> {
        self.read(*self.at.get((id as usize).checked_sub(1)?)?)
    }

    fn all(&self) -> impl Iterator<Item = Type> {
        self.at.iter().filter_map(|at| self.read(*at))
    }

    fn name(&self, offset: u32) -> &[u8] {
        let strings = self.bytes.get(self.strings.clone()).unwrap_or_default();
        let name = strings.get(offset as usize..).unwrap_or_default();
        name.split(|byte| *byte == 0).next().unwrap_or_default()
    }

    /// The wanted functions among those with type information.
    #[must_use]
    pub(crate) fn functions<'a>(&self, wanted: &BTreeSet<&'a str>) -> BTreeMap<&'a str, Function> {
        let found = self.named(wanted, |kind| if kind == FUNC { BEGINNINGS } else { &[] });
        let function =
            |(name, (id, one)): (_, (u32, Type))| (name, Function { id, prototype: one.target });
        found.into_iter().map(function).collect()
    }

    /// What programs refer to, other than functions that they are on, by name: iterators' functions (`bpf_iter_…`),
    /// tracepoints' types (`btf_trace_…`), a function for casts and the structure that it casts to.
    #[must_use]
    pub(crate) fn hooks<'a>(&self, wanted: &BTreeSet<&'a str>) -> BTreeMap<&'a str, u32> {
        let found = self.named(wanted, |kind| match kind {
            FUNC => &[b"bpf_iter_", b"bpf_rdonly_"],
            STRUCT => &[b"pt_regs"],
            TYPEDEF => &[b"btf_trace_"],
            _ => &[],
        });
        found.into_iter().map(|(name, (id, _))| (name, id)).collect()
    }

    /// The first type of each wanted name, and its number. `beginnings`: the prefixes of the wanted names, by kind,
    /// which are a cheap check.
    fn named<'a>(
        &self,
        wanted: &BTreeSet<&'a str>,
        beginnings: impl Fn(u32) -> &'static [&'static [u8]],
    ) -> BTreeMap<&'a str, (u32, Type)> {
        let mut found = BTreeMap::new();
        for (one, id) in self.all().zip(1_u32..) {
            let beginnings = beginnings(one.kind);
            if beginnings.is_empty() {
                continue;
            }
            let name = self.name(one.name);
            if !beginnings.iter().any(|beginning| name.starts_with(beginning)) {
                continue;
            }
            if let Some(name) = std::str::from_utf8(name).ok().and_then(|name| wanted.get(name)) {
                found.entry(*name).or_insert((id, one));
            }
        }
        found
    }

    /// The structures with these names. One name can have several.
    #[must_use]
    pub(crate) fn structures<'a>(&self, wanted: &BTreeSet<&'a str>) -> Structures<'a, '_> {
        let mut by_name = BTreeMap::<&str, Vec<Type>>::new();
        for one in self.all().filter(|one| one.kind == STRUCT) {
            let name = std::str::from_utf8(self.name(one.name)).ok();
            if let Some(name) = name.and_then(|name| wanted.get(name)) {
                by_name.entry(name).or_default().push(one);
            }
        }
        Structures { types: self, by_name }
    }

    /// The values of the enumeration with that name, by the enumerators' names.
    #[must_use]
    pub(crate) fn enumerators(&self, name: &str) -> BTreeMap<&[u8], u32> {
        let found =
            self.all().find(|one| one.kind == ENUM && self.name(one.name) == name.as_bytes());
        let values = found.into_iter().flat_map(|one| {
            (0..one.vlen).filter_map(move |index| {
                let at = one.rest + index * ENUMERATOR;
                Some((self.name(word(&self.bytes, at)?), word(&self.bytes, at + 4)?))
            })
        });
        values.collect()
    }

    /// The members of a structure or union: name, type, offset in bits, size in bits of a bit field.
    fn members(&self, of: Type) -> impl Iterator<Item = (&[u8], u32, u32, u32)> {
        let count = if matches!(of.kind, STRUCT | UNION) { of.vlen } else { 0 };
        (0..count).filter_map(move |index| {
            let at = of.rest + index * MEMBER;
            let offset = word(&self.bytes, at + 8)?;
            let (bits, size) =
                if of.bit_fields { (offset & 0x00ff_ffff, offset >> 24) } else { (offset, 0) };
            Some((self.name(word(&self.bytes, at)?), word(&self.bytes, at + 4)?, bits, size))
        })
    }

    /// Finds a member, also within anonymous ones: its type, and its offset in bytes. `None`: there is none, or it is
    /// a bit field.
    fn member(&self, of: Type, name: &[u8]) -> Option<(u32, u32)> {
        self.member_within(of, name, DEPTH, &mut BTreeSet::new())
    }

    /// See [`Self::member`]. `visited`: where the structures are that were searched already; without it, structures
    /// that contain one another several times would take exponential time.
    fn member_within(
        &self,
        of: Type,
        name: &[u8],
        depth: u32,
        visited: &mut BTreeSet<usize>,
    ) -> Option<(u32, u32)> {
        let depth = depth.checked_sub(1)?;
        if !visited.insert(of.rest) {
            return None;
        }
        self.members(of).find_map(|(member, id, bits, size)| {
            if member == name {
                return (size == 0 && bits % 8 == 0).then_some((id, bits / 8));
            }
            if !member.is_empty() {
                return None;
            }
            // A member may be qualified, as the first of `struct vm_fault` is const (include/linux/mm.h, 5.11).
            let (found, offset) = self.member_within(self.plain(id)?, name, depth, visited)?;
            Some((found, offset.checked_add(bits / 8)?))
        })
    }

    /// The type behind typedefs and qualifiers.
    fn plain(&self, mut id: u32) -> Option<Type> {
        for _ in 0..DEPTH {
            let one = self.type_at(id)?;
            match one.kind {
                TYPEDEF | VOLATILE | CONST | RESTRICT | TYPE_TAG => id = one.target,
                _ => return Some(one),
            }
        }
        None
    }

    fn offset(&self, mut of: Type, path: &str) -> Option<u32> {
        let mut sum = 0;
        let mut names = path.split('.').peekable();
        while let Some(name) = names.next() {
            let (id, offset) = self.member(of, name.as_bytes())?;
            sum = offset.checked_add(sum)?;
            if names.peek().is_some() {
                of = self.plain(id)?;
            }
        }
        Some(sum)
    }
}

/// Structures, by name.
#[derive(Debug)]
pub(crate) struct Structures<'a, 'b> {
    types: &'b BtfTypes,
    by_name: BTreeMap<&'a str, Vec<Type>>,
}

impl Structures<'_, '_> {
    /// Whether there is a structure with that name.
    #[must_use]
    pub(crate) fn has(&self, structure: &str) -> bool {
        self.by_name.contains_key(structure)
    }

    /// The offset of a member in bytes; names are joined by dots, anonymous members are skipped. `None`: there is
    /// none, or structures with that name disagree.
    #[must_use]
    pub(crate) fn offset_of(&self, structure: &str, path: &str) -> Option<u32> {
        let all = self.by_name.get(structure)?;
        let mut offsets = all.iter().filter_map(|one| self.types.offset(*one, path));
        let first = offsets.next()?;
        offsets.all(|other| other == first).then_some(first)
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// BTF of types, given as words with what follows them, and of strings.
    fn btf(types: &[u32], strings: &[u8]) -> Vec<u8> {
        let types: Vec<u8> = types.iter().flat_map(|word| word.to_le_bytes()).collect();
        let lengths = [24, 0, types.len() as u32, types.len() as u32, strings.len() as u32];
        let header = [0x9f, 0xeb, 1, 0].into_iter();
        header
            .chain(lengths.iter().flat_map(|n| n.to_le_bytes()))
            .chain(types)
            .chain(strings.iter().copied())
            .collect()
    }

    const fn info(kind: u32, vlen: u32) -> u32 {
        kind << 24 | vlen
    }

    const NAMES: &[u8] = b"\0pt_regs\0ax\0ns\0flag\0__x64_sys_semop\0inum\0";
    const PT_REGS: u32 = 1;
    const AX: u32 = 9;
    const NS: u32 = 12;
    const FLAG: u32 = 15;
    const SEMOP: u32 = 20;
    const INUM: u32 = 36;

    fn offsets(bytes: Vec<u8>, paths: &[&str]) -> Vec<Option<u32>> {
        let types = BtfTypes::new(bytes).unwrap();
        let structures = types.structures(&BTreeSet::from(["pt_regs"]));
        paths.iter().map(|path| structures.offset_of("pt_regs", path)).collect()
    }

    #[test]
    fn hooked_functions_have_wanted_prefixes() {
        use ipc_trace_common::hooks;
        for name in hooks::functions().chain(hooks::all_aux_probes()) {
            let begins = |beginning: &&[u8]| name.as_bytes().starts_with(beginning);
            assert!(BEGINNINGS.iter().any(begins), "{name}");
        }
    }

    #[test]
    fn members_are_found_through_typedefs_and_anonymous_structures() {
        #[rustfmt::skip]
        let types = [
            // 1: int
            0, info(1, 0), 4, 32,
            // 2: struct { int inum; } at 4
            0, info(STRUCT, 1), 8, INUM, 1, 32,
            // 3: typedef of 2
            NS, info(TYPEDEF, 0), 2,
            // 4: union { int ax; }
            0, info(UNION, 1), 4, AX, 1, 0,
            // 5: struct pt_regs { 3 ns; 4; int flag:3 }
            PT_REGS, info(STRUCT, 3) | 1 << 31, 32, NS, 3, 64, 0, 4, 128, FLAG, 1, 3 << 24 | 160,
            // 6: a function of that name, and one that is wanted
            PT_REGS, info(FUNC, 0), 0,
            SEMOP, info(FUNC, 0), 4,
        ];
        let found = offsets(btf(&types, NAMES), &["ns", "ns.inum", "ax", "flag", "ax.inum", "no"]);
        assert_eq!(found, [Some(8), Some(12), Some(16), None, None, None]);
        let types = BtfTypes::new(btf(&types, NAMES)).unwrap();
        let wanted = BTreeSet::from(["__x64_sys_semop", "__x64_sys_semget"]);
        let semop = Function { id: 7, prototype: 4 };
        assert_eq!(types.functions(&wanted), BTreeMap::from([("__x64_sys_semop", semop)]));
    }

    #[test]
    fn finds_iterator_functions_and_tracepoint_types() {
        let names = b"\0bpf_iter_task\0btf_trace_exit\0";
        #[rustfmt::skip]
        let types = [
            // The other's kind.
            1, info(TYPEDEF, 0), 0,
            15, info(FUNC, 0), 0,
            1, info(FUNC, 0), 0,
            15, info(TYPEDEF, 0), 0,
        ];
        let types = BtfTypes::new(btf(&types, names)).unwrap();
        let wanted = BTreeSet::from(["bpf_iter_task", "btf_trace_exit", "bpf_iter_none"]);
        let found = BTreeMap::from([("bpf_iter_task", 3), ("btf_trace_exit", 4)]);
        assert_eq!(types.hooks(&wanted), found);
    }

    /// On 5.10 there is a forward declaration of `pt_regs` besides the structure.
    #[test]
    fn forward_declaration_does_not_hide_structure() {
        let member = [AX, 0, 64];
        let structure = [&[PT_REGS, info(STRUCT, 1), 8][..], &member].concat();
        let forward = [PT_REGS, info(7, 0), 0];
        let found = offsets(btf(&[&structure[..], &forward].concat(), NAMES), &["ax"]);
        assert_eq!(found, [Some(8)]);
    }

    #[test]
    fn enumeration_has_its_values() {
        let types = [NS, info(ENUM, 2), 4, AX, 3, INUM, u32::MAX, FLAG, info(ENUM, 1), 4, AX, 7];
        let types = BtfTypes::new(btf(&types, NAMES)).unwrap();
        assert_eq!(types.enumerators("ns"), BTreeMap::from([(&b"ax"[..], 3), (b"inum", u32::MAX)]));
        assert_eq!(types.enumerators("no"), BTreeMap::new());
    }

    #[test]
    fn conflicting_structures_have_no_offset() {
        let at = |offset| [PT_REGS, info(STRUCT, 1), 16, AX, 0, offset];
        assert_eq!(offsets(btf(&[at(0), at(64)].concat(), NAMES), &["ax"]), [None]);
        assert_eq!(offsets(btf(&[at(64), at(64)].concat(), NAMES), &["ax"]), [Some(8)]);
    }

    #[test]
    fn recursive_types_terminate() {
        let types = [NS, info(TYPEDEF, 0), 1, PT_REGS, info(STRUCT, 2), 8, NS, 1, 0, 0, 2, 0];
        assert_eq!(offsets(btf(&types, NAMES), &["ns.ax", "ax"]), [None, None]);
    }

    #[test]
    fn structures_that_contain_themselves_take_linear_time() {
        let member = [0, 1, 0];
        let types = [&[PT_REGS, info(STRUCT, 3), 8][..], &member, &member, &member].concat();
        assert_eq!(offsets(btf(&types, NAMES), &["ax"]), [None]);
    }

    #[test]
    fn offsets_that_do_not_fit_are_none() {
        let nested = |id: u32| {
            [if id == 1 { PT_REGS } else { 0 }, info(STRUCT, 1), 8, 0, id + 1, u32::MAX - 7]
        };
        let mut types: Vec<u32> = (1..10).flat_map(nested).collect();
        types.extend([NS, info(STRUCT, 1), 8, AX, 0, u32::MAX - 7]);
        let alone = [PT_REGS, info(STRUCT, 1), 8, AX, 0, u32::MAX - 7];
        assert_eq!(offsets(btf(&types, NAMES), &["ax"]), [None]);
        assert_eq!(offsets(btf(&alone, NAMES), &["ax"]), [Some(u32::MAX / 8)]);
    }

    #[test]
    fn unknown_kind_is_named_error() {
        assert!(BtfTypes::new(btf(&[0, info(31, 0), 0], NAMES)).unwrap_err().contains("31"));
    }

    proptest! {
        #[test]
        fn bytes_after_the_sections_change_nothing(
            words in proptest::collection::vec(any::<u32>(), 0..64),
            strings in proptest::collection::vec(any::<u8>(), 0..32),
            cut in 0_usize..300,
        ) {
            let mut bytes = btf(&words, &strings);
            bytes.truncate(bytes.len().saturating_sub(cut));
            crate::fuzzing::btf(&bytes);
        }
    }
}
