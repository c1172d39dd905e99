//! One factory on the double from its first start to its end: the real kernel
//! in a process of its own, the real gateway, and somebody who starts again what dies.

use crate::{
    agent::{self, Scenario, World},
    scene,
};
use factory_core::{
    exit::ExitClass,
    model::{Run, RunState},
    state::parse,
};
use factory_runtime::Runtime;
use factory_testkit::{
    double::{DoubleRuntime, Event},
    served,
};
use factory_tests::{End, state_files};
use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{Arc, OnceLock, atomic::AtomicBool},
    time::Duration,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UnixListener},
    process::{Child, Command},
    task::JoinSet,
};

/// The image of all containers.
pub const IMAGE: &str = "sha256:of-the-double";
/// Tells the kernel's process where its container engine is.
pub const ENGINE: &str = "FACTORY_TEST_ENGINE";
/// No pass takes longer; not a pause, only the point where it gives up.
const LONGEST: Duration = Duration::from_secs(120);
/// The name of the key that the model asks for.
const KEY: &str = "TEST_API_KEY";
const ANSWER: &str = r#"{"id":"a","type":"message","role":"assistant","model":"m","content":[],"usage":{"input_tokens":1,"output_tokens":1}}"#;

/// Where the incarnations of kernel and gateway die, one after the other.
pub enum Deaths {
    /// Nowhere; they tell where they pass.
    Never,
    /// The first kernel and the first gateway at their `first`-th failpoint,
    /// every further one at its `stride`-th.
    Strided {
        /// For the kernel and for the gateway, from 1.
        first: [usize; 2],
        /// The same.
        stride: [usize; 2],
    },
    /// Each name once, whichever comes first.
    Named(Vec<String>),
}

impl Deaths {
    /// `FAILPOINTS` of the `n`-th incarnation of a process.
    fn failpoints(&self, process: &str, n: usize, killed: &[String]) -> String {
        match self {
            Deaths::Never => format!("{process}=return(tell)"),
            Deaths::Strided { first, stride } => {
                let at = if n == 0 { first } else { stride };
                let at = at[usize::from(process == "gateway")];
                format!("{process}={}*off->return(kill)", at - 1)
            }
            Deaths::Named(names) => {
                let left = names.iter().filter(|name| !killed.contains(name));
                let die: Vec<_> = left.map(|name| format!("{name}=return(kill)")).collect();
                die.join(";")
            }
        }
    }
}

/// One factory from its first start to its end.
pub struct Pass {
    /// For people.
    pub name: String,
    /// What its user and its agents do.
    pub scenario: Scenario,
    /// Where they die.
    pub deaths: Deaths,
    /// Its repositories are checked object by object at the end.
    pub fsck: bool,
}

/// What came of a pass.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Where kernel and gateway were killed.
    pub killed: Vec<String>,
    /// Failpoints that were passed and told.
    pub told: Vec<String>,
    /// What was played.
    pub scenario: Scenario,
    /// What a user finds.
    pub end: End,
    /// What should not be, whatever the undisturbed end is.
    pub wrong: Vec<String>,
    /// What everybody said.
    pub story: String,
}

/// A repository with its two issues, to be copied for each pass.
pub struct Template {
    dir: TempDir,
}

impl Template {
    /// Makes it; `model` is the address of the model.
    pub fn new(model: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let repo = dir.path().join("repo");
        std::fs::create_dir(&repo).unwrap();
        scene::make(
            &repo,
            &format!(
                "engine: claude\nslots: 3\nmodels:\n  anthropic: {{base_url: \"{model}\", key_env: {KEY}}}\nchecks: [\"test -s topic.txt\"]\ngates: {{issues: auto, merge: auto}}\n"
            ),
        );
        for title in ["First", "Second"] {
            let mut command = std::process::Command::new(program());
            // What must be true is looked at on the target.
            let args = ["issue", "new", "--title", title, "--body", "- [ ] Do it."];
            let said = command.args(args).current_dir(&repo).output().unwrap();
            assert!(said.status.success(), "{said:?}");
        }
        Self { dir }
    }
}

/// The built program.
pub fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    // target/<target>/debug/deps/<test>
    let built = test.parent().and_then(Path::parent).unwrap();
    built.join("factory")
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            std::fs::copy(from, to).unwrap();
        }
    }
}

/// A model that always answers the same, for the life of this process; gives its address.
pub fn model() -> String {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        on_this_thread(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            tell.send(listener.local_addr().unwrap()).unwrap();
            // One call after the other: each is one small piece.
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut asked = [0; 4096];
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{ANSWER}",
                    ANSWER.len()
                );
                // A gateway that was killed asks nothing and hears nothing.
                if stream.read(&mut asked).await.is_ok() {
                    stream.write_all(answer.as_bytes()).await.ok();
                }
            }
        });
    });
    format!("http://{}", told.recv().unwrap())
}

/// Runs one factory to its end and holds everything against it that holds for every end.
pub fn play(template: &Template, pass: &Pass) -> Outcome {
    on_this_thread(async {
        let stage = Stage::new(template, pass.scenario);
        let mut outcome = Outcome {
            scenario: pass.scenario,
            ..Outcome::default()
        };
        let playing = stage.play(pass, &mut outcome);
        if tokio::time::timeout(LONGEST, playing).await.is_err() {
            outcome.wrong.push(format!("no end after {LONGEST:?}"));
        }
        outcome.end = End::of(&stage.repo);
        outcome.wrong.extend(stage.wrong(&outcome.end).await);
        if pass.fsck {
            outcome.wrong.extend(stage.unsound().await);
        }
        stage.engine().shut_down().await;
        outcome.story = format!("killed at {:?}\n{}", outcome.killed, stage.log());
        outcome
    })
}

fn on_this_thread<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(work)
}

struct Stage {
    dir: TempDir,
    repo: PathBuf,
    world: Arc<World>,
}

impl Stage {
    fn new(template: &Template, scenario: Scenario) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("factory-sweep-")
            .tempdir()
            .unwrap();
        let repo = dir.path().join("repo");
        copy(&template.dir.path().join("repo"), &repo);
        let world = Arc::new(World {
            repo: repo.clone(),
            desks: dir.path().join("desks"),
            home: dir.path().join("home"),
            engine: OnceLock::new(),
            scenario,
            stopped: AtomicBool::new(false),
        });
        std::fs::create_dir(&world.home).unwrap();
        let inside = Arc::clone(&world);
        let engine = DoubleRuntime::new(move |i| agent::run(Arc::clone(&inside), i));
        engine.add_image(IMAGE);
        world.engine.set(engine).ok();
        Self { dir, repo, world }
    }

    fn engine(&self) -> &DoubleRuntime {
        self.world.engine.get().unwrap()
    }

    async fn play(&self, pass: &Pass, outcome: &mut Outcome) {
        let orders =
            |process: &str, n: usize, killed: &[String]| pass.deaths.failpoints(process, n, killed);
        let socket = self.dir.path().join("engine.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(served::serve(self.engine().clone(), listener));
        let (mut kernels, mut gateways) = (0, 0);
        let mut gateway_now = self.gateway(&orders("gateway", 0, &[]), 0).await;
        let mut kernel_now = self.kernel(&orders("kernel", 0, &[]), 0, &socket);
        loop {
            tokio::select! {
                ended = kernel_now.wait() => {
                    let log = self.read("kernel", kernels);
                    hear(&log, outcome);
                    let ended = ended.unwrap();
                    if ended.success() {
                        break;
                    }
                    // It was told to stop, and is started again.
                    if ended.code() != Some(130) {
                        self.assert_killed("kernel", ended);
                    }
                    kernels += 1;
                    let failpoints = orders("kernel", kernels, &outcome.killed);
                    kernel_now = self.kernel(&failpoints, kernels, &socket);
                }
                ended = gateway_now.wait() => {
                    let log = self.read("gateway", gateways);
                    hear(&log, outcome);
                    self.assert_killed("gateway", ended.unwrap());
                    gateways += 1;
                    let failpoints = orders("gateway", gateways, &outcome.killed);
                    gateway_now = self.gateway(&failpoints, gateways).await;
                }
            }
        }
        let pid = rustix::process::Pid::from_raw(gateway_now.id().unwrap().cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let ended = gateway_now.wait().await.unwrap();
        let log = self.read("gateway", gateways);
        hear(&log, outcome);
        if !ended.success() {
            self.assert_killed("gateway", ended);
        }
        serving.shutdown().await;
    }

    fn assert_killed(&self, who: &str, ended: ExitStatus) {
        let killed = ended.signal() == Some(rustix::process::Signal::KILL.as_raw());
        assert!(killed, "the {who} ended with {ended}\n{}", self.log());
    }

    fn command(&self, mut command: Command, failpoints: &str, log: &str) -> Command {
        let log = std::fs::File::create(self.dir.path().join(log)).unwrap();
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", &self.world.home)
            .env("FAILPOINTS", failpoints)
            .current_dir(&self.repo)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .kill_on_drop(true);
        command
    }

    fn kernel(&self, failpoints: &str, n: usize, engine: &Path) -> Child {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--ignored", "--exact", "double::the_kernel", "--nocapture"]);
        self.command(command, failpoints, &format!("kernel-{n}"))
            .env(ENGINE, engine)
            .stdin(Stdio::null())
            .spawn()
            .unwrap()
    }

    async fn gateway(&self, failpoints: &str, n: usize) -> Child {
        let mut command = Command::new(program());
        command.arg("gateway").arg("--directory").arg(&self.repo);
        let mut child = self
            .command(command, failpoints, &format!("gateway-{n}"))
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let keys = format!("{{\"{KEY}\": \"some-made-up-key\"}}");
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(keys.as_bytes()).await.unwrap();
        child
    }

    fn read(&self, who: &str, n: usize) -> String {
        let path = self.dir.path().join(format!("{who}-{n}"));
        String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned()
    }

    /// Everything that kernels and gateways said, and what the engine did.
    fn log(&self) -> String {
        let mut text = String::new();
        for who in ["kernel", "gateway"] {
            for n in 0.. {
                if !self.dir.path().join(format!("{who}-{n}")).exists() {
                    break;
                }
                text.push_str(&format!("== {who} {n}\n{}", self.read(who, n)));
            }
        }
        let events = self.engine().events();
        let events = events.iter().filter(|e| !matches!(e, Event::Called { .. }));
        text.push_str(&format!("== engine\n{:#?}", events.collect::<Vec<_>>()));
        text
    }

    /// What git finds wrong with the repositories.
    async fn unsound(&self) -> Vec<String> {
        let factory = self.repo.join(".git/factory");
        let ours = ["state.git", "base.git", "door.git"].map(|name| factory.join(name));
        let mut wrong = Vec::new();
        for repository in ours.iter().chain([&self.repo]) {
            let mut command = Command::new("git");
            command.arg("-C").arg(repository);
            command.args(["fsck", "--full", "--strict", "--no-dangling"]);
            let said = command.output().await.unwrap();
            if !said.status.success() || !said.stdout.is_empty() {
                let text = [said.stdout, said.stderr].concat();
                let text = String::from_utf8_lossy(&text).into_owned();
                wrong.push(format!("{}: {text}", repository.display()));
            }
        }
        wrong
    }

    /// What is wrong with an end, whatever happened on the way.
    async fn wrong(&self, end: &End) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut hold = |what: &str, holds: bool| {
            if !holds {
                wrong.push(what.to_owned());
            }
        };
        let factory = self.repo.join(".git/factory");
        hold("something is still open", end.open.is_empty());
        hold("the work tree is not clean", end.dirty.is_empty());
        for dir in ["ws", "run"] {
            let left = std::fs::read_dir(factory.join(dir)).map_or(0, Iterator::count);
            hold(&format!("something is left in {dir}"), left == 0);
        }
        let door = git2::Repository::open_bare(factory.join("door.git")).unwrap();
        // `factory gc` drops the checkpoints of work that was given up, in time.
        let by_order = self.world.scenario == Scenario::ByOrder;
        let refs = door.references().unwrap();
        for reference in refs {
            let name = reference.unwrap().name().unwrap().to_owned();
            let spent = ["refs/namespaces/", "refs/keep/checkpoint/"];
            let given_up = by_order && name.starts_with("refs/keep/checkpoint/r2-");
            let left = !given_up && spent.iter().any(|spent| name.starts_with(spent));
            hold(&format!("{name} is left"), !left);
        }
        // No death of ours is a run's; by order some do end.
        for (path, bytes) in state_files(&factory.join("state.git")) {
            if by_order || !path.starts_with("archive/runs/") {
                continue;
            }
            let run: Run = parse(&path, &bytes).unwrap();
            let well = matches!(
                &run.state,
                RunState::Ended {
                    class: ExitClass::Ok,
                    ..
                }
            );
            hold(&format!("{path} did not come to its own end"), well);
        }
        let mut started = BTreeMap::new();
        let mut homes = BTreeSet::new();
        for event in self.engine().events() {
            match event {
                Event::Started(name) => *started.entry(name).or_insert(0) += 1,
                Event::Called {
                    operation: factory_testkit::double::Operation::List,
                    about,
                } => {
                    homes.insert(about);
                }
                _ => {}
            }
        }
        for (name, times) in started {
            hold(&format!("{name} was started {times} times"), times == 1);
        }
        for home in homes {
            let left = self.engine().list(&home).await.unwrap();
            hold(&format!("containers are left: {left:?}"), left.is_empty());
        }
        wrong
    }
}

fn hear(log: &str, outcome: &mut Outcome) {
    for line in log.lines() {
        let Some(said) = line.strip_prefix("failpoint ") else {
            continue;
        };
        if let Some(name) = said.strip_suffix(" reached") {
            outcome.killed.push(name.to_owned());
        } else if let Some(name) = said.strip_suffix(" passed") {
            outcome.told.push(name.to_owned());
        }
    }
}
