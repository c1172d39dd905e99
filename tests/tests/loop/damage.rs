//! The state is deleted, truncated or set back by hand, under a run that lives;
//! and everything is killed at once.

use crate::{
    GREETED,
    engine_restart::{GO, HELD, assert_merged},
};
use factory_tests::Lab;

/// What somebody does to `refs/state`.
type Damage = fn(&Lab);

const DAMAGES: [Damage; 3] = [
    |lab| std::fs::remove_file(lab.below("state.git/refs/state")).unwrap(),
    |lab| std::fs::write(lab.below("state.git/refs/state"), "").unwrap(),
    |lab| {
        // To where nothing was approved yet.
        let log = ["log", "--format=%H", "--reverse", "refs/state"];
        let steps = lab.looked(&lab.below("state.git"), &log);
        let filed = steps.lines().nth(1).unwrap();
        lab.looked(
            &lab.below("state.git"),
            &["update-ref", "refs/state", filed],
        );
    },
];

fn held() -> Lab {
    let lab = Lab::new();
    lab.scripted(HELD, &format!("{GREETED}gates: {{merge: auto}}\n"));
    lab.approved("Greet people", "");
    lab
}

/// What is at `refs/state` as a file.
fn state_ref(lab: &Lab) -> Option<String> {
    std::fs::read_to_string(lab.below("state.git/refs/state")).ok()
}

/// Every command says what is wrong, and changes nothing; then it is restored.
fn restored(lab: &Lab) {
    let before = state_ref(lab);
    for command in [&["start"][..], &["status"], &["issue", "list"]] {
        let said = lab.say(command);
        assert_eq!(said.code, 1, "{command:?}");
        for part in ["factory state verify", "factory state restore"] {
            assert!(said.err.contains(part), "{command:?}: {}", said.err);
        }
    }
    assert_eq!(lab.say(&["state", "verify"]).code, 1);
    assert_eq!(state_ref(lab), before, "nothing was written over it");
    lab.ok(&["state", "restore"]);
}

fn damaged_while_stopped(damage: Damage) {
    let lab = held();
    let mut start = lab.start(&["--until-idle"], &[]);
    start.line("run r1-1: running");
    start.kill_all();
    damage(&lab);
    restored(&lab);
    let mut start = lab.start(&["--until-idle"], &[]);
    start.line("adopted r1-1");
    let status = lab.ok(&["status"]);
    assert!(status.contains(", adopted"), "{status}");
    lab.inside(GO);
    let ended = start.ended();
    assert_eq!(ended.code, 0, "{}", ended.text());
    assert_merged(&lab, 2);
}

#[test]
fn a_state_that_is_deleted_between_two_kernels_is_restored() {
    damaged_while_stopped(DAMAGES[0]);
}

#[test]
fn a_state_that_is_truncated_between_two_kernels_is_restored() {
    damaged_while_stopped(DAMAGES[1]);
}

#[test]
fn a_state_that_is_set_back_between_two_kernels_is_restored() {
    damaged_while_stopped(DAMAGES[2]);
}

fn damaged_while_it_runs(damage: Damage, said: &str) {
    let lab = held();
    let mut start = lab.start(&["--until-idle"], &[]);
    start.line("run r1-1: running");
    let container = lab.container();
    damage(&lab);
    let before = state_ref(&lab);
    // Its push wakes the kernel.
    lab.docker(&["exec", &container, "sh", "-c", GO]);
    let ended = start.ended();
    assert_eq!(ended.code, 1, "{}", ended.text());
    for part in [said, "factory state verify", "factory state restore"] {
        assert!(ended.text().contains(part), "{part}: {}", ended.text());
    }
    assert_eq!(state_ref(&lab), before, "nothing was written over it");
    restored(&lab);
    let ended = lab.until_idle_ok();
    assert!(!ended.text().contains("r1-1 killed"), "{}", ended.text());
    assert_merged(&lab, 2);
}

#[test]
fn a_state_that_is_deleted_under_a_kernel_ends_it() {
    damaged_while_it_runs(DAMAGES[0], "is gone");
}

#[test]
fn a_state_that_is_truncated_under_a_kernel_ends_it() {
    damaged_while_it_runs(DAMAGES[1], "cannot read refs/state");
}

#[test]
fn a_state_that_is_set_back_under_a_kernel_ends_it() {
    damaged_while_it_runs(DAMAGES[2], "was set back or rewritten");
}

#[test]
fn everything_killed_at_once_comes_to_the_same_end() {
    let lab = held();
    let mut start = lab.start(&["--until-idle"], &[]);
    start.line("run r1-1: saved its work in progress");
    let container = lab.container();
    start.kill_all();
    lab.docker(&["kill", &container]);
    let mut start = lab.start(&["--until-idle"], &[]);
    start.line("run r1-2: running");
    let status = lab.ok(&["status"]);
    for told in ["resumes r1-1", "try 2", "(r1-1: killed: "] {
        assert!(status.contains(told), "{told}: {status}");
    }
    lab.inside(GO);
    let ended = start.ended();
    assert_eq!(ended.code, 0, "{}", ended.text());
    assert_merged(&lab, 3);
    assert_eq!(lab.git(&["show", "main:found.txt"]), "found");
}
