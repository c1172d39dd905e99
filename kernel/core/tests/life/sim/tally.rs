//! What is reckoned: how full the slots were, how long jobs waited, and what must never be.

use super::{CAPACITY, MINUTE, Sim, Time};
use crate::queue::overlaps;
use factory_core::{
    event::Command,
    ids::IssueNo,
    model::{IssueState, Job, PrState, Purpose, REJECTED, Stage},
    quantity::Bytes,
    schedule::{Priority, written_dependencies, written_touches},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// What must never be, each as it is told.
const LAWS: [&str; 11] = [
    "above slots",
    "above capacity",
    "a held job begun",
    "a dependent begun too early",
    "begun beside what touches the same",
    "two runs of one job",
    "a run begun while all are stopped",
    "a merge twice",
    "a job forgotten",
    "not all are accounted for",
    "no end",
];

#[derive(Default)]
pub struct Tally {
    /// How often each law was broken, and how the first time.
    broken: BTreeMap<&'static str, (u64, String)>,
    /// Slot-milliseconds at a backlog.
    used: i64,
    possible: i64,
    approved: BTreeMap<IssueNo, Time>,
    waits: BTreeMap<Priority, Vec<Time>>,
    /// The order of these was changed, or they wait for others: their waits say nothing of
    /// their priority.
    touched: BTreeSet<IssueNo>,
    /// What people hold, by what they ordered.
    held: BTreeSet<IssueNo>,
    /// What must be merged before, by what people wrote.
    depends_on: BTreeMap<IssueNo, BTreeSet<IssueNo>>,
    merged: BTreeSet<IssueNo>,
    closed: u64,
    with_a_person: u64,
}

impl Tally {
    pub fn violation(&mut self, law: &'static str, what: impl FnOnce() -> String) {
        assert!(LAWS.contains(&law), "{law}");
        let broken = self.broken.entry(law);
        broken.or_insert_with(|| (0, what())).0 += 1;
    }

    pub fn violations(&self) -> u64 {
        self.broken.values().map(|(times, _)| times).sum()
    }

    /// Used of the possible slot-seconds at a backlog.
    pub fn utilisation(&self) -> f64 {
        match self.possible {
            0 => 1.0,
            possible => self.used as f64 / possible as f64,
        }
    }

    pub fn is_merged(&self, issue: IssueNo) -> bool {
        self.merged.contains(&issue)
    }

    pub fn held(&self) -> Vec<IssueNo> {
        self.held.iter().copied().collect()
    }

    pub fn merge(&mut self, issue: IssueNo) {
        if !self.merged.insert(issue) {
            self.violation("a merge twice", || format!("of issue {issue}"));
        }
        self.over(issue);
    }

    fn over(&mut self, issue: IssueNo) {
        self.held.remove(&issue);
        self.depends_on.remove(&issue);
    }
}

impl Sim {
    /// What people ordered, and was not refused.
    pub fn ordered(&mut self, command: &Command) {
        let (time, tally) = (self.time, &mut self.tally);
        match command {
            Command::NewIssue { body, done, .. } => {
                let number = IssueNo(self.world.state.meta.last_issue);
                let mut on: BTreeSet<_> = written_dependencies(body).unwrap().into_iter().collect();
                on.retain(|on| !done.contains(on));
                let touches = written_touches(body).unwrap();
                if !on.is_empty() || !touches.is_empty() {
                    tally.touched.insert(number);
                }
                tally.depends_on.insert(number, on);
            }
            Command::Depend { issue, on, off } => {
                let waits = tally.depends_on.entry(*issue).or_default();
                waits.extend(on);
                waits.retain(|on| !off.contains(on));
                tally.touched.insert(*issue);
            }
            Command::Approve(issue) => {
                tally.approved.entry(*issue).or_insert(time);
            }
            Command::Hold(issue) => {
                tally.held.insert(*issue);
                tally.touched.insert(*issue);
            }
            Command::Release(issue) => {
                tally.held.remove(issue);
            }
            Command::Bump(issue) | Command::Label { issue, .. } => {
                tally.touched.insert(*issue);
            }
            Command::CloseIssue(issue) => {
                tally.closed += 1;
                tally.over(*issue);
            }
            Command::Cancel(issue) => {
                tally.held.remove(issue);
                tally.touched.insert(*issue);
            }
            Command::RejectPr { .. } => {
                let jobs = &self.world.state.jobs;
                tally.held.retain(|issue| jobs.contains_key(issue));
            }
            Command::Comment { .. }
            | Command::Instruct { .. }
            | Command::EditIssue { .. }
            | Command::RequestChanges { .. }
            | Command::Retry(_)
            | Command::MergePr(_)
            | Command::Freeze
            | Command::Thaw => {}
        }
    }

    /// A run was granted: nothing forbade it.
    pub fn granted(&mut self, job: IssueNo, purpose: &Purpose) {
        let state = &self.world.state;
        let (slots, runs) = (state.slots(&self.observed()) as usize, state.runs.len());
        let taken: BTreeSet<u32> = state.runs.values().map(|run| run.slot).collect();
        let asked: u64 = state.runs.values().map(|run| run.requests.memory.0).sum();
        let beside = state.jobs.keys().copied();
        let beside = beside
            .filter(|other| overlaps(state, job, *other))
            .find(|_| {
                *purpose == Purpose::Code
                    && state.jobs[&job].rounds == 0
                    && state.issues[&job].runs == 1
            });
        let open = state.runs.values();
        let open = open
            .filter(|run| run.id.job == job && run.is_open())
            .count();
        let frozen = state.meta.frozen.is_some();
        let tally = &mut self.tally;
        if frozen {
            tally.violation("a run begun while all are stopped", || format!("job {job}"));
        }
        if runs > slots || taken.len() < runs {
            tally.violation("above slots", || format!("{runs} runs in {slots} slots"));
        }
        if runs > 1 && asked > CAPACITY.0 {
            let what = || format!("{} of {CAPACITY}", Bytes(asked));
            tally.violation("above capacity", what);
        }
        if let Some(other) = beside {
            let what = || format!("job {job} beside {other}");
            tally.violation("begun beside what touches the same", what);
        }
        if open > 1 {
            tally.violation("two runs of one job", || format!("job {job}"));
        }
        // A merge that is made goes on: others wait behind it.
        if !matches!(purpose, Purpose::MergeTest { .. }) {
            if tally.held.contains(&job) {
                tally.violation("a held job begun", || format!("job {job}, {purpose:?}"));
            }
            let waits = tally.depends_on.get(&job).into_iter().flatten();
            let first = waits.copied().find(|on| !tally.merged.contains(on));
            if let Some(on) = first {
                let what = || format!("job {job} before {on}");
                tally.violation("a dependent begun too early", what);
            }
        }
        if let Some(since) = tally.approved.insert(job, Time::MAX)
            && since < Time::MAX
            && !tally.touched.contains(&job)
        {
            let priority = Priority::of(&state.issues[&job]);
            let waits = tally.waits.entry(priority).or_default();
            waits.push(self.time - since);
        }
    }

    /// True while nothing but room keeps a job's next run from beginning.
    fn waits_for_room(&self, job: &Job) -> bool {
        let state = &self.world.state;
        let rested = job.rests_until(self.clock()).is_none();
        match job.stage() {
            due if due.is_due() => {
                let free = state.issues[&job.issue].depends_on.is_empty();
                let barred = state.queue.bar(job.issue).is_some();
                rested && free && !barred && job.held_by.is_none()
            }
            Stage::Proposed => job.pr.is_some_and(|pr| {
                rested && matches!(state.prs[&pr].state, PrState::Testing { run: None, .. })
            }),
            _ => false,
        }
    }

    /// How full the slots are until the next thing happens. What counts is the time in which
    /// there was enough to do for all of them, memory for each that waits, an engine, nobody
    /// had stopped all agents, and no breaker was open.
    pub fn reckon(&mut self, lasts: Time) {
        let state = &self.world.state;
        let mut breakers = state.meta.breakers.values();
        let paused = breakers.any(|breaker| breaker.tries_at.is_some());
        let stopped = state.meta.frozen.is_some() || paused;
        if lasts == 0 || self.time < self.engine_away || stopped {
            return;
        }
        let slots = state.slots(&self.observed()) as usize;
        let used = state.runs.len().min(slots);
        let asked: u64 = state.runs.values().map(|run| run.requests.memory.0).sum();
        let one = state.config.config.requests().memory.0;
        let left = CAPACITY.0.saturating_sub(asked);
        let (mut waiting, mut fit) = (0, true);
        for job in state.jobs.values().filter(|job| self.waits_for_room(job)) {
            waiting += 1;
            fit &= left >= if job.memory.is_some() { 2 * one } else { one };
            if waiting > slots && left >= 2 * one {
                break;
            }
        }
        if waiting > 0 && waiting >= slots - used && (fit || used == slots) {
            self.tally.used += used as i64 * lasts;
            self.tally.possible += slots as i64 * lasts;
        }
    }

    /// Everything is done: every issue is, or says why not.
    pub fn look_back(&mut self) {
        let state = &self.world.state;
        let needing: BTreeSet<IssueNo> = state.needing_human().collect();
        let noted: BTreeSet<IssueNo> = state
            .prs
            .values()
            .filter(|pr| pr.state == PrState::Ready && pr.note.is_some())
            .map(|pr| pr.issue)
            .collect();
        let tally = &mut self.tally;
        for issue in state.issues.values() {
            let rejected = issue.state == IssueState::Proposed && issue.has_label(REJECTED);
            let told = rejected
                || needing.contains(&issue.number)
                || noted.contains(&issue.number)
                // It waits for one that is with a person.
                || !issue.depends_on.is_empty()
                || state.queue.bar(issue.number).is_some();
            tally.with_a_person += 1;
            if !told {
                tally.violation("a job forgotten", || format!("{issue:?}"));
            }
        }
        let filed = state.meta.last_issue;
        let told = tally.merged.len() as u64 + tally.closed + tally.with_a_person;
        if told != filed || !state.runs.is_empty() || !self.world.containers.is_empty() {
            let runs = state.runs.len();
            let what = || format!("{told} of {filed} issues, {runs} runs are left");
            tally.violation("not all are accounted for", what);
        }
    }
}

/// The value below which `percent` of them are, in minutes.
fn below(sorted: &[Time], percent: usize) -> f64 {
    sorted[(sorted.len() - 1) * percent / 100] as f64 / MINUTE as f64
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (done, closed, left) = (self.merged.len(), self.closed, self.with_a_person);
        writeln!(
            f,
            "jobs done {done}, closed by people {closed}, with a person {left}"
        )?;
        let hours = |slot: i64| slot as f64 / (60 * MINUTE) as f64;
        let (used, possible) = (hours(self.used), hours(self.possible));
        let percent = 100.0 * self.utilisation();
        writeln!(
            f,
            "slots at a backlog: {percent:.2} % used, {used:.1} of {possible:.1} slot-hours"
        )?;
        writeln!(f, "minutes from approval to first run: median, 95 %")?;
        for priority in Priority::ALL {
            let mut waits = self.waits.get(&priority).cloned().unwrap_or_default();
            if waits.is_empty() {
                continue;
            }
            waits.sort_unstable();
            let (half, most) = (below(&waits, 50), below(&waits, 95));
            let (name, jobs) = (priority.as_str(), waits.len());
            writeln!(f, "  {name:<9}{half:>8.1}{most:>9.1}   {jobs} jobs")?;
        }
        writeln!(f, "violations: {}", self.violations())?;
        for (law, (times, first)) in &self.broken {
            writeln!(f, "  {law}: {times} times, first: {first}")?;
        }
        Ok(())
    }
}
