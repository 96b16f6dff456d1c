//! Traces System V and POSIX-queue IPC by IPC namespace.
//!
//! A record goes one way: [`kernel`] (programs, rings) → [`decode`] → [`track`] → [`detect`] → [`sinks`], in the
//! order that [`pipeline`] gives; [`event`] has the types of what comes out, [`run`] owns the whole.
//! [`doctor`] tells beforehand whether that works.

pub mod cli;
pub mod containers;
pub mod decode;
pub mod detect;
pub mod doctor;
pub mod event;
pub mod kernel;
pub mod look;
pub mod pipeline;
pub mod policy;
pub mod run;
pub mod schema;
pub mod signals;
pub mod sinks;
mod steps;
pub mod text;
pub mod track;

/// An error with what is behind it, in one line.
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
