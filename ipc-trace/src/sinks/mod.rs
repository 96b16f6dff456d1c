//! Where events end: as lines while they happen, or counted for a report.
//!
//! | module | its job |
//! | --- | --- |
//! | [`live`] | lines of text or JSON |
//! | [`output`] | standard output, which may be slow, stuck, full or closed |

pub(crate) mod live;
pub(crate) mod output;
pub(crate) mod text;
