//! What happens to a job between its runs.

use super::tx::Tx;
use crate::{
    config::Gate,
    event::Refusal,
    evidence::{self, Known},
    history::Went,
    ids::{IssueNo, Oid, PrNo},
    model::{
        Conflict, Evidence, Fact, Holds, Issue, Job, NEEDS_HUMAN, OVERSIZED, Pr, PrState, Purpose,
        Stage, Tests,
    },
    report::{outgoing_output, outgoing_text},
    route::{Complexity, Route},
    text,
};

/// Author of what the kernel itself writes.
pub(super) const FACTORY: &str = "factory";

pub(super) fn label(issue: &mut Issue, label: &str) {
    if !issue.has_label(label) {
        issue.labels.push(label.to_owned());
        issue.labels.sort();
    }
}

/// Begins the work on an approved issue.
pub(super) fn begin(tx: &mut Tx<'_>, mut job: Job) -> Result<Stage, Refusal> {
    let issue = tx.issue(job.issue)?;
    let route = tx.route(&issue);
    let line = format!("tier {} (score {})", route.tier, route.score);
    job.story.push(line);
    job.route = Some(route);
    let stage = first_stage(tx, &job);
    tx.put_job(job);
    Ok(stage)
}

/// Where the work on an issue begins: with its plan, where its tier asks for one.
fn first_stage(tx: &Tx<'_>, job: &Job) -> Stage {
    match tx.config().planner_of(tier(job)) {
        Some(_) => Stage::PlanDue,
        None => Stage::Queued,
    }
}

/// Back to where the work begins, which goes on from what is on the branch.
pub(super) fn anew(tx: &mut Tx<'_>, mut job: Job) -> Result<String, Refusal> {
    let stage = first_stage(tx, &job);
    let to = stage.kind().as_str().to_owned();
    job.enter(stage)?;
    tx.put_job(job);
    Ok(to)
}

/// The tier that a job is worked on in.
pub(super) fn tier(job: &Job) -> Complexity {
    job.route
        .as_ref()
        .map(|route| route.tier)
        .unwrap_or_default()
}

/// A job whose plan is there: to its code, or to whoever decides on plans.
pub(super) fn planned(tx: &mut Tx<'_>, mut job: Job) -> Result<String, Refusal> {
    let stage = match tx.config().gates.plan {
        Gate::Auto => Stage::Queued,
        Gate::Human => Stage::PlanReady,
    };
    let to = stage.kind().as_str().to_owned();
    job.enter(stage)?;
    tx.put_job(job);
    Ok(to)
}

/// Back to a code run that is told `feedback`, or to a person when the rounds are used up.
/// Returns where the job went, for the note.
pub(super) fn another_round(
    tx: &mut Tx<'_>,
    mut job: Job,
    feedback: String,
) -> Result<String, Refusal> {
    let limit = tx.config().rounds_of(tier(&job));
    if job.rounds >= limit && !goes_up(tx, &mut job) {
        let rounds = job.rounds;
        let why = format!("{rounds} of {limit} rounds are used up. The last one: {feedback}");
        let draft = postmortem(&tx.issue(job.issue)?, &job, &feedback);
        return work_failed(tx, job, &why, Some(&draft));
    }
    if tx.has_nothing_left(&job, &Purpose::Code) {
        let why = format!("{} The last run: {feedback}", out_of_money(tx, &job));
        return needs_human(tx, job, &why);
    }
    if let Some(pr) = job.pr {
        let mut pr = tx.pr(pr)?;
        pr.state = PrState::Reworking;
        tx.put_pr(pr);
    }
    job.feedback = Some(feedback);
    job.enter(Stage::Queued)?;
    tx.put_job(job);
    Ok("queued".to_owned())
}

/// One tier up with new rounds, where `factory.yaml` says that a job may.
fn goes_up(tx: &Tx<'_>, job: &mut Job) -> bool {
    let from = tier(job);
    let (true, Some(up)) = (tx.config().tiers.of(from).escalate, from.up()) else {
        return false;
    };
    let rounds = job.rounds;
    job.story.push(format!(
        "{rounds} rounds of tier {from} are used up: on to tier {up}"
    ));
    let route = job.route.get_or_insert_with(|| Route {
        tier: from,
        score: 0,
        reasons: Vec::new(),
    });
    route.tier = up;
    route.reasons.push(format!(
        "one tier up: {rounds} rounds of tier {from} were used up"
    ));
    job.rounds = 0;
    true
}

/// What a person is told of a job that may spend nothing more.
pub(super) fn out_of_money(tx: &Tx<'_>, job: &Job) -> String {
    let limit = &tx.config().budget.per_job;
    format!(
        "The job's budget of {limit} is used up ({}). Raise `budget.per_job` in factory.yaml if it is to cost more; approving the issue again allows it as much once more.",
        limit.amount(&job.spent)
    )
}

/// To the checks, or, where there are none, to the review.
pub(super) fn to_check(tx: &mut Tx<'_>, mut job: Job, commit: Oid) -> Result<String, Refusal> {
    job.checked = None;
    if tx.config().checks.is_empty() {
        return to_review(tx, job, commit);
    }
    job.enter(Stage::CheckDue {
        commit,
        tests: Tests::Own,
        rerun: false,
    })?;
    tx.put_job(job);
    Ok("check-due".to_owned())
}

/// To the review, or, where nobody reviews, to the pull request.
pub(super) fn to_review(tx: &mut Tx<'_>, mut job: Job, commit: Oid) -> Result<String, Refusal> {
    if tx.config().reviewer_of(tier(&job)).is_none() {
        return to_opening(tx, job, commit);
    }
    job.enter(Stage::ReviewDue { commit })?;
    tx.put_job(job);
    Ok("review-due".to_owned())
}

/// To the pull request. One that is too large is given back once, to become smaller.
pub(super) fn to_opening(tx: &mut Tx<'_>, mut job: Job, commit: Oid) -> Result<String, Refusal> {
    let size = evidence::size(tx.config(), job.change.as_ref());
    let is_large = job.change.is_some() && size.holds == Holds::No;
    let has_rounds = job.rounds < tx.config().rounds_of(tier(&job));
    if is_large && has_rounds && !job.asked_to_split {
        job.asked_to_split = true;
        job.story
            .push(format!("asked to become smaller: {}", size.why));
        let feedback = format!(
            "Your work on {} is large: {}. If a part of it stands alone, leave only that on the branch, in new commits, and ask for the rest in the report's `issues`. If it cannot be split, add nothing and say in the report why.",
            commit.short(),
            size.why
        );
        // One that adds nothing goes on with what is there.
        job.unchecked = Some(commit);
        return another_round(tx, job, feedback);
    }
    job.enter(Stage::Opening { commit })?;
    tx.put_job(job);
    Ok("opening".to_owned())
}

/// The merge with every open pull request was tried: this one opens.
pub(super) fn compared(
    tx: &mut Tx<'_>,
    number: IssueNo,
    commit: &Oid,
    conflicts: Vec<Conflict>,
) -> Result<String, Refusal> {
    let stale = || Refusal::Stale(format!("job {number}"));
    let job = tx.job(number).ok_or_else(stale)?;
    if !matches!(job.stage(), Stage::Opening { commit: of } if of == commit) {
        return Err(stale());
    }
    let is_read = tx.config().reviewer_of(tier(&job)).is_none() || job.is_approved(commit);
    let to = match is_read {
        true => propose(tx, job, commit.clone(), conflicts)?,
        // Somebody reviews since it was on its way here.
        false => to_review(tx, job, commit.clone())?,
    };
    Ok(format!("job {number}: opening -> {to}"))
}

/// A person must look: label, the whole story as a comment, pull request back at its gate.
/// Reason and story quote what runs wrote and printed. The first line of the reason is a
/// sentence, and what follows it is shown as it is.
pub(super) fn needs_human(tx: &mut Tx<'_>, job: Job, why: &str) -> Result<String, Refusal> {
    to_human(tx, job, why, None)
}

/// As [`needs_human`], where the work itself is no good. What was lost, cost too much or was
/// refused says nothing of it.
pub(super) fn work_failed(
    tx: &mut Tx<'_>,
    job: Job,
    why: &str,
    draft: Option<&str>,
) -> Result<String, Refusal> {
    let number = job.issue;
    let to = to_human(tx, job, why, draft)?;
    if let Some(mut job) = tx.job(number) {
        count_failed(tx, &mut job);
        tx.put_job(job);
    }
    Ok(to)
}

/// The places that its work changes remember that it failed, once for each job.
pub(super) fn count_failed(tx: &mut Tx<'_>, job: &mut Job) {
    if let (false, Some(change)) = (job.failed, &job.change) {
        let went = Went {
            failed: 1,
            ..Went::default()
        };
        tx.history().add(&change.places, went);
        job.failed = true;
    }
}

/// Longest part of an issue's body in the draft of a postmortem, in bytes.
const WANTED_LIMIT: usize = 2000;

/// The draft of a postmortem on work that did not converge, which people finish.
fn postmortem(issue: &Issue, job: &Job, feedback: &str) -> String {
    let wanted = text::trimmed(issue.body.trim(), WANTED_LIMIT);
    let story: String = job.story.iter().map(|line| format!("- {line}\n")).collect();
    let last = feedback.lines().next().unwrap_or_default();
    format!(
        "# Issue {}: {}\n\n**What was wanted.** {wanted}\n\n**What happened.**\n\n{story}\n**What did not converge.** {last}\n\n**What we learn:**\n\n**Principle or prohibition:**\n",
        issue.number, issue.title
    )
}

/// As [`needs_human`]; what people can finish stands at the end of the comment.
fn to_human(
    tx: &mut Tx<'_>,
    mut job: Job,
    why: &str,
    draft: Option<&str>,
) -> Result<String, Refusal> {
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
    let place = match job.branch.is_empty() {
        true => String::new(),
        false => format!("The work is on the branch `{}`. ", job.branch),
    };
    let issue = tx.issue(job.issue)?;
    let again = match (issue.is_merged(), job.branch.is_empty()) {
        (true, _) => "looks at the target again",
        (false, true) => "tries again",
        (false, false) => "tries again from there",
    };
    comment.push_str(&format!(
        "\n{place}`factory issue approve {}` {again}; comments on this issue are read by the next run.\n",
        job.issue
    ));
    if let Some(merged) = &issue.merged {
        comment.push_str(&format!(
            "Pull request {} is merged: where that is all, `factory issue close {}` closes this as done.\n",
            merged.pr, job.issue
        ));
    }
    if let Some(draft) = draft {
        comment.push_str(&format!(
            "\nThe draft of a postmortem, to be finished and put into `postmortems/`:\n\n{}",
            outgoing_output(draft)
        ));
    }
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
    // What passed its checks may be merged by whoever looks at it.
    if job.pr.is_none()
        && let Some(checked) = job.checked.clone()
    {
        let why = outgoing_text(&text::one_line(reason));
        let note = Some(format!("needs a person: {why}"));
        let number = put_proposal(tx, &mut job, checked.commit, Vec::new(), note)?;
        tx.comment(
            job.issue,
            FACTORY,
            format!("What passed the checks is pull request {number}; `factory pr show {number}` says what speaks against it.\n"),
        )?;
    }
    job.enter(Stage::NeedsHuman)?;
    job.feedback = None;
    tx.put_job(job);
    Ok("needs-human".to_owned())
}

/// Opens the job's pull request, or brings the open one up to date.
fn propose(
    tx: &mut Tx<'_>,
    mut job: Job,
    head: Oid,
    conflicts: Vec<Conflict>,
) -> Result<String, Refusal> {
    let verb = match job.pr {
        Some(_) => "updated",
        None => "opened",
    };
    let number = put_proposal(tx, &mut job, head, conflicts, None)?;
    job.enter(Stage::Proposed)?;
    job.breaks = 0;
    job.losses = 0;
    tx.put_job(job);
    Ok(format!("pr {number} {verb}"))
}

/// What every note says of an automatic gate that stays shut.
pub(super) const A_PERSON_DECIDES: &str = "a person decides: ";

/// Why an automatic gate stays shut.
pub(super) fn a_person_decides(evidence: &[Evidence]) -> String {
    format!("{A_PERSON_DECIDES}{}", evidence::against(evidence))
}

fn judged(tx: &mut Tx<'_>, known: &Known<'_>) -> Vec<Evidence> {
    let history = tx.history().clone();
    evidence::judge(tx.config(), known, &history)
}

/// What is known of an open pull request, judged as things are now.
pub(super) fn evidence_of(tx: &mut Tx<'_>, pr: &Pr) -> Vec<Evidence> {
    let job = tx.job(pr.issue);
    let known = Known {
        head: &pr.head,
        change: job.as_ref().and_then(|job| job.change.as_ref()),
        checked: pr.checked.as_ref(),
        review: pr.review.as_ref(),
        route: job.as_ref().and_then(|job| job.route.as_ref()),
    };
    judged(tx, &known)
}

fn put_proposal(
    tx: &mut Tx<'_>,
    job: &mut Job,
    head: Oid,
    conflicts: Vec<Conflict>,
    note: Option<String>,
) -> Result<PrNo, Refusal> {
    let issue = tx.issue(job.issue)?;
    let now = tx.now.0;
    let known = Known {
        head: &head,
        change: job.change.as_ref(),
        checked: job.checked.as_ref(),
        review: job.review.as_ref(),
        route: job.route.as_ref(),
    };
    let evidence = judged(tx, &known);
    let checks = match &job.checked {
        Some(checked) => format!("Checks passed on {} ({}).", head.short(), checked.run),
        None => "Nothing was checked: `factory.yaml` names no checks.".to_owned(),
    };
    let body = format!(
        "{}\n\nResolves issue {}. {checks}\n",
        job.summary.as_deref().unwrap_or(&issue.title).trim_end(),
        job.issue
    );
    let (number, created) = match job.pr {
        Some(number) => (number, tx.pr(number)?.created),
        None => {
            let meta = tx.meta();
            meta.last_pr += 1;
            meta.today.get_or_insert_default().count_pull_request(now);
            (PrNo(meta.last_pr), now)
        }
    };
    // An automatic gate that stays shut says why.
    let note = note.or_else(|| {
        let opens = tx.config().gates.merge == Gate::Human || evidence::nothing_against(&evidence);
        (!opens).then(|| a_person_decides(&evidence))
    });
    let is_large = evidence
        .iter()
        .any(|piece| piece.fact == Fact::Size && piece.holds == Holds::No);
    tx.put_pr(Pr {
        number,
        issue: job.issue,
        title: issue.title,
        branch: job.branch.clone(),
        head,
        state: PrState::Ready,
        checked: job.checked.clone(),
        review: job.review.clone(),
        merges_as_it_is: false,
        evidence,
        conflicts,
        labels: match is_large && job.change.is_some() {
            true => vec![OVERSIZED.to_owned()],
            false => Vec::new(),
        },
        created,
        note,
        body,
    });
    job.pr = Some(number);
    Ok(number)
}
