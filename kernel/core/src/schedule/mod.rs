//! The scheduler: what begins next, with how much, and why not yet.
//!
//! [`decide`] looks at the first in line only; [`explain`] says of every issue where it
//! stands. Both walk the same line with the same room, so what is explained is what happens.

mod admit;
mod dependency;
mod priority;
mod purse;
mod queue;
mod standing;

pub use dependency::written_dependencies;
pub use priority::{PREFIX, Priority};
pub use queue::Queue;
pub use standing::{Standing, Wait, explain};

use crate::{
    config::{Amounts, Slots},
    event::Now,
    ids::IssueNo,
    model::{Job, PrState, Purpose, Run, RunState, Seconds, Stage},
    plan::Observed,
    quantity::{Bytes, Milli},
    state::State,
};
use purse::Purse;
use std::collections::BTreeSet;

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
    capacity: Amounts,
    left: Amounts,
    starts_left: u64,
    starts: u64,
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
        let lives = |run: &Run| run.is_open() && run.purpose == Purpose::Code;
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
    /// The day's budget is used up.
    Day {
        /// Until when; midnight UTC.
        until: Seconds,
    },
    /// All that is left of the day's budget may still be used by runs that live.
    Promised,
    /// The job's budget is used up.
    Job,
    /// Runs failed in a row: nothing is tried for a while.
    Paused,
    /// Runs failed in a row: one alone tries again.
    Trying,
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
                u32::try_from(times.clamp(1, MOST_SLOTS)).unwrap_or(1)
            }
        }
    }

    /// What the next run of a job is reckoned with: more where its memory was doubled.
    pub(crate) fn requests_of(&self, job: &Job) -> Amounts {
        let config = &self.config.config;
        let asked = config.requests();
        let Some(memory) = job.memory else {
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
        let mut starts_left = starts;
        for run in state.runs.values() {
            free.remove(&run.slot);
            slots_left = slots_left.saturating_sub(1);
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
            capacity,
            left,
            starts_left,
            starts,
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
        if *purpose == Purpose::Code {
            if let Code::Shut(why) = self.code {
                return Err(why);
            }
            self.purse.take(state, job)?;
            if self.code == Code::One {
                self.code = Code::Shut(Full::Trying);
            }
        }
        self.free.remove(&slot);
        self.slots_left -= 1;
        self.starts_left -= 1;
        self.left.memory.0 = self.left.memory.0.saturating_sub(asked.memory.0);
        self.left.cpus.0 = self.left.cpus.0.saturating_sub(asked.cpus.0);
        Ok(slot)
    }
}

/// Runs that may begin now, in order: what is nearest to its end first.
pub(crate) fn in_line(
    state: &State,
    observed: &Observed,
    now: Now,
) -> impl Iterator<Item = (IssueNo, Purpose)> {
    let merge_tests = state.prs.values().filter_map(move |pr| match &pr.state {
        PrState::Testing { run: None, .. } => {
            let job = state.jobs.get(&pr.issue)?;
            let pr = pr.number;
            (job.rests_until(now).is_none()).then_some((job.issue, Purpose::MergeTest { pr }))
        }
        _ => None,
    });
    let queue = (!observed.merges_only).then(|| state.queue.in_line(now));
    let queued = queue.into_iter().flatten().filter_map(|issue| {
        let job = state.jobs.get(&issue)?;
        let purpose = match job.stage {
            Stage::CheckDue { .. } => Purpose::Check,
            _ => Purpose::Code,
        };
        Some((issue, purpose))
    });
    let runs = merge_tests.chain(queued);
    runs.filter(|(job, _)| !state.has_open_run(*job))
}

/// What is to begin now. Strictly in line: what does not fit holds up those behind
/// it, so that nobody small overtakes somebody large for ever.
pub fn decide(state: &State, observed: &Observed, now: Now) -> Vec<Start> {
    if state.meta.frozen.is_some() {
        return Vec::new();
    }
    let mut room = Room::of(state, observed, now);
    let mut starts = Vec::new();
    for (number, purpose) in in_line(state, observed, now) {
        let Some(job) = state.jobs.get(&number) else {
            continue;
        };
        match room.take(state, job, &purpose) {
            Ok(slot) => starts.push(Start {
                job: number,
                purpose,
                slot,
            }),
            Err(Full::Job) => {}
            Err(_) => break,
        }
    }
    starts
}
