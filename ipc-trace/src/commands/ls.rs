//! `ls`: takes a snapshot and prints it.

use std::{io, path::Path, process::ExitCode, time::Duration};

use super::{
    error::RunError,
    run::{setup, terminal},
};
use crate::{
    cli::{LsArgs, OutputFormat},
    engine::track::containers::Containers,
    signals::Signals,
    sinks::output::{Output, OutputError},
    sinks::text,
    sources::host::cgroups::Hierarchy,
    sources::host::{self, SnapshotOptions},
    sources::runtimes::RuntimeClients,
};

/// How long to wait for runtimes, if there are containers.
const RUNTIME_WAIT: Duration = Duration::from_secs(2);

/// Runs `ls`. Parts that could not be seen are listed on standard error.
///
/// # Errors
/// The wanted namespace does not exist, `/proc` can't be read, or standard output failed.
pub(super) fn run(args: &LsArgs) -> Result<ExitCode, RunError> {
    let namespace = args.namespace.map(setup::inum).transpose()?;
    let mut containers = Containers::default();
    let hierarchy = Hierarchy::find(Path::new("/proc"));
    let names = RuntimeClients::ask(args.runtimes.sockets());
    let cgroups = hierarchy.as_ref();
    let options = SnapshotOptions { namespace, btf: args.btf.clone(), cgroups };
    let mut ls = host::take_snapshot(&options, &host::task_iter(&options))?;
    let mut has_containers = false;
    containers.fill(&mut ls, |_, _| has_containers = true);
    if has_containers {
        match names {
            Ok(mut names) => names.wait(RUNTIME_WAIT, |named| drop(containers.named(named))),
            Err(error) => log::warn!("containers' names are unknown: {error}"),
        }
        containers.fill(&mut ls, |_, _| ());
    }
    for unseen in &ls.unseen {
        log::warn!("not seen: {unseen}");
    }
    let text = match args.output {
        OutputFormat::Json => {
            let json = serde_json::to_string_pretty(&ls)
                .map_err(|e| OutputError::Failed(io::Error::from(e)))?;
            format!("{json}\n")
        }
        OutputFormat::Text => {
            let (palette, width) = terminal();
            text::ls::text(&ls, namespace.is_some(), palette, width).to_string()
        }
    };
    Output::new(Signals::default()).write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}
