//! bpf(2), as far as aya does not have it: programs of attach types that it does not know, loaded from
//! the object or written on the spot, their links, and arrays of programs.

use std::{
    collections::HashSet,
    ffi::CString,
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
};

use aya::{Ebpf, maps::Map};
use aya_obj::{
    Object,
    generated::{bpf_attach_type, bpf_attr, bpf_cmd, bpf_func_info, bpf_map_type, bpf_prog_type},
};

use super::owned;

/// A program that is to be loaded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Code<'a> {
    /// Its name, of which the kernel keeps 15 bytes
    pub(super) name: &'a str,
    pub(super) kind: bpf_prog_type,
    pub(super) attach: bpf_attach_type,
    /// For `BPF_PROG_TYPE_TRACING`: the function's type in the kernel's BTF; else 0
    pub(super) function: u32,
    /// Instructions, each eight bytes (include/uapi/linux/bpf.h, `struct bpf_insn`)
    pub(super) instructions: &'a [u64],
    /// Its functions' types: without them the verifier goes through each function on every way that
    /// leads there
    pub(super) types: Option<Types<'a>>,
}

/// Types of a program's functions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Types<'a> {
    btf: BorrowedFd<'a>,
    functions: &'a [bpf_func_info],
}

/// Why a program can't be loaded.
#[derive(Debug)]
pub(super) struct Refused {
    /// What the system call said
    pub(super) error: io::Error,
    /// What the verifier said
    log: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&super::attach::refusal(&self.error, &self.log))
    }
}

impl Code<'_> {
    /// Loads it.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub(super) fn load(self) -> Result<OwnedFd, Refused> {
        let mut attr = zeroed();
        // SAFETY: of an all-zero union, every member may be used.
        let load = unsafe { &mut attr.__bindgen_anon_3 };
        load.prog_type = self.kind as u32;
        load.expected_attach_type = self.attach as u32;
        load.attach_btf_id = self.function;
        load.insns = self.instructions.as_ptr() as u64;
        load.insn_cnt = self.instructions.len() as u32;
        load.license = c"Dual MIT/GPL".as_ptr() as u64;
        if let Some(types) = self.types {
            load.prog_btf_fd = types.btf.as_raw_fd().cast_unsigned();
            load.func_info = types.functions.as_ptr() as u64;
            load.func_info_cnt = types.functions.len() as u32;
            load.func_info_rec_size = size_of::<bpf_func_info>() as u32;
        }
        // The terminating NUL stays.
        for (to, from) in load.prog_name.iter_mut().take(15).zip(self.name.bytes()) {
            *to = from.cast_signed();
        }
        let error = match bpf(bpf_cmd::BPF_PROG_LOAD, &mut attr) {
            Ok(program) => return Ok(program),
            Err(error) => error,
        };
        // Once more, for what the verifier says.
        let mut log = vec![0u8; 1 << 16];
        // SAFETY: as above.
        let load = unsafe { &mut attr.__bindgen_anon_3 };
        load.log_level = 1;
        load.log_buf = log.as_mut_ptr() as u64;
        load.log_size = log.len() as u32;
        drop(bpf(bpf_cmd::BPF_PROG_LOAD, &mut attr));
        let log = String::from_utf8_lossy(&log);
        Err(Refused { error, log: log.trim_end_matches('\0').to_owned() })
    }
}

/// An object's programs, with the maps that aya has made for it.
#[derive(Debug)]
pub(super) struct Linked {
    object: Object,
    /// The object's types; `None`: the kernel takes none
    btf: Option<OwnedFd>,
}

impl Linked {
    /// Links `object`, which `ebpf` was loaded from.
    ///
    /// # Errors
    /// It does not fit the maps.
    pub(super) fn new(object: &[u8], ebpf: &Ebpf) -> Result<Self, String> {
        let mut object = Object::parse(object).map_err(|e| e.to_string())?;
        let maps = std::mem::take(&mut object.maps);
        let made = ebpf.maps().filter_map(|(name, map)| {
            let (name, of_object) = maps.get_key_value(name)?;
            Some((name.as_str(), descriptor(map)?, of_object))
        });
        let sections: HashSet<_> = object.functions.keys().map(|(section, _)| *section).collect();
        object.relocate_maps(made, &sections).map_err(|e| e.to_string())?;
        let btf = match aya::features().btf() {
            Some(features) => object.fixup_and_sanitize_btf(features).map_err(|e| e.to_string())?,
            None => None,
        };
        let btf = btf.map(|btf| load_types(&btf.to_bytes()));
        let btf = btf.transpose().map_err(|e| format!("the object's BTF: {e}"))?;
        object.relocate_calls(&sections).map_err(|e| e.to_string())?;
        Ok(Self { object, btf })
    }

    /// The instructions of a program, and the types of its functions.
    ///
    /// # Errors
    /// There is none of that name.
    pub(super) fn program(&self, name: &str) -> Result<(&[u64], Option<Types<'_>>), String> {
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
        let types = self.btf.as_ref().map(|btf| Types { btf: btf.as_fd(), functions });
        Ok((instructions, types.filter(|_| !functions.is_empty())))
    }
}

/// Gives types to the kernel.
fn load_types(btf: &[u8]) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    // SAFETY: of an all-zero union, every member may be used.
    let load = unsafe { &mut attr.__bindgen_anon_7 };
    load.btf = btf.as_ptr() as u64;
    load.btf_size = btf.len() as u32;
    bpf(bpf_cmd::BPF_BTF_LOAD, &mut attr)
}

/// A map's descriptor. `None`: a kind that the object has none of.
#[expect(clippy::wildcard_enum_match_arm, reason = "aya knows thirty kinds, and more to come")]
fn descriptor(map: &Map) -> Option<i32> {
    match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::PerCpuHashMap(data)
        | Map::RingBuf(data) => Some(data.fd().as_fd().as_raw_fd()),
        _ => None,
    }
}

/// An array with one program, for others to call.
///
/// # Errors
/// The kernel refuses.
pub(super) fn array_of(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    // SAFETY: of an all-zero union, every member may be used.
    let create = unsafe { &mut attr.__bindgen_anon_1 };
    create.map_type = bpf_map_type::BPF_MAP_TYPE_PROG_ARRAY as u32;
    (create.key_size, create.value_size, create.max_entries) = (4, 4, 1);
    let array = bpf(bpf_cmd::BPF_MAP_CREATE, &mut attr)?;
    let (key, value) = (0_u32, program.as_raw_fd());
    let mut attr = zeroed();
    // SAFETY: as above.
    let update = unsafe { &mut attr.__bindgen_anon_2 };
    update.map_fd = array.as_raw_fd().cast_unsigned();
    update.key = std::ptr::from_ref(&key) as u64;
    update.__bindgen_anon_1.value = std::ptr::from_ref(&value) as u64;
    if call(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr) != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(array)
}

/// Attaches a program to the function that it was loaded for.
///
/// # Errors
/// The kernel refuses.
pub(super) fn attach_tracing(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    attr.raw_tracepoint.prog_fd = program.as_raw_fd().cast_unsigned();
    bpf(bpf_cmd::BPF_RAW_TRACEPOINT_OPEN, &mut attr)
}

/// Attaches a program to all functions with these names, at their entries or their returns.
///
/// # Errors
/// The kernel refuses, or has not got all.
pub(super) fn attach_multi<'a>(
    program: BorrowedFd<'_>,
    functions: impl Iterator<Item = &'a str>,
    at_return: bool,
) -> io::Result<OwnedFd> {
    /// include/uapi/linux/bpf.h
    const BPF_F_KPROBE_MULTI_RETURN: u32 = 1;
    let names: Vec<_> = functions.filter_map(|name| CString::new(name).ok()).collect();
    let symbols: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
    let mut attr = zeroed();
    attr.link_create.__bindgen_anon_1.prog_fd = program.as_raw_fd().cast_unsigned();
    attr.link_create.attach_type = bpf_attach_type::BPF_TRACE_KPROBE_MULTI as u32;
    // SAFETY: of an all-zero union, every member may be used.
    let multi = unsafe { &mut attr.link_create.__bindgen_anon_3.kprobe_multi };
    multi.flags = if at_return { BPF_F_KPROBE_MULTI_RETURN } else { 0 };
    multi.cnt = symbols.len() as u32;
    multi.syms = symbols.as_ptr() as u64;
    bpf(bpf_cmd::BPF_LINK_CREATE, &mut attr)
}

fn zeroed() -> bpf_attr {
    // SAFETY: all zero is a valid value of every member of the union.
    unsafe { std::mem::zeroed() }
}

/// For commands that make a descriptor.
fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    owned(call(command, attr))
}

fn call(command: bpf_cmd, attr: &mut bpf_attr) -> libc::c_long {
    // SAFETY: the union is as large as said, and what it points to lives in the callers.
    unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as u32,
            std::ptr::from_mut(attr),
            size_of::<bpf_attr>(),
        )
    }
}
