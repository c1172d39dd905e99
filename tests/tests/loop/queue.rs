//! The order of the work, as people change it.

use crate::subjects;
use factory_tests::{Lab, within_one_day};

/// Writes a file named by its branch, commits and pushes.
const WRITER: &str = r#"set -eu
cat >/dev/null
name=$(git rev-parse --abbrev-ref HEAD | tr / _)
echo done >"$name.txt"
git add --all
git commit -q -m "Write $name"
git push -q
"#;

#[test]
fn dependencies_and_holds_are_kept_and_the_rest_is_done() {
    let lab = Lab::new();
    lab.scripted(
        WRITER,
        "slots: 2\nchecks: [\"ls *.txt\"]\ngates: {merge: auto}\n",
    );
    lab.approved("Last", "");
    lab.approved("First", "");
    lab.approved("Held", "");
    lab.ok(&["issue", "depend", "1", "--on", "2"]);
    lab.ok(&["job", "hold", "3"]);
    // What a person holds back keeps nobody waiting for the end.
    lab.until_idle_ok();
    assert_eq!(
        subjects(&lab),
        "Merge pull request 2 from factory/1-last\nMerge pull request 1 from factory/2-first\nBegin"
    );
    let plan = lab.ok(&["plan"]);
    assert!(
        plan.contains("slots: 0/2") && plan.contains("held by "),
        "{plan}"
    );
    assert!(!plan.contains('?'), "the engine was seen: {plan}");
    lab.ok(&["job", "release", "3"]);
    lab.until_idle_ok();
    assert!(subjects(&lab).starts_with("Merge pull request 3 from factory/3-held\n"));
    // What is done need not be waited for.
    lab.approved("Next", "Depends-on: #2, #3");
    let said = lab.ok(&["issue", "depend", "4", "--on", "1"]);
    assert!(said.contains("#1 done already"), "{said}");
    lab.until_idle_ok();
    assert!(subjects(&lab).starts_with("Merge pull request 4 from factory/4-next\n"));
    lab.assert_at_rest();
}

#[test]
fn what_waits_for_a_given_up_issue_is_told_to_a_person() {
    let lab = Lab::new();
    lab.scripted(WRITER, "gates: {merge: auto}\n");
    lab.approved("First", "");
    lab.approved("Second", "Depends-on: #1");
    lab.ok(&["issue", "close", "1"]);
    let ended = lab.until_idle();
    assert_eq!(ended.code, 10, "{}", ended.text());
    let status = lab.ok(&["status"]);
    assert!(
        status.contains("factory issue depend 2 --off 1"),
        "{status}"
    );
    lab.ok(&["issue", "depend", "2", "--off", "1"]);
    let ended = lab.until_idle();
    assert!(lab.state().prs.len() == 1, "{}", ended.text());
    lab.assert_at_rest();
}

#[test]
fn what_touches_the_same_is_done_one_after_the_other_and_a_day_has_an_end() {
    within_one_day();
    let lab = Lab::new();
    lab.scripted(
        WRITER,
        "slots: 3\nchecks: [\"ls *.txt\"]\ngates: {merge: auto}\n\
         types: {worker: {max: 2, per_day: {pull_requests: 3}}}\n",
    );
    lab.approved("One", "Touches: src/auth");
    lab.approved("Two", "Touches: docs, src");
    lab.approved("Three", "");
    let said = lab.ok(&["plan"]);
    assert!(
        said.contains("waits for #1, which touches src too"),
        "{said}"
    );
    let mut start = lab.start(&[], &[]);
    start.until("all are done", |state| state.issues.is_empty());
    // The fourth waits for midnight, which is not waited for here.
    lab.approved("Four", "");
    let said = lab.ok(&["plan"]);
    assert!(
        said.contains("(types.worker.per_day.pull_requests)"),
        "{said}"
    );
    start.interrupt();
    assert_eq!(start.ended().code, 0);
    assert_eq!(subjects(&lab).matches("Merge pull request").count(), 3);
    let log = lab.ok(&["log", "-n", "1000"]);
    let at = |what: &str| log.find(what).unwrap_or_else(|| panic!("{what}: {log}"));
    assert!(
        at("issue 1 closed") < at("job 2: queued -> coding"),
        "{log}"
    );
    lab.assert_at_rest();
}
