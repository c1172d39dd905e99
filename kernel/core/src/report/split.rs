//! The report of a run that splits an instruction into issues.

use crate::route::Complexity;
use serde::{Deserialize, Serialize};

/// The report of a splitting run: the issues that an instruction becomes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitReport {
    /// How it was split and why, in a few sentences.
    pub summary: String,
    /// The issues, each after those that it depends on.
    pub issues: Vec<SplitIssue>,
}

/// One issue of a split.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitIssue {
    /// Names it within the report.
    pub key: String,
    /// One line.
    pub title: String,
    /// What is asked for; Markdown.
    pub body: String,
    /// What must be true when it is done.
    pub acceptance: Vec<String>,
    /// Paths that it is expected to touch, from the top of the repository.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    /// Keys of issues that must be done before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<String>,
    /// How hard it is.
    pub complexity: Complexity,
}
