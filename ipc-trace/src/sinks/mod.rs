//! Where events end: as lines while they happen, or counted for a report.
//!
//! | module | its job |
//! | --- | --- |
//! | [`live`] | lines of text or JSON |
//! | [`output`] | standard output, which may be slow, stuck, full or closed |

pub mod live;
pub mod output;
