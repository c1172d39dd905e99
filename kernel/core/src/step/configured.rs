//! What the configuration means for work that is under way.

use super::{
    job::{self, A_PERSON_DECIDES},
    split,
    tx::Tx,
    verify,
};
use crate::{
    config::{self, Config, Gate},
    event::Refusal,
    evidence,
    ids::IssueNo,
    model::{Fact, Holds, Issue, PrState, REJECTED, Stage},
};

/// Takes up what the configuration says now, in place of `before`: nobody waits for a run that
/// it does not ask for, and an automatic gate judges anew what it left to a person.
pub(super) fn follow(tx: &mut Tx<'_>, before: &Config) -> Result<(), Refusal> {
    for job in tx.jobs() {
        go_on(tx, job.issue)?;
    }
    if tx.config().gates.merge == Gate::Auto {
        judge_anew(tx, before);
    }
    Ok(())
}

/// A job goes on where it waits for a run that only reads and that the configuration does not
/// ask for, or at a gate that the configuration has opened.
pub(super) fn go_on(tx: &mut Tx<'_>, number: IssueNo) -> Result<(), Refusal> {
    // What is held goes on when it is released.
    let Some(mut job) = tx.job(number).filter(|job| job.held_by.is_none()) else {
        return Ok(());
    };
    let tier = job::tier(&job);
    let config = tx.config();
    match job.stage().clone() {
        Stage::SplitDue if config.splitter().is_none() => {
            let why =
                "Nobody splits instructions: name who does in `stages.split` of factory.yaml.";
            job::needs_human(tx, job, why)?;
        }
        Stage::PlanDue if config.planner_of(tier).is_none() => {
            job.enter(Stage::Queued)?;
            tx.put_job(job);
        }
        Stage::PlanReady if config.gates.plan == Gate::Auto => {
            job.begun = false;
            job::planned(tx, job)?;
        }
        Stage::SplitReady if config.gates.issues == Gate::Auto => {
            let parts = tx.issue(number)?.instruction.map(|i| i.children);
            let mut parts = parts.unwrap_or_default();
            // What a person sent back waits for one.
            let is_rejected = |issue: Issue| issue.has_label(REJECTED);
            parts.retain(|part| !tx.issue(*part).is_ok_and(is_rejected));
            split::approve(tx, config::FILE, job, &parts)?;
        }
        Stage::ReviewDue { commit } if config.reviewer_of(tier).is_none() => {
            job::to_review(tx, job, commit)?;
        }
        Stage::VerifyDue if config.reviewer_of(tier).is_none() => {
            verify::close_unseen(tx, job)?;
        }
        _ => {}
    }
    Ok(())
}

/// Pull requests that the automatic gate left to a person, as things are now.
fn judge_anew(tx: &mut Tx<'_>, before: &Config) {
    let protects_the_same = tx.config().protected == before.protected;
    for mut pr in tx.prs() {
        let is_left = pr
            .note
            .as_ref()
            .is_some_and(|note| note.starts_with(A_PERSON_DECIDES));
        // What was seen of the merge stays true.
        let is_seen = pr.evidence.iter().any(|piece| {
            piece.holds == Holds::No
                && (piece.fact == Fact::Merged || piece.fact == Fact::Rules && protects_the_same)
        });
        if pr.state != PrState::Ready || !is_left || is_seen {
            continue;
        }
        pr.evidence = job::evidence_of(tx, &pr);
        pr.note =
            (!evidence::nothing_against(&pr.evidence)).then(|| job::a_person_decides(&pr.evidence));
        tx.put_pr(pr);
    }
}
