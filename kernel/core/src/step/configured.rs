//! What another configuration means for work that is under way.

use super::{
    job::{self, A_PERSON_DECIDES},
    tx::Tx,
    verify,
};
use crate::{
    config::Gate,
    event::Refusal,
    evidence,
    model::{Fact, Holds, PrState, Stage},
};

/// Takes up what the configuration says now: nobody waits for a run that it does not ask for,
/// and an automatic gate judges anew what it left to a person.
pub(super) fn follow(tx: &mut Tx<'_>) -> Result<(), Refusal> {
    for job in tx.jobs() {
        let tier = job::tier(&job);
        let config = tx.config();
        match job.stage().clone() {
            Stage::PlanDue if config.planner_of(tier).is_none() => {
                let mut job = job;
                job.enter(Stage::Queued)?;
                tx.put_job(job);
            }
            Stage::ReviewDue { commit } if config.reviewer_of(tier).is_none() => {
                job::to_review(tx, job, commit)?;
            }
            Stage::VerifyDue if config.reviewer_of(tier).is_none() => {
                verify::close_unseen(tx, job)?;
            }
            _ => {}
        }
    }
    if tx.config().gates.merge == Gate::Auto {
        judge_anew(tx);
    }
    Ok(())
}

/// Pull requests that the automatic gate left to a person, as things are now.
fn judge_anew(tx: &mut Tx<'_>) {
    for mut pr in tx.prs() {
        let is_left = pr
            .note
            .as_ref()
            .is_some_and(|note| note.starts_with(A_PERSON_DECIDES));
        // Of these no configuration says more than what was seen.
        let is_seen = pr.evidence.iter().any(|piece| {
            matches!(piece.fact, Fact::Rules | Fact::Merged) && piece.holds == Holds::No
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
