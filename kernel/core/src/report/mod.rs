//! What a run may report, by role. A malformed report is answered with what is
//! wrong and an example, so that the engine can mend it.

mod plan;
mod reading;
mod review;
mod split;

pub use plan::PlanReport;
pub use review::{ReviewComment, ReviewReport, ReviewVerdict, Severity};
pub use split::{SplitIssue, SplitReport};

use crate::{
    grant::Role,
    model::TITLE_LIMIT,
    rules::{Found, find_secrets},
    text,
};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};
use std::{fmt, marker::PhantomData};

/// Most bytes of a report.
pub const REPORT_LIMIT: usize = 64 << 10;
/// Most characters of a summary.
pub const SUMMARY_LIMIT: usize = 10_000;
/// Most issues that a report asks for.
pub const ISSUES_LIMIT: usize = 10;
/// Most comments in a report.
pub const COMMENTS_LIMIT: usize = 5;
/// Most bytes of a draft's body or a comment.
pub const TEXT_LIMIT: usize = 10 << 10;
/// What the report of a code run looks like.
pub const CODE_EXAMPLE: &str =
    r#"{"summary": "What was changed and why.", "notes": "What the reviewer should know."}"#;

/// What a draft looks like.
const DRAFT_EXAMPLE: &str =
    r#"{"title": "What is wrong, in one line", "body": "Where, and how to see it."}"#;

/// The report of a code run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CodeReport {
    /// What was changed and why; at most [`SUMMARY_LIMIT`] characters, not blank.
    pub summary: String,
    /// What a reader should know beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notes: Option<String>,
    /// What it noticed beside its task, at most [`ISSUES_LIMIT`]: filed, and never approved
    /// by itself.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "objects"
    )]
    pub issues: Vec<Draft>,
    /// What it writes on its own issue, at most [`COMMENTS_LIMIT`]; Markdown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub comments: Vec<String>,
}

/// An issue that an agent asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Draft {
    /// One line, at most [`TITLE_LIMIT`] bytes.
    pub title: String,
    /// Markdown. `Depends-on:` and `Touches:` mean nothing in it.
    pub body: String,
}

/// What is an object in the text, too: serde's structs alone take a list of their fields as well.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = Object<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        from.deserialize_map(Fields(PhantomData))
    }
}

fn objects<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    let all: Vec<Object<T>> = Vec::deserialize(from)?;
    Ok(all.into_iter().map(|Object(one)| one).collect())
}

/// Why a report was not accepted. Its text is for the agent that wrote it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadReport {
    /// Longer than [`REPORT_LIMIT`].
    #[error("the report has {bytes} bytes; at most {REPORT_LIMIT} are read. Write less")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// No JSON object with the fields of the role.
    #[error(
        "the report is not as it should be: {problem}. An example of a good one: {CODE_EXAMPLE}"
    )]
    Shape {
        /// What is wrong and where.
        problem: String,
    },
    /// A report of a run that only reads, which is not as its role wants it.
    #[error("the report is not as it should be: {problem}. An example of a good one: {example}")]
    Wrong {
        /// What is wrong and where.
        problem: String,
        /// What a good one looks like.
        example: &'static str,
    },
    /// A summary without words.
    #[error("`summary` is blank. An example of a good report: {CODE_EXAMPLE}")]
    Blank,
    /// More issues or comments than are taken.
    #[error("`{field}` has {count} entries; at most {limit} are taken. Keep what matters most")]
    TooMany {
        /// `issues` or `comments`.
        field: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
    /// A title, body or comment that cannot be kept.
    #[error("`{place}` {flaw}. An example of a good entry of `issues`: {DRAFT_EXAMPLE}")]
    Text {
        /// Where, for example `issues[0].title`, counted from 0.
        place: String,
        /// What is wrong with it.
        flaw: Flaw,
    },
    /// A text with a secret in it: what is filed goes to many readers and stays.
    #[error(
        "`{place}` holds a secret in line {line} (no secret: {rule}). Take it out, say where it stands in its place, and hand in the report again"
    )]
    Secret {
        /// Where, as in [`BadReport::Text`].
        place: String,
        /// The line of that text, from 1.
        line: u64,
        /// The rule that found it.
        rule: String,
    },
    /// Nothing can be looked for, so nothing is let through.
    #[error(
        "the report cannot be looked through for secrets: {problem}. A person has to mend the factory"
    )]
    Unsearched {
        /// Why.
        problem: String,
    },
    /// A summary beyond [`SUMMARY_LIMIT`].
    #[error(
        "`summary` has {characters} characters; at most {SUMMARY_LIMIT} are kept. Write less, or move details to `notes`"
    )]
    LongSummary {
        /// Its length.
        characters: usize,
    },
    /// The role has no report.
    #[error("a {role} run has no report; its verdict is the exit code of its checks", role = role.as_str())]
    NoReport {
        /// The role.
        role: Role,
    },
}

/// What is wrong with a text in a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// It has no words.
    #[error("is blank")]
    Blank,
    /// It is too long.
    #[error("has {bytes} bytes; at most {limit} are kept")]
    Long {
        /// Its length.
        bytes: usize,
        /// What is kept.
        limit: usize,
    },
    /// It holds what a terminal acts on, or a title more than one line.
    #[error("holds the control character U+{:04X}; a title is one line, other texts are plain Markdown", *.0 as u32)]
    Control(char),
}

/// The JSON Schema of a role's report; none where it has no report. What cannot be said in it
/// is said by [`validate`].
pub fn schema(role: Role) -> Option<&'static str> {
    match role {
        Role::Split => Some(include_str!(
            "../../../../agent-images/agents/schemas/split.json"
        )),
        Role::Plan => Some(include_str!(
            "../../../../agent-images/agents/schemas/plan.json"
        )),
        Role::Code => Some(include_str!(
            "../../../../agent-images/agents/schemas/code.json"
        )),
        Role::Review => Some(include_str!(
            "../../../../agent-images/agents/schemas/review.json"
        )),
        Role::Check => None,
    }
}

/// Checks the report `text` of a run with `role`; gives its canonical JSON text.
pub fn validate(role: Role, text: &[u8]) -> Result<String, BadReport> {
    if text.len() > REPORT_LIMIT {
        return Err(BadReport::TooLong { bytes: text.len() });
    }
    match role {
        Role::Check => Err(BadReport::NoReport { role }),
        Role::Split => reading::validate::<SplitReport>(text),
        Role::Plan => reading::validate::<PlanReport>(text),
        Role::Review => reading::validate::<ReviewReport>(text),
        Role::Code => {
            // serde_json's message ends with line and column.
            let shape = |error: serde_json::Error| BadReport::Shape {
                problem: error.to_string(),
            };
            let Object(report): Object<CodeReport> = serde_json::from_slice(text).map_err(shape)?;
            let characters = report.summary.chars().count();
            if report.summary.trim().is_empty() {
                Err(BadReport::Blank)
            } else if characters > SUMMARY_LIMIT {
                Err(BadReport::LongSummary { characters })
            } else {
                check_what_is_filed(&report)?;
                check_for_secrets(&report)?;
                serde_json::to_string(&report).map_err(shape)
            }
        }
    }
}

fn check_what_is_filed(report: &CodeReport) -> Result<(), BadReport> {
    for (field, count, limit) in [
        ("issues", report.issues.len(), ISSUES_LIMIT),
        ("comments", report.comments.len(), COMMENTS_LIMIT),
    ] {
        if count > limit {
            return Err(BadReport::TooMany {
                field,
                count,
                limit,
            });
        }
    }
    let bad = |place: String, flaw| BadReport::Text { place, flaw };
    for (n, draft) in report.issues.iter().enumerate() {
        check_text(&draft.title, TITLE_LIMIT, &[])
            .map_err(|flaw| bad(format!("issues[{n}].title"), flaw))?;
        check_text(&draft.body, TEXT_LIMIT, LAYOUT)
            .map_err(|flaw| bad(format!("issues[{n}].body"), flaw))?;
    }
    for (n, comment) in report.comments.iter().enumerate() {
        check_text(comment, TEXT_LIMIT, LAYOUT)
            .map_err(|flaw| bad(format!("comments[{n}]"), flaw))?;
    }
    Ok(())
}

fn check_for_secrets(report: &CodeReport) -> Result<(), BadReport> {
    for (place, text) in report.texts() {
        let found = find_secrets(text).map_err(|problem| BadReport::Unsearched { problem })?;
        if let Some(Found { rule, line, .. }) = found.into_iter().next() {
            return Err(BadReport::Secret { place, line, rule });
        }
    }
    Ok(())
}

/// Control characters that a text of several lines may hold.
const LAYOUT: &[char] = &['\n', '\r', '\t'];

fn check_text(text: &str, limit: usize, allowed: &[char]) -> Result<(), Flaw> {
    let bytes = text.len();
    let control = text
        .chars()
        .find(|c| c.is_control() && !allowed.contains(c));
    match control {
        _ if text.trim().is_empty() => Err(Flaw::Blank),
        _ if bytes > limit => Err(Flaw::Long { bytes, limit }),
        Some(control) => Err(Flaw::Control(control)),
        None => Ok(()),
    }
}

/// A report that [`validate`] accepted.
pub fn parse(json: &str) -> Option<CodeReport> {
    serde_json::from_str(json).ok()
}

/// A report that [`validate`] accepted, as its texts go out to issues, comments and pull
/// requests.
pub fn outgoing(json: &str) -> Option<CodeReport> {
    let mut report = parse(json)?;
    for text in report.texts_mut() {
        *text = outgoing_text(text);
    }
    Some(report)
}

/// As [`outgoing`], of a splitting run.
pub fn outgoing_split(json: &str) -> Option<SplitReport> {
    reading::outgoing(json)
}

/// As [`outgoing`], of a planning run.
pub fn outgoing_plan(json: &str) -> Option<PlanReport> {
    reading::outgoing(json)
}

/// As [`outgoing`], of a review.
pub fn outgoing_review(json: &str) -> Option<ReviewReport> {
    reading::outgoing(json)
}

/// A text of a run as it goes out: no secret in it, no mention and no reference.
pub fn outgoing_text(text: &str) -> String {
    text::defused(&without_secrets(text))
}

/// A text of several lines of a run as it goes out, such as what its checks printed: fenced,
/// since it is not Markdown, and no secret in it. Code tells nobody and points at nothing.
pub fn outgoing_output(text: &str) -> String {
    text::fenced(&without_secrets(text))
}

/// A report with a secret is refused; one that was taken before its rule was known may hold
/// one, and so may whatever else a run says.
fn without_secrets(text: &str) -> String {
    let Ok(mut found) = find_secrets(text) else {
        return "[this text could not be looked through for secrets, and is left out]".to_owned();
    };
    // They come kind by kind, and what one kind finds may begin within what another one does.
    found.sort_by_key(|found| (found.range.start, found.range.end));
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    for Found { rule, range, .. } in found {
        if range.start >= at {
            out.push_str(&text[at..range.start]);
            out.push_str(&format!("[secret removed: {rule}]"));
        }
        at = at.max(range.end);
        // Of a key of several lines only the first one is found.
        if text[range.clone()].contains("-----BEGIN") {
            let rest = &text[range.end..];
            let line = |end: usize| rest[end..].find('\n').map_or(rest.len(), |n| end + n);
            at = at.max(range.end + rest.find("-----END").map_or(rest.len(), line));
        }
    }
    out.push_str(&text[at..]);
    out
}

impl CodeReport {
    /// The text for people: the summary, and what a reader should know beside it.
    pub fn text(&self) -> String {
        match &self.notes {
            Some(notes) => format!("{}\n\n{notes}", self.summary),
            None => self.summary.clone(),
        }
    }

    /// Each text in it, with its place.
    fn texts(&self) -> impl Iterator<Item = (String, &str)> {
        let notes = self.notes.iter();
        let summary = std::iter::once(("summary".to_owned(), self.summary.as_str()));
        let drafts = self.issues.iter().enumerate().flat_map(|(n, draft)| {
            [
                (format!("issues[{n}].title"), draft.title.as_str()),
                (format!("issues[{n}].body"), draft.body.as_str()),
            ]
        });
        let comments = self.comments.iter().enumerate();
        summary
            .chain(notes.map(|notes| ("notes".to_owned(), notes.as_str())))
            .chain(drafts)
            .chain(comments.map(|(n, text)| (format!("comments[{n}]"), text.as_str())))
    }

    /// The same, to be changed.
    fn texts_mut(&mut self) -> impl Iterator<Item = &mut String> {
        let drafts = self.issues.iter_mut();
        let drafts = drafts.flat_map(|draft| [&mut draft.title, &mut draft.body]);
        std::iter::once(&mut self.summary)
            .chain(&mut self.notes)
            .chain(drafts)
            .chain(&mut self.comments)
    }
}

#[cfg(test)]
mod tests;
