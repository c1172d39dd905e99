//! Undisturbed runs.

use crate::{GREETED, GREETER, subjects};
use factory_core::model::PrState;
use factory_tests::Lab;

/// From issue to merged commit, with a human at both gates.
fn loop_once(lab: &Lab) {
    lab.scripted(GREETER, GREETED);
    lab.approved("Greet people", "There should be a greeting.");
    lab.until_idle_ok();
    lab.assert_at_rest();
    let state = lab.state();
    let (number, pr) = state.prs.first_key_value().unwrap();
    assert_eq!(pr.state, PrState::Ready, "{pr:?}");
    assert!(pr.body.contains("It says hello now."), "{pr:?}");
    assert!(pr.checked.is_some());
    assert_eq!(
        lab.git(&["show", &format!("{}:greeting.txt", pr.branch)]),
        "hello"
    );

    lab.ok(&["pr", "merge", &number.to_string()]);
    lab.assert_at_rest();
    assert_eq!(lab.read("greeting.txt"), "hello\n");
    assert_eq!(lab.git(&["status", "--porcelain"]), "");
    assert_eq!(
        subjects(lab),
        format!("Merge pull request {number} from {}\nBegin", pr.branch)
    );
    let state = lab.state();
    assert!(state.prs.is_empty() && state.issues.is_empty() && state.jobs.is_empty());
}

#[test]
fn an_approved_issue_becomes_a_merged_commit() {
    loop_once(&Lab::new());
}

#[test]
fn the_same_for_an_ordinary_user() {
    if let Some(lab) = Lab::as_ordinary_user("the_same_for_an_ordinary_user") {
        loop_once(&lab);
    }
}
