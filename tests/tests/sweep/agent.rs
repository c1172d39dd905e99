//! What runs in the double's containers: an agent that does by its door what
//! `factory-agent` does, with few processes.

use crate::scene::{self, DRAFT, PLAIN, TOPIC};
use factory_core::{
    ids::Oid,
    inbox::{EngineExit, RunEnd},
    wire::{
        BASE_GIT, CHECKPOINT_REF, CHECKPOINT_WORK, PATH_END, PATH_GIT, PATH_HELLO, PATH_REPORT,
        RUN_DIR, RunFile, RunTask, START_REF,
    },
};
use factory_testkit::double::{DoubleRuntime, Ending, Event, Inside};
use git2::{Repository, Signature, Time};
use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UnixStream},
    process::Command,
};
use tokio_util::sync::CancellationToken;

/// How often something is looked at that tells nobody, and the gateway is asked that is away.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// The engine's last words of a run that went well.
const WELL: &str = r#"{"type":"result","is_error":false,"terminal_reason":"completed"}"#;

/// A call of a model.
const REQUEST: &str = r#"{"model":"m","max_tokens":1,"messages":[]}"#;

/// Exit code of an agent that was told to end.
const TERMINATED: i64 = 143;

/// What user and agents do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scenario {
    /// Both issues are merged: see `scene`.
    #[default]
    Merged,
    /// The second issue is closed while its agent works, and the factory is
    /// stopped at once while that of the first does; then all goes on.
    ByOrder,
}

/// The agent was told to end.
struct Terminated;

/// What all agents of one factory see of the world outside.
pub struct World {
    /// The user's repository.
    pub repo: PathBuf,
    /// Where agents keep their work.
    pub desks: PathBuf,
    /// A home directory with nothing in it.
    pub home: PathBuf,
    /// Tells of what the engine did.
    pub engine: OnceLock<DoubleRuntime>,
    /// What is played.
    pub scenario: Scenario,
    /// The factory was stopped as the scenario wants it.
    pub stopped: AtomicBool,
}

struct Agent {
    world: Arc<World>,
    file: RunFile,
    socket: PathBuf,
    base: PathBuf,
    desk: PathBuf,
    port: u16,
    terminate: CancellationToken,
}

/// Carries out the run of one container.
pub async fn run(world: Arc<World>, inside: Inside) -> Ending {
    let mounted = |target: &str| {
        let mount = inside.spec.mounts.iter().find(|m| m.target == target);
        PathBuf::from(&mount.unwrap().source)
    };
    let run_dir = mounted(RUN_DIR);
    let text = std::fs::read_to_string(run_dir.join("run.yaml")).unwrap();
    let file: RunFile = serde_saphyr::from_str(&text).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let agent = Agent {
        desk: world.desks.join(file.run.to_string()),
        socket: run_dir.join("gw.sock"),
        base: mounted(BASE_GIT),
        port: listener.local_addr().unwrap().port(),
        terminate: inside.terminate.clone(),
        world,
        file,
    };
    tokio::select! {
        code = agent.work() => code.into(),
        never = forward(listener, agent.socket.clone()) => match never {},
    }
}

impl Agent {
    async fn work(&self) -> i64 {
        self.ask("GET", PATH_HELLO, "").await;
        self.make_desk();
        self.fetch().await;
        let start = self.file.start.clone();
        let (code, words) = match &self.file.task {
            RunTask::Engine {
                branch: Some(branch),
                ..
            } => {
                if self.write(branch).await.is_err() {
                    return TERMINATED;
                }
                (0, WELL)
            }
            RunTask::Engine { branch: None, .. } => {
                self.review().await;
                (0, WELL)
            }
            RunTask::Checks { .. } if self.topic(&start).contains(DRAFT) => (1, "it is a draft"),
            RunTask::Checks { .. } => (0, "all is well"),
        };
        let end = RunEnd {
            exit: EngineExit::Code(code),
            last_output: words.to_owned(),
            stderr_tail: String::new(),
            report_problem: None,
            push_problem: None,
        };
        let end = serde_json::to_string(&end).unwrap();
        self.ask("POST", PATH_END, &end).await;
        code.into()
    }

    fn issue(&self) -> u64 {
        self.file.run.job.0
    }

    /// An empty repository that borrows from `base.git`, as a workspace does.
    fn make_desk(&self) {
        let mut options = git2::RepositoryInitOptions::new();
        options.bare(true).external_template(false);
        Repository::init_opts(&self.desk, &options).unwrap();
        let objects = self.base.join("objects");
        let alternates = self.desk.join("objects/info/alternates");
        std::fs::create_dir_all(alternates.parent().unwrap()).unwrap();
        std::fs::write(alternates, format!("{}\n", objects.display())).unwrap();
    }

    fn open(&self) -> Repository {
        Repository::open_bare(&self.desk).unwrap()
    }

    async fn fetch(&self) {
        let start = git2::Oid::from_str(self.file.start.as_str()).unwrap();
        if self.open().find_commit(start).is_err() {
            let url = self.url();
            self.git(&["fetch", "--quiet", "--no-tags", &url, START_REF])
                .await;
        }
    }

    fn topic(&self, commit: &Oid) -> String {
        let repository = self.open();
        let id = git2::Oid::from_str(commit.as_str()).unwrap();
        let tree = repository.find_commit(id).unwrap().tree().unwrap();
        match tree.get_name(TOPIC) {
            Some(entry) => {
                let blob = repository.find_blob(entry.id()).unwrap();
                String::from_utf8(blob.content().to_vec()).unwrap()
            }
            None => String::new(),
        }
    }

    /// What the engine does: calls its model, waits for its turn, commits, pushes, reports.
    async fn write(&self, branch: &str) -> Result<(), Terminated> {
        self.ask("POST", "/v1/messages", REQUEST).await;
        let start = self.topic(&self.file.start);
        match (self.issue(), start.is_empty()) {
            // Both work from before the first merge: so they contradict each other.
            (1, true) => {
                let engine = self.world.engine.get().unwrap();
                let second =
                    |event: &Event| matches!(event, Event::Started(name) if name.contains("-r2-"));
                engine.until(|events| events.iter().any(second)).await;
                if self.world.scenario == Scenario::ByOrder {
                    self.give_orders(engine).await?;
                }
            }
            // Too late for this run, so that what its merge makes was seen by nobody.
            (1, false) if start.contains(PLAIN) => scene::user_commits(&self.world.repo),
            (_, true) => {
                self.checkpoint().await;
                while !scene::first_is_merged(&self.world.repo) {
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
            }
            (_, false) => {}
        }
        let commit = self.commit(&start);
        let to = format!("{commit}:refs/heads/{branch}");
        self.git(&["push", "--quiet", &self.url(), &to]).await;
        let report = match self.issue() {
            // Each of its runs notices the same, which is filed once.
            1 => {
                r#"{"summary":"It is written.","issues":[{"title":"Noticed","body":"Beside it."}],"comments":["As asked."]}"#
            }
            _ => r#"{"summary":"It is written."}"#,
        };
        self.ask("POST", PATH_REPORT, report).await;
        Ok(())
    }

    /// What the reviewer's engine does: calls its model and reports.
    async fn review(&self) {
        self.ask("POST", "/v1/messages", REQUEST).await;
        let report = match self.topic(&self.file.start).contains(PLAIN) {
            true => {
                r#"{"verdict":"request_changes","confidence":1,"summary":"Too plain.","comments":[{"path":"topic.txt","severity":"major","text":"Finish it."}]}"#
            }
            false => r#"{"verdict":"approve","confidence":1,"summary":"It is finished."}"#,
        };
        self.ask("POST", PATH_REPORT, report).await;
    }

    /// What the user orders meanwhile; the agent is ended by the second order.
    async fn give_orders(&self, engine: &DoubleRuntime) -> Result<(), Terminated> {
        if self.world.stopped.load(Ordering::Acquire) {
            return Ok(());
        }
        let second = |event: &Event| matches!(event, Event::Removed(name) if name.contains("-r2-"));
        self.order(&["issue", "close", "2"]).await;
        engine.until(|events| events.iter().any(second)).await;
        loop {
            tokio::select! {
                () = self.terminate.cancelled() => {
                    self.world.stopped.store(true, Ordering::Release);
                    return Err(Terminated);
                }
                // The kernel may have died before it obeyed: then it is told again.
                () = self.order(&["stop", "--now"]) => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    }

    async fn order(&self, args: &[&str]) {
        let mut command = Command::new(crate::pass::program());
        command.args(args).current_dir(&self.world.repo);
        command.env("HOME", &self.world.home).kill_on_drop(true);
        // What comes of it is seen in what happens.
        command.output().await.unwrap();
    }

    fn commit(&self, start: &str) -> git2::Oid {
        let repository = self.open();
        let find = |oid: &Oid| {
            let id = git2::Oid::from_str(oid.as_str()).unwrap();
            repository.find_commit(id).unwrap()
        };
        let target = self.file.merge_target.as_ref();
        let target_topic = target.map(|oid| self.topic(oid));
        let text = scene::written(self.issue(), start, target_topic.as_deref());
        let mut parents = vec![find(&self.file.start)];
        parents.extend(target.map(find));
        // Everything but the topic is the target's where it is merged in.
        let below = parents.last().unwrap().tree().unwrap();
        let mut tree = repository.treebuilder(Some(&below)).unwrap();
        let blob = repository.blob(text.as_bytes()).unwrap();
        tree.insert(TOPIC, blob, 0o100_644).unwrap();
        let tree = repository.find_tree(tree.write().unwrap()).unwrap();
        let parents: Vec<_> = parents.iter().collect();
        let me = me();
        let message = format!("Work on issue {}", self.issue());
        repository
            .commit(None, &me, &me, &message, &tree, &parents)
            .unwrap()
    }

    async fn checkpoint(&self) {
        let commit = {
            let repository = self.open();
            let id = git2::Oid::from_str(self.file.start.as_str()).unwrap();
            let parent = repository.find_commit(id).unwrap();
            let mut tree = repository.treebuilder(None).unwrap();
            tree.insert(CHECKPOINT_WORK, parent.tree_id(), 0o040_000)
                .unwrap();
            let tree = repository.find_tree(tree.write().unwrap()).unwrap();
            let me = me();
            repository
                .commit(None, &me, &me, "checkpoint", &tree, &[&parent])
                .unwrap()
        };
        let to = format!("+{commit}:{CHECKPOINT_REF}");
        self.git(&["push", "--quiet", &self.url(), &to]).await;
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}{PATH_GIT}", self.port)
    }

    /// Runs git until it succeeds: the gateway may die in the middle.
    async fn git(&self, args: &[&str]) {
        loop {
            let output = Command::new("git")
                .arg("-C")
                .arg(&self.desk)
                .args(args)
                .env_clear()
                .env("PATH", std::env::var_os("PATH").unwrap())
                .env("HOME", &self.world.home)
                .env("GIT_CONFIG_NOSYSTEM", "1")
                .stdin(Stdio::null())
                .kill_on_drop(true)
                .output()
                .await
                .unwrap();
            if output.status.success() {
                return;
            }
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(!said.contains("rejected"), "{}: {said}", self.file.run);
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Asks the gateway until it says yes.
    async fn ask(&self, method: &str, path: &str, body: &str) {
        loop {
            match self.asked(method, path, body).await {
                Ok(200..=299) => return,
                Ok(status @ (403 | 404 | 422)) => {
                    panic!("{}: {method} {path} is refused: {status}", self.file.run)
                }
                Ok(_) | Err(_) => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    }

    async fn asked(&self, method: &str, path: &str, body: &str) -> std::io::Result<u16> {
        let mut stream = UnixStream::connect(&self.socket).await?;
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: door\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok());
        status.ok_or_else(|| std::io::ErrorKind::UnexpectedEof.into())
    }
}

/// The same commit whenever it is made again.
fn me() -> Signature<'static> {
    let name = "factory worker";
    Signature::new(name, "worker@factory.invalid", &Time::new(1_700_000_000, 0)).unwrap()
}

/// Leads a port of the container to the gateway; holds what comes while it is away.
async fn forward(listener: TcpListener, socket: PathBuf) -> std::convert::Infallible {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (mut inner, _) = accepted.unwrap();
                let socket = socket.clone();
                connections.spawn(async move {
                    let mut outer = held(&socket).await;
                    // Either side may break off; git then tries again.
                    tokio::io::copy_bidirectional(&mut inner, &mut outer).await.ok();
                });
            }
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

async fn held(socket: &Path) -> UnixStream {
    loop {
        match UnixStream::connect(socket).await {
            Ok(stream) => return stream,
            Err(_) => tokio::time::sleep(LOOK_AGAIN).await,
        }
    }
}
