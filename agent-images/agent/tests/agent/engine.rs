//! Runs with an engine: what it is given, and how it ends.

use crate::lab::{BRANCH, Lab, SUBJECT, children, sh};
use factory_core::{inbox::EngineExit, wire::EngineLaunch};
use std::sync::{Arc, Mutex};

#[tokio::test]
async fn an_engine_gets_its_brief_works_pushes_and_reports() {
    let Some(mut lab) = Lab::new("happy") else {
        return;
    };
    lab.engine(
        "set -e
         cat > got.md; cmp got.md $FACTORY_BRIEF; test -d $HOME/engine
         echo four >> file.txt; git commit -qam work; git push -q
         echo '{\"summary\": \"done\"}' > $FACTORY_OUT/report.json
         echo \"env $(env | cut -d= -f1 | sort | tr '\\n' ' ')\"
         echo oops >&2; pwd; rm got.md
         echo; printf '{\"type\": \"result\"}'",
        None,
    );
    let done = lab.run().await;
    assert_eq!(done.code, 0);
    let end = lab.gateway.end();
    assert_eq!(end.exit, EngineExit::Code(0));
    assert_eq!(end.last_output, "{\"type\": \"result\"}");
    assert_eq!(end.stderr_tail, "oops\n");
    assert_eq!((end.report_problem, end.push_problem), (None, None));

    let events = lab.gateway.events();
    assert!(
        events.contains(&format!("{}\n", lab.path("workspace").display())),
        "{events}"
    );
    // Two pipes: each keeps its order, between them there is none.
    let stdout = events.replacen("oops\n", "", 1);
    assert!(
        stdout.len() < events.len() && stdout.ends_with("{\"type\": \"result\"}\n"),
        "{events}"
    );
    let env = events.lines().find(|l| l.starts_with("env ")).unwrap();
    for name in [
        "FACTORY_BRIEF",
        "FACTORY_OUT",
        "FACTORY_RUN",
        "GIT_AUTHOR_NAME",
        "HOME",
        "KEY",
        "LANG",
        "TMPDIR",
    ] {
        assert!(env.contains(&format!(" {name} ")), "{name}: {env}");
    }
    assert!(
        !env.contains("SECRET_OF_THE_HOST") && !env.contains("FACTORY_AGENT_ROOT"),
        "{env}"
    );

    assert_eq!(
        lab.origin(&format!("log -1 --format='%s %an' {BRANCH}")),
        "work agent"
    );
    assert_eq!(lab.origin(&format!("rev-list --count {BRANCH}")), "2");
    let seen = lab.gateway.seen.lock().unwrap();
    assert_eq!(seen.reports, ["{\"summary\": \"done\"}\n"]);
    // Nothing is accepted after the end, so it must be last.
    assert_eq!(seen.order.last().unwrap(), "/factory/v1/end");
    assert_eq!(
        seen.order
            .iter()
            .filter(|path| *path == "/factory/v1/end")
            .count(),
        1
    );
}

#[tokio::test]
async fn a_start_that_the_base_lacks_is_fetched_through_the_door() {
    let Some(mut lab) = Lab::new("fetch") else {
        return;
    };
    let tip = sh(
        &lab.path("seed"),
        "echo more > more.txt; git add .; git commit -qm more
         git push -q ../git/origin HEAD:refs/factory/start; git rev-parse HEAD",
    );
    lab.file.start = tip.parse().unwrap();
    lab.engine(
        "cat more.txt; git status --porcelain; git rev-parse --abbrev-ref HEAD",
        None,
    );
    assert_eq!(lab.run().await.code, 0);
    assert_eq!(lab.gateway.events(), format!("more\n{BRANCH}\n"));
}

#[tokio::test]
async fn a_start_that_nobody_has_ends_the_run_with_its_reason() {
    let Some(mut lab) = Lab::new("no start") else {
        return;
    };
    lab.file.start = "1234567890123456789012345678901234567890".parse().unwrap();
    lab.engine("echo never", None);
    assert_eq!(lab.run().await.code, 0);
    let EngineExit::NoWorkspace(reason) = lab.gateway.end().exit else {
        panic!("{:?}", lab.gateway.end())
    };
    assert!(reason.contains("refs/factory/start"), "{reason}");
    assert_eq!(lab.gateway.events(), "");
}

#[tokio::test]
async fn an_engine_that_cannot_be_started_is_named() {
    let Some(mut lab) = Lab::new("no engine") else {
        return;
    };
    lab.launch(EngineLaunch {
        argv: vec!["no-such-engine".to_owned()],
        resume_argv: None,
        env: Default::default(),
        dirs: Vec::new(),
        files: Default::default(),
        session_file: None,
    });
    assert_eq!(lab.run().await.code, 0);
    let EngineExit::NotStarted(reason) = lab.gateway.end().exit else {
        panic!("{:?}", lab.gateway.end())
    };
    assert!(reason.contains("no-such-engine"), "{reason}");
}

#[tokio::test]
async fn a_relative_program_is_one_of_the_work_tree() {
    let Some(mut lab) = Lab::new("relative") else {
        return;
    };
    let tip = sh(
        &lab.path("seed"),
        "printf '#!/bin/sh\\necho \"$0 $1\"\\n' > agent.sh; chmod +x agent.sh; git add .; git commit -qm engine
         git push -q ../git/origin HEAD:refs/factory/start; git rev-parse HEAD",
    );
    lab.file.start = tip.parse().unwrap();
    lab.launch(EngineLaunch {
        argv: vec!["./agent.sh".to_owned(), "hello".to_owned()],
        resume_argv: None,
        env: Default::default(),
        dirs: Vec::new(),
        files: Default::default(),
        session_file: None,
    });
    assert_eq!(lab.run().await.code, 0);
    assert_eq!(lab.gateway.end().exit, EngineExit::Code(0));
    assert!(
        lab.gateway.events().ends_with("agent.sh hello\n"),
        "{}",
        lab.gateway.events()
    );
}

#[tokio::test]
async fn an_unusable_run_file_ends_the_run_with_its_reason() {
    let Some(mut lab) = Lab::new("run file") else {
        return;
    };
    lab.file.protocol = 99;
    assert_eq!(lab.run().await.code, 125);
    let EngineExit::NoWorkspace(reason) = lab.gateway.end().exit else {
        panic!("{:?}", lab.gateway.end())
    };
    assert!(reason.contains("protocol 99"), "{reason}");
}

#[tokio::test]
async fn the_deadline_ends_a_tree_that_ignores_sigterm_and_keeps_its_work() {
    let Some(mut lab) = Lab::new("deadline") else {
        return;
    };
    lab.file.wall_seconds = 8;
    lab.engine(
        "trap '' TERM; echo half > half.txt
         (setsid bash -c \"trap '' TERM; while :; do sleep 1; done\" &)
         echo running; while :; do sleep 1; done",
        Some("echo a stopped engine is not resumed"),
    );
    // A lock of a git command that was killed must not cost the work.
    let started = lab.start();
    lab.gateway.event("running").await;
    std::fs::write(lab.path("workspace/.git/index.lock"), "").unwrap();
    let (agent, left) = (started.agent(), Arc::new(Mutex::new(None)));
    let at_end = left.clone();
    lab.gateway.seen.lock().unwrap().at_end = Some(Box::new(move || {
        *at_end.lock().unwrap() = Some(children(agent))
    }));
    assert_eq!(started.done().await.code, 0);
    let end = lab.gateway.end();
    assert_eq!(end.exit, EngineExit::Deadline);
    assert_eq!(end.last_output, "running");
    assert_eq!(
        *left.lock().unwrap(),
        Some(Vec::new()),
        "processes left at the end"
    );
    assert_eq!(lab.origin(&format!("show {BRANCH}:half.txt")), "half");
}

#[tokio::test]
async fn what_the_engine_left_running_neither_lives_on_nor_holds_up_the_run() {
    let Some(mut lab) = Lab::new("left running") else {
        return;
    };
    // It keeps standard output open and is nobody's child any more.
    lab.engine("(setsid bash -c \"trap '' TERM HUP; echo up; while :; do sleep 1; done\" &) ; sleep 0.2; echo bye", None);
    let started = lab.start();
    lab.gateway.event("up").await;
    let (agent, left) = (started.agent(), Arc::new(Mutex::new(None)));
    let at_end = left.clone();
    lab.gateway.seen.lock().unwrap().at_end = Some(Box::new(move || {
        *at_end.lock().unwrap() = Some(children(agent))
    }));
    assert_eq!(started.done().await.code, 0);
    assert_eq!(lab.gateway.end().exit, EngineExit::Code(0));
    assert_eq!(lab.gateway.end().last_output, "bye");
    assert_eq!(
        *left.lock().unwrap(),
        Some(Vec::new()),
        "processes left at the end"
    );
}

#[tokio::test]
async fn orphans_are_reaped_while_the_engine_runs() {
    let Some(mut lab) = Lab::new("orphans") else {
        return;
    };
    lab.engine(
        "for i in $(seq 50); do (setsid sh -c 'exit 3' &) ; done
         while grep -qs '^State:.*Z' /proc/[0-9]*/status; do :; done; echo none is left",
        None,
    );
    assert_eq!(lab.run().await.code, 0);
    assert_eq!(lab.gateway.end().last_output, "none is left");
}

#[tokio::test]
async fn fifty_megabytes_of_output_fit_into_little_memory() {
    let Some(mut lab) = Lab::new("output") else {
        return;
    };
    lab.engine(
        "yes 0123456789012345678901234567890123456789012345678901234567890123456789 | head -c 47000000
         head -c 3000000 /dev/zero | tr '\\0' x; echo; head -c 300000 /dev/zero | tr '\\0' y >&2
         echo the end >&2; echo the last line",
        None,
    );
    lab.gateway.seen.lock().unwrap().count_only = true;
    let started = lab.start();
    let peak = Arc::new(Mutex::new(String::new()));
    let at_end = peak.clone();
    let unshare = started.unshare();
    lab.gateway.seen.lock().unwrap().at_end = Some(Box::new(move || {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", children(unshare)[0])).unwrap();
        *at_end.lock().unwrap() = status
            .lines()
            .find(|l| l.starts_with("VmHWM"))
            .unwrap()
            .to_owned();
    }));
    assert_eq!(started.done().await.code, 0);
    let end = lab.gateway.end();
    assert_eq!(end.last_output, "the last line");
    assert!(
        end.stderr_tail.ends_with("yyyythe end\n") && end.stderr_tail.len() == 4096,
        "{}",
        end.stderr_tail.len()
    );
    // One line was cut to a megabyte, nothing else is missing.
    let bytes = lab.gateway.seen.lock().unwrap().event_bytes;
    assert!((48_300_000..48_400_000).contains(&bytes), "{bytes}");
    let peak = peak.lock().unwrap().clone();
    println!("agent {peak}");
    let kib: u64 = peak.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(kib < 40 * 1024, "{peak}");
}

#[tokio::test]
async fn sigterm_ends_the_engine_and_hands_in_what_there_is() {
    let Some(mut lab) = Lab::new("sigterm") else {
        return;
    };
    lab.engine("echo half > half.txt; echo running; exec sleep 600", None);
    let started = lab.start();
    lab.gateway.event("running").await;
    started.terminate();
    assert_eq!(started.done().await.code, 0);
    assert_eq!(lab.gateway.end().exit, EngineExit::Stopped);
    assert_eq!(lab.origin(&format!("log -1 --format=%s {BRANCH}")), SUBJECT);
}

#[tokio::test]
async fn a_run_that_is_stopped_before_its_engine_starts_blames_nobody() {
    let Some(mut lab) = Lab::new("early sigterm") else {
        return;
    };
    lab.engine("echo never", None);
    lab.gateway.stop().await;
    let started = lab.start();
    sh(
        &lab.path("."),
        "timeout 20 sh -c 'until grep -q \"no gateway\" agent.log; do sleep 0.02; done'",
    );
    started.terminate();
    sh(
        &lab.path("."),
        "timeout 20 sh -c 'until grep -q stop: agent.log; do sleep 0.02; done'",
    );
    lab.gateway.start();
    assert_eq!(started.done().await.code, 0);
    assert_eq!(lab.gateway.end().exit, EngineExit::Stopped);
    assert_eq!(lab.gateway.events(), "");
}

#[tokio::test]
async fn code_of_the_same_user_cannot_look_into_the_agent() {
    let Some(mut lab) = Lab::new("shielded") else {
        return;
    };
    if !sh(&lab.path("."), "id -u").eq("0") {
        println!("skipped: shielded: only root can start the agent as another user");
        return;
    }
    lab.uid = Some(10001);
    lab.engine(
        "id -u; cat /proc/1/environ > /dev/null && echo readable; ls /proc/1/fd > /dev/null && echo listed
         cat /proc/self/environ > /dev/null && echo own",
        None,
    );
    assert_eq!(lab.run().await.code, 0);
    assert_eq!(lab.gateway.end().last_output, "own");
    let events = lab.gateway.events();
    assert!(
        events.contains("10001\n") && !events.contains("readable") && !events.contains("listed"),
        "{events}"
    );
}
