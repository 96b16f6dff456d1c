//! bpf(2): programs, including attach types that aya does not know, loaded from the object or generated; their links,
//! arrays of programs, and constants. aya handles the maps.

use std::{
    ffi::{CStr, CString},
    fs::File,
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
};

use aya_obj::generated::{
    bpf_attach_type, bpf_attr, bpf_cmd, bpf_func_info, bpf_map_type, bpf_prog_info, bpf_prog_type,
};

use super::owned;

/// A program to load.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProgramCode<'a> {
    /// Its name, of which the kernel keeps 15 bytes
    pub(super) name: &'a str,
    pub(super) kind: bpf_prog_type,
    /// A `bpf_attach_type`, which may be newer than those that aya knows
    pub(super) attach: u32,
    /// For `BPF_PROG_TYPE_TRACING`: the function's type in the kernel's BTF; else 0
    pub(super) function: u32,
    /// Instructions, each eight bytes (include/uapi/linux/bpf.h, `struct bpf_insn`)
    pub(super) instructions: &'a [u64],
    /// Its functions' types: without them the verifier checks each function once for each path that calls it
    pub(super) types: Option<FunctionTypes<'a>>,
}

/// Types of a program's functions.
#[derive(Clone, Copy, Debug)]
pub(super) struct FunctionTypes<'a> {
    pub(super) btf: BorrowedFd<'a>,
    pub(super) functions: &'a [bpf_func_info],
}

/// Why a program can't be loaded.
#[derive(Debug)]
pub(super) struct Refused {
    /// The system call's error
    pub(super) error: io::Error,
    /// The verifier's log
    log: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&refusal(&self.error, &self.log))
    }
}

impl ProgramCode<'_> {
    /// Loads the program.
    ///
    /// # Errors
    /// The kernel rejects it.
    pub(super) fn load(self) -> Result<OwnedFd, Refused> {
        let mut attr = zeroed();
        // SAFETY: of an all-zero union, every member may be used.
        let load = unsafe { &mut attr.__bindgen_anon_3 };
        load.prog_type = self.kind as u32;
        load.expected_attach_type = self.attach;
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
        // Once more, to get the verifier's log.
        let mut log = vec![0u8; 1 << 20];
        // SAFETY: as above.
        let load = unsafe { &mut attr.__bindgen_anon_3 };
        load.log_level = 1;
        load.log_buf = log.as_mut_ptr() as u64;
        load.log_size = log.len() as u32;
        drop(bpf(bpf_cmd::BPF_PROG_LOAD, &mut attr));
        // After the end may be text that the verifier discarded (`bpf_vlog_reset`, kernel/bpf/log.c).
        let log = log.split(|byte| *byte == 0).next().unwrap_or_default();
        let log = String::from_utf8_lossy(log).into_owned();
        Err(Refused { error, log })
    }
}

/// Loads types into the kernel.
///
/// # Errors
/// The kernel rejects them.
pub(super) fn load_types(btf: &[u8]) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    // SAFETY: of an all-zero union, every member may be used.
    let load = unsafe { &mut attr.__bindgen_anon_7 };
    load.btf = btf.as_ptr() as u64;
    load.btf_size = btf.len() as u32;
    bpf(bpf_cmd::BPF_BTF_LOAD, &mut attr)
}

/// Writes the only value of an array.
///
/// # Errors
/// The kernel refuses.
pub(super) fn fill(array: BorrowedFd<'_>, value: &[u8]) -> io::Result<()> {
    update(array, value.as_ptr() as u64)
}

/// Freezes an array: the verifier then knows its contents.
///
/// # Errors
/// The kernel refuses.
pub(super) fn freeze(array: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = zeroed();
    attr.__bindgen_anon_2.map_fd = array.as_raw_fd().cast_unsigned();
    done(bpf_cmd::BPF_MAP_FREEZE, &mut attr)
}

fn update(array: BorrowedFd<'_>, value: u64) -> io::Result<()> {
    let key = 0_u32;
    let mut attr = zeroed();
    // SAFETY: of an all-zero union, every member may be used.
    let update = unsafe { &mut attr.__bindgen_anon_2 };
    update.map_fd = array.as_raw_fd().cast_unsigned();
    update.key = std::ptr::from_ref(&key) as u64;
    update.__bindgen_anon_1.value = value;
    done(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr)
}

/// Creates an array with one program, for other programs to call.
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
    let value = program.as_raw_fd();
    update(array.as_fd(), std::ptr::from_ref(&value) as u64)?;
    Ok(array)
}

/// Attaches a program to the function or tracepoint that it was loaded for.
///
/// # Errors
/// The kernel refuses.
pub(super) fn attach_tracing(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    attach_raw(program, None)
}

/// Attaches a program to a tracepoint; `None`: the one that it was loaded for.
///
/// # Errors
/// The kernel refuses.
pub(super) fn attach_raw(
    program: BorrowedFd<'_>,
    tracepoint: Option<&CStr>,
) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    attr.raw_tracepoint.name = tracepoint.map_or(0, |name| name.as_ptr() as u64);
    attr.raw_tracepoint.prog_fd = program.as_raw_fd().cast_unsigned();
    bpf(bpf_cmd::BPF_RAW_TRACEPOINT_OPEN, &mut attr)
}

/// As [`attach_tracing`], with a cookie that the program can read. Tracepoints support cookies since 6.10.
///
/// # Errors
/// The kernel refuses.
pub(super) fn attach_with_cookie(program: BorrowedFd<'_>, cookie: u64) -> io::Result<OwnedFd> {
    /// The end of `raw_tracepoint` in `union bpf_attr` (include/uapi/linux/bpf.h).
    const COOKIE: usize = 2;
    let mut attr = zeroed();
    attr.raw_tracepoint.prog_fd = program.as_raw_fd().cast_unsigned();
    // SAFETY: the union is longer than three words, and aligned to one.
    unsafe { std::ptr::from_mut(&mut attr).cast::<u64>().add(COOKIE).write(cookie) };
    bpf(bpf_cmd::BPF_RAW_TRACEPOINT_OPEN, &mut attr)
}

/// Attaches a program to functions by their types in the kernel's BTF, with a cookie for each; `attach`: the attach
/// type that it was loaded with.
///
/// # Errors
/// The kernel refuses.
pub(super) fn attach_tracing_multi(
    program: BorrowedFd<'_>,
    attach: u32,
    functions: &[u32],
    cookies: &[u64],
) -> io::Result<OwnedFd> {
    /// `link_create.tracing_multi` (include/uapi/linux/bpf.h, 7.3), from the third word of `union bpf_attr` on.
    const MULTI: usize = 2;
    let mut attr = zeroed();
    attr.link_create.__bindgen_anon_1.prog_fd = program.as_raw_fd().cast_unsigned();
    attr.link_create.attach_type = attach;
    let multi = [functions.as_ptr() as u64, cookies.as_ptr() as u64, functions.len() as u64];
    // SAFETY: the union is longer than five words, and aligned to one. The number is 32-bit; little-endian.
    unsafe { std::ptr::from_mut(&mut attr).cast::<[u64; 3]>().byte_add(MULTI * 8).write(multi) };
    bpf(bpf_cmd::BPF_LINK_CREATE, &mut attr)
}

/// Opens an iterator's output.
///
/// # Errors
/// The kernel refuses.
pub(super) fn iterate(program: BorrowedFd<'_>) -> io::Result<File> {
    let mut attr = zeroed();
    attr.link_create.__bindgen_anon_1.prog_fd = program.as_raw_fd().cast_unsigned();
    attr.link_create.attach_type = bpf_attach_type::BPF_TRACE_ITER as u32;
    let link = bpf(bpf_cmd::BPF_LINK_CREATE, &mut attr)?;
    let mut attr = zeroed();
    attr.iter_create.link_fd = link.as_raw_fd().cast_unsigned();
    Ok(bpf(bpf_cmd::BPF_ITER_CREATE, &mut attr)?.into())
}

/// Attaches a program to all functions with these names, at their entries or their returns.
///
/// # Errors
/// The kernel refuses, or lacks one of the functions.
pub(super) fn attach_multi(
    program: BorrowedFd<'_>,
    functions: &[&str],
    cookies: &[u64],
    at_return: bool,
) -> io::Result<OwnedFd> {
    /// include/uapi/linux/bpf.h
    const BPF_F_KPROBE_MULTI_RETURN: u32 = 1;
    let names: Vec<_> = functions.iter().filter_map(|name| CString::new(*name).ok()).collect();
    let symbols: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
    let mut attr = zeroed();
    attr.link_create.__bindgen_anon_1.prog_fd = program.as_raw_fd().cast_unsigned();
    attr.link_create.attach_type = bpf_attach_type::BPF_TRACE_KPROBE_MULTI as u32;
    // SAFETY: of an all-zero union, every member may be used.
    let multi = unsafe { &mut attr.link_create.__bindgen_anon_3.kprobe_multi };
    multi.flags = if at_return { BPF_F_KPROBE_MULTI_RETURN } else { 0 };
    multi.cnt = symbols.len() as u32;
    multi.syms = symbols.as_ptr() as u64;
    if cookies.len() == symbols.len() {
        multi.cookies = cookies.as_ptr() as u64;
    }
    bpf(bpf_cmd::BPF_LINK_CREATE, &mut attr)
}

/// What the kernel says of a program. `recursion_misses` is there since 5.12, and 0 before.
///
/// # Errors
/// The kernel refuses.
pub(super) fn program_info(program: BorrowedFd<'_>) -> io::Result<bpf_prog_info> {
    // SAFETY: a structure of numbers, of which zeros ask for no arrays.
    let mut info: bpf_prog_info = unsafe { std::mem::zeroed() };
    let mut attr = zeroed();
    attr.info.bpf_fd = program.as_raw_fd().cast_unsigned();
    attr.info.info_len = size_of::<bpf_prog_info>() as u32;
    attr.info.info = std::ptr::from_mut(&mut info) as u64;
    done(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info)
}

/// How often fprobe itself could not run a link's program: later kernels count this among the program's own misses.
/// Since 6.7; before that 0 (`bpf_kprobe_multi_link_fill_link_info`, kernel/trace/bpf_trace.c, 6.12).
///
/// # Errors
/// The kernel refuses.
pub(super) fn multi_missed(link: BorrowedFd<'_>) -> io::Result<u64> {
    /// `struct bpf_link_info` (include/uapi/linux/bpf.h), up to the last field that is needed.
    #[repr(C)]
    #[derive(Default)]
    struct BpfLinkInfo {
        kind: u32,
        id: u32,
        program: u32,
        addresses: u64,
        count: u32,
        flags: u32,
        missed: u64,
    }
    let mut info = BpfLinkInfo::default();
    let mut attr = zeroed();
    attr.info.bpf_fd = link.as_raw_fd().cast_unsigned();
    attr.info.info_len = size_of::<BpfLinkInfo>() as u32;
    attr.info.info = std::ptr::from_mut(&mut info) as u64;
    done(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info.missed)
}

fn zeroed() -> bpf_attr {
    // SAFETY: all zero is a valid value of every member of the union.
    unsafe { std::mem::zeroed() }
}

/// For commands that return no descriptor.
fn done(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<()> {
    if call(command, attr) == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// For commands that return a descriptor.
fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    owned(call(command, attr))
}

fn call(command: bpf_cmd, attr: &mut bpf_attr) -> libc::c_long {
    // SAFETY: the size is the union's, and the callers keep alive what it points to.
    unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as u32,
            std::ptr::from_mut(attr),
            size_of::<bpf_attr>(),
        )
    }
}

/// The error in one line, with the last line of the verifier's log.
pub(super) fn refusal(error: &io::Error, log: &str) -> String {
    let complaint = log.lines().rev().map(str::trim).find(|l| {
        !l.is_empty()
            && !l.starts_with("processed")
            && !l.starts_with("stack depth")
            && !l.starts_with("verification time")
    });
    match complaint {
        Some(complaint) => format!("the kernel refused it: {error} ({complaint})"),
        None => format!("the kernel refused it: {error}, without a word by the verifier"),
    }
}
