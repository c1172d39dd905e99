//! `factory sync` and `factory start --take-over` between two repositories that
//! share a remote. No container engine: a start that takes over ends there.

use crate::lab::{CONFIG, Lab, Out};
use factory_core::{
    inbox::{EngineExit, InboxEntry, RunEnd},
    model::{RunState, Stage},
};
use factory_ledger::{git::Git, inbox::Inbox};
use std::path::PathBuf;

const TAKE_OVER: [&str; 2] = ["start", "--take-over"];

fn remote(lab: &Lab) -> PathBuf {
    lab.dir.path().join("remote.git")
}

/// A repository with a remote that has its target branch.
fn first() -> Lab {
    let lab = Lab::new(CONFIG);
    let path = remote(&lab).to_str().unwrap().to_owned();
    lab.git(&["init", "-q", "--bare", &path]);
    lab.git(&["remote", "add", "origin", &path]);
    lab.git(&["push", "-q", "origin", "main"]);
    lab
}

/// Another clone, without a factory.
fn second(first: &Lab) -> Lab {
    let lab = Lab::new("");
    lab.git(&["remote", "add", "origin", remote(first).to_str().unwrap()]);
    lab.git(&["fetch", "-q", "origin"]);
    lab.git(&["checkout", "-q", "-B", "main", "origin/main"]);
    lab
}

fn refs(first: &Lab) -> String {
    let git = Git::isolated(remote(first));
    git.call(["for-each-ref"]).text().unwrap()
}

/// The take-over itself went well; then the container engine is missing.
#[track_caller]
fn took_over(out: &Out) {
    out.fails(6, &["taken over from", "no Docker engine"]);
}

fn file(lab: &Lab, title: &str) {
    lab.factory(&["issue", "new", "--title", title]).ok();
}

#[test]
fn the_first_time_somebody_has_to_agree() {
    let lab = first();
    lab.factory(&["sync"])
        .fails(5, &["no factory in this repository", "--take-over"]);
    file(&lab, "One");
    let before = refs(&lab);
    lab.factory(&["sync"]).fails(
        5,
        &[
            "nothing was sent",
            "refs/factory/* of origin (",
            "factory sync --remote origin --yes",
        ],
    );
    assert_eq!(refs(&lab), before);
    lab.factory(&["sync", "--yes"])
        .says(&["brought to origin: 3 steps and what 1 ref leads to"]);
    lab.factory(&["sync"]).says(&[
        "origin has the state of",
        "ago): sync: shared from",
        "nothing is new",
    ]);
    file(&lab, "Two");
    lab.factory(&["sync"])
        .says(&["brought to origin: 1 step\n"]);
    lab.factory(&["state", "verify"]).ok();
}

#[test]
fn the_remote_is_the_only_one_or_the_one_that_is_named() {
    let lab = Lab::new(CONFIG);
    file(&lab, "One");
    lab.factory(&["sync", "--yes"])
        .fails(5, &["no remote", "git remote add"]);
    for name in ["one", "two"] {
        let path = lab.dir.path().join(name);
        lab.git(&["init", "-q", "--bare", path.to_str().unwrap()]);
        lab.git(&["remote", "add", name, path.to_str().unwrap()]);
    }
    lab.factory(&["sync", "--yes"])
        .fails(5, &["several remotes: one, two", "--remote"]);
    lab.factory(&["sync", "--yes", "--remote", "three"])
        .fails(5, &["no remote `three`; there are: one, two"]);
    lab.factory(&["sync", "--yes", "--remote", "two"]).ok();
    // Remembered; another one asks again.
    lab.factory(&["sync"]).says(&["nothing is new"]);
    lab.factory(&["sync", "--remote", "one"])
        .fails(5, &["nothing was sent"]);
}

#[test]
fn another_machine_goes_on_and_the_first_one_is_told() {
    let one = first();
    let two = second(&one);
    two.factory(&TAKE_OVER).fails(
        5,
        &[
            "no factory was ever brought to origin",
            "factory sync --remote origin",
        ],
    );
    assert!(!two.repo().join(".git/factory/state.git").exists());
    file(&one, "One");
    one.factory(&["sync", "--yes"]).ok();
    file(&one, "Only here");
    took_over(&two.factory(&TAKE_OVER));
    two.factory(&["issue", "list"]).says(&["One"]);
    two.factory(&["state", "verify"])
        .says(&["The state is whole."]);
    two.factory(&TAKE_OVER)
        .fails(6, &["goes on already; nothing is taken over"]);
    file(&two, "Two");
    two.factory(&["sync"]).says(&["brought to origin: 1 step"]);

    let said = one.factory(&["sync"]);
    said.fails(
        11,
        &[
            "origin has the state of",
            "not carried over: issue 2: filed by Ann: Only here",
            "goes on with this factory, since 20",
            "one step made here since the last sync is not carried over",
            "factory start --take-over --remote origin",
        ],
    );
    one.factory(&["issue", "new", "--title", "Late"])
        .fails(11, &["goes on with this factory"]);
    one.factory(&["start"])
        .fails(11, &["goes on with this factory"]);
    one.factory(&["status"])
        .says(&["another machine goes on with this factory"]);
    one.factory(&["state", "verify"])
        .says(&["The state is whole."]);
}

#[test]
fn a_start_asks_the_remote_first_and_does_without_it() {
    let one = first();
    let two = second(&one);
    file(&one, "One");
    one.factory(&["sync", "--yes"]).ok();
    one.factory(&["start"]).fails(6, &["no Docker engine"]);
    one.git(&["remote", "set-url", "origin", "/nonexistent"]);
    one.factory(&["start"]).fails(
        6,
        &["cannot be asked whether another machine has taken over"],
    );
    one.git(&[
        "remote",
        "set-url",
        "origin",
        remote(&one).to_str().unwrap(),
    ]);
    took_over(&two.factory(&TAKE_OVER));
    one.factory(&["start"])
        .fails(11, &["goes on with this factory"]);
}

#[test]
fn a_state_that_was_set_back_does_not_replace_a_newer_one() {
    let one = first();
    file(&one, "One");
    one.factory(&["sync", "--yes"]).ok();
    let (places, _, _, before) = one.ledger();
    file(&one, "Two");
    file(&one, "Three");
    one.factory(&["sync"]).ok();
    let there = refs(&one);
    Git::isolated(places.state_git())
        .run(["update-ref", "refs/state", before.as_str()])
        .unwrap();
    for command in ["sync", "start"] {
        one.factory(&[command]).fails(
            5,
            &[
                "is older than what this machine brought to origin",
                "issue 3: filed by Ann: Three",
            ],
        );
    }
    assert_eq!(refs(&one), there);
    // Restored, it goes on from there.
    one.factory(&["state", "restore"])
        .says(&["restored from step"]);
    one.factory(&["sync"]).says(&["brought to origin: "]);
}

#[test]
fn garbage_on_the_remote_changes_nothing() {
    let one = first();
    let two = second(&one);
    file(&one, "One");
    one.git(&["push", "-q", "origin", "main:refs/factory/state"]);
    let before = refs(&one);
    let told = [
        "refs/factory/state of the remote `origin`",
        "no state that can be read",
    ];
    one.factory(&["sync", "--yes"]).fails(5, &told);
    two.factory(&TAKE_OVER).fails(5, &told);
    assert_eq!(refs(&one), before);
    assert!(!two.repo().join(".git/factory/state.git").exists());
}

#[test]
fn a_take_over_that_is_cut_short_is_done_again() {
    let one = first();
    let two = second(&one);
    file(&one, "One");
    one.factory(&["sync", "--yes"]).ok();
    // In the way once the remote names this machine.
    let in_the_way = two.repo().join(".git/factory/door.git");
    std::fs::create_dir_all(in_the_way.parent().unwrap()).unwrap();
    std::fs::write(&in_the_way, "").unwrap();
    two.factory(&TAKE_OVER)
        .fails(1, &["names this machine already; run the same again"]);
    one.factory(&["sync"])
        .fails(11, &["goes on with this factory"]);
    std::fs::remove_file(&in_the_way).unwrap();
    took_over(&two.factory(&TAKE_OVER));
    two.factory(&["issue", "list"]).says(&["One"]);
    two.factory(&["sync"]).ok();
    two.factory(&["state", "verify"])
        .says(&["The state is whole."]);
}

#[test]
fn no_branch_but_those_of_jobs_is_made_or_moved() {
    let one = first();
    let two = second(&one);
    file(&one, "One");
    one.factory(&["sync", "--yes"]).ok();
    let ahead = one.work("ahead", "planted.txt");
    for name in ["main", "other"] {
        let refspec = format!("{ahead}:refs/factory/branch/{name}");
        one.git(&["push", "-q", "origin", &refspec]);
    }
    let before = two.git(&["for-each-ref"]);
    took_over(&two.factory(&TAKE_OVER));
    assert_eq!(two.git(&["for-each-ref"]), before);
}

#[test]
fn a_factory_that_is_there_is_not_replaced() {
    let one = first();
    let two = second(&one);
    file(&one, "One");
    one.factory(&["sync", "--yes"]).ok();
    two.git(&["commit", "-q", "--allow-empty", "-m", "Mine"]);
    file(&two, "Mine");
    let before = (refs(&one), two.ledger().3);
    two.factory(&["sync", "--yes"])
        .fails(5, &["holds the state of another factory"]);
    two.factory(&TAKE_OVER).fails(
        5,
        &[
            "another factory in this repository already, with 1 issue",
            "mv ",
        ],
    );
    assert_eq!((refs(&one), two.ledger().3), before);

    // One in which nothing was ever filed is.
    let three = second(&one);
    three.factory(&["status"]).ok();
    took_over(&three.factory(&TAKE_OVER));
    three.factory(&["issue", "list"]).says(&["One"]);
    three
        .factory(&["state", "verify"])
        .says(&["The state is whole."]);
}

#[test]
fn commits_of_the_target_that_are_missing_are_named_with_the_way_to_them() {
    let one = first();
    let two = second(&one);
    file(&one, "One");
    one.git(&[
        "commit",
        "-q",
        "--allow-empty",
        "-m",
        "Merged by the factory",
    ]);
    one.factory(&["sync", "--yes"]).ok();
    let before = refs(&one);
    two.factory(&TAKE_OVER).fails(
        5,
        &[
            "branch `main` here lacks 1 commit",
            "git fetch origin refs/factory/target && git merge --ff-only FETCH_HEAD",
        ],
    );
    assert_eq!(refs(&one), before);
    two.git(&["fetch", "-q", "origin", "refs/factory/target"]);
    two.git(&["merge", "-q", "--ff-only", "FETCH_HEAD"]);
    took_over(&two.factory(&TAKE_OVER));
    assert_eq!(two.tip("main"), one.tip("main"));
}

#[test]
fn work_branches_come_along_and_a_persons_commits_stay() {
    let one = first();
    file(&one, "One");
    one.factory(&["issue", "approve", "1"]).ok();
    let commit = one.work("factory/1-one", "new.txt");
    one.propose(1, &commit);
    one.factory(&["sync", "--yes"]).ok();
    assert!(
        !refs(&one).contains("refs/heads/factory"),
        "branches are not pushed"
    );

    let two = second(&one);
    let mine = two.work("factory/1-one", "mine.txt");
    two.factory(&TAKE_OVER).fails(
        5,
        &["`factory/1-one` has other commits here", "git branch -m"],
    );
    assert_eq!(two.tip("factory/1-one"), mine);
    two.git(&["branch", "-m", "factory/1-one", "mine"]);
    took_over(&two.factory(&TAKE_OVER));
    assert_eq!(two.tip("factory/1-one"), commit);
    let diff = two.factory(&["pr", "diff", "1"]);
    assert!(diff.code == 0 && diff.stdout.contains("new.txt"));

    // Closed there: what it needed goes from the remote.
    two.factory(&["issue", "close", "1"]).ok();
    assert!(refs(&one).contains("refs/factory/branch/factory/1-one"));
    two.factory(&["sync"]).ok();
    assert!(!refs(&one).contains("refs/factory/branch/"));
}

#[test]
fn what_a_live_run_said_comes_along_and_it_is_done_again() {
    let one = first();
    for n in 1..=2 {
        file(&one, &format!("Number {n}"));
        one.factory(&["issue", "approve", &n.to_string()]).ok();
    }
    let cut = one.grant(1);
    let done = {
        let facts = one.facts();
        one.journal(factory_core::event::Event::RunGranted {
            job: factory_core::ids::IssueNo(2),
            purpose: factory_core::model::Purpose::Code,
            slot: 1,
            facts,
        });
        *one.ledger().2.runs.keys().next_back().unwrap()
    };
    let inbox = Inbox::open(&one.ledger().0).unwrap();
    let say = |run, entry| inbox.append(run, &entry, 1_795_226_402).unwrap();
    let checkpoint = one.work("saved", "half.txt");
    let pushed = one.work("pushed", "whole.txt");
    for branch in ["saved", "pushed"] {
        one.git(&["branch", "-q", "-D", branch]);
    }
    say(
        cut,
        InboxEntry::Checkpoint {
            commit: checkpoint.clone(),
        },
    );
    let old = one.tip("main");
    say(
        done,
        InboxEntry::Push {
            old,
            new: pushed.clone(),
        },
    );
    let end = RunEnd {
        exit: EngineExit::Code(0),
        last_output: String::new(),
        stderr_tail: String::new(),
        report_problem: None,
        push_problem: None,
    };
    say(done, InboxEntry::End(end));
    one.factory(&["sync", "--yes"]).ok();

    let two = second(&one);
    took_over(&two.factory(&TAKE_OVER));
    let (places, _, state, _) = two.ledger();
    let ended = |run| matches!(state.runs[&run].state, RunState::Ended { .. });
    assert!(ended(cut) && ended(done));
    let jobs: Vec<_> = state.jobs.values().collect();
    assert_eq!((jobs[0].stage(), jobs[0].losses), (&Stage::Queued, 0));
    assert_eq!(jobs[0].resume.as_ref().unwrap().checkpoint, checkpoint);
    assert!(
        matches!(jobs[1].stage(), Stage::Publishing { commit, .. } if *commit == pushed),
        "what came to its end is not done again: {:?}",
        jobs[1].stage()
    );
    let door = Git::isolated(places.door_git());
    let at = |name: String| door.call(["rev-parse".to_owned(), name]).text().unwrap();
    assert_eq!(
        at(format!("refs/keep/checkpoint/{cut}")),
        checkpoint.as_str()
    );
    assert_eq!(at(format!("refs/keep/run/{done}")), pushed.as_str());
    two.factory(&["log", "-n", "1"])
        .says(&["taken over by", "left behind r1-1, r2-1"]);
}

#[test]
fn transcripts_leave_the_machine_only_when_asked() {
    let one = first();
    file(&one, "One");
    let (places, ..) = one.ledger();
    let base = factory_ledger::base::BaseRepo::init(places.base_git()).unwrap();
    let door = factory_ledger::door::DoorRepo::init(places.door_git(), &base).unwrap();
    base.fetch_target(
        &factory_ledger::user::UserRepo::open(places.common_dir()),
        "main",
    )
    .unwrap();
    let main = one.tip("main");
    Git::isolated(door.dir())
        .run(["update-ref", "refs/transcripts/r1-1", main.as_str()])
        .unwrap();
    one.factory(&["sync", "--yes"]).ok();
    assert!(!refs(&one).contains("transcripts"));
    one.factory(&["sync", "--with-transcripts"]).ok();
    assert!(refs(&one).contains("refs/factory/transcripts/r1-1"));
    file(&one, "Two");
    one.factory(&["sync"]).ok();
    assert!(
        refs(&one).contains("refs/factory/transcripts/r1-1"),
        "they stay"
    );
}
