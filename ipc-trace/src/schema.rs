//! The JSON schemas of the outputs, derived from their types.

use schemars::generate::SchemaSettings;

use crate::{
    cli::SchemaOf,
    event::{Line, doctor::Doctor, ls::Ls, report::Report},
};

/// The schema, as JSON.
#[must_use]
pub fn of(what: SchemaOf) -> String {
    // What is written, as opposed to what would be understood: a member that may be left out is not
    // required.
    let generator = SchemaSettings::draft2020_12().for_serialize().into_generator();
    let schema = match what {
        SchemaOf::Event => generator.into_root_schema_for::<Line<'static>>(),
        SchemaOf::Report => generator.into_root_schema_for::<Report>(),
        SchemaOf::Ls => generator.into_root_schema_for::<Ls>(),
        SchemaOf::Doctor => generator.into_root_schema_for::<Doctor>(),
    };
    format!("{:#}", schema.to_value())
}
