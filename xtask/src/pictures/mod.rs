//! `cargo xtask pictures`: what `ipc-trace` prints for a small scene, as pictures for the documents.
//!
//! The scene is played in an emulated machine, so that nothing of this host is in a picture. What is shown is
//! what the program printed, every character of it.

use std::{fs, process::ExitCode};

use anstyle_svg::Term;
use anyhow::{Context as _, Result, bail};

use crate::{apt, build, vm};

/// Whose kernel is booted.
const PLATFORM: &str = "trixie";
/// Where pictures are, from the root of the repository.
const FOLDER: &str = "docs/pictures";
/// What is run in the machine. It prints [`MARK`] and a name before what belongs to a picture.
const SCENE: &str = include_str!("scene.sh");
const MARK: &str = "picture ";
/// The scene's programs, all of util-linux.
const PROGRAMS: [&str; 4] = ["ipcmk", "ipcrm", "ipcs", "unshare"];
/// Pictures that the scene has to give.
const NAMES: [&str; 3] = ["live", "ls", "report"];

/// Runs `cargo xtask pictures`.
pub(crate) fn main() -> Result<ExitCode> {
    let root = build::workspace_root()?;
    let built = build::everything(&root, false)?;
    let programs = PROGRAMS.map(|name| apt::program(name, "util-linux"));
    let programs = programs.into_iter().collect::<Result<Vec<_>>>()?;
    let words = ["/bin/sh", "-c", SCENE].map(str::to_owned);
    let outputs = vm::outputs(&[PLATFORM.to_owned()], &built, &programs, &words)?;
    let folder = root.join(FOLDER);
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let pictures = pictures(&outputs.concat());
    for name in NAMES {
        let Some((_, text)) = pictures.iter().find(|(of, _)| of == name) else {
            bail!("the scene gave nothing for {name}:\n{}", outputs.concat());
        };
        let path = folder.join(format!("{name}.svg"));
        fs::write(&path, svg(text)).with_context(|| format!("cannot write {}", path.display()))?;
        println!("{} is written", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// What was printed for each picture, with its name.
fn pictures(output: &str) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = Vec::new();
    for line in output.lines().map(|line| line.trim_end_matches('\r')) {
        if let Some(name) = line.strip_prefix(MARK) {
            all.push((name.to_owned(), String::new()));
        } else if let Some((_, text)) = all.last_mut() {
            text.push_str(line);
            text.push('\n');
        }
    }
    all
}

fn svg(text: &str) -> String {
    Term::new().render_svg(text.trim_end())
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    #[test]
    fn output_is_cut_at_the_marks() {
        let output = "booted\r\npicture live\r\na\r\n\u{1b}[1mb\u{1b}[0m\r\npicture ls\r\nc\r\n";
        let expected = [("live", "a\n\u{1b}[1mb\u{1b}[0m\n"), ("ls", "c\n")];
        let expected = expected.map(|(name, text)| (name.to_owned(), text.to_owned()));
        assert_eq!(pictures(output), expected);
    }

    #[test]
    fn what_xml_would_interpret_is_escaped() {
        let svg = svg("a <script> & \u{1b}[31mb\u{1b}[0m");
        assert!(svg.contains("a &lt;script&gt; &amp; "), "{svg}");
    }
}
