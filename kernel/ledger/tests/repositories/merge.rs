//! Merge commits and work branches.

use crate::changes::lab;
use crate::fixture::{Lab, author, commit, git, git_command, put};
use factory_core::ids::Oid;
use factory_ledger::merge::{MergeOutcome, make_merge, tree_of};
use factory_ledger::user::Move;

#[test]
fn merges_are_deterministic_and_conflicts_are_named() {
    let (lab, head) = lab();
    let target = lab.in_door("target", &lab.first, |t| put(t, "a.txt", "target\n"));
    let merge = |head: &Oid| {
        make_merge(
            &lab.door,
            &target,
            head,
            "Merge it\n\nWhy.",
            &author(),
            1_700_000_000,
        )
        .unwrap()
    };
    let first = merge(&head);
    assert_eq!(merge(&head), first);
    let MergeOutcome::Merged { commit, tree } = first else {
        panic!("{first:?}")
    };
    assert_eq!(tree_of(&lab.door, &commit).unwrap(), tree);
    let shown = git(
        lab.door.dir(),
        &[
            "log",
            "-1",
            "--format=%P%n%an <%ae> %at%n%cn <%ce> %ct%n%B",
            commit.as_str(),
        ],
    );
    assert_eq!(
        shown,
        format!(
            "{target} {head}\nFactory <factory@example.org> 1700000000\n\
             Factory <factory@example.org> 1700000000\nMerge it\n\nWhy."
        )
    );
    assert!(lab.door.is_ancestor(&head, &commit).unwrap());
    assert!(!lab.door.is_ancestor(&commit, &head).unwrap());
    assert_eq!(
        make_merge(&lab.door, &commit, &head, "x", &author(), 0).unwrap(),
        MergeOutcome::AlreadyMerged
    );
    // A head that the target could be fast-forwarded to gets a merge commit too.
    let outcome = make_merge(&lab.door, &lab.first, &head, "x", &author(), 0).unwrap();
    let MergeOutcome::Merged { tree, .. } = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(tree, tree_of(&lab.door, &head).unwrap());

    let clash = lab.in_door("clash", &lab.first, |t| {
        put(t, "a.txt", "clash\n");
        put(t, "changed.txt", "clash\n");
    });
    assert_eq!(
        merge(&clash),
        MergeOutcome::Conflict {
            paths: vec!["a.txt".to_owned()]
        }
    );
    let both = make_merge(&lab.door, &commit, &clash, "x", &author(), 0).unwrap();
    let named = vec!["a.txt".to_owned(), "changed.txt".to_owned()];
    assert_eq!(both, MergeOutcome::Conflict { paths: named });
    let diff = lab.door.diff(&lab.first, &target).unwrap();
    assert!(diff.contains("-one\n+target\n"), "{diff}");
    assert_eq!(
        lab.door.merge_base(&target, &clash).unwrap(),
        Some(lab.first.clone())
    );
    lab.fsck();
}

#[test]
fn work_branches_move_by_swap() {
    let (lab, one) = lab();
    let two = lab.in_door("two", &one, |t| put(t, "two.txt", "two\n"));
    let go = |expected: Option<&Oid>, new: &Oid| {
        lab.user
            .move_branch("factory/1-x", expected, new, &lab.door)
            .unwrap()
    };
    assert_eq!(go(None, &one), Move::Moved);
    assert_eq!(go(None, &one), Move::AlreadyThere);
    assert_eq!(
        go(None, &two),
        Move::Diverged {
            found: Some(one.clone())
        }
    );
    assert_eq!(go(Some(&one), &two), Move::Moved);
    // A human's commit is never replaced.
    git(&lab.top, &["checkout", "-q", "factory/1-x"]);
    put(&lab.top, "human.txt", "human\n");
    let human = commit(&lab.top, "human");
    assert_eq!(
        go(Some(&two), &one),
        Move::Diverged {
            found: Some(human.clone())
        }
    );
    assert_eq!(
        go(Some(&human), &one),
        Move::CheckedOut {
            worktree: lab.top.clone()
        }
    );
    git(&lab.top, &["checkout", "-q", "main"]);
    // A branch that its owner removed is not made again.
    git(&lab.top, &["branch", "-q", "-D", "factory/1-x"]);
    assert_eq!(go(Some(&human), &two), Move::Diverged { found: None });
    assert_eq!(
        git(&lab.top, &["for-each-ref", "--format=%(refname)"]),
        "refs/heads/main"
    );
    assert!(!lab.top.join(".git/FETCH_HEAD").exists());
    lab.fsck();
}

/// However a branch grew, all of it comes to the user's repository: folders, merges of what
/// the user does not have, a submodule's commit, a history of its own, and more than
/// goes with one small pack.
#[test]
fn a_work_branch_comes_with_all_that_it_holds() {
    let lab = Lab::new(&[
        ("a.txt", "one\n"),
        ("deep/er/b.txt", "two\n"),
        ("deep/c.txt", "three\n"),
    ]);
    let pushed = lab.in_door("grown", &lab.first, |top| {
        put(top, "deep/er/new.txt", "new\n");
        put(top, "deep/er/b.txt", "changed\n");
        commit(top, "one");
        git(top, &["checkout", "-q", "-b", "other", "HEAD^"]);
        put(top, "other/x.txt", "x\n");
        commit(top, "two");
        git(top, &["checkout", "-q", "--orphan", "alone"]);
        git(top, &["rm", "-q", "-r", "-f", "."]);
        put(top, "alone/y.txt", "y\n");
        commit(top, "three");
        git(top, &["checkout", "-q", "work"]);
        git(top, &["merge", "-q", "-m", "merge other", "other"]);
        git(
            top,
            &[
                "merge",
                "-q",
                "-m",
                "merge alone",
                "--allow-unrelated-histories",
                "alone",
            ],
        );
        let module = format!("160000,{},module", "1".repeat(40));
        git(top, &["update-index", "--add", "--cacheinfo", &module]);
        git(top, &["commit", "-q", "-m", "module"]);
        put(top, "last.txt", "last\n");
        // The file of the module is not there, so not everything is added.
        git(top, &["add", "last.txt"]);
    });
    let moved = lab
        .user
        .move_branch("factory/1-x", None, &pushed, &lab.door);
    assert_eq!(moved.unwrap(), Move::Moved);
    let names = git(&lab.top, &["ls-tree", "-r", "--name-only", "factory/1-x"]);
    for name in ["deep/er/new.txt", "other/x.txt", "alone/y.txt", "last.txt"] {
        assert!(names.lines().any(|line| line == name), "{names}");
    }
    lab.fsck();

    // Settings that would get in the way or do more than asked.
    for (key, value) in [
        ("protocol.version", "0"),
        ("protocol.file.allow", "never"),
        ("fetch.prune", "true"),
    ] {
        git(&lab.top, &["config", key, value]);
    }
    let many = lab.in_door("many", &pushed, |top| {
        for number in 0..1200 {
            put(top, &format!("many/{number}.txt"), &format!("{number}\n"));
        }
    });
    let large = lab.in_door("large", &many, |top| {
        put(top, "large.txt", &"large\n".repeat(1 << 20))
    });
    for (old, new) in [(&pushed, &many), (&many, &large)] {
        let moved = lab
            .user
            .move_branch("factory/1-x", Some(old), new, &lab.door);
        assert_eq!(moved.unwrap(), Move::Moved);
        lab.fsck();
    }
    // A tree that is a forest to who follows each of its branches.
    let door = lab.door.dir();
    let file = lab.tmp.path().join("two");
    let mut tree = git(door, &["rev-parse", &format!("{large}:other")]);
    for _ in 0..40 {
        let two = format!("040000 tree {tree}\ta\n040000 tree {tree}\tb\n");
        std::fs::write(&file, two).unwrap();
        let mut mktree = git_command(door);
        mktree
            .arg("mktree")
            .stdin(std::fs::File::open(&file).unwrap());
        let made = mktree.output().unwrap();
        tree = String::from_utf8(made.stdout).unwrap().trim().to_owned();
    }
    let who = ["-c", "user.name=A", "-c", "user.email=a@example.org"];
    let planted = ["commit-tree", &tree, "-p", large.as_str(), "-m", "bomb"];
    let bomb: Oid = git(door, &[&who[..], &planted[..]].concat())
        .parse()
        .unwrap();
    let moved = lab
        .user
        .move_branch("factory/1-x", Some(&large), &bomb, &lab.door);
    assert_eq!(moved.unwrap(), Move::Moved);
    lab.fsck();

    // The target moved on, rewritten: nothing of what door.git knows is there any more.
    git(&lab.top, &["branch", "-D", "factory/1-x"]);
    git(&lab.top, &["commit", "-q", "--amend", "-m", "rewritten"]);
    git(&lab.top, &["reflog", "expire", "--expire=now", "--all"]);
    git(&lab.top, &["gc", "-q", "--prune=now"]);
    let moved = lab
        .user
        .move_branch("factory/1-x", None, &pushed, &lab.door);
    assert_eq!(moved.unwrap(), Move::Moved);
    lab.fsck();
}
