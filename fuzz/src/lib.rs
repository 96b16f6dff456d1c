//! The pure parts of ipc-trace, and their properties for any input (`ipc-trace/src/fuzzing.rs`).
//!
//! The program's own files are included by path. A dependency on the program would also build all its libraries, which
//! takes minutes.

// The files are included as a whole; the targets use parts of them.
#![allow(dead_code, unused_imports)]

#[path = "../../ipc-trace/src/engine/mod.rs"]
mod engine;
#[path = "../../ipc-trace/src/event/mod.rs"]
mod event;
#[path = "../../ipc-trace/src/fuzzing.rs"]
mod fuzzing;
#[path = "../../ipc-trace/src/input/mod.rs"]
mod input;
#[path = "../../ipc-trace/src/recording/mod.rs"]
mod recording;
#[path = "../../ipc-trace/src/steps.rs"]
mod steps;

#[path = "../../ipc-trace/src/sources/kernel/btf.rs"]
mod btf;
#[path = "../../ipc-trace/src/sources/kernel/decode.rs"]
mod decode;
#[path = "../../ipc-trace/src/sources/host/lines.rs"]
mod lines;
#[path = "../../ipc-trace/src/sources/host/sysvipc.rs"]
mod sysvipc;

/// Where the files expect one another.
mod sources {
    pub(crate) mod host {
        pub(crate) use crate::{lines, sysvipc};
    }
    pub(crate) mod kernel {
        pub(crate) use crate::{btf, decode};
    }
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(
            /// The target of this name; `fuzzing` says what it asserts.
            pub fn $name(data: &[u8]) {
                fuzzing::$name(data);
            }
        )*
    };
}

targets! { blocks btf cgroups columns counts escape lines policy records sysvipc }
