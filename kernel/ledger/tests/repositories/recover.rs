//! Moves of the target branch that died on the way.

use crate::changes::{FILES, assert_at, change, lab, recover, refusal};
use crate::fixture::{Lab, git, git_command, put};
use factory_core::ids::Oid;
use factory_ledger::advance::{Advance, Obstacle, advance_target, prepare_advance};
use factory_ledger::repo::RepoError;
use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};

#[test]
fn a_merge_killed_at_any_file_is_finished() {
    // The user's own filter kills git while it writes the named file.
    let script = "if [ \"$(cat \"$KILL_AT\" 2>/dev/null)\" = \"$1\" ]; then rm \"$KILL_AT\"; kill -9 $PPID; fi; cat";
    for (victim, kernel_dies) in [
        ("changed.txt", true),
        ("added/deep/new.txt", true),
        ("dir", false),
        ("file-then-dir/x.txt", true),
        ("zz.txt", false),
        ("zz.txt", true),
    ] {
        let mut files = FILES.to_vec();
        files.push((".gitattributes", "* filter=killer\n"));
        let lab = Lab::new(&files);
        let new = lab.in_door("change", &lab.first, |t| {
            change(t);
            put(t, "zz.txt", "last\n");
        });
        let kill_at = lab.tmp.path().join("kill-at");
        let filter = script.replace("$KILL_AT", kill_at.to_str().unwrap());
        put(&lab.top, ".git/killer", &filter);
        // One shell only, so that its parent is git.
        let run = format!("exec sh {} %f", lab.top.join(".git/killer").display());
        git(&lab.top, &["config", "filter.killer.smudge", &run]);
        put(&lab.top, "notes.md", "untracked\n");
        put(&lab.top, "untouched.txt", "dirty\n");
        fs::write(&kill_at, victim).unwrap();
        // Once as when the kernel dies with it, and once as when git dies alone.
        if kernel_dies {
            prepare_advance(&lab.user, &lab.door, "main", &lab.first, &new).unwrap();
            let merge = ["merge", "-q", "--ff-only", new.as_str()];
            let died = git_command(&lab.top).args(merge).status().unwrap();
            assert_eq!(died.code(), None, "{victim}: git was not killed");
            assert!(lab.top.join(".git/index.lock").exists(), "{victim}");
        } else {
            let died = advance_target(&lab.user, &lab.door, "main", &lab.first, &new);
            assert!(matches!(died, Err(RepoError::Git { .. })), "{died:?}");
            assert_eq!(
                git(&lab.top, &["status", "--porcelain"]),
                " M untouched.txt\n?? notes.md"
            );
        }
        assert_eq!(lab.user.tip("main").unwrap(), Some(lab.first.clone()));
        assert_eq!(recover(&lab, &new), Advance::Advanced, "{victim}");
        assert_eq!(
            git(&lab.top, &["status", "--porcelain"]),
            " M untouched.txt\n?? notes.md",
            "{victim}"
        );
        assert_eq!(
            fs::read_to_string(lab.top.join("untouched.txt")).unwrap(),
            "dirty\n"
        );
        assert_eq!(recover(&lab, &new), Advance::AlreadyThere);
        assert_eq!(git(&lab.top, &["rev-parse", "HEAD"]), new.as_str());
        lab.fsck();
    }
}

#[test]
fn recovery_at_each_stage() {
    // All files new, with and without the lock; the index still old.
    for lock in [true, false] {
        let (lab, new) = lab();
        lab_files_as(&lab, &new);
        if lock {
            put(&lab.top, ".git/index.lock", "half an index");
            put(&lab.top, ".git/refs/heads/main.lock", "");
        }
        assert_eq!(recover(&lab, &new), Advance::Advanced);
        assert_at(&lab.top, &new);
        lab.fsck();
    }
    // Index and files new, the ref old.
    let (lab, new) = lab();
    prepare_advance(&lab.user, &lab.door, "main", &lab.first, &new).unwrap();
    git(&lab.top, &["read-tree", "-m", "-u", "HEAD", new.as_str()]);
    put(&lab.top, ".git/HEAD.lock", "");
    put(&lab.top, "changed.txt", "edited after the crash\n");
    assert_eq!(recover(&lab, &new), Advance::Advanced);
    assert_eq!(git(&lab.top, &["status", "--porcelain"]), " M changed.txt");
    git(&lab.top, &["checkout", "-q", "--", "changed.txt"]);
    assert_at(&lab.top, &new);
    // The ref new, a lock left.
    put(&lab.top, ".git/HEAD.lock", "");
    assert_eq!(recover(&lab, &new), Advance::AlreadyThere);
    assert!(!lab.top.join(".git/HEAD.lock").exists());
    lab.fsck();
}

/// What a merge that died before its index leaves, in full.
fn lab_files_as(lab: &Lab, new: &Oid) {
    prepare_advance(&lab.user, &lab.door, "main", &lab.first, new).unwrap();
    let index = fs::read(lab.top.join(".git/index")).unwrap();
    git(&lab.top, &["read-tree", "-m", "-u", "HEAD", new.as_str()]);
    fs::write(lab.top.join(".git/index"), index).unwrap();
}

#[test]
fn recovery_names_what_the_user_wrote_and_keeps_it() {
    let (lab, new) = lab();
    lab_files_as(&lab, &new);
    put(&lab.top, ".git/index.lock", "");
    put(&lab.top, "changed.txt", "the user's own\n");
    put(&lab.top, "added/deep/user.txt", "the user's too\n");
    let (obstacle, paths) = refusal(recover(&lab, &new));
    assert_eq!(
        (obstacle, paths),
        (Obstacle::LocalChanges, vec!["changed.txt".to_owned()])
    );
    // All else is as before the merge.
    assert_eq!(
        git(&lab.top, &["status", "--porcelain"]),
        " M changed.txt\n?? added/"
    );
    assert_eq!(
        fs::read_to_string(lab.top.join("changed.txt")).unwrap(),
        "the user's own\n"
    );
    assert!(!lab.top.join("added/deep/new.txt").exists());
    // Once the user has committed, the target moved.
    git(&lab.top, &["commit", "-q", "-a", "-m", "mine"]);
    assert!(matches!(recover(&lab, &new), Advance::TargetMoved { .. }));
    lab.fsck();
}

#[test]
fn a_file_of_the_users_where_a_directory_was_is_kept() {
    let (lab, new) = lab();
    lab_files_as(&lab, &new);
    put(&lab.top, "dir", "the user's file\n");
    put(&lab.top, "file-then-dir/mine.txt", "mine\n");
    let (_, paths) = refusal(recover(&lab, &new));
    assert_eq!(paths, ["dir", "file-then-dir"]);
    assert_eq!(
        fs::read_to_string(lab.top.join("dir")).unwrap(),
        "the user's file\n"
    );
    assert_eq!(
        fs::read_to_string(lab.top.join("file-then-dir/mine.txt")).unwrap(),
        "mine\n"
    );
}

#[test]
fn a_branch_checked_out_elsewhere_since_is_not_merged_there() {
    let (lab, new) = lab();
    lab_files_as(&lab, &new);
    put(&lab.top, ".git/index.lock", "");
    let linked = lab.tmp.path().join("linked");
    git(&lab.top, &["symbolic-ref", "HEAD", "refs/heads/away"]);
    git(
        &lab.top,
        &["worktree", "add", "-q", linked.to_str().unwrap(), "main"],
    );
    assert_eq!(
        refusal(recover(&lab, &new)),
        (Obstacle::OtherWorktree, vec![])
    );
    assert_at(&linked, &lab.first);
    assert_eq!(
        fs::read_to_string(lab.top.join("changed.txt")).unwrap(),
        "before\n"
    );
    assert!(!lab.top.join(".git/index.lock").exists());
}

#[test]
fn locks_of_the_living_stay() {
    let (lab, new) = lab();
    let lock = lab.top.join(".git/index.lock");
    let file = fs::File::create(&lock).unwrap();
    let mut holder = Command::new("sleep")
        .arg("600")
        .stdin(Stdio::from(file))
        .spawn()
        .unwrap();
    let outcome = std::panic::catch_unwind(|| refusal(recover(&lab, &new)));
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_eq!(outcome.unwrap(), (Obstacle::IndexLock, vec![]));
    assert!(lock.exists());
    assert_eq!(recover(&lab, &new), Advance::Advanced);
    assert!(!lock.exists());
}

#[test]
fn a_merge_that_outlived_its_kernel_is_waited_for() {
    let (lab, new) = lab();
    prepare_advance(&lab.user, &lab.door, "main", &lab.first, &new).unwrap();
    // A git that was given the commit, says that it lives, and waits for its input.
    let mut alive = git_command(&lab.top)
        .args([
            "-c",
            "alias.wait=!echo lives && cat #",
            "wait",
            new.as_str(),
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = [0; 6];
    alive
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut said)
        .unwrap();
    let outcome = std::panic::catch_unwind(|| refusal(recover(&lab, &new)));
    drop(alive.stdin.take());
    alive.wait().unwrap();
    assert_eq!(outcome.unwrap(), (Obstacle::StillMerging, vec![]));
    assert_eq!(recover(&lab, &new), Advance::Advanced);
}
