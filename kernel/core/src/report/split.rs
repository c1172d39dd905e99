//! The report of a run that splits an instruction into issues.

use super::reading::{Kind, Reading, count, each};
use crate::{route::Complexity, text};
use serde::{Deserialize, Serialize};

/// The report of a splitting run: the issues that an instruction becomes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitReport {
    /// How it was split and why, in a few sentences.
    pub summary: String,
    /// The issues, each after those that it depends on.
    #[serde(deserialize_with = "super::objects")]
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

impl Reading for SplitReport {
    const EXAMPLE: &'static str = r#"{"summary": "How it is split and why.", "issues": [{"key": "a", "title": "One line", "body": "What is wanted, and why.", "acceptance": ["What must be true."], "paths": ["src/a"], "complexity": "low"}, {"key": "b", "title": "Another", "body": "What follows.", "acceptance": ["What must be true."], "depends_on": ["a"], "complexity": "medium"}]}"#;

    fn texts(&self) -> Vec<(String, &str, Kind)> {
        let mut texts = vec![("summary".to_owned(), self.summary.as_str(), Kind::Prose)];
        for (n, issue) in self.issues.iter().enumerate() {
            let place = |field: &str| format!("issues[{n}].{field}");
            texts.push((place("key"), &issue.key, Kind::Key));
            texts.push((place("title"), &issue.title, Kind::Title));
            texts.push((place("body"), &issue.body, Kind::Prose));
            texts.extend(each(&place("acceptance"), &issue.acceptance, Kind::Line));
            texts.extend(each(&place("paths"), &issue.paths, Kind::Path));
            texts.extend(each(&place("depends_on"), &issue.depends_on, Kind::Key));
        }
        texts
    }

    fn prose_mut(&mut self) -> Vec<&mut String> {
        let issues = self.issues.iter_mut().flat_map(|issue| {
            let texts = [&mut issue.title, &mut issue.body].into_iter();
            texts.chain(&mut issue.acceptance)
        });
        std::iter::once(&mut self.summary).chain(issues).collect()
    }

    fn flaw(&self) -> Option<String> {
        let mut keys: Vec<&str> = Vec::new();
        let mut titles: Vec<String> = Vec::new();
        for (n, issue) in self.issues.iter().enumerate() {
            let place = |field: &str| format!("issues[{n}].{field}");
            let title = text::folded(&issue.title);
            let lists = count(&place("acceptance"), issue.acceptance.len(), 1, 20)
                .or_else(|| count(&place("paths"), issue.paths.len(), 0, 50))
                .or_else(|| count(&place("depends_on"), issue.depends_on.len(), 0, 12));
            if lists.is_some() {
                return lists;
            }
            if keys.contains(&issue.key.as_str()) {
                return Some(format!(
                    "`{}` is that of another issue: `{}`",
                    place("key"),
                    issue.key
                ));
            }
            if titles.contains(&title) {
                return Some(format!("`{}` is that of another issue", place("title")));
            }
            // Only earlier ones: so there is no circle.
            let late = issue
                .depends_on
                .iter()
                .find(|on| !keys.contains(&on.as_str()));
            if let Some(on) = late {
                let known = self.issues.iter().any(|issue| issue.key == *on);
                return Some(match known {
                    true => format!(
                        "`{}` names `{on}`, which does not come before `{}`: put issues after those that they depend on, and break circles",
                        place("depends_on"),
                        issue.key
                    ),
                    false => format!(
                        "`{}` names `{on}`, which is no key of an issue here",
                        place("depends_on")
                    ),
                });
            }
            keys.push(&issue.key);
            titles.push(title);
        }
        count("issues", self.issues.len(), 1, 12)
    }
}
