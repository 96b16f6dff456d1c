//! Tests of the choice of a toolchain.

use super::*;

fn debian(release: Release, llvm: u32) -> ToolchainFacts {
    ToolchainFacts {
        debian: true,
        root: true,
        debian_rust: Some(RustVersion { release, llvm }),
        debian_sources: true,
        llvm_dev: true,
        ..ToolchainFacts::default()
    }
}

fn refusal(facts: &ToolchainFacts) -> String {
    match plan(facts) {
        SetupAction::Refuse(reason) => reason,
        other @ (SetupAction::Use(_)
        | SetupAction::InstallPackages(_)
        | SetupAction::BuildLinker(_)) => {
            panic!("not refused: {other:?}")
        }
    }
}

#[test]
fn complete_nightly_is_preferred() {
    let facts = ToolchainFacts {
        nightly: true,
        nightly_sources: true,
        path_linker: Some("/opt/bpf-linker".into()),
        built_linker: Some("/cache/bpf-linker".into()),
        ..debian(Release(1, 96, 0), 22)
    };
    let expected = Toolchain { compiler: Compiler::Nightly, linker: "/opt/bpf-linker".into() };
    assert_eq!(plan(&facts), SetupAction::Use(expected));
}

#[test]
fn nightly_without_sources_or_linker_is_skipped() {
    let without_sources = ToolchainFacts {
        nightly: true,
        path_linker: Some("/opt/bpf-linker".into()),
        built_linker: Some("/cache/bpf-linker".into()),
        ..debian(Release(1, 96, 0), 22)
    };
    let without_linker = ToolchainFacts {
        nightly: true,
        nightly_sources: true,
        built_linker: Some("/cache/bpf-linker".into()),
        ..debian(Release(1, 96, 0), 22)
    };
    let expected = SetupAction::Use(Toolchain {
        compiler: Compiler::Debian,
        linker: "/cache/bpf-linker".into(),
    });
    assert_eq!(plan(&without_sources), expected);
    assert_eq!(plan(&without_linker), expected);
}

#[test]
fn built_linker_needs_no_llvm_dev_and_no_root() {
    let facts = ToolchainFacts {
        root: false,
        llvm_dev: false,
        built_linker: Some("/cache/bpf-linker".into()),
        ..debian(Release(1, 96, 0), 22)
    };
    assert!(matches!(plan(&facts), SetupAction::Use(_)));
}

#[test]
fn missing_old_or_sourceless_rust_is_installed() {
    let packages = SetupAction::InstallPackages(RUST_PACKAGES.map(str::to_owned).into());
    let mut facts = debian(Release(1, 85, 0), 19);
    assert_eq!(plan(&facts), packages);
    facts.debian_rust = None;
    assert_eq!(plan(&facts), packages);
    facts = debian(Release(1, 96, 0), 22);
    facts.debian_sources = false;
    assert_eq!(plan(&facts), packages);
}

#[test]
fn llvm_comes_before_the_linker() {
    let mut facts = debian(Release(1, 96, 0), 22);
    facts.llvm_dev = false;
    let packages = SetupAction::InstallPackages(vec!["llvm-22-dev".to_owned()]);
    assert_eq!(plan(&facts), packages);
    facts.llvm_dev = true;
    let recipe = Recipe { version: "0.13.0", llvm: 22 };
    assert_eq!(plan(&facts), SetupAction::BuildLinker(recipe));
}

#[test]
fn the_linker_is_built_without_root() {
    let facts = ToolchainFacts { root: false, ..debian(Release(1, 96, 0), 22) };
    assert!(matches!(plan(&facts), SetupAction::BuildLinker(_)));
}

#[test]
fn missing_root_names_the_commands() {
    let facts = ToolchainFacts { root: false, llvm_dev: false, ..debian(Release(1, 96, 0), 22) };
    let reason = refusal(&facts);
    assert!(
        reason.contains("sudo apt-get install --no-install-recommends llvm-22-dev"),
        "{reason}"
    );
    assert!(reason.contains(NIGHTLY_COMMAND), "{reason}");
}

#[test]
fn other_systems_name_only_what_is_missing() {
    let mut facts = ToolchainFacts { root: true, ..ToolchainFacts::default() };
    let reason = refusal(&facts);
    assert!(reason.contains(NIGHTLY_COMMAND) && reason.contains(LINKER_COMMAND));
    facts.nightly = true;
    let reason = refusal(&facts);
    assert!(reason.contains(SOURCES_COMMAND) && reason.contains(LINKER_COMMAND));
    facts.nightly_sources = true;
    let reason = refusal(&facts);
    assert!(!reason.contains("rustup") && reason.contains(LINKER_COMMAND));
}

#[test]
fn unknown_llvm_is_named() {
    let reason = refusal(&debian(Release(1, 120, 0), 27));
    assert!(reason.contains("LLVM 27"), "{reason}");
}

#[test]
fn parts_still_missing_after_apt_are_named() {
    let packages = ["rustc-web".to_owned()];
    let mut facts = debian(Release(1, 85, 0), 19);
    assert!(packages_did_not_help(&facts, &packages).contains("1.85.0"));
    facts.debian_rust = None;
    assert!(packages_did_not_help(&facts, &packages).contains("is not there"));
}

#[test]
fn recipes_follow_llvm() {
    let recipe = |llvm| Recipe::for_llvm(llvm).expect("known");
    assert_eq!(recipe(22).features(), "llvm-22");
    assert_eq!(recipe(21).llvm_location().0, "LLVM_PREFIX");
    assert_eq!(recipe(19).features(), "llvm-19,llvm-sys-19/force-dynamic");
    assert_eq!(
        recipe(20).llvm_location(),
        ("LLVM_SYS_201_PREFIX".to_owned(), "/usr/lib/llvm-20".to_owned())
    );
    assert_eq!(Recipe::for_llvm(18), None);
    assert_eq!(Recipe::for_llvm(23), None);
}

#[test]
fn releases_are_read_and_ordered() {
    assert_eq!("1.85.0".parse(), Ok(Release(1, 85, 0)));
    assert_eq!("1.97.0-nightly".parse(), Ok(Release(1, 97, 0)));
    assert!("1.85".parse::<Release>().is_err());
    assert!("1.x.0".parse::<Release>().is_err());
    assert!(Release(1, 100, 0) > Release(1, 96, 1));
}
