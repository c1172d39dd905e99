//! From an approved issue to the first instruction of an engine that runs at once.

use crate::{
    bare::Bare,
    listen::{At, Events, Running},
    table::{Table, Values},
};
use factory_core::{container::ContainerSpec, model::Run, state::parse};
use factory_tests::Lab;

/// Measured spawns of each kind. One more comes first and is not counted: it
/// brings the target's history and fills caches.
const SAMPLES: usize = 11;

/// Notes when it began, then hands in a commit and that moment.
const AGENT: &str = r#"began=$(date +%s%N)
cat >/dev/null
set -eu
echo "$began" >began.txt
git add began.txt
git commit -q -m "Note when it began"
git push -q
echo "{\"summary\": \"$began\"}" >/factory/out/report.json
"#;

/// A factory at work.
pub struct Work<'a> {
    lab: &'a Lab,
    factory: Running,
    /// What the engine does with containers.
    pub events: Events,
    home: String,
}

/// Moments of one run, those that every engine has.
pub struct Spawn {
    /// `factory issue approve` begins,
    asked: At,
    /// and has ended.
    pub approved: At,
    granted: At,
    created: At,
    /// The container is started.
    pub started: At,
}

impl<'a> Work<'a> {
    /// Starts the lab's factory.
    pub fn begin(lab: &'a Lab) -> Self {
        let factory = Running::start(lab);
        Self {
            lab,
            factory,
            events: Events::record(),
            home: lab.home().unwrap(),
        }
    }

    /// The container of the first run of issue `number`.
    pub fn container(&self, number: usize) -> String {
        let run = format!("r{number}-1").parse().unwrap();
        ContainerSpec::name_for(&self.home, run)
    }

    /// Files issue `number`, approves it, and sees its run start.
    pub fn spawn(&mut self, number: usize) -> Spawn {
        let title = format!("Sample {number}.");
        say(self.lab, &["issue", "new", "--title", &title]);
        let asked = At::now();
        say(self.lab, &["issue", "approve", &number.to_string()]);
        let approved = At::now();
        let container = self.container(number);
        let lines = &mut self.factory.lines;
        Spawn {
            asked,
            approved,
            granted: lines.said(&format!("coding (r{number}-1)")),
            created: self.events.of("create", &container),
            started: self.events.of("start", &container),
        }
    }

    /// Waits until nothing is left to do for the issue; gives its run.
    pub fn ended(&mut self, number: usize) -> Run {
        let lines = &mut self.factory.lines;
        lines.said(&format!("run r{number}-1: collected"));
        lines.said(&format!("job {number}: factory/"));
        let archive = self.lab.state_files("archive/runs/").unwrap();
        let name = format!("/r{number}-1.yaml");
        let (path, bytes) = archive.iter().find(|(p, _)| p.ends_with(&name)).unwrap();
        parse(path, bytes).unwrap()
    }

    /// Stops the factory.
    pub fn end(self) {
        self.factory.stop(self.lab);
        self.lab.assert_at_rest();
    }
}

/// One command of a user.
pub fn say(lab: &Lab, args: &[&str]) {
    let said = lab.factory().args(args).output().unwrap();
    let err = String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success(), "factory {args:?}: {err}");
}

/// The bare engine's part of the table.
#[derive(Default)]
struct Floor {
    create: Values,
    start: Values,
    first: Values,
    whole: Values,
}

impl Floor {
    fn take(&mut self, bare: &mut Bare, events: &mut Events) {
        let one = bare.spawn(events);
        self.create.0.push(one.created.since(one.begun));
        self.start.0.push(one.started.since(one.created));
        self.first.0.push(one.first.since(one.started));
        self.whole.0.push(one.first.since(one.begun));
    }

    fn print(&self, table: &mut Table) {
        table.row(
            "Docker alone: create + start -> first instruction",
            &self.whole,
        );
        table.row("  create", &self.create);
        table.row("  start, until the engine says so", &self.start);
        table.row("  first instruction (may come before that)", &self.first);
    }
}

/// Ours and the engine's parts of a spawn.
#[derive(Default)]
pub struct Parts {
    approve: Values,
    grant: Values,
    create: Values,
    start: Values,
}

impl Parts {
    /// One more.
    pub fn take(&mut self, one: &Spawn) {
        self.approve.0.push(one.approved.since(one.asked));
        self.grant.0.push(one.granted.since(one.approved));
        self.create.0.push(one.created.since(one.granted));
        self.start.0.push(one.started.since(one.created));
    }

    /// Its lines of the table.
    pub fn print(&self, table: &mut Table) {
        table.row("  ours: granted", &self.grant);
        table.row(
            "  ours: files, door, workspace; Docker: create",
            &self.create,
        );
        table.row("  Docker: start", &self.start);
    }
}

/// An engine that runs at once.
pub fn command(table: &mut Table) {
    let lab = Lab::new();
    lab.scripted(AGENT, "");
    let mut work = Work::begin(&lab);
    let (mut floor, mut parts) = (Floor::default(), Parts::default());
    let (mut first, mut whole) = (Values::default(), Values::default());
    let mut bare = None;
    for number in 1..=SAMPLES + 1 {
        let one = work.spawn(number);
        let run = work.ended(number);
        let Some(bare) = &mut bare else {
            bare = Some(Bare::like(&lab, &run));
            continue;
        };
        let report = run.report.as_ref();
        let report = report.unwrap_or_else(|| panic!("handed in no report: {run:?}"));
        let report: serde_json::Value = serde_json::from_str(report).unwrap();
        let began = At(report["summary"].as_str().unwrap().parse().unwrap());
        parts.take(&one);
        first.0.push(began.since(one.started));
        whole.0.push(began.since(one.approved));
        floor.take(bare, &mut work.events);
    }
    work.end();
    table.times("An engine that runs at once, ms");
    floor.print(table);
    table.row("approve -> the engine's first instruction", &whole);
    parts.print(table);
    table.row("  ours: agent, checkout -> first instruction", &first);
    table.ratio("  beside Docker alone", &whole, &floor.whole);
    table.row("before it: `factory issue approve` itself", &parts.approve);
}
