//! `cargo xtask build`: the eBPF programs, then the program with it inside.
//!
//! Invariant: the flags of the eBPF programs are the same whoever asks for it, so that no command
//! makes another one build it anew. They deny warnings: dependencies are capped by cargo.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail};

use crate::toolchain::{self, Toolchain};

/// The builds of the eBPF programs: the feature which makes the difference, the file which it becomes,
/// and the environment variable which gives its path to ipc-trace's build script.
const OBJECTS: [(Option<&str>, &str, &str); 2] =
    [(None, "plain.o", "IPC_TRACE_EBPF_PLAIN"), (Some("probe"), "probe.o", "IPC_TRACE_EBPF_PROBE")];
/// The crates of the host's compiler, as cargo's options: always all of them, so that what they depend on has the same
/// features in each step of the tests, and is built once.
pub(crate) const TESTED_CRATES: [&str; 4] =
    ["--workspace", "--exclude", "ipc-trace-ebpf", "--all-features"];
/// The same crates as a plain `cargo build` has them.
pub(crate) const LEAN_CRATES: [&str; 3] = ["--workspace", "--exclude", "ipc-trace-ebpf"];
/// What the program that is built for use has beside the rest.
const FEATURES: &str = "sqlite,parquet";
const BPF_TARGET: &str = "bpfel-unknown-none";
/// Where the eBPF programs are built, in the workspace.
const EBPF: &str = "target/ebpf";

/// Options of `cargo xtask build`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct BuildArgs {
    /// Build only the eBPF programs
    #[arg(long)]
    kernel_only: bool,
}

/// What a build has made.
#[derive(Clone, Debug)]
pub(crate) struct Built {
    root: PathBuf,
    program: PathBuf,
}

impl Built {
    /// `target/release/ipc-trace`, as an absolute path.
    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    /// The workspace.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// `target`, which no build removes anything from.
    pub(crate) fn target(&self) -> PathBuf {
        self.root.join("target")
    }

    /// A cargo for the host's side of the workspace, which knows the eBPF programs.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = host_cargo(&self.root);
        for (_, name, variable) in OBJECTS {
            command.env(variable, self.root.join(EBPF).join(name));
        }
        command
    }
}

/// Runs `cargo xtask build`.
pub(crate) fn main(args: &BuildArgs) -> anyhow::Result<()> {
    let root = workspace_root()?;
    if args.kernel_only {
        kernel_side(&root, &toolchain::ensure(&root)?, false)?;
        for (_, name, _) in OBJECTS {
            println!("{}", root.join(EBPF).join(name).display());
        }
    } else {
        println!("{}", everything(&root, false)?.program().display());
    }
    Ok(())
}

/// Makes the toolchain available and builds both sides. `quiet` leaves out cargo's progress.
pub(crate) fn everything(root: &Path, quiet: bool) -> anyhow::Result<Built> {
    with_features(root, quiet, Some(FEATURES))
}

/// The same, but what only SQL and exports need is left out, which takes longest to compile.
pub(crate) fn lean(root: &Path, quiet: bool) -> anyhow::Result<Built> {
    with_features(root, quiet, None)
}

fn with_features(root: &Path, quiet: bool, features: Option<&str>) -> anyhow::Result<Built> {
    let toolchain = toolchain::ensure(root)?;
    kernel_side(root, &toolchain, quiet)?;
    let target = root.join("target");
    let built = Built { root: root.to_owned(), program: target.join("release/ipc-trace") };
    let mut command = built.cargo();
    command.args(["build", "--release", "--package", "ipc-trace"]).arg("--target-dir").arg(target);
    if let Some(features) = features {
        command.args(["--features", features]);
    }
    run_cargo(command, quiet, "ipc-trace")?;
    Ok(built)
}

fn kernel_side(root: &Path, toolchain: &Toolchain, quiet: bool) -> anyhow::Result<()> {
    let target = root.join(EBPF);
    for (feature, name, _) in OBJECTS {
        let mut command = toolchain.cargo();
        command
            .current_dir(root)
            .args(["build", "--release", "-Z", "build-std=core"])
            .args(["--target", BPF_TARGET])
            .args(["--manifest-path", "ipc-trace-ebpf/Cargo.toml"])
            .arg("--target-dir")
            .arg(&target)
            .env("CARGO_ENCODED_RUSTFLAGS", kernel_flags(toolchain.linker()));
        if let Some(feature) = feature {
            command.args(["--features", feature]);
        }
        run_cargo(command, quiet, "the eBPF programs")?;
        let made = target.join(BPF_TARGET).join("release/ipc-trace-ebpf");
        let bytes = fs::read(&made).with_context(|| format!("cannot read {}", made.display()))?;
        if !is_bpf_header(&bytes) {
            bail!("{} is not a BPF object; remove target/ebpf and build again", made.display());
        }
        let bytes = without_debug_info(&bytes)
            .with_context(|| format!("cannot strip {}", made.display()))?;
        // Only changes are written, so that cargo does not rebuild ipc-trace.
        let object = target.join(name);
        if fs::read(&object).ok().as_deref() != Some(&bytes) {
            fs::write(&object, &bytes)
                .with_context(|| format!("cannot write {}", object.display()))?;
        }
    }
    Ok(())
}

/// The object without DWARF, which is most of it, and which `--btf` asks the compiler for: loading would
/// read all of it at each start.
fn without_debug_info(object: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut builder = object::build::elf::Builder::read(object)?;
    for section in &mut builder.sections {
        let name = section.name.as_slice();
        section.delete = [&b".debug_"[..], b".rel.debug_"].iter().any(|of| name.starts_with(of));
    }
    // LLVM keeps the sections' names with the symbols'; here they have a table of their own.
    let names = builder.sections.add();
    names.name = b".shstrtab"[..].into();
    names.sh_type = object::elf::SHT_STRTAB;
    names.data = object::build::elf::SectionData::SectionString;
    builder.delete_orphans();
    let mut stripped = Vec::new();
    builder.write(&mut stripped)?;
    Ok(stripped)
}

/// The flags for rustc, as cargo wants them encoded. Scripts and macros, which run on the host,
/// do not get them, since a target is given.
fn kernel_flags(linker: &Path) -> OsString {
    let mut with_linker = OsString::from("-Clinker=");
    with_linker.push(linker);
    [
        // The architecture whose registers and structures the programs see.
        format!("--cfg=bpf_target_arch=\"{}\"", env::consts::ARCH).into(),
        "-Cdebuginfo=2".into(),
        "-Clink-arg=--btf".into(),
        with_linker,
        "-Dwarnings".into(),
    ]
    .join(OsStr::new("\x1f"))
}

/// Whether a file starts as an ELF relocatable for the BPF machine, little-endian.
fn is_bpf_header(bytes: &[u8]) -> bool {
    const CLASS_64_LITTLE_ENDIAN: [u8; 2] = [2, 1];
    const RELOCATABLE_FOR_BPF: [u8; 4] = [1, 0, 247, 0];
    bytes.starts_with(b"\x7fELF")
        && bytes.get(4..6) == Some(&CLASS_64_LITTLE_ENDIAN)
        && bytes.get(16..20) == Some(&RELOCATABLE_FOR_BPF)
}

fn run_cargo(mut command: Command, quiet: bool, what: &str) -> anyhow::Result<()> {
    if quiet {
        command.arg("--quiet");
    }
    let program = command.get_program().to_owned();
    let status = command
        .status()
        .with_context(|| format!("cannot run {} to build {what}", program.display()))?;
    if !status.success() {
        bail!("{what} did not build; the messages above say why");
    }
    Ok(())
}

/// The cargo which runs us, in the workspace.
pub(crate) fn host_cargo(root: &Path) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root);
    command
}

/// The workspace's folder.
///
/// # Errors
///
/// When it is no longer where cargo says, or said when this program was built.
pub(crate) fn workspace_root() -> anyhow::Result<PathBuf> {
    let manifest_dir = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    let root = manifest_dir.parent().unwrap_or(&manifest_dir);
    if !root.join("ipc-trace-ebpf/Cargo.toml").is_file() {
        bail!("{} is not the workspace of ipc-trace; run `cargo xtask` inside it", root.display());
    }
    Ok(root.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_separated_and_name_the_linker() {
        let flags = kernel_flags(Path::new("/a folder/bpf-linker"));
        let flags = flags.to_str().expect("UTF-8");
        let flags: Vec<&str> = flags.split('\x1f').collect();
        assert_eq!(flags.len(), 5);
        assert!(flags.contains(&"-Clinker=/a folder/bpf-linker"));
    }

    #[test]
    fn only_bpf_objects_are_taken() {
        let mut header = *b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x01\0\xf7\0";
        assert!(is_bpf_header(&header));
        header[18] = 0x3e;
        assert!(!is_bpf_header(&header));
        assert!(!is_bpf_header(b"\x7fELF"));
        assert!(!is_bpf_header(b""));
    }
}
