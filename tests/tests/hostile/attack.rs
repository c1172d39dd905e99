//! What an attack is, and what is seen of it from outside.

use factory_tests::Lab;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// One attempt of an agent at something that it may not do.
pub struct Attack {
    /// Its name, and that of its issue.
    pub name: &'static str,
    /// What it tries, as people read it.
    pub tries: &'static str,
    /// What it does, in bash.
    pub script: &'static str,
    /// What stands in its way.
    pub wall: Wall,
    /// How it got through, where it did; looked at from outside.
    pub judge: fn(&Scene) -> Option<String>,
    /// Why its wall cannot be taken away here; without a reason the control does it.
    pub no_control: Option<&'static str>,
}

/// What stands between an agent and something. A control takes one of them away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wall {
    /// The container has no network.
    NoNetwork,
    /// Its network namespace is its own: no interface and no abstract socket of the host.
    OwnNetwork,
    /// Its process namespace is its own.
    OwnProcesses,
    /// Its shared memory is its own.
    OwnMemory,
    /// Nothing of the host is mounted but what the run needs.
    Mounts,
    /// No engine's socket is mounted.
    NoEngine,
    /// `/run/factory` is mounted read-only.
    ReadOnlyRun,
    /// `base.git` is mounted read-only.
    ReadOnlyBase,
    /// The image is read-only.
    ReadOnlyImage,
    /// An ordinary user without capabilities.
    Unprivileged,
    /// No program gives more rights than its caller has.
    NoNewPrivileges,
    /// The engine's filter of system calls.
    SystemCalls,
    /// Pid 1 cannot be looked into.
    ShieldedAgent,
    /// No key is in the container.
    NoKey,
    /// `base.git` holds the target's history alone.
    TargetOnly,
    /// The rules of the door for git.
    Pushes,
    /// The door serves its own calls and nobody else's.
    Door,
    /// The host's git does not open an agent's repository.
    HostGit,
    /// The host removes a workspace without following what is in it.
    Removal,
    /// What is printed for people is made visible.
    Shown,
    /// A limit of the container, or of pid 1's.
    Limit(Limit),
}

/// Which limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Memory, and with it `/tmp`.
    Memory,
    /// Processes and threads.
    Processes,
    /// Processors.
    Processors,
    /// Open files.
    Files,
    /// `/tmp`.
    Scratch,
    /// What the workspace takes of the host's disk.
    Disk,
    /// The container's log.
    Log,
    /// Time.
    Time,
}

impl Wall {
    /// As the table names it.
    pub fn words(self) -> &'static str {
        match self {
            Wall::NoNetwork => "no network",
            Wall::OwnNetwork => "network namespace of its own",
            Wall::OwnProcesses => "process namespace of its own",
            Wall::OwnMemory => "shared memory of its own",
            Wall::Mounts => "nothing of the host is mounted but what the run needs",
            Wall::NoEngine => "no engine socket is mounted",
            Wall::ReadOnlyRun => "`/run/factory` is read-only",
            Wall::ReadOnlyBase => "`base.git` is read-only",
            Wall::ReadOnlyImage => "the image is read-only",
            Wall::Unprivileged => "ordinary user, no capabilities",
            Wall::NoNewPrivileges => "no new privileges",
            Wall::SystemCalls => "seccomp filter",
            Wall::ShieldedAgent => "pid 1 cannot be looked into",
            Wall::NoKey => "no key in the container",
            Wall::TargetOnly => "`base.git` holds the target's history only",
            Wall::Pushes => "the door's rules for git",
            Wall::Door => "the door serves its own calls only",
            Wall::HostGit => "the host's git never opens a workspace",
            Wall::Removal => "no link is followed where a workspace is removed",
            Wall::Shown => "what is printed is made visible",
            Wall::Limit(Limit::Memory) => "memory limit",
            Wall::Limit(Limit::Processes) => "process limit",
            Wall::Limit(Limit::Processors) => "processor limit",
            Wall::Limit(Limit::Files) => "limit of open files",
            Wall::Limit(Limit::Scratch) => "limit of scratch space",
            Wall::Limit(Limit::Disk) => "disk limit",
            Wall::Limit(Limit::Log) => "log limit",
            Wall::Limit(Limit::Time) => "time limit",
        }
    }
}

/// What was planted, and may be found nowhere.
#[derive(Debug, Clone)]
pub struct Secrets {
    /// In a file of the host.
    pub host: String,
    /// In the configuration of the user's repository.
    pub remote: String,
    /// In the environment, the memory and a file of another container.
    pub other: String,
    /// In the user's stash.
    pub stash: String,
    /// In a commit of the user's that no branch leads to any more.
    pub deleted: String,
    /// In the work of another run.
    pub run: String,
    /// In the environment of `factory start`.
    pub key: String,
    /// In a file beside the factory's repositories.
    pub beside: String,
}

/// The container as it was while the attack waited for somebody to look.
#[derive(Debug, Clone, Default)]
pub struct Held {
    /// Processes and threads.
    pub pids: u64,
    /// Bytes of memory.
    pub memory: u64,
    /// How often it had to wait until then, since it had used up its share of the processors.
    pub throttled: u64,
    /// Connections of it that its door serves.
    pub connections: usize,
    /// The files of its run directory on the host, by name.
    pub run_files: BTreeMap<String, String>,
    /// Owner and mode of what lies at `.git/left` of its workspace.
    pub left: Option<(u32, u32)>,
    /// Bytes of its container's log.
    pub logged: u64,
    /// Reports that were taken from it.
    pub reports: usize,
    /// The refs of its repository behind the door, one a line.
    pub refs: String,
}

/// What is seen of one attack, or of its control, once it is over.
pub struct Scene<'a> {
    /// The attack's name.
    pub name: &'static str,
    /// What it printed.
    pub said: String,
    /// Bytes of its output that are kept.
    pub kept: u64,
    /// Everything that the listeners heard from it.
    pub heard: Vec<String>,
    /// How it was while it waited.
    pub held: Vec<Held>,
    /// What was planted.
    pub secrets: &'a Secrets,
    /// A directory of the host with a secret, where everybody may write into `drop`.
    pub host: &'a Path,
    /// `.git/factory`.
    pub factory: PathBuf,
    /// The user's `.git`.
    pub user_git: PathBuf,
    /// Repositories where what it pushed may have arrived.
    pub stores: Vec<PathBuf>,
    /// What it was mounted as `base.git`.
    pub base: PathBuf,
    /// Whether the other container lives.
    pub other_lives: bool,
    /// Looks into repositories.
    pub lab: &'a Lab,
}

impl Scene<'_> {
    /// True where it printed `text`.
    pub fn said(&self, text: &str) -> bool {
        self.said.contains(text)
    }

    /// A listener heard from it.
    pub fn was_heard(&self) -> Option<String> {
        self.heard.first().map(|what| format!("heard: {what}"))
    }

    /// It printed what was planted.
    pub fn printed(&self, secret: &str) -> Option<String> {
        self.said(secret).then(|| "it read the secret".to_owned())
    }

    /// Words that it printed after `word`, one for each line that begins with it.
    fn words(&self, word: &str) -> Vec<&str> {
        let lines = self.said.lines();
        lines.filter_map(|line| line.strip_prefix(word)).collect()
    }

    /// The object that it named after `evil` is in a store.
    pub fn landed(&self) -> Option<String> {
        let named = self.words("evil ");
        assert!(
            !named.is_empty() && named.iter().all(|oid| oid.len() == 40),
            "{}: it made no object:\n{}",
            self.name,
            self.said
        );
        for oid in named {
            for store in &self.stores {
                if self.lab.look(store, &["cat-file", "-e", oid], "").is_some() {
                    return Some(format!("{oid} is in {}", store.display()));
                }
            }
        }
        None
    }

    /// Some object of a store holds `secret`.
    pub fn stored(&self, secret: &str) -> Option<String> {
        let all = ["cat-file", "--batch", "--batch-all-objects", "--unordered"];
        self.stores.iter().find_map(|store| {
            let bytes = self.lab.look(store, &all, "").unwrap();
            let refs = self.lab.looked(store, &["for-each-ref"]);
            let text = String::from_utf8_lossy(&bytes);
            (text.contains(secret) || refs.contains(secret))
                .then(|| format!("it is in {}", store.display()))
        })
    }

    /// It left its file in the host's directory.
    pub fn dropped(&self) -> Option<String> {
        let file = self.host.join("drop").join(self.name);
        file.exists()
            .then(|| format!("{} is there", file.display()))
    }

    /// How it was when it waited for the last time.
    pub fn last(&self) -> &Held {
        let last = self.held.last();
        last.unwrap_or_else(|| panic!("{}: it did not wait:\n{}", self.name, self.said))
    }
}
