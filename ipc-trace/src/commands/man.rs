//! The man pages: one for the program, one for each command. What the options are comes from the command line's own
//! definition; what they have in common is written here.

use std::{fs, io, path::Path};

use clap::{Command, CommandFactory as _};
use clap_mangen::{
    Man,
    roff::{Roff, bold, roman},
};

use crate::cli::Cli;

/// Exit statuses that all commands share.
const EXIT_STATUS: &[(&str, &str)] = &[
    ("0", "Finished normally, also if the reader of the output closed its pipe."),
    ("1", "Failed. Standard error says what failed and what to do."),
    ("2", "Wrong usage, or a mistake in a policy."),
];

/// Those of `live` and `report`, as README has them.
const TRACING_STATUS: &[(&str, &str)] = &[
    (
        "COMMAND's",
        "COMMAND ended, and the run with it. 128 plus the signal's number if a signal ended COMMAND.",
    ),
    (
        "0",
        "Finished normally: no COMMAND was given, or --duration, SIGINT, SIGTERM or a closed pipe ended the run \
         before COMMAND, which goes on. Buffered output is flushed first; a second signal limits that to 0.5 s.",
    ),
    (
        "1",
        "Failed. Standard error says what failed and what to do. Also if the reader of the output took nothing for \
         three seconds at the end.",
    ),
    ("2", "Wrong usage, or a mistake in a policy."),
    (
        "3",
        "--fail-on matched: there was a finding of that severity or higher that no policy allows or mutes.",
    ),
    ("126, 127", "COMMAND can't be executed, or doesn't exist."),
];

/// Those of `doctor`.
const DOCTOR_STATUS: &[(&str, &str)] = &[
    ("0", "Tracing works on this host."),
    ("1", "Failed. Standard error says what failed and what to do."),
    ("2", "Wrong usage."),
    ("3", "Tracing does not work on this host."),
];

const ENVIRONMENT: &[(&str, &str)] = &[
    ("NO_COLOR", "If set and not empty, output has no colours. --color overrides it."),
    (
        "CLICOLOR, CLICOLOR_FORCE, TERM",
        "CLICOLOR=0 and TERM=dumb turn colours off, CLICOLOR_FORCE=1 turns them on. --color overrides them.",
    ),
    ("RUST_LOG", "Which log messages go to standard error, such as debug. -v and -q override it."),
];

const EXAMPLES: &[(&str, &str)] = &[
    ("ipc-trace live", "Show every IPC call on the host as it returns."),
    (
        "ipc-trace live --ipc-ns pid:1234 --failed",
        "Show calls that fail in the IPC namespace of process 1234.",
    ),
    (
        "ipc-trace report --duration 30",
        "Count for 30 seconds, then show calls, objects and findings by namespace.",
    ),
    ("ipc-trace record -w night.rec", "Record all calls to a file, to look at them later."),
    (
        "ipc-trace report --from night.rec --since -10m",
        "Report on the last ten minutes of a recording.",
    ),
    ("ipc-trace live -o json --only-command -- ipcs", "Trace one command, as JSON lines."),
    ("ipc-trace ls", "List all IPC namespaces with their processes and objects."),
];

/// A man page, and the name of its file.
#[derive(Debug)]
struct Page {
    /// Such as `ipc-trace-live.1`
    file: String,
    /// Its text, in roff
    roff: Vec<u8>,
}

/// All pages: the program's own comes first.
///
/// # Errors
/// None is expected: they are written to memory.
fn pages() -> io::Result<Vec<Page>> {
    let mut program = Cli::command().disable_help_subcommand(true);
    program.build();
    let mut all = vec![page(&program, true)?];
    visit(&program, &mut all)?;
    Ok(all)
}

/// Writes all pages into a folder, which is made if need be.
///
/// # Errors
/// The folder can't be made, or a file can't be written.
pub(super) fn write(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    for page in pages()? {
        fs::write(folder.join(page.file), page.roff)?;
    }
    Ok(())
}

fn visit(command: &Command, all: &mut Vec<Page>) -> io::Result<()> {
    for child in command.get_subcommands().filter(|child| !child.is_hide_set()) {
        all.push(page(child, false)?);
        visit(child, all)?;
    }
    Ok(())
}

fn page(command: &Command, is_program: bool) -> io::Result<Page> {
    // The names are of other commands' pages: `ipc-trace policy check` is in ipc-trace-policy-check(1).
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let man = Man::new(command.clone()).title(name.to_uppercase()).section("1");
    let mut roff = Vec::new();
    man.render_title(&mut roff)?;
    man.render_name_section(&mut roff)?;
    man.render_synopsis_section(&mut roff)?;
    man.render_description_section(&mut roff)?;
    man.render_options_section(&mut roff)?;
    if is_program {
        man.render_subcommands_section(&mut roff)?;
    }
    let mut more = Roff::new();
    let statuses = match command.get_name() {
        "live" | "report" => TRACING_STATUS,
        "doctor" => DOCTOR_STATUS,
        _ => EXIT_STATUS,
    };
    list(&mut more, "EXIT STATUS", statuses);
    list(&mut more, "ENVIRONMENT", ENVIRONMENT);
    if is_program {
        list(&mut more, "EXAMPLES", EXAMPLES);
    }
    more.control("SH", ["SEE ALSO"]);
    let others =
        ["ipcs(1)", "lsipc(1)", "lsns(8)", "ipc_namespaces(7)", "sysvipc(7)", "mq_overview(7)"];
    let own = if is_program { None } else { Some("ipc-trace(1)") };
    let all: Vec<_> = own.into_iter().chain(others).collect();
    more.text([roman(all.join(", "))]);
    more.to_writer(&mut roff)?;
    if is_program {
        // Commands have no version of their own.
        man.render_version_section(&mut roff)?;
    }
    Ok(Page { file: format!("{name}.1"), roff })
}

fn list(roff: &mut Roff, title: &str, rows: &[(&str, &str)]) {
    roff.control("SH", [title]);
    for (term, meaning) in rows {
        roff.control("TP", []);
        roff.text([bold(*term)]);
        roff.text([roman(*meaning)]);
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn examples_are_valid_commands() {
        for (example, _) in EXAMPLES {
            let parsed = Cli::try_parse_from(example.split(' '));
            assert!(parsed.is_ok(), "{example}");
        }
    }

    #[test]
    fn each_command_that_is_shown_has_a_page_with_its_options() {
        let pages = pages().unwrap();
        let files: Vec<_> = pages.iter().map(|page| page.file.as_str()).collect();
        assert_eq!(
            files,
            [
                "ipc-trace.1",
                "ipc-trace-live.1",
                "ipc-trace-report.1",
                "ipc-trace-ls.1",
                "ipc-trace-doctor.1",
                "ipc-trace-record.1",
                "ipc-trace-replay.1",
                "ipc-trace-export.1",
                "ipc-trace-recording.1",
                "ipc-trace-recording-info.1",
                "ipc-trace-recording-repair.1",
                "ipc-trace-policy.1",
                "ipc-trace-policy-check.1",
                "ipc-trace-schema.1",
            ]
        );
        let text = |file: &str| {
            let page = pages.iter().find(|page| page.file == file).unwrap();
            String::from_utf8(page.roff.clone()).unwrap().replace("\\-", "-")
        };
        for option in ["--ipc-ns", "--container", "--fail-on", "--duration", "--color"] {
            assert!(text("ipc-trace-live.1").contains(option), "{option}");
        }
        assert!(text("ipc-trace.1").contains("ipc-trace-report(1)"));
        for page in &pages {
            assert!(text(&page.file).contains("EXIT STATUS"), "{}", page.file);
        }
    }
}
