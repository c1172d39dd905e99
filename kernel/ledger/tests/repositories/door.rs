//! `door.git`: namespaces, over the real protocol.

use crate::fixture::{Lab, commit, git, git_command, has, put};
use factory_core::ids::{Oid, RunId};
use factory_core::wire::{CHECKPOINT_REF, RESUME_REF};
use factory_ledger::door::{DoorRepo, Exchange, Tips};
use factory_ledger::incoming::Incoming;
use factory_ledger::repo::RepoError;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

const BRANCH: &str = "factory/1-x";

fn run(text: &str) -> RunId {
    text.parse().unwrap()
}

fn branch(door: &DoorRepo, r: RunId) -> Option<Oid> {
    door.tips(r, BRANCH).unwrap().branch
}

#[test]
fn a_runs_namespace_opens_and_closes_once() {
    let lab = Lab::new(&[("a.txt", "one\n")]);
    let (door, r) = (&lab.door, run("r1-1"));
    assert_eq!(branch(door, r), None);
    door.open_run(r, &lab.first, None, Some(BRANCH)).unwrap();
    assert_eq!(branch(door, r), Some(lab.first.clone()));
    let pushed = lab.in_door("pushed", &lab.first, |t| put(t, "b.txt", "two\n"));
    let name = format!("refs/namespaces/r1-1/refs/heads/{BRANCH}");
    git(door.dir(), &["update-ref", &name, pushed.as_str()]);
    door.open_run(r, &lab.first, None, Some(BRANCH)).unwrap();
    assert_eq!(branch(door, r), Some(pushed.clone()));
    // r1-10 is another run than r1-1.
    door.open_run(run("r1-10"), &lab.first, None, Some(BRANCH))
        .unwrap();
    git(door.dir(), &["update-ref", "-d", "refs/keep/test/pushed"]);
    door.close_run(r).unwrap();
    door.close_run(r).unwrap();
    assert_eq!(branch(door, r), None);
    assert_eq!(branch(door, run("r1-10")), Some(lab.first.clone()));
    assert_eq!(
        git(door.dir(), &["rev-parse", "refs/keep/run/r1-1"]),
        pushed.as_str()
    );
    // A check's run has no branch; closing it loses nothing either.
    door.open_run(run("r1-2"), &pushed, None, None).unwrap();
    door.close_run(run("r1-2")).unwrap();
    door.keep("merge/1", &pushed).unwrap();
    door.keep("merge/1", &lab.first).unwrap();
    assert_eq!(
        git(door.dir(), &["rev-parse", "refs/keep/merge/1"]),
        lab.first.as_str()
    );
    let nowhere: Oid = "0123456789abcdef0123456789abcdef01234567".parse().unwrap();
    assert!(!has(door, &nowhere));
    assert!(matches!(
        door.open_run(run("r2-1"), &nowhere, None, None),
        Err(RepoError::Git { .. })
    ));
    lab.fsck();
}

#[test]
fn a_checkpoint_outlives_its_run_until_it_is_dropped() {
    let lab = Lab::new(&[("a.txt", "one\n")]);
    let (door, first, next) = (&lab.door, run("r1-1"), run("r1-2"));
    let saved = lab.in_door("saved", &lab.first, |t| put(t, "b.txt", "half\n"));
    git(door.dir(), &["update-ref", "-d", "refs/keep/test/saved"]);
    door.open_run(first, &lab.first, None, Some(BRANCH))
        .unwrap();
    let at_start = Tips {
        branch: Some(lab.first.clone()),
        checkpoint: Some(lab.first.clone()),
    };
    assert_eq!(door.tips(first, BRANCH).unwrap(), at_start);
    let name = format!("refs/namespaces/r1-1/{CHECKPOINT_REF}");
    git(door.dir(), &["update-ref", &name, saved.as_str()]);
    door.open_run(first, &lab.first, None, Some(BRANCH))
        .unwrap();
    assert_eq!(
        door.tips(first, BRANCH).unwrap().checkpoint,
        Some(saved.clone())
    );
    door.close_run(first).unwrap();
    door.close_run(first).unwrap();
    assert_eq!(door.tips(first, BRANCH).unwrap(), Tips::default());
    let kept = |name: &str| {
        git(
            door.dir(),
            &["for-each-ref", "--format=%(objectname)", name],
        )
    };
    assert_eq!(kept("refs/keep/run/r1-1"), lab.first.as_str());
    assert_eq!(kept("refs/keep/checkpoint/r1-1"), saved.as_str());
    git(door.dir(), &["gc", "-q", "--prune=now"]);

    // Shown to the run that resumes, and to no other.
    let other = run("r2-1");
    door.open_run(next, &lab.first, Some(&saved), Some(BRANCH))
        .unwrap();
    door.open_run(other, &lab.first, None, Some(BRANCH))
        .unwrap();
    let shown = |r| serve(&lab, r, Exchange::Advertise, b"");
    let fetched = shown(next);
    assert!(
        fetched.contains(&format!("{saved} {RESUME_REF}\0"))
            && fetched.contains("refs/factory/start"),
        "{fetched}"
    );
    assert_eq!(fetched.matches("refs/").count(), 2, "{fetched}");
    assert!(want(&lab, next, &saved).contains("PACK"));
    let seen = shown(other);
    assert!(
        !seen.contains(saved.as_str()) && !seen.contains(RESUME_REF),
        "{seen}"
    );
    assert!(want(&lab, other, &saved).contains("not our ref"));

    // A run that made none leaves none, and keeps what it came from.
    for r in [next, other] {
        door.close_run(r).unwrap();
    }
    assert_eq!(kept("refs/keep/checkpoint/"), saved.as_str());
    door.settle_run(next, None, &[first]).unwrap();
    door.settle_run(next, None, &[first]).unwrap();
    assert_eq!(kept("refs/keep/checkpoint/"), "");
    git(door.dir(), &["gc", "-q", "--prune=now"]);
    assert!(matches!(
        door.open_run(run("r1-3"), &lab.first, Some(&saved), Some(BRANCH)),
        Err(RepoError::Git { .. })
    ));
    assert_eq!(door.tips(run("r1-3"), BRANCH).unwrap(), Tips::default());
    lab.fsck();
}

/// One exchange with the real service; returns what it wrote.
fn serve(lab: &Lab, r: RunId, exchange: Exchange, request: &[u8]) -> String {
    let mut child = lab
        .door
        .serve_command(r, exchange)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // The service may refuse before it has read everything.
    if let Err(e) = stdin.write_all(request) {
        assert_eq!(e.kind(), std::io::ErrorKind::BrokenPipe);
    }
    drop(stdin);
    let out = child.wait_with_output().unwrap();
    String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned()
}

fn pkt(line: &str) -> String {
    format!("{:04x}{line}", line.len() + 4)
}

fn want(lab: &Lab, r: RunId, oid: &Oid) -> String {
    let request = format!("{}0000{}", pkt(&format!("want {oid}\n")), pkt("done\n"));
    serve(lab, r, Exchange::Request, request.as_bytes())
}

#[test]
fn a_run_fetches_its_start_and_nothing_else() {
    let lab = Lab::new(&[("a.txt", "one\n")]);
    let start = lab.in_door("start", &lab.first, |t| put(t, "b.txt", "start\n"));
    let other = lab.in_door("other", &lab.first, |t| put(t, "c.txt", "another run's\n"));
    let unreachable = lab.in_door("unreachable", &lab.first, |t| put(t, "d.txt", "gone\n"));
    git(
        lab.door.dir(),
        &["update-ref", "-d", "refs/keep/test/unreachable"],
    );
    let (mine, others) = (run("r1-1"), run("r2-1"));
    lab.door.open_run(mine, &start, None, Some(BRANCH)).unwrap();
    lab.door
        .open_run(others, &other, None, Some(BRANCH))
        .unwrap();

    let shown = serve(&lab, mine, Exchange::Advertise, b"");
    assert!(
        shown.contains(&format!("{start} refs/factory/start\0")),
        "{shown}"
    );
    assert_eq!(shown.matches("refs/").count(), 1, "{shown}");
    assert!(
        !shown.contains(other.as_str()) && !shown.contains("version 2"),
        "{shown}"
    );
    assert!(want(&lab, mine, &start).contains("PACK"));
    for refused in [&other, &unreachable] {
        let answer = want(&lab, mine, refused);
        assert!(
            answer.contains("not our ref") && !answer.contains("PACK"),
            "{answer}"
        );
    }
    // A run that was never opened, or is closed, sees nothing.
    lab.door.close_run(mine).unwrap();
    for r in [mine, run("r9-9")] {
        assert!(!serve(&lab, r, Exchange::Advertise, b"").contains("refs/factory"));
        assert!(!want(&lab, r, &start).contains("PACK"));
    }
}

fn pack_of(repository: &Path, revisions: &str) -> Vec<u8> {
    let mut child = git_command(repository)
        .args(["pack-objects", "--revs", "--stdout", "-q"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(revisions.as_bytes())
        .unwrap();
    child.wait_with_output().unwrap().stdout
}

#[test]
fn what_was_pushed_is_judged_before_door_git_has_it() {
    let lab = Lab::new(&[("a.txt", "one\n")]);
    let (mine, others) = (run("r1-1"), run("r2-1"));
    for r in [mine, others] {
        lab.door
            .open_run(r, &lab.first, None, Some(BRANCH))
            .unwrap();
    }
    // Made in the user's repository, so that door.git does not have it.
    git(&lab.top, &["checkout", "-q", "-b", "work"]);
    put(&lab.top, "b.txt", "two\n");
    let new = commit(&lab.top, "two");
    let tree: Oid = git(&lab.top, &["rev-parse", "HEAD^{tree}"])
        .parse()
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("pack")).unwrap();
    let pack = pack_of(&lab.top, &format!("{new}\n^{}\n", lab.first));
    std::fs::write(folder.path().join("pack/pack-1.pack"), pack).unwrap();
    git(folder.path(), &["index-pack", "pack/pack-1.pack"]);

    let incoming = Incoming::open(&lab.door, folder.path(), &[]).unwrap();
    assert_eq!(incoming.kind(&new).unwrap(), Some("commit"));
    assert_eq!(incoming.kind(&tree).unwrap(), Some("tree"));
    assert_eq!(incoming.kind(&lab.first).unwrap(), Some("commit"));
    let nowhere: Oid = "0123456789abcdef0123456789abcdef01234567".parse().unwrap();
    assert_eq!(incoming.kind(&nowhere).unwrap(), None);
    assert_eq!(incoming.parents(&new), Some(vec![lab.first.clone()]));
    assert_eq!(incoming.parents(&lab.first), Some(vec![]));
    assert_eq!(incoming.parents(&tree), None);
    for (commit, ancestor, holds) in [
        (&new, &lab.first, Some(true)),
        (&new, &new, Some(true)),
        (&lab.first, &new, Some(false)),
        (&tree, &new, None),
    ] {
        assert_eq!(incoming.holds(commit, ancestor), holds);
    }
    assert!(!has(&lab.door, &new));

    incoming.settle().unwrap();
    assert!(has(&lab.door, &new));
    let left = std::fs::read_dir(folder.path().join("pack")).unwrap();
    assert_eq!(left.count(), 0);
    let own = format!("refs/heads/{BRANCH}");
    let stale = lab.door.move_ref(mine, &own, &new, &new);
    assert!(matches!(stale, Err(RepoError::Git { .. })), "{stale:?}");
    lab.door.move_ref(mine, &own, &lab.first, &new).unwrap();
    assert_eq!(branch(&lab.door, mine), Some(new.clone()));
    assert_eq!(branch(&lab.door, others), Some(lab.first.clone()));
    lab.fsck();
}
