//! All scenarios.

use super::{
    attempts, benign, benign_containers, kind::Scenario, mappings, mounts, moves, objects, sharing,
    views,
};

/// All scenarios.
pub(super) fn all() -> Vec<Scenario> {
    let parts: [&[Scenario]; 9] = [
        objects::ALL,
        mounts::ALL,
        mappings::ALL,
        views::ALL,
        moves::ALL,
        attempts::ALL,
        sharing::ALL,
        benign::ALL,
        benign_containers::ALL,
    ];
    parts.concat()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn scenarios_are_unique_and_cover_enough_cases() {
        let all = all();
        let names: BTreeSet<_> = all.iter().map(|one| one.name).collect();
        assert_eq!(names.len(), all.len(), "two have one name");
        assert!(all.len() >= 40);
        assert!(all.iter().filter(|one| one.is_benign()).count() >= 15);
        assert!(all.iter().all(|one| one.what.ends_with('.')));
    }
}
