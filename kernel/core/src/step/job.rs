//! What happens to a job between its runs.

use super::tx::Tx;
use crate::{
    budget::Spent,
    event::Refusal,
    ids::{IssueNo, Oid, PrNo},
    model::{Checked, Issue, Job, NEEDS_HUMAN, Pr, PrState, Seconds, Stage},
    report::{outgoing_output, outgoing_text},
    text,
};

/// Author of what the kernel itself writes.
pub(super) const FACTORY: &str = "factory";

pub(super) fn new(issue: IssueNo, branch: String, now: Seconds) -> Job {
    Job {
        issue,
        branch,
        stage: Stage::Queued,
        begun: false,
        since: now,
        held_by: None,
        bumped: None,
        rounds: 0,
        breaks: 0,
        losses: 0,
        not_before: None,
        memory: None,
        spent: Spent::default(),
        resume: None,
        unchecked: None,
        pr: None,
        feedback: None,
        summary: None,
        story: Vec::new(),
    }
}

pub(super) fn label(issue: &mut Issue, label: &str) {
    if !issue.has_label(label) {
        issue.labels.push(label.to_owned());
        issue.labels.sort();
    }
}

/// Back to a code run that is told `feedback`, or to a person when the rounds are used up.
/// Returns where the job went, for the note.
pub(super) fn another_round(
    tx: &mut Tx<'_>,
    mut job: Job,
    feedback: String,
) -> Result<String, Refusal> {
    let limit = tx.config().rounds;
    if job.rounds >= limit {
        let rounds = job.rounds;
        let why = format!("{rounds} of {limit} rounds are used up. The last one: {feedback}");
        return needs_human(tx, job, &why);
    }
    if tx.has_nothing_left(&job) {
        let why = format!("{} The last run: {feedback}", out_of_money(tx, &job));
        return needs_human(tx, job, &why);
    }
    if let Some(pr) = job.pr {
        let mut pr = tx.pr(pr)?;
        pr.state = PrState::Reworking;
        tx.put_pr(pr);
    }
    job.feedback = Some(feedback);
    job.stage = Stage::Queued;
    tx.put_job(job);
    Ok("queued".to_owned())
}

/// What a person is told of a job that may spend nothing more.
pub(super) fn out_of_money(tx: &Tx<'_>, job: &Job) -> String {
    let limit = &tx.config().budget.per_job;
    format!(
        "The job's budget of {limit} is used up ({}). Raise `budget.per_job` in factory.yaml if it is to cost more; approving the issue again allows it as much once more.",
        limit.amount(&job.spent)
    )
}

/// To the checks, or, where there are none, to the pull request.
pub(super) fn to_check(tx: &mut Tx<'_>, mut job: Job, commit: Oid) -> Result<String, Refusal> {
    if tx.config().checks.is_empty() {
        return propose(tx, job, commit, None);
    }
    job.stage = Stage::CheckDue { commit };
    tx.put_job(job);
    Ok("check due".to_owned())
}

/// A person must look: label, the whole story as a comment, pull request back at its gate.
/// Reason and story quote what runs wrote and printed. The first line of the reason is a
/// sentence, and what follows it is shown as it is.
pub(super) fn needs_human(tx: &mut Tx<'_>, mut job: Job, why: &str) -> Result<String, Refusal> {
    let (reason, output) = why.split_once('\n').unwrap_or((why, ""));
    let mut comment = format!("This needs a person. {}\n", outgoing_text(reason));
    if !output.trim().is_empty() {
        comment.push_str(&format!("\n{}", outgoing_output(output)));
    }
    if !job.story.is_empty() {
        comment.push_str("\nWhat happened so far:\n");
        for line in &job.story {
            comment.push_str(&format!("- {}\n", outgoing_text(line)));
        }
    }
    comment.push_str(&format!(
        "\nThe work is on the branch `{}`. `factory issue approve {}` tries again from there; comments on this issue are read by the next run.\n",
        job.branch, job.issue
    ));
    tx.comment(job.issue, FACTORY, comment)?;
    let mut issue = tx.issue(job.issue)?;
    label(&mut issue, NEEDS_HUMAN);
    tx.put_issue(issue);
    if let Some(pr) = job.pr {
        let mut pr = tx.pr(pr)?;
        pr.state = PrState::Ready;
        let why = outgoing_text(&text::one_line(why));
        pr.note = Some(format!("needs a person: {why}"));
        tx.put_pr(pr);
    }
    job.stage = Stage::NeedsHuman;
    job.feedback = None;
    tx.put_job(job);
    Ok("needs-human".to_owned())
}

/// Opens the job's pull request, or brings the open one up to date.
pub(super) fn propose(
    tx: &mut Tx<'_>,
    mut job: Job,
    head: Oid,
    checked: Option<Checked>,
) -> Result<String, Refusal> {
    let issue = tx.issue(job.issue)?;
    let now = tx.now.0;
    let evidence = match &checked {
        Some(checked) => format!("Checks passed on {} ({}).", head.short(), checked.run),
        None => "Nothing was checked: `factory.yaml` names no checks.".to_owned(),
    };
    let body = format!(
        "{}\n\nResolves issue {}. {evidence}\n",
        job.summary.as_deref().unwrap_or(&issue.title).trim_end(),
        job.issue
    );
    let (number, verb) = match job.pr {
        Some(number) => (number, "updated"),
        None => {
            let meta = tx.meta();
            meta.last_pr += 1;
            meta.today.get_or_insert_default().count_pull_request(now);
            (PrNo(meta.last_pr), "opened")
        }
    };
    let created = if job.pr.is_some() {
        tx.pr(number)?.created
    } else {
        now
    };
    tx.put_pr(Pr {
        number,
        issue: job.issue,
        title: issue.title,
        branch: job.branch.clone(),
        head,
        state: PrState::Ready,
        checked,
        created,
        note: None,
        body,
    });
    job.pr = Some(number);
    job.stage = Stage::Proposed;
    job.breaks = 0;
    job.losses = 0;
    tx.put_job(job);
    Ok(format!("pr {number} {verb}"))
}
