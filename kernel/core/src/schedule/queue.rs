//! The order in which jobs wait, kept up to date with each step so that a
//! decision looks at the first ones only, however many wait behind them.

use super::priority::Priority;
use crate::{
    event::Now,
    exit::LONGEST_BACKOFF,
    ids::IssueNo,
    model::{Issue, Job, Seconds, Stage},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

/// Where a job stands in line; the smallest goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Turn {
    /// Checks go before new code: they are nearer to their end.
    is_code: bool,
    /// What a person put in front goes before the rest.
    is_ordinary: bool,
    /// Since when it waits, less the head start of its priority.
    since: Seconds,
    /// The older issue first.
    pub issue: IssueNo,
}

/// Jobs that wait for nothing but room, and what else is looked up by more than number.
/// Derived from the issues and jobs of a state, never written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Queue {
    /// May begin at once.
    ready: BTreeSet<Turn>,
    /// May begin from a time on.
    resting: BTreeMap<(Seconds, IssueNo), Turn>,
    /// Which of the two holds an issue, and under which key.
    places: BTreeMap<IssueNo, (Option<Seconds>, Turn)>,
    /// Issues that wait for each issue.
    dependents: BTreeMap<IssueNo, BTreeSet<IssueNo>>,
    /// What each issue waits for, as `dependents` has it.
    depends_on: BTreeMap<IssueNo, Vec<IssueNo>>,
}

impl Queue {
    /// Takes up what has become of one issue and its job.
    pub(crate) fn put(&mut self, number: IssueNo, issue: Option<&Issue>, job: Option<&Job>) {
        match self.places.remove(&number) {
            Some((None, turn)) => {
                self.ready.remove(&turn);
            }
            Some((Some(at), _)) => {
                self.resting.remove(&(at, number));
            }
            None => {}
        }
        for on in self.depends_on.remove(&number).unwrap_or_default() {
            if let Some(waiting) = self.dependents.get_mut(&on) {
                waiting.remove(&number);
                if waiting.is_empty() {
                    self.dependents.remove(&on);
                }
            }
        }
        let Some(issue) = issue else { return };
        for on in &issue.depends_on {
            self.dependents.entry(*on).or_default().insert(number);
        }
        if !issue.depends_on.is_empty() {
            self.depends_on.insert(number, issue.depends_on.clone());
        }
        if let Some(job) = job
            && let Some(turn) = turn(issue, job)
        {
            match job.not_before {
                Some(at) => {
                    self.resting.insert((at, number), turn);
                }
                None => {
                    self.ready.insert(turn);
                }
            }
            self.places.insert(number, (job.not_before, turn));
        }
    }

    /// Issues that wait until `issue` is done.
    pub fn dependents(&self, issue: IssueNo) -> impl Iterator<Item = IssueNo> {
        self.dependents.get(&issue).into_iter().flatten().copied()
    }

    /// True while a job lacks nothing but room and, at most, time.
    pub fn holds(&self, job: IssueNo) -> bool {
        self.places.contains_key(&job)
    }

    /// Jobs that may begin now, in order.
    pub fn in_line(&self, now: Now) -> impl Iterator<Item = IssueNo> {
        // A time further away than the longest wait was set before the clock was put back.
        let due = self.resting.range(..=(now.0, IssueNo(u64::MAX)));
        let stale = (now.0.saturating_add(LONGEST_BACKOFF), IssueNo(u64::MAX));
        let stale = self
            .resting
            .range((Bound::Excluded(stale), Bound::Unbounded));
        let mut rested: Vec<Turn> = due.chain(stale).map(|(_, turn)| *turn).collect();
        rested.sort_unstable();
        let (mut ready, mut rested) = (self.ready.iter().peekable(), rested.into_iter().peekable());
        std::iter::from_fn(move || match (ready.peek(), rested.peek()) {
            (Some(one), Some(other)) if *one > other => rested.next(),
            (None, _) => rested.next(),
            (Some(_), _) => ready.next().copied(),
        })
        .map(|turn| turn.issue)
    }

    /// When the next job that rests may begin.
    pub fn wakes_at(&self, now: Now) -> Option<Seconds> {
        let later = (now.0, IssueNo(u64::MAX));
        let mut resting = self
            .resting
            .range((Bound::Excluded(later), Bound::Unbounded));
        let (at, _) = resting.next()?.0;
        (at - now.0 <= LONGEST_BACKOFF).then_some(*at)
    }
}

/// Where a job stands in line; none where it waits for no slot, or for something else first.
fn turn(issue: &Issue, job: &Job) -> Option<Turn> {
    let is_code = match job.stage {
        Stage::Queued => true,
        Stage::CheckDue { .. } => false,
        Stage::Coding { .. }
        | Stage::Publishing { .. }
        | Stage::Checking { .. }
        | Stage::Proposed
        | Stage::NeedsHuman => return None,
    };
    if job.held_by.is_some() || !issue.depends_on.is_empty() {
        return None;
    }
    Some(Turn {
        is_code,
        is_ordinary: job.bumped.is_none(),
        since: match job.bumped {
            // Who was put in front last is first.
            Some(at) => at.saturating_neg(),
            None => job.since.saturating_sub(Priority::of(issue).head_start()),
        },
        issue: job.issue,
    })
}
