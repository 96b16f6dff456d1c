//! `cargo xtask fuzz`: runs the fuzz targets of `fuzz/`, first on the kept corpus, then on mutations of it.
//!
//! The folder has cargo-fuzz's layout. The default compiler builds it, with the flags of cargo-fuzz. Only this project's
//! crates are instrumented, to shorten the build.
//!
//! Invariant: a run changes only `target/fuzz`, failing inputs in `fuzz/artifacts`, and with `--keep` the corpus.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    thread,
};

use anyhow::{Context as _, bail, ensure};

use crate::{apt, build, tally::Tally};

/// The crate's library, and its folders.
const LIBRARY: &str = "fuzz/src/lib.rs";
const TARGETS: &str = "fuzz/fuzz_targets";
const CORPUS: &str = "fuzz/corpus";
const ARTIFACTS: &str = "fuzz/artifacts";
/// Build output, logs and found inputs.
const BUILD: &str = "target/fuzz";

/// The compiler's flags for libFuzzer and AddressSanitizer, as cargo-fuzz passes them.
const FLAGS: [&str; 8] = [
    "-Dwarnings",
    "--cfg=fuzzing",
    "-Zsanitizer=address",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];
/// The crates that are built with [`FLAGS`].
const INSTRUMENTED: [&str; 2] = ["ipc-trace-fuzz", "ipc-trace-common"];

/// The maximum length of an input in bytes.
const LONGEST: &str = "-max_len=4096";
/// The limits of one input: seconds, and MiB per allocation.
const LIMITS: [&str; 2] = ["-timeout=10", "-malloc_limit_mb=64"];
/// The number of log lines shown on failure.
const SHOWN: usize = 40;

/// Options of `cargo xtask fuzz`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct FuzzArgs {
    /// Targets to run, by their file names in fuzz/fuzz_targets; default: all
    targets: Vec<String>,
    /// Seconds per target
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Run the target on this input only
    #[arg(long, value_name = "FILE", requires = "targets", conflicts_with_all = ["seconds", "keep"])]
    input: Option<PathBuf>,
    /// Afterwards, replace fuzz/corpus by a minimised corpus that includes the new inputs
    #[arg(long)]
    keep: bool,
}

/// Runs `cargo xtask fuzz`.
pub(crate) fn main(args: &FuzzArgs) -> anyhow::Result<ExitCode> {
    let root = build::workspace_root()?;
    let mut fuzz = Fuzz::build(&root)?;
    if !args.targets.is_empty() {
        fuzz.choose(&args.targets)?;
    }
    if let Some(input) = &args.input {
        let [target] = &fuzz.targets[..] else { bail!("--input needs exactly one target") };
        let status = fuzz.command(target).arg(input).status().context("cannot run the target")?;
        return Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let mut tally = Tally::default();
    fuzz.run(args.seconds, &mut tally)?;
    if tally.failed() == 0 && args.keep {
        fuzz.keep()?;
    }
    Ok(if tally.failed() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Builds the targets and runs each for `seconds`. Each target counts as one test.
///
/// # Errors
/// A target can't be built or started.
pub(crate) fn run_all(root: &Path, seconds: u64, tally: &mut Tally) -> anyhow::Result<()> {
    Fuzz::build(root)?.run(seconds, tally)
}

/// The built targets.
#[derive(Debug)]
struct Fuzz {
    root: PathBuf,
    /// Sorted by name
    targets: Vec<String>,
}

impl Fuzz {
    fn build(root: &Path) -> anyhow::Result<Self> {
        // libFuzzer itself is C++.
        apt::program("c++", "g++")?;
        let mut command = build::host_cargo(root);
        command
            .args(["build", "--release", "--locked", "-Zprofile-rustflags"])
            .args(["--manifest-path", "fuzz/Cargo.toml", "--target-dir", BUILD])
            .env("RUSTC_BOOTSTRAP", "1");
        let flags = FLAGS.map(|flag| format!("{flag:?}")).join(", ");
        for name in INSTRUMENTED {
            command.arg("--config");
            command.arg(format!("profile.release.package.{name}.rustflags = [{flags}]"));
        }
        let status = command.status().context("cannot run cargo")?;
        ensure!(status.success(), "the fuzz targets did not build; the messages above say why");
        Ok(Self { root: root.to_owned(), targets: names(root)? })
    }

    /// Selects targets by name.
    fn choose(&mut self, wanted: &[String]) -> anyhow::Result<()> {
        if let Some(unknown) = wanted.iter().find(|name| !self.targets.contains(name)) {
            bail!("there is no target {unknown:?}; there are {}", self.targets.join(", "));
        }
        self.targets.retain(|name| wanted.contains(name));
        Ok(())
    }

    fn command(&self, target: &str) -> Command {
        let mut command = Command::new(self.root.join(BUILD).join("release").join(target));
        command.current_dir(&self.root).args(LIMITS).stdin(Stdio::null());
        command
    }

    /// Runs the targets, one per processor at a time.
    fn run(&self, seconds: u64, tally: &mut Tally) -> anyhow::Result<()> {
        let together = thread::available_parallelism().map_or(1, usize::from);
        for some in self.targets.chunks(together) {
            let runs: Vec<_> =
                some.iter().map(|target| FuzzRun::start(self, target, seconds)).collect();
            for run in runs {
                let run = run?;
                let name = format!("fuzz target {}", run.target);
                if run.wait()? {
                    tally.pass();
                } else {
                    tally.fail(&name);
                }
            }
        }
        Ok(())
    }

    /// Replaces each kept corpus by a minimised one that includes the found inputs.
    fn keep(&self) -> anyhow::Result<()> {
        for target in &self.targets {
            let [kept, found, fewest] = ["", "corpus", "fewest"].map(|folder| match folder {
                "" => self.root.join(CORPUS).join(target),
                folder => self.root.join(BUILD).join(folder).join(target),
            });
            // Left over by an interrupted run.
            let _ = fs::remove_dir_all(&fewest);
            fs::create_dir_all(&fewest).context("cannot make a folder for the corpus")?;
            let mut command = self.command(target);
            command.args(["-set_cover_merge=1", LONGEST]).args([&fewest, &kept, &found]);
            let output = command.output().context("cannot run the target")?;
            ensure!(output.status.success(), "the corpus of {target} could not be merged");
            for file in files(&kept)? {
                fs::remove_file(&file)
                    .with_context(|| format!("cannot remove {}", file.display()))?;
            }
            let mut bytes = 0;
            for file in files(&fewest)? {
                let to = kept.join(file.file_name().unwrap_or_default());
                bytes += fs::copy(&file, &to)
                    .with_context(|| format!("cannot write {}", to.display()))?;
            }
            println!("    {target}: {} inputs, {bytes} bytes", files(&kept)?.len());
        }
        Ok(())
    }
}

/// A running target.
#[derive(Debug)]
struct FuzzRun<'a> {
    target: &'a str,
    child: Child,
    /// The file with its output
    log: PathBuf,
    artifacts: PathBuf,
    /// Failing inputs of earlier runs
    before: BTreeSet<PathBuf>,
}

impl<'a> FuzzRun<'a> {
    fn start(fuzz: &Fuzz, target: &'a str, seconds: u64) -> anyhow::Result<Self> {
        let found = fuzz.root.join(BUILD).join("corpus").join(target);
        let artifacts = fuzz.root.join(ARTIFACTS).join(target);
        let log = fuzz.root.join(BUILD).join(format!("{target}.log"));
        for folder in [&found, &artifacts] {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let before = files(&artifacts)?.into_iter().collect();
        let mut prefix = std::ffi::OsString::from("-artifact_prefix=");
        prefix.push(artifacts.join(""));
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = fuzz.command(target);
        // libFuzzer writes only into the first folder.
        command
            .args([LONGEST, "-print_final_stats=1", &format!("-max_total_time={seconds}")])
            .arg(prefix)
            .args([&found, &fuzz.root.join(CORPUS).join(target)])
            .stdout(Stdio::null())
            .stderr(file);
        let child = command.spawn().with_context(|| format!("cannot run fuzz target {target}"))?;
        Ok(Self { target, child, log, artifacts, before })
    }

    /// Waits for the target and reports its result. Returns whether it succeeded.
    fn wait(mut self) -> anyhow::Result<bool> {
        let status = self.child.wait().context("cannot wait for a fuzz target")?;
        let log =
            fs::read(&self.log).with_context(|| format!("cannot read {}", self.log.display()))?;
        let log = String::from_utf8_lossy(&log);
        let target = self.target;
        if status.success() {
            println!("    {target}: {} inputs", executed(&log).unwrap_or("?"));
            return Ok(true);
        }
        let lines: Vec<_> = log.lines().collect();
        for line in &lines[lines.len().saturating_sub(SHOWN)..] {
            eprintln!("{line}");
        }
        eprintln!(
            "error: fuzz target {target} ended with {status}; its whole output is in {}",
            self.log.display()
        );
        for input in files(&self.artifacts)?.iter().filter(|file| !self.before.contains(*file)) {
            let input = input.display();
            eprintln!("input:     {input}\nreproduce: cargo xtask fuzz {target} --input {input}");
        }
        Ok(false)
    }
}

/// The number of inputs in libFuzzer's final statistics.
fn executed(log: &str) -> Option<&str> {
    let count = log.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    count.map(str::trim)
}

/// The targets' names.
fn names(root: &Path) -> anyhow::Result<Vec<String>> {
    let name = |path: &PathBuf| Some(path.file_stem()?.to_str()?.to_owned());
    Ok(files(&root.join(TARGETS))?.iter().filter_map(name).collect())
}

/// The crate's source files, for `cargo fmt`, which formats only the workspace's.
pub(crate) fn sources(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut all = files(&root.join(TARGETS))?;
    all.push(root.join(LIBRARY));
    Ok(all)
}

/// The files in a folder, sorted by name.
fn files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let cannot = || format!("cannot read {}", folder.display());
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).with_context(cannot)? {
        all.push(entry.with_context(cannot)?.path());
    }
    all.sort();
    Ok(all)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// The versions in a manifest, by dependency.
    fn versions(manifest: &str) -> BTreeMap<&str, &str> {
        manifest
            .lines()
            .filter_map(|line| {
                let (name, value) = line.split_once(" = ")?;
                let version = match value.strip_prefix('"') {
                    Some(version) => version,
                    None => value.split_once("version = \"")?.1,
                };
                Some((name, version.split_once('"')?.0))
            })
            .collect()
    }

    #[test]
    fn dependencies_have_the_programs_versions() {
        let root = build::workspace_root().unwrap();
        let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
        let [all, program, targets] =
            ["Cargo.toml", "ipc-trace/Cargo.toml", "fuzz/Cargo.toml"].map(read);
        let (mut known, targets) = (versions(&all), versions(&targets));
        known.extend(versions(&program));
        let own = ["name", "description", "version", "edition", "license", "path", "libfuzzer-sys"];
        let mut compared = 0;
        for (name, version) in targets.iter().filter(|(name, _)| !own.contains(*name)) {
            assert_eq!(known.get(name), Some(version), "{name} of fuzz/Cargo.toml");
            compared += 1;
        }
        assert!(compared > 10);
    }

    #[test]
    fn every_target_has_a_binary_and_a_corpus() {
        let root = build::workspace_root().unwrap();
        let manifest = fs::read_to_string(root.join("fuzz/Cargo.toml")).unwrap();
        for name in names(&root).unwrap() {
            assert!(manifest.contains(&format!("name = \"{name}\"\n")), "{name}");
            assert!(!files(&root.join(CORPUS).join(&name)).unwrap().is_empty(), "{name}");
        }
    }

    #[test]
    fn the_number_of_inputs_is_parsed() {
        let log = "Done 7 runs\nstat::number_of_executed_units: 7\nstat::peak_rss_mb: 34\n";
        assert_eq!(executed(log), Some("7"));
        assert_eq!(executed("nothing"), None);
    }
}
