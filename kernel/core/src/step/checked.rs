//! Ends of check runs: what the verdict leads to.

use super::{
    ended::{Blame, OUTPUT_LIMIT, broke_off, came_to_its_end},
    job, merge,
    tx::Tx,
};
use crate::{
    event::Refusal,
    exit::ExitClass,
    ids::{Oid, RunId},
    model::{BaseChecked, Checked, ContainerExit, Holds, Job, PrState, Purpose, Run, Stage, Tests},
    text,
};

/// What the checks came to.
enum Outcome {
    Green,
    /// Red, with what is told of it.
    Red(String),
    /// They took too long, with what is told of it.
    Late(String),
}

/// A check run that gave a verdict: pid 1's exit code as the container engine reports it.
pub(super) fn ended(
    tx: &mut Tx<'_>,
    run: Run,
    mut job: Job,
    exit: Option<ContainerExit>,
) -> Result<String, Refusal> {
    let output = run
        .end
        .as_ref()
        .map(|end| text::trimmed(&end.last_output, OUTPUT_LIMIT))
        .unwrap_or_default();
    let checked_out = run.grant.start.clone();
    let short = checked_out.short();
    let outcome = match exit.map(|exit| exit.code) {
        Some(0) => Outcome::Green,
        Some(1) => Outcome::Red(format!("The checks failed on {short}:\n\n{output}")),
        Some(124) => Outcome::Late(format!(
            "The checks did not end within {} on {short}:\n\n{output}",
            run.limits.wall
        )),
        Some(125) => {
            let why = format!("the checks could not be prepared: {output}");
            return broke_off(tx, run, job, ExitClass::Lost, &why, Blame::Counts);
        }
        _ => {
            let why = "its container ended in an unknown way";
            return broke_off(tx, run, job, ExitClass::Lost, why, Blame::Counts);
        }
    };
    came_to_its_end(&mut job);
    let id = run.id;
    let purpose = run.purpose.clone();
    // One that was granted when `factory.yaml` named no checks ran none.
    let ran = !run.checks.is_empty();
    let (from, word) = match (&purpose, &outcome) {
        (Purpose::MergeTest { .. }, Outcome::Green) => ("testing the merge", "merge green"),
        (Purpose::MergeTest { .. }, _) => ("testing the merge", "merge red"),
        (_, Outcome::Green) => ("checking", "green"),
        (_, _) => ("checking", "red"),
    };
    tx.end_run(run, ExitClass::Ok, word.to_owned());
    let to = match purpose {
        Purpose::MergeTest { pr } => merge_tested(tx, job, id, pr, outcome, ran)?,
        _ => commit_checked(tx, job, id, outcome, ran)?,
    };
    Ok(format!("job {}: {from} -> {to} ({id}, {word})", id.job))
}

fn line(text: &str) -> String {
    text::trimmed(&text::one_line(text), 300)
}

fn commit_checked(
    tx: &mut Tx<'_>,
    mut job: Job,
    id: RunId,
    outcome: Outcome,
    ran: bool,
) -> Result<String, Refusal> {
    let Stage::Checking {
        commit,
        tests,
        rerun,
        ..
    } = job.stage().clone()
    else {
        return Err(Refusal::Stale(format!("job {}", job.issue)));
    };
    let short = commit.short();
    let with = match &tests {
        Tests::Own => String::new(),
        Tests::Base { .. } => " with the target's tests".to_owned(),
    };
    match (outcome, &tests) {
        (Outcome::Green, _) if !ran => {
            job.story
                .push(format!("{id}: nothing was checked on {short}"));
            match (tx.config().checks.is_empty(), &tests) {
                (false, _) => due(tx, job, commit, tests, rerun),
                (true, Tests::Own) => job::to_check(tx, job, commit),
                (true, Tests::Base { .. }) => job::to_review(tx, job, commit),
            }
        }
        (Outcome::Green, Tests::Own) => {
            let flaky = match rerun {
                true => " when run again: they are flaky",
                false => "",
            };
            job.story
                .push(format!("{id}: checks passed on {short}{flaky}"));
            let base = job.change.as_ref().and_then(|c| c.with_base_tests.clone());
            job.checked = Some(Checked {
                commit: commit.clone(),
                run: id,
                flaky: rerun,
                with_base_tests: None,
            });
            match base {
                Some(with_base) => {
                    let tests = Tests::Base { commit: with_base };
                    due(tx, job, commit, tests, false)
                }
                None => job::to_review(tx, job, commit),
            }
        }
        (Outcome::Green, Tests::Base { .. }) => {
            let flaky = if rerun {
                " when run again: they are flaky"
            } else {
                ""
            };
            job.story
                .push(format!("{id}: checks passed on {short}{with}{flaky}"));
            with_base(&mut job, id, None, rerun);
            job::to_review(tx, job, commit)
        }
        (Outcome::Red(why), _) if !rerun => {
            job.story
                .push(format!("{id}: {}; once more{with}", line(&why)));
            due(tx, job, commit, tests, true)
        }
        (Outcome::Red(why) | Outcome::Late(why), Tests::Own) => {
            job.story.push(format!("{id}: {}", line(&why)));
            job.checked = None;
            job::another_round(tx, job, why)
        }
        // That may be right: the change may be what was asked for. It is told to whoever
        // decides, and no automatic gate opens.
        (Outcome::Red(why) | Outcome::Late(why), Tests::Base { .. }) => {
            job.story.push(format!("{id}:{with}: {}", line(&why)));
            with_base(&mut job, id, Some(why), false);
            job::to_review(tx, job, commit)
        }
    }
}

fn with_base(job: &mut Job, run: RunId, failed: Option<String>, flaky: bool) {
    if let Some(checked) = &mut job.checked {
        checked.with_base_tests = Some(BaseChecked {
            run,
            failed: failed.map(|why| text::trimmed(&why, 2000)),
            flaky,
        });
    }
}

fn due(
    tx: &mut Tx<'_>,
    mut job: Job,
    commit: Oid,
    tests: Tests,
    rerun: bool,
) -> Result<String, Refusal> {
    job.enter(Stage::CheckDue {
        commit,
        tests,
        rerun,
    })?;
    tx.put_job(job);
    Ok("check-due".to_owned())
}

fn merge_tested(
    tx: &mut Tx<'_>,
    mut job: Job,
    id: RunId,
    number: crate::ids::PrNo,
    outcome: Outcome,
    ran: bool,
) -> Result<String, Refusal> {
    let mut pr = tx.pr(number)?;
    let PrState::Testing {
        merge, rerun, run, ..
    } = &mut pr.state
    else {
        return Err(Refusal::Stale(format!("pr {number}")));
    };
    let short = merge.short().to_owned();
    match outcome {
        Outcome::Green if !ran && !tx.config().checks.is_empty() => {
            *run = None;
            tx.put_pr(pr);
            tx.put_job(job);
            Ok("merge test due".to_owned())
        }
        Outcome::Green => {
            let (holds, what) = match (ran, *rerun) {
                (true, false) => (Holds::Yes, format!("checks passed on {short}")),
                (true, true) => (
                    Holds::No,
                    format!("checks passed on {short} only when run again: they are flaky"),
                ),
                (false, false) => (Holds::Open, format!("nothing was checked on {short}")),
                (false, true) => (
                    Holds::No,
                    format!("checks failed on {short}, and nothing was checked after that"),
                ),
            };
            job.story.push(format!("{id}: {what}"));
            let why = format!("{what} ({id})");
            tx.put_job(job);
            merge::advance(tx, number, holds, why)
        }
        Outcome::Red(why) if !*rerun => {
            job.story.push(format!("{id}: {}; once more", line(&why)));
            *rerun = true;
            *run = None;
            tx.put_pr(pr);
            tx.put_job(job);
            Ok("merge test due".to_owned())
        }
        Outcome::Red(why) | Outcome::Late(why) => {
            job.story.push(format!("{id}: {}", line(&why)));
            let why = format!("Merged with the target branch, the work is red. {why}");
            job::another_round(tx, job, why)
        }
    }
}
