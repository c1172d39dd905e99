//! Effects and merges: where work leaves our repositories.

use super::{
    job::{self, A_PERSON_DECIDES, FACTORY},
    tx::Tx,
    verify,
};
use crate::{
    config::{self, Gate},
    event::{EffectResult, MergeResult, Refusal},
    evidence,
    ids::{IssueNo, Oid, PrNo},
    model::{Change, EffectKind, Evidence, Fact, Holds, Job, Next, Pr, PrState, Stage},
    report::outgoing_text,
    rules::ToldPaths,
    text,
};

pub(super) fn effect_done(
    tx: &mut Tx<'_>,
    key: &str,
    result: EffectResult,
) -> Result<String, Refusal> {
    let effect = tx.effect(key)?;
    tx.drop_effect(key);
    match effect.kind {
        EffectKind::MoveBranch {
            issue, branch, new, ..
        } => branch_moved(tx, issue, &branch, new, result),
        EffectKind::AdvanceTarget {
            pr,
            branch,
            old,
            new,
            ..
        } => target_advanced(tx, pr, &branch, old, new, result),
    }
}

fn branch_moved(
    tx: &mut Tx<'_>,
    number: IssueNo,
    branch: &str,
    new: Oid,
    result: EffectResult,
) -> Result<String, Refusal> {
    let mut job = tx
        .job(number)
        .ok_or_else(|| Refusal::Stale(format!("job {number}")))?;
    let Stage::Publishing { commit, then } = job.stage().clone() else {
        return Err(Refusal::Stale(format!("job {number}")));
    };
    let brings = format!(
        "`git fetch \"$(git rev-parse --git-common-dir)/factory/door.git\" {new}` brings it."
    );
    let to = match result {
        EffectResult::Moved { change } => {
            job.change = Some(change);
            // What was said of an older commit says nothing of this one.
            job.checked = job.checked.filter(|checked| checked.commit == new);
            match then {
                Next::Check if verify::adds_nothing(tx, &job)? => {
                    job.story
                        .push("nothing was added to what is merged".to_owned());
                    verify::look_again(tx, job, Some(commit))?
                }
                Next::Check => job::to_check(tx, job, commit)?,
                Next::Anew => job::anew(tx, job)?,
                Next::Code => {
                    let feedback = job.feedback.clone().unwrap_or_default();
                    job::another_round(tx, job, feedback)?
                }
                Next::Human { why } => job::needs_human(tx, job, &why)?,
            }
        }
        // Somebody worked on it meanwhile: that goes before what the run did.
        EffectResult::BranchTaken {
            found: Some((found, change)),
        } => {
            let short = found.short();
            let text = format!(
                "Somebody moved the branch `{branch}` to {short}, so the factory goes on from there. What the run made meanwhile is commit {new}; {brings}\n"
            );
            tx.comment(number, FACTORY, text)?;
            job.story.push(format!(
                "{branch}: somebody moved it to {short}; on from there"
            ));
            job.change = Some(change);
            match then {
                Next::Anew => {
                    job.checked = None;
                    job.unchecked = Some(found);
                    job::anew(tx, job)?
                }
                Next::Check | Next::Code | Next::Human { .. } => {
                    job.unchecked = None;
                    match verify::adds_nothing(tx, &job)? {
                        true => verify::look_again(tx, job, Some(found))?,
                        false => job::to_check(tx, job, found)?,
                    }
                }
            }
        }
        EffectResult::BranchTaken { found: None } => {
            job.checked = None;
            let why = format!(
                "The branch `{branch}` was deleted, so it was left alone. The run's work is commit {new}; {brings}"
            );
            not_moved(tx, job, &new, &why)?
        }
        EffectResult::BranchCheckedOut { worktree } => {
            let why = format!(
                "The branch `{branch}` is checked out in {worktree}, so it was not moved to {}. Switch that work tree to another branch. The run's work is commit {new}; {brings}",
                new.short()
            );
            not_moved(tx, job, &new, &why)?
        }
        EffectResult::Failed { why } => {
            let why = format!(
                "The branch `{branch}` could not be moved to {}: {why} The run's work is commit {new}; {brings}",
                new.short()
            );
            not_moved(tx, job, &new, &why)?
        }
        EffectResult::Done
        | EffectResult::TargetMoved
        | EffectResult::TargetRefused { .. }
        | EffectResult::WorktreeChanged { .. } => {
            return Err(Refusal::Stale(format!("job {number}")));
        }
    };
    Ok(format!("job {number}: {branch} at {} -> {to}", new.short()))
}

/// What a run pushed is not on its branch, which is a person's. Where they put it there, nothing
/// has checked it, and what is known of the change is that of an older commit.
fn not_moved(tx: &mut Tx<'_>, job: Job, pushed: &Oid, why: &str) -> Result<String, Refusal> {
    let number = job.issue;
    let to = job::needs_human(tx, job, why)?;
    if let Some(mut job) = tx.job(number) {
        job.change = None;
        job.unchecked = Some(pushed.clone());
        tx.put_job(job);
    }
    Ok(to)
}

fn target_advanced(
    tx: &mut Tx<'_>,
    number: PrNo,
    branch: &str,
    old: Oid,
    new: Oid,
    result: EffectResult,
) -> Result<String, Refusal> {
    let mut pr = tx.pr(number)?;
    let PrState::Advancing { by, at, merge } = pr.state.clone() else {
        return Err(Refusal::Stale(format!("pr {number}")));
    };
    match result {
        EffectResult::Done => verify::merged(tx, number, by, Some(old), new),
        EffectResult::TargetMoved => {
            pr.state = PrState::Queued { by, at };
            tx.put_pr(pr);
            Ok(format!(
                "pr {number}: {branch} moved meanwhile -> merged again"
            ))
        }
        EffectResult::WorktreeChanged { worktree } => {
            record_advance(tx, number, old, new, worktree);
            Ok(format!(
                "pr {number}: {branch} is checked out elsewhere now"
            ))
        }
        EffectResult::TargetRefused { why } | EffectResult::Failed { why } => {
            Ok(back_to_gate(tx, pr, why))
        }
        EffectResult::Moved { .. }
        | EffectResult::BranchTaken { .. }
        | EffectResult::BranchCheckedOut { .. } => {
            Err(Refusal::Stale(format!("pr {number} ({})", merge.short())))
        }
    }
}

/// Not merged for a reason that a person removes: ready again, with that reason.
fn back_to_gate(tx: &mut Tx<'_>, mut pr: Pr, why: String) -> String {
    let note = format!("pr {}: not merged: {}", pr.number, text::one_line(&why));
    pr.state = PrState::Ready;
    pr.note = Some(why);
    tx.put_pr(pr);
    note
}

pub(super) fn merge_made(
    tx: &mut Tx<'_>,
    number: PrNo,
    target: Oid,
    result: MergeResult,
) -> Result<String, Refusal> {
    let mut pr = tx.pr(number)?;
    let PrState::Queued { by, at } = pr.state.clone() else {
        return Err(Refusal::Stale(format!("pr {number}")));
    };
    match result {
        MergeResult::AlreadyMerged => {
            pr.merges_as_it_is = false;
            tx.put_pr(pr);
            verify::merged(tx, number, by, None, target)
        }
        MergeResult::Blocked { why } => Ok(back_to_gate(tx, pr, why)),
        MergeResult::BranchMoved { found, change } => branch_of_pr_moved(tx, pr, found, change),
        MergeResult::Conflict { paths } => {
            let mut job = tx
                .job(pr.issue)
                .ok_or_else(|| Refusal::Stale(format!("pr {number}")))?;
            let files = ToldPaths::from_iter(paths);
            job.story.push(format!(
                "pr {number}: conflicts with {} in {files}",
                target.short()
            ));
            let feedback = format!(
                "Your work conflicts with the target branch ({}) in: {files}. The merge is begun in your work tree: resolve the conflicts, keep what both sides intended, commit and push.",
                target.short()
            );
            let to = job::another_round(tx, job, feedback)?;
            Ok(format!("pr {number}: conflicts in {files} -> {to}"))
        }
        MergeResult::Forbidden {
            findings,
            person: Some(person),
        } => {
            let why = format!(
                "the branch breaks rules of the target ({}), and its newest commit {} is by {}. Mend it there and merge it again:\n{findings}",
                target.short(),
                pr.head.short(),
                outgoing_text(&text::one_line(&person))
            );
            Ok(back_to_gate(tx, pr, why))
        }
        MergeResult::Forbidden {
            findings,
            person: None,
        } => {
            let mut job = tx
                .job(pr.issue)
                .ok_or_else(|| Refusal::Stale(format!("pr {number}")))?;
            let what = format!("breaks rules of {}", target.short());
            job.story.push(format!(
                "pr {number}: {what}: {}",
                text::one_line(&findings)
            ));
            let feedback = format!(
                "Your work breaks rules of the target branch ({}), so it is not merged. Mend it in a new commit and push:\n{findings}",
                target.short()
            );
            let to = job::another_round(tx, job, feedback)?;
            Ok(format!("pr {number}: {what} -> {to}"))
        }
        // No evidence opens this gate: what decides over the factory's work is not its own.
        MergeResult::Clean { protected, .. } if by == config::FILE && !protected.is_empty() => {
            let holds = Holds::No;
            let fact = Fact::Rules;
            let why = format!("it changes protected paths: {protected}");
            evidence::put(&mut pr.evidence, Evidence { fact, holds, why });
            let why = format!(
                "{A_PERSON_DECIDES}it changes what `protected` in factory.yaml names: {protected}"
            );
            Ok(back_to_gate(tx, pr, why))
        }
        MergeResult::Clean {
            merge,
            tree_is_heads,
            worktree,
            change,
            ..
        } => {
            pr.merges_as_it_is = tree_is_heads;
            // By what `factory.yaml` asks for now.
            pr.evidence = job::evidence_of(tx, &pr);
            let size = evidence::size(tx.config(), Some(&change));
            evidence::put(&mut pr.evidence, size);
            let kept = Evidence {
                fact: Fact::Rules,
                holds: Holds::Yes,
                why: format!(
                    "{} breaks none, and changes no protected path",
                    merge.short()
                ),
            };
            evidence::put(&mut pr.evidence, kept);
            // Whoever shut it meanwhile wants to be asked.
            if by == config::FILE && tx.config().gates.merge != Gate::Auto {
                let why = format!("{A_PERSON_DECIDES}`gates.merge` is `human` now");
                return Ok(back_to_gate(tx, pr, why));
            }
            if by == config::FILE && !evidence::nothing_against(&pr.evidence) {
                let why = job::a_person_decides(&pr.evidence);
                return Ok(back_to_gate(tx, pr, why));
            }
            let passed = pr
                .checked
                .as_ref()
                .filter(|c| tree_is_heads && c.commit == pr.head && !c.flaky);
            let short = merge.short().to_owned();
            if passed.is_some() || tx.config().checks.is_empty() {
                let (holds, why) = match passed {
                    Some(checked) => {
                        let run = checked.run;
                        let why = format!("its tree is that of the head, which passed ({run})");
                        (Holds::Yes, why)
                    }
                    None => (Holds::Open, format!("nothing was checked on {short}")),
                };
                let fact = Fact::Merged;
                evidence::put(&mut pr.evidence, Evidence { fact, holds, why });
                pr.state = PrState::Advancing {
                    by,
                    at,
                    merge: merge.clone(),
                };
                tx.put_pr(pr);
                record_advance(tx, number, target, merge, worktree);
                Ok(format!("pr {number}: merge {short} made -> advancing"))
            } else {
                pr.state = PrState::Testing {
                    by,
                    at,
                    target,
                    merge,
                    worktree,
                    run: None,
                    rerun: false,
                };
                tx.put_pr(pr);
                Ok(format!("pr {number}: merge {short} made -> to be tested"))
            }
        }
    }
}

/// What the gate was opened for is not what the branch holds: that is checked,
/// and whoever opened the gate looks at it again.
fn branch_of_pr_moved(
    tx: &mut Tx<'_>,
    mut pr: Pr,
    found: Oid,
    change: Change,
) -> Result<String, Refusal> {
    let number = pr.number;
    let mut job = tx
        .job(pr.issue)
        .ok_or_else(|| Refusal::Stale(format!("pr {number}")))?;
    let what = format!(
        "somebody moved {} from {} to {}",
        pr.branch,
        pr.head.short(),
        found.short()
    );
    pr.state = PrState::Reworking;
    tx.put_pr(pr);
    job.story.push(format!("pr {number}: {what}"));
    job.change = Some(change);
    let to = job::to_check(tx, job, found)?;
    Ok(format!("pr {number}: not merged: {what} -> {to}"))
}

/// The merge could not be made: back to the gate, where a person reads why.
pub(super) fn merge_failed(tx: &mut Tx<'_>, number: PrNo, why: String) -> Result<String, Refusal> {
    let pr = tx.pr(number)?;
    match pr.state {
        PrState::Queued { .. } => Ok(back_to_gate(tx, pr, why)),
        _ => Err(Refusal::Stale(format!("pr {number}"))),
    }
}

fn record_advance(tx: &mut Tx<'_>, pr: PrNo, old: Oid, new: Oid, worktree: Option<String>) {
    let branch = tx.meta().target.clone();
    tx.put_effect(
        format!("merge-{pr}-{}", new.short()),
        EffectKind::AdvanceTarget {
            pr,
            branch,
            old,
            new,
            worktree,
        },
    );
}

/// The target may move to the merge commit, of which `holds` and `why` say what its checks said.
/// Where an automatic gate opened for it, what became known since may leave that to a person.
pub(super) fn advance(
    tx: &mut Tx<'_>,
    number: PrNo,
    holds: Holds,
    why: String,
) -> Result<String, Refusal> {
    let mut pr = tx.pr(number)?;
    let PrState::Testing {
        by,
        at,
        target,
        merge,
        worktree,
        ..
    } = pr.state.clone()
    else {
        return Err(Refusal::Stale(format!("pr {number}")));
    };
    let fact = Fact::Merged;
    let said = why.clone();
    evidence::put(&mut pr.evidence, Evidence { fact, holds, why });
    if by == config::FILE {
        let is_shut = tx.config().gates.merge != Gate::Auto;
        let why = match holds {
            Holds::No => Some(job::a_person_decides(&pr.evidence)),
            // Whoever shut it meanwhile wants to be asked.
            Holds::Yes | Holds::Open if is_shut => {
                Some(format!("{A_PERSON_DECIDES}`gates.merge` is `human` now"))
            }
            Holds::Open => Some(format!("{A_PERSON_DECIDES}{said}")),
            Holds::Yes => None,
        };
        if let Some(why) = why {
            return Ok(back_to_gate(tx, pr, why));
        }
    }
    pr.state = PrState::Advancing {
        by,
        at,
        merge: merge.clone(),
    };
    tx.put_pr(pr);
    record_advance(tx, number, target, merge, worktree);
    Ok("advancing".to_owned())
}
