//! The scheduler: what begins next, with how much, and why not yet.
//!
//! [`decide`] looks at the first in line only; [`explain`] says of every issue where it
//! stands. Both walk the same line with the same room, so what is explained is what happens.

mod admit;
mod dependency;
mod priority;
mod purse;
mod queue;
mod share;
mod standing;
mod touch;

pub use dependency::written_dependencies;
pub use priority::{PREFIX, Priority};
pub use purse::Left;
pub use queue::Queue;
pub use standing::{Standing, Wait, explain};
pub use touch::{MAY_OVERLAP, written_touches};

use crate::{
    config::{AgentType, Amounts, Slots},
    event::Now,
    ids::IssueNo,
    model::{Job, PrState, Purpose, Run, RunState},
    plan::Observed,
    quantity::{Bytes, Milli},
    state::State,
};
use purse::Purse;
use queue::Line;
use share::Shares;
use std::{collections::BTreeSet, vec};
use touch::Paths;

/// Containers that may be on their way to running at once, for each core: starting is
/// what costs.
const STARTS_PER_CORE: u64 = 2;

/// A run that is to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// The job.
    pub job: IssueNo,
    /// What for.
    pub purpose: Purpose,
    /// The slot, the lowest that is free.
    pub slot: u32,
}

/// What is still free.
#[derive(Debug, Clone)]
pub(crate) struct Room {
    free: BTreeSet<u32>,
    slots: u32,
    /// How many more may be taken: fewer than are free where runs live in slots that there
    /// are no more.
    slots_left: u32,
    shares: Shares,
    capacity: Amounts,
    left: Amounts,
    starts_left: u64,
    starts: u64,
    /// What jobs touch that begin now.
    touched: Paths,
    /// Pull requests that may still be begun today.
    proposals_left: Option<u64>,
    purse: Purse,
    code: Code,
}

/// Whether code runs may begin, after what failed before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Code {
    /// They may.
    Open,
    /// One may, to see whether it works again.
    One,
    /// None may.
    Shut(Full),
}

impl Code {
    fn of(state: &State, now: Now) -> Self {
        let mut breakers = state.meta.breakers.values();
        if breakers.clone().any(|breaker| breaker.is_open(now.0)) {
            return Code::Shut(Full::Paused);
        }
        if !breakers.any(|breaker| breaker.tries_at.is_some()) {
            return Code::Open;
        }
        let lives = |run: &Run| run.is_open() && run.purpose.role().has_engine();
        match state.runs.values().any(lives) {
            true => Code::Shut(Full::Trying),
            false => Code::One,
        }
    }
}

/// Why a run has no room now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// All slots are taken.
    Slots {
        /// How many there are.
        slots: u32,
    },
    /// As many slots are taken as this type of agent may take.
    Quota {
        /// The type.
        agent: AgentType,
        /// How many it may take.
        max: u32,
    },
    /// What is free is kept for other types of agents.
    Kept {
        /// How many are free.
        free: u32,
    },
    /// Not enough memory is left.
    Memory {
        /// What is missing.
        missing: Bytes,
    },
    /// Not enough of the processors is left.
    Cpus {
        /// What is missing, in cores.
        missing: Milli,
    },
    /// As many containers as may are starting.
    Starts {
        /// How many may.
        limit: u64,
    },
    /// The day's budget is used up, until midnight UTC.
    Day,
    /// All that is left of the day's budget may still be used by runs that live.
    Promised,
    /// The job's budget is used up.
    Job,
    /// A job that begins now touches the same.
    Touches {
        /// That job.
        on: IssueNo,
    },
    /// All pull requests that may be opened in a day are opened or under way.
    Proposals,
    /// Runs failed in a row: nothing is tried for a while.
    Paused,
    /// Runs failed in a row: one alone tries again.
    Trying,
}

impl Full {
    /// True for what concerns this job and not those behind it.
    fn is_its_own(self) -> bool {
        match self {
            Full::Job | Full::Touches { .. } | Full::Proposals => true,
            Full::Slots { .. }
            | Full::Quota { .. }
            | Full::Kept { .. }
            | Full::Memory { .. }
            | Full::Cpus { .. }
            | Full::Starts { .. }
            | Full::Day
            | Full::Promised
            | Full::Paused
            | Full::Trying => false,
        }
    }
}

impl State {
    /// How many slots there are.
    pub fn slots(&self, observed: &Observed) -> u32 {
        match (observed.slots, self.config.config.slots) {
            (Some(n), _) | (None, Slots::Fixed(n)) => n,
            (None, Slots::Auto) => {
                let config = &self.config.config;
                let times = config
                    .requests()
                    .times_in(&config.capacity(&observed.engine));
                let for_others = config.types.reserved() - config.types.worker.min;
                let least = u64::from(for_others) + u64::from(config.types.worker.min.max(1));
                u32::try_from(times.max(least).min(MOST_SLOTS)).unwrap_or(1)
            }
        }
    }

    /// What the next run of a job is reckoned with: more where its memory was doubled.
    pub(crate) fn requests_of(&self, job: &Job) -> Amounts {
        let config = &self.config.config;
        let asked = config.requests();
        let Some(memory) = job.memory.filter(|memory| *memory > config.limits.memory) else {
            return asked;
        };
        let grown = u128::from(asked.memory.0) * u128::from(memory.0)
            / u128::from(config.limits.memory.0.max(1));
        Amounts {
            memory: Bytes(u64::try_from(grown).unwrap_or(u64::MAX)),
            ..asked
        }
    }
}

/// The most slots that `slots: auto` gives, as many as can be written.
const MOST_SLOTS: u64 = 1000;

impl Room {
    pub(crate) fn of(state: &State, observed: &Observed, now: Now) -> Self {
        let slots = state.slots(observed);
        let mut free: BTreeSet<u32> = (0..slots).collect();
        let capacity = state.config.config.capacity(&observed.engine);
        let mut left = capacity;
        let cores = observed.engine.cpus.0.div_ceil(1000).max(1);
        let starts = cores.saturating_mul(STARTS_PER_CORE);
        let mut slots_left = slots;
        let mut shares = Shares::of(slots, state.config.config.types);
        let mut starts_left = starts;
        for run in state.runs.values() {
            free.remove(&run.slot);
            slots_left = slots_left.saturating_sub(1);
            shares.count(run.agent);
            left.memory.0 = left.memory.0.saturating_sub(run.requests.memory.0);
            left.cpus.0 = left.cpus.0.saturating_sub(run.requests.cpus.0);
            if run.state == RunState::Starting {
                starts_left = starts_left.saturating_sub(1);
            }
        }
        Self {
            free,
            slots,
            slots_left,
            shares,
            capacity,
            left,
            starts_left,
            starts,
            touched: Paths::default(),
            proposals_left: state.proposals_left(now),
            purse: Purse::of(state, now),
            code: Code::of(state, now),
        }
    }

    /// Takes a slot and what a run asks for, or says what is lacking.
    pub(crate) fn take(
        &mut self,
        state: &State,
        job: &Job,
        purpose: &Purpose,
    ) -> Result<u32, Full> {
        let asked = state.requests_of(job);
        let free = self.free.first().filter(|_| self.slots_left > 0);
        let Some(slot) = free.copied() else {
            return Err(Full::Slots { slots: self.slots });
        };
        if let Some(full) = self.shares.refusal(AgentType::Worker) {
            return Err(full);
        }
        if self.starts_left == 0 {
            return Err(Full::Starts { limit: self.starts });
        }
        // One alone always fits: a small machine works on one thing at a time.
        let is_alone = self.left == self.capacity;
        let missing = |asked: u64, left: u64| asked.checked_sub(left).filter(|n| *n > 0);
        if !is_alone {
            if let Some(n) = missing(asked.memory.0, self.left.memory.0) {
                return Err(Full::Memory { missing: Bytes(n) });
            }
            if let Some(n) = missing(asked.cpus.0, self.left.cpus.0) {
                return Err(Full::Cpus { missing: Milli(n) });
            }
        }
        if purpose.role().has_engine() {
            if let Code::Shut(why) = self.code {
                return Err(why);
            }
            let mut purse = self.purse.clone();
            purse.take(state, job, purpose)?;
            // An instruction, and what is merged, touches nothing and becomes no pull request.
            if !matches!(purpose, Purpose::Split | Purpose::Verify) {
                self.begin(state, job)?;
            }
            self.purse = purse;
            if self.code == Code::One {
                self.code = Code::Shut(Full::Trying);
            }
        } else {
            self.begin(state, job)?;
        }
        self.free.remove(&slot);
        self.slots_left -= 1;
        self.shares.count(AgentType::Worker);
        self.starts_left -= 1;
        self.left.memory.0 = self.left.memory.0.saturating_sub(asked.memory.0);
        self.left.cpus.0 = self.left.cpus.0.saturating_sub(asked.cpus.0);
        Ok(slot)
    }
}

impl Room {
    /// Sets aside what a job takes that is not under way yet.
    fn begin(&mut self, state: &State, job: &Job) -> Result<(), Full> {
        if job.is_under_way() {
            return Ok(());
        }
        let touches = state.queue.will_touch(job.issue);
        if let Some((on, _)) = self.touched.overlapping(touches).min() {
            return Err(Full::Touches { on });
        }
        if let Some(left) = &mut self.proposals_left {
            *left = left.checked_sub(1).ok_or(Full::Proposals)?;
        }
        self.touched.insert(job.issue, touches);
        Ok(())
    }
}

/// Runs that may begin now, in order: what is nearest to its end first.
pub(crate) struct InLine<'a> {
    state: &'a State,
    merge_tests: vec::IntoIter<(IssueNo, Purpose)>,
    line: Option<Line<'a>>,
}

impl<'a> InLine<'a> {
    fn of(state: &'a State, observed: &Observed, now: Now) -> Self {
        let merge_tests = state.prs.values().filter_map(|pr| match &pr.state {
            PrState::Testing { run: None, .. } => {
                let job = state.jobs.get(&pr.issue)?;
                let pr = pr.number;
                (job.rests_until(now).is_none()).then_some((job.issue, Purpose::MergeTest { pr }))
            }
            _ => None,
        });
        Self {
            state,
            merge_tests: merge_tests.collect::<Vec<_>>().into_iter(),
            line: (!observed.merges_only).then(|| state.queue.in_line(now)),
        }
    }

    fn leave_out_fresh(&mut self) {
        if let Some(line) = &mut self.line {
            line.leave_out_fresh();
        }
    }
}

impl<'a> Iterator for InLine<'a> {
    type Item = (&'a Job, Purpose);

    fn next(&mut self) -> Option<(&'a Job, Purpose)> {
        loop {
            let test = self.merge_tests.next();
            let (issue, test) = match test {
                Some((issue, purpose)) => (issue, Some(purpose)),
                None => (self.line.as_mut()?.next()?, None),
            };
            let Some(job) = self.state.jobs.get(&issue) else {
                continue;
            };
            if !self.state.has_open_run(issue) {
                let Some(purpose) = test.or_else(|| job.stage().purpose()) else {
                    continue;
                };
                return Some((job, purpose));
            }
        }
    }
}

/// What is to begin now. Strictly in line: what does not fit holds up those behind
/// it, so that nobody small overtakes somebody large for ever.
pub fn decide(state: &State, observed: &Observed, now: Now) -> Vec<Start> {
    if state.meta.frozen.is_some() {
        return Vec::new();
    }
    let mut room = Room::of(state, observed, now);
    let mut starts = Vec::new();
    let mut line = InLine::of(state, observed, now);
    while let Some((job, purpose)) = line.next() {
        match room.take(state, job, &purpose) {
            Ok(slot) => starts.push(Start {
                job: job.issue,
                purpose,
                slot,
            }),
            Err(Full::Proposals) => line.leave_out_fresh(),
            Err(why) if why.is_its_own() => {}
            Err(_) => break,
        }
    }
    starts
}
