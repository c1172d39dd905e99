//! A place with a home of its own, and what commands left in it.

use std::{
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

pub const FACTORY: &str = env!("CARGO_BIN_EXE_factory");
/// A model key, to be seen nowhere.
pub const KEY: (&str, &str) = ("ANTHROPIC_API_KEY", "sk-ant-not-a-key");
/// An engine that is not there.
pub const NO_DOCKER: (&str, &str) = ("DOCKER_HOST", "unix:///nonexistent");

/// A place with a home of its own.
pub struct Lab {
    pub dir: tempfile::TempDir,
}

/// What a command left.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Lab {
    pub fn new() -> Self {
        let lab = Self {
            dir: tempfile::Builder::new()
                .prefix("factory-first-hour-")
                .tempdir()
                .unwrap(),
        };
        fs::create_dir(lab.path("home")).unwrap();
        let config = "[user]\nname = Ann\nemail = ann@example.org\n[init]\ndefaultBranch = main\n\
                      [protocol \"file\"]\nallow = always\n[uploadpack]\nallowFilter = true\n";
        fs::write(lab.path("home/.gitconfig"), config).unwrap();
        lab
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Puts the program into a folder of its own, which it makes. Another process copies it: a child
    /// that a test beside this one starts would else hold it open for writing for a moment, and
    /// what is being written cannot be run.
    pub fn install(&self, bin: &Path) -> PathBuf {
        fs::create_dir_all(bin).unwrap();
        let copied = Command::new("cp").arg(FACTORY).arg(bin).status();
        assert!(copied.unwrap().success());
        bin.join("factory")
    }

    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>, dir: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(dir)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", self.path("home"))
            .env("LANG", "C.UTF-8")
            .stdin(Stdio::null());
        command
    }

    pub fn run(&self, mut command: Command) -> Ended {
        let output = command.output().unwrap();
        Ended {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    pub fn git(&self, dir: &Path, args: &[&str]) -> String {
        let mut command = self.command("git", dir);
        command.args(args);
        let ended = self.run(command);
        assert_eq!(ended.code, 0, "git {args:?}: {}", ended.err);
        ended.out
    }

    pub fn factory(&self, dir: &Path, args: &[&str], env: &[(&str, &str)]) -> Ended {
        let mut command = self.command(FACTORY, dir);
        command.args(args).envs(env.iter().copied());
        self.run(command)
    }

    /// A repository with one commit that holds these files.
    pub fn repo(&self, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let dir = self.path(name);
        fs::create_dir(&dir).unwrap();
        self.git(&dir, &["init", "--quiet"]);
        for (path, text) in files {
            let path = dir.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        self.git(&dir, &["add", "--all"]);
        self.git(&dir, &["commit", "--quiet", "--allow-empty", "-m", "Start"]);
        dir
    }

    /// A repository below a folder of this name.
    pub fn moved(&self, name: &[u8]) -> PathBuf {
        let from = self.repo("plain", &[]);
        let to = self.dir.path().join(std::ffi::OsStr::from_bytes(name));
        fs::rename(from, &to).unwrap();
        to
    }

    pub fn status(&self, dir: &Path) -> String {
        self.git(dir, &["status", "--porcelain", "--untracked-files=all"])
    }

    /// All files of a repository and its factory, as they would differ after any change.
    pub fn files(&self, dir: &Path) -> Vec<PathBuf> {
        let mut all = listing(dir);
        all.sort();
        all
    }

    /// A factory folder is there with a state in it, or not at all; no probe is left.
    pub fn nothing_half_made(&self, common: &Path) {
        let root = common.join("factory");
        if root.exists() {
            let state = root.join("state.git");
            self.git(&state, &["rev-parse", "--verify", "refs/state"]);
            for dir in ["run", "ws"] {
                assert_eq!(fs::read_dir(root.join(dir)).unwrap().count(), 0, "{dir}");
            }
        }
        let names = fs::read_dir(common)
            .unwrap()
            .map(|e| e.unwrap().file_name());
        let rooms: Vec<_> = names
            .filter(|name| name.to_string_lossy().starts_with("factory-"))
            .collect();
        assert!(rooms.is_empty(), "{rooms:?}");
        if let Some(mounts) = self.mounts() {
            let ours = self.dir.path().to_str().unwrap();
            assert!(!mounts.contains(ours), "a container is left: {mounts}");
        }
    }

    /// Host paths that containers of any factory have mounted; none without Docker.
    pub fn mounts(&self) -> Option<String> {
        let mut list = self.command("docker", self.dir.path());
        list.args(["ps", "--all", "--quiet", "--filter", "label=factory.run"]);
        let ids = list.output().ok().filter(|list| list.status.success())?;
        let ids = String::from_utf8(ids.stdout).unwrap();
        if ids.trim().is_empty() {
            return Some(String::new());
        }
        let mut inspect = self.command("docker", self.dir.path());
        inspect
            .args(["inspect", "--format", "{{json .Mounts}}"])
            .args(ids.split_whitespace());
        // Those of others may go away meanwhile; the rest is printed all the same.
        Some(self.run(inspect).out)
    }
}

pub fn assert_bad(ended: &Ended, code: i32, parts: &[&str], case: &str) {
    assert_eq!(ended.code, code, "{case}: {ended:?}");
    let said = format!("{}{}", ended.out, ended.err);
    for part in parts {
        assert!(said.contains(part), "{case}: `{part}` is not in\n{said}");
    }
    assert!(!said.contains("panicked"), "{case}: {said}");
}

pub fn has_docker(test: &str) -> bool {
    let mut command = Command::new("docker");
    command.args(["version", "--format", "{{.Server.Version}}"]);
    let there = command.output().is_ok_and(|output| output.status.success());
    if !there {
        println!("skipped: {test}: no Docker engine");
    }
    there
}

/// The agent beside the binary under test, which `cargo test -p factory` alone does not build.
pub fn has_agent(test: &str) -> bool {
    let agent = Path::new(FACTORY).with_file_name("factory-agent");
    if !agent.is_file() {
        println!("skipped: {test}: {} is missing", agent.display());
    }
    agent.is_file()
}

/// Everything below a directory but git's objects.
pub fn listing(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("objects") {
            all.extend(listing(&path));
        }
        all.push(path);
    }
    all
}
