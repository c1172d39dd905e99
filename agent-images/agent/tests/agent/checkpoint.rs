//! Checkpoints: what they hold, when they are made, what they never do.

use crate::lab::{BRANCH, Lab, sh};
use factory_core::inbox::EngineExit;

const REF: &str = "refs/factory/checkpoint";

/// A hook of the origin that takes no branch.
const CLOSED: &str = "printf '#!/bin/sh\\nread old new ref\\ncase $ref in refs/heads/*) exit 1;; esac\\n' \
                      > hooks/pre-receive; chmod +x hooks/pre-receive";

fn has_checkpoint(lab: &Lab) -> bool {
    !lab.origin(&format!("for-each-ref {REF}")).is_empty()
}

/// All files of the checkpoint, on one line.
fn files(lab: &Lab) -> String {
    lab.origin(&format!("ls-tree -r --name-only {REF}"))
        .replace('\n', " ")
}

#[tokio::test]
async fn a_checkpoint_holds_all_work_and_leaves_the_engines_repository_alone() {
    let Some(mut lab) = Lab::new("checkpoint") else {
        return;
    };
    let script = format!(
        "echo committed > 1.txt; git add .; git commit -qm one
         echo staged > 2.txt; git add 2.txt; echo more >> 2.txt
         echo '*.o' > .gitignore; touch x.o; mkdir dir; echo '#!/bin/sh' > 'dir/a b'; chmod +x 'dir/a b'
         git init -q nested; ln -s /nowhere link; rm file.txt; echo session > ../state/engine/session.jsonl
         before=$(git status --porcelain=v2 --branch); {}
         [ \"$before\" = \"$(git status --porcelain=v2 --branch)\" ] && echo unchanged; git log -1 --format=%H",
        lab.saved("session/session.jsonl", "session")
    );
    lab.engine(&script, None).checkpoints();
    assert_eq!(lab.run().await.code, 0);
    let events = lab.gateway.events();
    assert!(events.starts_with("unchanged\n"), "{events}");
    assert_eq!(
        files(&lab),
        "session/session.jsonl work/.gitignore work/1.txt work/2.txt work/dir/a b work/link"
    );
    let show = |path: &str| lab.origin(&format!("show {REF}:{path}"));
    assert_eq!(show("work/2.txt"), "staged\nmore");
    assert_eq!(show("session/session.jsonl"), "session");
    let modes = lab.origin(&format!("ls-tree -r {REF} 'work/dir/a b' work/link"));
    assert!(
        modes.contains("100755 blob") && modes.contains("120000 blob"),
        "{modes}"
    );
    assert_eq!(
        lab.origin(&format!("log -1 --format='%P %s' {REF}")),
        format!("{} checkpoint of r7-1", lab.gateway.end().last_output)
    );
}

#[tokio::test]
async fn what_did_not_change_is_not_saved_again() {
    let Some(mut lab) = Lab::new("unchanged") else {
        return;
    };
    // Each step changes what the one before did not: content of a file that
    // was changed already, a commit, the session.
    let counted = "git -C ../git/origin reflog show refs/factory/checkpoint | wc -l";
    let script = format!(
        "echo 1 > new.txt; {}; {counted}; sleep 3; {counted}
         echo 2 > new.txt; {}; git add .; git commit -qm new; {}; echo s > ../state/engine/session.jsonl; {}",
        lab.saved("work/new.txt", "1"),
        lab.saved("work/new.txt", "2"),
        lab.until("log -1 --format=%s refs/factory/checkpoint^", "new"),
        lab.saved("session/session.jsonl", "s")
    );
    sh(
        &lab.path("git/origin"),
        "git config core.logAllRefUpdates always",
    );
    lab.engine(&script, None).checkpoints();
    assert_eq!(lab.run().await.code, 0);
    assert_eq!(lab.gateway.events(), "1\n1\n");
}

#[tokio::test]
async fn where_nothing_was_done_nothing_is_saved() {
    for script in ["sleep 2.5", "sleep 2.5; exit 1"] {
        let Some(mut lab) = Lab::new("nothing to save") else {
            return;
        };
        lab.engine(script, None).checkpoints();
        assert_eq!(lab.run().await.code, 0);
        assert!(!has_checkpoint(&lab), "{script}");
    }
}

#[tokio::test]
async fn the_last_checkpoint_is_made_however_the_run_ends() {
    for (script, refuse, saved) in [
        ("echo w > w.txt; exit 1", false, true),
        ("echo w > w.txt", true, true),
        // For another round to go on in its session.
        ("echo w > w.txt", false, true),
    ] {
        let Some(mut lab) = Lab::new("last") else {
            return;
        };
        if refuse {
            sh(&lab.path("git/origin"), CLOSED);
        }
        lab.engine(script, None);
        assert_eq!(lab.run().await.code, 0);
        assert_eq!(lab.gateway.end().push_problem.is_some(), refuse);
        assert_eq!(has_checkpoint(&lab), saved, "{script}, {refuse}");
        if saved {
            assert_eq!(lab.origin(&format!("show {REF}:work/w.txt")), "w");
        }
    }
}

#[tokio::test]
async fn sigterm_saves_work_and_session_before_the_end() {
    let Some(mut lab) = Lab::new("sigterm checkpoint") else {
        return;
    };
    // What the engine writes on its way out is saved as well.
    lab.engine(
        "trap 'echo last > ../state/engine/session.jsonl; exit 143' TERM
         echo half > half.txt; echo running; while :; do sleep 0.05; done",
        None,
    );
    let started = lab.start();
    lab.gateway.event("running").await;
    started.terminate();
    assert_eq!(started.done().await.code, 0);
    assert_eq!(lab.gateway.end().exit, EngineExit::Stopped);
    assert_eq!(
        files(&lab),
        "session/session.jsonl work/file.txt work/half.txt"
    );
    assert_eq!(
        lab.origin(&format!("show {REF}:session/session.jsonl")),
        "last"
    );
}

#[tokio::test]
async fn what_is_too_large_is_left_out_and_named() {
    let Some(mut lab) = Lab::new("too large") else {
        return;
    };
    // Of three files that do not fit together the largest goes.
    lab.engine(
        "truncate -s 17M ../state/engine/session.jsonl; echo small > small.txt
         truncate -s 33M one.bin; truncate -s 32M two.bin; truncate -s 65M file.txt; exit 1",
        None,
    );
    let done = lab.run().await;
    assert_eq!(done.code, 0);
    assert_eq!(files(&lab), "work/file.txt work/small.txt work/two.bin");
    // A file of the start that grew too large is as it was.
    assert_eq!(
        lab.origin(&format!("show {REF}:work/file.txt")),
        "one\ntwo\nthree"
    );
    let message = lab.origin(&format!("log -1 --format=%b {REF}"));
    assert_eq!(message, "Left out: `file.txt`, `one.bin`");
    assert!(
        done.log.contains("left out: `file.txt`, `one.bin`")
            && done.log.contains("longer than 16 MiB"),
        "{}",
        done.log
    );
}

#[tokio::test]
async fn a_session_that_grew_too_long_keeps_its_earlier_form() {
    let Some(mut lab) = Lab::new("long session") else {
        return;
    };
    let script = format!(
        "echo early > ../state/engine/session.jsonl; {}
         truncate -s 17M ../state/engine/session.jsonl; echo w > w.txt; {}",
        lab.saved("session/session.jsonl", "early"),
        lab.saved("work/w.txt", "w")
    );
    lab.engine(&script, None).checkpoints();
    assert_eq!(lab.run().await.code, 0);
    assert_eq!(
        lab.origin(&format!("show {REF}:session/session.jsonl")),
        "early"
    );
}

#[tokio::test]
async fn within_a_rebase_the_branch_is_saved() {
    let Some(mut lab) = Lab::new("rebase checkpoint") else {
        return;
    };
    lab.engine(
        "echo a > a.txt; git add .; git commit -qm a; echo b > b.txt; git add .; git commit -qm b
         GIT_SEQUENCE_EDITOR='sed -i 1s/pick/edit/' git rebase -q -i origin/main
         git commit -q --amend -m amended; exit 1",
        None,
    );
    assert_eq!(lab.run().await.code, 0);
    assert_eq!(files(&lab), "work/a.txt work/b.txt work/file.txt");
    assert_eq!(lab.origin(&format!("log -1 --format=%s {REF}^")), "b");
}

#[tokio::test]
async fn work_on_the_branch_is_saved_while_head_is_elsewhere() {
    let Some(mut lab) = Lab::new("elsewhere checkpoint") else {
        return;
    };
    lab.engine(
        "echo a > a.txt; git add .; git commit -qm a; git checkout -q origin/main; exit 1",
        None,
    );
    assert_eq!(lab.run().await.code, 0);
    assert_eq!(files(&lab), "work/a.txt work/file.txt");

    // History that does not contain the start is none of this run's.
    let Some(mut lab) = Lab::new("astray") else {
        return;
    };
    lab.engine(
        "git checkout -q --orphan other; git commit -qm other; git branch -qM factory/7-fix; exit 1",
        None,
    );
    let done = lab.run().await;
    assert_eq!(done.code, 0);
    assert!(!has_checkpoint(&lab));
    assert!(done.log.contains("no checkpoint: neither"), "{}", done.log);
}

#[tokio::test]
async fn a_refused_checkpoint_is_tried_again_and_costs_the_run_nothing() {
    let Some(mut lab) = Lab::new("refused checkpoint") else {
        return;
    };
    sh(
        &lab.path("git/origin"),
        "printf '#!/bin/sh\\nread old new ref\\ncase $ref in */checkpoint)\\n
         [ -e ../../once ] || { touch ../../once; echo not now >&2; exit 1; };; esac\\n' > hooks/pre-receive
         chmod +x hooks/pre-receive",
    );
    let script = format!(
        "echo w > w.txt; {}; echo done",
        lab.saved("work/w.txt", "w")
    );
    lab.engine(&script, None).checkpoints();
    let done = lab.run().await;
    assert_eq!(done.code, 0);
    assert_eq!(lab.gateway.end().last_output, "done");
    assert!(
        done.log.contains("no checkpoint:") && done.log.contains("not now"),
        "{}",
        done.log
    );
    assert_eq!(lab.origin(&format!("show {REF}:work/w.txt")), "w");
    assert_eq!(lab.origin(&format!("show {BRANCH}:w.txt")), "w");
}
