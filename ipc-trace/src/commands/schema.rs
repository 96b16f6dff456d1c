//! The JSON schemas of the outputs, derived from their types.

use schemars::generate::SchemaSettings;

use crate::{
    cli::SchemaOf,
    event::{JsonLine, doctor::Doctor, ls::Ls, report::Report},
};

/// The schema, as JSON.
#[must_use]
pub(super) fn schema_json(what: SchemaOf) -> String {
    // For serialisation, not deserialisation: a member that may be left out is not required.
    let generator = SchemaSettings::draft2020_12().for_serialize().into_generator();
    let schema = match what {
        SchemaOf::Event => generator.into_root_schema_for::<JsonLine<'static>>(),
        SchemaOf::Report => generator.into_root_schema_for::<Report>(),
        SchemaOf::Ls => generator.into_root_schema_for::<Ls>(),
        SchemaOf::Doctor => generator.into_root_schema_for::<Doctor>(),
    };
    format!("{:#}", schema.to_value())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::finding::{Class, Severity};

    #[test]
    fn findings_are_in_event_and_report_schemas() {
        for what in [SchemaOf::Event, SchemaOf::Report] {
            let schema = schema_json(what);
            let members = ["confidence", "declared_by", "owner_container", "reasons", "muted_by"];
            let names = Class::ALL.map(Class::name).into_iter();
            for word in names.chain(Severity::ALL.map(Severity::name)).chain(members) {
                assert!(schema.contains(&format!("\"{word}\"")), "{what:?}: {word}");
            }
        }
        assert!(schema_json(SchemaOf::Event).contains("\"finding\""));
    }
}
