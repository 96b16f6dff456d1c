//! Finds containers in the tracer's output.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::tracer::list;

/// By id, each container in a list.
pub(super) fn by_id(containers: &Value) -> BTreeMap<&str, &Value> {
    list(containers).iter().map(|one| (one["id"].as_str().unwrap(), one)).collect()
}

/// The namespaces of a report or of `ls` that a container is in.
pub(super) fn of_container<'a>(all: &'a Value, id: &str) -> Vec<&'a Value> {
    let in_it = |ns: &&Value| by_id(&ns["containers"]).contains_key(id);
    list(&all["namespaces"]).iter().filter(in_it).collect()
}
