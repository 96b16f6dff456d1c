//! Loads the eBPF programs' object: sets its constants, creates its maps, and prepares its programs for loading. It
//! works like aya's loader, but without parsing the kernel's entire BTF each time.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
};

use aya::maps::{Map, MapData, MapError};
use aya_obj::{
    EbpfSectionKind, Object,
    generated::{bpf_attach_type, bpf_insn, bpf_map_type, bpf_prog_type},
};
use ipc_trace_common::{hooks::patch, layout::ABSENT, state::BatchSlot};

use super::{
    bpf::{self, FunctionTypes, ProgramCode},
    error::{SessionError, map_error},
    field_offsets::{Cast, Layout},
    mmap::Words,
    ring::KernelRing,
};

/// Settings for loading an object.
#[derive(Debug, Default)]
pub(super) struct Settings<'a> {
    /// Constants, by name
    pub(super) constants: HashMap<&'a str, &'a [u8]>,
    /// The offsets of kernel structures' fields, by the numbers of `Field`
    pub(super) fields: Vec<u32>,
    /// How programs read any address with plain loads, if they can
    pub(super) cast: Option<Cast>,
    /// The number of entries of maps, if it differs from the object's
    pub(super) entries: BTreeMap<&'a str, u32>,
}

/// An object with its maps.
#[derive(Debug)]
pub(super) struct LoadedObject {
    object: Object,
    /// The object's types; `None`: the kernel rejects them
    btf: Option<OwnedFd>,
    maps: HashMap<String, Map>,
}

impl LoadedObject {
    /// Creates the maps of the object in `bytes`.
    ///
    /// # Errors
    /// It isn't an object, or the kernel does not create its maps.
    pub(super) fn new(bytes: &[u8], settings: &Settings<'_>) -> Result<Self, String> {
        let mut object = Object::parse(bytes).map_err(|e| e.to_string())?;
        let constants = settings.constants.iter().map(|(name, value)| (*name, (*value, true)));
        object.patch_map_data(constants.collect()).map_err(|e| e.to_string())?;
        let btf = match aya::features().btf() {
            Some(features) => object.fixup_and_sanitize_btf(features).map_err(|e| e.to_string())?,
            None => None,
        };
        let btf = btf.map(|btf| bpf::load_types(&btf.to_bytes()));
        let btf = btf.transpose().map_err(|e| format!("the object's BTF: {e}"))?;
        let of_object = std::mem::take(&mut object.maps);
        let mut maps = HashMap::new();
        for (name, map) in &of_object {
            let made = make(name, map.clone(), &btf, settings);
            maps.insert(name.clone(), made.map_err(|reason| format!("map {name}: {reason}"))?);
        }
        let sections: HashSet<_> = object.functions.keys().map(|(section, _)| *section).collect();
        let made = of_object.iter().filter_map(|(name, map)| {
            Some((name.as_str(), maps.get(name)?.fd().as_fd().as_raw_fd(), map))
        });
        object.relocate_maps(made, &sections).map_err(|e| e.to_string())?;
        object.relocate_calls(&sections).map_err(|e| e.to_string())?;
        let functions = object.functions.values_mut();
        for instruction in functions.flat_map(|function| &mut function.instructions) {
            patch_instruction(instruction, settings)?;
        }
        let mut linked = Self { object, btf, maps: HashMap::new() };
        for (name, map) in maps {
            let kind = of_object.get(&name).map_or(0, aya_obj::Map::map_type);
            let typed = typed(kind, map).map_err(|reason| format!("map {name}: {reason}"))?;
            linked.maps.insert(name, typed);
        }
        Ok(linked)
    }

    /// Removes a map. Programs that are loaded later refer to it by its descriptor: it must stay open.
    ///
    /// # Errors
    /// The object has no such map, or it is of another kind.
    pub(super) fn take<T: TryFrom<Map, Error = MapError>>(
        &mut self,
        name: &'static str,
    ) -> Result<T, SessionError> {
        let map = self.maps.remove(name).ok_or_else(|| none_of(name))?;
        T::try_from(map).map_err(|e| map_error(name, &e))
    }

    /// Borrows a map.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub(super) fn map<'a, T: TryFrom<&'a mut Map, Error = MapError>>(
        &'a mut self,
        name: &'static str,
    ) -> Result<T, SessionError> {
        let map = self.maps.get_mut(name).ok_or_else(|| none_of(name))?;
        T::try_from(map).map_err(|e| map_error(name, &e))
    }

    /// The words of an array, mapped into memory.
    ///
    /// # Errors
    /// As [`Self::take`], or it can't be mapped.
    pub(super) fn words(&mut self, name: &'static str, len: usize) -> Result<Words, SessionError> {
        let error = |reason: String| SessionError::Map { name, reason };
        match self.maps.remove(name) {
            Some(Map::Array(map)) => Words::new(map, len).map_err(|e| error(format!("mmap: {e}"))),
            _ => Err(error("it is not in the object, or no array".to_owned())),
        }
    }

    /// A ring buffer.
    ///
    /// # Errors
    /// As [`Self::words`].
    pub(super) fn ring(&mut self, name: &'static str) -> Result<KernelRing, SessionError> {
        let error =
            |e: io::Error| SessionError::Map { name, reason: format!("its positions: {e}") };
        KernelRing::new(self.take(name)?).map_err(error)
    }

    /// The instructions of a program, and the types of its functions.
    ///
    /// # Errors
    /// There is no such program.
    pub(super) fn program(
        &self,
        name: &str,
    ) -> Result<(&[u64], Option<FunctionTypes<'_>>), String> {
        let functions = &self.object.functions;
        let program = self.object.programs.get(name);
        let function = program.and_then(|program| functions.get(&program.function_key()));
        let function = function.ok_or_else(|| format!("program {name} is not in the object"))?;
        let all = &function.instructions;
        const { assert!(size_of::<aya_obj::generated::bpf_insn>() == size_of::<u64>()) };
        assert!(all.as_ptr().cast::<u64>().is_aligned());
        // SAFETY: an instruction is as long as that, and any eight bytes are a number.
        let instructions = unsafe { std::slice::from_raw_parts(all.as_ptr().cast(), all.len()) };
        let functions = function.func_info.func_info.as_slice();
        let types = self.btf.as_ref().map(|btf| FunctionTypes { btf: btf.as_fd(), functions });
        Ok((instructions, types.filter(|_| !functions.is_empty())))
    }

    /// Loads a program. `hook`: its type in the kernel's BTF, if its kind needs one.
    ///
    /// # Errors
    /// The kernel rejects it.
    pub(super) fn load(
        &self,
        name: &str,
        kind: bpf_prog_type,
        attach: bpf_attach_type,
        hook: u32,
    ) -> Result<OwnedFd, String> {
        let (instructions, types) = self.program(name)?;
        let attach = attach as u32;
        let code = ProgramCode { name, kind, attach, function: hook, instructions, types };
        code.load().map_err(|refused| refused.to_string())
    }

    /// Loads an iterator over the objects that `over` names.
    ///
    /// # Errors
    /// The kernel has no such iterator, or rejects the program.
    pub(super) fn iterator(
        &self,
        name: &str,
        over: &str,
        layout: &Layout,
    ) -> Result<OwnedFd, String> {
        let hook = layout.hook(&format!("bpf_iter_{over}"))?;
        let kind = bpf_prog_type::BPF_PROG_TYPE_TRACING;
        self.load(name, kind, bpf_attach_type::BPF_TRACE_ITER, hook)
    }
}

/// include/uapi/linux/bpf.h
const BPF_PSEUDO_KFUNC_CALL: u8 = 2;

/// Replaces a placeholder of [`patch`].
///
/// # Errors
/// A field lies further from its structure's beginning than an instruction can say.
fn patch_instruction(instruction: &mut bpf_insn, settings: &Settings<'_>) -> Result<(), String> {
    /// `BPF_JMP | BPF_CALL`
    const CALL: u8 = 0x85;
    /// `BPF_ALU64 | BPF_MOV | BPF_K`
    const MOVE: u8 = 0xb7;
    /// The class of an instruction, and that of loads through a register (`BPF_LDX`)
    const CLASS: u8 = 7;
    const LOAD: u8 = 1;
    let field = |number: i32, first: i32| {
        let at = usize::try_from(number.checked_sub(first)?).ok()?;
        settings.fields.get(at).copied()
    };
    match instruction.code {
        CALL if instruction.src_reg() == 0 && instruction.imm == patch::CAST.cast_signed() => {
            if let Some(cast) = settings.cast {
                instruction.set_src_reg(BPF_PSEUDO_KFUNC_CALL);
                instruction.imm = cast.function.cast_signed();
            }
        }
        MOVE => {
            if let Some(offset) = field(instruction.imm, patch::OFFSET.cast_signed()) {
                instruction.imm = offset.cast_signed();
            }
        }
        code if code & CLASS == LOAD => {
            match field(instruction.off.into(), patch::LOAD.into()) {
                // The programs don't get there.
                Some(ABSENT) => instruction.off = 0,
                Some(offset) => {
                    instruction.off = i16::try_from(offset)
                        .map_err(|_| format!("a field at offset {offset}, beyond 32767"))?;
                }
                None => {}
            }
        }
        _ => {}
    }
    Ok(())
}

fn none_of(name: &'static str) -> SessionError {
    SessionError::Map { name, reason: "it is not in the object".to_owned() }
}

/// A map as its aya type.
fn typed(kind: u32, map: MapData) -> Result<Map, String> {
    match bpf_map_type::try_from(kind) {
        Ok(bpf_map_type::BPF_MAP_TYPE_ARRAY) => Ok(Map::Array(map)),
        Ok(bpf_map_type::BPF_MAP_TYPE_HASH) => Ok(Map::HashMap(map)),
        Ok(bpf_map_type::BPF_MAP_TYPE_LRU_HASH) => Ok(Map::LruHashMap(map)),
        Ok(bpf_map_type::BPF_MAP_TYPE_RINGBUF) => Ok(Map::RingBuf(map)),
        _ => Err(format!("its kind, {kind}, is none that is expected")),
    }
}

/// The section of the gate: the eBPF programs read it as a variable, and user space writes to it in mapped memory.
pub(super) const GATE: &str = ".data.gate";
/// The section of threads' batches, likewise.
pub(super) const BATCHES: &str = ".bss.batches";
/// include/uapi/linux/bpf.h
const BPF_F_MMAPABLE: u32 = 1 << 10;

/// Creates a map, and fills it if it holds constants or variables.
fn make(
    name: &str,
    mut map: aya_obj::Map,
    btf: &Option<OwnedFd>,
    settings: &Settings<'_>,
) -> Result<MapData, String> {
    match (settings.entries.get(name), &mut map) {
        (Some(entries), aya_obj::Map::Legacy(map)) if name == BATCHES => {
            map.def.value_size = *entries * size_of::<BatchSlot>() as u32;
        }
        (Some(entries), map) => map.set_max_entries(*entries),
        (None, _) => {}
    }
    if let (aya_obj::Map::Legacy(map), true) = (&mut map, name == GATE || name == BATCHES) {
        map.def.map_flags |= BPF_F_MMAPABLE;
    }
    let btf = btf.as_ref().map(|btf| btf.as_fd());
    let (data, section) = (map.data().to_owned(), map.section_kind());
    let made = MapData::create(map, name, btf).map_err(|e| crate::with_causes(&e))?;
    // New memory is zeroed.
    if !data.is_empty() && section != EbpfSectionKind::Bss {
        bpf::fill(made.fd().as_fd(), &data).map_err(|e| format!("writing to it: {e}"))?;
    }
    if section == EbpfSectionKind::Rodata {
        bpf::freeze(made.fd().as_fd()).map_err(|e| format!("making it constant: {e}"))?;
    }
    Ok(made)
}
