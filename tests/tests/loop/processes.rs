//! Launcher, kernel and gateway come and go; the agents' work does not suffer.

use crate::{GREETED, subjects};
use factory_core::model::{RunState, Stage};
use factory_tests::{Lab, Leftovers, Model, processes};

const HELD: &str = r#"
conversations:
  - name: greet
    steps:
      - text: Now I write it.
        wait: held
        tool: Bash
        input: {command: "echo hello >greeting.txt && git add greeting.txt && git commit -qm Hello && git push -q", description: work}
      - text: Done.
"#;

fn held(model: &Model, gates: &str) -> Lab {
    let mut lab = Lab::new();
    lab.env("TEST_API_KEY", "some-made-up-key");
    lab.write(
        "factory.yaml",
        &Lab::claude_config(model, &format!("{GREETED}{gates}")),
    );
    lab.commit("Begin");
    lab.approved("Greet people", "");
    lab
}

#[test]
fn a_gateway_that_is_killed_is_started_again_and_the_agent_goes_on() {
    let model = Model::yaml(HELD);
    let lab = held(&model, "");
    let start = lab.start(&["--until-idle"], &[]);
    model.reached("held");
    start.kill("gateway");
    model.release("held");
    let ended = start.ended();
    assert_eq!(ended.code, 0, "{}", ended.text());
    assert!(
        ended.text().contains("the gateway ended"),
        "{}",
        ended.text()
    );
    let state = lab.state();
    assert_eq!(state.prs.len(), 1);
    assert_eq!(
        state.issues.values().next().unwrap().runs,
        2,
        "one code run, one check"
    );
    lab.assert_at_rest();
}

#[test]
fn a_kernel_that_is_killed_is_started_again_and_adopts_the_agent() {
    let model = Model::yaml(HELD);
    let lab = held(&model, "");
    let mut start = lab.start(&["--until-idle"], &[]);
    model.reached("held");
    start.kill("kernel");
    start.line("epoch 2");
    model.release("held");
    let ended = start.ended();
    assert_eq!(ended.code, 0, "{}", ended.text());
    let state = lab.state();
    assert_eq!(state.prs.len(), 1);
    assert_eq!(
        state.issues.values().next().unwrap().runs,
        2,
        "one code run, one check"
    );
    lab.assert_at_rest();
}

#[test]
fn a_kernel_without_launcher_and_gateway_can_be_stopped_and_the_work_goes_on() {
    let model = Model::yaml(HELD);
    let lab = held(&model, "");
    let start = lab.start(&["--until-idle"], &[]);
    model.reached("held");
    start.kill_launcher_and_gateway();
    let refused = lab.say(&["start", "--until-idle"]);
    assert_eq!(refused.code, 9, "{refused:?}");
    assert!(refused.err.contains("factory stop --now"), "{refused:?}");
    lab.ok(&["stop", "--now"]);
    assert!(!processes(lab.repo()).iter().any(|p| p.is("kernel")));
    model.release("held");
    lab.until_idle_ok();
    assert_eq!(lab.state().prs.len(), 1);
    lab.assert_at_rest();
}

#[test]
fn two_interrupts_stop_at_once_and_the_next_start_takes_the_work_up() {
    let model = Model::yaml(HELD);
    let lab = held(&model, "");
    let mut start = lab.start(&["--until-idle"], &[]);
    start.until("its run is running", |state| {
        state
            .runs
            .values()
            .any(|run| matches!(run.state, RunState::Running { .. }))
    });
    model.reached("held");
    start.interrupt();
    start.line("draining");
    start.interrupt();
    let ended = start.ended();
    assert_eq!(ended.code, 130, "{}", ended.text());
    lab.assert_at_rest();
    model.release("held");
    lab.until_idle_ok();
    assert_eq!(lab.state().prs.len(), 1);
    lab.assert_at_rest();
}

#[test]
fn a_kernel_that_dies_while_it_stops_its_agents_charges_nobody() {
    let model = Model::yaml(HELD);
    let lab = held(&model, "");
    // Three lost runs in a row would ask a person.
    for _ in 0..3 {
        let mut start = lab.start(&["--until-idle"], &[("FAILPOINTS", "after-stop=return")]);
        model.reached("held");
        start.until("its run is running", |state| {
            let mut runs = state.runs.values();
            runs.any(|run| matches!(run.state, RunState::Running { .. }) && !run.stop_ordered)
        });
        start.interrupt();
        start.line("draining");
        start.interrupt();
        start.line("failpoint after-stop reached");
        start.kill_launcher_and_kernel();
    }
    model.release("held");
    lab.until_idle_ok();
    let job = lab.state().jobs.values().next().unwrap().clone();
    assert_eq!((job.breaks, job.losses, job.rounds), (0, 0, 1));
    let story = job.story.join("\n");
    assert_eq!(
        story.matches("the factory was stopped").count(),
        3,
        "{story}"
    );
    lab.assert_at_rest();
}

#[test]
fn an_order_to_end_outlives_the_kernel_that_was_given_it() {
    let model = Model::yaml(HELD);
    let lab = held(&model, "");
    let dies = ("FAILPOINTS", "after-end-ordered=return(kill)");
    let mut start = lab.start(&["--until-idle"], &[dies]);
    model.reached("held");
    let mut stop = lab.factory().arg("stop").spawn().unwrap();
    // The launcher starts another kernel, which was never asked.
    start.line("epoch 2");
    model.release("held");
    let ended = start.ended();
    assert_eq!(ended.code, 0, "{}", ended.text());
    assert!(stop.wait().unwrap().success());
    let stage = lab.state().jobs.values().next().unwrap().stage().clone();
    assert!(matches!(stage, Stage::CheckDue { .. }), "{stage:?}");
    // What one was told does not hold for the next.
    lab.until_idle_ok();
    assert_eq!(lab.state().prs.len(), 1);
    lab.assert_at_rest();
}

#[test]
fn a_terminal_that_goes_away_takes_nothing_with_it() {
    let model = Model::yaml(HELD);
    let lab = held(&model, "gates: {merge: auto}\n");
    let mut start = lab.start(&["--until-idle"], &[]);
    model.reached("held");
    assert_eq!(start.hang_up(), 0);
    let left = processes(lab.repo());
    assert!(left.iter().any(|p| p.is("kernel")) && left.iter().any(|p| p.is("gateway")));
    model.release("held");
    start.until("the work is merged", |state| {
        state.issues.is_empty() && state.runs.is_empty()
    });
    assert_eq!(
        subjects(&lab),
        "Merge pull request 1 from factory/1-greet-people\nBegin"
    );
    // The gateway stays a while in case another kernel comes; a new factory takes over from it.
    lab.until_idle_ok();
    lab.assert_at_rest();
}

#[test]
fn a_test_that_fails_leaves_nothing_either() {
    let model = Model::yaml(HELD);
    let lab = held(&model, "");
    let (repo, home) = (lab.repo().to_owned(), lab.home().unwrap());
    let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _start = lab.start(&["--until-idle"], &[]);
        model.reached("held");
        assert_eq!(lab.on_engine().containers.len(), 1);
        panic!("on purpose");
    }));
    assert!(failed.is_err());
    assert_eq!(processes(repo.parent().unwrap()), []);
    assert!(!repo.parent().unwrap().exists());
    assert_eq!(Leftovers::of(&home), Leftovers::default());
}
