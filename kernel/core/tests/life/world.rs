//! A small world outside the state: containers, inboxes, branches. What happens
//! in it stays when the kernel dies; what the kernel knew of it does not.

mod account;
mod outside;

use crate::{
    filing::Filed,
    given::{Dice, engine, oid},
};
use account::Account;
use factory_core::{
    config::{Config, Gate},
    event::{EffectResult, Event, GrantFacts, MergeResult, Now, Refusal},
    ids::{IssueNo, Oid, PrNo, RunId},
    inbox::InboxEntry,
    model::{
        Change, Conflict, ContainerExit, EffectKind, IssueState, KernelId, Pr, PrState, Purpose,
        RunState, Stage, Tests,
    },
    plan::{Action, Observed, Seen, plan},
    rules::ToldPaths,
    state::{Put, State},
    step::{Step, step},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
};

/// What an effect does.
type Meaning = (String, Option<Oid>, Oid);

pub struct World {
    pub state: State,
    pub files: BTreeMap<String, Vec<u8>>,
    /// Everything that was journalled since the first state.
    pub log: Vec<(Event, Now)>,
    pub now: i64,
    pub dice: Dice,
    pub trouble: bool,
    pub containers: BTreeMap<RunId, Seen>,
    inbox: BTreeMap<RunId, Vec<(Oid, InboxEntry)>>,
    pub branches: BTreeMap<String, Oid>,
    pub target: Oid,
    oids: u64,
    started: BTreeSet<RunId>,
    pub merged: Vec<u64>,
    pub stopping: bool,
    /// Steps are decided twice, written and held against the laws; else only applied.
    pub thorough: bool,
    /// Every effect that was ever recorded.
    effects: BTreeMap<String, EffectKind>,
    /// Effects that changed something outside.
    changed: BTreeSet<String>,
    /// Merge commits by what they are made of, which always makes the same one.
    merges: BTreeMap<(PrNo, Oid, Oid, i64), (Oid, bool)>,
    /// Every run that was ever granted.
    granted: BTreeSet<RunId>,
    /// Runs whose job was given up.
    unwanted: BTreeSet<RunId>,
    /// What agents report, one after the other.
    pub reports: fn(RunId, &mut Dice) -> Vec<String>,
    /// What every commit changes, where nothing goes wrong.
    pub every_change: Change,
    /// What commits change.
    known: BTreeMap<Oid, Change>,
    pub filed: Filed,
    pub account: Account,
}

impl World {
    pub fn new(seed: u64, trouble: bool, config: Config) -> Self {
        let mut world = Self {
            state: State::new("repo".into(), "main".into()),
            files: BTreeMap::new(),
            log: Vec::new(),
            now: 0,
            dice: Dice::new(seed),
            trouble,
            containers: BTreeMap::new(),
            inbox: BTreeMap::new(),
            branches: BTreeMap::new(),
            target: oid(1),
            oids: 1,
            started: BTreeSet::new(),
            merged: Vec::new(),
            stopping: false,
            thorough: true,
            effects: BTreeMap::new(),
            changed: BTreeSet::new(),
            merges: BTreeMap::new(),
            granted: BTreeSet::new(),
            unwanted: BTreeSet::new(),
            reports: |_, _| Vec::new(),
            every_change: Change {
                files: 1,
                lines: 10,
                places: vec!["src".to_owned(), "src/a".to_owned()],
                too_large: false,
                with_base_tests: None,
            },
            known: BTreeMap::new(),
            filed: Filed::default(),
            account: Account::default(),
        };
        for change in world.state.initial_files() {
            world.files.insert(change.path, change.content.unwrap());
        }
        world.journal(Event::ConfigLoaded {
            commit: None,
            config: Box::new(config),
        });
        world.kernel_starts();
        world
    }

    pub fn oid(&mut self) -> Oid {
        self.oids += 1;
        oid(self.oids)
    }

    /// The state as its files have it.
    fn written(&self) -> State {
        let live = self
            .files
            .iter()
            .filter(|(p, _)| !p.starts_with("archive/"));
        State::decode(&live.map(|(p, c)| (p.clone(), c.clone())).collect()).unwrap()
    }

    /// What a step wrote is what it means.
    fn as_written(&self, changed: &BTreeMap<String, Vec<u8>>) {
        fn same<K: Ord + Debug, V: PartialEq + Debug>(
            written: &BTreeMap<K, V>,
            meant: &BTreeMap<K, V>,
        ) {
            for (key, value) in written {
                assert_eq!(Some(value), meant.get(key), "{key:?} as written");
            }
        }
        let live = changed.iter().filter(|(p, _)| !p.starts_with("archive/"));
        let written = State::decode(&live.map(|(p, c)| (p.clone(), c.clone())).collect()).unwrap();
        let meant = &self.state;
        assert_eq!(written.meta, meant.meta);
        same(&written.issues, &meant.issues);
        same(&written.comments, &meant.comments);
        same(&written.prs, &meant.prs);
        same(&written.jobs, &meant.jobs);
        same(&written.runs, &meant.runs);
        same(&written.effects, &meant.effects);
        same(&written.drafts, &meant.drafts);
    }

    /// A kernel takes the state from its files and adopts what lives.
    pub fn kernel_starts(&mut self) {
        let written = self.written();
        assert_eq!(
            written, self.state,
            "the one before knew more than the files"
        );
        self.state = written;
        let runs = self.state.runs.values().filter(|run| run.is_open());
        let lives = |id: &RunId| self.containers.get(id) == Some(&Seen::Running);
        let adopted = runs.map(|run| run.id).filter(lives).collect();
        assert!(self.journal(Event::KernelStarted {
            kernel: KernelId {
                host: "h".into(),
                pid: 1,
                boot: "b".into(),
                since: 0,
                start: None,
                slots: None,
                engine: None,
            },
            adopted,
        }));
    }

    /// Commits a step to the files, applies it, and holds both against each other.
    pub fn journal(&mut self, event: Event) -> bool {
        if !self.thorough {
            return self.apply(event);
        }
        self.now += 1;
        let now = Now(self.now);
        let before = self.state.meta.step;
        let Some(step) = decided(&self.state, &event, now) else {
            return false;
        };
        assert_eq!(
            Ok(&step),
            factory_core::step::step(&self.state, event.clone(), now).as_ref(),
            "not deterministic"
        );
        let mut changed = BTreeMap::new();
        for change in step.delta.files() {
            match change.content {
                Some(content) => {
                    changed.insert(change.path.clone(), content.clone());
                    self.files.insert(change.path, content)
                }
                None => {
                    changed.remove(&change.path);
                    self.files.remove(&change.path)
                }
            };
        }
        assert!(!step.note.contains('\n') && step.message().contains("\n\nFactory-Step: "));
        self.record(&step);
        self.nothing_pushed_is_lost(&step);
        self.filed.take(&self.state, &step.delta, now);
        self.account.take(&self.state, &step.delta, &event);
        for (id, put) in &step.delta.runs {
            if matches!(put, Put::Live(run) if matches!(event, Event::RunGranted { .. }) && run.id == *id)
            {
                assert!(self.granted.insert(*id), "{id} was granted twice");
            }
        }
        self.state.apply(step.delta);
        assert_eq!(self.state.meta.step, before + 1);
        self.as_written(&changed);
        self.log.push((event, now));
        self.laws();
        true
    }

    /// Decides and applies a step, and nothing else.
    fn apply(&mut self, event: Event) -> bool {
        let Some(step) = decided(&self.state, &event, Now(self.now)) else {
            return false;
        };
        self.record(&step);
        self.state.apply(step.delta);
        true
    }

    fn record(&mut self, step: &Step) {
        for (key, put) in &step.delta.effects {
            if let Put::Live(effect) = put {
                self.recorded(key, &effect.kind);
            }
        }
    }

    /// What a code run pushed is on its way to the branch when it ends, as long as its job lives.
    fn nothing_pushed_is_lost(&mut self, step: &Step) {
        for (id, put) in &step.delta.jobs {
            if matches!(put, Put::Archived(_)) {
                let runs = self.state.runs.keys().filter(|run| run.job == *id);
                self.unwanted.extend(runs);
            }
        }
        for put in step.delta.runs.values() {
            if let Put::Live(run) = put
                && !run.is_open()
                && run.purpose == Purpose::Code
                && run
                    .pushed
                    .as_ref()
                    .is_some_and(|new| *new != run.grant.start)
            {
                let id = run.id;
                let goes_on = self.effects.contains_key(&format!("branch-{id}"));
                assert!(goes_on || self.unwanted.contains(&id), "{id} pushed: lost");
            }
        }
    }

    /// A key names one effect for ever, also when the job it was for is archived.
    fn recorded(&mut self, key: &str, kind: &EffectKind) {
        if let Some(before) = self.effects.insert(key.to_owned(), kind.clone()) {
            assert_eq!(
                meaning(&before),
                meaning(kind),
                "{key} was given to two effects"
            );
        }
    }

    fn laws(&self) {
        let mut slots = BTreeSet::new();
        let count = self.state.slots(&self.observed());
        for run in self.state.runs.values() {
            assert!(slots.insert(run.slot), "two runs in slot {}", run.slot);
            assert!(run.slot < count, "more runs than slots");
        }
        for job in self.state.jobs.values() {
            // Two that are tried again without a round, and then as many as there are rounds.
            assert!(job.losses <= 2 + 3, "more losses than allowed");
            assert!(job.rounds <= 3, "more rounds than allowed");
            let issue = &self.state.issues[&job.issue];
            let is_approved = matches!(issue.state, IssueState::Approved { .. });
            assert!(is_approved, "a job without approval");
            let is_instruction = issue.instruction.is_some();
            assert_eq!(is_instruction, job.branch.is_empty(), "{job:?}");
        }
        for pr in self.state.prs.values() {
            let stage = self.state.jobs[&pr.issue].stage();
            let at_rest = matches!(stage, Stage::Proposed | Stage::NeedsHuman);
            let fits = match &pr.state {
                PrState::Ready => at_rest,
                PrState::Reworking => !at_rest,
                other => other.is_merging() && *stage == Stage::Proposed,
            };
            assert!(fits, "{:?} and {stage:?}", pr.state);
        }
    }

    /// Replays what was journalled from the first state: the same files, to the byte.
    pub fn assert_replay(&self) {
        let mut state = State::new("repo".into(), "main".into());
        let first = state.initial_files().into_iter();
        let mut files: BTreeMap<_, _> = first.map(|f| (f.path, f.content.unwrap())).collect();
        for (event, now) in &self.log {
            let made = step(&state, event.clone(), *now).unwrap();
            for change in made.delta.files() {
                match change.content {
                    Some(content) => files.insert(change.path, content),
                    None => files.remove(&change.path),
                };
            }
            state.apply(made.delta);
        }
        assert_eq!(state, self.state);
        assert_eq!(self.written(), self.state);
        assert_eq!(files, self.files);
    }

    pub fn push_inbox(&mut self, run: RunId, entry: InboxEntry) {
        let oid = self.oid();
        self.inbox.entry(run).or_default().push((oid, entry));
    }

    /// Journals what a run said since the last time.
    pub fn drain(&mut self, run: RunId) {
        let Some(live) = self.state.runs.get(&run) else {
            return;
        };
        let all = self.inbox.get(&run).cloned().unwrap_or_default();
        let from = live.inbox_seen.clone().map_or(0, |seen| {
            all.iter().position(|(oid, _)| *oid == seen).unwrap() + 1
        });
        if from < all.len() {
            let event = |from: usize| Event::Inbox {
                run,
                entries: all[from..].to_vec(),
            };
            assert!(self.journal(event(from)));
            for again in [from, 0, all.len()] {
                assert!(!self.journal(event(again)), "an inbox was taken twice");
            }
        }
    }

    /// Performs one action; a crash may cut it short before its journal entry.
    pub fn perform(&mut self, action: Action) {
        if let Action::Await(run) = &action {
            let running = matches!(
                self.state.runs.get(run).map(|r| &r.state),
                Some(RunState::Running { .. })
            );
            if running && self.trouble && self.dice.roll(20) == 0 {
                self.containers.remove(run);
            } else if self.state.runs.contains_key(run) {
                self.live(*run);
            }
            return;
        }
        let crash = self.trouble && self.dice.roll(8) == 0;
        let events = self.act(&action);
        if !crash {
            for event in events {
                self.take(event);
            }
        }
    }

    /// Takes the outcome of an action as the kernel does; tells whether it was journalled.
    pub fn take(&mut self, event: Event) -> bool {
        if let Event::ContainerEnded { run, .. } = &event {
            self.drain(*run);
        }
        self.journal(event)
    }

    pub fn observed(&self) -> Observed {
        Observed {
            containers: self.containers.clone(),
            engine: engine(),
            draining: self.stopping,
            stopping: self.stopping,
            ..Observed::default()
        }
    }

    /// What is to be done now.
    pub fn plan(&self) -> Vec<Action> {
        plan(&self.state, &self.observed(), Now(self.now))
    }

    /// Until somebody may go on that rests.
    pub fn wait(&mut self) {
        if let Some(at) = self.state.wakes_at(Now(self.now)) {
            self.now = at;
        }
    }

    pub fn until_idle(&mut self) {
        for _ in 0..5000 {
            let actions = self.plan();
            if actions.is_empty() {
                if self.state.wakes_at(Now(self.now)).is_some() {
                    self.wait();
                    continue;
                }
                assert!(self.state.is_idle(), "stuck: {:#?}", self.state);
                assert!(self.containers.is_empty());
                return;
            }
            let which = self.dice.roll(actions.len() as u64) as usize;
            self.perform(actions[which].clone());
        }
        panic!("no end: {:#?}", self.state);
    }

    /// What is not done is with a person, and says so.
    pub fn assert_told(&self) {
        for issue in self.state.issues.values() {
            let waits = issue.has_label("needs-human") || issue.has_label("rejected");
            let waits = waits || issue.run.is_some() && issue.state == IssueState::Proposed;
            let barred = self.state.queue.bar(issue.number).is_some();
            let asks = self.state.config.config.gates.merge == Gate::Human;
            let noted = |pr: &Pr| {
                pr.issue == issue.number
                    && (pr.note.is_some() || asks && pr.state == PrState::Ready)
            };
            let with_people = self.state.jobs.get(&issue.number).is_some_and(|job| {
                let is_lost = self.state.lost_dependency(job).is_some();
                let waits = matches!(
                    job.stage(),
                    Stage::PlanReady | Stage::SplitReady | Stage::Children
                );
                let for_others = job.stage().is_due() && !issue.depends_on.is_empty();
                job.held_by.is_some() || is_lost || waits || for_others
            });
            let gate = self.state.config.config.gates.issues == Gate::Human;
            let at_its_gate = gate && issue.state == IssueState::Proposed;
            let told = waits || barred || with_people || at_its_gate;
            let told = told || self.state.prs.values().any(noted);
            assert!(told, "forgotten: {issue:?}");
        }
        let unique = self.merged.iter().collect::<BTreeSet<_>>().len();
        assert_eq!(unique, self.merged.len(), "merged twice");
    }
}

/// A step, where it is not refused. Of those of the stages none is asked for that cannot be.
fn decided(state: &State, event: &Event, now: Now) -> Option<Step> {
    match step(state, event.clone(), now) {
        Ok(step) => Some(step),
        Err(Refusal::Illegal(illegal)) => panic!("{illegal}: {event:?} {state:#?}"),
        Err(_) => None,
    }
}

fn meaning(kind: &EffectKind) -> Meaning {
    match kind {
        EffectKind::MoveBranch {
            branch, old, new, ..
        } => (branch.clone(), old.clone(), new.clone()),
        EffectKind::AdvanceTarget {
            pr,
            branch,
            old,
            new,
            ..
        } => (format!("{branch} for {pr}"), Some(old.clone()), new.clone()),
    }
}
