//! The emergency stop, and a configuration that is wrong while the factory runs.

use crate::{GREETED, GREETER};
use factory_core::model::{PrState, RunState};
use factory_tests::Lab;

/// Leaves a file behind, waits for a person, then writes, commits and pushes.
const SLOW: &str = r#"set -eu
cat >/dev/null
if test -e begun.txt; then
  echo hello >greeting.txt
  git add --all
  git commit -q -m "Say hello"
  git push -q
  exit 0
fi
echo begun >begun.txt
echo begun
exec sleep 1000
"#;

fn slow() -> Lab {
    let lab = Lab::new();
    lab.scripted(SLOW, &format!("slots: 2\n{GREETED}"));
    lab.approved("Greet people", "");
    lab
}

fn saved(state: &factory_core::state::State) -> bool {
    state
        .runs
        .values()
        .any(|run| matches!(run.state, RunState::Running { .. }) && run.checkpoint.is_some())
}

#[test]
fn an_emergency_stop_holds_until_it_is_lifted_and_loses_nothing() {
    let lab = slow();
    let mut start = lab.start(&[], &[]);
    start.until("the agent has saved something", saved);
    let said = lab.ok(&["stop", "--all-agents"]);
    assert!(said.contains("all agents are stopped (1 run;"), "{said}");
    assert!(!lab.state().runs.values().any(|run| run.is_open()));
    lab.approved("Greet them again", "");
    let plan = lab.ok(&["plan", "--json"]);
    assert_eq!(plan.matches("\"reason\": \"frozen\"").count(), 2, "{plan}");
    let status = lab.ok(&["status"]);
    assert!(
        status.contains("all agents were stopped by Uma User since"),
        "{status}"
    );
    lab.ok(&["issue", "close", "2"]);
    // Neither the next kernel nor another start forgets it.
    start.kill("kernel");
    start.line("epoch 2");
    start.interrupt();
    start.ended();
    let ended = lab.until_idle();
    assert_eq!(ended.code, 10, "{}", ended.text());
    assert!(ended.text().contains("factory resume"), "{}", ended.text());
    lab.assert_no_run();
    let again = lab.say(&["stop", "--all-agents"]);
    assert_eq!(again.code, 0, "{again:?}");
    lab.ok(&["resume"]);
    let twice = lab.say(&["resume"]);
    assert_eq!(twice.code, 5, "{twice:?}");
    lab.until_idle_ok();
    let state = lab.state();
    assert!(state.prs.len() == 1 && state.jobs.values().all(|job| job.losses == 0));
    let story = state.jobs.values().next().unwrap().story.join("\n");
    assert!(story.contains("the factory was stopped"), "{story}");
    // It went on from its checkpoint, or it would sleep again.
    let merge = lab.say(&["pr", "merge", "1"]);
    assert_eq!(merge.code, 0, "{merge:?}");
    assert_eq!(lab.read("begun.txt"), "begun\n");
    lab.assert_at_rest();
}

#[test]
fn an_emergency_stop_reaches_agents_that_no_kernel_looks_after() {
    let lab = slow();
    let mut start = lab.start(&[], &[]);
    start.until("the agent has saved something", saved);
    start.kill_all();
    assert_eq!(lab.on_engine().containers.len(), 1);
    lab.ok(&["stop", "--all-agents"]);
    let running = lab.docker(&["ps", "--quiet"]);
    let ours = lab.on_engine().containers;
    let status = lab.docker(&["inspect", "--format", "{{.State.Status}}", &ours[0]]);
    assert_eq!(status.trim(), "exited", "{running}");
    let ended = lab.until_idle();
    assert_eq!(ended.code, 10, "{}", ended.text());
    lab.ok(&["resume"]);
    lab.until_idle_ok();
    let job = lab.state().jobs.values().next().unwrap().clone();
    assert_eq!((job.breaks, job.losses), (0, 0), "{:?}", job.story);
    lab.assert_at_rest();
}

#[test]
fn a_wrong_configuration_changes_nothing_until_it_is_mended() {
    let lab = Lab::new();
    lab.scripted(GREETER, &format!("{GREETED}gates: {{issues: auto}}\n"));
    let good = lab.read("factory.yaml");
    let mut start = lab.start(&[], &[]);
    start.line("kernel:running");
    lab.write("factory.yaml", &format!("{good}slotz: 3\n"));
    lab.commit("Break it");
    lab.ok(&["issue", "new", "--title", "Greet people"]);
    start.line("configuration: the one before stays in force");
    start.until("the pull request is ready", |state| {
        let mut prs = state.prs.values();
        state.runs.is_empty() && prs.any(|pr| pr.state == PrState::Ready)
    });
    let status = lab.ok(&["status"]);
    assert!(status.contains("unknown key `slotz`"), "{status}");
    lab.write("factory.yaml", &format!("{good}slots: 3\n"));
    lab.commit("Mend it");
    // Whoever orders something finds the newest in force.
    lab.ok(&["issue", "comment", "1", "--body", "mended"]);
    start.line("configuration: all is well again");
    start.until("it is in force", |state| {
        state.config.config.slots == factory_core::config::Slots::Fixed(3)
    });
    start.interrupt();
    assert_eq!(start.ended().code, 0);
    lab.assert_at_rest();
}
