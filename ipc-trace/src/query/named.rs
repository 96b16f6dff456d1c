//! The questions that come with the program: a file for each, with a sentence on when to ask it.
//!
//! **To add a question**: a file in `named/`, and a row of [`ALL`]. Its first comment says when to ask it; a line
//! `-- NAME: text`, or `-- NAME=DEFAULT: text`, describes a parameter.

/// A question.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NamedQuery {
    /// Its name
    pub name: &'static str,
    /// The SQL
    pub sql: &'static str,
}

macro_rules! named {
    ($($name:literal)*) => {
        /// All questions.
        pub(crate) const ALL: &[NamedQuery] = &[$(NamedQuery {
            name: $name,
            sql: include_str!(concat!("named/", $name, ".sql")),
        }),*];
    };
}

named! {
    "who-used-object" "outside-itself" "around-finding" "failed-lookups" "leaked-objects" "sharing" "slowest-waits"
    "changed-between" "busiest" "findings"
}

/// A parameter of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Param {
    /// Its name
    pub name: &'static str,
    /// Its value, if none is given
    pub default: Option<&'static str>,
    /// What it is
    pub doc: &'static str,
}

impl NamedQuery {
    fn comments(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.sql.lines().map_while(|line| line.strip_prefix("--")).map(str::trim)
    }

    /// When to ask it.
    pub(crate) fn when(&self) -> String {
        let sentences: Vec<_> = self.comments().filter(|line| param(line).is_none()).collect();
        sentences.join(" ")
    }

    /// Its parameters.
    pub(crate) fn params(&self) -> Vec<Param> {
        self.comments().filter_map(param).collect()
    }

    /// The question of a name.
    pub(crate) fn find(name: &str) -> Option<&'static Self> {
        ALL.iter().find(|one| one.name == name)
    }
}

fn param(line: &'static str) -> Option<Param> {
    let (name, doc) = line.strip_prefix("param ")?.split_once(": ")?;
    let (name, default) = match name.split_once('=') {
        Some((name, default)) => (name, Some(default)),
        None => (name, None),
    };
    Some(Param { name, default, doc })
}
