//! Who decides, and what is there while nobody has decided yet.

use crate::{GREETED, GREETER, comments, subjects};
use factory_core::model::{PrState, RunState};
use factory_tests::{EventLog, Lab, Model, docker};

#[test]
fn while_a_gate_waits_nothing_runs() {
    let lab = Lab::new();
    lab.scripted(GREETER, GREETED);
    lab.approved("Greet people", "");
    let mut start = lab.start(&[], &[]);
    start.until("the pull request waits, its runs collected", |state| {
        state.runs.is_empty()
            && state
                .prs
                .values()
                .next()
                .is_some_and(|pr| pr.state == PrState::Ready)
    });
    lab.assert_no_run();
    start.process("kernel");
    // A merge while the kernel runs.
    lab.ok(&["pr", "merge", "1"]);
    start.interrupt();
    let ended = start.ended();
    assert_eq!(ended.code, 0, "{}", ended.text());
    lab.assert_at_rest();
    assert_eq!(lab.read("greeting.txt"), "hello\n");
}

#[test]
fn automatic_gates_take_an_issue_all_the_way() {
    let lab = Lab::new();
    lab.scripted(
        GREETER,
        &format!("{GREETED}gates: {{issues: auto, merge: auto}}\n"),
    );
    lab.ok(&["issue", "new", "--title", "Greet people"]);
    lab.until_idle_ok();
    lab.assert_at_rest();
    assert_eq!(
        subjects(&lab),
        "Merge pull request 1 from factory/1-greet-people\nBegin"
    );
    assert!(lab.state().issues.is_empty());
    let said = comments(&lab);
    assert!(said.contains("pull request 1 was merged"), "{said}");
}

#[test]
fn without_checks_an_automatic_gate_stays_closed() {
    let lab = Lab::new();
    lab.scripted(GREETER, "gates: {merge: auto}\n");
    lab.approved("Greet people", "");
    lab.until_idle();
    lab.assert_at_rest();
    assert_eq!(subjects(&lab), "Begin");
    let merged = lab.say(&["pr", "merge", "1"]);
    assert_eq!(merged.code, 0);
    assert!(
        format!("{}{}", merged.out, merged.err).contains("nothing was checked"),
        "{merged:?}"
    );
}

/// Two conversations that are held in the middle of their first answer.
const TWO: &str = r#"
conversations:
  - name: one
    when: {contains: "Write one.txt"}
    steps:
      - wait: one
        tool: Bash
        input: {command: "echo 1 >one.txt && git add one.txt && git commit -qm One && git push -q", description: work}
      - text: Done.
  - name: two
    when: {contains: "Write two.txt"}
    steps:
      - wait: two
        tool: Bash
        input: {command: "echo 2 >two.txt && git add two.txt && git commit -qm Two && git push -q", description: work}
      - text: Done.
"#;

#[test]
fn two_issues_are_worked_on_at_the_same_time() {
    let model = Model::yaml(TWO);
    let mut lab = Lab::new();
    lab.env("TEST_API_KEY", "some-made-up-key");
    lab.write(
        "factory.yaml",
        &Lab::claude_config(&model, "checks: [\"true\"]\n"),
    );
    lab.commit("Begin");
    lab.approved("One", "Write one.txt");
    lab.approved("Two", "Write two.txt");
    let events = EventLog::of(&lab.home().unwrap());
    let start = lab.start(&["--slots", "2", "--until-idle"], &[]);
    // Neither is answered before both have asked.
    model.reached("one");
    model.reached("two");
    let running = lab.on_engine().containers;
    assert_eq!(running.len(), 2, "{running:?}");
    for container in &running {
        let state = docker(&["inspect", "--format", "{{.State.Status}}", container]);
        assert_eq!(state.trim(), "running");
    }
    model.release("one");
    model.release("two");
    let ended = start.ended();
    assert_eq!(ended.code, 0, "{}", ended.text());
    lab.assert_at_rest();
    assert!(ended.text().contains("slots: 2/2"), "{}", ended.text());
    let events = events.end();
    let at = |what: &str, name: &str| {
        let line = format!("{what} {name}");
        events
            .iter()
            .position(|e| *e == line)
            .unwrap_or_else(|| panic!("no `{line}` in {events:#?}"))
    };
    let (one, two) = (&running[0], &running[1]);
    assert!(at("start", one) < at("die", two) && at("start", two) < at("die", one));
    let ready = lab
        .state()
        .prs
        .values()
        .filter(|pr| pr.state == PrState::Ready)
        .count();
    assert_eq!(ready, 2);
    lab.ok(&["pr", "merge", "1"]);
    lab.ok(&["pr", "merge", "2"]);
    assert_eq!(
        (lab.read("one.txt"), lab.read("two.txt")),
        ("1\n".to_owned(), "2\n".to_owned())
    );
    lab.assert_at_rest();
}

#[test]
fn an_issue_closed_while_its_run_lives_ends_the_run() {
    let lab = Lab::new();
    lab.scripted(
        "cat >/dev/null; echo hello >greeting.txt; sleep 1000\n",
        GREETED,
    );
    lab.approved("Never ends", "");
    let mut start = lab.start(&["--until-idle"], &[]);
    start.until("its run is running", |state| {
        state
            .runs
            .values()
            .any(|run| matches!(run.state, RunState::Running { .. }))
    });
    lab.ok(&["issue", "close", "1"]);
    let ended = start.ended();
    assert_eq!(ended.code, 0, "{}", ended.text());
    lab.assert_at_rest();
    let state = lab.state();
    assert!(state.issues.is_empty() && state.jobs.is_empty() && state.prs.is_empty());
    assert_eq!(
        lab.git(&["for-each-ref", "--format=%(refname)"]),
        "refs/heads/main"
    );
}

#[test]
fn an_interrupt_drains_and_the_next_start_goes_on() {
    let model = Model::yaml(TWO);
    let mut lab = Lab::new();
    lab.env("TEST_API_KEY", "some-made-up-key");
    lab.write(
        "factory.yaml",
        &Lab::claude_config(&model, "checks: [\"true\"]\n"),
    );
    lab.commit("Begin");
    lab.approved("One", "Write one.txt");
    lab.approved("Two", "Write two.txt");
    let mut start = lab.start(&["--slots", "1"], &[]);
    model.reached("one");
    start.interrupt();
    start.line("draining");
    model.release("one");
    // What was begun is finished; the second issue is not begun.
    let ended = start.ended();
    assert_eq!(ended.code, 0, "{}", ended.text());
    lab.assert_at_rest();
    model.release("two");
    lab.until_idle_ok();
    assert_eq!(lab.state().prs.len(), 2);
    lab.assert_at_rest();
}
