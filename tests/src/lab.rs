//! One user's machine for one test: program, home, repository.

use crate::{
    disk::{self, Filler},
    engine::{Leftovers, docker_at},
    model::Model,
    process::{adopt_orphans, kill, processes, reap},
    start::{Ended, Start},
};
use factory_core::{
    config::{EngineKind, Vendor},
    state::State,
};
use std::{
    collections::BTreeMap,
    io::Write,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};
use tempfile::TempDir;

/// Variables of the test's own environment that the image build may need.
const NETWORK: [&str; 12] = [
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "DOCKER_HOST",
];

/// What a command said.
#[derive(Debug)]
pub struct Said {
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// A numeric user and the group it needs for the engine.
#[derive(Debug, Clone, Copy)]
struct User {
    uid: u32,
    engine_group: u32,
}

/// Puts an empty file system over the directory `$0`, for the command `$@` only.
const HIDE: &str = r#"mount -t tmpfs -o mode=755 hidden "$0" && exec "$@""#;

/// A temporary machine. Dropping it ends every process that works for its
/// repository and removes every container of its factory.
pub struct Lab {
    dir: TempDir,
    repo: PathBuf,
    user: Option<User>,
    env: BTreeMap<String, String>,
    /// The repository is a mount point.
    mounted: bool,
}

/// Nobody plans or reviews, and an automatic gate asks for no review; nothing where the
/// configuration of a test says of that what it wants.
fn alone(config: &str) -> &'static str {
    match config.contains("auto_merge:") || config.contains("tiers:") {
        true => "",
        false => {
            "auto_merge: {review: false}\ntiers: {low: {review: false}, medium: {review: false}, high: {plan: false, review: false}}\n"
        }
    }
}

impl Lab {
    /// A repository with one commit on `main`, worked on by the user of the test.
    pub fn new() -> Self {
        Self::make(None, None)
    }

    /// As [`Lab::new`], with the whole repository on a disk of its own of `bytes`
    /// bytes. None, with the reason printed, where nothing can be mounted.
    pub fn on_small_disk(test: &str, bytes: u64) -> Option<Self> {
        if !rustix::process::getuid().is_root() {
            println!("skipped: {test}: mounting a small disk needs root");
            return None;
        }
        Some(Self::make(None, Some(bytes)))
    }

    /// Fills that disk to its last byte; dropping the value frees it again.
    pub fn fill_disk(&self) -> Filler {
        Filler::below(&self.repo.join(".git"))
    }

    /// As [`Lab::new`], for a user that is not root but may use the engine, and
    /// who sees nothing of the source tree. None, with the reason printed, where the test cannot become another user.
    pub fn as_ordinary_user(test: &str) -> Option<Self> {
        use std::os::unix::fs::MetadataExt;
        if !rustix::process::getuid().is_root() {
            println!("skipped: {test}: every other test runs as an ordinary user here");
            return None;
        }
        let socket = match std::env::var("DOCKER_HOST") {
            Ok(host) => match host.strip_prefix("unix://") {
                Some(path) => path.to_owned(),
                None => {
                    println!(
                        "skipped: {test}: the engine at {host} has no socket to ask for its group"
                    );
                    return None;
                }
            },
            Err(_) => "/var/run/docker.sock".to_owned(),
        };
        // A number without a name: nothing is left in this machine's user list.
        let user = User {
            uid: 54_321,
            engine_group: std::fs::metadata(socket).unwrap().gid(),
        };
        Some(Self::make(Some(user), None))
    }

    fn make(user: Option<User>, disk: Option<u64>) -> Self {
        adopt_orphans();
        let dir = tempfile::Builder::new()
            .prefix("factory-test-")
            .tempdir()
            .unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        install(&dir.path().join("prefix"));
        let mut env: BTreeMap<String, String> = std::env::vars()
            .filter(|(name, _)| NETWORK.contains(&name.as_str()) || name.starts_with("PIP_"))
            .collect();
        let home = dir.path().join("home");
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        env.extend([
            ("HOME".to_owned(), text(&home)),
            ("PATH".to_owned(), std::env::var("PATH").unwrap()),
            ("LC_ALL".to_owned(), "C.UTF-8".to_owned()),
        ]);
        let lab = Self {
            repo: dir.path().join("repo"),
            dir,
            user,
            env,
            mounted: disk.is_some(),
        };
        for made in [&home, &lab.repo] {
            std::fs::create_dir(made).unwrap();
            lab.give(made);
        }
        if let Some(bytes) = disk {
            disk::mount(&lab.dir.path().join("disk.img"), &lab.repo, bytes);
        }
        lab.git(&["init", "--quiet", "--initial-branch=main"]);
        lab.git(&["config", "user.name", "Uma User"]);
        lab.git(&["config", "user.email", "uma@example.org"]);
        lab
    }

    fn give(&self, path: &Path) {
        if let Some(user) = self.user {
            chown(path, Some(user.uid), Some(user.uid)).unwrap();
        }
    }

    /// The user's repository.
    pub fn repo(&self) -> &Path {
        &self.repo
    }

    /// The user's home directory.
    pub fn home_dir(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    /// The installed program.
    pub fn program(&self) -> PathBuf {
        self.dir.path().join("prefix/bin/factory")
    }

    /// Where the factory keeps everything.
    pub fn below(&self, path: &str) -> PathBuf {
        self.repo.join(".git/factory").join(path)
    }

    /// Sets a variable for every command from now on.
    pub fn env(&mut self, name: &str, value: &str) {
        self.env.insert(name.to_owned(), value.to_owned());
    }

    /// Writes a file of the user's work tree.
    pub fn write(&self, path: &str, text: &str) {
        let path = self.repo.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        self.give(&path);
    }

    /// Reads a file of the user's work tree.
    pub fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.repo.join(path)).unwrap()
    }

    /// Commits everything in the work tree.
    pub fn commit(&self, message: &str) {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--message", message]);
    }

    /// Commits `factory.yaml` with the engine `sh ./agent.sh`, that script, and
    /// the rest of the configuration.
    pub fn scripted(&self, agent: &str, config: &str) {
        self.write("agent.sh", agent);
        self.write(
            "factory.yaml",
            &format!(
                "engine: {{command: [\"sh\", \"./agent.sh\"]}}\n{}{config}",
                alone(config)
            ),
        );
        self.commit("Begin");
    }

    /// `factory.yaml` for claude with a scripted model; the key has to be in
    /// the environment as `TEST_API_KEY`.
    pub fn claude_config(model: &Model, rest: &str) -> String {
        Self::engine_config("claude", model, rest)
    }

    /// As [`Lab::claude_config`], for any engine that the factory knows.
    pub fn engine_config(engine: &str, model: &Model, rest: &str) -> String {
        let kind = EngineKind::named(engine).unwrap();
        let vendor = kind.known().unwrap().api.vendor();
        let base_url = match vendor {
            Vendor::Anthropic => model.base_url(),
            Vendor::Openai => format!("{}/v1", model.base_url()),
        };
        format!(
            "engine: {engine}\nmodels:\n  {}: {{base_url: \"{base_url}\", key_env: TEST_API_KEY}}\n{}{rest}",
            vendor.as_str(),
            alone(rest)
        )
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = match self.user {
            None => Command::new(program),
            Some(user) => {
                let mut command = Command::new("unshare");
                command
                    .args(["--mount", "--propagation=private", "sh", "-c", HIDE])
                    .arg(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap())
                    .arg("setpriv")
                    .arg(format!("--reuid={}", user.uid))
                    .arg(format!("--regid={}", user.uid))
                    .arg(format!("--groups={}", user.engine_group))
                    .args(["--inh-caps=-all", "--"])
                    .arg(program);
                command
            }
        };
        command.env_clear().envs(&self.env).current_dir(&self.repo);
        command
    }

    /// Runs git in the user's repository, as the user; gives its output without the last newline.
    pub fn git(&self, args: &[&str]) -> String {
        let output = self
            .command(Path::new("git"))
            .args(args)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "git {args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout)
            .trim_end_matches('\n')
            .to_owned()
    }

    /// The installed program in the user's repository, not begun yet.
    pub fn factory(&self) -> Command {
        self.command(&self.program())
    }

    /// The same on a terminal of its own, 100 by 40; what that shows is the command's standard output.
    pub fn on_a_terminal(&self, args: &[&str]) -> Command {
        let mut command = self.command(Path::new("script"));
        let program = self.program();
        command
            .args(["--quiet", "--flush", "--return", "--command"])
            .arg(format!(
                "stty cols 100 rows 40 && '{}' {}",
                program.display(),
                args.join(" ")
            ))
            .arg("/dev/null")
            .env("TERM", "xterm");
        command
    }

    /// Runs `factory` in the user's repository, and shows nothing of it.
    pub fn quietly(&self, args: &[&str]) -> Said {
        let output = self
            .command(&self.program())
            .args(args)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        Said {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Runs `factory` in the user's repository.
    pub fn say(&self, args: &[&str]) -> Said {
        let said = self.quietly(args);
        println!(
            "$ factory {}\n{}{}-- exit {}",
            args.join(" "),
            said.out,
            said.err,
            said.code
        );
        said
    }

    /// Runs `factory`, which must succeed; gives its standard output.
    pub fn ok(&self, args: &[&str]) -> String {
        let said = self.say(args);
        assert_eq!(said.code, 0, "factory {args:?}: {}", said.err);
        said.out
    }

    /// Files an issue and approves it.
    pub fn approved(&self, title: &str, body: &str) {
        self.ok(&["issue", "new", "--title", title, "--body", body]);
        let number = self.state().meta.last_issue.to_string();
        self.ok(&["issue", "approve", &number]);
    }

    /// Begins `factory start` with more arguments and variables. The image is
    /// built before: on a fresh machine that takes longer than anything a test waits for.
    pub fn start(&self, args: &[&str], env: &[(&str, &str)]) -> Start<'_> {
        self.ok(&["image", "build"]);
        self.begin(args, env)
    }

    /// The same where nothing is done before: also not by us.
    pub fn begin(&self, args: &[&str], env: &[(&str, &str)]) -> Start<'_> {
        let mut command = self.command(&self.program());
        command.arg("start").args(args).envs(env.iter().copied());
        println!("$ factory start {}", args.join(" "));
        Start::new(self, command)
    }

    /// `factory start --until-idle` to its end.
    pub fn until_idle(&self) -> Ended {
        self.start(&["--until-idle"], &[]).ended()
    }

    /// As [`Lab::until_idle`], which must end well.
    pub fn until_idle_ok(&self) -> Ended {
        let ended = self.until_idle();
        assert_eq!(ended.code, 0, "{}", ended.text());
        ended
    }

    /// Runs git in one of the factory's own repositories or the user's, as the
    /// test's user; nothing is written.
    pub fn look(&self, repository: &Path, args: &[&str], stdin: &str) -> Option<Vec<u8>> {
        let mut child = Command::new("git")
            .args(["-c", "safe.directory=*", "-C"])
            .arg(repository)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        let text = stdin.to_owned();
        let writer = std::thread::spawn(move || input.write_all(text.as_bytes()));
        let output = child.wait_with_output().unwrap();
        // A git that reads no input may end before all of it is written.
        writer.join().unwrap().ok();
        output.status.success().then_some(output.stdout)
    }

    /// The text of `look`, which must succeed.
    pub fn looked(&self, repository: &Path, args: &[&str]) -> String {
        let bytes = self
            .look(repository, args, "")
            .unwrap_or_else(|| panic!("git {args:?} in {}", repository.display()));
        String::from_utf8_lossy(&bytes).trim_end().to_owned()
    }

    /// Files of the state's newest commit below `prefix`; the archive only when asked for.
    pub fn state_files(&self, prefix: &str) -> Option<BTreeMap<String, Vec<u8>>> {
        let git = self.below("state.git");
        if !git.exists() {
            return None;
        }
        let head = self.look(&git, &["rev-parse", "--verify", "--quiet", "state"], "")?;
        let head = String::from_utf8(head).ok()?.trim().to_owned();
        let names = self.look(&git, &["ls-tree", "-r", "-z", "--name-only", &head], "")?;
        let names: Vec<String> = String::from_utf8(names)
            .ok()?
            .split_terminator('\0')
            .filter(|name| name.starts_with(prefix))
            .filter(|name| prefix.starts_with("archive") || !name.starts_with("archive/"))
            .map(str::to_owned)
            .collect();
        let asked: String = names.iter().map(|n| format!("{head}:{n}\n")).collect();
        let mut rest: &[u8] = &self.look(&git, &["cat-file", "--batch"], &asked)?;
        let mut files = BTreeMap::new();
        for name in names {
            let end = rest.iter().position(|b| *b == b'\n')?;
            let size: usize = std::str::from_utf8(&rest[..end])
                .ok()?
                .rsplit(' ')
                .next()?
                .parse()
                .ok()?;
            let body = &rest[end + 1..];
            files.insert(name, body[..size].to_vec());
            rest = &body[size + 1..];
        }
        Some(files)
    }

    /// The state, where there is one.
    pub fn state_now(&self) -> Option<State> {
        let files = self.state_files("")?;
        Some(State::decode(&files).unwrap())
    }

    /// The state.
    pub fn state(&self) -> State {
        self.state_now().expect("the factory has a state")
    }

    /// What the archive holds, as one text.
    pub fn archive(&self) -> String {
        let files = self.state_files("archive/").unwrap_or_default();
        files
            .into_iter()
            .map(|(name, bytes)| format!("== {name}\n{}\n", String::from_utf8_lossy(&bytes)))
            .collect()
    }

    /// The factory's name on this host, as on its containers' labels.
    pub fn home(&self) -> Option<String> {
        let state = self.state_now()?;
        let git = self.below("state.git");
        Some(factory_ledger::places::home_id(&state.meta.repository, &git).unwrap())
    }

    /// What its engine has of this factory.
    pub fn on_engine(&self) -> Leftovers {
        let left = |home: String| Leftovers::at(self.engine(), &home);
        self.home().map(left).unwrap_or_default()
    }

    /// Runs `docker` for this user's engine and gives what it prints.
    pub fn docker(&self, args: &[&str]) -> String {
        docker_at(self.engine(), args)
    }

    fn engine(&self) -> Option<&str> {
        self.env.get("DOCKER_HOST").map(String::as_str)
    }

    /// The image that the configuration of the target asks for, built where it is missing.
    pub fn image(&self) -> String {
        let said = self.ok(&["image", "build"]);
        said.lines().last().unwrap().to_owned()
    }

    /// Nothing but history is left: no container, volume, workspace, run
    /// directory, process; every repository is sound.
    pub fn assert_at_rest(&self) {
        self.assert_no_run();
        assert_eq!(processes(self.dir.path()), [], "processes are left");
        for repository in [
            self.repo.clone(),
            self.below("state.git"),
            self.below("base.git"),
            self.below("door.git"),
        ] {
            if repository.exists() {
                let found = self.looked(&repository, &["fsck", "--full", "--strict"]);
                let found: Vec<_> = found
                    .lines()
                    .filter(|l| !l.starts_with("dangling"))
                    .collect();
                assert_eq!(found, [""; 0], "fsck of {}", repository.display());
            }
        }
    }

    /// Runs `sh -c script` in the one container of this factory, as its user;
    /// gives what it prints.
    pub fn inside(&self, script: &str) -> String {
        let container = self.container();
        self.docker(&["exec", &container, "sh", "-c", script])
    }

    /// The one container of this factory.
    pub fn container(&self) -> String {
        let containers = self.on_engine().containers;
        assert_eq!(containers.len(), 1, "{containers:?}");
        containers[0].clone()
    }

    /// No container, volume, workspace or run directory is there.
    pub fn assert_no_run(&self) {
        assert_eq!(self.on_engine(), Leftovers::default());
        for dir in ["ws", "run"] {
            let left: Vec<_> = match std::fs::read_dir(self.below(dir)) {
                Ok(entries) => entries.map(|e| e.unwrap().file_name()).collect(),
                Err(_) => Vec::new(),
            };
            assert!(left.is_empty(), "left in {dir}: {left:?}");
        }
    }
}

impl Default for Lab {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Launcher first, so that it starts nothing again; only its program names this place.
        let mut left = processes(self.dir.path());
        left.sort_by_key(|process| !process.is("start"));
        for process in &left {
            println!("still there at the end: {process:?}");
            kill(process.pid);
            reap(process.pid);
        }
        // A broken state must not hide why the test failed.
        if let Ok(left) =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.on_engine()))
        {
            left.remove(self.engine());
        }
        if self.mounted {
            disk::unmount(&self.repo);
        }
    }
}

/// Installs the built programs below `prefix`, as `make install` does: another process writes
/// them, since a child of a test beside this one could hold them open for writing.
fn install(prefix: &Path) {
    let test = std::env::current_exe().unwrap();
    // target/<target>/debug/deps/<test>
    let built = test.parent().and_then(Path::parent).unwrap();
    for (name, to) in [("factory", "bin"), ("factory-agent", "lib/factory")] {
        let from = built.join(name);
        assert!(
            from.exists(),
            "{} is not built; run the tests by `make test`",
            from.display()
        );
        let to = prefix.join(to);
        std::fs::create_dir_all(&to).unwrap();
        let copied = Command::new("cp").arg(&from).arg(&to).status();
        assert!(copied.unwrap().success());
    }
}
