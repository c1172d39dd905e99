//! An account of what agents said, kept apart from the state, and what may follow from it.

use factory_core::{
    config::{self, Config},
    event::{Command, Event, MergeResult},
    grant::Role,
    ids::{IssueNo, Oid, RunId},
    inbox::{EngineExit, InboxEntry},
    model::{
        EffectKind, Evidence, Holds, Issue, IssueState, Job, Pr, PrState, Purpose, Run, Stage,
        StageKind,
    },
    quantity::Confidence,
    report::{self, ReviewVerdict},
    state::{Delta, Put, State},
};
use std::collections::{BTreeMap, BTreeSet};

/// What was said so far.
#[derive(Default)]
pub struct Account {
    /// What reviews handed in.
    reviews: BTreeMap<RunId, (ReviewVerdict, Confidence)>,
    /// Reviews that handed in something else last, or broke off.
    void: BTreeSet<RunId>,
    /// Checks whose exit code said that they passed.
    passed: BTreeSet<RunId>,
    /// The newest review of each commit that counted.
    of_commit: BTreeMap<Oid, (ReviewVerdict, Confidence)>,
    /// Commits whose checks passed.
    green: BTreeSet<Oid>,
    /// Merge commits with the tree of a head.
    same_tree: BTreeMap<Oid, Oid>,
    closed: BTreeSet<IssueNo>,
}

impl Account {
    /// Holds a step against the laws; `state` is the one before it.
    pub fn take(&mut self, state: &State, delta: &Delta, event: &Event) {
        self.heard(state, event);
        for put in delta.runs.values() {
            if let Put::Live(run) = put {
                self.ended(state, run);
            }
        }
        for put in delta.effects.values() {
            if let Put::Live(effect) = put
                && let EffectKind::AdvanceTarget { pr, new, .. } = &effect.kind
            {
                let pr = match delta.prs.get(pr) {
                    Some(Put::Live(pr)) => pr,
                    _ => &state.prs[pr],
                };
                self.may_merge(state, pr, new);
            }
        }
        if let Event::Command {
            command: Command::EditIssue { issue, .. },
            ..
        } = event
        {
            // Who reviewed it read the old text.
            for pr in state.prs.values().filter(|pr| pr.issue == *issue) {
                self.of_commit.remove(&pr.head);
            }
        }
        for (number, put) in &delta.jobs {
            if let Put::Live(job) = put {
                self.reviewed_where_anybody_reviews(state, *number, job, event);
            }
        }
        for (number, put) in &delta.issues {
            Self::keeps_what_is_merged(state, *number, put);
            if let Put::Archived(issue) = put {
                assert!(self.closed.insert(*number), "{number} was closed twice");
                told_at_its_end(state, delta, issue);
                self.seen_at_its_end(state, issue, event);
            }
        }
    }

    fn heard(&mut self, state: &State, event: &Event) {
        match event {
            Event::RunGranted { job, purpose, .. } => may_begin(state, *job, purpose),
            Event::ContainerEnded {
                run,
                exit: Some(exit),
            } if exit.code == 0 => {
                self.passed.insert(*run);
            }
            Event::MergeMade {
                pr,
                result:
                    MergeResult::Clean {
                        merge,
                        tree_is_heads: true,
                        ..
                    },
                ..
            } => {
                let head = state.prs[pr].head.clone();
                self.same_tree.insert(merge.clone(), head);
            }
            Event::Inbox { run, entries } => {
                for (_, entry) in entries {
                    self.said(*run, entry);
                }
            }
            _ => {}
        }
    }

    fn said(&mut self, run: RunId, entry: &InboxEntry) {
        match entry {
            InboxEntry::Report { json } => match report::outgoing_review(json) {
                Some(review) => {
                    let said = (review.verdict, review.confidence);
                    self.reviews.insert(run, said);
                }
                None => {
                    self.reviews.remove(&run);
                }
            },
            InboxEntry::End(end)
                if end.report_problem.is_some() || end.exit != EngineExit::Code(0) =>
            {
                self.void.insert(run);
            }
            _ => {}
        }
    }

    fn ended(&mut self, state: &State, run: &Run) {
        let was_open = state.runs.get(&run.id).is_some_and(Run::is_open);
        if !was_open || run.is_open() || !ended_well(run) {
            return;
        }
        let start = run.grant.start.clone();
        match run.grant.role {
            Role::Review => {
                let said = self.reviews.get(&run.id);
                let said = said.filter(|_| !self.void.contains(&run.id));
                let said = said.unwrap_or_else(|| panic!("{} said nothing", run.id));
                self.of_commit.insert(start, *said);
            }
            Role::Check if self.passed.contains(&run.id) => {
                self.green.insert(start);
            }
            _ => {}
        }
    }

    /// Work on an issue that says what must be true is over once somebody saw that it is, where
    /// anybody is asked to look, or where a person says so.
    fn seen_at_its_end(&self, state: &State, issue: &Issue, event: &Event) {
        let done = matches!(issue.state, IssueState::Closed { pr: Some(_), .. });
        let Some(job) = state.jobs.get(&issue.number).filter(|_| done) else {
            return;
        };
        let tier = job.route.as_ref().map(|route| route.tier);
        let reviewer = config_after(state, event).reviewer_of(tier.unwrap_or_default());
        if factory_core::route::points(issue) == 0 || reviewer.is_none() {
            return;
        }
        let approved = |commit: &Oid| {
            let said = self.of_commit.get(commit);
            said.is_some_and(|(verdict, _)| *verdict == ReviewVerdict::Approve)
        };
        let seen = match event {
            Event::ContainerEnded { run, .. } => {
                let run = &state.runs[run];
                run.purpose == Purpose::Verify
                    && run.id.job == issue.number
                    && run.grant.start == run.intent
                    && self.reviews[&run.id].0 == ReviewVerdict::Approve
            }
            Event::EffectDone { .. } => state.prs.values().any(|pr| match &pr.state {
                PrState::Advancing { merge, .. } => {
                    pr.issue == issue.number
                        && self.same_tree.get(merge) == Some(&pr.head)
                        && approved(&pr.head)
                }
                _ => false,
            }),
            Event::Command { command, .. } => matches!(command, Command::CloseIssue(_)),
            _ => false,
        };
        assert!(
            seen,
            "closed, and nobody saw that it is done: {event:?} {issue:?}"
        );
    }

    /// What is about to be proposed was approved, where anybody is asked to review.
    fn reviewed_where_anybody_reviews(
        &self,
        state: &State,
        number: IssueNo,
        job: &Job,
        event: &Event,
    ) {
        let before = state.jobs.get(&number).map(|before| before.stage().kind());
        let Stage::Opening { commit } = job.stage() else {
            return;
        };
        let tier = job.route.as_ref().map(|route| route.tier);
        let reviewer = config_after(state, event).reviewer_of(tier.unwrap_or_default());
        if before == Some(StageKind::Opening) || reviewer.is_none() {
            return;
        }
        let said = self.of_commit.get(commit).map(|(verdict, _)| *verdict);
        assert_eq!(said, Some(ReviewVerdict::Approve), "{event:?} {job:?}");
    }

    /// What reached the target is never forgotten, and an issue of which anything did is done.
    fn keeps_what_is_merged(state: &State, number: IssueNo, put: &Put<Issue>) {
        let before = state.issues.get(&number);
        if before.is_none_or(|before| before.merged.is_none()) {
            return;
        }
        match put {
            Put::Live(issue) => assert!(issue.merged.is_some(), "{issue:?}"),
            Put::Archived(issue) => {
                let done = matches!(issue.state, IssueState::Closed { pr: Some(_), .. });
                assert!(done, "given up, though it is merged: {issue:?}");
            }
            Put::Gone => panic!("{number} is gone"),
        }
    }

    /// The target moves to nothing red, and without a person to nothing that speaks against it.
    fn may_merge(&self, state: &State, pr: &Pr, new: &Oid) {
        let config = &state.config.config;
        let of_head = |head: &Oid| *head == pr.head && self.green.contains(head);
        let tested = config.checks.is_empty()
            || self.green.contains(new)
            || self.same_tree.get(new).is_some_and(of_head);
        assert!(tested, "the target moves to what was not checked: {pr:?}");
        let PrState::Advancing { by, .. } = &pr.state else {
            panic!("{pr:?}");
        };
        if by != config::FILE {
            return;
        }
        let against = |piece: &&Evidence| piece.holds == Holds::No;
        assert_eq!(pr.evidence.iter().find(against), None, "merged: {pr:?}");
        match self.of_commit.get(&pr.head) {
            Some((ReviewVerdict::Approve, sure)) => {
                assert!(*sure >= config.auto_merge.min_confidence, "{pr:?}");
            }
            Some(other) => panic!("merged, and the review says {other:?}: {pr:?}"),
            None => assert!(!config.auto_merge.review, "nobody reviewed it: {pr:?}"),
        }
    }
}

/// The configuration that holds once the event happened.
fn config_after<'a>(state: &'a State, event: &'a Event) -> &'a Config {
    match event {
        Event::ConfigLoaded { config, .. } => config,
        _ => &state.config.config,
    }
}

fn may_begin(state: &State, job: IssueNo, purpose: &Purpose) {
    if purpose.role().has_engine() {
        assert!(state.meta.frozen.is_none(), "begun while all are stopped");
        let held = &state.jobs[&job].held_by;
        assert_eq!(*held, None, "a held job began");
    }
}

fn ended_well(run: &Run) -> bool {
    use factory_core::{exit::ExitClass, model::RunState};
    matches!(
        &run.state,
        RunState::Ended {
            class: ExitClass::Ok,
            ..
        }
    )
}

/// An instruction that is over by itself tells what came of each of its issues.
fn told_at_its_end(state: &State, delta: &Delta, issue: &Issue) {
    let IssueState::Closed { by, .. } = &issue.state else {
        panic!("{issue:?}");
    };
    let Some(instruction) = issue.instruction.as_ref().filter(|_| by == "factory") else {
        return;
    };
    assert!(!instruction.children.is_empty(), "{issue:?}");
    let key = (issue.number, issue.comments);
    let Some(Put::Archived(comment)) = delta.comments.get(&key) else {
        panic!("no summary: {issue:?}");
    };
    for child in &instruction.children {
        let is_over = match delta.issues.get(child) {
            Some(put) => matches!(put, Put::Archived(_)),
            None => !state.issues.contains_key(child),
        };
        assert!(is_over, "{child} is open: {issue:?}");
        let named = format!("| #{child} ");
        assert!(comment.text.contains(&named), "{child}: {}", comment.text);
    }
}
