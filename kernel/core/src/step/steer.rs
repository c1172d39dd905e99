//! How people step in while the factory works: orders in comments, edited issues, pull
//! requests that are sent back.

use super::{command, configured, job, job::FACTORY, queue, split, tx::Tx};
use crate::{
    budget::Spent,
    event::Refusal,
    ids::{IssueNo, PrNo},
    model::{Holds, Job, Next, PrState, Stage, TITLE_LIMIT},
    report::outgoing_text,
    text,
};

/// What an order in a comment begins with.
const ORDER: &str = "/factory";

/// What may follow it.
const ORDERS: &str = "retry, hold, release, approve, merge, stop, explain";

/// A comment; where its first line is an order, that is carried out in the same step.
pub(super) fn comment(
    tx: &mut Tx<'_>,
    by: &str,
    number: IssueNo,
    said: String,
) -> Result<String, Refusal> {
    command::bounded("comment", &said, command::TEXT_LIMIT)?;
    let first = said.trim_start().lines().next().unwrap_or_default();
    let mut words = first.split_whitespace();
    let order = match words.next() {
        Some(ORDER) => Some(words.next().unwrap_or_default().to_owned()),
        _ => None,
    };
    tx.comment(number, by, said)?;
    let Some(order) = order else {
        return Ok(format!("issue {number}: comment by {by}"));
    };
    let order = text::one_line(&order);
    let mark = tx.mark();
    match carry_out(tx, by, number, &order) {
        Ok(note) => Ok(note),
        Err(refused) => {
            tx.back_to(mark);
            let text = format!("`{ORDER} {order}` was not done: {refused}.\n");
            tx.comment(number, FACTORY, text)?;
            Ok(format!(
                "issue {number}: {ORDER} {order} by {by}, not done: {refused}"
            ))
        }
    }
}

fn carry_out(tx: &mut Tx<'_>, by: &str, number: IssueNo, order: &str) -> Result<String, Refusal> {
    let pr_of = |tx: &Tx<'_>| {
        let job = tx.job(number).ok_or(Refusal::NoSuchJob(number))?;
        job.pr.ok_or(Refusal::NoOpenPr(number))
    };
    match order {
        "retry" => retry(tx, by, number),
        "hold" => queue::hold(tx, by, number),
        "release" => queue::release(tx, by, number),
        "approve" => command::approve(tx, by, number),
        "merge" => {
            let pr = pr_of(tx)?;
            command::merge(tx, by, pr)
        }
        "stop" => command::cancel(tx, by, number),
        "explain" => {
            let said = explain(tx, number)?;
            tx.comment(number, FACTORY, said)?;
            Ok(format!("issue {number}: explained to {by}"))
        }
        _ => Err(Refusal::NoSuchOrder(ORDERS)),
    }
}

/// Tries again: what rests, what needed a person, and what waits at the merge gate, whose
/// next run reads the comments.
pub(super) fn retry(tx: &mut Tx<'_>, by: &str, number: IssueNo) -> Result<String, Refusal> {
    let Some(job) = tx.job(number) else {
        tx.issue(number)?;
        return Err(Refusal::NoSuchJob(number));
    };
    match (job.stage(), job.pr) {
        (Stage::NeedsHuman, _) => command::approve(tx, by, number),
        (Stage::Proposed, Some(pr)) if tx.pr(pr)?.state == PrState::Ready => {
            rework(
                tx,
                job,
                "A person asks for another round: read the newest comments.".to_owned(),
            )?;
            Ok(format!("job {number}: sent back by {by}"))
        }
        _ => queue::retry(tx, by, number),
    }
}

/// Sends a pull request back to its job, with what is to be changed.
pub(super) fn request_changes(
    tx: &mut Tx<'_>,
    by: &str,
    number: PrNo,
    said: String,
) -> Result<String, Refusal> {
    command::bounded("text", &said, command::TEXT_LIMIT)?;
    let pr = tx.pr(number)?;
    if pr.state != PrState::Ready {
        let state = Box::new(pr.state);
        return Err(Refusal::NotAtGate { pr: number, state });
    }
    let job = tx.job(pr.issue).ok_or(Refusal::NoSuchJob(pr.issue))?;
    tx.comment(pr.issue, by, format!("On pull request {number}: {said}"))?;
    let feedback = format!("{by} read your work and asks for changes:\n\n{said}");
    rework(tx, job, feedback)?;
    Ok(format!("pr {number}: changes asked for by {by}"))
}

/// A person's order is no round of the factory's own: it gets all its rounds again, and may
/// spend as much once more.
fn rework(tx: &mut Tx<'_>, mut job: Job, feedback: String) -> Result<(), Refusal> {
    job.rounds = 0;
    job.breaks = 0;
    job.losses = 0;
    job.not_before = None;
    job.spent = Spent::default();
    let mut issue = tx.issue(job.issue)?;
    issue
        .labels
        .retain(|label| label != crate::model::NEEDS_HUMAN);
    tx.put_issue(issue);
    job::another_round(tx, job, feedback)?;
    Ok(())
}

/// Changes what an issue asks for. What was planned and coded for the old text is looked at
/// anew: a run that lives is ended, and what it pushed is what the next one starts from.
pub(super) fn edit(
    tx: &mut Tx<'_>,
    by: &str,
    number: IssueNo,
    title: Option<String>,
    body: Option<String>,
) -> Result<String, Refusal> {
    let mut issue = tx.issue(number)?;
    if let Some(title) = title {
        let title = text::one_line(&title);
        command::bounded("title", &title, TITLE_LIMIT)?;
        issue.title = title;
    }
    if let Some(body) = body {
        command::body_fits(&body)?;
        issue.touches = crate::schedule::written_touches(&body)?;
        issue.body = body;
    }
    // What was merged was for the old text.
    if let Some(merged) = &mut issue.merged {
        merged.lacks = true;
        merged.rounds = 0;
    }
    let note = format!("issue {number}: edited by {by}: {}", issue.title);
    let is_instruction = issue.instruction.is_some();
    tx.put_issue(issue);
    let Some(mut job) = tx.job(number) else {
        return Ok(note);
    };
    // Who reviewed it read the old text.
    job.review = None;
    if let Some(pr) = job.pr {
        let mut pr = tx.pr(pr)?;
        pr.review = None;
        tx.put_pr(pr);
    }
    match job.stage() {
        // Its issues are filed, and are edited themselves.
        Stage::Children => return Ok(note),
        // Who needs a person waits for a word of theirs; what was planned is for the old text.
        Stage::NeedsHuman => {
            job.plan = None;
            job.resume = None;
            tx.put_job(job);
            return Ok(note);
        }
        Stage::SplitReady => split::withdraw(tx, by, number)?,
        _ => {}
    }
    if let Some(pr) = job.pr {
        let mut pr = tx.pr(pr)?;
        if matches!(
            pr.state,
            PrState::Testing { .. } | PrState::Advancing { .. }
        ) {
            return Err(Refusal::Merging(number));
        }
        // Where nothing is to be added, that is what is there.
        job.unchecked = match job.stage() {
            Stage::Proposed => Some(pr.head.clone()),
            // A run may have pushed more.
            _ => job.unchecked.or(Some(pr.head.clone())),
        };
        pr.state = PrState::Reworking;
        tx.put_pr(pr);
    }
    let next = match is_instruction {
        true => Stage::SplitDue,
        false => {
            job.plan = None;
            job.resume = None;
            job.unchecked = job.stage().commit().cloned().or(job.unchecked);
            let stage = job::begin(tx, job)?;
            job = tx.job(number).ok_or(Refusal::NoSuchJob(number))?;
            stage
        }
    };
    // What was pushed reaches the branch first: the work goes on from there.
    let next = match job.stage().clone() {
        Stage::Publishing { commit, .. } => Stage::Publishing {
            commit,
            then: Next::Anew,
        },
        // It may push until it is over.
        Stage::Coding { run } => {
            let mut live = tx.run(run)?;
            live.outdated = true;
            tx.put_run(live);
            Stage::Coding { run }
        }
        _ => next,
    };
    job.rounds = 0;
    job.asked_to_split = false;
    job.not_before = None;
    job.report_problem = None;
    job.feedback = Some("The issue was edited since the work began: read it anew.".to_owned());
    job.story.push(format!("issue edited by {by}: begun anew"));
    // Others may have begun on what it touches.
    job.begun = job.begun && !job.is_looked_at();
    if *job.stage() != next {
        job.enter(next)?;
    }
    tx.put_job(job);
    configured::go_on(tx, number)?;
    Ok(note)
}

/// Where a job stands, and why, for whoever asks.
fn explain(tx: &mut Tx<'_>, number: IssueNo) -> Result<String, Refusal> {
    let job = tx.job(number).ok_or(Refusal::NoSuchJob(number))?;
    let mut out = format!("It stands at `{}`", job.stage().kind().as_str());
    if let Some(by) = &job.held_by {
        out.push_str(&format!(", held by {by}"));
    }
    out.push_str(&format!(", after {} code runs.\n", job.rounds));
    if let Some(route) = &job.route {
        out.push_str(&format!(
            "\nTier {} (score {}):\n\n",
            route.tier, route.score
        ));
        route
            .reasons
            .iter()
            .for_each(|reason| out.push_str(&format!("- {}\n", outgoing_text(reason))));
    }
    if let Some(merged) = tx.issue(number)?.merged {
        out.push_str(&format!(
            "\nPull request {} is merged as {}.\n",
            merged.pr, merged.commit
        ));
    }
    if let Some(pr) = job.pr {
        let pr = tx.pr(pr)?;
        out.push_str(&format!("\nPull request {}:\n\n", pr.number));
        for piece in &pr.evidence {
            let sign = match piece.holds {
                Holds::Yes => "for",
                Holds::No => "against",
                Holds::Open => "open",
            };
            out.push_str(&format!(
                "- {} ({sign}): {}\n",
                piece.fact.as_str(),
                piece.why
            ));
        }
    }
    if !job.story.is_empty() {
        out.push_str("\nWhat happened so far:\n\n");
        for line in &job.story {
            out.push_str(&format!("- {}\n", outgoing_text(line)));
        }
    }
    Ok(out)
}
