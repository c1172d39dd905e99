//! Priorities, from labels of issues.

use crate::model::{Issue, Seconds};
use std::fmt;

/// What a label that gives a priority begins with.
pub const PREFIX: &str = "priority/";

/// How urgent an issue is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// When nothing else is to be done.
    Low,
    /// Without a label.
    Normal,
    /// Before the others.
    High,
    /// Before everything else.
    Critical,
}

impl Priority {
    /// All, the most urgent first.
    pub const ALL: [Priority; 4] = [
        Priority::Critical,
        Priority::High,
        Priority::Normal,
        Priority::Low,
    ];

    /// The word after [`PREFIX`].
    pub fn as_str(self) -> &'static str {
        match self {
            Priority::Low => "low",
            Priority::Normal => "normal",
            Priority::High => "high",
            Priority::Critical => "critical",
        }
    }

    /// The priority that a label gives; none for a label that gives none of these.
    pub fn of_label(label: &str) -> Option<Self> {
        let word = label.strip_prefix(PREFIX)?;
        Self::ALL.into_iter().find(|p| p.as_str() == word)
    }

    /// The issue's, by its labels.
    pub fn of(issue: &Issue) -> Self {
        let given = issue
            .labels
            .iter()
            .filter_map(|label| Self::of_label(label));
        given.max().unwrap_or(Priority::Normal)
    }

    /// Seconds by which it counts as having waited longer than one of the lowest
    /// priority. Whoever waits that much longer goes first: so everybody's turn comes.
    pub fn head_start(self) -> Seconds {
        const HOUR: Seconds = 3600;
        match self {
            Priority::Low => 0,
            Priority::Normal => 8 * HOUR,
            Priority::High => 16 * HOUR,
            Priority::Critical => 7 * 24 * HOUR,
        }
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
