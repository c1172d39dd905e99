//! Where every issue stands, and the one reason why its work does not begin yet.

use super::{Full, InLine, Room};
use crate::{
    config::Gate,
    event::Now,
    ids::{IssueNo, PrNo, RunId},
    model::{Issue, IssueState, Job, PrState, REJECTED, Seconds, Stage},
    plan::Observed,
    state::State,
};
use std::{collections::BTreeMap, fmt};

/// Where an issue stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// A run of it begins now.
    Starts {
        /// In this slot.
        slot: u32,
    },
    /// A run of it lives.
    Runs {
        /// The run.
        run: RunId,
    },
    /// Its branch is being moved, or its pull request is being merged.
    UnderWay,
    /// Nothing of it begins yet.
    Waits(Wait),
}

/// Why nothing of an issue begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wait {
    /// There is no room.
    Room {
        /// What is lacking.
        full: Full,
        /// Its place in line, from 1.
        place: usize,
    },
    /// A person has not approved it.
    Approval,
    /// A person cancelled the job or rejected what it built; only a person approves it again.
    Rejected,
    /// Its gate opens by itself, as soon as a factory runs.
    Opens,
    /// Its pull request is at the merge gate.
    Merge {
        /// The pull request.
        pr: PrNo,
    },
    /// Its plan waits for a person.
    Plan,
    /// The issues that it became wait for a person.
    Split,
    /// The issues that it became are not done yet.
    Children {
        /// How many are open.
        open: usize,
    },
    /// A person must look at it.
    Human,
    /// A person holds it back.
    Held {
        /// Who.
        by: String,
    },
    /// Another issue must be done first.
    DependsOn {
        /// That issue.
        on: IssueNo,
    },
    /// An issue that must be done first was given up.
    GivenUp {
        /// That issue.
        on: IssueNo,
    },
    /// One that is under way, or begins now, touches the same.
    Touches {
        /// That issue.
        on: IssueNo,
        /// The path; empty for the whole repository.
        path: String,
    },
    /// It pauses after a run that did not come to its own end.
    Rests {
        /// Until when.
        until: Seconds,
        /// Which try comes then.
        attempt: u32,
    },
    /// No new work is begun: the factory was told to end.
    Draining,
    /// All agents were stopped.
    Frozen {
        /// Who did it.
        by: String,
    },
}

/// Where every open issue stands, by number.
pub fn explain(state: &State, observed: &Observed, now: Now) -> BTreeMap<IssueNo, Standing> {
    let mut standings: BTreeMap<IssueNo, Standing> = state
        .issues
        .values()
        .map(|issue| {
            let job = state.jobs.get(&issue.number);
            (issue.number, outside_the_line(state, issue, job, now))
        })
        .collect();
    let mut room = Room::of(state, observed, now);
    let mut full: Option<Full> = None;
    let mut no_more_fresh = false;
    let mut place = 0;
    for (job, purpose) in InLine::of(state, observed, now) {
        let issue = job.issue;
        if let Some(wait) = begins_nothing(state, observed) {
            standings.insert(issue, Standing::Waits(wait));
            continue;
        }
        let taken = match full {
            Some(full) => Err(full),
            // As where it is decided: these are left out, and hold up nobody.
            None if no_more_fresh && !job.is_under_way() && !job.is_looked_at() => {
                Err(Full::Proposals)
            }
            None => room.take(state, job, &purpose),
        };
        no_more_fresh |= taken == Err(Full::Proposals);
        let standing = match taken {
            Ok(slot) => Standing::Starts { slot },
            Err(Full::Touches { on }) => Standing::Waits(overlap(state, issue, on)),
            Err(why) => {
                full = Some(why).filter(|why| !why.is_its_own());
                place += 1;
                Standing::Waits(Wait::Room { full: why, place })
            }
        };
        standings.insert(issue, standing);
    }
    standings
}

fn overlap(state: &State, issue: IssueNo, on: IssueNo) -> Wait {
    let path = state.queue.common(issue, on).unwrap_or_default();
    let path = path.to_owned();
    Wait::Touches { on, path }
}

/// Why no run of any job begins.
fn begins_nothing(state: &State, observed: &Observed) -> Option<Wait> {
    frozen(state).or(observed.draining.then_some(Wait::Draining))
}

fn frozen(state: &State) -> Option<Wait> {
    let by = state.meta.frozen.as_ref()?.by.clone();
    Some(Wait::Frozen { by })
}

/// Where an issue stands that is not in line for room.
fn outside_the_line(state: &State, issue: &Issue, job: Option<&Job>, now: Now) -> Standing {
    let Some(job) = job else {
        return Standing::Waits(match issue.state {
            IssueState::Proposed if issue.has_label(REJECTED) => Wait::Rejected,
            IssueState::Proposed if state.approves_by_itself(issue) => {
                frozen(state).unwrap_or(Wait::Opens)
            }
            _ => Wait::Approval,
        });
    };
    let run_of_pr = job.pr.and_then(|pr| match state.prs.get(&pr)?.state {
        PrState::Testing { run, .. } => run,
        _ => None,
    });
    if let Some(run) = job.stage().run() {
        return Standing::Runs { run };
    }
    match (job.stage(), job.pr) {
        (Stage::Publishing { .. } | Stage::Opening { .. }, _) => Standing::UnderWay,
        (Stage::NeedsHuman, _) => Standing::Waits(Wait::Human),
        (Stage::PlanReady, _) => Standing::Waits(Wait::Plan),
        (Stage::SplitReady, _) => Standing::Waits(Wait::Split),
        (Stage::Children, _) => Standing::Waits(Wait::Children {
            open: state.open_children(issue),
        }),
        (Stage::Proposed, Some(pr)) if is_ready(state, pr) => Standing::Waits(Wait::Merge { pr }),
        (Stage::Proposed, pr) => match run_of_pr {
            Some(run) => Standing::Runs { run },
            None => match blocked(state, issue, job, now) {
                // No merge is begun meanwhile.
                Standing::UnderWay if pr.is_some_and(|pr| is_queued(state, pr)) => {
                    frozen(state).map_or(Standing::UnderWay, Standing::Waits)
                }
                standing => standing,
            },
        },
        (
            Stage::SplitDue
            | Stage::PlanDue
            | Stage::Queued
            | Stage::CheckDue { .. }
            | Stage::ReviewDue { .. }
            | Stage::VerifyDue
            // These have a run.
            | Stage::Splitting { .. }
            | Stage::Planning { .. }
            | Stage::Coding { .. }
            | Stage::Checking { .. }
            | Stage::Reviewing { .. }
            | Stage::Verifying { .. },
            _,
        ) => blocked(state, issue, job, now),
    }
}

/// True while the pull request waits for somebody to open its gate.
fn is_ready(state: &State, pr: PrNo) -> bool {
    state
        .prs
        .get(&pr)
        .is_some_and(|pr| pr.state == PrState::Ready)
}

/// True where the pull request's merge is ordered and not begun.
fn is_queued(state: &State, pr: PrNo) -> bool {
    let pr = state.prs.get(&pr);
    pr.is_some_and(|pr| matches!(pr.state, PrState::Queued { .. }))
}

fn blocked(state: &State, issue: &Issue, job: &Job, now: Now) -> Standing {
    // A merge that is made goes on.
    let pr = job.pr.and_then(|pr| state.prs.get(&pr));
    let is_made = pr.is_some_and(|pr| matches!(pr.state, PrState::Testing { .. }));
    if let Some(by) = job.held_by.as_ref().filter(|_| !is_made) {
        return Standing::Waits(Wait::Held { by: by.clone() });
    }
    if let Some(on) = state.lost_dependency(job) {
        return Standing::Waits(Wait::GivenUp { on });
    }
    if *job.stage() != Stage::Proposed
        && let Some(on) = issue.depends_on.first().copied()
    {
        return Standing::Waits(Wait::DependsOn { on });
    }
    if let Some((on, _)) = state.queue.bar(job.issue) {
        return Standing::Waits(overlap(state, job.issue, on));
    }
    match job.rests_until(now) {
        Some(until) => Standing::Waits(Wait::Rests {
            until,
            attempt: job.breaks + 1,
        }),
        None => Standing::UnderWay,
    }
}

impl State {
    /// How many of the issues that an instruction became are open.
    pub fn open_children(&self, issue: &Issue) -> usize {
        let children = issue.instruction.iter().flat_map(|i| &i.children);
        children.filter(|n| self.issues.contains_key(n)).count()
    }

    /// True where the gate from issue to job opens by itself. What an agent filed needs a
    /// person: or else agents would give each other work without end.
    pub fn approves_by_itself(&self, issue: &Issue) -> bool {
        let may_be = issue.run.is_none() && !issue.has_label(REJECTED);
        may_be && self.config.config.gates.issues == Gate::Auto
    }
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Full::Slots { slots } => write!(f, "waits for a slot: {slots}/{slots} used"),
            Full::Quota { agent, max } => write!(f, "waits for a {agent} slot: {max}/{max} used"),
            Full::Kept { free } => {
                write!(f, "waits for a slot: {free} free, kept for other types of agents")
            }
            Full::Memory { missing } => write!(f, "waits for {missing} of memory"),
            Full::Cpus { missing } => write!(f, "waits for {missing} of a processor core"),
            Full::Starts { limit } => write!(f, "waits for others to start: {limit} at a time"),
            Full::Day => f.write_str("day budget used up until 00:00 UTC"),
            Full::Promised => f.write_str("waits for what live runs leave of the day's budget"),
            Full::Job => f.write_str("its job's budget is used up"),
            Full::Touches { on } => write!(f, "waits for #{on}, which touches the same"),
            Full::Proposals => f.write_str(
                "the pull requests of the day (types.worker.per_day.pull_requests) are opened or under way",
            ),
            Full::Paused => {
                f.write_str("paused after failures in a row (`factory status` says which)")
            }
            Full::Trying => {
                f.write_str("waits until one run has tried again after failures in a row")
            }
        }
    }
}

/// `3rd`.
fn ordinal(n: usize) -> String {
    let ending = match (n % 100, n % 10) {
        (11..=13, _) => "th",
        (_, 1) => "st",
        (_, 2) => "nd",
        (_, 3) => "rd",
        _ => "th",
    };
    format!("{n}{ending}")
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wait::Room {
                full: Full::Job, ..
            } => f.write_str("its job's budget is used up: raise budget.per_job in factory.yaml, or approve it again"),
            Wait::Room { full, .. } if full.is_its_own() => full.fmt(f),
            Wait::Room { full, place } => write!(f, "{full}, {} in line", ordinal(*place)),
            Wait::Approval => f.write_str("waits for your approval"),
            Wait::Rejected => f.write_str("was cancelled or rejected; waits for your approval"),
            Wait::Opens => f.write_str("is approved by itself, once the factory runs"),
            Wait::Draining => f.write_str("waits for the next `factory start`: this one ends"),
            Wait::Frozen { by } => {
                write!(f, "waits for `factory resume`: {by} stopped all agents")
            }
            Wait::Merge { pr } => write!(f, "its pull request {pr} waits for you"),
            Wait::Plan => f.write_str("its plan waits for your approval"),
            Wait::Split => f.write_str("the issues that it became wait for your approval"),
            Wait::Children { open } => write!(f, "waits for its issues: {open} open"),
            Wait::Human => f.write_str("needs you to look at it"),
            Wait::Held { by } => write!(f, "held by {by}"),
            Wait::DependsOn { on } => write!(f, "waits until #{on} is done"),
            Wait::Touches { on, path } if path.is_empty() => {
                write!(f, "waits for #{on}: one of them touches the whole repository")
            }
            Wait::Touches { on, path } => write!(f, "waits for #{on}, which touches {path} too"),
            Wait::GivenUp { on } => {
                write!(f, "depends on #{on}, which was closed without being done")
            }
            Wait::Rests { attempt, .. } => write!(f, "rests before try {attempt}"),
        }
    }
}
