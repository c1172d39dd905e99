//! Time in which nobody ran, and a clock that jumps.

use crate::{
    GREETED,
    engine_restart::{GO, HELD, assert_merged},
};
use factory_core::model::Stage;
use factory_tests::{Lab, docker};
use rustix::process::Signal;
use std::time::Duration;

const HOURS: i64 = 5 * 3600;

/// How long nobody runs: not to wait for something.
#[expect(
    clippy::disallowed_methods,
    reason = "the time that passes is what is tested"
)]
fn pass(time: Duration) {
    std::thread::sleep(time);
}

#[test]
fn a_run_is_not_killed_for_time_in_which_nobody_ran() {
    // Gives signs of life; its limits are short.
    let agent =
        format!("while :; do echo working; sleep 0.1; done &\ntrap \"kill $!\" EXIT\n{HELD}");
    let limits = "limits: {wall: 20s, stall: 2s}\n";
    let lab = Lab::new();
    lab.scripted(
        &agent,
        &format!("{GREETED}gates: {{merge: auto}}\n{limits}"),
    );
    lab.approved("Greet people", "");
    let mut start = lab.start(&["--until-idle"], &[]);
    start.line("run r1-1: running");
    let all = ["start", "kernel", "gateway"];
    for role in all {
        start.signal(role, Signal::STOP);
        pass(Duration::from_millis(2200));
        start.signal(role, Signal::CONT);
    }
    let container = lab.container();
    docker(&["pause", &container]);
    for role in all {
        start.signal(role, Signal::STOP);
    }
    pass(Duration::from_secs(21));
    for role in all {
        start.signal(role, Signal::CONT);
    }
    docker(&["unpause", &container]);
    lab.inside(GO);
    let ended = start.ended();
    assert_eq!(ended.code, 0, "{}", ended.text());
    assert_merged(&lab, 2);
}

#[test]
fn a_clock_that_jumps_by_hours_holds_nobody_up() {
    let mut lab = Lab::new();
    let clock = lab.home_dir().join("clock");
    let set = |seconds: i64| std::fs::write(&clock, seconds.to_string()).unwrap();
    set(0);
    lab.env("FACTORY_TEST_CLOCK", clock.to_str().unwrap());
    lab.scripted(HELD, &format!("{GREETED}gates: {{merge: auto}}\n"));
    lab.approved("Greet people", "");
    let mut start = lab.start(&["--until-idle"], &[]);
    start.line("run r1-1: saved its work in progress");
    set(HOURS);
    docker(&["kill", &lab.container()]);
    start.line("r1-1 killed");
    start.kill_launcher_and_kernel();
    // It waits until a time that the clock, put back, is far away from.
    set(0);
    let job = lab.state().jobs.values().next().unwrap().clone();
    if *job.stage() == Stage::Queued {
        let now = lab.state().issues.values().next().unwrap().created;
        assert!(job.not_before.unwrap() > now + HOURS - 60);
    }

    let mut start = lab.start(&["--until-idle"], &[]);
    start.line("run r1-2: running");
    let status = lab.ok(&["status"]);
    assert!(
        status.contains("resumes r1-1") && status.contains("try 2"),
        "{status}"
    );
    set(-HOURS);
    start.signal("kernel", Signal::TERM);
    start.line("draining");
    set(HOURS);
    lab.inside(GO);
    let ended = start.ended();
    assert_eq!(ended.code, 0, "{}", ended.text());
    set(-HOURS);
    lab.until_idle_ok();
    assert_merged(&lab, 3);
}
