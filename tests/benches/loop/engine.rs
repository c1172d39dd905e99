//! From an approved issue to the first request of a real engine at its model, and
//! what of it is ours. The floor is the same program on the same brief in the same
//! image, started by Docker alone and straight at the model.

use crate::{
    bare::Bare,
    listen::At,
    spawn::{Parts, Work},
    table::{Table, Values},
};
use factory_core::wire::{DOOR_PORT, EngineLaunch, RunFile, RunTask};
use factory_testkit::{
    provider::Recorded,
    scenario::{Answer, Conversation, Scenario, Step, ToolCall, When},
};
use factory_tests::{Lab, Model};
use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::{Command, Stdio},
};

/// Measured starts of each engine. One more comes first and is not counted: it
/// brings the target's history and fills caches.
const SAMPLES: usize = 7;

/// Most that the way from a container's start to the first request may take of what it takes
/// without us.
const MOST: f64 = 1.3;

/// Claude Code.
pub fn claude(table: &mut Table) {
    measure(table, "claude", "Claude Code");
}

/// Codex CLI.
pub fn codex(table: &mut Table) {
    measure(table, "codex", "Codex CLI");
}

/// mini-swe-agent.
pub fn mini(table: &mut Table) {
    measure(table, "mini", "mini-swe-agent");
}

/// How an engine is started and what it reads.
pub struct Start {
    /// Program, environment and files.
    pub launch: EngineLaunch,
    /// Its standard input.
    pub brief: String,
    /// `system.md`.
    pub system: String,
}

impl Start {
    /// As in a live run, whose directory this is; straight at `model` in place of the
    /// door, and in a conversation of its own.
    fn of(run_dir: &Path, model: &Model, number: usize) -> Self {
        let read = |name: &str| std::fs::read_to_string(run_dir.join(name)).unwrap();
        let file: RunFile = serde_saphyr::from_str(&read("run.yaml")).unwrap();
        let RunTask::Engine { engine, .. } = file.task else {
            panic!("a run without an engine: {file:?}");
        };
        let door = format!("http://127.0.0.1:{DOOR_PORT}");
        let straight = |text: &mut String| *text = text.replace(&door, &model.base_url());
        let mut launch = engine;
        launch.argv.iter_mut().for_each(straight);
        launch.env.values_mut().for_each(straight);
        launch.files.values_mut().for_each(straight);
        Self {
            launch,
            brief: read("brief.md").replace(&title(SAMPLE, number), &title(BARE, number)),
            system: read("system.md"),
        }
    }
}

/// Words that tell the conversations of one sample apart.
const SAMPLE: &str = "Sample";
const BARE: &str = "Bare";
const GATEWAY: &str = "Gateway";

fn title(word: &str, number: usize) -> String {
    format!("{word} {number}.")
}

/// What was measured of one engine.
#[derive(Default)]
struct Measured {
    /// From the order to the first request.
    whole: Values,
    parts: Parts,
    /// From the container's start to the first request, and its parts.
    inside: Values,
    agent: Values,
    work_tree: Values,
    engine: Values,
    gateway: Values,
    /// The container engine alone: create and start.
    bare_start: Values,
    /// The same program started by it, and the part after its first instruction.
    bare_inside: Values,
    bare_engine: Values,
}

fn measure(table: &mut Table, engine: &str, called: &str) {
    let samples = 1..=SAMPLES + 1;
    let words = [SAMPLE, BARE, GATEWAY];
    let model = Model::serve(Scenario {
        conversations: samples
            .clone()
            .flat_map(|number| words.map(|word| conversation(&title(word, number))))
            .collect(),
    });
    // It has just begun to count the time.
    let served = At::now();
    let mut lab = Lab::new();
    lab.env("TEST_API_KEY", "some-made-up-key");
    lab.write("factory.yaml", &Lab::engine_config(engine, &model, ""));
    lab.commit("Begin");
    let mut work = Work::begin(&lab);
    let mut measured = Measured::default();
    let mut bare = None;
    // When the first request after `before` others came.
    let asked = |before: usize| {
        let all = model.requests();
        (served.after(all[before].at), all[before].clone())
    };
    for number in samples {
        let before = model.requests().len();
        let one = work.spawn(number);
        model.reached(&title(SAMPLE, number));
        let (first, request) = asked(before);
        let said = Said::by(&work.container(number));
        let start = Start::of(&lab.below(&format!("run/r{number}-1")), &model, number);
        let before = model.requests().len();
        let socket = lab.below(&format!("run/r{number}-1/gw.sock"));
        let sent = Sent::again(&socket, &request, number);
        model.reached(&title(GATEWAY, number));
        let (through, _) = asked(before);
        for word in words {
            model.release(&title(word, number));
        }
        let gateway = through.since(sent.at);
        sent.answered();
        let run = work.ended(number);
        let Some(bare) = &mut bare else {
            bare = Some(Bare::like(&lab, &run));
            continue;
        };
        measured.parts.take(&one);
        measured.whole.0.push(first.since(one.approved));
        measured.inside.0.push(first.since(one.started));
        measured.agent.0.push(said.began.since(one.started));
        measured.work_tree.0.push(said.engine.since(said.began));
        measured.engine.0.push(first.since(said.engine) - gateway);
        measured.gateway.0.push(gateway);
        let floor = bare.spawn(&mut work.events);
        let before = model.requests().len();
        let (started, began) = bare.engine(lab.repo(), &start, &mut work.events, || {
            model.reached(&title(BARE, number));
        });
        let (first, _) = asked(before);
        measured.bare_start.0.push(floor.started.since(floor.begun));
        measured.bare_inside.0.push(first.since(started));
        measured.bare_engine.0.push(first.since(began));
    }
    work.end();
    measured.print(table, called);
}

impl Measured {
    fn print(&self, table: &mut Table, called: &str) {
        table.times(&format!("{called} with a scripted model, ms"));
        table.row("Docker alone: create + start", &self.bare_start);
        table.row(
            "Docker alone: container's start -> first request",
            &self.bare_inside,
        );
        table.row(&format!("  of it {called}'s own start"), &self.bare_engine);
        table.row("approve -> first request at the model", &self.whole);
        self.parts.print(table);
        let floor = self.bare_start.median() + self.bare_inside.median();
        table.ratio_of("beside Docker alone", self.whole.median() / floor);
        table.row("  container's start -> first request", &self.inside);
        table.row("    ours: agent, until it has read its task", &self.agent);
        table.row(
            &format!("    ours: work tree, brief, until {called} is started"),
            &self.work_tree,
        );
        table.row(&format!("    {called}'s own start"), &self.engine);
        table.row("    ours: the gateway, for the same request", &self.gateway);
        let ours = [&self.agent, &self.work_tree, &self.gateway];
        let ours: f64 = ours.iter().map(|part| part.median()).sum();
        let share = ours / self.inside.median() * 100.0;
        table.line("    ours of it", [String::new(), format!("{share:.1} %")]);
        let ratio = self.inside.beside(&self.bare_inside).median();
        table.limit("  beside Docker alone", ratio, MOST, " x");
    }
}

/// Held at its first answer until told; then a commit.
fn conversation(title: &str) -> Conversation {
    let commit = "echo done >done.txt && git add done.txt && git commit -q -m 'Be done'";
    let answer = |answer| Step::Answer(answer);
    Conversation {
        name: title.to_owned(),
        when: When {
            contains: Some(title.to_owned()),
            ..When::default()
        },
        steps: vec![
            answer(Answer {
                tools: vec![ToolCall::bash(commit, "Commit")],
                wait: Some(title.to_owned()),
                ..Answer::default()
            }),
            answer(Answer {
                text: Some("Done.".to_owned()),
                ..Answer::default()
            }),
        ],
    }
}

/// The agent's own words in a running container, with the moments that the container
/// engine gave them.
struct Said {
    /// It knows its task.
    began: At,
    /// It has started its engine.
    engine: At,
}

impl Said {
    fn by(container: &str) -> Self {
        let said = Command::new("docker")
            .args(["logs", "--timestamps", container])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&said.stderr);
        let at = |words: &str| {
            let line = text.lines().find(|line| line.contains(words));
            let line = line.unwrap_or_else(|| panic!("no `{words}` in:\n{text}"));
            let at: jiff::Timestamp = line.split(' ').next().unwrap().parse().unwrap();
            At(at.as_nanosecond())
        };
        Self {
            began: at("factory-agent: run "),
            engine: at("engine started"),
        }
    }
}

/// An engine's request, sent to the gateway once more: how long it takes to the model.
struct Sent {
    at: At,
    door: UnixStream,
}

impl Sent {
    fn again(socket: &Path, request: &Recorded, number: usize) -> Self {
        let body = String::from_utf8(request.body.to_vec()).unwrap();
        let body = body.replace(&title(SAMPLE, number), &title(GATEWAY, number));
        let head = format!(
            "POST {} HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            request.path,
            body.len()
        );
        let at = At::now();
        let mut door = UnixStream::connect(socket).unwrap();
        door.write_all(head.as_bytes()).unwrap();
        door.write_all(body.as_bytes()).unwrap();
        Self { at, door }
    }

    /// Waits for the answer: the run's end would wait for it too.
    fn answered(mut self) {
        let mut answer = Vec::new();
        self.door.read_to_end(&mut answer).unwrap();
        let said = String::from_utf8_lossy(&answer[..answer.len().min(500)]);
        assert!(said.starts_with("HTTP/1.1 200"), "{said}");
    }
}
