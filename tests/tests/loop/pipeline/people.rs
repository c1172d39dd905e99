//! People who step in while the factory works.

use super::{APPROVES, HELLO, SAYS_HELLO, cast, purposes};
use crate::{comments, subjects};
use factory_core::model::{PrState, RunState, Stage};
use factory_tests::Lab;

/// Says hello once it is let.
fn waits(script: &str) -> String {
    format!("{script}until [ -e /tmp/go ]; do sleep 0.1; done\n")
}

fn running(lab: &Lab, role: &str) -> String {
    let state = lab.state();
    let mut runs = state.runs.values();
    let run = runs.find(|run| run.grant.role.as_str() == role).unwrap();
    run.container.clone()
}

fn go(lab: &Lab, role: &str) {
    let container = running(lab, role);
    lab.docker(&["exec", &container, "touch", "/tmp/go"]);
}

fn is_running(state: &factory_core::state::State, role: &str) -> bool {
    let mut runs = state.runs.values();
    runs.any(|run| run.grant.role.as_str() == role && matches!(run.state, RunState::Running { .. }))
}

#[test]
fn a_plan_waits_for_a_person_with_nothing_running_and_goes_on_when_it_is_approved() {
    let plan = r#"cat >/dev/null
echo '{"summary": "One file.", "steps": ["Write it."]}' >/factory/out/report.json
"#;
    let config = format!(
        "{HELLO}gates: {{plan: human}}\ntiers: {{low: {{plan: true}}, medium: {{plan: true}}}}\n"
    );
    let lab = cast(SAYS_HELLO, &[("plan", plan), ("review", APPROVES)], &config);
    lab.approved("Greet people", "");
    let mut start = lab.start(&[], &[]);
    start.until("the plan waits, its run collected", |state| {
        let job = state.jobs.values().next();
        state.runs.is_empty() && job.is_some_and(|job| *job.stage() == Stage::PlanReady)
    });
    lab.assert_no_run();
    let shown = lab.ok(&["issue", "show", "1"]);
    assert!(
        shown.contains("its plan waits for your approval"),
        "{shown}"
    );
    lab.ok(&["issue", "approve", "1"]);
    start.until("the pull request waits, its runs collected", |state| {
        let pr = state.prs.values().next();
        state.runs.is_empty() && pr.is_some_and(|pr| pr.state == PrState::Ready)
    });
    lab.assert_no_run();
    lab.ok(&["pr", "merge", "1"]);
    start.interrupt();
    assert_eq!(start.ended().code, 0);
    lab.assert_at_rest();
    assert_eq!(lab.read("greeting.txt"), "hello\n");
}

#[test]
fn a_person_who_pushes_in_the_middle_is_gone_on_from() {
    // The second run writes over what the person has pushed meanwhile.
    let coder = r#"set -eu
cat >/tmp/brief
if [ -e greeting.txt ]; then
  until [ -e /tmp/go ]; do sleep 0.1; done
  echo "hello from the agent" >greeting.txt
else echo hello >greeting.txt; fi
git add -A; git commit -qm "Say hello"; git push -q
"#;
    let lab = cast(coder, &[("review", APPROVES)], HELLO);
    lab.approved("Greet people", "");
    lab.until_idle_ok();
    let branch = lab.state().prs.values().next().unwrap().branch.clone();
    lab.ok(&["pr", "review", "1", "--request-changes", "Say who says it."]);
    let mut start = lab.start(&["--until-idle"], &[]);
    start.until("the second run", |state| is_running(state, "code"));
    lab.git(&["switch", "-q", &branch]);
    lab.write("greeting.txt", "hello from a person\n");
    lab.commit("Greet in person");
    lab.git(&["switch", "-q", "main"]);
    go(&lab, "code");
    let ended = start.ended();
    assert_eq!(ended.code, 0, "{}", ended.text());
    lab.assert_at_rest();
    assert_eq!(
        lab.git(&["show", &format!("{branch}:greeting.txt")]),
        "hello from a person"
    );
    let told = comments(&lab);
    assert!(told.contains("Somebody moved the branch"), "{told}");
    let state = lab.state();
    let pr = state.prs.values().next().unwrap();
    assert_eq!(pr.head.to_string(), lab.git(&["rev-parse", &branch]));
    assert_eq!(
        pr.review.as_ref().unwrap().commit,
        pr.head,
        "reviewed as well"
    );
    lab.ok(&["pr", "merge", "1"]);
    assert_eq!(lab.read("greeting.txt"), "hello from a person\n");
}

#[test]
fn an_issue_that_is_edited_in_the_middle_is_begun_anew() {
    let coder = r#"set -eu
cat >/tmp/brief
if grep -q 'Say goodbye' /tmp/brief; then echo hello and goodbye >greeting.txt
else until [ -e /tmp/go ]; do sleep 0.1; done; fi
git add -A; git commit -qm "Say it"; git push -q
"#;
    let lab = cast(coder, &[("review", APPROVES)], HELLO);
    lab.approved("Greet people", "Say hello.");
    let mut start = lab.start(&["--until-idle"], &[]);
    start.until("its run is running", |state| is_running(state, "code"));
    lab.ok(&["issue", "edit", "1", "--body", "Say goodbye too."]);
    let ended = start.ended();
    assert_eq!(ended.code, 0, "{}", ended.text());
    lab.assert_at_rest();
    assert_eq!(purposes(&lab, 1), ["code", "code", "check", "review"]);
    let branch = lab.state().prs.values().next().unwrap().branch.clone();
    assert_eq!(
        lab.git(&["show", &format!("{branch}:greeting.txt")]),
        "hello and goodbye"
    );
}

#[test]
fn an_issue_that_is_closed_during_its_review_leaves_nothing_behind() {
    let lab = cast(SAYS_HELLO, &[("review", &waits(APPROVES))], HELLO);
    lab.approved("Greet people", "");
    let mut start = lab.start(&["--until-idle"], &[]);
    start.until("its review is running", |state| is_running(state, "review"));
    lab.ok(&["issue", "close", "1"]);
    let ended = start.ended();
    assert_eq!(ended.code, 0, "{}", ended.text());
    lab.assert_at_rest();
    let state = lab.state();
    assert!(state.issues.is_empty() && state.jobs.is_empty() && state.prs.is_empty());
    assert_eq!(subjects(&lab), "Begin");
}

#[test]
fn orders_in_comments_are_carried_out_and_answered() {
    let lab = cast(SAYS_HELLO, &[("review", APPROVES)], HELLO);
    lab.ok(&["issue", "new", "--title", "Greet people"]);
    let order = |text: &str| lab.ok(&["issue", "comment", "1", "--body", text]);
    order("/factory approve");
    order("/factory hold");
    lab.until_idle_ok();
    assert_eq!(purposes(&lab, 1), [""; 0], "it is held");
    order("/factory release");
    order("/factory dance");
    lab.until_idle_ok();
    order("/factory explain");
    order("/factory merge");
    lab.until_idle_ok();
    lab.assert_at_rest();
    assert_eq!(lab.read("greeting.txt"), "hello\n");
    let told = comments(&lab);
    assert!(told.contains("orders are retry, hold"), "{told}");
    assert!(told.contains("with confidence 0.95"), "explained: {told}");
}
