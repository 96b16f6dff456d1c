//! Finds the two builds of the eBPF programs, which `cargo xtask build` has made, so that the program can
//! embed them.

use std::{env, path::PathBuf};

/// The variables that name the files, and the files' names where `cargo xtask build` leaves them.
const OBJECTS: [(&str, &str); 2] =
    [("IPC_TRACE_EBPF_PLAIN", "plain.o"), ("IPC_TRACE_EBPF_PROBE", "probe.o")];

fn main() {
    for (variable, name) in OBJECTS {
        println!("cargo::rerun-if-env-changed={variable}");
        let object = match env::var_os(variable) {
            Some(path) => PathBuf::from(path),
            None => PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"))
                .join("../target/ebpf")
                .join(name),
        };
        println!("cargo::rerun-if-changed={}", object.display());
        if !object.is_file() {
            println!(
                "cargo::error=the eBPF programs are not built: run `cargo xtask build` ({} is missing)",
                object.display()
            );
            return;
        }
        let object = object.canonicalize().unwrap_or(object);
        println!("cargo::rustc-env={variable}={}", object.display());
    }
}
