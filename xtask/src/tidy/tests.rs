//! That the sources are tidy, and that the checks fail where they should.

use std::{fs, path::Path};

use super::{
    CRATES, check,
    exceptions::{EXCEPTIONS, Exception},
    violation::TidyRule,
};

#[test]
fn the_sources_are_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let found = check(root, EXCEPTIONS).unwrap();
    assert!(found.is_empty(), "{} to do:\n{}", found.len(), found.join("\n"));
}

/// A table of folders.
const TABLE: &str = "\
# Architecture

## Folders and what each may import

| folder | job | imports |
| --- | --- | --- |
| `lib.rs` | the modules | |
| `sinks/` | events in, bytes out | `event` |
| `engine/` | inputs to events | `event`, `common` |
| `event/` | a vocabulary | |

| another | table | `sinks` |
";

/// What is wrong with a made-up tree: one that is tidy, with these files in it.
fn found(files: &[(&str, &str)], exceptions: &[Exception]) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("ARCHITECTURE.md", TABLE);
    for name in CRATES {
        let text = if name == "ipc-trace" { "pub struct Root;\n" } else { "mod one;\n" };
        write(&format!("{name}/src/lib.rs"), text);
    }
    write("ipc-trace/src/sinks/mod.rs", "use crate::event::Event;\n");
    write("ipc-trace/src/engine/mod.rs", "use crate::{Root, event::Event};\n");
    write("ipc-trace/src/event/mod.rs", "pub struct Event;\n");
    for (path, text) in files {
        write(path, text);
    }
    check(folder.path(), exceptions).unwrap()
}

/// The one thing that is wrong.
fn one(files: &[(&str, &str)]) -> String {
    let found = found(files, &[]);
    let [one] = &found[..] else { panic!("not one: {found:#?}") };
    one.clone()
}

#[test]
fn a_tidy_tree_has_nothing_to_do() {
    assert_eq!(found(&[], &[]), [""; 0]);
}

#[test]
fn a_clock_in_the_engine_is_found() {
    let text = "use std::time::Instant;\n\nfn f() -> Instant {\n    Instant::now()\n}\n";
    assert_eq!(
        one(&[("ipc-trace/src/engine/clock.rs", text)]),
        "ipc-trace/src/engine/clock.rs:4: the engine uses a clock (`std::time::Instant::now`), and is to be pure: \
         let a source find it out, and hand it in as an input"
    );
    // Elsewhere a clock is none of our business.
    assert_eq!(found(&[("ipc-trace/src/sinks/clock.rs", text)], &[]), [""; 0]);
}

#[test]
fn files_threads_and_the_kernel_in_the_engine_are_found_however_they_are_written() {
    for (text, said) in [
        ("use std::{fmt, fs as files};", ":1: the engine uses a file (`std::fs`)"),
        (
            "fn f() { g!(1, std::thread::spawn(h)) }",
            ":1: the engine uses a thread (`std::thread::spawn`)",
        ),
        ("struct S {\n    a: aya::Ebpf,\n}", ":2: the engine uses the kernel (`aya::Ebpf`)"),
        ("fn f(p: &P) { p.read_link(); }", ":1: the engine uses a file (`.read_link()`)"),
        ("fn f(t: T) { g!(t.elapsed()) }", ":1: the engine uses a clock (`.elapsed()`)"),
    ] {
        let said = format!("ipc-trace/src/engine/one.rs{said}");
        let one = one(&[("ipc-trace/src/engine/one.rs", text)]);
        assert!(one.starts_with(&said), "{one}");
    }
}

#[test]
fn an_import_upwards_is_found() {
    let files = [
        ("ipc-trace/src/event/value.rs", "//! A value.\n\nuse super::super::sinks::Sink;\n"),
        // It would close a circle as well.
        ("ipc-trace/src/sinks/mod.rs", ""),
    ];
    assert_eq!(
        one(&files),
        "ipc-trace/src/event/value.rs:3: `event` imports `crate::sinks::Sink` of `sinks`, and by the table of folders \
         in ARCHITECTURE.md it imports nothing: move what is needed to where both may import it, or have it handed in"
    );
}

#[test]
fn an_import_upwards_is_found_in_expressions_macros_and_attributes_and_through_others() {
    for text in [
        "fn f() {\n    crate::engine::run();\n}",
        "fn f() {\n    g!(crate::engine::run());\n}",
        "struct S {\n    #[serde(with = \"crate::engine::run\")] a: u8,\n}",
        "use crate::{\n    engine as other};\nfn f() { other::run() }",
        "fn f() {\n    let r: Vec<crate::engine::R> = g();\n}",
        "mod inner {\n    use super::super::super::engine::Run;\n}",
    ] {
        let one = one(&[("ipc-trace/src/sinks/one.rs", text)]);
        let said = "ipc-trace/src/sinks/one.rs:2: `sinks` imports `crate::engine";
        assert!(one.starts_with(said), "{one}");
        assert!(one.contains("it imports only event:"), "{one}");
    }
    let handed_on = "pub use crate::engine::Run;\n";
    let found = found(
        &[
            ("ipc-trace/src/event/handed_on.rs", handed_on),
            ("ipc-trace/src/engine/mod.rs", "pub struct Run;\n"),
            ("ipc-trace/src/sinks/one.rs", "use crate::event::handed_on::Run;\n"),
        ],
        &[],
    );
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(found[1].contains("`sinks` imports `crate::event::handed_on::Run` of `engine`"));
}

#[test]
fn what_both_sides_share_is_in_the_table_too() {
    let text = "use ipc_trace_common::op::Op;\n";
    assert_eq!(found(&[("ipc-trace/src/engine/one.rs", text)], &[]), [""; 0]);
    let one = one(&[("ipc-trace/src/sinks/one.rs", text)]);
    assert!(one.contains("`sinks` imports `ipc_trace_common::op::Op` of `common`"), "{one}");
}

#[test]
fn code_for_tests_is_free() {
    let own = "#[cfg(test)]\nmod samples;\n#[cfg(test)]\nmod inner {\n    use crate::engine::Run;\n}\n\
               #[cfg(test)]\nfn f() { crate::engine::run() }\n";
    let text = "use crate::engine::Run;\n";
    let files = [
        ("ipc-trace/src/sinks/mod.rs", own),
        ("ipc-trace/src/sinks/samples.rs", text),
        ("ipc-trace/src/sinks/tests.rs", text),
        ("ipc-trace/src/sinks/tests/one.rs", text),
        ("ipc-trace/src/engine/tests.rs", "use std::fs;\n"),
    ];
    assert_eq!(found(&files, &[]), [""; 0]);
}

#[test]
fn the_table_and_the_folders_belong_together() {
    assert_eq!(
        one(&[("ipc-trace/src/extra/mod.rs", "")]),
        "ipc-trace/src/extra/mod.rs:1: belongs to no row of \"## Folders and what each may import\" in \
         ARCHITECTURE.md: add one, or move it"
    );
    let table = TABLE.replace("\n\n| another", "\n| `gone/` | nothing | |\n\n| another");
    let one = one(&[("ARCHITECTURE.md", &table)]);
    assert_eq!(one, "ARCHITECTURE.md:11: no source belongs to `gone`: remove the row");
}

#[test]
fn a_circle_is_found() {
    let found = found(
        &[
            ("xtask/src/a.rs", "//! One.\n\nuse crate::b::deep::B;\n"),
            ("xtask/src/b/mod.rs", "pub(crate) mod deep;\n"),
            (
                "xtask/src/b/deep.rs",
                "pub(crate) struct B;\nfn f() -> super::super::c::C { todo!() }\n",
            ),
            ("xtask/src/c.rs", "pub(crate) struct C;\nuse crate::a::A;\n"),
        ],
        &[],
    );
    let what = "Put what both need into a file below them, or hand it over as an argument";
    assert_eq!(
        found,
        [
            format!("xtask/src/a.rs:3: closes a circle in xtask/src/: a -> b -> c -> a. {what}"),
            format!(
                "xtask/src/b/deep.rs:2: closes a circle in xtask/src/: b -> c -> a -> b. {what}"
            ),
            format!("xtask/src/c.rs:2: closes a circle in xtask/src/: c -> a -> b -> c. {what}"),
        ]
    );
}

#[test]
fn a_roof_and_what_is_below_it_may_name_each_other() {
    let roof =
        "mod low;\nmod high;\npub(crate) use low::Low;\nuse high::run;\npub(crate) struct Own;\n";
    let low = ("xtask/src/a/low.rs", "pub(crate) struct Low;\nuse super::Own;\n");
    let tidy = [("xtask/src/a.rs", roof), low, ("xtask/src/a/high.rs", "use super::{Low, Own};\n")];
    assert_eq!(found(&tidy, &[]), [""; 0]);
    // What a roof hands on is its maker's.
    let low = ("xtask/src/a/low.rs", "pub(crate) struct Low;\nuse super::high::run;\n");
    let found = found(&[tidy[0], low, tidy[2]], &[]);
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(found[0].starts_with(
        "xtask/src/a/high.rs:1: closes a circle in xtask/src/a/: high -> low -> high."
    ));
}

#[test]
fn a_file_of_601_lines_is_found() {
    let lines = |count| "// A line.\n".repeat(count);
    assert_eq!(found(&[("xtask/tests/live/main.rs", &lines(600))], &[]), [""; 0]);
    assert_eq!(
        one(&[("xtask/tests/live/main.rs", &lines(601))]),
        "xtask/tests/live/main.rs:601: 601 lines, and 600 are the most: split the file by what its parts are for"
    );
}

#[test]
fn an_exception_is_for_its_rule_and_files_and_goes_when_nothing_needs_it() {
    let exception = |check, paths| Exception { check, paths, reason: "so" };
    let file = [("ipc-trace/src/engine/one.rs", "use std::fs;\n")];
    let in_use = exception(TidyRule::Purity, &["ipc-trace/src/engine/one.rs"]);
    assert_eq!(found(&file, &[in_use]), [""; 0]);
    let folder = exception(TidyRule::Purity, &["ipc-trace/src/engine/"]);
    assert_eq!(found(&file, &[folder]), [""; 0]);
    let other = exception(TidyRule::Size, &["ipc-trace/src/engine/one.rs"]);
    let found = found(&file, &[other]);
    assert_eq!(found.len(), 2, "{found:#?}");
    assert_eq!(
        found[1],
        "ipc-trace/src/engine/one.rs keeps the rule Size, and has an exception (so): remove it from \
         xtask/src/tidy/exceptions.rs"
    );
}
