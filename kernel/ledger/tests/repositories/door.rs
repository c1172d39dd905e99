//! `door.git`: namespaces, over the real protocol.

use crate::fixture::{Lab, commit, git, git_command, put};
use factory_core::ids::{Oid, RunId};
use factory_core::wire::{CHECKPOINT_REF, RESUME_REF};
use factory_ledger::door::{DoorRepo, Exchange, Service, Tips};
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
    assert!(!door.has(&nowhere).unwrap());
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

    // Shown to the run that resumes, to no other, and not for pushing.
    let other = run("r2-1");
    door.open_run(next, &lab.first, Some(&saved), Some(BRANCH))
        .unwrap();
    door.open_run(other, &lab.first, None, Some(BRANCH))
        .unwrap();
    let shown = |r, service| serve(&lab, r, service, Exchange::Advertise, Some(BRANCH), b"");
    let fetched = shown(next, Service::UploadPack);
    assert!(
        fetched.contains(&format!("{saved} {RESUME_REF}\0"))
            && fetched.contains("refs/factory/start"),
        "{fetched}"
    );
    assert_eq!(fetched.matches("refs/").count(), 2, "{fetched}");
    assert!(want(&lab, next, &saved).contains("PACK"));
    for (r, service) in [
        (next, Service::ReceivePack),
        (other, Service::UploadPack),
        (other, Service::ReceivePack),
    ] {
        let seen = shown(r, service);
        assert!(
            !seen.contains(saved.as_str()) && !seen.contains(RESUME_REF),
            "{seen}"
        );
    }
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
fn serve(
    lab: &Lab,
    r: RunId,
    service: Service,
    exchange: Exchange,
    branch: Option<&str>,
    request: &[u8],
) -> String {
    let own = branch.map(|b| format!("refs/heads/{b}"));
    let pushed: Vec<&str> = own.iter().map(String::as_str).collect();
    serve_showing(lab, r, service, exchange, &pushed, request)
}

fn serve_showing(
    lab: &Lab,
    r: RunId,
    service: Service,
    exchange: Exchange,
    pushed: &[&str],
    request: &[u8],
) -> String {
    let mut child = lab
        .door
        .serve_command(r, service, exchange, pushed)
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
    serve(
        lab,
        r,
        Service::UploadPack,
        Exchange::Request,
        Some(BRANCH),
        request.as_bytes(),
    )
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

    let shown = serve(
        &lab,
        mine,
        Service::UploadPack,
        Exchange::Advertise,
        None,
        b"",
    );
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
        assert!(
            !serve(&lab, r, Service::UploadPack, Exchange::Advertise, None, b"")
                .contains("refs/factory")
        );
        assert!(!want(&lab, r, &start).contains("PACK"));
    }
    // The pushing side tells no other run's refs either, not even as `.have`.
    lab.door.open_run(mine, &start, None, Some(BRANCH)).unwrap();
    let shown = serve(
        &lab,
        mine,
        Service::ReceivePack,
        Exchange::Advertise,
        Some(BRANCH),
        b"",
    );
    assert!(
        shown.contains(&format!("{start} refs/heads/{BRANCH}\0")),
        "{shown}"
    );
    assert!(!shown.contains(other.as_str()), "{shown}");
}

/// A push as a client sends it; `pack` is what `git pack-objects` made of it.
fn push(
    lab: &Lab,
    r: RunId,
    pushed: &[&str],
    orders: &[(&Oid, &Oid, &str)],
    pack: &[u8],
) -> String {
    let mut request = String::new();
    for (n, (old, new, name)) in orders.iter().enumerate() {
        let capabilities = if n == 0 { "\0report-status" } else { "" };
        request += &pkt(&format!("{old} {new} {name}{capabilities}"));
    }
    request += "0000";
    let body = [request.as_bytes(), pack].concat();
    serve_showing(
        lab,
        r,
        Service::ReceivePack,
        Exchange::Request,
        pushed,
        &body,
    )
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
fn a_run_pushes_its_branch_and_nothing_else() {
    let lab = Lab::new(&[("a.txt", "one\n")]);
    let (mine, others, checks) = (run("r1-1"), run("r2-1"), run("r1-2"));
    lab.door
        .open_run(mine, &lab.first, None, Some(BRANCH))
        .unwrap();
    lab.door
        .open_run(others, &lab.first, None, Some(BRANCH))
        .unwrap();
    lab.door.open_run(checks, &lab.first, None, None).unwrap();
    // Made in the user's repository, so that door.git does not have it.
    git(&lab.top, &["checkout", "-q", "-b", "work"]);
    put(&lab.top, "b.txt", "two\n");
    let new = commit(&lab.top, "two");
    let pack = pack_of(&lab.top, &format!("{new}\n^{}\n", lab.first));
    let empty = pack_of(&lab.top, "");
    let (first, zero) = (lab.first.clone(), Oid::zero());
    let own = format!("refs/heads/{BRANCH}");
    let refs = || git(lab.door.dir(), &["for-each-ref"]);
    let before = refs();

    let under = format!("{own}/below");
    for name in [
        "refs/heads/main",
        "refs/heads/factory/2-y",
        "refs/tags/v1",
        "refs/factory/start",
        "refs/keep/x",
        &under,
    ] {
        let answer = push(&lab, mine, &[&own], &[(&zero, &new, name)], &pack);
        assert!(answer.contains(&format!("ng {name}")), "{name}: {answer}");
        assert_eq!(refs(), before, "{name}");
    }
    let answer = push(&lab, mine, &[&own], &[(&first, &zero, &own)], b"");
    assert!(
        answer.contains(&format!("ng {own} deletion prohibited")),
        "{answer}"
    );
    let answer = push(&lab, checks, &[], &[(&zero, &new, &own)], &pack);
    assert!(answer.contains(&format!("ng {own}")), "{answer}");
    // A broken object does not get in.
    let bad = git_with_input(
        &lab.top,
        &[
            "hash-object",
            "-t",
            "commit",
            "-w",
            "--literally",
            "--stdin",
        ],
        &format!(
            "tree {}\nparent {first}\nauthor no date\n\nbad\n",
            git(&lab.top, &["rev-parse", "HEAD^{tree}"])
        ),
    );
    let bad: Oid = bad.parse().unwrap();
    let bad_pack = pack_of(&lab.top, &format!("{bad}\n^{first}\n"));
    let answer = push(&lab, mine, &[&own], &[(&first, &bad, &own)], &bad_pack);
    assert!(
        answer.contains("ng ") && !answer.contains("unpack ok"),
        "{answer}"
    );
    assert_eq!(refs(), before);
    assert!(!lab.door.has(&bad).unwrap(), "what fsck refuses stays out");

    let answer = push(&lab, mine, &[&own], &[(&first, &new, &own)], &pack);
    assert!(
        answer.contains("unpack ok") && answer.contains(&format!("ok {own}")),
        "{answer}"
    );
    assert_eq!(branch(&lab.door, mine), Some(new.clone()));
    assert_eq!(branch(&lab.door, others), Some(first.clone()));
    let answer = push(&lab, mine, &[&own], &[(&new, &first, &own)], &empty);
    assert!(
        answer.contains(&format!("ng {own} non-fast-forward")),
        "{answer}"
    );
    assert_eq!(branch(&lab.door, mine), Some(new));
    git(lab.door.dir(), &["fsck", "--strict"]);
}

#[test]
fn a_run_rewrites_its_checkpoint_and_nothing_beside_it() {
    let lab = Lab::new(&[("a.txt", "one\n")]);
    let mine = run("r1-1");
    lab.door
        .open_run(mine, &lab.first, None, Some(BRANCH))
        .unwrap();
    git(&lab.top, &["checkout", "-q", "-b", "work"]);
    put(&lab.top, "b.txt", "half\n");
    let one = commit(&lab.top, "half");
    put(&lab.top, "b.txt", "more\n");
    git(&lab.top, &["commit", "-q", "-a", "--amend", "-m", "more"]);
    let two: Oid = git(&lab.top, &["rev-parse", "HEAD"]).parse().unwrap();
    let first = lab.first.clone();
    let pack = |new: &Oid| pack_of(&lab.top, &format!("{new}\n^{first}\n"));
    let own = format!("refs/heads/{BRANCH}");
    let refs = || git(lab.door.dir(), &["for-each-ref"]);
    let before = refs();

    let zero = Oid::zero();
    for (name, old) in [(own.as_str(), &first), (RESUME_REF, &zero)] {
        let answer = push(
            &lab,
            mine,
            &[CHECKPOINT_REF],
            &[(old, &one, name)],
            &pack(&one),
        );
        assert!(answer.contains(&format!("ng {name}")), "{answer}");
    }
    let below = format!("{CHECKPOINT_REF}/below");
    for (shown, name, old) in [
        (own.as_str(), CHECKPOINT_REF, &first),
        (CHECKPOINT_REF, &below, &zero),
    ] {
        let answer = push(&lab, mine, &[shown], &[(old, &one, name)], &pack(&one));
        assert!(answer.contains(&format!("ng {name}")), "{answer}");
    }
    assert_eq!(refs(), before);

    for (old, new) in [(&first, &one), (&one, &two)] {
        let answer = push(
            &lab,
            mine,
            &[CHECKPOINT_REF],
            &[(old, new, CHECKPOINT_REF)],
            &pack(new),
        );
        assert!(answer.contains(&format!("ok {CHECKPOINT_REF}")), "{answer}");
    }
    let tips = Tips {
        branch: Some(first),
        checkpoint: Some(two),
    };
    assert_eq!(lab.door.tips(mine, BRANCH).unwrap(), tips);
}

fn git_with_input(dir: &Path, args: &[&str], input: &str) -> String {
    let mut child = git_command(dir)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success());
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}
