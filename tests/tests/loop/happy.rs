//! Undisturbed runs.

use crate::{
    GREETED, GREETER,
    engine_restart::{GO, HELD, assert_merged},
    subjects,
};
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

#[test]
fn agents_and_checks_have_the_runtime_that_is_named() {
    let lab = Lab::new();
    // By another name than that of the engine's default, where it has one.
    let listed = lab.docker(&["info", "--format", "{{json .Runtimes}}"]);
    let mut names = ["io.containerd.runc.v2", "runc"].into_iter();
    let name = names.find(|name| listed.contains(&format!("\"{name}\"")));
    let name = name.unwrap();
    lab.write(
        "other.yaml",
        "engine: {command: [\"true\"]}\nruntime: no-such\n",
    );
    lab.scripted(
        HELD,
        &format!("{GREETED}runtime: {name}\ngates: {{merge: auto}}\n"),
    );
    let refused = lab.say(&["start", "--until-idle", "--config", "other.yaml"]);
    assert_eq!(refused.code, 6, "{}", refused.err);
    let what = "the container engine has no runtime `no-such`, only ";
    assert!(refused.err.contains(what), "{}", refused.err);
    assert!(refused.err.contains(name), "{}", refused.err);

    lab.approved("Greet people", "");
    let mut start = lab.start(&["--until-idle"], &[]);
    start.line("run r1-1: running");
    let container = lab.container();
    let has = lab.docker(&["inspect", "--format", "{{.HostConfig.Runtime}}", &container]);
    assert_eq!(has.trim(), name);
    lab.inside(GO);
    let ended = start.ended();
    assert_eq!(ended.code, 0, "{}", ended.text());
    assert_merged(&lab, 2);
}
