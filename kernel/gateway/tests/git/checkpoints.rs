//! Work in progress: saved at the door, and fetched by the run that resumes it.

use crate::lab::{self, Lab, Served, Workspace, ok};
use crate::{BRANCH, RUN, noise, packet, served};
use factory_core::ids::Oid;
use factory_core::inbox::InboxEntry;
use factory_gateway::git::MAX_CHECKPOINT_BYTES;
use std::time::Instant;

const CHECKPOINT: &str = "refs/factory/checkpoint";

/// A checkpoint as an agent makes it, without touching branch, index or work tree.
pub fn checkpoint(workspace: &Workspace, parents: &[&str], content: &[u8]) -> Oid {
    let index = workspace.path.join(".git/checkpoint-index");
    let call = |args: &[&str]| {
        let mut command = lab::git(&workspace.path, args);
        let said = lab::said(command.env("GIT_INDEX_FILE", &index).output().unwrap());
        assert!(said.ok, "{}", said.text);
        said.text.trim().to_owned()
    };
    let file = workspace.path.join(".git/checkpoint-file");
    std::fs::write(&file, content).unwrap();
    let blob = call(&["hash-object", "-w", ".git/checkpoint-file"]);
    call(&["read-tree", "--empty"]);
    let entry = format!("100644,{blob},work/half");
    call(&["update-index", "--add", "--cacheinfo", &entry]);
    let tree = call(&["write-tree"]);
    let mut args = vec!["commit-tree", "-m", "checkpoint"];
    for parent in parents {
        args.extend(["-p", parent]);
    }
    args.push(&tree);
    call(&args).parse().unwrap()
}

fn refspec(commit: &Oid) -> String {
    format!("+{commit}:{CHECKPOINT}")
}

fn save(workspace: &Workspace, content: &[u8]) -> Oid {
    let commit = checkpoint(workspace, &["HEAD"], content);
    workspace.ok(&["push", "origin", &refspec(&commit)]);
    commit
}

fn checkpoints(lab: &Lab, run: &str) -> Vec<Oid> {
    let entries = lab.entries(run).into_iter();
    let saved = entries.filter_map(|entry| match entry {
        InboxEntry::Checkpoint { commit } => Some(commit),
        _ => None,
    });
    saved.collect()
}

#[test]
fn a_checkpoint_is_rewritten_and_is_in_the_inbox() {
    let (lab, served, workspace) = served();
    let mut expected = Vec::new();
    let began = Instant::now();
    for round in 0..3_u8 {
        expected.push(save(&workspace, &[round]));
        assert_eq!(checkpoints(&lab, RUN), expected);
    }
    println!("a checkpoint took {:?}", began.elapsed() / 3);
    let again = workspace.git(&["push", "origin", &refspec(&expected[2])]);
    assert!(
        again.ok && again.text.contains("Everything up-to-date"),
        "{}",
        again.text
    );
    // On commits that were pushed, and on some that were not.
    let pushed = workspace.commit("pushed", b"pushed");
    workspace.ok(&["push"]);
    expected.push(save(&workspace, b"after the push"));
    workspace.commit("kept back", b"kept back");
    expected.push(save(&workspace, b"after a commit"));
    workspace.ok(&["reset", "-q", "--hard", "HEAD~2"]);
    expected.push(save(&workspace, b"where the engine went back"));
    assert_eq!(checkpoints(&lab, RUN), expected);
    assert_eq!(lab.pushes(RUN), [(lab.start.clone(), pushed)]);
    let advertised = served.get("/git/info/refs?service=git-receive-pack", "");
    assert!(
        advertised.contains(&format!("{} {CHECKPOINT}", expected[5])),
        "{advertised}"
    );
    // It is not for fetching, not even by the run that saved it.
    assert!(
        !workspace
            .ok(&["ls-remote", "origin"])
            .contains("checkpoint")
    );
    lab.assert_no_leftovers();
    ok(
        &lab.places.door_git(),
        &["fsck", "--strict", "--connectivity-only"],
    );
}

#[test]
fn every_other_checkpoint_is_refused_and_moves_nothing() {
    let (lab, served, workspace) = served();
    save(&workspace, b"first");
    let good = checkpoint(&workspace, &["HEAD"], b"good");
    let good_push = refspec(&good);
    let (refs, entries) = (lab.refs(), lab.entries(RUN));

    let ahead = workspace.commit("ahead", b"ahead");
    let branch = format!("{ahead}:refs/heads/{BRANCH}");
    let wrong = ["not this run's branch", "exactly one ref"];
    for atomic in [&["push"][..], &["push", "--atomic"]] {
        let both = [atomic, &["origin", &branch, &good_push]].concat();
        workspace.refused(&both, &wrong);
    }
    for name in [
        "refs/factory/checkpoint/below",
        "refs/factory/checkpoint2",
        "refs/factory/resume",
        "refs/factory/start",
        "refs/heads/refs/factory/checkpoint",
    ] {
        workspace.refused(&["push", "origin", &format!("+{good}:{name}")], &wrong);
    }
    workspace.refused(
        &["push", "origin", &format!(":{CHECKPOINT}")],
        &["deletion refused", "never deleted"],
    );
    workspace.ok(&["tag", "-a", "-m", "annotated", "v1", good.as_str()]);
    workspace.refused(
        &["push", "origin", &format!("+v1:{CHECKPOINT}")],
        &["fsck failed", "is a tag; a checkpoint is a commit"],
    );

    let foreign = [
        "not a checkpoint of this run",
        "a checkpoint's first parent contains",
        lab.start.as_str(),
    ];
    let before = format!("{}~1", lab.start);
    let root = checkpoint(&workspace, &[], b"root");
    let head = workspace.head();
    for parents in [
        &[][..],
        &[before.as_str()],
        &[root.as_str()],
        &[root.as_str(), head.as_str()],
    ] {
        let commit = checkpoint(&workspace, parents, b"foreign");
        workspace.refused(&["push", "origin", &refspec(&commit)], &foreign);
    }
    // The start is no checkpoint of the run that began there.
    workspace.refused(&["push", "origin", &refspec(&lab.start)], &foreign);

    // A broken object below a good parent.
    let tree = workspace.ok(&["rev-parse", "HEAD^{tree}"]);
    let bad = format!(
        "tree {tree}\nparent {head}\nauthor A<a@b> 1 +0000\ncommitter A <a@b> 1 +0000\n\nbad\n"
    );
    std::fs::write(workspace.path.join("bad"), bad).unwrap();
    let bad = workspace.ok(&["hash-object", "--literally", "-t", "commit", "-w", "bad"]);
    workspace.refused(
        &["push", "origin", &format!("+{bad}:{CHECKPOINT}")],
        &["fsck failed", "missingSpaceBeforeEmail"],
    );
    // From where another checkpoint of the run was.
    let stale = [
        packet(&format!(
            "{good} {good} {CHECKPOINT}\0report-status side-band-64k"
        )),
        b"0000PACK\0\0\0\x02\0\0\0\0".to_vec(),
    ]
    .concat();
    let answer = served.post("git-receive-pack", "", &stale);
    assert!(answer.contains("moved meanwhile"), "{answer}");

    assert_eq!(lab.refs(), refs);
    assert_eq!(lab.entries(RUN), entries);
    lab.assert_no_leftovers();
    workspace.ok(&["push", "origin", &good_push]);
}

#[test]
fn a_checkpoint_has_a_limit_of_its_own() {
    let (lab, served, workspace) = served();
    let new = checkpoint(&workspace, &["HEAD"], b"x");
    let limit = usize::try_from(MAX_CHECKPOINT_BYTES).unwrap();
    let push = |name: &str, length: usize| {
        let order = format!("{} {new} {name}\0report-status side-band-64k", lab.start);
        let mut body = [packet(&order), b"0000PACK\0\0\0\x02\0\0\0\x01".to_vec()].concat();
        body.resize(body.len() - 12 + length, 0);
        served.post("git-receive-pack", "", &body)
    };
    let branch = format!("refs/heads/{BRANCH}");
    for (name, length, word) in [
        (CHECKPOINT, limit + 1, "too large"),
        (CHECKPOINT, limit, "unreadable push"),
        (&branch, limit + 1, "unreadable push"),
    ] {
        let answer = push(name, length);
        assert!(answer.contains(&format!("ng {name} {word}")), "{answer}");
    }
    assert!(push(CHECKPOINT, limit + 1).contains("at most 67108864 bytes"));
    assert!(lab.entries(RUN).is_empty());
    // What is large and sound is taken.
    let large = save(&workspace, &noise(8 << 20));
    assert_eq!(checkpoints(&lab, RUN), [large]);
    lab.assert_no_leftovers();
}

#[test]
fn a_run_without_a_branch_has_no_checkpoints() {
    let lab = Lab::new();
    let served = lab.serve(RUN, None);
    let workspace = lab.workspace(&served, "work");
    let commit = checkpoint(&workspace, &["HEAD"], b"x");
    let refs = lab.refs();
    let words = ["this run may not push: its role has no branch"];
    workspace.refused(&["push", "origin", &refspec(&commit)], &words);
    let body = [
        packet(&format!(
            "{} {commit} {CHECKPOINT}\0report-status",
            lab.start
        )),
        b"0000PACK\0\0\0\x02\0\0\0\0".to_vec(),
    ]
    .concat();
    let answer = served.post("git-receive-pack", "", &body);
    assert!(
        answer.contains(&format!("ng {CHECKPOINT} this run may not push")),
        "{answer}"
    );
    assert_eq!(lab.refs(), refs);
    assert!(!refs.contains("checkpoint"), "{refs}");
}

#[test]
fn a_checkpoint_that_a_crash_left_unwritten_is_written_once() {
    let (lab, served, workspace) = served();
    let first = save(&workspace, b"first");
    let name = format!("refs/namespaces/{RUN}/{CHECKPOINT}");
    let door = lab.places.door_git();
    let tree = ok(&door, &["rev-parse", &format!("{first}^{{tree}}")]);
    let left = |message: &str| -> Oid {
        let start = lab.start.as_str();
        let commit = ok(&door, &["commit-tree", "-p", start, "-m", message, &tree]);
        // The gateway died after receive-pack moved the ref.
        ok(&door, &["update-ref", &name, &commit]);
        commit.parse().unwrap()
    };
    let second = left("second");
    assert_eq!(checkpoints(&lab, RUN).len(), 1);
    drop(lab.open(RUN, Some(BRANCH)));
    let expected = [first.clone(), second.clone()];
    assert_eq!(checkpoints(&lab, RUN), expected);
    drop(lab.open(RUN, Some(BRANCH)));
    assert_eq!(checkpoints(&lab, RUN), expected, "and not again");

    // Before the agent is told that everything is up to date.
    let third = left("third");
    served.get("/git/info/refs?service=git-receive-pack", "");
    // And before the run's end, which nothing follows.
    let fourth = left("fourth");
    let answer = served.end();
    assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
    assert_eq!(
        checkpoints(&lab, RUN),
        [first.clone(), second, third, fourth]
    );
    assert!(matches!(lab.entries(RUN).last(), Some(InboxEntry::End(_))));
    workspace.refused(&["push", "origin", &refspec(&first)], &["403"]);
}

#[test]
fn the_next_run_resumes_from_a_checkpoint() {
    let (lab, _first, workspace) = served();
    workspace.commit("kept back", b"kept back");
    let saved = save(&workspace, b"half done");
    lab.stores.door.close_run(RUN.parse().unwrap()).unwrap();
    ok(&lab.places.door_git(), &["gc", "-q", "--prune=now"]);

    let mut grant = lab.grant("r1-2", Some(BRANCH));
    grant.resume = Some(saved.clone());
    let served = Served::start(lab.open_as(grant));
    let next = lab.workspace(&served, BRANCH);
    assert_eq!(
        next.ok(&["ls-remote", "origin"]),
        format!(
            "{saved}\trefs/factory/resume\n{}\trefs/factory/start",
            lab.start
        )
    );
    next.ok(&["fetch", "-q", "origin", "refs/factory/resume"]);
    assert_eq!(next.ok(&["show", "FETCH_HEAD:work/half"]), "half done");
    next.ok(&["reset", "-q", "--hard", "FETCH_HEAD~1"]);
    // It goes on: its own checkpoints build on commits of the run before.
    let went_on = save(&next, b"nearly done");
    assert_eq!(checkpoints(&lab, "r1-2"), [went_on]);
    next.ok(&["push"]);
    assert_eq!(lab.pushes("r1-2").len(), 1);

    let other = lab.serve("r2-1", Some("factory/2-other"));
    let others = lab.workspace(&other, "factory/2-other");
    others.refused(
        &["fetch", "origin", "refs/factory/resume"],
        &["couldn't find remote ref"],
    );
    others.refused(
        &["fetch", "origin", saved.as_str()],
        &["unadvertised object"],
    );
}
