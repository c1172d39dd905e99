//! A step under construction: reads through to the state, collects the delta.

use super::Step;
use crate::{
    budget::Limit,
    config::Amounts,
    event::{Now, Refusal},
    exit::ExitClass,
    history::History,
    ids::{IssueNo, PrNo, RunId},
    model::{
        Comment, ConfigInForce, Drafts, Effect, EffectKind, Issue, Job, Meta, Pr, Purpose, Run,
        RunState, Stage,
    },
    route::{Route, route},
    schedule::Left,
    state::{Delta, Put, State},
    text,
};
use std::collections::BTreeMap;

pub(super) struct Tx<'a> {
    base: &'a State,
    delta: Delta,
    pub(super) now: Now,
}

/// What the delta says of a key, or else what the state says.
fn look<K: Ord, V: Clone>(puts: &BTreeMap<K, Put<V>>, base: &BTreeMap<K, V>, key: &K) -> Option<V> {
    match puts.get(key) {
        Some(Put::Live(value)) => Some(value.clone()),
        Some(Put::Archived(_) | Put::Gone) => None,
        None => base.get(key).cloned(),
    }
}

impl<'a> Tx<'a> {
    pub(super) fn new(base: &'a State, now: Now) -> Self {
        Self {
            base,
            delta: Delta::default(),
            now,
        }
    }

    pub(super) fn finish(mut self, note: String) -> Step {
        // It was looked at, and nothing was added.
        if self.delta.history.as_ref() == Some(&self.base.history) {
            self.delta.history = None;
        }
        self.set_back();
        let meta = self.meta();
        meta.step += 1;
        let step = format!("{}.{}", meta.epoch, meta.step);
        Step {
            delta: self.delta,
            // Titles and reasons are in it, and people read it with their own git.
            note: text::one_line(&note),
            step,
        }
    }

    /// A job that waits for a person or another issue before it has a pull request gives its
    /// place to others: it is under way again when it goes on.
    fn set_back(&mut self) {
        let of_jobs = self.delta.jobs.keys();
        let touched: Vec<_> = of_jobs.chain(self.delta.issues.keys()).copied().collect();
        for number in touched {
            let (Some(mut job), Ok(issue)) = (self.job(number), self.issue(number)) else {
                continue;
            };
            let waits = job.held_by.is_some() || !issue.depends_on.is_empty();
            let waits = waits && job.stage().is_due() || *job.stage() == Stage::PlanReady;
            if waits && job.begun {
                job.begun = false;
                self.put_job(job);
            }
        }
    }

    /// What was changed so far, to go back to.
    pub(super) fn mark(&self) -> Delta {
        self.delta.clone()
    }

    /// Nothing was changed since then.
    pub(super) fn back_to(&mut self, mark: Delta) {
        self.delta = mark;
    }

    pub(super) fn meta(&mut self) -> &mut Meta {
        self.delta
            .meta
            .get_or_insert_with(|| self.base.meta.clone())
    }

    pub(super) fn config(&self) -> &crate::config::Config {
        self.delta
            .config
            .as_ref()
            .map_or(&self.base.config.config, |c| &c.config)
    }

    /// Routes an issue.
    pub(super) fn route(&mut self, issue: &Issue) -> Route {
        route(issue, self.history())
    }

    /// How work went before, to be added to.
    pub(super) fn history(&mut self) -> &mut History {
        self.delta
            .history
            .get_or_insert_with(|| self.base.history.clone())
    }

    pub(super) fn set_config(&mut self, config: ConfigInForce) {
        self.delta.config = Some(config);
    }

    pub(super) fn issue(&self, number: IssueNo) -> Result<Issue, Refusal> {
        look(&self.delta.issues, &self.base.issues, &number).ok_or(Refusal::NoSuchIssue(number))
    }

    pub(super) fn put_issue(&mut self, issue: Issue) {
        self.delta.issues.insert(issue.number, Put::Live(issue));
    }

    /// Moves an issue with all its comments to the archive.
    pub(super) fn archive_issue(&mut self, issue: Issue) {
        let number = issue.number;
        for k in 1..=issue.comments {
            if let Some(comment) = look(&self.delta.comments, &self.base.comments, &(number, k)) {
                self.delta
                    .comments
                    .insert((number, k), Put::Archived(comment));
            }
        }
        self.delta.issues.insert(number, Put::Archived(issue));
    }

    /// The number of a new issue.
    pub(super) fn next_issue(&mut self) -> IssueNo {
        let meta = self.meta();
        meta.last_issue += 1;
        IssueNo(meta.last_issue)
    }

    pub(super) fn comment(
        &mut self,
        issue: IssueNo,
        author: &str,
        text: String,
    ) -> Result<(), Refusal> {
        self.add_comment(issue, author.to_owned(), None, text)
    }

    /// A comment of an agent on its own issue.
    pub(super) fn comment_of_run(&mut self, run: RunId, text: String) -> Result<(), Refusal> {
        self.add_comment(run.job, run.to_string(), Some(run), text)
    }

    /// A comment of the factory's that quotes what a run reported.
    pub(super) fn comment_on_report(&mut self, run: RunId, text: String) -> Result<(), Refusal> {
        self.add_comment(run.job, super::job::FACTORY.to_owned(), Some(run), text)
    }

    fn add_comment(
        &mut self,
        issue: IssueNo,
        author: String,
        run: Option<RunId>,
        text: String,
    ) -> Result<(), Refusal> {
        let mut issue = self.issue(issue)?;
        issue.comments += 1;
        let comment = Comment {
            author,
            run,
            at: self.now.0,
            text,
        };
        self.delta
            .comments
            .insert((issue.number, issue.comments), Put::Live(comment));
        self.put_issue(issue);
        Ok(())
    }

    pub(super) fn pr(&self, number: PrNo) -> Result<Pr, Refusal> {
        look(&self.delta.prs, &self.base.prs, &number).ok_or(Refusal::NoSuchPr(number))
    }

    pub(super) fn put_pr(&mut self, pr: Pr) {
        self.delta.prs.insert(pr.number, Put::Live(pr));
    }

    pub(super) fn archive_pr(&mut self, pr: Pr) {
        self.delta.prs.insert(pr.number, Put::Archived(pr));
    }

    pub(super) fn job(&self, number: IssueNo) -> Option<Job> {
        look(&self.delta.jobs, &self.base.jobs, &number)
    }

    /// All jobs as they are now.
    pub(super) fn jobs(&self) -> Vec<Job> {
        let all = self.base.jobs.keys();
        all.filter_map(|number| self.job(*number)).collect()
    }

    /// All open pull requests as they are now.
    pub(super) fn prs(&self) -> Vec<Pr> {
        let all = self.base.prs.keys();
        all.filter_map(|number| self.pr(*number).ok()).collect()
    }

    /// What the next run of a job is reckoned with.
    pub(super) fn requests_of(&self, job: &Job) -> Amounts {
        self.base.requests_of(job)
    }

    /// What the next code run of a job may use.
    pub(super) fn left_for(&self, job: &Job) -> Limit {
        self.base.left_for(job, self.now)
    }

    pub(super) fn is_out_of_money(&self, job: &Job) -> bool {
        self.base.is_out_of_money(job)
    }

    /// As [`State::used_its_own`].
    pub(super) fn used_its_own(&self, run: &Run, job: &Job) -> bool {
        self.base.used_its_own(run, job)
    }

    /// True where no such run of a job may use anything.
    pub(super) fn has_nothing_left(&self, job: &Job, purpose: &Purpose) -> bool {
        self.base.has_nothing_left(job, purpose)
    }

    /// Issues that wait until `issue` is done.
    pub(super) fn dependents(&self, issue: IssueNo) -> Vec<IssueNo> {
        self.base.queue.dependents(issue).collect()
    }

    pub(super) fn put_job(&mut self, job: Job) {
        self.delta.jobs.insert(job.issue, Put::Live(job));
    }

    pub(super) fn archive_job(&mut self, job: Job) {
        self.delta.jobs.insert(job.issue, Put::Archived(job));
    }

    pub(super) fn run(&self, id: RunId) -> Result<Run, Refusal> {
        look(&self.delta.runs, &self.base.runs, &id)
            .ok_or_else(|| Refusal::Stale(format!("run {id}")))
    }

    pub(super) fn put_run(&mut self, run: Run) {
        self.delta.runs.insert(run.id, Put::Live(run));
    }

    pub(super) fn end_run(&mut self, mut run: Run, class: ExitClass, outcome: String) {
        run.state = RunState::Ended {
            at: self.now.0,
            class,
            outcome,
        };
        self.put_run(run);
    }

    pub(super) fn archive_run(&mut self, run: Run) {
        self.delta.runs.insert(run.id, Put::Archived(run));
    }

    /// Runs that are not over, as the state has them.
    pub(super) fn open_runs(&self) -> Vec<RunId> {
        let open = self.base.runs.values().filter(|run| run.is_open());
        open.map(|run| run.id).collect()
    }

    /// Effects without a result, as the state has them.
    pub(super) fn open_effects(&self) -> Vec<Effect> {
        self.base.effects.values().cloned().collect()
    }

    /// True where a run may begin that was planned before.
    pub(super) fn admits(&self, job: &Job, purpose: &Purpose, slot: u32) -> bool {
        self.base.admits(job, purpose, slot, self.now)
    }

    /// Issues and comments of agents that the day of this step has room for.
    pub(super) fn left_to_file(&self) -> Left {
        self.base.left_to_file(self.now)
    }

    /// Titles of open issues, as they are compared.
    pub(super) fn titles(&self) -> BTreeMap<String, IssueNo> {
        self.titles_beside(None)
    }

    /// The same, of all issues but one.
    pub(super) fn titles_beside(&self, left_out: Option<IssueNo>) -> BTreeMap<String, IssueNo> {
        let issues = self.base.issues.values();
        let issues = issues.filter(|issue| Some(issue.number) != left_out);
        let titled = |issue: &Issue| (text::folded(&issue.title), issue.number);
        issues.map(titled).collect()
    }

    /// Drafts that wait, as the state has them.
    pub(super) fn drafts(&self) -> impl Iterator<Item = &'a Drafts> {
        self.base.drafts.values()
    }

    pub(super) fn put_drafts(&mut self, drafts: Drafts) {
        let run = drafts.run;
        let put = match drafts.issues.is_empty() {
            true => Put::Gone,
            false => Put::Live(drafts),
        };
        self.delta.drafts.insert(run, put);
    }

    pub(super) fn effect(&self, key: &str) -> Result<Effect, Refusal> {
        look(&self.delta.effects, &self.base.effects, &key.to_owned())
            .ok_or_else(|| Refusal::Stale(format!("effect {key}")))
    }

    pub(super) fn put_effect(&mut self, key: String, kind: EffectKind) {
        let effect = Effect {
            key: key.clone(),
            kind,
            created: self.now.0,
        };
        self.delta.effects.insert(key, Put::Live(effect));
    }

    pub(super) fn drop_effect(&mut self, key: &str) {
        self.delta.effects.insert(key.to_owned(), Put::Gone);
    }

    pub(super) fn drop_effects_of(&mut self, issue: IssueNo) {
        let keys: Vec<String> = self
            .base
            .effects
            .values()
            .filter(|e| matches!(e.kind, EffectKind::MoveBranch { issue: of, .. } if of == issue))
            .map(|e| e.key.clone())
            .collect();
        for key in keys {
            self.drop_effect(&key);
        }
    }
}
