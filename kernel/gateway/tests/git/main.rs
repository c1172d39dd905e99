//! The Git endpoint with the real git client on the other side.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod checkpoints;
mod hostile;
mod lab;
mod objects;
mod rules;
#[cfg(feature = "failpoints")]
mod stops;

use factory_core::inbox::InboxEntry;
use factory_gateway::git;
use lab::{Lab, Served, Workspace, ok};
use std::sync::atomic::Ordering;
use std::time::Instant;

const RUN: &str = "r1-1";
const BRANCH: &str = "factory/1-fix";

fn served() -> (Lab, Served, Workspace) {
    let lab = Lab::new();
    let served = lab.serve(RUN, Some(BRANCH));
    let workspace = lab.workspace(&served, BRANCH);
    (lab, served, workspace)
}

/// Bytes that no compression makes smaller.
fn noise(length: usize) -> Vec<u8> {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        out.extend_from_slice(&seed.to_le_bytes());
    }
    out.truncate(length);
    out
}

fn packet(data: &str) -> Vec<u8> {
    format!("{:04x}{data}", data.len() + 4).into_bytes()
}

#[test]
fn every_plain_form_of_push_works_and_is_in_the_inbox() {
    let (lab, _served, workspace) = served();
    let mut old = lab.start.clone();
    let mut expected = Vec::new();
    for (name, push) in [
        ("plain", &["push"][..]),
        ("upstream", &["push", "-u", "origin", "HEAD"]),
        ("named", &["push", "origin", BRANCH]),
        ("atomic", &["push", "--atomic", "origin", "HEAD"]),
        ("forced-but-forward", &["push", "--force", "origin", "HEAD"]),
    ] {
        let new = workspace.commit(name, name.as_bytes());
        workspace.ok(push);
        expected.push((old, new.clone()));
        assert_eq!(lab.pushes(RUN), expected, "{name}");
        old = new;
    }
    let again = workspace.git(&["push"]);
    assert!(
        again.ok && again.text.contains("Everything up-to-date"),
        "{}",
        again.text
    );
    assert_eq!(
        lab.pushes(RUN),
        expected,
        "a push that finds nothing to do writes nothing"
    );
    lab.assert_no_leftovers();
    ok(
        &lab.places.door_git(),
        &["fsck", "--strict", "--connectivity-only"],
    );
}

#[test]
fn a_run_sees_one_ref_to_fetch_and_one_to_push() {
    let (lab, served, workspace) = served();
    let other = lab.serve("r2-1", Some("factory/2-other"));
    let others = lab.workspace(&other, "factory/2-other");
    let hidden = others.commit("hidden", b"hidden");
    others.ok(&["push"]);

    let listed = workspace.ok(&["ls-remote", "origin"]);
    assert_eq!(listed, format!("{}\trefs/factory/start", lab.start));
    let advertised = served.get("/git/info/refs?service=git-receive-pack", "");
    assert!(
        advertised.contains(&format!("refs/heads/{BRANCH}")),
        "{advertised}"
    );
    for leak in [hidden.as_str(), "r2-1", "factory/2", "refs/factory/start"] {
        assert!(!advertised.contains(leak), "{leak} in {advertised}");
    }
    workspace.refused(
        &["fetch", "origin", hidden.as_str()],
        &["unadvertised object"],
    );
    workspace.refused(&["fetch", "origin", BRANCH], &["couldn't find remote ref"]);
    workspace.refused(
        &[
            "fetch",
            "origin",
            "0123456789012345678901234567890123456789",
        ],
        &[],
    );

    // Protocol 2 would hand the hidden object out.
    let want = [
        packet(&format!("want {hidden}\n")),
        b"0000".to_vec(),
        packet("done\n"),
    ]
    .concat();
    for headers in ["", "Git-Protocol: version=2\r\n"] {
        let answer = served.post("git-upload-pack", headers, &want);
        assert!(answer.contains("ERR upload-pack: not our ref"), "{answer}");
        let refs = served.get("/git/info/refs?service=git-upload-pack", headers);
        assert!(
            refs.contains("# service=git-upload-pack") && !refs.contains("version 2"),
            "{refs}"
        );
        assert!(
            refs.contains("cache-control: no-cache, max-age=0, must-revalidate"),
            "{refs}"
        );
        assert!(
            refs.contains("application/x-git-upload-pack-advertisement"),
            "{refs}"
        );
    }
}

#[test]
fn every_other_push_is_refused_in_words_and_moves_nothing() {
    let (lab, _served, workspace) = served();
    workspace.commit("pushed", b"pushed");
    workspace.ok(&["push"]);
    workspace.commit("next", b"next");
    workspace.ok(&["tag", "v1"]);
    workspace.ok(&["tag", "-a", "-m", "annotated", "v2"]);
    let (refs, entries) = (lab.refs(), lab.entries(RUN));

    let wrong = [
        "remote rejected",
        "not this run's branch",
        "rule: this run pushes exactly one ref, refs/heads/factory/1-fix",
        "git push origin HEAD:refs/heads/factory/1-fix",
    ];
    workspace.refused(&["push", "origin", "HEAD:main"], &wrong);
    workspace.refused(
        &["push", "origin", "HEAD:refs/heads/factory/1-fix2"],
        &wrong,
    );
    workspace.refused(&["push", "origin", "HEAD:refs/factory/start"], &wrong);
    workspace.refused(&["push", "origin", "HEAD:refs/notes/x"], &wrong);
    workspace.refused(&["push", "origin", "v1"], &wrong);
    workspace.refused(&["push", "origin", "v2"], &wrong);
    workspace.refused(&["push", "--tags"], &wrong);
    workspace.refused(&["push", "--follow-tags"], &wrong);
    workspace.refused(
        &["push", "origin", "HEAD", "HEAD:other"],
        &[wrong[1], "refs/heads/other", "refs/heads/factory/1-fix"],
    );
    workspace.refused(&["push", "--mirror"], &[wrong[1]]);
    workspace.refused(
        &["push", "origin", "--delete", BRANCH],
        &["deletion refused", "never deleted", "push a commit"],
    );
    workspace.refused(
        &["push", "origin", &format!(":{BRANCH}")],
        &["deletion refused"],
    );
    workspace.refused(
        &["push", "-o", "option", "origin", "HEAD"],
        &["does not support push options"],
    );
    workspace.refused(
        &["push", "origin", &format!("v2:refs/heads/{BRANCH}")],
        &["fsck failed", "is a tag; a branch holds commits"],
    );
    workspace.refused(
        &[
            "push",
            "--force",
            "origin",
            &format!("HEAD^{{tree}}:refs/heads/{BRANCH}"),
        ],
        &[],
    );

    workspace.ok(&["reset", "-q", "--hard", "origin/start"]);
    workspace.commit("rewritten", b"rewritten");
    workspace.refused(&["push"], &["rejected"]);
    let rewritten = [
        "not a fast-forward",
        "only fast-forward pushes are accepted",
        "the branch's present tip",
        "push without --force",
    ];
    workspace.refused(&["push", "--force", "origin", "HEAD"], &rewritten);
    workspace.refused(
        &[
            "push",
            "--force",
            "origin",
            &format!("HEAD~2:refs/heads/{BRANCH}"),
        ],
        &rewritten,
    );
    workspace.ok(&["checkout", "-q", "--orphan", "unrelated"]);
    workspace.commit("unrelated", b"unrelated");
    workspace.refused(
        &[
            "push",
            "--force",
            "origin",
            &format!("HEAD:refs/heads/{BRANCH}"),
        ],
        &rewritten,
    );

    assert_eq!(lab.refs(), refs);
    assert_eq!(lab.entries(RUN), entries);
    lab.assert_no_leftovers();
}

/// A commit of people's that is too large to be read at once: git is asked what goes on from it.
#[test]
fn a_huge_commit_is_gone_on_from_and_never_pushed() {
    let mut lab = Lab::new();
    let message = "word\n".repeat(400_000);
    std::fs::write(lab.user().join("message"), &message).unwrap();
    let huge = ["commit", "-q", "--allow-empty", "-F", "message"];
    ok(&lab.user(), &huge);
    lab.start = lab.target_moved();
    let served = lab.serve(RUN, Some(BRANCH));
    let workspace = lab.workspace(&served, BRANCH);
    let pushed = workspace.commit("one", b"one");
    workspace.ok(&["push"]);
    assert_eq!(lab.pushes(RUN), [(lab.start.clone(), pushed.clone())]);
    workspace.ok(&["reset", "-q", "--hard", lab.start.as_str()]);
    workspace.commit("two", b"two");
    workspace.refused(
        &["push", "--force"],
        &["not a fast-forward", pushed.as_str()],
    );
    workspace.ok(&["reset", "-q", "--hard", pushed.as_str()]);
    std::fs::write(workspace.path.join("message"), &message).unwrap();
    workspace.ok(&huge);
    workspace.refused(&["push"], &["too large", "at most 1048576 bytes"]);
    assert_eq!(lab.pushes(RUN).len(), 1);
    lab.assert_no_leftovers();
}

#[test]
fn a_run_without_a_branch_fetches_and_does_not_push() {
    let lab = Lab::new();
    let served = lab.serve(RUN, None);
    let workspace = lab.workspace(&served, "work");
    assert_eq!(workspace.head(), lab.start);
    workspace.commit("x", b"x");
    let refs = lab.refs();
    workspace.refused(
        &["push", "origin", "HEAD:main"],
        &["this run may not push: its role has no branch", "report"],
    );
    let zero = "0".repeat(40);
    let body = [
        packet(&format!(
            "{zero} {} refs/heads/main\0report-status",
            lab.start
        )),
        b"0000PACK\0\0\0\x02\0\0\0\0".to_vec(),
    ]
    .concat();
    assert!(
        served
            .post("git-receive-pack", "", &body)
            .contains("ng refs/heads/main this run may not push")
    );
    assert_eq!(lab.refs(), refs);
}

#[test]
fn objects_that_fail_fsck_are_named() {
    let (lab, _served, workspace) = served();
    let refs = lab.refs();
    // A commit whose author line has no space before the address.
    let tree = workspace.ok(&["rev-parse", "HEAD^{tree}"]);
    let bad = format!(
        "tree {tree}\nparent {}\nauthor A<a@b> 1 +0000\ncommitter A <a@b> 1 +0000\n\nbad\n",
        lab.start
    );
    std::fs::write(workspace.path.join("bad"), bad).unwrap();
    let bad = workspace.ok(&["hash-object", "--literally", "-t", "commit", "-w", "bad"]);
    workspace.refused(
        &["push", "origin", &format!("{bad}:refs/heads/{BRANCH}")],
        &[
            "fsck failed",
            "every pushed object must pass git's fsck",
            "missingSpaceBeforeEmail",
            &bad,
            "amend",
        ],
    );
    // A `.git` directory in a tree.
    let blob = workspace.ok(&["hash-object", "-w", "file"]);
    let entries = [b"100644 .git\0".to_vec(), hex(&blob)].concat();
    std::fs::write(workspace.path.join("bad"), entries).unwrap();
    let tree = workspace.ok(&["hash-object", "--literally", "-t", "tree", "-w", "bad"]);
    let bad = workspace.ok(&["commit-tree", "-p", lab.start.as_str(), "-m", "bad", &tree]);
    workspace.refused(
        &["push", "origin", &format!("{bad}:refs/heads/{BRANCH}")],
        &["fsck failed", "hasDotgit"],
    );
    assert_eq!(lab.refs(), refs);
    assert!(lab.entries(RUN).is_empty());
    lab.assert_no_leftovers();
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

#[test]
fn a_push_of_twenty_megabytes_works() {
    let (lab, _served, workspace) = served();
    let new = workspace.commit("big", &noise(20 << 20));
    let began = Instant::now();
    workspace.ok(&["push"]);
    println!("a push of 20 MiB took {:?}", began.elapsed());
    assert_eq!(lab.pushes(RUN), [(lab.start.clone(), new)]);
    lab.assert_no_leftovers();
}

#[test]
fn a_small_push_is_timed() {
    let (lab, _served, workspace) = served();
    let mut took = Vec::new();
    for round in 0..10_u8 {
        workspace.commit("small", &[round]);
        let began = Instant::now();
        workspace.ok(&["push"]);
        took.push(began.elapsed());
    }
    took.sort();
    println!(
        "a small push took {:?} (median), {:?} (slowest)",
        took[5], took[9]
    );
    assert_eq!(lab.pushes(RUN).len(), 10);
}

#[test]
fn a_long_negotiation_comes_as_gzip() {
    let (lab, served, workspace) = served();
    for round in 0..120 {
        // Later than the start, which is named first otherwise, and known.
        let made = lab::git(
            &workspace.path,
            &["commit", "-q", "--allow-empty", "-m", "x"],
        )
        .env(
            "GIT_COMMITTER_DATE",
            format!("{} +0000", 4_000_000_000_u64 + round),
        )
        .output();
        assert!(made.unwrap().status.success());
    }
    // Another start commit that this client lacks.
    let user = lab.places.common_dir().parent().unwrap();
    let tree = ok(user, &["rev-parse", "HEAD^{tree}"]);
    let far = ok(
        &lab.places.door_git(),
        &["commit-tree", "-p", lab.start.as_str(), "-m", "far", &tree],
    );
    ok(
        &lab.places.door_git(),
        &[
            "update-ref",
            &format!("refs/namespaces/{RUN}/refs/factory/start"),
            &far,
        ],
    );
    workspace.ok(&["fetch", "origin"]);
    assert_eq!(workspace.ok(&["rev-parse", "origin/start"]), far);
    assert!(
        served.zipped.load(Ordering::Relaxed) > 0,
        "no request came as gzip"
    );
    let bad = served.post(
        "git-upload-pack",
        "Content-Encoding: gzip\r\n",
        b"this is not gzip",
    );
    assert!(bad.starts_with("HTTP/1.1 400"), "{bad}");
}

#[test]
fn what_a_crash_left_unwritten_is_written_once() {
    let (lab, served, workspace) = served();
    let first = workspace.commit("first", b"first");
    workspace.ok(&["push"]);
    let tip = format!("refs/namespaces/{RUN}/refs/heads/{BRANCH}");
    // The gateway died after receive-pack moved the ref.
    let tree = workspace.ok(&["rev-parse", "HEAD^{tree}"]);
    let second = ok(
        &lab.places.door_git(),
        &["commit-tree", "-p", first.as_str(), "-m", "second", &tree],
    );
    ok(&lab.places.door_git(), &["update-ref", &tip, &second]);
    assert_eq!(lab.pushes(RUN).len(), 1);
    drop(lab.open(RUN, Some(BRANCH)));
    let expected = [
        (lab.start.clone(), first.clone()),
        (first.clone(), second.parse().unwrap()),
    ];
    assert_eq!(
        lab.pushes(RUN),
        expected,
        "written when the next gateway opens the door"
    );
    git::catch_up(&served.door).unwrap();
    drop(lab.open(RUN, Some(BRANCH)));
    assert_eq!(lab.pushes(RUN), expected, "and not again");

    // The agent asks again and is told that everything is up to date.
    let third = ok(
        &lab.places.door_git(),
        &["commit-tree", "-p", &second, "-m", "third", &tree],
    );
    ok(&lab.places.door_git(), &["update-ref", &tip, &third]);
    served.get("/git/info/refs?service=git-receive-pack", "");
    assert_eq!(lab.pushes(RUN).len(), 3);

    // And before the run's end.
    let fourth = ok(
        &lab.places.door_git(),
        &["commit-tree", "-p", &third, "-m", "fourth", &tree],
    );
    ok(&lab.places.door_git(), &["update-ref", &tip, &fourth]);
    let answer = served.end();
    assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
    let entries = lab.entries(RUN);
    assert!(
        matches!(
            entries[..],
            [_, _, _, InboxEntry::Push { .. }, InboxEntry::End(_)]
        ),
        "{entries:?}"
    );
    workspace.refused(&["push", "--force"], &["403"]);
}

/// git says a push again, from where the branch was, when its connection broke
/// before an answer came: the gateway was killed after receive-pack.
#[test]
fn a_push_whose_answer_got_lost_is_accepted_again_and_written_once() {
    let (lab, served, workspace) = served();
    let new = workspace.commit("new", b"new");
    workspace.ok(&["push"]);
    let order = format!("refs/heads/{BRANCH}\0report-status");
    let say = |commit: &str| {
        let order = packet(&format!("{} {commit} {order}", lab.start));
        let body = [order, b"0000PACK\0\0\0\x02\0\0\0\0".to_vec()].concat();
        served.post("git-receive-pack", "", &body)
    };
    let answer = say(new.as_str());
    let done = format!("ok refs/heads/{BRANCH}");
    assert!(answer.contains(&done), "{answer}");
    assert_eq!(lab.pushes(RUN), [(lab.start.clone(), new.clone())]);
    // Another commit from the same place is another push.
    let other = workspace.commit("other", b"other");
    let answer = say(other.as_str());
    assert!(answer.contains("moved meanwhile"), "{answer}");
}

#[test]
fn an_unwritable_inbox_is_an_error_for_the_agent_and_repaired_later() {
    let (lab, _served, workspace) = served();
    let new = workspace.commit("new", b"new");
    // A ref below this name is in the way of the inbox's.
    let way = lab.places.state_git().join("refs/inbox").join(RUN);
    std::fs::create_dir_all(&way).unwrap();
    std::fs::write(way.join("x"), format!("{new}\n")).unwrap();
    let said = workspace.git(&["push"]);
    assert!(
        !said.ok && said.text.contains("remote rejected"),
        "{}",
        said.text
    );
    assert!(said.text.contains("push again"), "{}", said.text);
    std::fs::remove_dir_all(&way).unwrap();
    workspace.ok(&["push"]);
    assert_eq!(lab.pushes(RUN), [(lab.start.clone(), new)]);
}

#[test]
fn two_runs_push_at_the_same_time() {
    let lab = Lab::new();
    let runs: Vec<_> = (1..=2)
        .map(|n| {
            let branch = format!("factory/{n}-x");
            let served = lab.serve(&format!("r{n}-1"), Some(&branch));
            let workspace = lab.workspace(&served, &branch);
            (served, workspace)
        })
        .collect();
    std::thread::scope(|scope| {
        for (_, workspace) in &runs {
            scope.spawn(move || {
                for round in 0..5_u8 {
                    workspace.commit("x", &[round]);
                    workspace.ok(&["push"]);
                }
            });
        }
    });
    for (served, workspace) in &runs {
        let pushes = lab.pushes(&served.door.run().to_string());
        assert_eq!(pushes.len(), 5);
        assert_eq!(pushes[4].1, workspace.head());
        assert!(
            pushes.windows(2).all(|pair| pair[0].1 == pair[1].0),
            "{pushes:?}"
        );
    }
    lab.assert_no_leftovers();
}

#[test]
fn one_run_that_pushes_twice_at_once_is_served_in_turn() {
    let (lab, _served, workspace) = served();
    let first = workspace.commit("first", &noise(1 << 20));
    let second = workspace.commit("second", &noise(1 << 20));
    std::thread::scope(|scope| {
        for tip in [&first, &second] {
            let workspace = &workspace;
            scope.spawn(move || {
                workspace.git(&["push", "origin", &format!("{tip}:refs/heads/{BRANCH}")])
            });
        }
    });
    workspace.ok(&["push"]);
    let pushes = lab.pushes(RUN);
    assert_eq!(pushes.first().map(|push| &push.0), Some(&lab.start));
    assert_eq!(pushes.last().map(|push| &push.1), Some(&second));
    assert!(
        pushes.windows(2).all(|pair| pair[0].1 == pair[1].0),
        "{pushes:?}"
    );
}
