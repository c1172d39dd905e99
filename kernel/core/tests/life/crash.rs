//! A kernel that does several things at once and dies at any point. What it knew
//! dies with it: the next one has the files and what it sees.

use crate::{
    filing,
    given::{Dice, config, file},
    pipeline,
    world::World,
};
use factory_core::{
    event::{Command, EffectResult, Event, Now},
    ids::{IssueNo, RunId},
    model::{ContainerExit, PrState, Purpose, RunState, Stage},
    plan::{Action, Seen},
};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// What the kernel is at: begun, done outside, not journalled yet.
struct Task {
    action: Action,
    outcome: Option<Vec<Event>>,
}

struct Kernel {
    world: World,
    tasks: BTreeMap<String, Task>,
}

/// Under one name an action is begun once at a time.
fn name(action: &Action) -> String {
    match action {
        Action::Grant { job, .. } => format!("grant {job}"),
        Action::Conclude(run, _) => format!("conclude {run}"),
        other => format!("{other:?}"),
    }
}

/// The run that an action is about.
fn run_of(action: &Action) -> Option<RunId> {
    match action {
        Action::Spawn(run)
        | Action::Await(run)
        | Action::Stop(run)
        | Action::Conclude(run, _)
        | Action::Kill(run)
        | Action::Collect(run)
        | Action::RemoveStray(run)
        | Action::Journal(Event::RunRunning { run }) => Some(*run),
        Action::Journal(_)
        | Action::Grant { .. }
        | Action::Perform(_)
        | Action::Merge(_)
        | Action::Compare(_) => None,
    }
}

/// Events that are refused when they come a second time.
fn comes_once(event: &Event) -> bool {
    !matches!(
        event,
        Event::EffectDone {
            // Recorded again under its key; what it does stays the same.
            result: EffectResult::WorktreeChanged { .. },
            ..
        } | Event::Command {
            command: Command::NewIssue { .. }
                | Command::Instruct { .. }
                | Command::EditIssue { .. }
                | Command::Depend { .. }
                | Command::Bump(_)
                | Command::Comment { .. },
            ..
        }
    )
}

impl Kernel {
    fn new(seed: u64, issues: usize) -> Self {
        let mut config = match seed % 3 {
            0 => config(true),
            _ => pipeline::config(&mut Dice::new(seed)),
        };
        config.types.worker.per_day.issues = 2;
        let mut world = World::new(seed, true, config);
        world.reports = filing::random;
        for n in 0..issues {
            file(&mut world, &format!("Issue number {n}"));
        }
        Self {
            world,
            tasks: BTreeMap::new(),
        }
    }

    fn roll(&mut self, sides: usize) -> usize {
        self.world.dice.roll(sides as u64) as usize
    }

    /// One of these, if there is any.
    fn pick<T>(&mut self, mut of: Vec<T>) -> Option<T> {
        match of.len() {
            0 => None,
            n => Some(of.swap_remove(self.roll(n))),
        }
    }

    fn turn(&mut self) {
        match self.roll(100) {
            0..4 => self.crash(),
            4..8 => self.person(),
            8 => self.user(),
            9 => self.clock(),
            10..25 => self.agent(),
            25..30 => {
                let runs = self.world.state.runs.values().filter(|run| run.is_open());
                let runs = runs.map(|run| run.id).collect();
                if let Some(run) = self.pick(runs) {
                    self.world.drain(run);
                }
            }
            30..60 => {
                let new = self.world.plan().into_iter();
                let new = new.filter(|action| !self.tasks.contains_key(&name(action)));
                let new = new.collect();
                if let Some(action) = self.pick(new) {
                    self.begin(action);
                }
            }
            _ => {
                let tasks = self.tasks.keys().cloned().collect();
                if let Some(task) = self.pick(tasks) {
                    self.go_on(&task);
                }
            }
        }
    }

    /// Journals at once, as the kernel does; all else becomes a task. What those
    /// that only look up and make have found may be old when it is journalled.
    fn begin(&mut self, action: Action) {
        let outcome = match &action {
            Action::Journal(event) => return self.deliver(event.clone()),
            Action::Grant { .. } | Action::Merge(_) => Some(self.world.act(&action)),
            _ => None,
        };
        self.tasks.insert(name(&action), Task { action, outcome });
    }

    fn go_on(&mut self, name: &str) {
        let Some(mut task) = self.tasks.remove(name) else {
            return;
        };
        match (task.outcome.take(), run_of(&task.action)) {
            (Some(events), _) => events.into_iter().for_each(|event| self.deliver(event)),
            (None, Some(run))
                if matches!(task.action, Action::Await(_))
                    && self.world.containers.get(&run) == Some(&Seen::Running) =>
            {
                self.tasks.insert(name.to_owned(), task);
            }
            (None, _) => {
                task.outcome = Some(self.world.act(&task.action));
                self.tasks.insert(name.to_owned(), task);
            }
        }
    }

    /// Journals an event; one that landed and comes again changes nothing.
    fn deliver(&mut self, event: Event) {
        if self.world.take(event.clone()) && comes_once(&event) {
            let said = format!("{event:?}");
            assert!(!self.world.journal(event), "taken twice: {said}");
        }
        self.old_event();
    }

    /// Something that was journalled before comes once more.
    fn old_event(&mut self) {
        let over = |(event, _): &&(Event, Now)| {
            matches!(
                event,
                Event::RunRunning { .. }
                    | Event::ContainerEnded { .. }
                    | Event::RunCollected { .. }
                    | Event::EffectDone {
                        result: EffectResult::Done
                            | EffectResult::Moved { .. }
                            | EffectResult::TargetMoved
                            | EffectResult::BranchTaken { .. },
                        ..
                    }
            )
        };
        let old = self.world.log.iter().filter(over);
        let old: Vec<Event> = old.map(|(event, _)| event.clone()).collect();
        if let Some(event) = self.pick(old) {
            let said = format!("{event:?}");
            assert!(!self.world.journal(event), "taken late: {said}");
        }
    }

    /// A running container's agent does its work, or the container just goes.
    fn agent(&mut self) {
        let lives = self.world.containers.iter();
        let lives = lives.filter(|(_, seen)| **seen == Seen::Running);
        let lives = lives.map(|(run, _)| *run).collect();
        let Some(run) = self.pick(lives) else { return };
        let known = self.world.state.runs.get(&run).map(|run| run.state.clone());
        match self.roll(12) {
            // One that vanishes before it is known to run is made once more.
            0 if matches!(known, Some(RunState::Running { .. })) => {
                self.world.containers.remove(&run);
            }
            _ if known.is_some() => self.world.live(run),
            _ => {
                let exit = ContainerExit {
                    code: 0,
                    oom: false,
                };
                self.world.containers.insert(run, Seen::Exited(exit));
            }
        }
    }

    fn person(&mut self) {
        if let Some(command) = pipeline::order(&mut self.world) {
            self.deliver(pipeline::by_ann(command));
        }
    }

    /// The user moves a branch or the target.
    fn user(&mut self) {
        let oid = self.world.oid();
        let branches: Vec<String> = self.world.branches.keys().cloned().collect();
        match self.pick(branches) {
            Some(branch) if self.roll(2) == 0 => {
                self.world.branches.insert(branch, oid);
            }
            _ => self.world.target = oid,
        }
    }

    /// The clock is set, to and fro.
    fn clock(&mut self) {
        let by = self.roll(100_000) as i64;
        let sign = if self.roll(2) == 0 { 1 } else { -1 };
        self.world.now += sign * by;
    }

    /// The kernel dies and starts again. Whatever it was at or would have begun
    /// is wanted by the next one, or there is no reason for it any more.
    fn crash(&mut self) {
        let mut wanted = self.world.plan();
        let tasks = std::mem::take(&mut self.tasks);
        wanted.extend(tasks.into_values().map(|task| task.action));
        self.world.kernel_starts();
        let plan = self.world.plan();
        for action in wanted {
            let lost = !plan.contains(&action) && self.has_reason(&action, &plan);
            assert!(!lost, "lost: {action:?}; planned instead: {plan:#?}");
        }
    }

    /// Whether there is a reason for `action` that `plan` does not meet otherwise.
    fn has_reason(&self, action: &Action, plan: &[Action]) -> bool {
        let state = &self.world.state;
        let about = |run| plan.iter().any(|other| run_of(other) == Some(run));
        match action {
            // Its event was derived from the state, which is the same.
            Action::Journal(_) => true,
            Action::Grant { job, purpose, .. } => {
                let given = plan.iter().filter_map(|other| match other {
                    Action::Grant { job, .. } => Some(*job),
                    _ => None,
                });
                let given: Vec<IssueNo> = given.collect();
                // Two slots.
                let full = given.len() + state.runs.len() >= 2;
                let waits = state.jobs.get(job).is_some_and(|found| {
                    let rested = found.not_before.is_none_or(|at| at <= self.world.now);
                    rested
                        && match (purpose, found.stage()) {
                            (Purpose::MergeTest { pr }, Stage::Proposed) => {
                                state.prs.get(pr).is_some_and(|pr| {
                                    matches!(pr.state, PrState::Testing { run: None, .. })
                                })
                            }
                            (purpose, due) => {
                                let is_due = due.is_due() && state.queue.holds(*job);
                                is_due && due.purpose().as_ref() == Some(purpose)
                            }
                        }
                });
                let mut breakers = state.meta.breakers.values();
                let paused = purpose.role().has_engine() && breakers.any(|b| b.tries_at.is_some());
                waits && !full && !paused && !given.contains(job)
            }
            Action::Spawn(run)
            | Action::Await(run)
            | Action::Stop(run)
            | Action::Conclude(run, _)
            | Action::Kill(run)
            | Action::Collect(run)
            | Action::RemoveStray(run) => {
                let there = state.runs.contains_key(run) || self.world.containers.contains_key(run);
                there && !about(*run)
            }
            Action::Perform(key) => state.effects.contains_key(key),
            Action::Compare(job) => state
                .jobs
                .get(job)
                .is_some_and(|job| matches!(job.stage(), Stage::Opening { .. })),
            Action::Merge(pr) => {
                let queued = matches!(
                    state.prs.get(pr).map(|pr| &pr.state),
                    Some(PrState::Queued { .. })
                );
                // Another one's turn came first.
                let others = plan.iter().any(|other| matches!(other, Action::Merge(_)));
                let busy = state.prs.values().any(|pr| {
                    matches!(
                        pr.state,
                        PrState::Testing { .. } | PrState::Advancing { .. }
                    )
                });
                queued && !others && !busy
            }
        }
    }

    /// No more trouble: everything comes to its end.
    fn calm(&mut self) {
        self.world.trouble = false;
        self.crash();
        self.world.until_idle();
        self.world.assert_told();
        self.world.assert_replay();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]
    /// Whatever is under way when the kernel dies, nothing is lost, nothing
    /// happens twice, and what was journalled gives the same state again.
    #[test]
    fn a_crash_loses_nothing(seed in any::<u64>(), issues in 1usize..5, turns in 0usize..400) {
        let mut kernel = Kernel::new(seed, issues);
        for _ in 0..turns {
            kernel.turn();
        }
        kernel.calm();
    }
}

/// Where a kernel dies, counted in events.
#[derive(Debug, Clone, Copy)]
enum Dies {
    /// What the event tells of is done, and not journalled.
    Before(usize),
    /// The event is journalled, and nothing else.
    After(usize),
    Never,
}

/// What is left when everything is done. No run is made twice for a kernel's sake.
#[derive(Debug, PartialEq, Eq)]
struct End {
    merged: BTreeSet<u64>,
    branches: Vec<String>,
    archive: BTreeSet<String>,
    open: usize,
}

/// Two issues from filed to merged, always what is planned first. Gives the
/// end, and how many events it took.
fn told(dies: Dies) -> (End, usize) {
    let mut world = World::new(7, false, config(true));
    file(&mut world, "One");
    file(&mut world, "Two");
    let mut events = 0;
    while let Some(action) = world.plan().into_iter().next() {
        let outcome = match action {
            Action::Await(run) => {
                world.live(run);
                continue;
            }
            action => world.act(&action),
        };
        for event in outcome {
            events += 1;
            if matches!(dies, Dies::Before(at) if at == events) {
                world.kernel_starts();
                break;
            }
            world.take(event);
            if matches!(dies, Dies::After(at) if at == events) {
                world.kernel_starts();
            }
        }
        assert!(events < 200, "no end");
    }
    world.assert_replay();
    assert!(world.state.is_idle() && world.containers.is_empty());
    let archive = world
        .files
        .keys()
        .filter(|path| path.starts_with("archive/"));
    let end = End {
        merged: world.merged.iter().copied().collect(),
        branches: world.branches.keys().cloned().collect(),
        archive: archive.cloned().collect(),
        open: world.state.issues.len(),
    };
    assert_eq!(end.merged.len(), world.merged.len());
    (end, events)
}

#[test]
fn a_crash_before_or_after_any_event_changes_nothing() {
    let (undisturbed, events) = told(Dies::Never);
    assert_eq!(undisturbed.merged, [1, 2].into());
    assert_eq!(undisturbed.open, 0);
    assert!(events > 20, "{events}");
    for at in 1..=events {
        for dies in [Dies::Before(at), Dies::After(at)] {
            assert_eq!(told(dies).0, undisturbed, "{dies:?}");
        }
    }
}
