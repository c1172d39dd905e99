//! Engines that fall silent, and time that does not count.

use crate::lab::{BRANCH, Lab, SUBJECT, sh};
use factory_core::inbox::EngineExit;
use std::time::Duration;

#[tokio::test]
async fn a_silent_engine_is_ended_and_its_work_kept() {
    let Some(mut lab) = Lab::new("stall") else {
        return;
    };
    lab.engine(
        "echo half > half.txt; echo running; exec sleep 600",
        Some("echo a stalled engine is not resumed"),
    )
    .stall(2);
    let done = lab.run().await;
    assert_eq!(done.code, 0);
    let end = lab.gateway.end();
    assert_eq!(end.exit, EngineExit::Stalled);
    assert_eq!(end.last_output, "running");
    assert!(done.log.contains("no sign of life"), "{}", done.log);
    assert_eq!(lab.origin(&format!("log -1 --format=%s {BRANCH}")), SUBJECT);
    assert_eq!(
        lab.origin("show refs/factory/checkpoint:work/half.txt"),
        "half"
    );
}

#[tokio::test]
async fn output_on_either_pipe_is_a_sign_of_life() {
    let Some(mut lab) = Lab::new("signs") else {
        return;
    };
    // Half lines count as well: four seconds without a whole one on either pipe.
    lab.engine(
        "for i in 1 2 3 4; do printf .; sleep 0.5; printf . >&2; sleep 0.5; done; echo done",
        None,
    )
    .stall(2);
    assert_eq!(lab.run().await.code, 0);
    assert_eq!(lab.gateway.end().exit, EngineExit::Code(0));
    assert_eq!(lab.gateway.end().last_output, "....done");
}

#[tokio::test]
async fn while_the_gateway_does_not_take_the_output_the_engine_is_not_silent() {
    let Some(mut lab) = Lab::new("held") else {
        return;
    };
    lab.engine(
        &format!(
            "echo up; until [ -e {} ]; do sleep 0.05; done
             yes 0123456789 | head -c 3000000; echo; echo done",
            lab.path("away").display()
        ),
        None,
    )
    .stall(4);
    let started = lab.start();
    lab.gateway.event("up").await;
    lab.gateway.stop().await;
    std::fs::write(lab.path("away"), "").unwrap();
    // More than the agent holds back: the engine is stopped by its full pipe.
    tokio::time::sleep(Duration::from_secs(7)).await;
    lab.gateway.start();
    assert_eq!(started.done().await.code, 0);
    assert_eq!(lab.gateway.end().exit, EngineExit::Code(0));
    assert_eq!(lab.gateway.end().last_output, "done");
}

#[tokio::test]
async fn time_in_which_the_agent_did_not_run_counts_for_nothing() {
    let Some(mut lab) = Lab::new("frozen") else {
        return;
    };
    lab.file.wall_seconds = 8;
    lab.engine(
        "echo running; until [ -e go ]; do sleep 0.05; done; rm go; echo done",
        None,
    )
    .stall(3);
    let started = lab.start();
    lab.gateway.event("running").await;
    started.signal("STOP");
    tokio::time::sleep(Duration::from_secs(10)).await;
    started.signal("CONT");
    // Time for limits that would have passed to show it.
    tokio::time::sleep(Duration::from_millis(500)).await;
    sh(&lab.path("workspace"), "touch go");
    assert_eq!(started.done().await.code, 0);
    assert_eq!(lab.gateway.end().exit, EngineExit::Code(0));
    assert_eq!(lab.gateway.end().last_output, "done");
}
