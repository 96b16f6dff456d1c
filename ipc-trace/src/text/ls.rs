//! `ls` as text.

use std::fmt::{self, Display};

use super::style::Palette;
use crate::event::ls::Ls;

/// The object, each line with its end.
#[derive(Clone, Copy, Debug)]
pub struct LsText<'a> {
    ls: &'a Ls,
    full: bool,
    palette: Palette,
    width: usize,
}

/// The object for a terminal of `width` cells. `full`: with every object and holder.
#[must_use]
pub const fn text(ls: &Ls, full: bool, palette: Palette, width: usize) -> LsText<'_> {
    LsText { ls, full, palette, width }
}

impl Display for LsText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ns in &self.ls.namespaces {
            writeln!(f, "{} {} {}", ns.inum, ns.processes.len(), ns.objects.len())?;
        }
        Ok(())
    }
}
