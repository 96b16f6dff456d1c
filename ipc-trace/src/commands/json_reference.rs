//! `docs/JSON.md`: every field of the JSON outputs, from their schemas. The test keeps the file as the schemas are.

use std::{collections::BTreeMap, fmt::Write as _};

use expect_test::expect_file;
use serde_json::{Map, Value};

use super::schema::schema_json;
use crate::cli::SchemaOf;

const HEAD: &str = "\
# JSON outputs

Every field of `-o json`, with its type, and whether it can be `null`. This page is made from the schemas that
`ipc-trace schema event|report|ls|doctor` prints; a program should validate against these.

- `v` is the version of the format; the `start` line and `doctor` have the program's version, too. New fields and
  values may be added: ignore what you don't know. If a field's name or meaning changes, `v` does.
- Units are in the names: `_ns` nanoseconds, `_bytes` bytes, `boot_ns` nanoseconds on `CLOCK_BOOTTIME`. Integers are
  exact, also beyond 2^53.
- `null` means: not known, or there is none; the field's description says which. An *optional* field is left out
  where it doesn't apply.
- Text that another process chose (a name, a path) may be no valid UTF-8; such bytes are written as `\\xNN`: see
  [`Text`](#text).
";

const OUTPUTS: [(SchemaOf, &str); 4] = [
    (SchemaOf::Event, "`live`: lines"),
    (SchemaOf::Report, "`report`: one object"),
    (SchemaOf::Ls, "`ls`: one object"),
    (SchemaOf::Doctor, "`doctor`: one object"),
];

/// The page. Types that several outputs share are described once.
fn page() -> String {
    let mut text = HEAD.to_owned();
    let mut types: BTreeMap<String, Value> = BTreeMap::new();
    for (of, title) in OUTPUTS {
        let schema: Value = serde_json::from_str(&schema_json(of)).unwrap();
        write!(text, "\n## {title}\n").unwrap();
        section(&mut text, &schema, true);
        for (name, one) in schema["$defs"].as_object().into_iter().flatten() {
            let other = types.insert(name.clone(), one.clone());
            assert!(other.is_none_or(|other| other == *one), "two types are called {name}");
        }
    }
    text.push_str("\n## Types\n");
    for (name, schema) in &types {
        write!(text, "\n### {name}\n").unwrap();
        section(&mut text, schema, false);
    }
    text
}

/// What a schema describes: its fields, its values, or its alternatives.
fn section(text: &mut String, schema: &Value, is_root: bool) {
    if let Some(description) = schema["description"].as_str() {
        write!(text, "\n{}\n", line(description)).unwrap();
    }
    let alternatives = alternatives(schema);
    if is_root && !alternatives.is_empty() {
        text.push_str("\n`type` | fields | when\n--- | --- | ---\n");
        for one in alternatives {
            let name = one["properties"]["type"]["const"].as_str().unwrap();
            let description = line(one["description"].as_str().unwrap_or_default());
            writeln!(text, "`{name}` | {} | {description}", type_of(one)).unwrap();
        }
    } else if alternatives.iter().any(|one| one.get("properties").is_some()) {
        for one in alternatives {
            if one.get("properties").is_none() {
                write!(text, "\nOr {}: {}\n", type_of(one), description(one)).unwrap();
                continue;
            }
            write!(text, "\n**{}**\n", description(one)).unwrap();
            fields(text, one);
        }
    } else if !alternatives.is_empty() {
        text.push_str("\nvalue | meaning\n--- | ---\n");
        for one in alternatives {
            writeln!(text, "{} | {}", type_of(one), description(one)).unwrap();
        }
    } else if schema.get("properties").is_none() {
        write!(text, "\n{}\n", type_of(schema)).unwrap();
    }
    if schema.get("properties").is_some() {
        fields(text, schema);
    }
}

fn fields(text: &mut String, schema: &Value) {
    let required: Vec<_> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    text.push_str("\nfield | type | null | meaning\n--- | --- | --- | ---\n");
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let null = if is_nullable(field) { "yes" } else { "no" };
        let optional = if required.contains(&name.as_str()) { "" } else { ", optional" };
        let meaning = description(field);
        writeln!(text, "`{name}` | {}{optional} | {null} | {meaning}", type_of(field)).unwrap();
    }
}

fn description(schema: &Value) -> String {
    line(schema["description"].as_str().unwrap_or_default())
}

/// Text as it can be in a table's cell.
fn line(text: &str) -> String {
    // Links between the sources' types lead nowhere here.
    let text = text.replace("[`", "`").replace("`]", "`");
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

fn alternatives(schema: &Value) -> Vec<&Value> {
    let of = |name: &str| schema[name].as_array().into_iter().flatten();
    of("oneOf").chain(of("anyOf")).collect()
}

fn is_null(schema: &Value) -> bool {
    schema["type"] == "null"
}

fn is_nullable(schema: &Value) -> bool {
    let types = schema["type"].as_array().into_iter().flatten();
    types
        .chain(schema["enum"].as_array().into_iter().flatten())
        .any(|one| one == "null" || one.is_null())
        || alternatives(schema).into_iter().any(is_null)
}

/// A type in a few words. Whether it can be null is not among them.
fn type_of(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str().and_then(|path| path.strip_prefix("#/$defs/")) {
        return format!("[{name}](#{})", name.to_lowercase());
    }
    if let Some(value) = schema.get("const") {
        return format!("`{value}`");
    }
    if let Some(values) = schema["enum"].as_array() {
        let values = values.iter().filter(|value| !value.is_null());
        return values.map(|value| format!("`{value}`")).collect::<Vec<_>>().join(" or ");
    }
    let alternatives: Vec<_> =
        alternatives(schema).into_iter().filter(|one| !is_null(one)).map(type_of).collect();
    if !alternatives.is_empty() {
        return alternatives.join(" or ");
    }
    let types = schema["type"].as_array();
    let types = types.map_or_else(|| vec![&schema["type"]], |all| all.iter().collect());
    let words = types.into_iter().filter_map(Value::as_str).filter(|name| *name != "null");
    let words: Vec<_> = words.map(|name| one_type(name, schema)).collect();
    if words.is_empty() { "any value".to_owned() } else { words.join(" or ") }
}

fn one_type(name: &str, schema: &Value) -> String {
    match name {
        "array" => format!("array of {}", type_of(&schema["items"])),
        "object" => {
            let properties = schema["properties"].as_object();
            let values: Vec<_> = properties.into_iter().flat_map(Map::values).collect();
            match (values.as_slice(), &schema["additionalProperties"]) {
                // A map with known keys: all values are alike.
                ([first, rest @ ..], _)
                    if rest.len() > 3 && rest.iter().all(|one| one == first) =>
                {
                    let of_ops = properties.is_some_and(|all| all.contains_key("semop"));
                    let by = if of_ops { "operation" } else { "name" };
                    format!("object: by {by}, {}", type_of(first))
                }
                ([], Value::Object(_)) => {
                    format!("object: by name, {}", type_of(&schema["additionalProperties"]))
                }
                ([], _) => "object".to_owned(),
                (_, _) => {
                    let names = properties.into_iter().flat_map(Map::iter);
                    let names = names.map(|(name, one)| format!("`{name}`: {}", type_of(one)));
                    format!("object with {}", names.collect::<Vec<_>>().join(", "))
                }
            }
        }
        other => other.to_owned(),
    }
}

#[test]
fn the_page_in_the_documents_is_what_the_schemas_say() {
    // UPDATE_EXPECT=1 writes the file.
    expect_file!["../../../docs/JSON.md"].assert_eq(&page());
}

#[test]
fn each_field_says_what_it_means() {
    for (of, _) in OUTPUTS {
        let schema: Value = serde_json::from_str(&schema_json(of)).unwrap();
        let types = schema["$defs"].as_object().into_iter().flat_map(Map::values);
        for fields in types.chain([&schema]).filter_map(|one| one["properties"].as_object()) {
            for (name, field) in fields {
                let says = field.get("description").is_some() || field.get("$ref").is_some();
                assert!(says, "{of:?}: {name} has no description");
            }
        }
    }
}
