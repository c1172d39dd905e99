//! Routing: how hard an issue is, by written rules, and what that means for its job.

use crate::{config::Config, history::History, model::Issue};
use serde::{Deserialize, Serialize};
use std::fmt;

/// How hard an issue is; names a tier of `factory.yaml`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Complexity {
    /// A small change in a place that is known.
    Low,
    /// An ordinary issue.
    #[default]
    Medium,
    /// Large, or in many places, or in places where work failed before.
    High,
}

impl Complexity {
    /// All of them, the easiest first.
    pub const ALL: [Complexity; 3] = [Complexity::Low, Complexity::Medium, Complexity::High];

    /// The word used in files and for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Complexity::Low => "low",
            Complexity::Medium => "medium",
            Complexity::High => "high",
        }
    }

    /// One tier up; none above the highest.
    pub fn up(self) -> Option<Self> {
        match self {
            Complexity::Low => Some(Complexity::Medium),
            Complexity::Medium => Some(Complexity::High),
            Complexity::High => None,
        }
    }
}

impl fmt::Display for Complexity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a job's work is done, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// The tier.
    pub tier: Complexity,
    /// The sum of the points.
    pub score: u32,
    /// What gave how many points, a line each.
    pub reasons: Vec<String>,
}

/// Prefix of the label by which an author names the tier: `complexity:high`.
pub const PREFIX: &str = "complexity:";

/// Routes an issue.
pub fn route(issue: &Issue, history: &History, config: &Config) -> Route {
    let _ = (history, config);
    let labels = issue.labels.iter();
    let mut named = labels.filter_map(|label| label.strip_prefix(PREFIX));
    let tier = Complexity::ALL
        .into_iter()
        .find(|tier| named.any(|name| name == tier.as_str()));
    Route {
        tier: tier.unwrap_or_default(),
        score: 0,
        reasons: Vec::new(),
    }
}
