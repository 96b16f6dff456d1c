//! Tests of the sources themselves: that the shape which `ARCHITECTURE.md` draws is the shape they have.
//!
//! | module | its job |
//! | --- | --- |
//! | [`layers`] | who imports whom in `ipc-trace`, against the table in `ARCHITECTURE.md` |
//! | [`cycles`] | no circle between the files and folders of a folder |
//! | [`purity`] | the engine knows no clock, file, thread, process or kernel |
//! | [`names`] | each type has a name of its own, and no retired word comes back |
//! | [`size`] | no file is too long |
//! | [`exceptions`] | what breaks a rule today, and why |
//! | [`crates`] | the files of a crate, and what each path in them leads to |
//! | [`reading`] | one file: its paths, items and modules |
//! | [`violation`] | what a check says |
//!
//! Code for tests is free: what is under `#[cfg(test)]`, in a file `tests.rs` or in a folder `tests/`. Only the
//! length of such a file counts.

mod crates;
mod cycles;
mod exceptions;
mod layers;
mod names;
mod purity;
mod reading;
mod size;
mod tests;
mod violation;

use std::path::Path;

use crates::Crate;
use exceptions::Exception;
use violation::Violation;

/// The crate whose folders have a table.
const TRACER: &str = "ipc-trace";
/// All of them.
const CRATES: [&str; 4] = [TRACER, "ipc-trace-common", "ipc-trace-ebpf", "xtask"];

/// What is wrong with the sources below `root`, a message each.
fn check(root: &Path, exceptions: &[Exception]) -> anyhow::Result<Vec<String>> {
    let mut found: Vec<Violation> = Vec::new();
    for name in CRATES {
        let sources = Crate::read(root, name)?;
        found.extend(cycles::check(&sources));
        found.extend(size::check(root, name)?);
        if name == TRACER {
            found.extend(layers::check(root, &sources)?);
            found.extend(purity::check(&sources));
        }
    }
    found.extend(names::check(root)?);
    Ok(exceptions::apply(&found, exceptions))
}
