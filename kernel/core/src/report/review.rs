//! The report of a review.

use super::reading::{Kind, Reading, count};
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
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "super::objects"
    )]
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

impl Reading for ReviewReport {
    const EXAMPLE: &'static str = r#"{"verdict": "request_changes", "confidence": 0.9, "summary": "Why, in a few sentences.", "comments": [{"path": "src/a.py", "line": 12, "severity": "major", "text": "What is wrong and what to do."}]}"#;

    fn texts(&self) -> Vec<(String, &str, Kind)> {
        let mut texts = vec![("summary".to_owned(), self.summary.as_str(), Kind::Prose)];
        for (n, comment) in self.comments.iter().enumerate() {
            let place = |field: &str| format!("comments[{n}].{field}");
            texts.push((place("path"), &comment.path, Kind::Path));
            texts.push((place("text"), &comment.text, Kind::Prose));
            if let Some(rule) = &comment.rule {
                texts.push((place("rule"), rule, Kind::Path));
            }
        }
        texts
    }

    fn prose_mut(&mut self) -> Vec<&mut String> {
        let comments = self.comments.iter_mut();
        let comments =
            comments.flat_map(|comment| comment.rule.iter_mut().chain([&mut comment.text]));
        std::iter::once(&mut self.summary).chain(comments).collect()
    }

    fn flaw(&self) -> Option<String> {
        let comments = self.comments.len();
        let grave = self.comments.iter().find(|c| c.severity >= Severity::Major);
        match self.verdict {
            ReviewVerdict::Approve => grave.map(|comment| {
                format!(
                    "it approves, and says of `{}` that it must be changed ({}): ask for changes, or make less of it",
                    comment.path,
                    comment.severity.as_str()
                )
            }),
            ReviewVerdict::RequestChanges if comments == 0 => Some(
                "it asks for changes, and `comments` does not say which".to_owned(),
            ),
            ReviewVerdict::RequestChanges | ReviewVerdict::Reject => None,
        }
        .or_else(|| count("comments", comments, 0, 50))
        .or_else(|| {
            let mut lines = self.comments.iter().enumerate();
            let zero = lines.find(|(_, comment)| comment.line == Some(0));
            zero.map(|(n, _)| format!("`comments[{n}].line` is 0; lines are counted from 1"))
        })
    }
}
