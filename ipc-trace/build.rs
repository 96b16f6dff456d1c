//! Finds the kernel side, which `cargo xtask build` has made, so that the program can embed it.

use std::{env, path::PathBuf};

const VARIABLE: &str = "IPC_TRACE_EBPF_OBJECT";

fn main() {
    println!("cargo::rerun-if-env-changed={VARIABLE}");
    let object = match env::var_os(VARIABLE) {
        Some(path) => PathBuf::from(path),
        None => PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"))
            .join("../target/ebpf/bpfel-unknown-none/release/ipc-trace-ebpf"),
    };
    println!("cargo::rerun-if-changed={}", object.display());
    if !object.is_file() {
        println!(
            "cargo::error=the kernel side is not built: run `cargo xtask build` ({} is missing)",
            object.display()
        );
        return;
    }
    let object = object.canonicalize().unwrap_or(object);
    println!("cargo::rustc-env={VARIABLE}={}", object.display());
}
