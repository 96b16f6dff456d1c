//! `ls`: a look at what exists, printed.

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

/// How long runtimes are waited for, where there are containers.
const PATIENCE: Duration = Duration::from_secs(2);

/// Runs `ls`. What could not be seen is said on standard error.
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
    let mut met = false;
    containers.fill(&mut ls, |_, _| met = true);
    if met {
        match names {
            Ok(mut names) => names.wait(PATIENCE, |named| drop(containers.named(named))),
            Err(error) => log::warn!("nobody can be asked for containers' names: {error}"),
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
