//! `factory state` and `factory gc`, and what other commands say of a broken state.

use crate::lab::{CONFIG, Lab};
use factory_core::{
    ids::{IssueNo, RunId},
    inbox::InboxEntry,
};
use factory_ledger::{base::BaseRepo, door::DoorRepo, git::Git, inbox::Inbox, lock::KernelLock};
use std::{
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

fn state_git(lab: &Lab) -> PathBuf {
    lab.repo().join(".git/factory/state.git")
}

fn filed(lab: &Lab, n: u64) {
    for n in 0..n {
        let title = format!("number {n}");
        lab.factory(&["issue", "new", "--title", &title]).ok();
    }
}

#[test]
fn a_whole_state_is_said_to_be_whole_and_left_alone() {
    let lab = Lab::new(CONFIG);
    filed(&lab, 2);
    lab.factory(&["state", "verify"]).says(&[
        "state:   step 0.2 (",
        "3 steps in all",
        "anchor:  step 0.0",
        "The state is whole.",
    ]);
    let json = lab.factory(&["state", "verify", "--json"]).json();
    assert_eq!(
        (&json["whole"], &json["newest"]["step"]),
        (&true.into(), &"0.2".into())
    );
    let (_, _, _, head) = lab.ledger();
    lab.factory(&["state", "restore"])
        .says(&["The state is whole; nothing was changed."]);
    assert_eq!(lab.ledger().3, head);
}

#[test]
fn a_deleted_state_is_named_by_every_command_and_restored() {
    let lab = Lab::new(CONFIG);
    filed(&lab, 2);
    std::fs::remove_file(state_git(&lab).join("refs/state")).unwrap();
    for command in [&["status"][..], &["issue", "list"], &["gc"]] {
        lab.factory(command).fails(
            1,
            &[
                "the state is broken",
                "factory state verify",
                "factory state restore",
            ],
        );
    }
    let found = lab.factory(&["state", "verify"]);
    assert_eq!(found.code, 1);
    assert!(
        found.stdout.contains("problem: refs/state does not exist"),
        "{}",
        found.stdout
    );
    let json = lab.factory(&["state", "verify", "--json"]);
    assert!(
        json.code == 1 && json.stdout.contains("\"whole\": false"),
        "{}",
        json.stdout
    );
    lab.factory(&["state", "restore"]).says(&[
        "restored from step 0.2",
        "now at step 1000.1002",
        "No later step was found.",
    ]);
    lab.factory(&["state", "verify"])
        .says(&["The state is whole."]);
    lab.factory(&["issue", "list"])
        .says(&["number 0", "number 1"]);
    lab.factory(&["issue", "new", "--title", "next"])
        .says(&["issue 1003 filed"]);
}

#[test]
fn a_truncated_object_is_named_and_what_is_lost_is_listed() {
    let lab = Lab::new(CONFIG);
    filed(&lab, 2);
    let object = Git::isolated(state_git(&lab))
        .call(["rev-parse", "refs/state:meta.yaml"])
        .text()
        .unwrap();
    let file = state_git(&lab)
        .join("objects")
        .join(&object[..2])
        .join(&object[2..]);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    lab.factory(&["status"])
        .fails(1, &["is damaged", "factory state restore"]);
    lab.factory(&["state", "restore"]).says(&[
        "restored from step 0.1",
        "Lost: 1 step\n  0.2  ",
        "number 1",
        "1 damaged object;",
    ]);
    lab.factory(&["issue", "list"]).says(&["number 0"]);
}

#[test]
fn restoring_waits_for_no_kernel() {
    let lab = Lab::new(CONFIG);
    filed(&lab, 1);
    let (places, ..) = lab.ledger();
    let _lock = KernelLock::acquire(&places.kernel_lock(), std::process::id(), 1).unwrap();
    lab.factory(&["state", "verify"]).ok();
    lab.factory(&["state", "restore"])
        .fails(9, &["another factory runs in this repository"]);
    lab.factory(&["gc"])
        .says(&["packed:  state.git\n", "base.git stays as it is"]);
}

#[test]
fn what_is_old_goes_and_what_is_live_or_young_stays() {
    let lab = Lab::new(CONFIG);
    filed(&lab, 2);
    for issue in ["1", "2"] {
        lab.factory(&["issue", "approve", issue]).ok();
    }
    lab.factory(&["issue", "close", "1"]).ok();
    let live = lab.grant(2);
    let (places, ..) = lab.ledger();
    let base = BaseRepo::init(places.base_git()).unwrap();
    let door = DoorRepo::init(places.door_git(), &base).unwrap();
    let inbox = Inbox::open(&places).unwrap();
    let run = |k| RunId { job: IssueNo(1), k };
    let (old, young) = (1_000_000_000, 4_000_000_000);
    let entry = InboxEntry::Report {
        json: "{}".to_owned(),
    };
    for (run, at) in [(run(1), old), (run(2), young), (live, old)] {
        inbox.append(run, &entry, at).unwrap();
        let git = Git::isolated(door.dir());
        let tree = git.call(["mktree"]).stdin("").text().unwrap();
        let commit = git
            .call([
                "-c",
                "user.name=x",
                "-c",
                "user.email=x@y",
                "commit-tree",
                "-m",
                "t",
                &tree,
            ])
            .env("GIT_COMMITTER_DATE", format!("@{at} +0000"))
            .text()
            .unwrap();
        git.run(["update-ref", &format!("refs/transcripts/{run}"), &commit])
            .unwrap();
        door.keep(&format!("run/{run}"), &commit.parse().unwrap())
            .unwrap();
        let file = places.transcript(run);
        std::fs::write(&file, "{}\n").unwrap();
        let made: SystemTime = UNIX_EPOCH + Duration::from_secs(at as u64);
        std::fs::File::open(&file)
            .unwrap()
            .set_modified(made)
            .unwrap();
    }
    let disk = lab.factory(&["status", "--json"]).json()["disk"].clone();
    assert_eq!(disk["complete"], true);
    assert!(disk["state"].as_u64() > Some(4096) && disk["total"].as_u64() > disk["state"].as_u64());
    lab.factory(&["status"]).says(&["\ndisk: "]);

    lab.factory(&["gc"]).says(&[
        "dropped: 1 transcript, 1 inbox, 0 kept commits",
        "packed:  state.git, door.git\n",
    ]);
    // With a live run their room is not free yet.
    assert!(places.cache().join("to-free").exists());
    assert_eq!(inbox.runs().unwrap(), [run(2), live]);
    assert_eq!(inbox.read_after(live, None).unwrap().len(), 1);
    let refs = Git::isolated(door.dir())
        .call(["for-each-ref", "--format=%(refname)"])
        .text()
        .unwrap();
    let kept = [
        "keep/run/r1-1",
        "keep/run/r1-2",
        "keep/run/r2-1",
        "transcripts/r1-2",
        "transcripts/r2-1",
    ];
    assert_eq!(
        refs.lines().collect::<Vec<_>>(),
        kept.map(|name| format!("refs/{name}"))
    );
    let files = [run(1), run(2), live].map(|run| places.transcript(run).exists());
    assert_eq!(files, [false, true, true]);
    lab.factory(&["state", "verify"])
        .says(&["The state is whole."]);
}

#[test]
fn commits_of_issues_that_were_closed_long_ago_go() {
    let lab = Lab::new(CONFIG);
    filed(&lab, 2);
    for issue in ["1", "2"] {
        lab.factory(&["issue", "approve", issue]).ok();
    }
    lab.factory(&["issue", "close", "1"]).ok();
    let (places, store, state, head) = lab.ledger();
    // The same, closed a hundred days before.
    let path = "archive/issues/0/1.md";
    let text = String::from_utf8(store.read_file(&head, path).unwrap().unwrap()).unwrap();
    let day = 86_400;
    let at: i64 = text
        .split("at: ")
        .nth(1)
        .unwrap()
        .lines()
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let older = text.replace(&format!("at: {at}"), &format!("at: {}", at - 100 * day));
    assert_ne!(older, text);
    let change = factory_core::change::FileChange {
        path: path.to_owned(),
        content: Some(older.into_bytes()),
    };
    store
        .commit(Some(&head), &[change], "aged\n\nFactory-Step: 0.6\n", at)
        .unwrap();

    let base = BaseRepo::init(places.base_git()).unwrap();
    let door = DoorRepo::init(places.door_git(), &base).unwrap();
    let branch = format!("branch/{}", state.jobs[&IssueNo(2)].branch);
    let commit = Git::isolated(door.dir())
        .call([
            "-c",
            "user.name=x",
            "-c",
            "user.email=x@y",
            "commit-tree",
            "-m",
            "t",
        ])
        .arg(
            Git::isolated(door.dir())
                .call(["mktree"])
                .stdin("")
                .text()
                .unwrap(),
        )
        .text()
        .unwrap();
    let commit = commit.parse().unwrap();
    let gone = [
        "run/r1-1",
        "checkpoint/r1-1",
        "job-1",
        "branch/factory/1-number-0",
    ];
    let stay = [
        "run/r2-1",
        "job-2",
        &branch,
        "branch/factory/1-of-a-person",
        "other",
        "merge-9",
    ];
    for name in gone.iter().chain(&stay) {
        door.keep(name, &commit).unwrap();
    }
    lab.factory(&["gc"]).says(&[
        "dropped: 0 transcripts, 0 inboxes, 4 kept commits",
        "packed:  state.git, door.git, base.git\n",
    ]);
    assert!(places.cache().join("freed").exists());
    let refs = Git::isolated(door.dir())
        .call(["for-each-ref", "--format=%(refname:lstrip=2)"])
        .text()
        .unwrap();
    let mut left: Vec<&str> = refs.lines().collect();
    let mut stay = stay.to_vec();
    left.sort();
    stay.sort();
    assert_eq!(left, stay);
}
