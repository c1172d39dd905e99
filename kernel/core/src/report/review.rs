//! The report of a review.

use crate::quantity::Confidence;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a review comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReviewVerdict {
    /// It may be merged as it is.
    Approve,
    /// It may be merged once the comments are dealt with.
    RequestChanges,
    /// It is the wrong way: no further round makes it right.
    Reject,
}

impl ReviewVerdict {
    /// The word used in files and for people.
    pub fn as_str(self) -> &'static str {
        match self {
            ReviewVerdict::Approve => "approve",
            ReviewVerdict::RequestChanges => "request_changes",
            ReviewVerdict::Reject => "reject",
        }
    }
}

impl fmt::Display for ReviewVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The report of a review run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReviewReport {
    /// What it comes to.
    pub verdict: ReviewVerdict,
    /// How sure it is, from 0 to 1.
    pub confidence: Confidence,
    /// Why, in a few sentences.
    pub summary: String,
    /// What is to be changed, or should be known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub comments: Vec<ReviewComment>,
}

/// One remark of a review.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReviewComment {
    /// The file, from the top of the repository.
    pub path: String,
    /// The line of the new version, from 1; none for the whole file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// How much it matters.
    pub severity: Severity,
    /// The principle or prohibition concerned, by its path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// What is wrong and what to do; Markdown.
    pub text: String,
}

/// How much a remark matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know.
    Note,
    /// Should be changed.
    Minor,
    /// Must be changed.
    Major,
    /// Must not be merged with it.
    Blocker,
}

impl Severity {
    /// The word used in files and for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Note => "note",
            Severity::Minor => "minor",
            Severity::Major => "major",
            Severity::Blocker => "blocker",
        }
    }
}

impl ReviewReport {
    /// The review as Markdown, the gravest remarks first.
    pub fn text(&self) -> String {
        let mut out = format!("{}\n", self.summary.trim_end());
        let mut comments: Vec<&ReviewComment> = self.comments.iter().collect();
        comments.sort_by_key(|comment| std::cmp::Reverse(comment.severity));
        for comment in comments {
            let line = comment
                .line
                .map_or(String::new(), |line| format!(":{line}"));
            let rule = comment.rule.as_ref();
            let rule = rule.map_or(String::new(), |rule| format!(" ({rule})"));
            out.push_str(&format!(
                "\n- {} `{}`{line}{rule}: {}\n",
                comment.severity.as_str(),
                comment.path,
                comment.text.trim_end().replace('\n', "\n  ")
            ));
        }
        out
    }
}
