//! Workspaces: ready to work in, and never opened by the host again.

use crate::fixture::{Lab, author, git, git_command, put};
use factory_core::wire::BASE_GIT;
use factory_ledger::workspace::{self, Workspace};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

const BRANCH: &str = "factory/1-x";

fn owner() -> (u32, u32) {
    match rustix::process::geteuid().as_raw() {
        0 => (10001, 10001),
        uid => (uid, rustix::process::getegid().as_raw()),
    }
}

#[test]
fn a_workspace_is_ready_to_work_and_push_in() {
    let lab = Lab::new(&[("a.txt", "one\n")]);
    let (uid, gid) = owner();
    let remote = lab.tmp.path().join("remote \"git\"");
    git(
        lab.tmp.path(),
        &["init", "-q", "--bare", remote.to_str().unwrap()],
    );
    let to = format!("{}:refs/factory/start", lab.first);
    git(&lab.top, &["push", "-q", remote.to_str().unwrap(), &to]);
    let dir = lab.tmp.path().join("r1-1");
    let author = author();
    let wanted = Workspace {
        dir: &dir,
        uid,
        gid,
        remote_url: remote.to_str().unwrap(),
        branch: Some(BRANCH),
        author: &author,
    };
    // What a crash left of an earlier try.
    put(lab.tmp.path(), ".r1-1.new/.git/HEAD", "half");
    workspace::create(&lab.base, &wanted).unwrap();
    assert!(!lab.tmp.path().join(".r1-1.new").exists());
    let mut todo = vec![dir.clone()];
    while let Some(path) = todo.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (uid, gid), "{}", path.display());
        if meta.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
    }
    let alternates = fs::read_to_string(dir.join(".git/objects/info/alternates")).unwrap();
    assert_eq!(alternates, format!("{BASE_GIT}/objects\n"));
    assert!(!dir.join(".git/hooks").exists() && !dir.join("a.txt").exists());

    // As inside the container, where base.git is mounted.
    let inside = |args: &[&str]| {
        let out = git_command(&dir)
            .args(["-c", "safe.directory=*"])
            .args(args)
            .env(
                "GIT_ALTERNATE_OBJECT_DIRECTORIES",
                lab.base.dir().join("objects"),
            )
            .output()
            .unwrap();
        let err = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success(), "{args:?}: {err}");
        String::from_utf8_lossy(&out.stdout).trim_end().to_owned()
    };
    assert_eq!(inside(&["rev-parse", "origin/main"]), lab.first.as_str());
    inside(&["fetch", "-q"]);
    assert_eq!(inside(&["rev-parse", "origin/start"]), lab.first.as_str());
    inside(&["checkout", "-q", "-B", BRANCH, lab.first.as_str()]);
    assert_eq!(inside(&["status", "--porcelain"]), "");
    let pushed = || git(&remote, &["rev-parse", &format!("refs/heads/{BRANCH}")]);
    for (n, args) in [
        &["push"][..],
        &["push", "-u", "origin", "HEAD"],
        &["push", "origin", BRANCH],
        &["push"],
    ]
    .iter()
    .enumerate()
    {
        put(&dir, "a.txt", &format!("{n}\n"));
        inside(&["commit", "-q", "-a", "-m", "work"]);
        inside(args);
        assert_eq!(inside(&["rev-parse", "HEAD"]), pushed());
    }
    assert_eq!(
        inside(&["log", "-1", "--format=%an <%ae>"]),
        "Factory <factory@example.org>"
    );
    // It is made once.
    workspace::create(&lab.base, &wanted).unwrap();
    assert_eq!(fs::read_to_string(dir.join("a.txt")).unwrap(), "3\n");
    workspace::remove(&dir).unwrap();
    assert!(!dir.exists());
    workspace::remove(&dir).unwrap();
    lab.fsck();
}

#[test]
fn a_hostile_workspace_is_only_deleted() {
    let lab = Lab::new(&[("a.txt", "one\n")]);
    let (uid, gid) = owner();
    let dir = lab.tmp.path().join("r1-1");
    let author = author();
    let wanted = Workspace {
        dir: &dir,
        uid,
        gid,
        remote_url: "http://127.0.0.1:8377/git",
        branch: None,
        author: &author,
    };
    workspace::create(&lab.base, &wanted).unwrap();
    let marker = lab.tmp.path().join("executed");
    let line = format!("touch {}", marker.display());
    put(
        &dir,
        ".git/config",
        &format!(
            "[core]\n\tfsmonitor = {line}\n\tsshCommand = {line}\n\talternateRefsCommand = {line}\n\
         [filter \"x\"]\n\tsmudge = {line}\n\tclean = {line}\n"
        ),
    );
    put(&dir, ".gitattributes", "* filter=x\n");
    put(
        &dir,
        ".git/hooks/post-checkout",
        &format!("#!/bin/sh\n{line}\n"),
    );
    fs::set_permissions(
        dir.join(".git/hooks/post-checkout"),
        PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let outside = lab.tmp.path().join("outside");
    put(&outside, "precious.txt", "precious\n");
    symlink(&outside, dir.join("link")).unwrap();
    put(&dir, "cache/read-only/file", "x\n");
    for sub in ["cache/read-only", "cache"] {
        fs::set_permissions(dir.join(sub), PermissionsExt::from_mode(0o555)).unwrap();
    }
    // A removal that was cut short.
    put(lab.tmp.path(), ".r1-1.gone/rest", "rest\n");
    workspace::create(&lab.base, &wanted).unwrap();
    workspace::remove(&dir).unwrap();
    assert!(!marker.exists());
    assert!(!dir.exists() && !lab.tmp.path().join(".r1-1.gone").exists());
    assert_eq!(
        fs::read_to_string(outside.join("precious.txt")).unwrap(),
        "precious\n"
    );
}
