//! Leftovers, merges, refused pushes and reports.

use crate::lab::{BRANCH, Lab, SUBJECT, sh};
use factory_core::inbox::EngineExit;

/// A hook of the origin that refuses until the tip's subject is `fixed`.
const PICKY: &str = r#"cat > hooks/pre-receive <<'X'
#!/bin/sh
read old new ref
case "$(git log -1 --format=%s $new)" in fixed) ;; *) echo "rule 7: the subject must be fixed" >&2; exit 1;; esac
X
chmod +x hooks/pre-receive"#;

#[tokio::test]
async fn leftovers_are_committed_and_pushed_wherever_head_is() {
    let Some(mut lab) = Lab::new("leftovers") else {
        return;
    };
    // Hooks and settings of the engine do not stop the agent.
    lab.engine(
        "git checkout -qb elsewhere; git config commit.gpgSign true; git config gpg.program false
         printf '#!/bin/sh\\nexit 1\\n' > .git/hooks/pre-commit; chmod +x .git/hooks/pre-commit
         echo new > new.txt; rm file.txt",
        None,
    );
    assert_eq!(lab.run().await.code, 0);
    assert_eq!(lab.gateway.end().push_problem, None);
    assert_eq!(
        lab.origin(&format!("log -1 --format='%s %an' {BRANCH}")),
        format!("{SUBJECT} agent")
    );
    assert_eq!(
        lab.origin(&format!("ls-tree --name-only {BRANCH}")),
        "new.txt"
    );
}

#[tokio::test]
async fn work_on_the_branch_is_pushed_when_head_went_elsewhere() {
    let Some(mut lab) = Lab::new("head elsewhere") else {
        return;
    };
    lab.engine(
        "echo w > w.txt; git add .; git commit -qm work; git checkout -q origin/main",
        None,
    );
    assert_eq!(lab.run().await.code, 0);
    assert_eq!(lab.gateway.end().push_problem, None);
    assert_eq!(lab.origin(&format!("log -1 --format=%s {BRANCH}")), "work");

    let Some(mut lab) = Lab::new("two heads") else {
        return;
    };
    lab.engine(
        "echo w > w.txt; git add .; git commit -qm work; git checkout -q origin/main; echo left > left.txt",
        None,
    );
    assert_eq!(lab.run().await.code, 0);
    let problem = lab.gateway.end().push_problem.unwrap();
    assert!(problem.contains("have both moved on"), "{problem}");
}

#[tokio::test]
async fn half_a_rebase_is_not_handed_in() {
    let Some(mut lab) = Lab::new("rebase") else {
        return;
    };
    lab.engine(
        "echo a > a.txt; git add .; git commit -qm a; echo b > b.txt; git add .; git commit -qm b
         GIT_SEQUENCE_EDITOR='sed -i 1s/pick/edit/' git rebase -q -i origin/main",
        Some("cat; git rebase --continue"),
    );
    assert_eq!(lab.run().await.code, 0);
    assert!(
        lab.gateway.events().contains("A rebase is in progress"),
        "{}",
        lab.gateway.events()
    );
    assert_eq!(lab.gateway.end().push_problem, None);
    assert_eq!(lab.origin(&format!("rev-list --count {BRANCH}")), "3");
}

#[tokio::test]
async fn an_engine_that_does_nothing_pushes_nothing() {
    let Some(mut lab) = Lab::new("nothing") else {
        return;
    };
    lab.engine("echo thought about it", None);
    assert_eq!(lab.run().await.code, 0);
    assert_eq!(lab.gateway.end().push_problem, None);
    assert_eq!(
        lab.origin("for-each-ref --format='%(refname)' refs/heads"),
        "refs/heads/main"
    );
}

#[tokio::test]
async fn a_refused_push_goes_back_to_the_engine() {
    let Some(mut lab) = Lab::new("refused push") else {
        return;
    };
    sh(&lab.path("git/origin"), PICKY);
    lab.engine(
        "echo work > work.txt",
        Some("cat; git commit -q --amend -m fixed; echo mended"),
    );
    let done = lab.run().await;
    assert_eq!(done.code, 0);
    let end = lab.gateway.end();
    assert_eq!((end.exit, end.push_problem), (EngineExit::Code(0), None));
    assert_eq!(end.last_output, "mended");
    assert!(
        lab.gateway
            .events()
            .contains("rule 7: the subject must be fixed"),
        "{}",
        lab.gateway.events()
    );
    assert_eq!(lab.origin(&format!("log -1 --format=%s {BRANCH}")), "fixed");
    assert_eq!(done.log.matches("follow-up").count(), 1);
}

#[tokio::test]
async fn three_follow_ups_are_enough() {
    let Some(mut lab) = Lab::new("always refused") else {
        return;
    };
    sh(&lab.path("git/origin"), PICKY);
    lab.engine("echo work > work.txt", Some("echo again; cat > /dev/null"));
    assert_eq!(lab.run().await.code, 0);
    assert_eq!(lab.gateway.events(), "again\n".repeat(3));
    let problem = lab.gateway.end().push_problem.unwrap();
    assert!(problem.contains("rule 7"), "{problem}");
}

#[tokio::test]
async fn an_engine_that_cannot_resume_or_failed_is_not_asked_again() {
    for (exit, resume) in [(0, None), (1, Some("echo asked again"))] {
        let Some(mut lab) = Lab::new("no resume") else {
            return;
        };
        sh(&lab.path("git/origin"), PICKY);
        lab.engine(&format!("echo work > work.txt; exit {exit}"), resume);
        assert_eq!(lab.run().await.code, 0);
        let end = lab.gateway.end();
        assert_eq!(end.exit, EngineExit::Code(exit));
        assert!(end.push_problem.unwrap().contains("rule 7"));
        assert_eq!(lab.gateway.events(), "");
    }
}

#[tokio::test]
async fn a_malformed_report_goes_back_to_the_engine() {
    let Some(mut lab) = Lab::new("report") else {
        return;
    };
    lab.gateway.seen.lock().unwrap().report_needs = Some("summary");
    lab.engine(
        "echo '{}' > $FACTORY_OUT/report.json",
        Some("cat; echo '{\"summary\": 1}' > $FACTORY_OUT/report.json"),
    );
    assert_eq!(lab.run().await.code, 0);
    assert_eq!(lab.gateway.end().report_problem, None);
    assert!(
        lab.gateway.events().contains("the report lacks a summary"),
        "{}",
        lab.gateway.events()
    );
    assert_eq!(
        lab.gateway.seen.lock().unwrap().reports,
        ["{}\n", "{\"summary\": 1}\n"]
    );
}

#[tokio::test]
async fn a_report_that_stays_malformed_is_told_at_the_end() {
    let Some(mut lab) = Lab::new("bad report") else {
        return;
    };
    lab.gateway.seen.lock().unwrap().report_needs = Some("summary");
    lab.engine("echo '{}' > $FACTORY_OUT/report.json", Some("echo again"));
    assert_eq!(lab.run().await.code, 0);
    assert_eq!(
        lab.gateway.end().report_problem.unwrap(),
        "the report lacks a summary"
    );
    assert_eq!(lab.gateway.events(), "again\n".repeat(3));
}

#[tokio::test]
async fn only_a_plain_small_file_is_a_report() {
    for (make, complaint) in [
        ("ln -s /etc/passwd", "not a plain file"),
        ("mkfifo", "not a plain file"),
        ("mkdir", "not a plain file"),
        ("head -c 70000 /dev/zero >", "longer than 64 KiB"),
    ] {
        let Some(mut lab) = Lab::new("odd report") else {
            return;
        };
        lab.engine(&format!("{make} $FACTORY_OUT/report.json"), None);
        assert_eq!(lab.run().await.code, 0, "{make}");
        let problem = lab.gateway.end().report_problem.unwrap();
        assert!(problem.contains(complaint), "{make}: {problem}");
        assert!(lab.gateway.seen.lock().unwrap().reports.is_empty());
    }
}

/// The target moved on: beside the start's change, or into its way.
fn target(lab: &mut Lab, change: &str) {
    let (start, target) = (
        "printf 'one\\nours\\nthree\\n' > file.txt; git commit -qam ours",
        format!("git checkout -q HEAD~; {change}; git add -A; git commit -qm theirs"),
    );
    let ids = sh(
        &lab.path("seed"),
        &format!(
            "{start}; git push -q ../git/origin HEAD:refs/factory/start; git rev-parse HEAD
             {target}; git push -q ../git/origin HEAD:main; git rev-parse HEAD
             git -C ../workspace fetch -q ../git/origin main"
        ),
    );
    let (start, target) = ids.split_once('\n').unwrap();
    lab.file.start = start.parse().unwrap();
    lab.file.merge_target = Some(target.parse().unwrap());
}

#[tokio::test]
async fn the_target_is_merged_before_the_engine_starts() {
    let Some(mut lab) = Lab::new("merge") else {
        return;
    };
    target(&mut lab, "echo theirs > other.txt");
    lab.engine("cat; cat file.txt other.txt; git status --porcelain", None);
    assert_eq!(lab.run().await.code, 0);
    assert_eq!(
        lab.gateway.events(),
        "# The task\nDo it.\none\nours\nthree\ntheirs\n"
    );
    // The merge is work of its own and is handed in.
    assert_eq!(
        lab.origin(&format!("show -s --format=%P {BRANCH}"))
            .split(' ')
            .count(),
        2
    );
}

#[tokio::test]
async fn a_conflicting_merge_is_finished_by_the_engine() {
    for (solve, subject) in [
        (
            "printf 'one\\nboth\\nthree\\n' > file.txt; git add file.txt; git commit -qm solved",
            "solved",
        ),
        // Solved, but neither added nor committed.
        ("printf 'one\\nboth\\nthree\\n' > file.txt", "Merge commit"),
    ] {
        let Some(mut lab) = Lab::new("conflict") else {
            return;
        };
        target(&mut lab, "printf 'one\\ntheirs\\nthree\\n' > file.txt");
        lab.engine(&format!("cat; {solve}"), None);
        assert_eq!(lab.run().await.code, 0);
        let events = lab.gateway.events();
        assert!(
            events.starts_with("# The task") && events.contains("conflicts in `file.txt`"),
            "{events}"
        );
        assert_eq!(lab.gateway.end().push_problem, None);
        let pushed = lab.origin(&format!("log -1 --format='%s %P' {BRANCH}"));
        assert!(pushed.starts_with(subject), "{pushed}");
        assert_eq!(
            lab.origin(&format!("show {BRANCH}:file.txt")),
            "one\nboth\nthree"
        );
        assert!(
            lab.origin(&format!("show -s --format=%P {BRANCH}"))
                .contains(' '),
            "no merge"
        );
    }
}

#[tokio::test]
async fn conflict_markers_are_never_pushed() {
    for leave in [
        "true",
        "git add -A",
        "git add -A; git commit -qm 'markers and all'",
    ] {
        let Some(mut lab) = Lab::new("markers") else {
            return;
        };
        target(&mut lab, "printf 'one\\ntheirs\\nthree\\n' > file.txt");
        lab.engine(leave, None);
        assert_eq!(lab.run().await.code, 0);
        let problem = lab.gateway.end().push_problem.expect(leave);
        assert!(problem.contains("conflict: `file.txt`"), "{problem}");
        assert_eq!(
            lab.origin("for-each-ref --format='%(refname)' refs/heads"),
            "refs/heads/main"
        );
    }
}

#[tokio::test]
async fn a_file_removed_on_one_side_is_decided_by_the_engine() {
    let Some(mut lab) = Lab::new("removed") else {
        return;
    };
    target(&mut lab, "rm file.txt");
    lab.engine(
        "cat > /dev/null",
        Some("cat; git rm -q file.txt; git commit -qm 'without it'"),
    );
    assert_eq!(lab.run().await.code, 0);
    assert!(
        lab.gateway.events().contains("conflict: `file.txt`"),
        "{}",
        lab.gateway.events()
    );
    assert_eq!(lab.gateway.end().push_problem, None);
    assert_eq!(
        lab.origin(&format!("log -1 --format=%s {BRANCH}")),
        "without it"
    );
}
