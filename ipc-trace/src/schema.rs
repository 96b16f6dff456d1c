//! The JSON schemas of the outputs, derived from their types.

use schemars::{Schema, schema_for};

use crate::{
    cli::SchemaOf,
    event::{Line, report::Report},
};

/// The schema, as JSON.
#[must_use]
pub fn of(what: SchemaOf) -> String {
    let schema: Schema = match what {
        SchemaOf::Event => schema_for!(Line<'static>),
        SchemaOf::Report => schema_for!(Report),
    };
    format!("{:#}", schema.to_value())
}
