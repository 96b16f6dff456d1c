//! Asks the running kernel how large the programs of a running tracer are.
//!
//! A program's own name in the kernel is cut to 15 bytes, and no longer unique then. Its symbol is
//! not: `bpf_prog_TAG_NAME` has the complete name of the function, where the program has BTF, else the cut
//! one (`bpf_get_prog_name`, kernel/bpf/core.c, 6.12); and the tag leads to it. That different programs
//! have different names is checked.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aya::programs::{ProgramInfo, loaded_programs};

use super::table::{Program, ProgramSize, Sizes};
use crate::tracer::{self, BackgroundProcess};

/// The commands whose programs differ: `report` shows no arguments.
pub(super) const MODES: [&str; 2] = ["live", "report"];

/// The programs that `tracer` loads with a backend, by these commands.
///
/// # Errors
///
/// When the tracer can't be run with it, or when the kernel doesn't report them.
pub(super) fn measure(tracer: &Path, backend: &str, modes: &[&str]) -> Result<Sizes> {
    let mut all = Sizes::new();
    for mode in modes {
        let sizes = of_mode(tracer, backend, mode);
        for (name, size) in sizes.with_context(|| format!("{mode} --backend {backend}"))? {
            let [backend, mode] = [backend, mode].map(str::to_owned);
            all.insert(Program { backend, mode, name }, size);
        }
    }
    Ok(all)
}

fn of_mode(program: &Path, backend: &str, mode: &str) -> Result<BTreeMap<String, ProgramSize>> {
    let mut command = tracer::command(program, mode, Some(backend));
    command.args(["-o", "json"]);
    let tracer = BackgroundProcess::tracing(command)?;
    let sizes = sizes_of(tracer.pid())?;
    tracer.end()?;
    Ok(sizes)
}

/// The programs that a process has descriptors of.
fn sizes_of(pid: u32) -> Result<BTreeMap<String, ProgramSize>> {
    let own = programs_of(pid)?;
    wait_for_namesakes(&own);
    // Other programs may be unloaded meanwhile; a missing one of the tracer's is an error below.
    let loaded = loaded_programs().filter_map(Result::ok);
    let loaded: Vec<_> = loaded.filter(|program| own.contains(&program.id())).collect();
    ensure!(loaded.len() == own.len(), "the kernel does not list all programs {own:?}");
    let names = names(&fs::read("/proc/kallsyms").context("cannot read /proc/kallsyms")?);
    let mut by_tag: BTreeMap<u64, Vec<&ProgramInfo>> = BTreeMap::new();
    for program in &loaded {
        by_tag.entry(program.tag()).or_default().push(program);
    }
    let mut sizes = BTreeMap::new();
    for (tag, programs) in by_tag {
        let named = names.get(&tag).with_context(|| {
            format!("no symbol of program {tag:016x}: is net.core.bpf_jit_kallsyms 0?")
        })?;
        // The same instructions have the same tag; which is which makes no difference then.
        ensure!(named.len() <= programs.len(), "{named:?} are {} programs", programs.len());
        let verified = programs.iter().filter_map(|p| p.verified_instruction_count()).max();
        let jited = programs.iter().map(|program| program.size_jitted()).max().unwrap_or(0);
        for name in named {
            // Programs of several functions differ in what they know of their calls: the largest counts.
            let size = sizes.entry(name.clone()).or_insert(ProgramSize { verified, jited });
            *size =
                ProgramSize { verified: size.verified.max(verified), jited: size.jited.max(jited) };
        }
    }
    Ok(sizes)
}

/// How long the programs of an earlier tracer may take to be unloaded.
const UNLOADED: Duration = Duration::from_secs(20);

/// Waits until no other program has the tag of one of these: a tag would lead to its name, too. An earlier tracer's
/// programs are unloaded some time after its end.
fn wait_for_namesakes(own: &BTreeSet<u32>) {
    let begin = Instant::now();
    while begin.elapsed() < UNLOADED {
        let loaded: Vec<_> = loaded_programs().filter_map(Result::ok).collect();
        let (ours, others): (Vec<_>, Vec<_>) =
            loaded.iter().partition(|program| own.contains(&program.id()));
        let tags: BTreeSet<_> = ours.iter().map(|program| program.tag()).collect();
        if !others.iter().any(|program| tags.contains(&program.tag())) {
            return;
        }
        thread::sleep(Duration::from_millis(50));
    }
}

fn programs_of(pid: u32) -> Result<BTreeSet<u32>> {
    let folder = format!("/proc/{pid}/fdinfo");
    let mut ids = BTreeSet::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {folder}"))? {
        // One that was closed in the meantime is no program.
        let Ok(info) = fs::read_to_string(entry?.path()) else { continue };
        // Descriptors of links name programs, too, but not their types.
        if info.lines().any(|line| line.starts_with("prog_type:")) {
            let id = info.lines().find_map(|line| line.strip_prefix("prog_id:"));
            ids.insert(id.context("a program without a number")?.trim().parse()?);
        }
    }
    Ok(ids)
}

/// The names of all programs, by tag. A line is `ADDRESS TYPE bpf_prog_TAG_NAME [bpf]`.
fn names(symbols: &[u8]) -> BTreeMap<u64, BTreeSet<String>> {
    let mut names: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
    for line in String::from_utf8_lossy(symbols).lines() {
        let symbol = line.split_whitespace().nth(2);
        let parts = symbol.and_then(|symbol| symbol.strip_prefix("bpf_prog_")?.split_once('_'));
        if let Some((tag, name)) = parts
            && line.ends_with("[bpf]")
            && let Ok(tag) = u64::from_str_radix(tag, 16)
        {
            names.entry(tag).or_default().insert(name.to_owned());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbols_name_programs() {
        let symbols = b"ffffffff814cf3b0 T bpf_prog_alloc\n\
            ffffffffc0025b94 t bpf_prog_b8efefdfab99040e_process_exit\t[bpf]\n\
            ffffffffc0029324 t bpf_prog_640092533bafd9af_sys_exit\t[bpf]\n\
            ffffffffc0029324 t bpf_prog_640092533bafd9af_sys_exit\t[bpf]\n\
            ffffffffc0029999 t bpf_trampoline_1\t[bpf]\n";
        let names = names(symbols);
        let of = |tag| names[&tag].iter().map(String::as_str).collect::<Vec<_>>();
        assert_eq!(of(0xb8ef_efdf_ab99_040e), ["process_exit"]);
        assert_eq!(of(0x6400_9253_3baf_d9af), ["sys_exit"]);
        assert_eq!(names.len(), 2);
    }
}
