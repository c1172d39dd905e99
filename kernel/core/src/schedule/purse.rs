//! What may still be spent, now and by whom.

use super::Full;
use crate::{
    budget::{Limit, Spent},
    event::Now,
    model::{Job, Purpose, Run},
    quantity::Milli,
    state::State,
};

/// What is left of the day's budget once every live run has used all that it may.
#[derive(Debug, Clone)]
pub(super) struct Purse {
    day: Limit,
    used_up: bool,
}

impl Purse {
    pub(super) fn of(state: &State, now: Now) -> Self {
        Self {
            day: state.left_of_day(now),
            used_up: state.day_is_used_up(now),
        }
    }

    /// Sets aside what a run may use, or says why it may use nothing.
    pub(super) fn take(&mut self, state: &State, job: &Job, purpose: &Purpose) -> Result<(), Full> {
        if !state.calls_models(job, purpose) {
            return Ok(());
        }
        let nothing = Spent::default();
        if self.used_up {
            return Err(Full::Day);
        }
        if self.day.is_reached(&nothing) {
            return Err(Full::Promised);
        }
        let asked = state.left_of_job(job).and(&self.day);
        if asked.is_reached(&nothing) {
            return Err(Full::Job);
        }
        self.day = self.day.less(&asked.open(&nothing));
        Ok(())
    }
}

/// What agents may still file in a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// Issues.
    pub issues: u64,
    /// Comments.
    pub comments: u64,
}

impl State {
    /// What the next code run of a job may use.
    pub(crate) fn left_for(&self, job: &Job, now: Now) -> Limit {
        self.left_of_job(job).and(&self.left_of_day(now))
    }

    /// What a run of a job may use, whatever the others do.
    fn left_of_job(&self, job: &Job) -> Limit {
        let budget = &self.config.config.budget;
        let run = budget.per_run.and(&budget.per_job.less(&job.spent));
        run.and(&self.share_of_day())
    }

    /// An equal part of the day's limit for each slot, in what neither runs nor jobs have a
    /// limit of their own: or else the first run would have all of the day set aside for it.
    fn share_of_day(&self) -> Limit {
        let budget = &self.config.config.budget;
        let slots = u64::from(self.slots(&self.seen()).max(1));
        let share = |day: Option<u64>, own: [bool; 2]| {
            let day = day.filter(|_| own == [false; 2])?;
            Some((day / slots).max(1))
        };
        let (day, run, job) = (&budget.per_day, &budget.per_run, &budget.per_job);
        let usd = day.usd.map(|usd| usd.0);
        Limit {
            usd: share(usd, [run.usd.is_some(), job.usd.is_some()]).map(Milli),
            tokens: share(day.tokens, [run.tokens.is_some(), job.tokens.is_some()]),
        }
    }

    fn left_of_day(&self, now: Now) -> Limit {
        let open = |run: &Run| {
            let models = run.grant.models.as_ref().filter(|_| run.is_open());
            models.map_or(Spent::default(), |models| models.budget.open(&run.spent))
        };
        let promised = self.runs.values().map(open);
        let taken = promised.fold(self.spent_today(now), Spent::plus);
        self.config.config.budget.per_day.less(&taken)
    }

    /// True while a job waits for its next run with an engine and may spend nothing: a person
    /// decides.
    pub fn is_out_of_money(&self, job: &Job) -> bool {
        let purpose = job.stage().purpose().filter(|_| job.stage().is_due());
        purpose.is_some_and(|purpose| {
            purpose.role().has_engine() && self.has_nothing_left(job, &purpose)
        })
    }

    /// True where such a run of a job may use nothing, whatever the others do.
    pub(crate) fn has_nothing_left(&self, job: &Job, purpose: &Purpose) -> bool {
        self.calls_models(job, purpose) && self.left_of_job(job).is_reached(&Spent::default())
    }

    /// True where the engine of such a run is known to call models.
    fn calls_models(&self, job: &Job, purpose: &Purpose) -> bool {
        let tier = job.route.as_ref().map(|route| route.tier);
        let config = &self.config.config;
        let (engine, _) = config.worked(purpose, tier.unwrap_or_default());
        engine.known().is_some()
    }

    /// What was used on the day of `now`.
    pub fn spent_today(&self, now: Now) -> Spent {
        let today = self.meta.today.unwrap_or_default();
        today.on(now.0).spent
    }

    /// Pull requests that may still be begun on the day of `now`; none where no number is
    /// given. What is under way will open one as well.
    pub(crate) fn proposals_left(&self, now: Now) -> Option<u64> {
        let per_day = &self.config.config.types.worker.per_day;
        let limit = u64::from(per_day.pull_requests?);
        let opened = self.meta.today.unwrap_or_default().on(now.0).pull_requests;
        let taken = opened.saturating_add(self.queue.unproposed());
        Some(limit.saturating_sub(taken))
    }

    /// What agents may still file on the day of `now`.
    pub fn left_to_file(&self, now: Now) -> Left {
        let today = self.meta.today.unwrap_or_default().on(now.0);
        let per_day = &self.config.config.types.worker.per_day;
        Left {
            issues: u64::from(per_day.issues).saturating_sub(today.issues),
            comments: u64::from(per_day.comments).saturating_sub(today.comments),
        }
    }

    /// True where drafts can be filed now.
    pub(crate) fn drafts_are_due(&self, now: Now) -> bool {
        !self.drafts.is_empty() && self.left_to_file(now).issues > 0
    }

    /// True where drafts wait for the next day.
    pub(crate) fn drafts_wait(&self, now: Now) -> bool {
        let may_be_filed = self.config.config.types.worker.per_day.issues > 0;
        !self.drafts.is_empty() && may_be_filed && !self.drafts_are_due(now)
    }

    /// True where a run used up what it or its job may use, not only what was left of the
    /// day when it began.
    pub(crate) fn used_its_own(&self, run: &Run, job: &Job) -> bool {
        let own = self.config.config.budget.per_run.and(&self.share_of_day());
        own.is_reached(&run.spent) || self.has_nothing_left(job, &run.purpose)
    }

    /// True where no model is called any more before midnight.
    pub(crate) fn day_is_used_up(&self, now: Now) -> bool {
        let left = self
            .config
            .config
            .budget
            .per_day
            .less(&self.spent_today(now));
        left.is_reached(&Spent::default())
    }
}
