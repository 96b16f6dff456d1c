//! Traces System V and POSIX-queue IPC by IPC namespace. `ARCHITECTURE.md` describes the path of an event through
//! these modules, and which may import which.

mod cli;
mod commands;
mod engine;
mod event;
mod export;
#[cfg(test)]
mod fuzzing;
mod input;
#[cfg(feature = "sqlite")]
mod query;
mod recording;
#[cfg(any(feature = "sqlite", feature = "parquet"))]
mod rows;
mod signals;
mod sinks;
mod sources;
mod steps;

pub use commands::main;

/// An error with its causes, in one line.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = error.source();
    }
    text
}
