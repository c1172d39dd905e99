//! What becomes of a run's report: the pull request's text, issues that it asks for, and
//! comments on its own issue.

use super::tx::Tx;
use crate::{
    event::Refusal,
    ids::{IssueNo, RunId},
    inbox::RunEnd,
    model::{Drafts, Issue, IssueState, Job, Run},
    report::{self, Draft},
    text,
};

/// Most drafts that wait for a day with room, of all runs together.
const DRAFTS_LIMIT: usize = 100;

/// Most characters of a title that are shown in a list.
const SHOWN: usize = 80;

/// The pull request's text: the run's summary, and what was wrong with its report.
pub(super) fn summarise(job: &mut Job, run: &Run, end: &RunEnd) {
    if let Some(report) = run.report.as_deref().and_then(report::outgoing) {
        job.summary = Some(report.text());
    }
    if let Some(problem) = &end.report_problem {
        let note = format!(
            "The report of {} could not be read: {}",
            run.id,
            report::outgoing_text(&text::one_line(problem))
        );
        job.summary = Some(match job.summary.take() {
            Some(summary) => format!("{summary}\n\n{note}"),
            None => note,
        });
    }
}

/// Files what the report of a run asks for that came to its own end, as far as the day has
/// room. The rest waits, or stays in the report, and a comment says which. Returns what
/// was filed, as the end of a note.
pub(super) fn file(tx: &mut Tx<'_>, job: &mut Job, run: &Run) -> Result<String, Refusal> {
    let report = run.report.as_deref().and_then(report::outgoing);
    let Some(report) = report.filter(|r| !r.issues.is_empty() || !r.comments.is_empty()) else {
        return Ok(String::new());
    };
    let id = run.id;
    let mut left = tx.left_to_file();
    let limits = tx.config().types.worker.per_day;
    let mut titles = tx.titles();
    let mut waiting: Vec<String> = tx.drafts().flat_map(titles_of).collect();
    let mut filed = Vec::new();
    let mut drafts = Vec::new();
    // Why what was asked for is not there.
    let mut told = Vec::new();
    for draft in report.issues {
        let folded = text::folded(&draft.title);
        let title = shortened(&draft.title);
        if let Some(number) = titles.get(&folded) {
            told.push(format!("“{title}” is open already, as #{number}."));
        } else if waiting.contains(&folded) {
            told.push(format!("“{title}” waits to be filed already."));
        } else if left.issues > 0 {
            left.issues -= 1;
            let number = file_one(tx, id, draft);
            titles.insert(folded, number);
            filed.push(number);
        } else if limits.issues == 0 {
            told.push(format!(
                "“{title}” is not filed: `types.worker.per_day.issues` is 0."
            ));
        } else if waiting.len() < DRAFTS_LIMIT {
            told.push(format!(
                "“{title}” waits for another day: agents file {} a day (`types.worker.per_day.issues`).",
                limits.issues
            ));
            waiting.push(folded);
            drafts.push(draft);
        } else {
            told.push(format!(
                "“{title}” is not filed: {DRAFTS_LIMIT} others wait for a day with room."
            ));
        }
    }
    let mut written = 0;
    let all = report.comments.len();
    for comment in report.comments {
        if left.comments > 0 {
            left.comments -= 1;
            written += 1;
            tx.comment_of_run(id, comment)?;
            let now = tx.now.0;
            tx.meta().today.get_or_insert_default().count_comment(now);
        }
    }
    if written < all {
        told.push(format!(
            "{} of its {all} comments are not here: agents write {} a day (`types.worker.per_day.comments`).",
            all - written,
            limits.comments
        ));
    }
    let waits = drafts.len();
    if waits > 0 {
        let (run, since, issues) = (id, tx.now.0, drafts);
        tx.put_drafts(Drafts { run, since, issues });
    }
    if !told.is_empty() {
        let lines: String = told.iter().map(|line| format!("- {line}\n")).collect();
        let text = format!(
            "Not all that {id} reported is filed now:\n\n{lines}\n`factory run show {id}` has the whole of it.\n"
        );
        tx.comment_on_report(id, text)?;
    }
    let mut parts = Vec::new();
    if !filed.is_empty() {
        parts.push(format!("filed {}", numbers(&filed)));
    }
    if waits > 0 {
        parts.push(format!("{waits} to be filed on another day"));
    }
    if parts.is_empty() {
        return Ok(String::new());
    }
    let said = parts.join(", ");
    job.story.push(format!("{id}: {said}"));
    Ok(format!(", {said}"))
}

/// Files what waits, the oldest first, as far as the day has room.
pub(super) fn due(tx: &mut Tx<'_>) -> Result<String, Refusal> {
    let mut waiting: Vec<Drafts> = tx.drafts().cloned().collect();
    let mut left = tx.left_to_file().issues;
    if left == 0 || waiting.is_empty() {
        return Err(Refusal::Stale("the drafts".to_owned()));
    }
    waiting.sort_by_key(|drafts| (drafts.since, drafts.run));
    let mut titles = tx.titles();
    let mut notes = Vec::new();
    for mut drafts in waiting {
        let run = drafts.run;
        let mut filed = Vec::new();
        while left > 0 && !drafts.issues.is_empty() {
            let draft = drafts.issues.remove(0);
            let folded = text::folded(&draft.title);
            if let Some(number) = titles.get(&folded) {
                notes.push(format!("{run} asked for #{number} again"));
                // Who asked for it may be done and gone.
                if tx.issue(run.job).is_ok() {
                    let title = shortened(&draft.title);
                    let text = format!("“{title}” is not filed: it is open already, as #{number}.");
                    tx.comment_on_report(run, text)?;
                }
                continue;
            }
            left -= 1;
            let number = file_one(tx, run, draft);
            titles.insert(folded, number);
            filed.push(number);
        }
        if !filed.is_empty() {
            notes.push(format!("filed {} for {run}", numbers(&filed)));
        }
        tx.put_drafts(drafts);
        if left == 0 {
            break;
        }
    }
    Ok(format!("drafts: {}", notes.join(", ")))
}

/// A title in a list: its beginning.
fn shortened(title: &str) -> String {
    let title = text::one_line(title);
    match title.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &title[..end]),
        None => title,
    }
}

fn titles_of(drafts: &Drafts) -> impl Iterator<Item = String> {
    drafts.issues.iter().map(|draft| text::folded(&draft.title))
}

fn numbers(issues: &[IssueNo]) -> String {
    let names: Vec<String> = issues.iter().map(|number| format!("#{number}")).collect();
    names.join(", ")
}

/// Files one issue. What its text says of the order of the work means nothing: only people
/// change that.
fn file_one(tx: &mut Tx<'_>, run: RunId, draft: Draft) -> IssueNo {
    let now = tx.now.0;
    let number = tx.next_issue();
    tx.meta().today.get_or_insert_default().count_issue(now);
    tx.put_issue(Issue {
        number,
        title: text::one_line(&draft.title),
        state: IssueState::Proposed,
        labels: Vec::new(),
        author: run.to_string(),
        run: Some(run),
        created: now,
        comments: 0,
        runs: 0,
        depends_on: Vec::new(),
        touches: Vec::new(),
        parent: None,
        instruction: None,
        merged: None,
        acceptance: Vec::new(),
        body: draft.body,
    });
    number
}
