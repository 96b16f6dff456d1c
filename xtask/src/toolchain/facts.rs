//! The parts of an eBPF toolchain that this machine has.
//!
//! Invariant: gathering changes nothing; nothing is downloaded or installed.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::apt::find_on_path;

use super::{
    clear_cargo_env,
    recipe::{Recipe, llvm_prefix},
    release::{Release, RustVersion},
};

/// The cargo of Debian's packages; never the one which `PATH` gives.
pub(super) const DEBIAN_CARGO: &str = "/usr/bin/cargo";
/// The rustc of Debian's packages.
pub(super) const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
/// The sources of the standard library, where `DEBIAN_RUSTC` expects them.
const DEBIAN_SOURCES: &str = "/usr/lib/rustlib/src/rust";

/// What decides where the toolchain comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ToolchainFacts {
    /// rustup has a nightly toolchain.
    pub(super) nightly: bool,
    /// That nightly toolchain has the sources of `core`.
    pub(super) nightly_sources: bool,
    /// The `bpf-linker` on `PATH`.
    pub(super) path_linker: Option<PathBuf>,
    /// Debian or a derivative, with apt-get.
    pub(super) debian: bool,
    /// May install packages.
    pub(super) root: bool,
    /// The version of `/usr/bin/rustc`, when `/usr/bin/cargo` is there as well.
    pub(super) debian_rust: Option<RustVersion>,
    /// The sources of `core` of that very compiler are there.
    pub(super) debian_sources: bool,
    /// The files for linking with that compiler's LLVM are there.
    pub(super) llvm_dev: bool,
    /// A `bpf-linker` built earlier for that compiler's LLVM, and which runs.
    pub(super) built_linker: Option<PathBuf>,
}

impl ToolchainFacts {
    /// Gathers them. Stops at the first complete toolchain, for speed.
    pub(super) fn gather(workspace: &Path) -> Self {
        let mut facts = Self {
            root: nix::unistd::geteuid().is_root(),
            path_linker: find_on_path("bpf-linker"),
            ..Self::default()
        };
        if let Some(sysroot) = nightly_sysroot() {
            facts.nightly = true;
            facts.nightly_sources = sysroot.join("lib/rustlib/src/rust/library/core").is_dir();
            if facts.nightly_sources && facts.path_linker.is_some() {
                return facts;
            }
        }
        facts.debian = fs::read_to_string("/etc/os-release").is_ok_and(|text| is_debian(&text))
            && find_on_path("apt-get").is_some();
        if !facts.debian {
            return facts;
        }
        facts.debian_rust = debian_rust();
        if let Some(rust) = facts.debian_rust {
            facts.debian_sources = sources_of(Path::new(DEBIAN_SOURCES), rust.release);
            facts.llvm_dev = Path::new(&llvm_prefix(rust.llvm)).join("lib/libLLVM.so").exists();
            facts.built_linker = Recipe::for_llvm(rust.llvm).and_then(|recipe| {
                linker_homes(workspace)
                    .iter()
                    .map(|home| recipe.binary_in(home))
                    .find(|binary| linker_runs(binary))
            });
        }
        facts
    }
}

/// The folders which built linkers are kept in, the preferred one first.
pub(super) fn linker_homes(workspace: &Path) -> Vec<PathBuf> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .map(|cache| cache.join("ipc-trace"))
        .into_iter()
        .chain([workspace.join("target/toolchain")])
        .collect()
}

/// Whether this `bpf-linker` is there and its LLVM still is.
pub(super) fn linker_runs(binary: &Path) -> bool {
    binary.is_file() && output_of(Command::new(binary).arg("--version")).is_some()
}

fn nightly_sysroot() -> Option<PathBuf> {
    let mut command = Command::new("rustup");
    clear_cargo_env(&mut command);
    // `rustup run` installs nothing by default.
    command.args(["run", "nightly", "rustc", "--print", "sysroot"]).env("RUSTUP_AUTO_INSTALL", "0");
    Some(PathBuf::from(output_of(&mut command)?.trim_end()))
}

fn debian_rust() -> Option<RustVersion> {
    if !Path::new(DEBIAN_CARGO).exists() {
        return None;
    }
    let mut command = Command::new(DEBIAN_RUSTC);
    clear_cargo_env(&mut command);
    parse_rustc_version(&output_of(command.arg("-vV"))?)
}

/// The standard output of a command, when it can be run and succeeds.
fn output_of(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether the sources are there and not those of another release. Debian's are a link to a
/// folder named `rustc-1.2.3`.
fn sources_of(folder: &Path, release: Release) -> bool {
    if !folder.join("library/core").is_dir() {
        return false;
    }
    let named = fs::canonicalize(folder).ok().and_then(|path| {
        let name = path.file_name()?.to_str()?;
        name.strip_prefix("rustc-")?.parse().ok()
    });
    named.is_none_or(|named: Release| named == release)
}

/// Reads the output of `rustc -vV`.
fn parse_rustc_version(text: &str) -> Option<RustVersion> {
    let field =
        |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    Some(RustVersion {
        release: field("release")?.parse().ok()?,
        llvm: field("LLVM version")?.split('.').next()?.parse().ok()?,
    })
}

/// Whether this os-release file is that of Debian or of a derivative.
fn is_debian(os_release: &str) -> bool {
    os_release
        .lines()
        .filter_map(|line| line.split_once('='))
        .filter(|(key, _)| matches!(*key, "ID" | "ID_LIKE"))
        .flat_map(|(_, value)| value.trim_matches(['"', '\'']).split_ascii_whitespace())
        .any(|id| id == "debian")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rustc_version_is_read() {
        let text = "rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)\n\
                    binary: rustc\nhost: x86_64-unknown-linux-gnu\nrelease: 1.96.0\n\
                    LLVM version: 22.1.8\n";
        let expected = RustVersion { release: Release(1, 96, 0), llvm: 22 };
        assert_eq!(parse_rustc_version(text), Some(expected));
    }

    #[test]
    fn rustc_version_of_a_nightly_is_read() {
        let version = parse_rustc_version("release: 1.97.0-nightly\nLLVM version: 22.1\n");
        assert_eq!(version.map(|v| v.release), Some(Release(1, 97, 0)));
    }

    #[test]
    fn rustc_version_without_llvm_is_none() {
        assert_eq!(parse_rustc_version("release: 1.96.0\n"), None);
        assert_eq!(parse_rustc_version(""), None);
    }

    #[test]
    fn debian_and_derivatives_are_known() {
        assert!(is_debian("PRETTY_NAME=\"Debian\"\nID=debian\n"));
        assert!(is_debian("ID=ubuntu\nID_LIKE=debian\n"));
        assert!(is_debian("ID=mint\nID_LIKE=\"ubuntu debian\"\n"));
    }

    #[test]
    fn other_systems_are_not_debian() {
        assert!(!is_debian("ID=fedora\nVERSION_ID=42\n"));
        assert!(!is_debian("ID=arch\nHOME_URL=\"https://www.debian.org/\"\n"));
        assert!(!is_debian("VERSION_ID=debian\n"));
        assert!(!is_debian(""));
    }
}
