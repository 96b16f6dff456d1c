//! The containers in a namespace, and how they share it.

use std::sync::Arc;

use super::{style::Role, units::GroupedCount, wrap::Span};
use crate::event::{Container, Sharing, tag::ContainerText};

/// The largest number of containers named for one namespace.
const NAMED: usize = 4;

/// The containers in a namespace, and how they share it.
pub(super) fn containers(all: &[Arc<Container>], sharing: Option<Sharing>) -> Vec<Span> {
    let named = all.iter().take(NAMED);
    let mut spans: Vec<_> = named.map(|one| Span::new(Role::Heading, ContainerText(one))).collect();
    if let more @ 1.. = all.len().saturating_sub(NAMED) {
        let noun = if more == 1 { "container" } else { "containers" };
        let text = format_args!("{} more {noun}", GroupedCount(more as u64)).to_string();
        spans.push(Span::new(Role::Dim, text));
    }
    spans.extend(sharing.map(|sharing| match sharing {
        Sharing::Declared => Span::new(Role::Dim, "sharing declared"),
        Sharing::Unknown => Span::new(Role::Plain, "sharing, declared or not"),
        Sharing::Undeclared => Span::new(Role::Loss, "sharing not declared"),
    }));
    spans
}
