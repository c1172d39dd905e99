//! The order in which jobs wait, kept up to date with each step so that a
//! decision looks at the first ones only, however many wait behind them.

use super::{
    priority::Priority,
    touch::{MAY_OVERLAP, Paths},
};
use crate::{
    event::Now,
    exit::LONGEST_BACKOFF,
    ids::IssueNo,
    model::{Issue, Job, Seconds, Stage},
};
use std::{
    collections::{BTreeMap, BTreeSet, btree_set},
    iter::Peekable,
    ops::Bound,
    vec,
};

/// Where a job stands in line; the smallest goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Turn {
    /// Checks and reviews go before new code: they are nearer to their end.
    is_code: bool,
    /// What a person put in front goes before the rest.
    is_ordinary: bool,
    /// Since when it waits, less the head start of its priority.
    since: Seconds,
    /// The older issue first.
    pub issue: IssueNo,
}

/// Which part of the queue holds a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// It goes on at once.
    Ready,
    /// It begins at once: it is not under way.
    Fresh,
    /// It would begin, at once or from a time on, and one that is under way touches the same.
    Barred(Option<Seconds>),
    /// It goes on from a time on.
    Resting(Seconds),
}

/// Jobs that wait for nothing but room, and what else is looked up by more than number.
/// Derived from the issues and jobs of a state, never written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Queue {
    ready: BTreeSet<Turn>,
    fresh: BTreeSet<Turn>,
    resting: BTreeMap<(Seconds, IssueNo), Turn>,
    /// Where each job is; those that are barred are only here.
    places: BTreeMap<IssueNo, (Place, Turn)>,
    /// What jobs under way touch.
    claimed: Paths,
    /// What fresh jobs will touch, barred or not.
    wanted: Paths,
    /// What each issue has in one of the two.
    touches: BTreeMap<IssueNo, Touches>,
    /// Jobs under way without a pull request.
    unproposed: BTreeSet<IssueNo>,
    /// Issues that wait for each issue.
    dependents: BTreeMap<IssueNo, BTreeSet<IssueNo>>,
    /// What each issue waits for, as `dependents` has it.
    depends_on: BTreeMap<IssueNo, Vec<IssueNo>>,
}

impl Queue {
    /// Takes up what has become of one issue and its job.
    pub(crate) fn put(&mut self, number: IssueNo, issue: Option<&Issue>, job: Option<&Job>) {
        self.leave(number);
        for on in self.depends_on.remove(&number).unwrap_or_default() {
            if let Some(waiting) = self.dependents.get_mut(&on) {
                waiting.remove(&number);
                if waiting.is_empty() {
                    self.dependents.remove(&on);
                }
            }
        }
        if job.is_some_and(|job| job.is_under_way() && job.pr.is_none()) {
            self.unproposed.insert(number);
        } else {
            self.unproposed.remove(&number);
        }
        let touches = issue.zip(job).and_then(|(issue, job)| touches(issue, job));
        self.touch(number, touches);
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
            let place = match job.not_before {
                at if self.bar(number).is_some() => Place::Barred(at),
                Some(at) => Place::Resting(at),
                None if job.is_under_way() || job.is_looked_at() => Place::Ready,
                None => Place::Fresh,
            };
            self.enter(place, turn);
        }
    }

    fn enter(&mut self, place: Place, turn: Turn) {
        match place {
            Place::Ready => {
                self.ready.insert(turn);
            }
            Place::Fresh => {
                self.fresh.insert(turn);
            }
            Place::Barred(_) => {}
            Place::Resting(at) => {
                self.resting.insert((at, turn.issue), turn);
            }
        }
        self.places.insert(turn.issue, (place, turn));
    }

    fn leave(&mut self, number: IssueNo) -> Option<(Place, Turn)> {
        let (place, turn) = self.places.remove(&number)?;
        match place {
            Place::Ready => {
                self.ready.remove(&turn);
            }
            Place::Fresh => {
                self.fresh.remove(&turn);
            }
            Place::Barred(_) => {}
            Place::Resting(at) => {
                self.resting.remove(&(at, number));
            }
        }
        Some((place, turn))
    }

    /// Notes what an issue's job touches. Where others are barred by it from now on, or no
    /// longer, they change places: the work grows with how many those are.
    fn touch(&mut self, number: IssueNo, new: Option<Touches>) {
        let old = self.touches.get(&number);
        if old == new.as_ref() {
            return;
        }
        let mut claims = Vec::new();
        if let Some(old) = self.touches.remove(&number) {
            match old.is_claim {
                true => self.claimed.remove(number, &old.paths),
                false => self.wanted.remove(number, &old.paths),
            }
            claims.extend(old.is_claim.then_some(old.paths));
        }
        if let Some(new) = new {
            match new.is_claim {
                true => self.claimed.insert(number, &new.paths),
                false => self.wanted.insert(number, &new.paths),
            }
            claims.extend(new.is_claim.then(|| new.paths.clone()));
            self.touches.insert(number, new);
        }
        let overlapping = claims
            .iter()
            .flat_map(|paths| self.wanted.overlapping(paths));
        let others: BTreeSet<IssueNo> = overlapping.map(|(issue, _)| issue).collect();
        for other in others {
            let is_barred = self.bar(other).is_some();
            if let Some((place, turn)) = self.leave(other) {
                let at = match place {
                    Place::Resting(at) => Some(at),
                    Place::Barred(at) => at,
                    Place::Ready | Place::Fresh => None,
                };
                let place = match at {
                    at if is_barred => Place::Barred(at),
                    Some(at) => Place::Resting(at),
                    None => Place::Fresh,
                };
                self.enter(place, turn);
            }
        }
    }

    /// The job under way that a fresh one waits for, and which of its paths that touches.
    pub fn bar(&self, job: IssueNo) -> Option<(IssueNo, &str)> {
        let touches = self.touches.get(&job).filter(|t| !t.is_claim)?;
        self.claimed.overlapping(&touches.paths).min()
    }

    /// The first path of a fresh job that another one touches as well.
    pub(super) fn common(&self, fresh: IssueNo, other: IssueNo) -> Option<&str> {
        let mut paths = Paths::default();
        paths.insert(other, self.will_touch(other));
        let common = paths.overlapping(self.will_touch(fresh)).next();
        common.map(|(_, path)| path)
    }

    /// What a job touches, so that no other that is begun may.
    pub(super) fn will_touch(&self, job: IssueNo) -> &[String] {
        self.touches.get(&job).map_or(&[], |touches| &touches.paths)
    }

    /// How many jobs under way have no pull request yet.
    pub fn unproposed(&self) -> u64 {
        self.unproposed.len() as u64
    }

    /// Issues that wait until `issue` is done.
    pub fn dependents(&self, issue: IssueNo) -> impl Iterator<Item = IssueNo> {
        self.dependents.get(&issue).into_iter().flatten().copied()
    }

    /// True while a job lacks nothing but room and, at most, time.
    pub fn holds(&self, job: IssueNo) -> bool {
        let place = self.places.get(&job);
        place.is_some_and(|(place, _)| !matches!(place, Place::Barred(_)))
    }

    /// Jobs that may begin now, in order.
    pub fn in_line(&self, now: Now) -> Line<'_> {
        // A time further away than the longest wait was set before the clock was put back.
        let due = self.resting.range(..=(now.0, IssueNo(u64::MAX)));
        let stale = (now.0.saturating_add(LONGEST_BACKOFF), IssueNo(u64::MAX));
        let stale = self
            .resting
            .range((Bound::Excluded(stale), Bound::Unbounded));
        let mut rested: Vec<Turn> = due.chain(stale).map(|(_, turn)| *turn).collect();
        rested.sort_unstable();
        Line {
            ready: self.ready.iter().peekable(),
            fresh: Some(self.fresh.iter().peekable()),
            rested: rested.into_iter().peekable(),
        }
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

/// Jobs that may begin now, in order.
#[derive(Debug)]
pub struct Line<'a> {
    ready: Peekable<btree_set::Iter<'a, Turn>>,
    fresh: Option<Peekable<btree_set::Iter<'a, Turn>>>,
    rested: Peekable<vec::IntoIter<Turn>>,
}

impl Line<'_> {
    /// From here on, only jobs that are under way.
    pub(super) fn leave_out_fresh(&mut self) {
        self.fresh = None;
    }
}

impl Iterator for Line<'_> {
    type Item = IssueNo;

    fn next(&mut self) -> Option<IssueNo> {
        let ready = self.ready.peek().copied().copied();
        let fresh = self
            .fresh
            .as_mut()
            .and_then(|fresh| fresh.peek().copied().copied());
        let rested = self.rested.peek().copied();
        let first = ready.into_iter().chain(fresh).chain(rested).min()?;
        if Some(first) == ready {
            self.ready.next();
        } else if Some(first) == rested {
            self.rested.next();
        } else if let Some(fresh) = &mut self.fresh {
            fresh.next();
        }
        Some(first.issue)
    }
}

/// What a job touches.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Touches {
    paths: Vec<String>,
    /// It is under way: what else touches them does not begin.
    is_claim: bool,
}

/// What a job under way touches, or one that could be if it were not barred.
fn touches(issue: &Issue, job: &Job) -> Option<Touches> {
    let is_claim = job.is_under_way();
    let waits = job.stage().is_due();
    // One that waits for others keeps nobody waiting: it may be waiting for those.
    let is_out = is_claim && waits && !issue.depends_on.is_empty();
    let may_overlap = issue.touches.is_empty() || issue.has_label(MAY_OVERLAP);
    if is_out || may_overlap || job.is_looked_at() || !is_claim && turn(issue, job).is_none() {
        return None;
    }
    let paths = issue.touches.clone();
    Some(Touches { paths, is_claim })
}

/// Where a job stands in line; none where it waits for no slot, or for something else first.
fn turn(issue: &Issue, job: &Job) -> Option<Turn> {
    let is_code = match job.stage() {
        Stage::CheckDue { .. } | Stage::ReviewDue { .. } | Stage::VerifyDue => false,
        due if due.is_due() => true,
        _ => return None,
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
