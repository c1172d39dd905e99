//! Merging with care for what the user has, and for what moved meanwhile.

use crate::{GREETED, GREETER, on_branch, subjects};
use factory_core::{ids::PrNo, model::PrState};
use factory_tests::Lab;

/// A repository whose pull request 1 waits.
fn proposed(agent: &str, config: &str) -> Lab {
    let lab = Lab::new();
    lab.write("notes.txt", "first\nsecond\n");
    lab.scripted(agent, config);
    lab.approved("Greet people", "");
    lab.until_idle_ok();
    lab
}

#[test]
fn a_file_in_the_way_is_named_and_nothing_changes() {
    let lab = proposed(GREETER, GREETED);
    lab.write("greeting.txt", "the user's own\n");
    let before = (
        lab.git(&["rev-parse", "HEAD"]),
        lab.git(&["status", "--porcelain"]),
    );
    let said = lab.say(&["pr", "merge", "1"]);
    assert_eq!(said.code, 5);
    assert!(said.err.contains("greeting.txt"), "{}", said.err);
    let after = (
        lab.git(&["rev-parse", "HEAD"]),
        lab.git(&["status", "--porcelain"]),
    );
    assert_eq!(before, after);
    assert_eq!(lab.read("greeting.txt"), "the user's own\n");
    assert_eq!(lab.state().prs[&PrNo(1)].state, PrState::Ready);
    lab.assert_at_rest();

    std::fs::remove_file(lab.repo().join("greeting.txt")).unwrap();
    lab.ok(&["pr", "merge", "1"]);
    assert_eq!(lab.read("greeting.txt"), "hello\n");
    lab.assert_at_rest();
}

#[test]
fn a_changed_file_in_the_way_is_named_too() {
    let agent = "cat >/dev/null; echo third >>notes.txt; git commit -qam Note; git push -q\n";
    let lab = proposed(agent, "checks: [\"grep -q third notes.txt\"]\n");
    lab.write("notes.txt", "first\nsecond\nmine\n");
    let said = lab.say(&["pr", "merge", "1"]);
    assert_eq!(said.code, 5);
    assert!(said.err.contains("notes.txt"), "{}", said.err);
    assert_eq!(lab.read("notes.txt"), "first\nsecond\nmine\n");
    assert_eq!(subjects(&lab), "Begin");
    lab.assert_at_rest();
}

#[test]
fn the_users_own_work_survives_run_and_merge() {
    let lab = Lab::new();
    lab.write("notes.txt", "first\nsecond\n");
    lab.write("staged.txt", "old\n");
    lab.scripted(GREETER, GREETED);
    lab.write("notes.txt", "first\nchanged\n");
    lab.write("staged.txt", "staged\n");
    lab.git(&["add", "staged.txt"]);
    lab.write("staged.txt", "staged, then changed\n");
    lab.write("untracked.txt", "mine\n");
    lab.git(&["stash", "push", "--quiet", "--", "notes.txt"]);
    lab.write("notes.txt", "first\nchanged again\n");
    let own = || {
        (
            lab.git(&["diff"]),
            lab.git(&["diff", "--cached"]),
            lab.git(&["stash", "list", "-p", "--format=%gd"]),
            lab.read("untracked.txt"),
        )
    };
    let before = own();
    lab.approved("Greet people", "");
    lab.until_idle_ok();
    assert_eq!(own(), before);
    lab.ok(&["pr", "merge", "1"]);
    assert_eq!(own(), before);
    assert_eq!(lab.read("greeting.txt"), "hello\n");
    // A stash is not part of any target branch's history.
    let stash = lab.git(&["rev-parse", "stash@{0}"]);
    for repository in ["base.git", "door.git", "state.git"] {
        let found = lab.look(&lab.below(repository), &["cat-file", "-e", &stash], "");
        assert_eq!(found, None, "the stash is in {repository}");
    }
    lab.assert_at_rest();
}

#[test]
fn a_target_that_moved_is_tested_together_with_the_work() {
    let lab = proposed(GREETER, GREETED);
    lab.write("other.txt", "other\n");
    lab.commit("Something else");
    lab.ok(&["pr", "merge", "1"]);
    lab.assert_at_rest();
    assert_eq!(
        subjects(&lab),
        "Merge pull request 1 from factory/1-greet-people\nSomething else\nBegin"
    );
    // Code, check, and a check of the merge.
    let log = lab.ok(&["log"]);
    assert!(log.contains("r1-3") && log.contains("merge green"), "{log}");
}

#[test]
fn a_merge_that_is_red_goes_back_to_its_job() {
    let agent = r#"set -eu
cat >/dev/null
echo hello >greeting.txt
[ ! -e farewell.txt ] || echo both >both.txt
git add --all; git commit -qm "Say hello"; git push -q
"#;
    let lab = proposed(
        agent,
        "checks: [\"test ! -e farewell.txt || test -e both.txt\"]\n",
    );
    let main = lab.git(&["rev-parse", "main"]);
    lab.write("farewell.txt", "bye\n");
    lab.commit("Say bye");
    let moved = lab.git(&["rev-parse", "main"]);
    assert_ne!(main, moved);
    let said = lab.say(&["pr", "merge", "1"]);
    assert_ne!(said.code, 0);
    assert_eq!(lab.git(&["rev-parse", "main"]), moved);
    lab.assert_at_rest();
    // Its job works on it again, with the target merged in.
    lab.until_idle_ok();
    assert_eq!(on_branch(&lab, "both.txt"), "both");
    lab.ok(&["pr", "merge", "1"]);
    assert_eq!(lab.read("both.txt"), "both\n");
    lab.assert_at_rest();
}

#[test]
fn pull_requests_that_contradict_each_other_are_merged_one_after_the_other() {
    let lab = Lab::new();
    // The second run finds a conflict in its work tree and resolves it.
    let agent = r#"set -eu
head -n 1 >title; title=$(cat title); rm title
if git ls-files --unmerged | grep -q .; then
  git show :2:topic.txt >ours; git show :3:topic.txt >theirs
  cat theirs ours >topic.txt; rm ours theirs
else
  echo "$title" >topic.txt
fi
git add --all; git commit -qm "$title"; git push -q
"#;
    lab.scripted(agent, "checks: [\"test -s topic.txt\"]\n");
    lab.approved("First", "");
    lab.until_idle_ok();
    lab.approved("Second", "");
    lab.until_idle_ok();
    lab.ok(&["pr", "merge", "1"]);
    let said = lab.say(&["pr", "merge", "2"]);
    assert_ne!(said.code, 0);
    assert!(
        format!("{}{}", said.out, said.err).contains("topic.txt"),
        "{said:?}"
    );
    assert_eq!(lab.read("topic.txt"), "# Issue 1: First\n");
    lab.until_idle_ok();
    lab.ok(&["pr", "merge", "2"]);
    assert_eq!(
        lab.read("topic.txt"),
        "# Issue 1: First\n# Issue 2: Second\n"
    );
    lab.assert_at_rest();
}

#[test]
fn a_persons_commit_on_the_work_branch_is_checked_and_merged_too() {
    let lab = proposed(GREETER, GREETED);
    let branch = "factory/1-greet-people";
    lab.git(&["switch", "-q", branch]);
    lab.write("mine.txt", "mine\n");
    lab.commit("Mine");
    lab.git(&["switch", "-q", "main"]);
    let said = lab.say(&["pr", "merge", "1"]);
    assert_eq!(said.code, 5, "{said:?}");
    assert!(said.err.contains("somebody moved"), "{}", said.err);
    assert_eq!(subjects(&lab), "Begin");
    // What they ordered is not what is there: they look again.
    lab.until_idle_ok();
    let pr = &lab.state().prs[&PrNo(1)];
    assert_eq!(pr.state, PrState::Ready);
    assert_eq!(pr.head.to_string(), lab.git(&["rev-parse", branch]));
    assert_eq!(pr.checked.as_ref().unwrap().commit, pr.head);
    lab.ok(&["pr", "merge", "1"]);
    assert_eq!(
        (lab.read("greeting.txt"), lab.read("mine.txt")),
        ("hello\n".to_owned(), "mine\n".to_owned())
    );
    lab.assert_at_rest();
}

#[test]
fn a_file_that_git_was_told_not_to_look_at_is_named() {
    let agent = "cat >/dev/null; echo third >>notes.txt; git commit -qam Note; git push -q\n";
    let lab = proposed(agent, "checks: [\"grep -q third notes.txt\"]\n");
    lab.git(&["update-index", "--skip-worktree", "notes.txt"]);
    lab.write("notes.txt", "mine\n");
    let said = lab.say(&["pr", "merge", "1"]);
    assert_eq!(said.code, 5, "{said:?}");
    assert!(
        said.err.contains("notes.txt") && said.err.contains("--no-skip-worktree"),
        "{}",
        said.err
    );
    assert_eq!(lab.read("notes.txt"), "mine\n");
    assert_eq!(lab.state().prs[&PrNo(1)].state, PrState::Ready);
    lab.assert_at_rest();
}

#[test]
fn merges_that_are_ordered_at_the_same_time_all_come_about() {
    let agent = r#"cat >brief
name=$(grep -o 'Write [a-z]*.txt' brief | head -n 1 | cut -d ' ' -f 2)
rm brief; echo hello >"$name"; git add "$name"; git commit -qm "Write $name"; git push -q
"#;
    let lab = Lab::new();
    lab.scripted(agent, "checks: [\"true\"]\n");
    for name in ["one", "two", "three"] {
        lab.approved("Write a file", &format!("Write {name}.txt"));
    }
    lab.until_idle_ok();
    std::thread::scope(|scope| {
        for number in ["1", "2", "3"] {
            let lab = &lab;
            scope.spawn(move || lab.ok(&["pr", "merge", number]));
        }
    });
    for name in ["one.txt", "two.txt", "three.txt"] {
        assert_eq!(lab.read(name), "hello\n");
    }
    assert!(lab.state().prs.is_empty());
    lab.assert_at_rest();
}
