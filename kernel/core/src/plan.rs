//! `plan`: what to do now, derived from the state and from what is observed.
//!
//! The crash path and the normal path are one path: whatever was done or not
//! done before, the next plan names what is still missing.

use crate::{
    budget::midnight_after,
    config::{Amounts, Gate},
    event::{Command, Event, Now},
    ids::{IssueNo, PrNo, RunId},
    model::{
        ContainerExit, Ending, IssueState, Job, Pr, PrState, Purpose, Run, RunState, Seconds, Stage,
    },
    schedule,
    state::State,
};
use std::collections::BTreeMap;

/// What the shell sees.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// Every container that carries this factory's label.
    pub containers: BTreeMap<RunId, Seen>,
    /// The container engine's memory and processors.
    pub engine: Amounts,
    /// Slots asked for on the command line, which win.
    pub slots: Option<u32>,
    /// No new work is begun.
    pub draining: bool,
    /// What runs is ended as well.
    pub stopping: bool,
    /// Only pull requests whose merge gate is open are settled; no other work is begun.
    pub merges_only: bool,
}

/// How a container is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Created, never started.
    Created,
    /// Running.
    Running,
    /// Ended.
    Exited(ContainerExit),
}

/// What to do. Each is idempotent, and named so that none is begun twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Journal this event.
    Journal(Event),
    /// Look up what a run needs and journal its grant.
    Grant {
        /// The job.
        job: IssueNo,
        /// What for.
        purpose: Purpose,
        /// The slot.
        slot: u32,
    },
    /// Bring a run in `starting` to `running`, from whatever exists of it.
    Spawn(RunId),
    /// Wait for the end of a running container.
    Await(RunId),
    /// End a running container with grace, since the factory stops.
    Stop(RunId),
    /// Read the inbox to its end, then journal the container's end.
    Conclude(RunId, Option<ContainerExit>),
    /// End a container whose job no longer wants it.
    Kill(RunId),
    /// Remove container, workspace and socket of an ended run, then journal it.
    Collect(RunId),
    /// Remove a container that no live run owns.
    RemoveStray(RunId),
    /// Perform a recorded effect.
    Perform(String),
    /// Merge a pull request with the target in our own repository.
    Merge(PrNo),
    /// Try the merge of a job's work with every open pull request.
    Compare(IssueNo),
}

impl State {
    /// True when no work is left that no human gate holds.
    pub fn is_idle(&self) -> bool {
        let waits = |job: &Job| match job.stage() {
            Stage::SplitReady | Stage::PlanReady | Stage::Proposed | Stage::NeedsHuman => true,
            // Its issues' own jobs say whether they go on.
            Stage::Children => true,
            // Held back, or for an issue that waits itself.
            due if due.is_due() => !self.queue.holds(job.issue) || self.is_out_of_money(job),
            _ => false,
        };
        if self.meta.frozen.is_some() {
            return self.runs.is_empty() && self.effects.is_empty();
        }
        self.runs.is_empty()
            && self.effects.is_empty()
            && self.jobs.values().all(waits)
            // One that is worked on again is as idle as its job.
            && self.prs.values().all(|pr| {
                matches!(pr.state, PrState::Ready | PrState::Reworking) || self.is_held(pr)
            })
    }

    /// True while a pull request is on its way from the merge gate to the target.
    pub fn is_merging(&self) -> bool {
        let mut prs = self.prs.values();
        prs.any(|pr| pr.state.is_merging() && !self.is_held(pr))
    }

    /// True where a person holds a pull request back that waits for its turn to be merged.
    /// One that is being tested goes on: others wait behind it.
    fn is_held(&self, pr: &Pr) -> bool {
        let job = self.jobs.get(&pr.issue);
        let held = job.is_some_and(|job| job.held_by.is_some());
        held && matches!(pr.state, PrState::Queued { .. })
    }

    /// When a waiting job may go on, if any waits for a time to come.
    pub fn wakes_at(&self, now: Now) -> Option<Seconds> {
        let merging = self.prs.values().filter(|pr| pr.state.is_merging());
        let merging = merging.filter_map(|pr| self.jobs.get(&pr.issue)?.rests_until(now));
        let is_full = self.day_is_used_up(now) || self.proposals_left(now) == Some(0);
        let waits_for_day = is_full || self.drafts_wait(now);
        let tomorrow = waits_for_day.then(|| midnight_after(now.0));
        let breakers = self.meta.breakers.values();
        let tries = breakers.filter(|breaker| breaker.is_open(now.0));
        let tries = tries.filter_map(|breaker| breaker.tries_at);
        let waits = merging.chain(self.queue.wakes_at(now)).chain(tomorrow);
        let waits = waits.chain(tries);
        waits.min()
    }

    /// Issues that a person must look at.
    pub fn needing_human(&self) -> impl Iterator<Item = IssueNo> {
        self.jobs
            .values()
            .filter(|job| {
                *job.stage() == Stage::NeedsHuman
                    || self.lost_dependency(job).is_some()
                    || self.is_out_of_money(job)
            })
            .map(|job| job.issue)
    }

    /// An issue that had to be done before a job's next run, and was given up.
    pub fn lost_dependency(&self, job: &Job) -> Option<IssueNo> {
        let waits = job.stage().is_due();
        let depends_on = &self.issues.get(&job.issue).filter(|_| waits)?.depends_on;
        let is_lost = |on: &&IssueNo| !self.issues.contains_key(on);
        depends_on.iter().find(is_lost).copied()
    }
}

/// Derives what to do. The order is the order in which to begin.
pub fn plan(state: &State, observed: &Observed, now: Now) -> Vec<Action> {
    // Nothing else before: should this kernel die, the next one is told, and whoever
    // concludes a run knows that the factory ended it.
    let ordered = state.meta.ending;
    let how = match (observed.draining, observed.stopping) {
        (_, true) => Some(Ending::AtOnce),
        (true, false) => Some(Ending::Drain),
        (false, false) => None,
    };
    if let Some(how) = how
        && (ordered.is_none()
            || how == Ending::AtOnce
                && (ordered != Some(how) || state.runs.values().any(Run::lacks_stop_order)))
    {
        return vec![Action::Journal(Event::EndOrdered { how })];
    }
    let mut actions = Vec::new();
    runs(state, observed, &mut actions);
    actions.extend(state.effects.keys().map(|key| Action::Perform(key.clone())));
    if state.meta.frozen.is_some() {
        return actions;
    }
    merges(state, &mut actions);
    let opening = |job: &&Job| matches!(job.stage(), Stage::Opening { .. });
    let opening = state.jobs.values().filter(opening);
    actions.extend(opening.map(|job| Action::Compare(job.issue)));
    if !observed.draining {
        if !observed.merges_only {
            gates(state, &mut actions);
            if state.drafts_are_due(now) {
                actions.push(Action::Journal(Event::DraftsDue));
            }
        }
        let starts = schedule::decide(state, observed, now);
        actions.extend(starts.into_iter().map(|start| Action::Grant {
            job: start.job,
            purpose: start.purpose,
            slot: start.slot,
        }));
    }
    actions
}

fn runs(state: &State, observed: &Observed, actions: &mut Vec<Action>) {
    let stopping = observed.stopping || state.meta.frozen.is_some();
    for run in state.runs.values() {
        let seen = observed.containers.get(&run.id).copied();
        match (&run.state, seen) {
            (RunState::Starting | RunState::Running { .. }, _)
                if !is_wanted(state, run.id, &run.purpose) =>
            {
                match seen {
                    Some(Seen::Running) => {
                        actions.push(Action::Kill(run.id));
                        actions.push(Action::Await(run.id));
                    }
                    Some(Seen::Exited(exit)) => actions.push(Action::Conclude(run.id, Some(exit))),
                    Some(Seen::Created) | None => actions.push(Action::Conclude(run.id, None)),
                }
            }
            // Nothing of it is begun any more: it never ran, and another one is granted.
            (RunState::Starting, None | Some(Seen::Created)) if stopping || run.outdated => {
                actions.push(Action::Conclude(run.id, None));
            }
            (RunState::Starting, None | Some(Seen::Created)) => actions.push(Action::Spawn(run.id)),
            (RunState::Starting, Some(Seen::Running)) => {
                actions.push(Action::Journal(Event::RunRunning { run: run.id }));
                actions.push(Action::Await(run.id));
            }
            (RunState::Running { .. }, Some(Seen::Running)) => {
                actions.push(Action::Await(run.id));
                if stopping || run.over_budget || run.outdated {
                    actions.push(Action::Stop(run.id));
                }
            }
            (RunState::Starting | RunState::Running { .. }, Some(Seen::Exited(exit))) => {
                actions.push(Action::Conclude(run.id, Some(exit)));
            }
            // A container that was started and is not there any more is never made again.
            (RunState::Running { .. }, None | Some(Seen::Created)) => {
                actions.push(Action::Conclude(run.id, None))
            }
            (RunState::Ended { .. }, _) => actions.push(Action::Collect(run.id)),
        }
    }
    let strays = observed
        .containers
        .keys()
        .filter(|id| !state.runs.contains_key(id));
    actions.extend(strays.map(|id| Action::RemoveStray(*id)));
}

/// True while the run's job waits for it.
fn is_wanted(state: &State, id: RunId, purpose: &Purpose) -> bool {
    let Some(job) = state.jobs.get(&id.job) else {
        return false;
    };
    match purpose {
        Purpose::MergeTest { pr } => {
            let pr = state.prs.get(pr);
            let tests = |pr: &Pr| matches!(&pr.state, PrState::Testing { run: Some(run), .. } if *run == id);
            *job.stage() == Stage::Proposed && pr.is_some_and(tests)
        }
        Purpose::Split
        | Purpose::Plan
        | Purpose::Code
        | Purpose::Check
        | Purpose::Review
        | Purpose::Verify => {
            job.stage().run() == Some(id) && job.stage().purpose().as_ref() == Some(purpose)
        }
    }
}

/// Merging is a queue, one pull request at a time: first the one that conflicts with the
/// fewest other open ones, since each of those is worked on again; then the one approved first.
fn merges(state: &State, actions: &mut Vec<Action>) {
    let busy = state.prs.values().any(|pr| {
        matches!(
            pr.state,
            PrState::Testing { .. } | PrState::Advancing { .. }
        )
    });
    if busy {
        return;
    }
    let next = state
        .prs
        .values()
        .filter_map(|pr| match &pr.state {
            PrState::Queued { at, .. } if !state.is_held(pr) => {
                Some((in_conflict(state, pr), *at, pr.number))
            }
            _ => None,
        })
        .min();
    actions.extend(next.map(|(_, _, pr)| Action::Merge(pr)));
}

/// With how many other open pull requests one conflicts, whichever of the two was tried with
/// the other.
fn in_conflict(state: &State, pr: &Pr) -> usize {
    let names = |one: &Pr, other: PrNo| one.conflicts.iter().any(|found| found.pr == other);
    let others = state.prs.values().filter(|other| {
        let is_over = matches!(other.state, PrState::Merged { .. } | PrState::Closed { .. });
        other.number != pr.number && !is_over
    });
    others
        .filter(|other| names(pr, other.number) || names(other, pr.number))
        .count()
}

/// Gates that `factory.yaml` opens by itself.
fn gates(state: &State, actions: &mut Vec<Action>) {
    let config = &state.config.config;
    let open = |command| {
        Action::Journal(Event::Command {
            by: crate::config::FILE.to_owned(),
            command,
        })
    };
    if config.gates.issues == Gate::Auto {
        let proposed = state
            .issues
            .values()
            .filter(|i| i.state == IssueState::Proposed && state.approves_by_itself(i));
        actions.extend(proposed.map(|issue| open(Command::Approve(issue.number))));
    }
    // No checks means no evidence: then a person decides.
    if config.gates.merge == Gate::Auto && !config.checks.is_empty() {
        let ready = state.prs.values().filter(|pr| {
            pr.state == PrState::Ready
                && pr.note.is_none()
                && pr.checked.as_ref().is_some_and(|c| c.commit == pr.head)
        });
        actions.extend(ready.map(|pr| open(Command::MergePr(pr.number))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ids::Oid, model::Conflict};

    fn pr(number: u64, state: PrState, conflicts: &[u64]) -> Pr {
        let conflict = |pr: &u64| Conflict {
            pr: PrNo(*pr),
            files: "a.txt".to_owned(),
        };
        Pr {
            number: PrNo(number),
            issue: IssueNo(number),
            title: "Work".to_owned(),
            branch: format!("factory/{number}-work"),
            head: Oid::zero(),
            state,
            checked: None,
            review: None,
            merges_as_it_is: false,
            evidence: Vec::new(),
            labels: Vec::new(),
            conflicts: conflicts.iter().map(conflict).collect(),
            created: 0,
            note: None,
            body: String::new(),
        }
    }

    fn queued(at: i64) -> PrState {
        PrState::Queued {
            by: "Ann".to_owned(),
            at,
        }
    }

    fn next(prs: Vec<Pr>) -> Vec<Action> {
        let mut state = State::new("repo".to_owned(), "main".to_owned());
        state.prs = prs.into_iter().map(|pr| (pr.number, pr)).collect();
        let mut actions = Vec::new();
        merges(&state, &mut actions);
        actions
    }

    fn merged() -> PrState {
        PrState::Merged {
            by: "Ann".to_owned(),
            at: 1,
            merge: Oid::zero(),
        }
    }

    #[test]
    fn what_conflicts_with_the_fewest_is_merged_first() {
        // The first conflicts with two, each of these with it alone, the last with nothing.
        let all = vec![
            pr(1, queued(1), &[]),
            pr(2, queued(2), &[1]),
            pr(3, queued(3), &[1]),
            pr(4, queued(4), &[]),
        ];
        assert_eq!(next(all.clone()), [Action::Merge(PrNo(4))]);
        assert_eq!(next(all[..3].to_vec()), [Action::Merge(PrNo(2))]);
        // Both sides may name it: it is one conflict.
        let both = vec![pr(1, queued(1), &[2]), pr(2, queued(2), &[1])];
        assert_eq!(next(both), [Action::Merge(PrNo(1))]);
    }

    #[test]
    fn only_open_pull_requests_count_and_then_who_was_approved_first() {
        let over = vec![
            pr(1, merged(), &[3]),
            pr(2, queued(2), &[9]),
            pr(3, queued(1), &[1, 9]),
        ];
        assert_eq!(next(over), [Action::Merge(PrNo(3))]);
        // One that is worked on again is open.
        let open = vec![
            pr(1, PrState::Reworking, &[3]),
            pr(2, queued(2), &[]),
            pr(3, queued(1), &[]),
        ];
        assert_eq!(next(open), [Action::Merge(PrNo(2))]);
        let equal = vec![pr(1, queued(7), &[]), pr(2, queued(7), &[])];
        assert_eq!(next(equal), [Action::Merge(PrNo(1))]);
        assert_eq!(next(vec![pr(1, PrState::Ready, &[])]), []);
    }
}
