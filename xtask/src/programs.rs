//! Programs that tests run beside the tracer, from Debian's packages.
//!
//! Invariant: nothing is started, and no setting of the machine is changed.

use std::{fs, path::Path};

use anyhow::Context as _;

use crate::apt::{self, Apt};

/// Names, and packages: those that machines have, too.
pub(crate) const PROGRAMS: [(&str, &str); 6] = [
    ("strace", "strace"),
    ("stress-ng", "stress-ng"),
    ("ipcmk", "util-linux"),
    ("ipcs", "util-linux"),
    ("lsns", "util-linux"),
    ("ipcrm", "util-linux"),
];

/// Runtimes of containers, with what a container runs. Docker's daemon is not started when it is installed:
/// machines that run tests either start no services then, or have Docker already.
const RUNTIMES: [(&str, &str); 4] = [
    ("dockerd", "docker.io"),
    ("podman", "podman"),
    ("runc", "runc"),
    ("busybox", "busybox-static"),
];

/// A program of PostgreSQL's that is not on `PATH`, and its package.
const POSTGRESQL: (&str, &str) = ("/usr/lib/postgresql/15/bin/initdb", "postgresql-15");
/// The package that makes a cluster when a PostgreSQL is installed, and where that is disabled.
const COMMON: [&str; 2] = ["postgresql-common", "/etc/postgresql-common/createcluster.conf"];

/// What applies the patches of the tests of extensions, and its package.
const GIT: (&str, &str) = ("git", "git");

/// What makes the environment of the SQL engines, and the package that has all of it.
const PYTHON: (&str, &str) = ("python3", "python3-venv");

/// Installs what the tests of extensions and of SQL engines need.
///
/// # Errors
///
/// When that can't be done from here; the error says how to.
pub(crate) fn ensure_git_and_python() -> anyhow::Result<()> {
    apt::program(GIT.0, GIT.1)?;
    apt::program(PYTHON.0, PYTHON.1).map(drop)
}

/// Installs what is missing for the live tests.
///
/// # Errors
///
/// When that can't be done from here; the error says how to.
pub(crate) fn ensure() -> anyhow::Result<()> {
    for (name, package) in PROGRAMS.into_iter().chain(RUNTIMES) {
        apt::program(name, package)?;
    }
    if Path::new(POSTGRESQL.0).exists() {
        return Ok(());
    }
    let (postgresql, [common, settings]) = (POSTGRESQL.1, COMMON);
    let mut apt = Apt::default();
    apt.obtain(common, common)?;
    let write =
        |text: &str| fs::write(settings, text).with_context(|| format!("cannot write {settings}"));
    let before = fs::read_to_string(settings).with_context(|| format!("cannot read {settings}"))?;
    write(&format!("{before}\ncreate_main_cluster = false\n"))?;
    let obtained = apt.obtain(POSTGRESQL.0, postgresql);
    write(&before)?;
    obtained
}
