//! The state on a shared remote: moved by swap, all or nothing, and judged
//! before anything here is touched. With the real git.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use factory_core::ids::{Epoch, Oid};
use factory_core::model::{Machine, Meta};
use factory_core::state::State;
use factory_ledger::places::Places;
use factory_ledger::state::{CommitError, StateRepo};
use factory_ledger::sync::{self, Exchange, Found, Pushed, Standing, SyncError, judge};
use factory_ledger::user::UserRepo;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

fn git(dir: &Path, args: &[&str]) -> String {
    let out = Command::new("git")
        .arg("-C")
        .arg(dir)
        .args(args)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()
        .unwrap();
    assert!(out.status.success(), "git {args:?}: {out:?}");
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

/// A remote, and repositories with a factory that share it.
struct Lab {
    tmp: TempDir,
}

struct Repository {
    top: PathBuf,
    places: Places,
    user: UserRepo,
    store: StateRepo,
}

impl Lab {
    fn new() -> Self {
        let lab = Self {
            tmp: tempfile::tempdir().unwrap(),
        };
        git(lab.tmp.path(), &["init", "-q", "--bare", "remote.git"]);
        lab
    }

    fn remote(&self) -> PathBuf {
        self.tmp.path().join("remote.git")
    }

    fn refs(&self) -> String {
        git(&self.remote(), &["for-each-ref"])
    }

    /// A program of the remote that git runs there.
    fn hook(&self, name: &str, text: &str) {
        let hook = self.remote().join("hooks").join(name);
        std::fs::create_dir_all(hook.parent().unwrap()).unwrap();
        std::fs::write(&hook, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn machine(&self, name: &str) -> Repository {
        let top = self.tmp.path().join(name);
        std::fs::create_dir(&top).unwrap();
        git(&top, &["init", "-q", "-b", "main"]);
        let commit = ["commit", "-q", "--allow-empty", "-m", "first"];
        let who = ["-c", "user.name=U", "-c", "user.email=u@x"];
        git(&top, &[&who[..], &commit].concat());
        // Relative to the work tree, as git takes it.
        git(&top, &["remote", "add", "origin", "../remote.git"]);
        let places = Places::discover(&top).unwrap();
        places.ensure_dirs().unwrap();
        let store = StateRepo::init(&places).unwrap();
        let user = UserRepo::open(places.common_dir());
        Repository {
            top,
            places,
            user,
            store,
        }
    }
}

impl Repository {
    fn exchange(&self) -> Exchange {
        let remote = self.user.find_remote(&self.places, "origin");
        Exchange::open(&self.places, &self.user, remote.unwrap().unwrap()).unwrap()
    }

    /// A step on top of `parent`.
    fn step(&self, parent: Option<&Oid>, n: u64) -> Oid {
        let mut state = State::new("here-1".to_owned(), "main".to_owned());
        state.meta.step = n;
        let message = format!("step {n}\n\nFactory-Step: 0.{n}\n");
        let landed = self
            .store
            .commit(parent, &state.initial_files(), &message, 1_800_000_000);
        landed.unwrap().oid().clone()
    }

    fn main(&self) -> Oid {
        git(&self.top, &["rev-parse", "main"]).parse().unwrap()
    }
}

fn others(pairs: &[(&str, Option<&Oid>)]) -> BTreeMap<String, Option<Oid>> {
    let pairs = pairs.iter();
    pairs
        .map(|(name, oid)| ((*name).to_owned(), oid.cloned()))
        .collect()
}

#[test]
fn a_state_comes_to_the_remote_and_is_found_there() {
    let lab = Lab::new();
    let one = lab.machine("one");
    let hooks = one.top.join(".git/hooks");
    std::fs::create_dir_all(&hooks).unwrap();
    let hook = hooks.join("pre-push");
    std::fs::write(&hook, "#!/bin/sh\nexit 1\n").unwrap();
    std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)).unwrap();
    let before = git(&one.top, &["for-each-ref"]);
    let head = one.step(None, 0);
    let target = others(&[(sync::TARGET, Some(&one.main()))]);
    let exchange = one.exchange();
    assert!(exchange.list().unwrap().is_empty());
    assert_eq!(exchange.push(None, &head, &target).unwrap(), Pushed::Done);
    assert_eq!(git(&one.top, &["for-each-ref"]), before);

    let two = lab.machine("two").exchange();
    let there = two.list().unwrap();
    assert_eq!(there.len(), 2);
    let found = two.find(&there[sync::STATE]).unwrap();
    assert_eq!((&found.oid, found.at), (&head, 1_800_000_000));
    assert_eq!(
        (found.subject.as_str(), &*found.meta.repository),
        ("step 0", "here-1")
    );
    let scratch = one.places.cache();
    drop(exchange);
    let left = std::fs::read_dir(scratch).unwrap().count();
    assert_eq!(left, 0, "a scratch directory is left");
}

#[test]
fn who_was_overtaken_changes_nothing() {
    let lab = Lab::new();
    let one = lab.machine("one");
    let first = one.step(None, 0);
    one.exchange().push(None, &first, &others(&[])).unwrap();
    let second = one.step(Some(&first), 1);
    // Both saw the first step; one is faster.
    let (fast, slow) = (one.exchange(), one.exchange());
    assert_eq!(
        fast.push(Some(&first), &second, &others(&[])).unwrap(),
        Pushed::Done
    );
    let third = one.step(Some(&second), 2);
    let before = lab.refs();
    let extra = others(&[("refs/factory/keep/job-1", Some(&one.main()))]);
    for expected in [Some(&first), None] {
        assert_eq!(slow.push(expected, &third, &extra).unwrap(), Pushed::Moved);
        assert_eq!(lab.refs(), before, "nothing of it came through");
    }
    assert_eq!(
        slow.push(Some(&second), &third, &extra).unwrap(),
        Pushed::Done
    );
}

#[test]
fn a_push_that_breaks_off_changes_nothing_and_is_named() {
    let lab = Lab::new();
    let one = lab.machine("one");
    let head = one.step(None, 0);
    // Refuses one ref of two.
    lab.hook(
        "update",
        "case $1 in *target) echo not this one; exit 1;; esac",
    );
    let both = others(&[(sync::TARGET, Some(&one.main()))]);
    let error = one.exchange().push(None, &head, &both).unwrap_err();
    let told = error.to_string();
    assert!(matches!(error, SyncError::Remote { .. }));
    for word in [
        "push to",
        "`origin`",
        "not this one",
        "git ls-remote origin",
    ] {
        assert!(told.contains(word), "no `{word}` in {told}");
    }
    assert_eq!(lab.refs(), "");
    // The other side dies before it takes anything.
    lab.hook("update", "exit 0");
    lab.hook("pre-receive", "kill -9 $PPID");
    assert!(one.exchange().push(None, &head, &both).is_err());
    assert_eq!(lab.refs(), "");
}

#[test]
fn a_push_whose_answer_is_lost_is_known_to_be_done() {
    let lab = Lab::new();
    let one = lab.machine("one");
    let head = one.step(None, 0);
    lab.hook("post-receive", "kill -9 $PPID");
    let pushed = one.exchange().push(None, &head, &others(&[])).unwrap();
    assert_eq!(pushed, Pushed::Done);
    assert!(lab.refs().contains(sync::STATE));
}

#[test]
fn what_is_no_state_is_named_and_left_there() {
    let lab = Lab::new();
    let one = lab.machine("one");
    let main = one.main();
    git(
        &one.top,
        &["push", "-q", "origin", &format!("main:{}", sync::STATE)],
    );
    let exchange = one.exchange();
    let before = lab.refs();
    let error = exchange.find(&main).unwrap_err();
    assert!(matches!(&error, SyncError::Garbage { oid, .. } if *oid == main));
    let told = error.to_string();
    assert!(
        told.contains("meta.yaml is missing") && told.contains("nothing was changed"),
        "{told}"
    );
    // Not even a commit.
    std::fs::write(one.top.join("blob"), "x").unwrap();
    let blob = git(&one.top, &["hash-object", "-w", "blob"]);
    git(
        &one.top,
        &[
            "push",
            "-q",
            "-f",
            "origin",
            &format!("{blob}:{}", sync::STATE),
        ],
    );
    let tip = exchange.list().unwrap()[sync::STATE].clone();
    let error = exchange.find(&tip).unwrap_err();
    assert!(matches!(error, SyncError::Garbage { .. }), "{error}");
    assert_eq!(one.store.head().unwrap(), None);
    assert_ne!(lab.refs(), before);
}

#[test]
fn a_remote_that_is_not_there_is_named() {
    let lab = Lab::new();
    let one = lab.machine("one");
    git(&one.top, &["remote", "set-url", "origin", "../gone.git"]);
    let told = one.exchange().list().unwrap_err().to_string();
    assert!(
        told.contains("cannot list the refs of the remote `origin`"),
        "{told}"
    );
    assert_eq!(one.user.find_remote(&one.places, "nobody").unwrap(), None);
}

fn machine(home: &str) -> Option<Machine> {
    Some(Machine {
        home: home.to_owned(),
        host: format!("host of {home}"),
        since: 5,
    })
}

#[test]
fn one_machine_goes_on_and_all_others_are_told_apart() {
    let meta = |holder: Option<Machine>, epoch: u64, step: u64| Meta {
        holder,
        epoch: Epoch(epoch),
        step,
        ..State::new("r".to_owned(), "main".to_owned()).meta
    };
    let there = |holder, epoch, step| Found {
        oid: Oid::zero(),
        at: 0,
        subject: String::new(),
        meta: meta(holder, epoch, step),
        work: Default::default(),
    };
    let (me, other) = (machine("me"), machine("other"));
    let theirs = || other.clone().unwrap();
    let judged = |here: &Meta, found: Found, contains| judge(here, "me", Some(&found), contains);
    let mine = meta(me.clone(), 3, 30);
    assert_eq!(judge(&mine, "me", None, false), Standing::Ours);
    assert_eq!(
        judged(&mine, there(me.clone(), 3, 20), true),
        Standing::Ours
    );
    // Restored: another history, higher numbers.
    let restored = meta(me.clone(), 1003, 1010);
    assert_eq!(
        judged(&restored, there(me.clone(), 3, 20), false),
        Standing::Ours
    );
    assert_eq!(
        judged(&mine, there(me.clone(), 4, 20), false),
        Standing::Behind
    );
    assert_eq!(
        judged(&mine, there(other.clone(), 4, 21), false),
        Standing::TakenOver(theirs())
    );
    let copied = meta(other.clone(), 3, 30);
    assert_eq!(
        judged(&copied, there(other.clone(), 3, 20), true),
        Standing::Copy(theirs())
    );
    let alone = meta(None, 3, 30);
    assert_eq!(
        judged(&alone, there(other.clone(), 3, 20), false),
        Standing::Taken(other.clone())
    );
    let mut foreign = there(other, 3, 20);
    foreign.meta.repository = "s".to_owned();
    assert_eq!(judged(&mine, foreign, false), Standing::Foreign);
}

#[test]
fn nothing_is_added_to_a_state_that_was_taken_over() {
    let lab = Lab::new();
    let one = lab.machine("one");
    let head = one.step(None, 0);
    let taken = factory_ledger::mark::TakenOver {
        by: machine("other").unwrap(),
        remote: "origin".to_owned(),
        newest: 7,
        left: 2,
    };
    one.store.mark_taken_over(&taken).unwrap();
    assert_eq!(one.store.taken_over().unwrap().as_ref(), Some(&taken));
    let refused = one.store.commit(Some(&head), &[], "x", 1).unwrap_err();
    assert!(matches!(refused, CommitError::TakenOver(by) if by == taken));
    assert_eq!(one.store.head().unwrap(), Some(head.clone()));
    assert_eq!(
        factory_ledger::history::verify(&one.places)
            .unwrap()
            .problems,
        []
    );
    one.store.clear_mark().unwrap();
    one.store.clear_mark().unwrap();
    one.step(Some(&head), 1);
    assert_eq!(one.store.remote().unwrap(), None);
    one.store.set_remote("origin").unwrap();
    assert_eq!(one.store.remote().unwrap().as_deref(), Some("origin"));
}
