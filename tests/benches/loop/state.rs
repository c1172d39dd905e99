//! A journalled step beside a commit of the same files by libgit2 alone, with
//! nothing archived and with a long past.

use crate::{
    archive::Past,
    life::{self, ARCHIVING, STEPS},
    raw::Raw,
    table::{Table, Values},
};
use factory_core::{
    event::{Command, Event, Now},
    ids::Oid,
    state::{Delta, State},
    step::step,
};
use factory_ledger::{
    pack::{self, Depth, Which},
    places::Places,
    state::StateRepo,
};
use git2::Repository;
use std::{path::Path, time::Instant};
use tempfile::TempDir;

/// Open issues: what a step finds in the state.
const ISSUES: u64 = 50;
/// Lives that are measured.
const LIVES: u64 = 30;
/// Archived runs of the state with a past.
const ARCHIVED: u64 = 100_000;
/// Most that a step may cost beside bare libgit2, whatever is archived.
const MOST: f64 = 1.5;
/// Most that a long past may add to a step.
const GROWTH: f64 = 1.2;

/// A state, and beside it bare libgit2 with the same files.
struct Pair {
    _dir: TempDir,
    places: Places,
    store: StateRepo,
    head: Oid,
    state: State,
    raw: Raw,
    /// Milliseconds per step, by life.
    ours: Values,
    floor: Values,
    /// Of single steps that archive something.
    archiving: Values,
    archiving_floor: Values,
}

impl Pair {
    /// A state with open issues and the past of so many jobs.
    fn new(live: &State, past: &Past, jobs: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let places = Places::below(dir.path());
        places.ensure_dirs().unwrap();
        let store = StateRepo::init(&places).unwrap();
        let mut state = live.clone();
        state.meta.last_issue += jobs;
        state.meta.last_pr += jobs;
        let mut files = state.initial_files();
        // The open issues come after the archived ones.
        for (number, issue) in std::mem::take(&mut state.issues) {
            let number = factory_core::ids::IssueNo(number.0 + jobs);
            let issue = factory_core::model::Issue { number, ..issue };
            state.issues.insert(number, issue);
        }
        let open = state.issues.iter();
        let open = Delta {
            issues: open
                .map(|(n, issue)| (*n, factory_core::state::Put::Live(issue.clone())))
                .collect(),
            ..Delta::default()
        };
        files.extend(open.files());
        let head = past.write(store.path(), &files, jobs);
        let bare = dir.path().join("raw.git");
        Repository::init_bare(&bare).unwrap();
        take_over(store.path(), &bare, &head);
        let raw = Raw::make(&bare);
        Self {
            store,
            head: head.to_string().parse().unwrap(),
            state,
            raw,
            _dir: dir,
            places,
            ours: Values::default(),
            floor: Values::default(),
            archiving: Values::default(),
            archiving_floor: Values::default(),
        }
    }

    /// Bytes of objects, packed as the kernel does it in the background.
    fn packed(&self) -> u64 {
        assert!(pack::pack(&self.places, Which::State, Depth::Quick, 0).unwrap());
        let size = |dir: std::fs::ReadDir| -> u64 {
            let files = dir.map(|entry| entry.unwrap().metadata().unwrap());
            files
                .filter(|meta| meta.is_file())
                .map(|meta| meta.len())
                .sum()
        };
        size(std::fs::read_dir(self.store.path().join("objects/pack")).unwrap())
    }

    /// One step by both; which comes first alternates. Gives their milliseconds.
    fn step(&mut self, event: Event, now: i64) -> (f64, f64) {
        let before = self.state.clone();
        let mut took = (0.0, 0.0);
        for ours in [now % 2 == 0, now % 2 != 0] {
            if ours {
                let event = event.clone();
                let began = Instant::now();
                let made = step(&self.state, event, Now(now)).unwrap();
                let landed = self
                    .store
                    .commit(Some(&self.head), &made.delta.files(), &made.message(), now)
                    .unwrap();
                self.head = landed.oid().clone();
                self.state.apply(made.delta.clone());
                took.0 = began.elapsed().as_secs_f64() * 1e3;
            } else {
                let made = step(&before, event.clone(), Now(now)).unwrap();
                let files = self.raw.possible(made.delta.files());
                let began = Instant::now();
                self.raw.commit(&files, &made.message());
                took.1 = began.elapsed().as_secs_f64() * 1e3;
            }
        }
        took
    }
}

/// Brings the one pack and `refs/state` of a repository to another.
fn take_over(from: &Path, to: &Path, head: &git2::Oid) {
    for entry in std::fs::read_dir(from.join("objects/pack")).unwrap() {
        let entry = entry.unwrap();
        let copy = to.join("objects/pack").join(entry.file_name());
        std::fs::copy(entry.path(), copy).unwrap();
    }
    let to = Repository::open_bare(to).unwrap();
    to.reference("refs/state", *head, false, "").unwrap();
}

/// A state with open issues only, and what one life leaves behind.
fn begin() -> (State, Past) {
    let mut state = State::new("bench".to_owned(), "main".to_owned());
    let mut journal = |event| {
        let made = step(&state, event, Now(0)).unwrap();
        state.apply(made.delta.clone());
        made.delta
    };
    journal(Event::ConfigLoaded {
        commit: None,
        config: Box::new(life::config()),
    });
    let past: Vec<Delta> = (0..STEPS).map(|k| journal(life::event(k, 1, 1))).collect();
    for n in 0..ISSUES {
        journal(Event::Command {
            by: "Uma User".to_owned(),
            command: Command::NewIssue {
                title: format!("Open issue {n}"),
                body: "What is asked for.\n".repeat(20),
                labels: Vec::new(),
                done: Vec::new(),
            },
        });
    }
    (state, Past::of(&past))
}

/// Lives of jobs, step by step in turns: without and with a past, ours and bare.
pub fn measure(table: &mut Table) {
    let (live, past) = begin();
    let began = Instant::now();
    let mut pairs = [0, ARCHIVED / past.runs()].map(|jobs| Pair::new(&live, &past, jobs));
    let built = began.elapsed();
    let mut now = 0;
    let before = pairs[0].packed();
    for life in 0..=LIVES {
        let next = pairs
            .each_ref()
            .map(|p| (p.state.meta.last_issue + 1, p.state.meta.last_pr + 1));
        let mut sums = [(0.0, 0.0); 2];
        for k in 0..STEPS {
            now += 1;
            for ((pair, sum), (issue, pr)) in pairs.iter_mut().zip(&mut sums).zip(next) {
                let (ours, raw) = pair.step(life::event(k, issue, pr), now);
                *sum = (sum.0 + ours, sum.1 + raw);
                // The first life fills caches and is not counted.
                if life > 0 && ARCHIVING.contains(&k) {
                    pair.archiving.0.push(ours);
                    pair.archiving_floor.0.push(raw);
                }
            }
        }
        for (pair, (ours, raw)) in pairs.iter_mut().zip(sums).filter(|_| life > 0) {
            pair.ours.0.push(ours / STEPS as f64);
            pair.floor.0.push(raw / STEPS as f64);
        }
    }
    table.times("A journalled step, mean over the life of a job, ms");
    let [young, old] = &pairs;
    for (name, pair) in [("nothing archived", young), ("100,000 archived runs", old)] {
        let row = |what| format!("{name}: {what}");
        table.row(&row("bare libgit2, the same files, fsynced"), &pair.floor);
        table.row(
            &row("step + commit + apply, as the kernel does"),
            &pair.ours,
        );
        let beside = pair.ours.beside(&pair.floor).median();
        table.limit("beside bare libgit2", beside, MOST, " x");
        table.row(&row("only steps that archive, bare"), &pair.archiving_floor);
        table.row(&row("only steps that archive"), &pair.archiving);
        let beside = pair.archiving.beside(&pair.archiving_floor).median();
        table.limit("beside bare libgit2", beside, MOST, " x");
    }
    let growth = old.ours.beside(&young.ours).median();
    table.limit("growth with the past", growth, GROWTH, " x");
    let archiving = old.archiving.beside(&young.archiving).median();
    table.ratio_of("only steps that archive", archiving);
    let grown = (young.packed() - before) as f64 / 1024.0 / (LIVES + 1) as f64;
    table.line(
        "a job in state.git, packed",
        [String::new(), format!("{grown:.1} KiB")],
    );
    table.line(
        "building both states",
        [String::new(), format!("{:.1} s", built.as_secs_f64())],
    );
}
