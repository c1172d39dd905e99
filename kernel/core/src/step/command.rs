//! Commands of people and automatic gates.

use super::{configured, job, queue, run, split, steer, tx::Tx, verify};
use crate::{
    budget::Spent,
    event::{Command, Refusal},
    ids::{IssueNo, PrNo},
    model::{Issue, IssueState, Job, NEEDS_HUMAN, PrState, REJECTED, Stage, TITLE_LIMIT},
    schedule::{written_dependencies, written_touches},
    text,
};

/// Longest body or comment that is kept, in bytes.
pub(super) const TEXT_LIMIT: usize = 64 << 10;

pub(super) fn command(tx: &mut Tx<'_>, by: &str, command: Command) -> Result<String, Refusal> {
    match command {
        Command::NewIssue {
            title,
            body,
            labels,
            done,
        } => new_issue(tx, by, &title, body, &labels, &done),
        Command::Approve(number) => approve(tx, by, number),
        Command::CloseIssue(number) => close(tx, by, number),
        Command::Instruct { text, auto_approve } => split::instruct(tx, by, text, auto_approve),
        Command::EditIssue { issue, title, body } => steer::edit(tx, by, issue, title, body),
        Command::RequestChanges { pr, text } => steer::request_changes(tx, by, pr, text),
        Command::Comment { issue, text } => steer::comment(tx, by, issue, text),
        Command::MergePr(number) => merge(tx, by, number),
        Command::Label { issue, add, remove } => queue::label(tx, by, issue, &add, &remove),
        Command::Depend { issue, on, off } => queue::depend(tx, by, issue, &on, &off),
        Command::Hold(number) => queue::hold(tx, by, number),
        Command::Release(number) => queue::release(tx, by, number),
        Command::Bump(number) => queue::bump(tx, by, number),
        Command::Retry(number) => steer::retry(tx, by, number),
        Command::Cancel(number) => cancel(tx, by, number),
        Command::Freeze => run::freeze(tx, by),
        Command::Thaw => run::thaw(tx, by),
        Command::RejectPr { pr, reason } => reject(tx, by, pr, reason),
    }
}

pub(super) fn bounded(what: &'static str, text: &str, limit: usize) -> Result<(), Refusal> {
    if text.trim().is_empty() {
        return Err(Refusal::Empty(what));
    }
    if text.len() > limit {
        return Err(Refusal::TooLong {
            what,
            bytes: text.len(),
            limit,
        });
    }
    Ok(())
}

pub(super) fn body_fits(body: &str) -> Result<(), Refusal> {
    match body.len() {
        bytes if bytes > TEXT_LIMIT => Err(Refusal::TooLong {
            what: "body",
            bytes,
            limit: TEXT_LIMIT,
        }),
        _ => Ok(()),
    }
}

fn new_issue(
    tx: &mut Tx<'_>,
    by: &str,
    title: &str,
    body: String,
    labels: &[String],
    done: &[IssueNo],
) -> Result<String, Refusal> {
    let title = text::one_line(title);
    bounded("title", &title, TITLE_LIMIT)?;
    body_fits(&body)?;
    let now = tx.now.0;
    let number = tx.next_issue();
    let note = format!("issue {number}: filed by {by}: {title}");
    let mut issue = Issue {
        number,
        title,
        state: IssueState::Proposed,
        labels: Vec::new(),
        author: by.to_owned(),
        run: None,
        created: now,
        comments: 0,
        runs: 0,
        depends_on: Vec::new(),
        touches: written_touches(&body)?,
        parent: None,
        instruction: None,
        merged: None,
        acceptance: Vec::new(),
        body,
    };
    queue::add_labels(&mut issue, labels)?;
    let mut on = written_dependencies(&issue.body)?;
    on.retain(|on| !done.contains(on));
    queue::add_dependencies(tx, &mut issue, &on)?;
    tx.put_issue(issue);
    Ok(note)
}

pub(super) fn approve(tx: &mut Tx<'_>, by: &str, number: IssueNo) -> Result<String, Refusal> {
    let mut issue = tx.issue(number)?;
    let mut job = match tx.job(number) {
        Some(job) if *job.stage() == Stage::SplitReady => {
            let children = issue.instruction.map(|i| i.children).unwrap_or_default();
            let to = split::approve(tx, by, job, &children)?;
            return Ok(format!(
                "issue {number}: its issues approved by {by} -> {to}"
            ));
        }
        Some(mut job) if *job.stage() == Stage::PlanReady => {
            job.enter(Stage::Queued)?;
            // It waits in line like one that begins: others went on meanwhile.
            job.begun = false;
            tx.put_job(job);
            return Ok(format!("issue {number}: its plan approved by {by}"));
        }
        Some(mut job) if *job.stage() == Stage::NeedsHuman => {
            job.enter(match (&issue.instruction, &job.plan) {
                (Some(_), _) => Stage::SplitDue,
                (None, _) if issue.is_merged() => Stage::VerifyDue,
                (None, None) if tx.config().planner_of(job::tier(&job)).is_some() => Stage::PlanDue,
                (None, _) => Stage::Queued,
            })?;
            job
        }
        Some(job) if tx.is_out_of_money(&job) => job,
        Some(_) => return Err(Refusal::AlreadyApproved(number)),
        None if issue.instruction.is_some() => {
            split::again(tx, by, number)?;
            return Ok(format!("issue {number}: approved by {by}"));
        }
        None => {
            let prefix = &tx.config().branch_prefix;
            let branch = text::branch_name(prefix, number, &issue.title);
            // What was merged for it before its job was given up is looked at first.
            let is_merged = issue.is_merged();
            let first = match is_merged {
                true => Stage::VerifyDue,
                false => Stage::Queued,
            };
            let stage = job::begin(tx, Job::new(number, branch, first, tx.now.0))?;
            let mut job = tx.job(number).ok_or(Refusal::NoSuchJob(number))?;
            if !is_merged && stage != Stage::Queued {
                job.enter(stage)?;
            }
            job
        }
    };
    job.begun = false;
    job.since = tx.now.0;
    job.not_before = None;
    job.bumped = None;
    job.rounds = 0;
    job.breaks = 0;
    job.losses = 0;
    // The person may have raised the limit, and lets it spend again.
    job.memory = None;
    job.spent = Spent::default();
    if let Some(pr) = job.pr {
        let mut pr = tx.pr(pr)?;
        pr.state = PrState::Reworking;
        tx.put_pr(pr);
    }
    tx.put_job(job);
    issue.labels.retain(|l| l != NEEDS_HUMAN && l != REJECTED);
    if let Some(merged) = &mut issue.merged {
        merged.rounds = 0;
    }
    issue.state = IssueState::Approved { by: by.to_owned() };
    tx.put_issue(issue);
    configured::go_on(tx, number)?;
    Ok(format!("issue {number}: approved by {by}"))
}

pub(super) fn close(tx: &mut Tx<'_>, by: &str, number: IssueNo) -> Result<String, Refusal> {
    let mut issue = tx.issue(number)?;
    let job = tx.job(number);
    if let Some(job) = job.clone() {
        if let Some(pr) = job.pr {
            close_pr(tx, by, pr, format!("issue {number} was closed"))?;
        }
        tx.drop_effects_of(number);
        tx.archive_job(job);
    }
    // What is on the target is not given up.
    if let Some(merged) = &issue.merged {
        verify::close(tx, number, by, merged.pr, job)?;
        return Ok(format!("issue {number}: closed as done by {by}"));
    }
    issue.state = IssueState::Closed {
        by: by.to_owned(),
        at: tx.now.0,
        pr: None,
    };
    let children = issue.instruction.iter().flat_map(|i| i.children.clone());
    let children: Vec<_> = children.filter(|n| tx.issue(*n).is_ok()).collect();
    let over = issue.clone();
    tx.archive_issue(issue);
    // Who gives an instruction up gives up what it became.
    for child in children {
        close(tx, by, child)?;
    }
    split::child_over(tx, &over, job.as_ref(), None)?;
    Ok(format!("issue {number}: closed by {by}"))
}

/// Ends the job; the issue waits at its gate again.
pub(super) fn cancel(tx: &mut Tx<'_>, by: &str, number: IssueNo) -> Result<String, Refusal> {
    let job = tx.job(number).ok_or(Refusal::NoSuchJob(number))?;
    if let Some(pr) = job.pr {
        close_pr(tx, by, pr, format!("job {number} was cancelled"))?;
    }
    tx.drop_effects_of(number);
    tx.archive_job(job);
    back_to_its_gate(tx, number)?;
    // With an instruction, what it became.
    let issue = tx.issue(number)?;
    for child in issue.instruction.into_iter().flat_map(|i| i.children) {
        if tx.job(child).is_some() {
            cancel(tx, by, child)?;
        }
    }
    Ok(format!("job {number}: cancelled by {by}"))
}

/// The issue waits for a person's approval, whatever an automatic gate would do.
fn back_to_its_gate(tx: &mut Tx<'_>, number: IssueNo) -> Result<(), Refusal> {
    let mut issue = tx.issue(number)?;
    issue.state = IssueState::Proposed;
    issue.labels.retain(|label| label != NEEDS_HUMAN);
    job::label(&mut issue, REJECTED);
    tx.put_issue(issue);
    Ok(())
}

pub(super) fn merge(tx: &mut Tx<'_>, by: &str, number: PrNo) -> Result<String, Refusal> {
    let mut pr = tx.pr(number)?;
    if pr.state != PrState::Ready {
        return Err(Refusal::NotAtGate {
            pr: number,
            state: Box::new(pr.state),
        });
    }
    pr.state = PrState::Queued {
        by: by.to_owned(),
        at: tx.now.0,
    };
    pr.note = None;
    let issue_no = pr.issue;
    tx.put_pr(pr);
    // Who merges what needed a person has looked at it.
    if let Some(mut job) = tx.job(issue_no)
        && *job.stage() == Stage::NeedsHuman
    {
        job.enter(Stage::Proposed)?;
        job.not_before = None;
        job.breaks = 0;
        job.losses = 0;
        tx.put_job(job);
        let mut issue = tx.issue(issue_no)?;
        issue.labels.retain(|label| label != NEEDS_HUMAN);
        tx.put_issue(issue);
    }
    Ok(format!("pr {number}: approved for merging by {by}"))
}

/// Closes a pull request unless its merge has begun to reach the user's repository.
fn close_pr(tx: &mut Tx<'_>, by: &str, number: PrNo, reason: String) -> Result<(), Refusal> {
    let mut pr = tx.pr(number)?;
    if matches!(pr.state, PrState::Advancing { .. }) {
        return Err(Refusal::NotAtGate {
            pr: number,
            state: Box::new(pr.state),
        });
    }
    pr.state = PrState::Closed {
        by: by.to_owned(),
        at: tx.now.0,
        reason,
    };
    tx.archive_pr(pr);
    Ok(())
}

fn reject(tx: &mut Tx<'_>, by: &str, number: PrNo, reason: String) -> Result<String, Refusal> {
    bounded("reason", &reason, TEXT_LIMIT)?;
    let issue = tx.pr(number)?.issue;
    let line = text::one_line(&reason);
    close_pr(tx, by, number, reason.clone())?;
    tx.comment(
        issue,
        by,
        format!("Pull request {number} was rejected: {reason}"),
    )?;
    if let Some(mut job) = tx.job(issue) {
        tx.drop_effects_of(issue);
        job::count_failed(tx, &mut job);
        tx.archive_job(job);
    }
    back_to_its_gate(tx, issue)?;
    Ok(format!("pr {number}: rejected by {by}: {line}"))
}
