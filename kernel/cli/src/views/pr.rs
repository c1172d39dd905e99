//! Pull requests as they are shown.

use super::{line, section, stamp};
use crate::clock;
use factory_core::{
    event::describe,
    model::{Conflict, Evidence, Holds, Pr, PrState, Review},
};
use serde::Serialize;

/// A pull request in JSON.
#[derive(Debug, Serialize)]
pub struct PrView {
    /// Its number.
    pub number: u64,
    /// The issue it resolves.
    pub issue: u64,
    /// One line.
    pub title: String,
    /// `ready`, `reworking`, `queued`, `testing`, `advancing`, `merged` or `closed`.
    pub state: &'static str,
    /// Work branch.
    pub branch: String,
    /// Commit proposed for merging.
    pub head: String,
    /// Evidence that checks passed; none where nothing was checked.
    pub checked: Option<CheckedView>,
    /// Labels, sorted.
    pub labels: Vec<String>,
    /// What its newest review says.
    pub review: Option<Review>,
    /// What speaks for and against merging it without a person.
    pub evidence: Vec<Evidence>,
    /// Open pull requests that it conflicted with when it was opened.
    pub conflicts: Vec<Conflict>,
    /// The merge commit, once it is made.
    pub merge: Option<String>,
    /// Who opened the merge gate, or closed it.
    pub by: Option<String>,
    /// Why it was closed.
    pub reason: Option<String>,
    /// Why the last attempt to merge did not go through.
    pub note: Option<String>,
    /// Paths that it changes and that only a person may merge; none where nobody looked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protected: Option<Vec<String>>,
    /// When it was opened, RFC 3339.
    pub created: String,
    /// What was done; Markdown.
    pub body: String,
}

/// Evidence in JSON.
#[derive(Debug, Serialize)]
pub struct CheckedView {
    /// The commit whose checks passed.
    pub commit: String,
    /// The run that shows it.
    pub run: String,
}

impl From<&Pr> for PrView {
    fn from(pr: &Pr) -> Self {
        let (merge, by, reason) = match &pr.state {
            PrState::Ready | PrState::Reworking => (None, None, None),
            PrState::Queued { by, .. } => (None, Some(by), None),
            PrState::Testing { by, merge, .. }
            | PrState::Advancing { by, merge, .. }
            | PrState::Merged { by, merge, .. } => (Some(merge), Some(by), None),
            PrState::Closed { by, reason, .. } => (None, Some(by), Some(reason)),
        };
        Self {
            number: pr.number.0,
            issue: pr.issue.0,
            title: pr.title.clone(),
            state: word(&pr.state),
            branch: pr.branch.clone(),
            head: pr.head.to_string(),
            checked: pr.checked.as_ref().map(|checked| CheckedView {
                commit: checked.commit.to_string(),
                run: checked.run.to_string(),
            }),
            labels: pr.labels.clone(),
            review: pr.review.clone(),
            evidence: pr.evidence.clone(),
            conflicts: pr.conflicts.clone(),
            merge: merge.map(ToString::to_string),
            by: by.cloned(),
            reason: reason.cloned(),
            note: pr.note.clone(),
            protected: None,
            created: stamp(pr.created),
            body: pr.body.clone(),
        }
    }
}

/// A pull request's state in one word.
pub fn word(state: &PrState) -> &'static str {
    match state {
        PrState::Ready => "ready",
        PrState::Reworking => "reworking",
        PrState::Queued { .. } => "queued",
        PrState::Testing { .. } => "testing",
        PrState::Advancing { .. } => "advancing",
        PrState::Merged { .. } => "merged",
        PrState::Closed { .. } => "closed",
    }
}

/// What is known of the checks on the proposed commit.
pub fn checks(pr: &Pr) -> String {
    match &pr.checked {
        Some(checked) if checked.commit == pr.head => {
            let flaky = match checked.flaky {
                true => ", at the second try: they are flaky",
                false => "",
            };
            format!("passed on this head ({}){flaky}", checked.run)
        }
        Some(checked) => format!(
            "passed on {} ({}), not on this head",
            checked.commit.short(),
            checked.run
        ),
        None => "nothing was checked".to_owned(),
    }
}

/// A pull request for people, with the paths of it that only a person may merge.
pub fn show(pr: &Pr, protected: &[String]) -> String {
    let number = pr.number;
    let mut out = format!(
        "pull request {number}: {}\nit {}\n",
        line(&pr.title),
        line(&describe(&pr.state))
    );
    let mut field = |name: &str, value: &str| {
        out.push_str(&format!("{name:8} {}\n", line(value)));
    };
    field("issue", &pr.issue.to_string());
    field("branch", &pr.branch);
    field("head", pr.head.as_str());
    if !pr.labels.is_empty() {
        field("labels", &pr.labels.join(", "));
    }
    field("checks", &checks(pr));
    field("opened", &clock::show(pr.created));
    if let PrState::Merged { by, at, merge } = &pr.state {
        field("merge", &format!("{merge} (by {by}, {})", clock::show(*at)));
    }
    let pieces = pr.evidence.iter().map(|piece| {
        let sign = match piece.holds {
            Holds::Yes => "for",
            Holds::No => "AGAINST",
            Holds::Open => "open",
        };
        format!("{sign:8} {:14} {}", piece.fact.as_str(), line(&piece.why))
    });
    let pieces: Vec<String> = pieces.collect();
    section(
        &mut out,
        "What speaks for and against merging it without a person:",
        &pieces.join("\n"),
    );
    let conflicts = pr.conflicts.iter().map(|conflict| {
        format!(
            "with pull request {} in {}",
            conflict.pr,
            line(&conflict.files)
        )
    });
    let conflicts: Vec<String> = conflicts.collect();
    section(
        &mut out,
        "It conflicted when it was opened:",
        &conflicts.join("\n"),
    );
    if let Some(review) = &pr.review {
        let of = match review.commit == pr.head {
            true => String::new(),
            false => format!(", of {}", review.commit.short()),
        };
        section(
            &mut out,
            &format!(
                "The review ({}{of}) says {}, with confidence {}:",
                review.run, review.verdict, review.confidence
            ),
            &review.summary,
        );
    }
    if !protected.is_empty() {
        section(
            &mut out,
            "It changes protected paths, so a person decides:",
            &protected
                .iter()
                .map(|path| line(path))
                .collect::<Vec<_>>()
                .join("\n"),
        );
    }
    if let Some(note) = &pr.note {
        section(
            &mut out,
            "The last attempt to merge it did not go through:",
            note,
        );
    }
    section(&mut out, "What was done:", &pr.body);
    match pr.state {
        PrState::Ready => out.push_str(&format!(
            "\n`factory pr diff {number}` shows what it changes\n`factory pr merge {number}` merges it; `factory pr reject {number} --reason \"…\"` closes it\n"
        )),
        PrState::Reworking
        | PrState::Queued { .. }
        | PrState::Testing { .. }
        | PrState::Advancing { .. }
        | PrState::Merged { .. }
        | PrState::Closed { .. } => {}
    }
    out
}

/// What speaks against merging it without a person, in a word or two.
pub fn against(pr: &Pr) -> String {
    let against = pr.evidence.iter().filter(|piece| piece.holds == Holds::No);
    let facts: Vec<&str> = against.map(|piece| piece.fact.as_str()).collect();
    match (facts.is_empty(), pr.evidence.is_empty()) {
        (false, _) => facts.join(", "),
        (true, false) => "nothing".to_owned(),
        (true, true) => "-".to_owned(),
    }
}
