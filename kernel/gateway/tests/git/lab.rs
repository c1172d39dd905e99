//! A factory's repositories in a temporary folder, doors served over loopback
//! TCP (git cannot speak to unix sockets), and workspaces as agents have them.

use factory_core::brief::{AGENT_EMAIL, AGENT_NAME};
use factory_core::grant::{Grant, Role};
use factory_core::ids::{Epoch, Oid, RunId};
use factory_core::inbox::InboxEntry;
use factory_gateway::door::{self, RunDoor};
use factory_gateway::{Keys, Redactor, Stores, Timing};
use factory_ledger::base::BaseRepo;
use factory_ledger::door::DoorRepo;
use factory_ledger::places::Places;
use factory_ledger::state::StateRepo;
use factory_ledger::user::UserRepo;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::oneshot;

/// The user's repository. A colon and a quote: git reads lists of paths in places.
const USER: &str = "pro:ject \"x\"";
/// A key that the gateway knows.
pub const KEY: &str = "sk-canary-0123456789abcdef";

/// Everything one test needs; gone when dropped.
pub struct Lab {
    pub dir: TempDir,
    pub places: Places,
    pub stores: Arc<Stores>,
    pub start: Oid,
}

/// What a client saw.
pub struct Said {
    pub ok: bool,
    pub text: String,
}

impl Lab {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let user = dir.path().join(USER);
        std::fs::create_dir(&user).unwrap();
        ok(&user, &["init", "-q", "-b", "main"]);
        std::fs::write(user.join("file"), "one\n").unwrap();
        ok(&user, &["add", "-A"]);
        ok(&user, &["commit", "-q", "-m", "one"]);
        std::fs::write(user.join("file"), "two\n").unwrap();
        ok(&user, &["commit", "-q", "-a", "-m", "two"]);
        let start: Oid = ok(&user, &["rev-parse", "HEAD"]).parse().unwrap();
        let places = Places::below(user.join(".git"));
        places.ensure_dirs().unwrap();
        StateRepo::init(&places).unwrap();
        let base = BaseRepo::init(places.base_git()).unwrap();
        base.fetch_target(&UserRepo::open(places.common_dir()), "main")
            .unwrap();
        DoorRepo::init(places.door_git(), &base).unwrap();
        Self::with(dir, places, start)
    }

    /// What a process that was killed left as the only thing in `folder`.
    #[cfg(feature = "failpoints")]
    pub fn left_in(folder: TempDir) -> Self {
        let mut left = std::fs::read_dir(folder.path()).unwrap();
        let lab = left.next().unwrap().unwrap().path();
        assert!(left.next().is_none());
        let user = lab.join(USER);
        let start = ok(&user, &["rev-parse", "HEAD"]).parse().unwrap();
        Self::with(folder, Places::below(user.join(".git")), start)
    }

    fn with(dir: TempDir, places: Places, start: Oid) -> Self {
        let clock = Arc::new(|| 1_700_000_000);
        let stores = Stores::open(
            places.clone(),
            Keys::new(
                BTreeMap::from([("KEY".to_owned(), KEY.to_owned().into())]),
                None,
                Redactor::default(),
            ),
            clock,
            Timing::default(),
        )
        .unwrap();
        Self {
            dir,
            places,
            stores: Arc::new(stores),
            start,
        }
    }

    /// The user's repository.
    pub fn user(&self) -> PathBuf {
        self.dir.path().join(USER)
    }

    /// Takes in where the target is now.
    pub fn target_moved(&self) -> Oid {
        let base = BaseRepo::init(self.places.base_git()).unwrap();
        let user = UserRepo::open(self.places.common_dir());
        base.fetch_target(&user, "main").unwrap()
    }

    pub fn grant(&self, run: &str, branch: Option<&str>) -> Grant {
        Grant {
            run: run.parse().unwrap(),
            epoch: Epoch(1),
            role: if branch.is_some() {
                Role::Code
            } else {
                Role::Check
            },
            start: self.start.clone(),
            resume: None,
            branch: branch.map(str::to_owned),
            models: None,
            rules: None,
            wall_seconds: 60,
        }
    }

    pub fn open(&self, run: &str, branch: Option<&str>) -> Arc<RunDoor> {
        self.open_as(self.grant(run, branch))
    }

    pub fn open_as(&self, grant: Grant) -> Arc<RunDoor> {
        RunDoor::open(Arc::clone(&self.stores), grant).unwrap()
    }

    pub fn serve(&self, run: &str, branch: Option<&str>) -> Served {
        Served::start(self.open(run, branch))
    }

    /// A workspace at the start commit, on `branch`, as the ledger prepares it.
    pub fn workspace(&self, served: &Served, branch: &str) -> Workspace {
        let path = self.dir.path().join(format!("ws-{}", served.door.run()));
        std::fs::create_dir(&path).unwrap();
        ok(&path, &["init", "-q", "-b", branch]);
        ok(&path, &["remote", "add", "origin", &served.url]);
        ok(
            &path,
            &[
                "config",
                "remote.origin.fetch",
                "+refs/factory/start:refs/remotes/origin/start",
            ],
        );
        ok(
            &path,
            &["config", &format!("branch.{branch}.remote"), "origin"],
        );
        ok(
            &path,
            &[
                "config",
                &format!("branch.{branch}.merge"),
                &format!("refs/heads/{branch}"),
            ],
        );
        ok(&path, &["fetch", "-q", "origin"]);
        ok(&path, &["reset", "-q", "--hard", "origin/start"]);
        Workspace { path }
    }

    pub fn entries(&self, run: &str) -> Vec<InboxEntry> {
        let run: RunId = run.parse().unwrap();
        self.stores
            .inbox
            .read_after(run, None)
            .unwrap()
            .into_iter()
            .map(|(_, entry)| entry)
            .collect()
    }

    /// The pushes in the inbox of `run`.
    pub fn pushes(&self, run: &str) -> Vec<(Oid, Oid)> {
        let pushes = self
            .entries(run)
            .into_iter()
            .filter_map(|entry| match entry {
                InboxEntry::Push { old, new } => Some((old, new)),
                _ => None,
            });
        pushes.collect()
    }

    /// All refs of `door.git` with what they point to.
    pub fn refs(&self) -> String {
        ok(
            &self.places.door_git(),
            &["for-each-ref", "--format=%(refname) %(objectname)"],
        )
    }

    /// Nothing is left where pushes are spooled and inspected.
    pub fn assert_no_leftovers(&self) {
        let left: Vec<_> = std::fs::read_dir(self.places.cache().join("push"))
            .unwrap()
            .map(|e| e.unwrap().path())
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

/// An agent's repository.
pub struct Workspace {
    pub path: PathBuf,
}

impl Workspace {
    pub fn commit(&self, name: &str, content: &[u8]) -> Oid {
        std::fs::write(self.path.join(name), content).unwrap();
        self.ok(&["add", "-A"]);
        self.ok(&["commit", "-q", "-m", name]);
        self.head()
    }

    pub fn head(&self) -> Oid {
        self.ok(&["rev-parse", "HEAD"]).parse().unwrap()
    }

    pub fn ok(&self, args: &[&str]) -> String {
        ok(&self.path, args)
    }

    pub fn git(&self, args: &[&str]) -> Said {
        said(git(&self.path, args).output().unwrap())
    }

    /// What git prints when it is given `input`.
    pub fn fed(&self, args: &[&str], input: &[u8]) -> Vec<u8> {
        let mut command = git(&self.path, args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "`git {args:?}` failed");
        output.stdout
    }

    /// Writes an object, however broken; gives its name.
    pub fn object(&self, kind: &str, bytes: &[u8]) -> String {
        let args = ["hash-object", "-t", kind, "-w", "--literally", "--stdin"];
        let name = self.fed(&args, bytes);
        String::from_utf8(name).unwrap().trim().to_owned()
    }

    /// Writes a tree of lines as `git ls-tree` prints them; what they name may be missing.
    pub fn tree(&self, lines: &[String]) -> String {
        let name = self.fed(&["mktree", "--missing"], lines.concat().as_bytes());
        String::from_utf8(name).unwrap().trim().to_owned()
    }

    /// Writes a commit; its tree and parents may be missing.
    pub fn commit_of(&self, tree: &str, parents: &[&str]) -> String {
        let parents: String = parents
            .iter()
            .map(|oid| format!("parent {oid}\n"))
            .collect();
        let by = format!("{AGENT_NAME} <{AGENT_EMAIL}> 1700000000 +0000");
        let text = format!("tree {tree}\n{parents}author {by}\ncommitter {by}\n\nmade\n");
        self.object("commit", text.as_bytes())
    }

    /// Runs git and asserts that it was refused with all of `words` in its output.
    pub fn refused(&self, args: &[&str], words: &[&str]) {
        let said = self.git(args);
        assert!(!said.ok, "`git {args:?}` went through: {}", said.text);
        for word in words {
            assert!(
                said.text.contains(word),
                "`git {args:?}` does not say `{word}`:\n{}",
                said.text
            );
        }
    }
}

/// Git with nothing of the host's configuration, proxies or identity.
pub fn git(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new("git");
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", dir)
        .env("LC_ALL", "C");
    command
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null")
        .env("GIT_TERMINAL_PROMPT", "0");
    for who in ["AUTHOR", "COMMITTER"] {
        command
            .env(format!("GIT_{who}_NAME"), AGENT_NAME)
            .env(format!("GIT_{who}_EMAIL"), AGENT_EMAIL);
    }
    command.arg("-C").arg(dir).args(args);
    command
}

pub fn ok(dir: &Path, args: &[&str]) -> String {
    let said = said(git(dir, args).output().unwrap());
    assert!(said.ok, "`git {args:?}` failed: {}", said.text);
    said.text.trim().to_owned()
}

pub fn said(output: Output) -> Said {
    let text = [output.stdout, output.stderr].concat();
    Said {
        ok: output.status.success(),
        text: String::from_utf8_lossy(&text).into_owned(),
    }
}

/// A door behind a loopback port, until dropped.
pub struct Served {
    pub url: String,
    pub address: SocketAddr,
    pub door: Arc<RunDoor>,
    /// How many requests came with a gzip body.
    pub zipped: Arc<AtomicUsize>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Served {
    pub fn start(door: Arc<RunDoor>) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (bound, address) = mpsc::channel();
        let zipped = Arc::new(AtomicUsize::new(0));
        let (served, count) = (Arc::clone(&door), Arc::clone(&zipped));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(serve(served, count, bound, stopped));
        });
        let address: SocketAddr = address.recv().unwrap();
        let url = format!("http://{address}/git");
        Self {
            url,
            address,
            door,
            zipped,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// Sends one request as it is and returns the whole answer.
    pub fn raw(&self, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        // A door that hangs fails its test instead of stopping all.
        stream
            .set_read_timeout(Some(Duration::from_secs(120)))
            .unwrap();
        stream.write_all(request).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    pub fn get(&self, path: &str, headers: &str) -> String {
        self.raw(
            format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n")
                .as_bytes(),
        )
    }

    /// Tells the run's END.
    pub fn end(&self) -> String {
        let end = r#"{"exit":{"code":0},"last_output":"","stderr_tail":"","report_problem":null,"push_problem":null}"#;
        let head = "POST /factory/v1/end HTTP/1.1\r\nHost: x\r\nConnection: close\r\n";
        self.raw(format!("{head}Content-Length: {}\r\n\r\n{end}", end.len()).as_bytes())
    }

    pub fn post(&self, service: &str, headers: &str, body: &[u8]) -> String {
        let mut request = format!(
            "POST /git/{service} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/x-{service}-request\r\nContent-Length: {}\r\n{headers}\r\n",
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        self.raw(&request)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            assert!(matches!(ended, Some(Ok(()))), "the door panicked");
        }
    }
}

async fn serve(
    door: Arc<RunDoor>,
    zipped: Arc<AtomicUsize>,
    bound: mpsc::Sender<SocketAddr>,
    mut stopped: oneshot::Receiver<()>,
) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    bound.send(listener.local_addr().unwrap()).unwrap();
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (stream, _) = tokio::select! {
            accepted = listener.accept() => accepted.unwrap(),
            _ = &mut stopped => break,
            Some(ended) = connections.join_next() => {
                ended.unwrap();
                continue;
            }
        };
        let (door, zipped) = (Arc::clone(&door), Arc::clone(&zipped));
        connections.spawn(async move {
            let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                if request
                    .headers()
                    .get("content-encoding")
                    .is_some_and(|v| v == "gzip")
                {
                    zipped.fetch_add(1, Ordering::Relaxed);
                }
                let door = Arc::clone(&door);
                async move { Ok::<_, std::convert::Infallible>(door::handle(door, request).await) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                println!("a client went away: {error}");
            }
        });
    }
    connections.shutdown().await;
}
