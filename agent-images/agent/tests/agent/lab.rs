//! One run's directories, origin and gateway, and the agent in namespaces of
//! its own: pid 1, a loopback of its own with the real port.

use crate::gateway::Gateway;
use factory_core::wire::{EngineLaunch, PROTOCOL, RunFile, RunTask};
use std::{
    collections::BTreeMap,
    io::Read as _,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

pub const BRANCH: &str = "factory/7-fix";
pub const SESSION: &str = "/state/engine/session.jsonl";
pub const SUBJECT: &str = "Leftovers of r7-1";

/// No test takes longer; one that would has found a defect.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub struct Lab {
    pub dir: tempfile::TempDir,
    pub gateway: Gateway,
    pub file: RunFile,
    /// Run the agent as this user.
    pub uid: Option<u32>,
}

/// A started agent.
pub struct Started {
    child: Child,
    stderr: std::fs::File,
}

/// Ends with its namespaces whatever happens to the test.
struct Child(std::process::Child);

impl Drop for Child {
    fn drop(&mut self) {
        // `unshare --kill-child` takes the agent with it.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

pub struct Done {
    pub code: i32,
    pub log: String,
}

/// A fresh workspace, as the host makes it: without a checkout, and with no
/// history but the target's.
fn clone(dir: &Path) {
    sh(
        dir,
        "git clone -q --no-local --no-checkout --single-branch -b main git/origin workspace
         cd workspace
         git config remote.origin.url http://127.0.0.1:8377/git/origin
         git config remote.origin.fetch +refs/factory/start:refs/remotes/origin/start
         git config push.default current
         git config branch.factory/7-fix.remote origin
         git config branch.factory/7-fix.merge refs/heads/factory/7-fix",
    );
}

/// Runs a command that must work.
pub fn sh(dir: &Path, script: &str) -> String {
    let done = Command::new("bash")
        .args(["-euc", script])
        .current_dir(dir)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .envs(identity("host"))
        .output()
        .unwrap();
    assert!(
        done.status.success(),
        "{script}\n{}",
        String::from_utf8_lossy(&done.stderr)
    );
    String::from_utf8(done.stdout).unwrap().trim().to_owned()
}

fn identity(name: &str) -> Vec<(String, String)> {
    ["GIT_AUTHOR", "GIT_COMMITTER"]
        .iter()
        .flat_map(|who| {
            [
                (format!("{who}_NAME"), name.to_owned()),
                (format!("{who}_EMAIL"), format!("{name}@example.org")),
            ]
        })
        .collect()
}

fn namespaces(root: bool) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--fork", "--pid", "--net", "--mount-proc", "--kill-child"]);
    if !root {
        command.args(["--user", "--map-root-user"]);
    }
    command
}

fn am_root() -> bool {
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

impl Lab {
    /// None, with a printed reason, where namespaces are not permitted.
    pub fn new(name: &str) -> Option<Self> {
        let possible = namespaces(am_root())
            .args(["sh", "-c", "ip link set lo up"])
            .output();
        let refused = match possible {
            Ok(done) if done.status.success() => None,
            Ok(done) => Some(String::from_utf8_lossy(&done.stderr).into_owned()),
            Err(e) => Some(e.to_string()),
        };
        if let Some(reason) = refused {
            println!(
                "skipped: {name}: namespaces need unshare, ip and the right to use them: {reason}"
            );
            return None;
        }

        let dir = tempfile::Builder::new()
            .prefix("factory-agent-")
            .tempdir()
            .unwrap();
        for part in ["run/factory", "factory/out", "state", "git"] {
            std::fs::create_dir_all(dir.path().join(part)).unwrap();
        }
        let start = sh(
            dir.path(),
            "git init -q --bare -b main git/origin
             git -C git/origin config http.receivepack true
             git -C git/origin config receive.denyNonFastForwards true
             git -C git/origin config transfer.fsckObjects true
             git init -q -b main seed; cd seed
             printf 'one\\ntwo\\nthree\\n' > file.txt; git add .; git commit -qm first
             git push -q ../git/origin HEAD:main HEAD:refs/factory/start; git rev-parse HEAD",
        );
        clone(dir.path());
        std::fs::write(
            dir.path().join("run/factory/brief.md"),
            "# The task\nDo it.\n",
        )
        .unwrap();
        let gateway = Gateway::new(
            dir.path().join("run/factory/gw.sock"),
            dir.path().join("git"),
        );
        let file = RunFile {
            protocol: PROTOCOL,
            run: "r7-1".parse().unwrap(),
            start: start.parse().unwrap(),
            merge_target: None,
            wall_seconds: 600,
            disk_bytes: 1 << 30,
            task: RunTask::Checks {
                commands: Vec::new(),
            },
        };
        Some(Self {
            dir,
            gateway,
            file,
            uid: None,
        })
    }

    /// An engine made of shell text; without `resume` it cannot be resumed.
    pub fn engine(&mut self, first: &str, resume: Option<&str>) -> &mut Self {
        let argv = |script: &str| vec!["bash".to_owned(), "-uc".to_owned(), script.to_owned()];
        self.launch(EngineLaunch {
            argv: argv(first),
            resume_argv: resume.map(argv),
            env: BTreeMap::from([("KEY".to_owned(), "placeholder".to_owned())]),
            dirs: vec!["/state/engine".to_owned()],
            files: BTreeMap::new(),
            session_file: Some(SESSION.to_owned()),
        })
    }

    pub fn launch(&mut self, engine: EngineLaunch) -> &mut Self {
        self.file.task = RunTask::Engine {
            role: factory_core::grant::Role::Code,
            branch: Some(BRANCH.to_owned()),
            session_only: false,
            engine,
            // No test takes that long.
            stall_seconds: 600,
            checkpoint_seconds: 600,
            resume: None,
            leftover_subject: SUBJECT.to_owned(),
        };
        self
    }

    /// The engine may be silent for so long.
    pub fn stall(&mut self, seconds: u64) -> &mut Self {
        match &mut self.file.task {
            RunTask::Engine { stall_seconds, .. } => *stall_seconds = seconds,
            RunTask::Checks { .. } => panic!("checks do not stall"),
        }
        self
    }

    /// Checkpoints every second.
    pub fn checkpoints(&mut self) -> &mut Self {
        match &mut self.file.task {
            RunTask::Engine {
                checkpoint_seconds, ..
            } => *checkpoint_seconds = 1,
            RunTask::Checks { .. } => panic!("checks are not saved"),
        }
        self
    }

    /// Text for an engine that waits until git in the origin says so.
    pub fn until(&self, git: &str, says: &str) -> String {
        format!(
            "until [ \"$(git --git-dir={} {git} 2> /dev/null)\" = '{says}' ]; do sleep 0.05; done",
            self.path("git/origin").display()
        )
    }

    /// Text for an engine that waits until the checkpoint's `path` is `content`.
    pub fn saved(&self, path: &str, content: &str) -> String {
        self.until(&format!("show refs/factory/checkpoint:{path}"), content)
    }

    /// A next run, in a fresh workspace and home, that goes on from the checkpoint;
    /// it starts from `start`.
    pub fn resume(&mut self, start: &str, engine: &str) -> &mut Self {
        sh(
            self.dir.path(),
            &format!(
                "rm -rf workspace state factory/out; mkdir -p state factory/out
                 cd git/origin; git update-ref refs/factory/start {start}
                 git update-ref refs/factory/resume refs/factory/checkpoint; git update-ref -d refs/factory/checkpoint"
            ),
        );
        clone(self.dir.path());
        *self.gateway.seen.lock().unwrap() = Default::default();
        self.file.start = self.origin(&format!("rev-parse {start}")).parse().unwrap();
        let checkpoint = self.origin("rev-parse refs/factory/resume");
        // The first start of an engine that resumes is its resumption.
        self.engine(engine, Some(engine));
        match &mut self.file.task {
            RunTask::Engine { resume, .. } => *resume = Some(checkpoint.parse().unwrap()),
            RunTask::Checks { .. } => panic!("checks do not resume"),
        }
        self
    }

    pub fn checks(&mut self, commands: &[&str]) -> &mut Self {
        self.file.task = RunTask::Checks {
            commands: commands.iter().map(|c| (*c).to_owned()).collect(),
        };
        self
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    /// Git in the origin.
    pub fn origin(&self, args: &str) -> String {
        sh(&self.path("git/origin"), &format!("git {args}"))
    }

    pub fn start(&self) -> Started {
        let text = serde_saphyr::to_string(&self.file).unwrap();
        std::fs::write(self.path("run/factory/run.yaml"), text).unwrap();
        self.start_with(&[])
    }

    pub fn start_with(&self, arguments: &[&str]) -> Started {
        let mut program = vec![env!("CARGO_BIN_EXE_factory-agent").to_owned()];
        if let Some(uid) = self.uid {
            // The build directory may be closed to other users.
            // Another process writes it: a child of a test beside this one could hold what
            // this one writes open while it is to run.
            sh(
                self.dir.path(),
                &format!("cp '{}' factory-agent", program[0]),
            );
            sh(self.dir.path(), &format!("chown -R {uid}:{uid} ."));
            program = vec![
                "setpriv".to_owned(),
                format!("--reuid={uid}"),
                format!("--regid={uid}"),
                "--clear-groups".to_owned(),
                self.path("factory-agent").display().to_string(),
            ];
            let mode = std::fs::Permissions::from_mode(0o711);
            std::fs::set_permissions(self.dir.path(), mode).unwrap();
        }
        let log = self.path("agent.log");
        let child = namespaces(am_root())
            .args(["sh", "-c", "ip link set lo up && exec \"$@\"", "sh"])
            .args(program)
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("FACTORY_AGENT_ROOT", self.dir.path())
            .env("SECRET_OF_THE_HOST", "must not arrive")
            .envs(identity("agent"))
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(self.path("agent.out")).unwrap())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Started {
            child: Child(child),
            stderr: std::fs::File::open(log).unwrap(),
        }
    }

    pub async fn run(&self) -> Done {
        self.start().done().await
    }
}

impl Started {
    /// Pid of the process that holds the namespaces.
    pub fn unshare(&self) -> u32 {
        self.child.0.id()
    }

    /// Pid of the agent, as seen from here; only once it is known to run.
    pub fn agent(&self) -> u32 {
        children(self.unshare())[0]
    }

    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Ends the container's processes as a crash does, and waits for that.
    pub async fn kill(self) {
        self.signal("KILL");
        self.done().await;
    }

    /// Signals the agent alone.
    pub fn signal(&self, name: &str) {
        sh(Path::new("/"), &format!("kill -{name} {}", self.agent()));
    }

    pub async fn done(mut self) -> Done {
        // The wait blocks a thread, not the gateway on this one.
        let waited = tokio::task::spawn_blocking(move || {
            let status = self.child.0.wait().unwrap();
            (status, self.stderr)
        });
        let waited = tokio::time::timeout(PATIENCE, waited).await;
        let (status, mut stderr) = waited.expect("the agent does not end").unwrap();
        let mut log = String::new();
        stderr.read_to_string(&mut log).unwrap();
        println!("{log}");
        Done {
            code: status.code().unwrap_or(-1),
            log,
        }
    }
}

/// Direct children of a process.
pub fn children(pid: u32) -> Vec<u32> {
    let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    list.split_whitespace()
        .map(|pid| pid.parse().unwrap())
        .collect()
}
