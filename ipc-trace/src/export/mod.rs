//! Exports: recordings into files that other programs open.
//!
//! | module | its job |
//! | --- | --- |
//! | [`trace`] | a timeline that ui.perfetto.dev and chrome://tracing open |
//! | `parquet` | a folder of Parquet files, by table, host and day |
//! | `sqlite` | a database |
//! | `table_thread` | the thread that writes rows |
//! | [`new_path`] | what an export makes, and removes if it fails |
//!
//! Invariant: an export reads events and rows, and sends nothing back; a write that fails never stops the engine.

pub(crate) mod new_path;
#[cfg(feature = "parquet")]
pub(crate) mod parquet;
#[cfg(feature = "sqlite")]
pub(crate) mod sqlite;
#[cfg(any(feature = "sqlite", feature = "parquet"))]
pub(crate) mod table_thread;
pub(crate) mod trace;
