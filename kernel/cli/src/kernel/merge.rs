//! Where work leaves our repositories: work branches and the target.

use super::{
    Outcome,
    config::Looked,
    tools::{Repos, Tools, Work},
};
use crate::{
    failure::{Class, Failure},
    rules,
};
use factory_core::{
    brief::AGENT_EMAIL,
    config::Config,
    event::{EffectResult, Event, MergeResult},
    ids::{IssueNo, Oid, PrNo},
    model::{Change, ConfigInForce, EffectKind, Pr, PrState},
    rules::{Globs, ToldPaths},
    state::State,
    text,
};
use factory_ledger::{
    advance::{Advance, Prepared, advance_target, prepare_advance, recover_advance},
    change,
    failpoint::{Process::Kernel, around},
    merge::{Author, MergeOutcome, author_of, make_merge, tree_of},
    user::Move,
};
use factory_runtime::Runtime;
use std::{path::PathBuf, sync::Arc};

/// Performs a recorded effect; one that an earlier kernel may have begun is looked for first.
pub fn perform<R: Runtime>(
    tools: Arc<Tools<R>>,
    state: &State,
    key: &str,
    begun_before: bool,
) -> Work {
    let Some(effect) = state.effects.get(key).cloned() else {
        return Box::pin(async { Ok(Outcome::default()) });
    };
    let issue = match &effect.kind {
        EffectKind::MoveBranch { issue, .. } => Some(*issue),
        EffectKind::AdvanceTarget { pr, .. } => state.prs.get(pr).map(|pr| pr.issue),
    };
    let pr = match &effect.kind {
        EffectKind::AdvanceTarget { pr, .. } => state.prs.get(pr).cloned(),
        EffectKind::MoveBranch { .. } => None,
    };
    let target = state.meta.target.clone();
    let tests = state.config.config.tests_of_target();
    Box::pin(async move {
        let result = tools
            .git(move |repos| match effect.kind {
                EffectKind::MoveBranch {
                    issue,
                    branch,
                    old,
                    new,
                } => {
                    let measure = Measure {
                        target: &target,
                        tests: &tests,
                        issue,
                    };
                    move_branch(repos, &branch, old.as_ref(), &new, &measure)
                }
                EffectKind::AdvanceTarget {
                    branch,
                    old,
                    new,
                    worktree,
                    ..
                } => {
                    let moving = Moving {
                        branch: &branch,
                        old: &old,
                        new: &new,
                        worktree: worktree.map(PathBuf::from),
                        begun_before,
                        pr,
                    };
                    let result = moving.advance(repos)?;
                    // The work is over: no round goes on in a session of its runs.
                    if let (EffectResult::Done, Some(issue)) = (&result, issue) {
                        around(Kernel, "drop-checkpoints", || {
                            repos.door.drop_checkpoints(issue)
                        })?;
                    }
                    Ok(result)
                }
            })
            .await?;
        Ok(Event::EffectDone {
            key: effect.key,
            result,
        }
        .into())
    })
}

fn text(path: PathBuf) -> String {
    path.to_string_lossy().into_owned()
}

/// A move of the target, as it was recorded.
struct Moving<'a> {
    branch: &'a str,
    old: &'a Oid,
    new: &'a Oid,
    worktree: Option<PathBuf>,
    begun_before: bool,
    pr: Option<Pr>,
}

impl Moving<'_> {
    fn advance(self, repos: &Repos) -> Result<EffectResult, Failure> {
        let (user, door) = (&repos.user, &repos.door);
        let (branch, old, new) = (self.branch, self.old, self.new);
        if self.begun_before {
            let worktree = self.worktree.as_deref();
            let recovered = around(Kernel, "recover-merge", || {
                recover_advance(user, door, branch, old, new, worktree)
            });
            return Ok(advanced(recovered?));
        }
        // Somebody worked on the branch while its merge was tested: that is merged again.
        if let Some(pr) = &self.pr
            && user.tip(&pr.branch)?.is_some_and(|tip| tip != pr.head)
        {
            return Ok(EffectResult::TargetMoved);
        }
        match prepare_advance(user, door, branch, old, new)? {
            Prepared::Settled(outcome) => return Ok(advanced(outcome)),
            Prepared::Ready { worktree: now } if now != self.worktree => {
                let worktree = now.map(text);
                return Ok(EffectResult::WorktreeChanged { worktree });
            }
            Prepared::Ready { .. } => {}
        }
        let moved = around(Kernel, "merge", || {
            advance_target(user, door, branch, old, new)
        });
        Ok(advanced(moved?))
    }
}

/// How the work of an issue is measured.
struct Measure<'a> {
    target: &'a str,
    tests: &'a Globs,
    issue: IssueNo,
}

impl Measure<'_> {
    /// What a commit changes of the target as it is now.
    fn of(&self, repos: &Repos, commit: &Oid) -> Result<Change, Failure> {
        let tip = repos.base.fetch_target(&repos.user, self.target)?;
        let name = format!("base-tests-{}", self.issue);
        Ok(around(Kernel, "measure", || {
            change::measure(&repos.door, &tip, commit, self.tests, &name)
        })?)
    }
}

fn move_branch(
    repos: &Repos,
    branch: &str,
    old: Option<&Oid>,
    new: &Oid,
    measure: &Measure<'_>,
) -> Result<EffectResult, Failure> {
    Ok(
        match around(Kernel, "move-branch", || {
            repos.user.move_branch(branch, old, new, &repos.door)
        })? {
            Move::Moved | Move::AlreadyThere => EffectResult::Moved {
                change: measure.of(repos, new)?,
            },
            Move::Diverged { found: Some(_) } => {
                // It is gone on from, wherever it is by now.
                let found = repos.door.fetch_branch(&repos.user, branch)?;
                let change = measure.of(repos, &found)?;
                EffectResult::BranchTaken {
                    found: Some((found, change)),
                }
            }
            Move::Diverged { found: None } => EffectResult::BranchTaken { found: None },
            Move::CheckedOut { worktree } => EffectResult::BranchCheckedOut {
                worktree: text(worktree),
            },
        },
    )
}

fn advanced(outcome: Advance) -> EffectResult {
    match outcome {
        Advance::Advanced | Advance::AlreadyThere => EffectResult::Done,
        Advance::TargetMoved { .. } => EffectResult::TargetMoved,
        refused @ Advance::Refused { .. } => EffectResult::TargetRefused { why: why(&refused) },
    }
}

fn why(refused: &Advance) -> String {
    match refused {
        Advance::Refused {
            worktree,
            obstacle,
            paths,
        } if paths.is_empty() => {
            format!("{obstacle} in {}", worktree.display())
        }
        Advance::Refused {
            worktree,
            obstacle,
            paths,
        } => {
            format!("{obstacle} in {}: {}", worktree.display(), paths.join(", "))
        }
        Advance::Advanced | Advance::AlreadyThere | Advance::TargetMoved { .. } => String::new(),
    }
}

/// Merges a pull request with the target in `door.git`, and looks whether the target could take it.
pub fn merge<R: Runtime>(tools: Arc<Tools<R>>, state: &State, number: PrNo) -> Work {
    let Some(pr) = state.prs.get(&number).cloned() else {
        return Box::pin(async { Ok(Outcome::default()) });
    };
    let branch = state.meta.target.clone();
    let in_force = state.config.clone();
    let follow_target = tools.follow_target;
    Box::pin(async move {
        let made = tools.git(move |repos| make(repos, &branch, &pr, &in_force, follow_target));
        made.await
    })
}

fn make(
    repos: &Repos,
    branch: &str,
    pr: &Pr,
    in_force: &ConfigInForce,
    follow_target: bool,
) -> Result<Outcome, Failure> {
    loop {
        let target = around(Kernel, "fetch-target", || {
            repos.base.fetch_target(&repos.user, branch)
        })?;
        // The very target that is merged with says what is protected, and what is checked.
        let looked = match follow_target {
            true => Looked::at(&repos.user, &target, in_force)?,
            false => Looked::Same,
        };
        let result = match &looked {
            // Once it is in force, the next plan merges again.
            Looked::Another(_) => return Ok(looked.into()),
            Looked::Wrong(failure) => Some(blocked(failure)),
            Looked::Same => merge_with(repos, branch, pr, &in_force.config, &target)?,
        };
        // The target moved in this very moment.
        let Some(result) = result else { continue };
        let event = Event::MergeMade {
            pr: pr.number,
            target,
            result,
        };
        return Ok(Outcome {
            events: vec![event],
            ..match follow_target {
                true => looked.into(),
                false => Outcome::default(),
            }
        });
    }
}

/// What a person mends at the target before anything is merged.
fn blocked(wrong: &Failure) -> MergeResult {
    MergeResult::Blocked { why: told(wrong) }
}

fn told(wrong: &Failure) -> String {
    let next = wrong.next_step().unwrap_or_default();
    format!("{}: {next}", wrong.chain())
}

/// What merging with this commit of the target comes to; none where the target has left it.
fn merge_with(
    repos: &Repos,
    branch: &str,
    pr: &Pr,
    config: &Config,
    target: &Oid,
) -> Result<Option<MergeResult>, Failure> {
    let PrState::Queued { at, .. } = &pr.state else {
        return Ok(Some(MergeResult::AlreadyMerged));
    };
    // A person's commits on the branch are not left out without a word.
    let tests = config.tests_of_target();
    let measure = Measure {
        target: branch,
        tests: &tests,
        issue: pr.issue,
    };
    if repos
        .user
        .tip(&pr.branch)?
        .is_some_and(|tip| tip != pr.head)
    {
        let found = repos.door.fetch_branch(&repos.user, &pr.branch)?;
        let change = measure.of(repos, &found)?;
        return Ok(Some(MergeResult::BranchMoved { found, change }));
    }
    let identity = repos.user.identity()?;
    let author = Author {
        name: identity.name.unwrap_or_else(|| "factory".to_owned()),
        email: identity
            .email
            .unwrap_or_else(|| "factory@localhost".to_owned()),
    };
    let message = format!(
        "Merge pull request {} from {}\n\n{}\n\nResolves issue {}.\n",
        pr.number,
        text::one_line(&pr.branch),
        text::one_line(&pr.title),
        pr.issue
    );
    let made = around(Kernel, "make-merge", || {
        make_merge(&repos.door, target, &pr.head, &message, &author, *at)
    })?;
    let result = match made {
        MergeOutcome::AlreadyMerged => MergeResult::AlreadyMerged,
        MergeOutcome::Conflict { paths } => MergeResult::Conflict { paths },
        MergeOutcome::Merged { commit, tree } => {
            around(Kernel, "keep-merge", || {
                repos.door.keep(&format!("merge-{}", pr.number), &commit)
            })?;
            let protected = match judge(repos, pr, config, target, &commit)? {
                Ok(protected) => protected,
                Err(result) => return Ok(Some(result)),
            };
            match prepare_advance(&repos.user, &repos.door, branch, target, &commit)? {
                Prepared::Ready { worktree } => MergeResult::Clean {
                    protected,
                    change: around(Kernel, "measure", || {
                        // What is kept for the head stays: the merge has its own checks.
                        change::measure(&repos.door, target, &commit, &Globs::default(), "")
                    })?,
                    tree_is_heads: tree_of(&repos.door, &pr.head)? == tree,
                    merge: commit,
                    worktree: worktree.map(text),
                },
                Prepared::Settled(refused @ Advance::Refused { .. }) => {
                    MergeResult::Blocked { why: why(&refused) }
                }
                Prepared::Settled(_) => return Ok(None),
            }
        }
    };
    Ok(Some(result))
}

/// Judges a merge by the rules of the target as it is now: what was forbidden while the run
/// worked holds too. Gives the changed paths that only a person may merge, or what keeps
/// the merge away.
fn judge(
    repos: &Repos,
    pr: &Pr,
    config: &Config,
    target: &Oid,
    merge: &Oid,
) -> Result<Result<ToldPaths, MergeResult>, Failure> {
    let read = match rules::read(&repos.user, target, config) {
        Err(wrong) if wrong.class() == Class::Config => {
            return Ok(Err(blocked(&wrong)));
        }
        read => read?,
    };
    let judged = match rules::judge(&repos.door, &read, &config.protected, target, merge)? {
        Ok(judged) => judged,
        Err(why) => return Ok(Err(MergeResult::Blocked { why })),
    };
    let findings = match judged.findings.is_empty() {
        true => match stops_all(repos, config, target, merge)? {
            None => return Ok(Ok(judged.protected)),
            Some(why) => why,
        },
        false => judged.findings.to_string(),
    };
    let author = author_of(&repos.door, &pr.head)?;
    Ok(Err(MergeResult::Forbidden {
        findings,
        person: (author.email != AGENT_EMAIL).then_some(author.name),
    }))
}

/// Why nothing could begin once this is merged: its rules, its agents or its intent layer cannot
/// be read.
fn stops_all(
    repos: &Repos,
    config: &Config,
    target: &Oid,
    merge: &Oid,
) -> Result<Option<String>, Failure> {
    // Where one cannot be read already, that is not this merge's doing.
    let unless_wrong = |before: Result<(), Failure>| match before {
        Err(wrong) if wrong.class() == Class::Config => Ok(false),
        read => read.map(|()| true),
    };
    let rules = rules::read(&repos.door, merge, config);
    let read = rules.and_then(|_| {
        if unless_wrong(rules::intent_layer(&repos.user, target).map(drop))? {
            rules::intent_layer(&repos.door, merge)?;
        }
        if unless_wrong(rules::agents(&repos.user, target).map(drop))? {
            rules::agents(&repos.door, merge)?;
        }
        Ok(())
    });
    match read {
        Ok(()) => Ok(None),
        Err(wrong) if wrong.class() == Class::Config => Ok(Some(format!(
            "once it is merged, nothing could begin: {}",
            told(&wrong)
        ))),
        Err(failure) => Err(failure),
    }
}
