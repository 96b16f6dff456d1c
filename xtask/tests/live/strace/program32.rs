//! A 32-bit program, made here of bytes, so that neither a compiler nor a library for it is needed.
//!
//! It is one segment of code and data at a fixed address, makes a list of system calls by
//! `int 0x80`, and exits. It checks no results: the tracers report them.

/// Where the program lies: where linkers put those of i386.
const BASE: u32 = 0x0804_8000;
/// Of the header and its only program header (elf(5), 32-bit).
const HEADERS: u32 = 52 + 32;
/// Where the data is, and all that the program has.
const DATA: u32 = BASE + 0x4000;
const SIZE: u32 = 0x8000;
/// Results are stored from here on.
const RESULTS: u32 = DATA + 0x1000;

/// arch/x86/entry/syscalls/syscall_32.tbl
const EXIT: u32 = 1;

/// What a system call is given.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Word {
    /// A number
    Number(u32),
    /// An address in the data
    Data(u32),
    /// What lies at an address in the data
    Stored(u32),
    /// What a call before it returned, counted from the first
    Result(u32),
}

/// A system call: its number, and its arguments.
pub(crate) type Syscall32 = (u32, Vec<Word>);

/// The program that makes these calls. `data` is copied to the beginning of its data.
///
/// # Panics
///
/// When it is too long.
pub(crate) fn program(calls: &[Syscall32], data: &[u8]) -> Vec<u8> {
    let mut code = Vec::new();
    for (at, (number, words)) in calls.iter().enumerate() {
        // The numbers that machine code has for ebx, ecx, edx, esi, edi and ebp.
        for (register, word) in [3, 1, 2, 6, 7, 5].into_iter().zip(words) {
            load(&mut code, register, *word);
        }
        load(&mut code, 0, Word::Number(*number));
        // int 0x80; mov [address], eax
        code.extend([0xcd, 0x80, 0xa3]);
        code.extend((RESULTS + 4 * at as u32).to_le_bytes());
    }
    load(&mut code, 0, Word::Number(EXIT));
    load(&mut code, 3, Word::Number(0));
    code.extend([0xcd, 0x80]);
    let mut file = headers();
    file.extend(code);
    assert!(BASE as usize + file.len() <= DATA as usize, "too many calls");
    file.resize((DATA - BASE) as usize, 0);
    assert!(data.len() <= (RESULTS - DATA) as usize, "too much data");
    file.extend(data);
    file.resize((RESULTS - BASE) as usize, 0);
    file
}

fn load(code: &mut Vec<u8>, register: u8, word: Word) {
    let value = match word {
        Word::Number(number) => number,
        Word::Data(offset) => DATA + offset,
        Word::Stored(offset) => return load_from(code, register, DATA + offset),
        Word::Result(call) => return load_from(code, register, RESULTS + 4 * call),
    };
    // mov register, value
    code.push(0xb8 + register);
    code.extend(value.to_le_bytes());
}

/// mov register, [address]
fn load_from(code: &mut Vec<u8>, register: u8, address: u32) {
    code.extend([0x8b, register << 3 | 5]);
    code.extend(address.to_le_bytes());
}

fn headers() -> Vec<u8> {
    let mut bytes = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    // ET_EXEC, EM_386.
    bytes.extend([2, 3].map(u16::to_le_bytes).concat());
    // Version, entry, program headers, no section headers, no flags.
    bytes.extend([1, BASE + HEADERS, 52, 0, 0].map(u32::to_le_bytes).concat());
    // Sizes and numbers of headers.
    bytes.extend([52, 32, 1, 40, 0, 0].map(u16::to_le_bytes).concat());
    // PT_LOAD: offset, addresses, sizes in file and memory, rwx, alignment.
    let load = [1, 0, BASE, BASE, RESULTS - BASE, SIZE, 7, 0x1000];
    bytes.extend(load.map(u32::to_le_bytes).concat());
    bytes
}
