//! A user's repository with `base.git` and `door.git` beside it.

use factory_core::ids::Oid;
use factory_ledger::base::BaseRepo;
use factory_ledger::door::DoorRepo;
use factory_ledger::merge::Author;
use factory_ledger::user::UserRepo;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

pub struct Lab {
    /// Removed with all that is in it when the lab goes.
    pub tmp: TempDir,
    /// The user's main worktree.
    pub top: PathBuf,
    pub user: UserRepo,
    pub base: BaseRepo,
    pub door: DoorRepo,
    /// The first commit, tip of `main`.
    pub first: Oid,
}

impl Lab {
    /// `main` holds these files, and `base.git` has it.
    pub fn new(files: &[(&str, &str)]) -> Self {
        Self::named("repository", files)
    }

    /// The same with a directory name of the caller's choice.
    pub fn named(name: &str, files: &[(&str, &str)]) -> Self {
        let tmp = tempfile::tempdir().unwrap();
        let top = tmp.path().join(name);
        std::fs::create_dir(&top).unwrap();
        git(&top, &["init", "-q", "-b", "main"]);
        git(&top, &["config", "user.name", "Ursula User"]);
        git(&top, &["config", "user.email", "ursula@example.org"]);
        for (path, content) in files {
            put(&top, path, content);
        }
        let first = commit(&top, "first");
        let ours = top.join(".git/factory");
        std::fs::create_dir(&ours).unwrap();
        let user = UserRepo::open(top.join(".git"));
        let base = BaseRepo::init(ours.join("base.git")).unwrap();
        let door = DoorRepo::init(ours.join("door.git"), &base).unwrap();
        assert_eq!(base.fetch_target(&user, "main").unwrap(), first);
        Self {
            tmp,
            top,
            user,
            base,
            door,
            first,
        }
    }

    /// Makes a commit on top of `parent` elsewhere and hands it to `door.git`,
    /// as an agent's push does. `change` edits the files.
    pub fn in_door(&self, name: &str, parent: &Oid, change: impl FnOnce(&Path)) -> Oid {
        let work = self.tmp.path().join(format!("agent-{name}"));
        git(
            self.tmp.path(),
            &[
                "clone",
                "-q",
                "--no-checkout",
                self.door.dir().to_str().unwrap(),
                work.to_str().unwrap(),
            ],
        );
        std::fs::copy(self.top.join(".git/config"), work.join(".git/config")).unwrap();
        std::fs::write(
            work.join(".git/objects/info/alternates"),
            format!("{}\n", self.door.dir().join("objects").display()),
        )
        .unwrap();
        git(&work, &["checkout", "-q", "-b", "work", parent.as_str()]);
        change(&work);
        let oid = commit(&work, name);
        let to = format!("+refs/heads/work:refs/keep/test/{name}");
        git(
            self.door.dir(),
            &[
                "fetch",
                "-q",
                "--no-write-fetch-head",
                work.to_str().unwrap(),
                &to,
            ],
        );
        std::fs::remove_dir_all(&work).unwrap();
        oid
    }

    /// Every repository is sound.
    pub fn fsck(&self) {
        for dir in [self.top.as_path(), self.base.dir(), self.door.dir()] {
            git(dir, &["fsck", "--strict", "--no-dangling"]);
        }
    }
}

/// True where `door.git` has an object, its own or one of `base.git`.
pub fn has(door: &DoorRepo, object: &Oid) -> bool {
    door.there([object].into_iter()).unwrap().contains(object)
}

pub fn author() -> Author {
    Author {
        name: "Factory".to_owned(),
        email: "factory@example.org".to_owned(),
    }
}

/// Runs git without the machine's configuration; it must succeed.
pub fn git(dir: &Path, args: &[&str]) -> String {
    let out = git_command(dir).args(args).output().unwrap();
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "git {args:?}: {stderr}");
    String::from_utf8_lossy(&out.stdout).trim_end().to_owned()
}

pub fn git_command(dir: &Path) -> Command {
    let mut command = Command::new("git");
    command
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null")
        .arg("-C")
        .arg(dir);
    command
}

pub fn put(top: &Path, path: &str, content: &str) {
    let file = top.join(path);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(file, content).unwrap();
}

/// Commits everything that changed.
pub fn commit(top: &Path, message: &str) -> Oid {
    git(top, &["add", "-A"]);
    git(top, &["commit", "-q", "-m", message]);
    git(top, &["rev-parse", "HEAD"]).parse().unwrap()
}
