//! Moving the target branch, with all that can be in the way.

use crate::changes::{advance, assert_at, lab, recover, refusal, snapshot};
use crate::fixture::{commit, git, git_command, put};
use factory_core::ids::Oid;
use factory_ledger::advance::{Advance, Obstacle, Prepared, advance_target, prepare_advance};
use factory_ledger::repo::RepoError;
use factory_ledger::user::Move;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

#[test]
fn a_merge_leaves_unrelated_work_alone() {
    let (lab, new) = lab();
    put(&lab.top, "untouched.txt", "dirty\n");
    put(&lab.top, "other.txt", "staged\n");
    git(&lab.top, &["add", "other.txt"]);
    put(&lab.top, "other.txt", "staged, then dirty\n");
    put(&lab.top, "staged-new.txt", "staged new\n");
    git(&lab.top, &["add", "staged-new.txt"]);
    put(&lab.top, "notes.md", "untracked\n");
    fs::create_dir(lab.top.join("hooks")).unwrap();
    for hook in ["post-merge", "reference-transaction", "post-checkout"] {
        let path = format!(".git/hooks/{hook}");
        put(&lab.top, &path, "#!/bin/sh\ntouch hook-ran\n");
        fs::set_permissions(lab.top.join(path), fs::Permissions::from_mode(0o755)).unwrap();
    }
    git(&lab.top, &["config", "merge.autoStash", "true"]);
    git(
        &lab.top,
        &["config", "branch.main.mergeOptions", "--no-ff --squash"],
    );
    git(&lab.top, &["config", "merge.verifySignatures", "true"]);
    assert_eq!(
        prepare_advance(&lab.user, &lab.door, "main", &lab.first, &new).unwrap(),
        Prepared::Ready {
            worktree: Some(lab.top.clone())
        }
    );
    assert_eq!(advance(&lab, &new), Advance::Advanced);
    assert_eq!(
        git(&lab.top, &["status", "--porcelain"]),
        "MM other.txt\nA  staged-new.txt\n M untouched.txt\n?? notes.md"
    );
    for (path, content) in [
        ("untouched.txt", "dirty\n"),
        ("other.txt", "staged, then dirty\n"),
        ("notes.md", "untracked\n"),
    ] {
        assert_eq!(fs::read_to_string(lab.top.join(path)).unwrap(), content);
    }
    assert_eq!(git(&lab.top, &["show", ":other.txt"]), "staged");
    assert_eq!(git(&lab.top, &["rev-parse", "HEAD"]), new.as_str());
    assert!(!lab.top.join("hook-ran").exists() && !lab.top.join(".git/FETCH_HEAD").exists());
    assert_eq!(advance(&lab, &new), Advance::AlreadyThere);
    lab.fsck();
}

#[test]
fn files_in_the_way_are_named_and_nothing_changes() {
    type Prepare = fn(&Path);
    let cases: &[(&str, Prepare, Obstacle, &[&str])] = &[
        (
            "dirty",
            |t| put(t, "changed.txt", "mine\n"),
            Obstacle::LocalChanges,
            &["changed.txt"],
        ),
        (
            "staged",
            |t| {
                put(t, "changed.txt", "mine\n");
                git(t, &["add", "changed.txt"]);
            },
            Obstacle::LocalChanges,
            &["changed.txt"],
        ),
        (
            "emptied",
            |t| put(t, "changed.txt", ""),
            Obstacle::LocalChanges,
            &["changed.txt"],
        ),
        (
            "removed from the index",
            |t| drop(git(t, &["rm", "-q", "--cached", "changed.txt"])),
            Obstacle::LocalChanges,
            &["changed.txt"],
        ),
        (
            "untracked",
            |t| put(t, "added/deep/new.txt", "mine\n"),
            Obstacle::Untracked,
            &["added/deep/new.txt"],
        ),
        (
            "ignored",
            |t| {
                put(t, ".git/info/exclude", "added/\n");
                put(t, "added/deep/new.txt", "mine\n");
            },
            Obstacle::Untracked,
            &["added/deep/new.txt"],
        ),
        (
            "file for a directory",
            |t| put(t, "added", "mine\n"),
            Obstacle::Untracked,
            &["added"],
        ),
        (
            "link for a directory",
            |t| symlink("elsewhere", t.join("added")).unwrap(),
            Obstacle::Untracked,
            &["added"],
        ),
        (
            "directory for a file",
            |t| put(t, "dir/mine.txt", "mine\n"),
            Obstacle::Untracked,
            &["dir/mine.txt"],
        ),
        (
            "both",
            |t| {
                put(t, "changed.txt", "mine\n");
                put(t, "added/deep/new.txt", "mine\n");
            },
            Obstacle::LocalChanges,
            &["added/deep/new.txt", "changed.txt"],
        ),
    ];
    let (lab, new) = lab();
    for (name, prepare, obstacle, paths) in cases {
        prepare(&lab.top);
        let before = snapshot(&lab.top);
        let (found, named) = refusal(advance(&lab, &new));
        assert_eq!(
            (found, named.as_slice()),
            (*obstacle, paths.map_strings().as_slice()),
            "{name}"
        );
        assert_eq!(snapshot(&lab.top), before, "{name}");
        // The user's content is never taken for ours, whatever it is.
        if *name != "emptied" {
            refusal(recover(&lab, &new));
            assert_eq!(snapshot(&lab.top), before, "recovery: {name}");
        }
        git(&lab.top, &["reset", "-q", "--hard"]);
        git(&lab.top, &["clean", "-q", "-d", "-f", "-x"]);
        fs::write(lab.top.join(".git/info/exclude"), "").unwrap();
    }
    assert_eq!(advance(&lab, &new), Advance::Advanced);
    assert_at(&lab.top, &new);
    lab.fsck();
}

trait Strings {
    fn map_strings(&self) -> Vec<String>;
}

impl Strings for &[&str] {
    fn map_strings(&self) -> Vec<String> {
        self.iter().map(|s| (*s).to_owned()).collect()
    }
}

#[test]
fn foreign_work_in_progress_is_refused_by_name() {
    let (lab, new) = lab();
    let cases = [
        (".git/index.lock", Obstacle::IndexLock),
        (".git/HEAD.lock", Obstacle::RefLock),
        (".git/refs/heads/main.lock", Obstacle::RefLock),
        (".git/MERGE_HEAD", Obstacle::Merge),
        (".git/rebase-merge/done", Obstacle::Rebase),
        (".git/rebase-apply/next", Obstacle::Rebase),
        (".git/CHERRY_PICK_HEAD", Obstacle::CherryPick),
        (".git/REVERT_HEAD", Obstacle::Revert),
        (".git/BISECT_LOG", Obstacle::Bisect),
    ];
    for (file, obstacle) in cases {
        put(&lab.top, file, "");
        let before = fs::read(lab.top.join("changed.txt")).unwrap();
        assert_eq!(refusal(advance(&lab, &new)), (obstacle, vec![]), "{file}");
        assert_eq!(fs::read(lab.top.join("changed.txt")).unwrap(), before);
        assert!(lab.top.join(file).exists(), "{file} is not ours to remove");
        fs::remove_file(lab.top.join(file)).unwrap();
        if file.contains("rebase") {
            fs::remove_dir(lab.top.join(file).parent().unwrap()).unwrap();
        }
    }
    assert_eq!(advance(&lab, &new), Advance::Advanced);
}

#[test]
fn real_rebase_bisect_and_conflict_are_refused() {
    let (lab, new) = lab();
    // A rebase that stopped has detached HEAD, and comes back to main.
    git(&lab.top, &["checkout", "-q", "-b", "side"]);
    put(&lab.top, "changed.txt", "side\n");
    commit(&lab.top, "side");
    git(&lab.top, &["checkout", "-q", "main"]);
    put(&lab.top, "changed.txt", "main\n");
    let old = commit(&lab.top, "main");
    lab.base.fetch_target(&lab.user, "main").unwrap();
    let newer = lab.in_door("newer", &old, |t| put(t, "more.txt", "more\n"));
    let stopped = |args: &[&str]| {
        let out = git_command(&lab.top).args(args).output().unwrap();
        assert!(!out.status.success());
    };
    let go = |old: &Oid| advance_target(&lab.user, &lab.door, "main", old, &newer).unwrap();
    stopped(&["rebase", "side"]);
    assert_eq!(refusal(go(&old)), (Obstacle::Rebase, vec![]));
    let moved = lab
        .user
        .move_branch("main", Some(&old), &newer, &lab.door)
        .unwrap();
    assert_eq!(
        moved,
        Move::CheckedOut {
            worktree: lab.top.clone()
        }
    );
    git(&lab.top, &["rebase", "--abort"]);

    git(&lab.top, &["bisect", "start", "HEAD", "HEAD~1"]);
    assert_eq!(refusal(go(&old)), (Obstacle::Bisect, vec![]));
    git(&lab.top, &["bisect", "reset"]);

    stopped(&["merge", "side"]);
    assert_eq!(refusal(go(&old)), (Obstacle::Merge, vec![]));
    fs::remove_file(lab.top.join(".git/MERGE_HEAD")).unwrap();
    assert_eq!(
        refusal(go(&old)),
        (Obstacle::Unmerged, vec!["changed.txt".to_owned()])
    );
    git(&lab.top, &["reset", "-q", "--hard"]);

    // `old` of the first merge is not the tip any more.
    assert_eq!(
        advance_target(&lab.user, &lab.door, "main", &lab.first, &new).unwrap(),
        Advance::TargetMoved {
            now: Some(old.clone())
        }
    );
    assert!(matches!(
        advance_target(&lab.user, &lab.door, "main", &old, &new),
        Err(RepoError::NotForward { .. })
    ));
    assert_eq!(go(&old), Advance::Advanced);
    assert_at(&lab.top, &newer);
    lab.fsck();
}

#[test]
fn a_linked_worktree_is_advanced_where_it_is() {
    let (lab, new) = lab();
    let linked = lab.tmp.path().join("linked worktree");
    git(&lab.top, &["checkout", "-q", "-b", "elsewhere"]);
    git(
        &lab.top,
        &["worktree", "add", "-q", linked.to_str().unwrap(), "main"],
    );
    put(&linked, "changed.txt", "mine\n");
    assert_eq!(refusal(advance(&lab, &new)).1, ["changed.txt"]);
    put(&linked, "changed.txt", "before\n");
    let git_dir = lab.top.join(".git/worktrees/linked-worktree");
    fs::write(git_dir.join("index.lock"), "").unwrap();
    assert_eq!(refusal(advance(&lab, &new)).0, Obstacle::IndexLock);
    fs::remove_file(git_dir.join("index.lock")).unwrap();
    let before = snapshot(&lab.top);
    assert_eq!(advance(&lab, &new), Advance::Advanced);
    assert_at(&linked, &new);
    assert_eq!(snapshot(&lab.top), before);

    let newer = lab.in_door("newer", &new, |t| put(t, "more.txt", "more\n"));
    fs::rename(&linked, lab.tmp.path().join("moved")).unwrap();
    let outcome = advance_target(&lab.user, &lab.door, "main", &new, &newer).unwrap();
    assert_eq!(refusal(outcome).0, Obstacle::WorktreeMissing);
    git(&lab.top, &["worktree", "prune"]);
    // Checked out nowhere: the ref alone moves.
    assert_eq!(
        advance_target(&lab.user, &lab.door, "main", &new, &newer).unwrap(),
        Advance::Advanced
    );
    assert_eq!(lab.user.tip("main").unwrap(), Some(newer));
    lab.fsck();
}
