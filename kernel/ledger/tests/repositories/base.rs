//! What containers can read, and what is read from the user's repository.

use crate::fixture::{Lab, commit, git, has, put};
use factory_ledger::base::BaseRepo;
use factory_ledger::door::DoorRepo;
use factory_ledger::repo::RepoError;
use factory_ledger::user::{Identity, UserRepo};
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::Command;

/// All objects that a repository gives to whoever reads its store.
fn all_objects(dir: &Path) -> String {
    git(
        dir,
        &[
            "cat-file",
            "--batch-all-objects",
            "--batch-check=%(objectname)",
        ],
    )
}

#[test]
fn base_holds_the_targets_history_only() {
    let lab = Lab::new(&[("a.txt", "one\n")]);
    put(&lab.top, "secret.txt", "a secret in a stash\n");
    git(&lab.top, &["add", "secret.txt"]);
    let stashed = git(&lab.top, &["rev-parse", ":secret.txt"]);
    git(&lab.top, &["stash", "-q"]);
    put(&lab.top, "secret.txt", "a secret that was amended away\n");
    commit(&lab.top, "oops");
    let amended = git(&lab.top, &["rev-parse", "HEAD:secret.txt"]);
    git(&lab.top, &["reset", "-q", "--hard", "HEAD~1"]);
    git(&lab.top, &["checkout", "-q", "-b", "private"]);
    put(&lab.top, "secret.txt", "a secret on another branch\n");
    commit(&lab.top, "private");
    git(
        &lab.top,
        &["tag", "-a", "-m", "tagged", "v1", lab.first.as_str()],
    );
    let private = git(&lab.top, &["rev-parse", "HEAD:secret.txt"]);
    git(&lab.top, &["checkout", "-q", "main"]);
    put(&lab.top, "b.txt", "two\n");
    let second = commit(&lab.top, "second");
    git(&lab.top, &["gc", "-q"]);

    assert!(!lab.base.contains(&second).unwrap());
    assert_eq!(lab.base.fetch_target(&lab.user, "main").unwrap(), second);
    assert!(lab.base.contains(&second).unwrap());
    let objects = all_objects(lab.base.dir());
    assert!(objects.contains(second.as_str()));
    for secret in [stashed, amended, private] {
        assert!(!objects.contains(&secret));
    }
    assert_eq!(
        git(lab.base.dir(), &["for-each-ref", "--format=%(refname)"]),
        "refs/heads/main"
    );
    // Nothing moved: nothing is written.
    let before = fs::metadata(lab.base.dir().join("refs/heads")).unwrap();
    assert_eq!(lab.base.fetch_target(&lab.user, "main").unwrap(), second);
    let after = fs::metadata(lab.base.dir().join("refs/heads")).unwrap();
    assert_eq!(
        (before.mtime(), before.mtime_nsec()),
        (after.mtime(), after.mtime_nsec())
    );
    // A branch that the user rewound is followed.
    git(&lab.top, &["reset", "-q", "--hard", lab.first.as_str()]);
    assert_eq!(lab.base.fetch_target(&lab.user, "main").unwrap(), lab.first);
    assert!(matches!(
        lab.base.fetch_target(&lab.user, "nowhere"),
        Err(RepoError::NoBranch { .. })
    ));
    lab.fsck();
}

/// Runs one test of this binary again under another umask.
fn under_umask(test: &str) -> bool {
    if std::env::var_os("UMASK_IS_SET").is_some() {
        return true;
    }
    let status = Command::new("sh")
        .args(["-c", "umask 077; exec \"$0\" --exact \"$1\" --nocapture"])
        .arg(std::env::current_exe().unwrap())
        .arg(test)
        .env("UMASK_IS_SET", "1")
        .status()
        .unwrap();
    assert!(status.success());
    false
}

#[test]
fn base_is_world_readable_whatever_the_umask() {
    if !under_umask("base::base_is_world_readable_whatever_the_umask") {
        return;
    }
    let lab = Lab::new(&[("a.txt", "one\n")]);
    put(&lab.top, "b.txt", "two\n");
    commit(&lab.top, "second");
    lab.base.fetch_target(&lab.user, "main").unwrap();
    let mut todo = vec![lab.base.dir().to_owned()];
    let mut seen = 0;
    while let Some(path) = todo.pop() {
        let meta = fs::metadata(&path).unwrap();
        let wanted = if meta.is_dir() { 0o555 } else { 0o444 };
        assert_eq!(
            meta.mode() & wanted,
            wanted,
            "{} {:o}",
            path.display(),
            meta.mode()
        );
        seen += 1;
        if meta.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
    }
    assert!(seen > 10);
}

#[test]
fn odd_names_and_moves_of_the_repository() {
    for name in [
        "with space",
        "\"quoted",
        "colon:and;semi",
        "line\nfeed \"and\" \\",
        "-dash",
        "# hash",
    ] {
        let lab = Lab::named(name, &[("a.txt", "one\n")]);
        lab.door
            .open_run(
                "r1-1".parse().unwrap(),
                &lab.first,
                None,
                Some("factory/1-x"),
            )
            .unwrap();
        assert!(has(&lab.door, &lab.first), "{name}");
        let new = lab.tmp.path().join("moved");
        fs::rename(&lab.top, &new).unwrap();
        let user = UserRepo::open(new.join(".git"));
        let base = BaseRepo::init(new.join(".git/factory/base.git")).unwrap();
        let door = DoorRepo::init(new.join(".git/factory/door.git"), &base).unwrap();
        assert_eq!(
            door.tips("r1-1".parse().unwrap(), "factory/1-x")
                .unwrap()
                .branch,
            Some(lab.first.clone()),
            "{name}"
        );
        assert!(has(&door, &lab.first), "{name}");
        assert_eq!(base.fetch_target(&user, "main").unwrap(), lab.first);
    }
}

#[test]
fn commits_are_read_within_bounds() {
    let lab = Lab::new(&[
        ("factory.yaml", "version: 1\n"),
        ("principles/1.md", "first\n"),
        ("principles/deep/2.md", ""),
        ("principles2.md", "not in the directory\n"),
        ("prohibitions/ö 3.md", "third, without a line feed"),
    ]);
    symlink("/etc/passwd", lab.top.join("link.md")).unwrap();
    let tip = commit(&lab.top, "link");
    let read = |path: &str| lab.user.read_file(&tip, path, 100).unwrap();
    assert_eq!(read("factory.yaml").unwrap(), b"version: 1\n");
    for missing in ["nothing", "principles", "link.md", "factory.yaml/x"] {
        assert_eq!(read(missing), None, "{missing}");
    }
    let files = lab
        .user
        .read_files(&tip, &["principles", "prohibitions", "absent"], 100)
        .unwrap();
    let names: Vec<_> = files.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "principles/1.md",
            "principles/deep/2.md",
            "prohibitions/ö 3.md"
        ]
    );
    assert_eq!(files["prohibitions/ö 3.md"], b"third, without a line feed");
    assert!(matches!(
        lab.user
            .read_files(&tip, &["principles", "prohibitions"], 10),
        Err(RepoError::TooLarge {
            size: 32,
            limit: 10,
            ..
        })
    ));
    assert_eq!(lab.user.list_tree(&tip, "").unwrap().len(), 6);
    let identity = lab.user.identity().unwrap();
    assert_eq!(
        identity,
        Identity {
            name: Some("Ursula User".to_owned()),
            email: Some("ursula@example.org".to_owned()),
        }
    );
}

#[test]
fn a_target_that_becomes_a_folder_of_its_own_name_is_brought() {
    let lab = Lab::new(&[("a.txt", "one\n")]);
    for to in ["main/x", "start/y", "main"] {
        git(&lab.top, &["checkout", "-q", "--detach"]);
        let names = git(
            &lab.top,
            &["for-each-ref", "--format=%(refname)", "refs/heads"],
        );
        for name in names.lines() {
            git(&lab.top, &["update-ref", "-d", name]);
        }
        git(&lab.top, &["checkout", "-q", "-b", to]);
        assert_eq!(lab.base.fetch_target(&lab.user, to).unwrap(), lab.first);
    }
}
