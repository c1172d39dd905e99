//! Runs that go on from a checkpoint.

use crate::lab::{BRANCH, Lab, SESSION, sh};
use factory_core::{inbox::EngineExit, wire::RunTask};
use std::os::unix::fs::PermissionsExt as _;

/// Lets a first run do `engine`, and dies once its checkpoint's `path` is
/// `content`: what is written last, so that everything is saved.
async fn killed_after(lab: &mut Lab, engine: &str, path: &str, content: &str) {
    killed_once(lab, engine, &lab.saved(path, content)).await;
}

async fn killed_once(lab: &mut Lab, engine: &str, saved: &str) {
    lab.engine(
        &format!("{engine}; {saved}; echo saved; exec sleep 600"),
        None,
    )
    .checkpoints();
    let started = lab.start();
    lab.gateway.event("saved").await;
    started.kill().await;
}

const SAVED: &str = "session/session.jsonl";

#[tokio::test]
async fn a_killed_run_goes_on_where_its_checkpoint_was_made() {
    let Some(mut lab) = Lab::new("resume") else {
        return;
    };
    let tip = sh(
        &lab.path("seed"),
        "echo old > gone.txt; echo plain > tool; git add .; git commit -qm more
         git push -q ../git/origin HEAD:main HEAD:refs/factory/start; git rev-parse HEAD",
    );
    lab.file.start = tip.parse().unwrap();
    killed_after(
        &mut lab,
        "echo committed > 1.txt; git add .; git commit -qm one
         echo changed >> file.txt; rm gone.txt; chmod +x tool; mkdir dir; echo untracked > 'dir/a b'
         ln -s 1.txt link; echo session > ../state/engine/session.jsonl",
        SAVED,
        "session",
    )
    .await;
    assert_eq!(
        lab.origin("for-each-ref refs/heads --format='%(refname)'"),
        "refs/heads/main"
    );
    let session = lab.path(SESSION.trim_start_matches('/'));
    lab.resume(
        &tip,
        "git status --porcelain -uall; git log --format=%s; cat 'dir/a b' file.txt; readlink link
         git symbolic-ref HEAD; git diff --cached --stat; stat -c %a ../state/engine/session.jsonl
         cat ../state/engine/session.jsonl",
    );
    assert_eq!(lab.run().await.code, 0);
    assert_eq!(
        lab.gateway.events(),
        format!(
            " M file.txt\n D gone.txt\n M tool\n?? \"dir/a b\"\n?? link\none\nmore\nfirst\n\
             untracked\none\ntwo\nthree\nchanged\n1.txt\nrefs/heads/{BRANCH}\n600\nsession\n"
        )
    );
    // What was resumed is handed in like any work.
    assert_eq!(
        lab.origin(&format!("ls-tree -r --name-only {BRANCH}"))
            .replace('\n', " "),
        "1.txt dir/a b file.txt link tool"
    );
    let mode = std::fs::metadata(session).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_resumed_run_that_is_killed_in_its_turn_loses_nothing() {
    let Some(mut lab) = Lab::new("twice") else {
        return;
    };
    let start = lab.file.start.to_string();
    killed_after(
        &mut lab,
        "echo 1 > 1.txt; echo s > ../state/engine/session.jsonl",
        SAVED,
        "s",
    )
    .await;
    let script = format!(
        "echo 2 > 2.txt; {}; echo saved; exec sleep 600",
        lab.saved("work/2.txt", "2")
    );
    lab.resume(&start, &script).checkpoints();
    let started = lab.start();
    lab.gateway.event("saved").await;
    started.kill().await;
    lab.resume(&start, "cat 1.txt 2.txt ../state/engine/session.jsonl");
    assert_eq!(lab.run().await.code, 0);
    assert_eq!(lab.gateway.events(), "1\n2\ns\n");
}

#[tokio::test]
async fn work_that_was_pushed_after_the_checkpoint_is_not_overlaid_by_it() {
    let Some(mut lab) = Lab::new("pushed meanwhile") else {
        return;
    };
    killed_after(
        &mut lab,
        "echo s > ../state/engine/session.jsonl; echo draft > work.txt",
        "work/work.txt",
        "draft",
    )
    .await;
    // The run's last acts, of which no checkpoint was made any more.
    sh(
        &lab.path("seed"),
        &format!(
            "echo final > work.txt; git add .; git commit -qm work; git push -q ../git/origin HEAD:refs/heads/{BRANCH}"
        ),
    );
    lab.resume(BRANCH, "cat; cat work.txt; git status --porcelain");
    assert_eq!(lab.run().await.code, 0);
    let events = lab.gateway.events();
    let (brief, seen) = events.split_once("still needed.\n").unwrap();
    assert_eq!(seen, "final\n");
    // The engine is told where the rest is, in case it is needed after all.
    let commit = brief.split("is the commit ").nth(1).unwrap();
    let show = format!("git show {}:work.txt", &commit[..40]);
    assert_eq!(sh(&lab.path("workspace"), &show), "draft");
}

#[tokio::test]
async fn what_an_ended_run_handed_in_is_not_told_again() {
    let Some(mut lab) = Lab::new("handed in") else {
        return;
    };
    lab.engine(
        "echo half > half.txt; echo s > ../state/engine/session.jsonl; exit 1",
        None,
    );
    assert_eq!(lab.run().await.code, 0);
    lab.resume(
        BRANCH,
        "cat; git status --porcelain; cat half.txt ../state/engine/session.jsonl",
    );
    assert_eq!(lab.run().await.code, 0);
    assert_eq!(lab.gateway.events(), "# The task\nDo it.\nhalf\ns\n");
}

#[tokio::test]
async fn commits_that_the_branch_does_not_hold_are_named() {
    let Some(mut lab) = Lab::new("elsewhere") else {
        return;
    };
    killed_after(
        &mut lab,
        "echo c > c.txt; git add .; git commit -qm c
         echo s > ../state/engine/session.jsonl; echo w > w.txt",
        "work/w.txt",
        "w",
    )
    .await;
    // Nothing was pushed, and the target, from which the next run starts, moved.
    let tip = sh(
        &lab.path("seed"),
        "echo t > t.txt; git add .; git commit -qm t; git push -q ../git/origin HEAD:main; git rev-parse HEAD",
    );
    lab.resume(
        &tip,
        "diff=$(grep -o 'git diff [0-9a-f]* [0-9a-f]*'); ls; $diff --stat --format= | cat",
    );
    assert_eq!(lab.run().await.code, 0);
    let events = lab.gateway.events();
    assert!(events.starts_with("file.txt\nt.txt\n"), "{events}");
    assert!(
        events.contains("c.txt") && events.contains("w.txt") && events.contains("2 files changed"),
        "{events}"
    );
}

/// Moves the target on from the start of the run.
fn target(lab: &mut Lab, change: &str) -> String {
    let tip = sh(
        &lab.path("seed"),
        &format!(
            "{change}; git add -A; git commit -qm theirs; git push -q ../git/origin HEAD:main; git rev-parse HEAD"
        ),
    );
    lab.file.merge_target = Some(tip.parse().unwrap());
    tip
}

#[tokio::test]
async fn the_target_is_merged_only_into_a_clean_work_tree() {
    for clean in [true, false] {
        let Some(mut lab) = Lab::new("resume and merge") else {
            return;
        };
        let start = lab.file.start.to_string();
        let engine = "echo s > ../state/engine/session.jsonl; echo w > w.txt";
        if clean {
            let committed = lab.until("log -1 --format=%s refs/factory/checkpoint^", "w");
            let engine = format!("{engine}; git add .; git commit -qm w");
            killed_once(&mut lab, &engine, &committed).await;
        } else {
            killed_after(&mut lab, engine, "work/w.txt", "w").await;
        }
        let tip = target(&mut lab, "echo t > t.txt");
        lab.resume(&start, "cat; ls");
        assert_eq!(lab.run().await.code, 0);
        let events = lab.gateway.events();
        assert_eq!(events.contains("\nt.txt\n"), clean, "{events}");
        assert_eq!(
            events.contains(&format!("`git merge {tip}`")),
            !clean,
            "{events}"
        );
        assert!(events.ends_with("w.txt\n"), "{events}");
    }
}

#[tokio::test]
async fn a_merge_in_progress_is_in_progress_again() {
    let Some(mut lab) = Lab::new("resume a merge") else {
        return;
    };
    let start = sh(
        &lab.path("seed"),
        "printf 'one\\nours\\nthree\\n' > file.txt; git commit -qam ours
         git push -q ../git/origin HEAD:refs/factory/start; git rev-parse HEAD; git checkout -q HEAD~",
    );
    lab.file.start = start.parse().unwrap();
    let tip = target(
        &mut lab,
        "printf 'one\\ntheirs\\nthree\\n' > file.txt; echo t > t.txt",
    );
    sh(
        lab.dir.path(),
        "git -C workspace fetch -q ../git/origin main",
    );
    killed_after(
        &mut lab,
        "echo s > ../state/engine/session.jsonl",
        SAVED,
        "s",
    )
    .await;
    assert_eq!(
        lab.origin("log -1 --format=%P refs/factory/checkpoint"),
        format!("{start} {tip}")
    );
    // The markers of the old conflict are not handed in unsolved,
    lab.resume(&start, "cat; cat t.txt");
    assert_eq!(lab.run().await.code, 0);
    let events = lab.gateway.events();
    assert!(
        events.contains("conflicts in `file.txt`") && events.ends_with("t\n"),
        "{events}"
    );
    let problem = lab.gateway.end().push_problem.unwrap();
    assert!(problem.contains("conflict: `file.txt`"), "{problem}");
    // and once they are solved, it is a merge.
    lab.resume(&start, "printf 'one\\nboth\\nthree\\n' > file.txt");
    assert_eq!(lab.run().await.code, 0);
    assert_eq!(lab.gateway.end().push_problem, None);
    assert_eq!(
        lab.origin(&format!("log -1 --format=%P {BRANCH}")),
        format!("{start} {tip}")
    );
}

#[tokio::test]
async fn what_the_checkpoint_lacks_is_told() {
    let Some(mut lab) = Lab::new("lacks") else {
        return;
    };
    let start = lab.file.start.to_string();
    killed_after(
        &mut lab,
        "truncate -s 65M big.bin; echo w > w.txt",
        "work/w.txt",
        "w",
    )
    .await;
    lab.resume(&start, "cat; ls");
    // There was no session; this engine does not ask for one.
    match &mut lab.file.task {
        RunTask::Engine { engine, .. } => engine.resume_argv = None,
        RunTask::Checks { .. } => panic!(),
    }
    assert_eq!(lab.run().await.code, 0);
    let events = lab.gateway.events();
    assert!(
        events.contains("`big.bin`") && events.ends_with("file.txt\nw.txt\n"),
        "{events}"
    );
}

#[tokio::test]
async fn a_session_is_given_only_to_an_engine_that_goes_on_in_it() {
    let Some(mut lab) = Lab::new("session") else {
        return;
    };
    let start = lab.file.start.to_string();
    killed_after(
        &mut lab,
        "echo s > ../state/engine/session.jsonl",
        SAVED,
        "s",
    )
    .await;
    lab.resume(&start, "ls ../state/engine");
    match &mut lab.file.task {
        RunTask::Engine { engine, .. } => engine.resume_argv = Some(vec!["true".to_owned()]),
        RunTask::Checks { .. } => panic!(),
    }
    assert_eq!(lab.run().await.code, 0);
    assert_eq!(lab.gateway.end().exit, EngineExit::Code(0));
    assert_eq!(lab.gateway.events(), "");
}

#[tokio::test]
async fn a_checkpoint_without_the_session_it_is_to_continue_ends_the_run_with_its_reason() {
    let Some(mut lab) = Lab::new("no session") else {
        return;
    };
    let start = lab.file.start.to_string();
    killed_after(&mut lab, "echo w > w.txt", "work/w.txt", "w").await;
    lab.resume(&start, "echo never");
    assert_eq!(lab.run().await.code, 0);
    let EngineExit::NoWorkspace(reason) = lab.gateway.end().exit else {
        panic!("{:?}", lab.gateway.end())
    };
    assert!(
        reason.contains("the checkpoint holds no session session.jsonl"),
        "{reason}"
    );
    assert_eq!(lab.gateway.events(), "");
}

#[tokio::test]
async fn a_checkpoint_that_nobody_has_ends_the_run_with_its_reason() {
    let Some(mut lab) = Lab::new("no checkpoint") else {
        return;
    };
    let start = lab.file.start.to_string();
    killed_after(&mut lab, "echo w > w.txt", "work/w.txt", "w").await;
    lab.resume(&start, "echo never");
    lab.origin("update-ref -d refs/factory/resume");
    assert_eq!(lab.run().await.code, 0);
    let EngineExit::NoWorkspace(reason) = lab.gateway.end().exit else {
        panic!("{:?}", lab.gateway.end())
    };
    assert!(reason.contains("refs/factory/resume"), "{reason}");
}
