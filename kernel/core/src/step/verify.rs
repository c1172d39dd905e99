//! After the merge: whether the target does what the issue asks for is looked at there, before
//! the issue closes and those that wait for it go on.

use super::{
    configured,
    job::{self, FACTORY},
    queue, reading, split,
    tx::Tx,
};
use crate::{
    event::Refusal,
    history::Went,
    ids::{IssueNo, Oid, PrNo},
    model::{IssueState, Job, Merged, Pr, PrState, Run, Stage},
    report::{ReviewReport, ReviewVerdict},
    route, text,
};

/// A pull request reached the target: its issue closes, or is looked at there first.
pub(super) fn merged(
    tx: &mut Tx<'_>,
    number: PrNo,
    by: String,
    before: Option<Oid>,
    commit: Oid,
) -> Result<String, Refusal> {
    let mut pr = tx.pr(number)?;
    let issue = pr.issue;
    let target = tx.meta().target.clone();
    let short = commit.short().to_owned();
    let job = tx.job(issue);
    let mut open = tx.issue(issue)?;
    if let Some((job, change)) = job
        .as_ref()
        .and_then(|job| Some((job, job.change.as_ref()?)))
    {
        // A second pull request is still the same work.
        let counted = open.merged.as_ref().map(|merged| merged.rounds);
        let went = Went {
            merged: u32::from(counted.is_none()),
            rounds: job.rounds.saturating_sub(counted.unwrap_or_default()),
            failed: 0,
        };
        tx.history().add(&change.places, went);
    }
    open.merged = Some(Merged {
        pr: number,
        by: by.clone(),
        head: pr.head.clone(),
        before,
        commit: commit.clone(),
        rounds: job.as_ref().map_or(0, |job| job.rounds),
        lacks: false,
    });
    tx.put_issue(open);
    let looks = match &job {
        Some(job) => is_looked_at(tx, &pr, job)?,
        None => false,
    };
    pr.state = PrState::Merged {
        by: by.clone(),
        at: tx.now.0,
        merge: commit.clone(),
    };
    tx.archive_pr(pr);
    let note = format!("pr {number}: merged into {target} as {short}, issue {issue}");
    let Some(mut job) = job.filter(|_| looks) else {
        tx.comment(
            issue,
            FACTORY,
            format!("Done: pull request {number} was merged into {target} as {commit}.\n"),
        )?;
        close(tx, issue, &by, number, tx.job(issue))?;
        return Ok(format!("{note} closed"));
    };
    tx.comment(
        issue,
        FACTORY,
        format!("Pull request {number} was merged into {target} as {commit}. Whether {target} now does all that is asked for is looked at before this closes.\n"),
    )?;
    job.story
        .push(format!("pr {number}: merged into {target} as {short}"));
    job.pr = None;
    job.not_before = None;
    job.breaks = 0;
    job.losses = 0;
    due(tx, job, None)?;
    Ok(format!("{note} verify-due"))
}

/// To the look at the target. `empty` is the tip of the branch, where that adds nothing.
fn due(tx: &mut Tx<'_>, mut job: Job, empty: Option<Oid>) -> Result<(), Refusal> {
    job.enter(Stage::VerifyDue)?;
    job.checked = None;
    job.unchecked = empty;
    job.feedback = None;
    tx.put_job(job);
    Ok(())
}

/// A run that adds nothing to what is merged says that nothing lacks: that is looked at, where
/// anybody looks.
pub(super) fn says_it_is_there(tx: &Tx<'_>, job: &Job, run: &Run) -> Result<bool, Refusal> {
    let reviews = tx.config().reviewer_of(job::tier(job)).is_some();
    let merged = tx.issue(job.issue)?.merged;
    let Some(merged) = merged.filter(|_| reviews && job.pr.is_none()) else {
        return Ok(false);
    };
    Ok([&merged.head, &run.intent].contains(&&run.grant.start))
}

/// True where the branch holds nothing beyond what is merged.
pub(super) fn adds_nothing(tx: &Tx<'_>, job: &Job) -> Result<bool, Refusal> {
    let is_empty = job.change.as_ref().is_some_and(|change| change.files == 0);
    Ok(is_empty && job.pr.is_none() && tx.issue(job.issue)?.merged.is_some())
}

/// Once more to the look at the target, or to a person where nobody looks any more. `empty` is
/// the tip of the branch, where that adds nothing.
pub(super) fn look_again(tx: &mut Tx<'_>, job: Job, empty: Option<Oid>) -> Result<String, Refusal> {
    let number = job.issue;
    due(tx, job, empty)?;
    configured::go_on(tx, number)?;
    let stage = tx.job(number).map(|job| job.stage().kind().as_str());
    Ok(stage.unwrap_or("closed").to_owned())
}

/// True where the issue says what must be true, somebody reviews, and no review that approved
/// saw just what the target holds now.
fn is_looked_at(tx: &Tx<'_>, pr: &Pr, job: &Job) -> Result<bool, Refusal> {
    let is_seen = pr.merges_as_it_is
        && pr
            .review
            .as_ref()
            .is_some_and(|review| review.approves(&pr.head));
    let reviews = tx.config().reviewer_of(job::tier(job)).is_some();
    Ok(!is_seen && reviews && route::points(&tx.issue(job.issue)?) > 0)
}

/// The issue is done: closed with its pull request, and those that wait for it go on.
pub(super) fn close(
    tx: &mut Tx<'_>,
    number: IssueNo,
    by: &str,
    pr: PrNo,
    job: Option<Job>,
) -> Result<(), Refusal> {
    let mut issue = tx.issue(number)?;
    issue.state = IssueState::Closed {
        by: by.to_owned(),
        at: tx.now.0,
        pr: Some(pr),
    };
    let over = issue.clone();
    tx.archive_issue(issue);
    queue::done(tx, number)?;
    if let Some(mut job) = job.clone() {
        job.pr = Some(pr);
        let done = tx.meta().done.get_or_insert_default();
        done.jobs += 1;
        done.spent = done.spent.plus(job.spent);
        tx.archive_job(job);
    }
    split::child_over(tx, &over, job.as_ref(), Some(pr))
}

/// A job whose merge nobody looks at any more.
pub(super) fn close_unseen(tx: &mut Tx<'_>, mut job: Job) -> Result<(), Refusal> {
    let Some(merged) = tx.issue(job.issue)?.merged else {
        return Err(Refusal::Stale(format!("job {}", job.issue)));
    };
    if merged.lacks {
        let why = format!(
            "Pull request {} is merged, and does not do all that is asked for; nobody reviews by factory.yaml as it is now, so nobody looks whether that changed.",
            merged.pr
        );
        job::needs_human(tx, job, &why)?;
        return Ok(());
    }
    let why = "Nobody reviews by factory.yaml as it is now, so nobody looks at the target either.";
    job.story.push(why.to_owned());
    let done = format!("Done: pull request {} is merged. {why}\n", merged.pr);
    tx.comment(job.issue, FACTORY, done)?;
    close(tx, job.issue, &merged.by, merged.pr, Some(job))
}

/// What a run says that looked at the target.
pub(super) fn looked(
    tx: &mut Tx<'_>,
    mut job: Job,
    run: &Run,
    report: &ReviewReport,
) -> Result<(String, String), Refusal> {
    let (id, number) = (run.id, job.issue);
    let mut issue = tx.issue(number)?;
    let Some(merged) = &mut issue.merged else {
        return Err(Refusal::Stale(format!("job {number}")));
    };
    merged.lacks = report.verdict != ReviewVerdict::Approve;
    let merged = merged.clone();
    tx.put_issue(issue);
    let (pr, short) = (merged.pr, run.grant.start.short());
    let said = reading::said(report);
    let summary = text::one_line(&report.summary);
    job.story.push(reading::line(&format!(
        "{id}: looked at the target, {short}: {said}: {summary}"
    )));
    let found = report.text();
    let to = match report.verdict {
        ReviewVerdict::Approve => {
            tx.comment_on_report(
                id,
                format!("Done: pull request {pr} is merged, and {id} found on {short} all that is asked for (confidence {}):\n\n{found}", report.confidence),
            )?;
            close(tx, number, &merged.by, pr, Some(job))?;
            "closed".to_owned()
        }
        ReviewVerdict::RequestChanges => {
            let feedback = format!(
                "Pull request {pr} is merged, and {id} says that the target ({short}) does not do all that the issue asks for:\n\n{found}"
            );
            tx.comment_on_report(id, feedback.clone())?;
            // Others may have begun on what it touches.
            job.begun = false;
            job::another_round(tx, job, feedback)?
        }
        ReviewVerdict::Reject => {
            let why = format!(
                "Pull request {pr} is merged, and {id} rejects what the target ({short}) does now:\n\n{found}"
            );
            job::work_failed(tx, job, &why, None)?
        }
    };
    Ok((said, to))
}
