//! `make sim`: thousands of jobs on the real core, in virtual time. Nothing sleeps: the
//! next thing that happens is taken from a line of what is to come, and time is set to it.

mod agents;
mod people;
mod tally;
mod trouble;

use crate::world::World;
use agents::End;
use factory_core::{
    config::{Amounts, Config, Gate, Gates, Given, Slots},
    event::{Command, EffectResult, Event, MergeResult, Now},
    ids::{IssueNo, RunId},
    model::EffectKind,
    plan::{Action, Observed, Seen, plan},
    quantity::{Bytes, Milli},
};
use std::{
    collections::BTreeMap,
    hash::{BuildHasher, Hasher, RandomState},
    time::Instant,
};
use tally::Tally;
use trouble::{Outage, Trouble};

/// Virtual time in milliseconds. It never goes back; the factory's clock may.
type Time = i64;

const SECOND: Time = 1000;
const MINUTE: Time = 60 * SECOND;
const HOUR: Time = 60 * MINUTE;

/// At a backlog, this much of the possible slot-seconds is used at least.
const UTILISATION: f64 = 0.99;

/// Odd, with ones and zeros all over.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Memory that the factory may use: a little more than what 16 runs ask for, of which some
/// ask for twice as much.
const CAPACITY: Bytes = Bytes(18 << 30);

/// What is to come.
enum Happens {
    /// A task of the kernel with this number is done.
    Done { kernel: u32, task: String },
    /// A run's checkpoint is saved.
    Saved(RunId),
    /// A run comes to its end.
    Ends(RunId, End),
    /// A person does what was decided before.
    Ordered(Command),
    /// People file issues.
    Filed,
    /// A person looks at what needs one.
    Looked,
    /// A person changes the order of the work.
    Meddled,
    /// Something goes wrong.
    Trouble(Trouble),
    /// The provider answers again.
    ProviderBack,
    /// Time to look again.
    Again,
}

/// What the kernel is at.
struct Task {
    action: Action,
    /// What is journalled then, where that is known already.
    outcome: Option<Vec<Event>>,
}

struct Sim {
    world: World,
    time: Time,
    /// Seconds by which the factory's clock is wrong.
    skew: i64,
    coming: BTreeMap<(Time, u64), Happens>,
    scheduled: u64,
    tasks: BTreeMap<String, Task>,
    /// Which kernel works: what one that died was at is nobody's.
    kernel: u32,
    /// The container engine does not answer until then.
    engine_away: Time,
    outage: Option<Outage>,
    /// Issues that are still to be filed.
    to_file: u64,
    /// Nothing goes wrong any more, and people only finish what there is.
    calm: bool,
    /// How often people tried again.
    tries: BTreeMap<IssueNo, u32>,
    tally: Tally,
}

impl Sim {
    fn new(seed: u64, jobs: u64) -> Self {
        let mut sim = Self {
            // Numbers that differ little give choices that differ.
            world: World::new(seed.wrapping_mul(SPREAD), false, config(16)),
            time: 0,
            skew: 0,
            coming: BTreeMap::new(),
            scheduled: 0,
            tasks: BTreeMap::new(),
            kernel: 0,
            engine_away: 0,
            outage: None,
            to_file: jobs,
            calm: false,
            tries: BTreeMap::new(),
            tally: Tally::default(),
        };
        sim.world.thorough = false;
        sim.kernel_dies();
        sim.after(0, Happens::Filed);
        sim.after(10 * MINUTE, Happens::Looked);
        sim.after(5 * MINUTE, Happens::Meddled);
        for trouble in Trouble::ALL {
            sim.comes(trouble);
        }
        sim
    }

    fn roll(&mut self, sides: i64) -> i64 {
        self.world.dice.roll(sides as u64) as i64
    }

    /// From `least` to `most`.
    fn between(&mut self, least: i64, most: i64) -> i64 {
        least + self.roll(most - least + 1)
    }

    /// True `percent` times of a hundred.
    fn chance(&mut self, percent: i64) -> bool {
        self.roll(100) < percent
    }

    fn after(&mut self, time: Time, what: Happens) {
        self.scheduled += 1;
        let key = (self.time + time, self.scheduled);
        self.coming.insert(key, what);
    }

    /// The factory's clock.
    fn clock(&self) -> Now {
        Now(self.time / SECOND + self.skew)
    }

    fn observed(&self) -> Observed {
        Observed {
            containers: self.world.containers.clone(),
            engine: Amounts {
                memory: Bytes(64 << 30),
                cpus: Milli(8000),
            },
            ..Observed::default()
        }
    }

    /// Until everything is done or with a person.
    fn run(&mut self) {
        loop {
            self.settle();
            let now = self.clock();
            let wakes = self.world.state.wakes_at(now);
            let wakes = wakes.map(|at| ((at - self.skew) * SECOND).max(self.time + 1));
            let Some((&(next, _), _)) = self.coming.first_key_value() else {
                break;
            };
            let next = wakes.map_or(next, |at| at.min(next));
            self.reckon(next - self.time);
            self.time = next;
            if self.time > 1000 * 24 * HOUR {
                self.tally
                    .violation("no end", || format!("after {next} ms"));
                break;
            }
            while let Some(entry) = self.coming.first_entry() {
                if entry.key().0 > next {
                    break;
                }
                let what = entry.remove();
                self.happens(what);
            }
        }
        self.look_back();
    }

    fn happens(&mut self, what: Happens) {
        match what {
            Happens::Done { kernel, task } if kernel == self.kernel => self.done(&task),
            Happens::Done { .. } | Happens::Again => {}
            Happens::Saved(run) => self.saved(run),
            Happens::Ends(run, end) => self.ends(run, end),
            Happens::Ordered(command) => {
                self.order(command);
            }
            Happens::Filed => self.file_some(),
            Happens::Looked => self.look(),
            Happens::Meddled => self.meddle(),
            Happens::Trouble(trouble) => self.trouble(trouble),
            Happens::ProviderBack => self.outage = None,
        }
    }

    /// Journals and begins what is planned, as the kernel does.
    fn settle(&mut self) {
        loop {
            let mut again = false;
            for action in plan(&self.world.state, &self.observed(), self.clock()) {
                match action {
                    Action::Journal(event) => again |= self.deliver(event),
                    // Its end comes by itself.
                    Action::Await(_) => {}
                    action => self.begin(action),
                }
            }
            if !again {
                return;
            }
        }
    }

    fn begin(&mut self, action: Action) {
        let task = match &action {
            Action::Grant { job, .. } => format!("grant {job}"),
            Action::Conclude(run, _) => format!("conclude {run}"),
            other => format!("{other:?}"),
        };
        if self.tasks.contains_key(&task) {
            return;
        }
        let outcome = match &action {
            // May be old when it is journalled.
            Action::Grant { .. } => Some(self.world.act(&action)),
            Action::Merge(pr) => Some(match self.roll(100) {
                0..2 => {
                    let (pr, why) = (*pr, "it failed again and again".to_owned());
                    vec![Event::MergeFailed { pr, why }]
                }
                2..7 => vec![Event::MergeMade {
                    pr: *pr,
                    target: self.world.target.clone(),
                    result: MergeResult::Conflict {
                        paths: vec!["a.txt".to_owned()],
                    },
                }],
                _ => self.world.act(&action),
            }),
            _ => None,
        };
        let takes = match &action {
            Action::Grant { .. } => self.between(20, 200),
            Action::Spawn(_) => self.between(500, 3000),
            Action::Kill(_) | Action::Stop(_) => self.between(100, 10_000),
            Action::Collect(_) | Action::RemoveStray(_) => self.between(50, 800),
            Action::Merge(_) | Action::Compare(_) => self.between(50, 1000),
            Action::Journal(_) | Action::Await(_) | Action::Conclude(..) | Action::Perform(_) => {
                self.between(5, 100)
            }
        };
        if let Action::Grant { job, .. } = &action
            && self.chance(2)
        {
            self.interrupt(*job, takes);
        }
        let kernel = self.kernel;
        self.tasks.insert(task.clone(), Task { action, outcome });
        self.after(takes, Happens::Done { kernel, task });
    }

    fn done(&mut self, name: &str) {
        let of_engine = |action: &Action| {
            matches!(
                action,
                Action::Spawn(_)
                    | Action::Kill(_)
                    | Action::Stop(_)
                    | Action::Collect(_)
                    | Action::RemoveStray(_)
            )
        };
        let Some(task) = self.tasks.remove(name) else {
            return;
        };
        if self.time < self.engine_away && of_engine(&task.action) {
            // It failed, and is planned again when the engine answers.
            let until = self.engine_away - self.time;
            let (kernel, task) = (self.kernel, (name.to_owned(), task));
            self.tasks.insert(task.0.clone(), task.1);
            let again = Happens::Done {
                kernel,
                task: task.0,
            };
            return self.after(until, again);
        }
        let outcome = match task.outcome {
            Some(outcome) => outcome,
            None => self.world.act(&task.action),
        };
        for event in outcome {
            self.deliver(event);
        }
        if let Action::Spawn(run) = task.action
            && self.world.containers.get(&run) == Some(&Seen::Running)
        {
            self.lives(run);
        }
    }

    /// Journals an event, as the kernel does; tells whether it was not refused.
    fn deliver(&mut self, event: Event) -> bool {
        self.world.now = self.clock().0;
        // What is archived by the event cannot be looked up afterwards.
        let advanced = self.issue_of_merge(&event);
        if !self.world.take(event.clone()) {
            return false;
        }
        if let Some(issue) = advanced {
            self.tally.merge(issue);
        }
        match event {
            Event::RunGranted { job, purpose, .. } => self.granted(job, &purpose),
            Event::Command { command, .. } => self.ordered(&command),
            _ => {}
        }
        true
    }

    /// The issue that is done, where an event tells of a merge that reached its target.
    fn issue_of_merge(&self, event: &Event) -> Option<IssueNo> {
        let state = &self.world.state;
        let pr = match event {
            Event::EffectDone {
                key,
                result: EffectResult::Done,
            } => match &state.effects.get(key)?.kind {
                EffectKind::AdvanceTarget { pr, .. } => *pr,
                EffectKind::MoveBranch { .. } => return None,
            },
            Event::MergeMade {
                pr,
                result: MergeResult::AlreadyMerged,
                ..
            } => *pr,
            _ => return None,
        };
        Some(state.prs.get(&pr)?.issue)
    }

    fn order(&mut self, command: Command) -> bool {
        let by = "ann".to_owned();
        self.deliver(Event::Command { by, command })
    }
}

fn config(slots: u32) -> Config {
    let gates = Gates {
        issues: Gate::Human,
        plan: Gate::Auto,
        merge: Gate::Human,
    };
    Config {
        slots: Slots::Fixed(slots),
        checks: vec!["make test".into()],
        gates,
        capacity: Given {
            memory: Some(CAPACITY),
            cpus: None,
        },
        ..Config::default()
    }
}

/// Plays it to its end, prints what came of it, and gives the line that programs read.
fn play(seed: u64, jobs: u64) -> String {
    let began = Instant::now();
    println!("seed: SEED={seed} JOBS={jobs} make sim");
    let mut sim = Sim::new(seed, jobs);
    sim.run();
    print!("{}", sim.tally);
    let hours = sim.time / HOUR;
    let (events, took) = (sim.world.state.meta.step, began.elapsed().as_secs_f64());
    println!("{events} events of {hours} hours took {took:.1} s");
    let (used, violations) = (sim.tally.utilisation(), sim.tally.violations());
    let line = format!(
        "jobs={jobs} events={events} utilisation={used:.4} violations={violations} seed={seed}"
    );
    println!("{line}");
    assert_eq!(violations, 0, "violations");
    assert!(used >= UTILISATION, "slots were left empty at a backlog");
    line
}

#[test]
fn two_hundred_jobs_keep_the_slots_full_and_break_no_limit() {
    let line = play(5, 200);
    assert_eq!(line, play(5, 200), "the same seed, another end");
}

/// `make sim`.
#[test]
#[ignore = "thousands of jobs: make sim"]
fn soak() {
    let given = |name| std::env::var(name).unwrap_or_default();
    let seed = match given("FACTORY_SEED").trim() {
        // The hasher's keys are the system's random numbers.
        "" => RandomState::new().build_hasher().finish(),
        number => number.parse().unwrap(),
    };
    let line = play(seed, given("FACTORY_JOBS").trim().parse().unwrap_or(5000));
    if let Some(result) = std::env::var_os("FACTORY_SOAK_RESULT") {
        std::fs::write(result, line + "\n").unwrap();
    }
}
