//! How work went before, by place in the repository.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Most places that are kept; the ones that were least worked on go first.
const MOST_PLACES: usize = 500;

/// `history.yaml`: what came of work on each place.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct History {
    places: BTreeMap<String, Went>,
}

/// What came of work on one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Went {
    /// Jobs that were merged.
    pub merged: u32,
    /// Code runs that these took.
    pub rounds: u32,
    /// Jobs whose work failed: its rounds were used up, or a reviewer or a person rejected it.
    pub failed: u32,
}

impl History {
    /// Adds what came of a job to each place that it touched.
    pub fn add(&mut self, places: &[String], went: Went) {
        for place in places {
            let of = self.places.entry(place.clone()).or_default();
            of.merged = of.merged.saturating_add(went.merged);
            of.rounds = of.rounds.saturating_add(went.rounds);
            of.failed = of.failed.saturating_add(went.failed);
        }
        while self.places.len() > MOST_PLACES {
            let count = |(_, went): &(&String, &Went)| went.merged.saturating_add(went.failed);
            let least = self
                .places
                .iter()
                .min_by_key(count)
                .map(|(place, _)| place.clone());
            let Some(least) = least else { return };
            self.places.remove(&least);
        }
    }

    /// What came of work on these places: of each the longest part of it that is known.
    pub fn of<'a>(&self, places: impl IntoIterator<Item = &'a str>) -> Went {
        let mut seen = std::collections::BTreeSet::new();
        let mut sum = Went::default();
        for place in places {
            let mut at = place.trim_end_matches('/');
            let found = loop {
                match self.places.get_key_value(at) {
                    Some((place, went)) => break seen.insert(place).then_some(went),
                    None => match at.rsplit_once('/') {
                        Some((above, _)) => at = above,
                        None => break None,
                    },
                }
            };
            let Some(went) = found else { continue };
            sum.merged = sum.merged.saturating_add(went.merged);
            sum.rounds = sum.rounds.saturating_add(went.rounds);
            sum.failed = sum.failed.saturating_add(went.failed);
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn went(merged: u32, rounds: u32, failed: u32) -> Went {
        Went {
            merged,
            rounds,
            failed,
        }
    }

    fn places(of: &[&str]) -> Vec<String> {
        of.iter().map(|&place| place.to_owned()).collect()
    }

    #[test]
    fn what_came_of_a_place_adds_up_and_counts_once_for_many_paths() {
        let mut history = History::default();
        assert!(history.places.is_empty());
        history.add(&places(&["src", "src/a"]), went(1, 2, 0));
        history.add(&places(&["src/a"]), went(0, 0, 1));
        assert_eq!(history.of(["src/a"]), went(1, 2, 1));
        // The longest part that is known, and each of these once.
        assert_eq!(
            history.of(["src/a/b/c.rs", "src/a/d.rs", "src/a/"]),
            went(1, 2, 1)
        );
        assert_eq!(history.of(["src/other.rs"]), went(1, 2, 0));
        assert_eq!(history.of(["src/a/b.rs", "src/other.rs"]), went(2, 4, 1));
        // Part of a name is no part of a path.
        assert_eq!(history.of(["src-gen/a", "docs"]), Went::default());
        let text = serde_saphyr::to_string(&history).unwrap();
        assert_eq!(serde_saphyr::from_str::<History>(&text).unwrap(), history);
    }

    #[test]
    fn of_too_many_places_the_least_worked_on_go() {
        let mut history = History::default();
        history.add(&places(&["old"]), went(2, 2, 0));
        history.add(&places(&["rare"]), went(1, 1, 0));
        for n in 0..MOST_PLACES - 1 {
            history.add(&[format!("p{n}")], went(1, 1, 1));
        }
        assert_eq!(history.of(["old"]).merged, 2);
        assert_eq!(history.of(["rare"]), Went::default());
        assert_eq!(history.places.len(), MOST_PLACES);
    }
}
