//! Check runs: the exit code is the verdict, whatever the gateway does.

use crate::lab::Lab;
use factory_core::inbox::EngineExit;
use hyper::StatusCode;

#[tokio::test]
async fn all_checks_pass() {
    let Some(mut lab) = Lab::new("pass") else {
        return;
    };
    lab.checks(&[
        "cat file.txt; cat; git rev-parse --abbrev-ref HEAD",
        "env | cut -d= -f1 | sort | tr '\\n' ' '",
    ]);
    assert_eq!(lab.run().await.code, 0);
    let end = lab.gateway.end();
    assert_eq!(end.exit, EngineExit::Code(0));
    let events = lab.gateway.events();
    assert!(events.starts_with("one\ntwo\nthree\nHEAD\n"), "{events}");
    assert!(
        !events.contains("SECRET") && !events.contains("KEY") && !events.contains("FACTORY"),
        "{events}"
    );
}

#[tokio::test]
async fn the_first_failure_is_the_verdict_and_its_output_is_kept() {
    for (fails, exit) in [
        ("exit 7", EngineExit::Code(7)),
        ("exit 124", EngineExit::Code(124)),
        ("kill -9 $$", EngineExit::Signal(9)),
    ] {
        let Some(mut lab) = Lab::new("fail") else {
            return;
        };
        let second = format!("echo to stdout; echo to stderr >&2; {fails}");
        lab.checks(&["echo first", &second, "echo never"]);
        assert_eq!(lab.run().await.code, 1);
        let end = lab.gateway.end();
        assert_eq!(end.exit, exit);
        assert!(
            end.last_output
                .starts_with(&format!("$ {second}\nto stdout\nto stderr\n")),
            "{}",
            end.last_output
        );
        assert_eq!(lab.gateway.events(), "first\nto stdout\nto stderr\n");
    }
}

#[tokio::test]
async fn long_output_is_trimmed_in_the_middle() {
    let Some(mut lab) = Lab::new("trim") else {
        return;
    };
    lab.checks(&["echo BEGIN; yes noise | head -c 300000; echo assertion failed; exit 1"]);
    assert_eq!(lab.run().await.code, 1);
    let output = lab.gateway.end().last_output;
    assert!(
        output.contains("\nBEGIN\nnoise") && output.contains("bytes left out"),
        "{output}"
    );
    assert!(
        output.ends_with("noise\nassertion failed\n\n[exit code 1]"),
        "{output}"
    );
    assert!(output.len() <= 16 * 1024, "{}", output.len());
}

#[tokio::test]
async fn a_server_left_by_one_check_is_gone_for_the_next() {
    let Some(mut lab) = Lab::new("server") else {
        return;
    };
    lab.checks(&[
        "(setsid sh -c 'trap \"\" TERM HUP; echo $$ > ../pid; exec sleep 600' &) ; until [ -s ../pid ]; do :; done",
        "! test -e /proc/$(cat ../pid)",
    ]);
    assert_eq!(lab.run().await.code, 0);
}

#[tokio::test]
async fn checks_out_of_time_are_124_and_stopped_ones_143() {
    let Some(mut lab) = Lab::new("time") else {
        return;
    };
    lab.file.wall_seconds = 8;
    lab.checks(&["echo slow; sleep 600", "echo never"]);
    assert_eq!(lab.run().await.code, 124);
    assert_eq!(lab.gateway.end().exit, EngineExit::Deadline);
    assert!(lab.gateway.end().last_output.contains("slow"));

    let Some(mut lab) = Lab::new("stopped") else {
        return;
    };
    // Even one that ends well after SIGTERM gave no verdict.
    lab.checks(&[
        "trap 'exit 0' TERM; echo slow; while :; do sleep 0.1; done",
        "echo never",
    ]);
    let started = lab.start();
    lab.gateway.event("slow").await;
    started.terminate();
    assert_eq!(started.done().await.code, 143);
    assert!(
        !lab.gateway.events().contains("never"),
        "{}",
        lab.gateway.events()
    );
}

#[tokio::test]
async fn what_cannot_be_checked_is_125() {
    let Some(mut lab) = Lab::new("no start") else {
        return;
    };
    lab.file.start = "1234567890123456789012345678901234567890".parse().unwrap();
    lab.checks(&["true"]);
    assert_eq!(lab.run().await.code, 125);
    assert!(matches!(lab.gateway.end().exit, EngineExit::NoWorkspace(_)));
}

#[tokio::test]
async fn the_gateway_cannot_change_a_verdict() {
    for (command, verdict) in [("true", 0), ("false", 1)] {
        let Some(mut lab) = Lab::new("refused end") else {
            return;
        };
        lab.gateway.seen.lock().unwrap().end_status = Some(StatusCode::FORBIDDEN);
        lab.checks(&[command]);
        assert_eq!(lab.run().await.code, verdict);
    }
}
