//! Ends of runs that only read: their report is all that is kept of them.

use super::{configured, job, split, tx::Tx, verify};
use crate::{
    engine::{self, Verdict},
    event::Refusal,
    exit::{self, ExitClass, MAX_LOSSES},
    inbox::RunEnd,
    model::{Job, Purpose, Review, Run, Stage},
    report::{self, PlanReport, ReviewReport, ReviewVerdict, SplitReport},
    text,
};

/// What such a run handed in.
enum Handed {
    Split(SplitReport),
    Plan(PlanReport, String),
    Review(ReviewReport),
}

/// A run that only reads and that told its end.
pub(super) fn ended(
    tx: &mut Tx<'_>,
    run: Run,
    mut job: Job,
    end: &RunEnd,
) -> Result<String, Refusal> {
    let id = run.id;
    let from = job.stage().kind().as_str();
    let (class, outcome, to) = match engine::verdict(&run, end) {
        Verdict::Refused { why } => {
            job.story.push(line(&format!("{id}: refused: {why}")));
            let to = job::needs_human(tx, job, &why)?;
            (ExitClass::Refused, "refused".to_owned(), to)
        }
        Verdict::Failed { why } => {
            let class = exit::outside(&run, None).unwrap_or(ExitClass::EngineError);
            let why = format!("it broke off: {why}");
            let to = again(tx, job, &run, class, &why)?;
            (class, "broke off".to_owned(), to)
        }
        Verdict::Finished => match handed_in(&run, end) {
            Ok(handed) => {
                job.breaks = 0;
                job.losses = 0;
                job.not_before = None;
                job.report_problem = None;
                let (outcome, to) = taken(tx, job, &run, handed)?;
                (ExitClass::Ok, outcome, to)
            }
            Err(missing) => {
                let why = format!("it handed in no valid report: {missing}");
                let to = again(tx, job, &run, ExitClass::EngineError, &why)?;
                (ExitClass::EngineError, "no valid report".to_owned(), to)
            }
        },
    };
    super::ended::judge(tx, &run, class, &outcome);
    tx.end_run(run, class, outcome);
    Ok(format!("job {}: {from} -> {to} ({id}, {class})", id.job))
}

/// The same run again, until it is a person's to look at.
pub(super) fn again(
    tx: &mut Tx<'_>,
    mut job: Job,
    run: &Run,
    class: ExitClass,
    why: &str,
) -> Result<String, Refusal> {
    let id = run.id;
    job.story.push(line(&format!("{id}: {class}: {why}")));
    job.breaks += 1;
    job.losses += 1;
    job.not_before = Some(tx.now.0 + class.backoff(job.breaks)).filter(|at| *at > tx.now.0);
    if job.losses >= MAX_LOSSES {
        let why = format!(
            "{} runs in a row came to nothing. The last one: {why}",
            job.losses
        );
        return job::needs_human(tx, job, &why);
    }
    if tx.has_nothing_left(&job, &run.purpose) {
        let why = format!("{} The last run: {why}", job::out_of_money(tx, &job));
        return job::needs_human(tx, job, &why);
    }
    job.report_problem = Some(format!(
        "The run before you ({id}) came to nothing: {}",
        text::trimmed(why, super::ended::OUTPUT_LIMIT)
    ));
    let due = job.stage().due_again();
    let to = due.kind().as_str().to_owned();
    let number = job.issue;
    job.enter(due)?;
    tx.put_job(job);
    configured::go_on(tx, number)?;
    Ok(to)
}

pub(super) fn line(text: &str) -> String {
    text::trimmed(&text::one_line(text), 500)
}

fn handed_in<'a>(run: &Run, end: &'a RunEnd) -> Result<Handed, &'a str> {
    // What cannot be read may say the opposite of an older one that was taken.
    if let Some(problem) = &end.report_problem {
        return Err(problem);
    }
    let missing = "there is none in /factory/out/report.json";
    let json = run.report.as_deref().ok_or(missing)?;
    let handed = match run.purpose {
        Purpose::Split => report::outgoing_split(json).map(Handed::Split),
        Purpose::Plan => {
            let plan = report::outgoing_plan(json);
            plan.map(|plan| Handed::Plan(plan, json.to_owned()))
        }
        Purpose::Review | Purpose::Verify => report::outgoing_review(json).map(Handed::Review),
        Purpose::Code | Purpose::Check | Purpose::MergeTest { .. } => None,
    };
    handed.ok_or("it is that of another role")
}

fn taken(
    tx: &mut Tx<'_>,
    mut job: Job,
    run: &Run,
    handed: Handed,
) -> Result<(String, String), Refusal> {
    let id = run.id;
    match handed {
        Handed::Split(report) => split::taken(tx, job, run, report),
        Handed::Plan(plan, json) => {
            let steps = plan.steps.len();
            job.story.push(format!("{id}: planned, {steps} steps"));
            tx.comment_on_report(id, format!("The plan of {id}:\n\n{}", plan.text()))?;
            job.plan = Some(json);
            let to = job::planned(tx, job)?;
            Ok((format!("planned {steps} steps"), to))
        }
        Handed::Review(report) if run.purpose == Purpose::Verify => {
            verify::looked(tx, job, run, &report)
        }
        Handed::Review(report) => reviewed(tx, job, run, report),
    }
}

fn reviewed(
    tx: &mut Tx<'_>,
    mut job: Job,
    run: &Run,
    report: ReviewReport,
) -> Result<(String, String), Refusal> {
    let id = run.id;
    let commit = run.grant.start.clone();
    let said = said(&report);
    let summary = text::one_line(&report.summary);
    job.story.push(line(&format!(
        "{id}: reviewed {}: {said}: {summary}",
        commit.short()
    )));
    job.review = Some(Review {
        commit: commit.clone(),
        run: id,
        verdict: report.verdict,
        confidence: report.confidence,
        summary: text::trimmed(&report.summary, 2000),
        own_word: !engine::may_run_the_change(&run.engine),
    });
    let text = report.text();
    let to = match report.verdict {
        ReviewVerdict::Approve => job::to_opening(tx, job, commit)?,
        ReviewVerdict::RequestChanges => {
            let short = commit.short();
            let feedback = format!("The review of {short} ({id}) asks for changes:\n\n{text}");
            job::another_round(tx, job, feedback)?
        }
        ReviewVerdict::Reject => {
            let why = format!(
                "The review of {} ({id}) rejects the work:\n\n{text}",
                commit.short()
            );
            job::work_failed(tx, job, &why, None)?
        }
    };
    Ok((said, to))
}

/// `approve (confidence 0.9, 1 remark)`.
pub(super) fn said(report: &ReviewReport) -> String {
    let remarks = report.comments.len();
    format!(
        "{} (confidence {}, {remarks} remark{})",
        report.verdict,
        report.confidence,
        if remarks == 1 { "" } else { "s" }
    )
}

/// The stage in which such a run is due once more.
impl Stage {
    pub(super) fn due_again(&self) -> Stage {
        match self {
            Stage::Splitting { .. } => Stage::SplitDue,
            Stage::Planning { .. } => Stage::PlanDue,
            Stage::Coding { .. } => Stage::Queued,
            Stage::Checking {
                commit,
                tests,
                rerun,
                ..
            } => Stage::CheckDue {
                commit: commit.clone(),
                tests: tests.clone(),
                rerun: *rerun,
            },
            Stage::Reviewing { commit, .. } => Stage::ReviewDue {
                commit: commit.clone(),
            },
            Stage::Verifying { .. } => Stage::VerifyDue,
            other => other.clone(),
        }
    }
}
