//! `ls`: a look at what exists, printed.

use std::{io, process::ExitCode, sync::Arc};

use super::{RunError, setup, terminal};
use crate::{
    cli::{LsArgs, OutputFormat},
    look::{self, Options},
    sinks::output::{Output, OutputError},
    text,
};

/// Runs `ls`. What could not be seen is said on standard error.
///
/// # Errors
/// The wanted namespace does not exist, `/proc` can't be read, or standard output failed.
pub fn run(args: &LsArgs) -> Result<ExitCode, RunError> {
    let namespace = args.namespace.map(setup::inum).transpose()?;
    let options = Options { namespace, btf: args.btf.clone() };
    let ls = look::look(&options, &look::survey(&options))?;
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
    Output::new(Arc::default()).write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}
