//! How a `bpf-linker` is built.

use std::{
    fmt,
    path::{Path, PathBuf},
};

/// Where Debian puts LLVM.
pub(super) fn llvm_prefix(major: u32) -> String {
    format!("/usr/lib/llvm-{major}")
}

/// How to build a `bpf-linker` which links with a given LLVM of Debian.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Recipe {
    /// The version of `bpf-linker`.
    pub(super) version: &'static str,
    /// The major version of LLVM.
    pub(super) llvm: u32,
}

impl Recipe {
    /// The recipe for a major version of LLVM.
    pub(super) fn for_llvm(llvm: u32) -> Option<Self> {
        let version = match llvm {
            19 | 20 => "0.9.15",
            21 | 22 => "0.13.0",
            _ => return None,
        };
        Some(Self { version, llvm })
    }

    /// Does this version have llvm-sys find and link LLVM, rather than a build script of its own?
    fn links_by_llvm_sys(&self) -> bool {
        self.llvm <= 20
    }

    /// The features to build with: Debian's shared libLLVM rather than rustc's own, or static
    /// libraries which would want more packages.
    pub(super) fn features(&self) -> String {
        let llvm = self.llvm;
        if self.links_by_llvm_sys() {
            format!("llvm-{llvm},llvm-sys-{llvm}/force-dynamic")
        } else {
            format!("llvm-{llvm}")
        }
    }

    /// The environment variable which says where LLVM is, and its value.
    pub(super) fn llvm_location(&self) -> (String, String) {
        let name = if self.links_by_llvm_sys() {
            format!("LLVM_SYS_{}1_PREFIX", self.llvm)
        } else {
            "LLVM_PREFIX".to_owned()
        };
        (name, llvm_prefix(self.llvm))
    }

    /// The folder in `home` which this linker is installed to.
    pub(super) fn folder_in(&self, home: &Path) -> PathBuf {
        home.join(format!("bpf-linker-{}-llvm{}", self.version, self.llvm))
    }

    /// The linker itself, in `home`.
    pub(super) fn binary_in(&self, home: &Path) -> PathBuf {
        self.folder_in(home).join("bin/bpf-linker")
    }
}

impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bpf-linker {} for LLVM {}", self.version, self.llvm)
    }
}
