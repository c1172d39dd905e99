//! While no kernel lives: it prepares, it died and another one comes, or it hangs.

use crate::{GREETED, GREETER};
use factory_core::model::{PrState, RunState};
use factory_tests::{Lab, Start};
use rustix::process::Signal;
use std::{
    io::{BufRead, BufReader},
    os::unix::net::UnixListener,
    process::{Child, Stdio},
};

/// Works until it is told to stop.
const ENDLESS: &str = "cat >/dev/null\necho begun >begun.txt\necho begun\nexec sleep 1000\n";

/// A command that is under way, and has said this; what else it says has to be kept open.
fn has_said(lab: &Lab, args: &[&str], text: &str) -> (Child, impl Iterator) {
    let mut child = lab
        .factory()
        .args(args)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    lines
        .find(|line| line.as_ref().unwrap().contains(text))
        .unwrap()
        .unwrap();
    (child, lines)
}

fn works(start: &mut Start<'_>) {
    start.until("its run is running", |state| {
        let mut runs = state.runs.values();
        runs.any(|run| matches!(run.state, RunState::Running { .. }))
    });
}

/// The kernel is dead, and its launcher cannot start another one yet.
fn loses_its_kernel(start: &Start<'_>) {
    start.signal("start", Signal::STOP);
    start.kill("kernel");
}

#[test]
fn a_stop_between_two_kernels_reaches_the_next() {
    let lab = Lab::new();
    lab.scripted(ENDLESS, "");
    lab.approved("Greet people", "");
    let mut start = lab.start(&["--until-idle"], &[]);
    works(&mut start);
    loses_its_kernel(&start);
    let (mut stop, _said) = has_said(&lab, &["stop", "--now"], "just starting");
    start.signal("start", Signal::CONT);
    assert!(stop.wait().unwrap().success());
    let ended = start.ended();
    assert_eq!(ended.code, 130, "{}", ended.text());
    assert!(ended.text().contains("epoch 2"), "{}", ended.text());
    assert!(
        lab.state()
            .jobs
            .values()
            .all(|job| job.losses + job.breaks == 0)
    );
    lab.assert_at_rest();
}

#[test]
fn who_was_told_to_end_says_so_to_the_kernels_that_follow() {
    let lab = Lab::new();
    lab.scripted(ENDLESS, "");
    lab.approved("Greet people", "");
    let mut start = lab.start(&["--until-idle"], &[]);
    works(&mut start);
    start.interrupt();
    start.line("draining");
    let (mut stop, _said) = has_said(&lab, &["stop"], "waiting for the agents to finish");
    for epoch in ["epoch 2", "epoch 3"] {
        start.kill("kernel");
        start.line(epoch);
    }
    start.line("kernel:draining");
    assert!(
        stop.try_wait().unwrap().is_none(),
        "it said that all had stopped"
    );
    lab.ok(&["stop", "--now"]);
    assert!(stop.wait().unwrap().success());
    assert_eq!(start.ended().code, 130);
    lab.assert_at_rest();
}

#[test]
fn a_merge_between_two_kernels_is_the_next_ones() {
    let lab = Lab::new();
    lab.scripted(GREETER, GREETED);
    lab.approved("Greet people", "");
    let mut start = lab.start(&[], &[]);
    start.until("the pull request waits", |state| {
        let mut prs = state.prs.values();
        state.runs.is_empty() && prs.any(|pr| pr.state == PrState::Ready)
    });
    loses_its_kernel(&start);
    let (mut merge, _said) = has_said(&lab, &["pr", "merge", "1"], "waits for its turn");
    start.signal("start", Signal::CONT);
    assert!(merge.wait().unwrap().success());
    assert!(start.line("pr 1: merged into main").contains("closed"));
    // It goes on.
    lab.approved("Greet them again", "");
    start.until("the next one is done", |state| {
        state.runs.is_empty() && state.issues.values().any(|issue| issue.runs > 0)
    });
    start.interrupt();
    assert_eq!(start.ended().code, 0);
    lab.assert_at_rest();
}

#[test]
fn a_start_that_only_prepares_is_seen_and_can_be_stopped() {
    let lab = Lab::new();
    lab.scripted(GREETER, GREETED);
    // An engine that never answers.
    let socket = lab.home_dir().join("engine.sock");
    let engine = UnixListener::bind(&socket).unwrap();
    let host = format!("unix://{}", socket.display());
    let start = lab.begin(&[], &[("DOCKER_HOST", &host)]);
    let _asked = engine.accept().unwrap();
    let second = lab.say(&["start"]);
    assert_eq!(second.code, 9, "{second:?}");
    let stopped = lab.ok(&["stop"]);
    assert!(stopped.contains("the factory has stopped"), "{stopped}");
    let ended = start.ended();
    assert_eq!(ended.code, 130, "{}", ended.text());
    assert!(lab.ok(&["stop"]).contains("does not run here"));
}

#[test]
fn a_kernel_that_dies_beside_a_wrong_configuration_is_followed_by_another() {
    let lab = Lab::new();
    lab.scripted(ENDLESS, "");
    lab.approved("Greet people", "");
    let mut start = lab.start(&[], &[]);
    works(&mut start);
    lab.write("factory.yaml", "slotz: 3\n");
    lab.commit("Break it");
    start.kill("kernel");
    start.line("adopted r1-1");
    start.line("configuration: the one before stays in force");
    lab.git(&["rm", "--quiet", "factory.yaml"]);
    lab.commit("Drop it");
    lab.ok(&["issue", "comment", "1", "--body", "gone"]);
    start.line("factory.yaml is gone");
    lab.ok(&["stop", "--now"]);
    assert_eq!(start.ended().code, 130);
    lab.assert_at_rest();
}

#[test]
fn an_emergency_stop_does_not_wait_for_a_kernel_that_hangs() {
    let lab = Lab::new();
    lab.scripted(ENDLESS, "");
    lab.approved("Greet people", "");
    let mut start = lab.start(&["--until-idle"], &[]);
    works(&mut start);
    let container = lab.container();
    start.signal("kernel", Signal::STOP);
    lab.ok(&["stop", "--all-agents"]);
    let status = lab.docker(&["inspect", "--format", "{{.State.Status}}", &container]);
    assert_eq!(status.trim(), "exited");
    start.signal("kernel", Signal::CONT);
    let ended = start.ended();
    assert_eq!(ended.code, 10, "{}", ended.text());
    lab.assert_no_run();
    lab.assert_at_rest();
}
