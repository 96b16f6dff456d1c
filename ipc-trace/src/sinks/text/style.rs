//! Roles of text, by meaning, and their colours.
//!
//! Invariant: colour repeats what the words say. A plain palette writes no escape sequences.

use std::fmt;

use anstyle::{AnsiColor, Style};

/// The role of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Ordinary text
    Plain,
    /// A call that failed
    Error,
    /// Another namespace's object
    Foreign,
    /// A namespace
    Namespace,
    /// Rarely needed text
    Dim,
    /// A title
    Heading,
    /// All is well
    Good,
    /// Something was not seen
    Loss,
    /// A boundary was crossed
    Alarm,
}

/// The colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Palette {
    coloured: bool,
}

impl Palette {
    /// For a terminal: the sixteen colours of the user's theme, so that they are readable.
    pub(crate) const COLOURED: Self = Self { coloured: true };
    /// For a file or a pipe.
    pub(crate) const PLAIN: Self = Self { coloured: false };

    const fn style(self, role: Role) -> Style {
        if !self.coloured {
            return Style::new();
        }
        match role {
            Role::Plain => Style::new(),
            Role::Error => AnsiColor::Red.on_default(),
            Role::Foreign => AnsiColor::Magenta.on_default().bold(),
            Role::Namespace => AnsiColor::Cyan.on_default(),
            Role::Dim => Style::new().dimmed(),
            Role::Heading => Style::new().bold(),
            Role::Good => AnsiColor::Green.on_default(),
            Role::Loss => AnsiColor::Yellow.on_default().bold(),
            Role::Alarm => AnsiColor::Red.on_default().bold(),
        }
    }

    /// `text` in the style of `role`. A width in the format string applies to the text.
    pub(crate) const fn paint<T: fmt::Display>(self, role: Role, text: T) -> Painted<T> {
        Painted { style: self.style(role), text }
    }
}

/// Text between the escape sequences of a style.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Painted<T> {
    style: Style,
    text: T,
}

impl<T: fmt::Display> fmt::Display for Painted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.style.render())?;
        self.text.fmt(f)?;
        write!(f, "{}", self.style.render_reset())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_has_no_escape_sequences() {
        let text = format!("{:<4}|", Palette::PLAIN.paint(Role::Foreign, "ab"));
        assert_eq!(text, "ab  |");
        assert_eq!(Palette::COLOURED.paint(Role::Plain, "ab").to_string(), "ab");
    }

    #[test]
    fn padding_is_inside_escape_sequences() {
        let text = format!("{:<4}|", Palette::COLOURED.paint(Role::Error, "ab"));
        assert_eq!(text, "\u{1b}[31mab  \u{1b}[0m|");
    }
}
