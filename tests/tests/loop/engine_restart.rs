//! The container engine dies in the middle of a run and comes back: an engine of
//! the test's own.

use crate::{GREETED, subjects};
use factory_tests::{EngineSetup, Lab, OwnEngine};

/// Writes the greeting at once, hands it in when it is told to, and tells
/// whether it found it written.
pub(crate) const HELD: &str = r#"set -eu
cat >/dev/null
if [ -e greeting.txt ]; then echo found >found.txt; else echo hello >greeting.txt; fi
until [ -e /tmp/go ]; do sleep 0.1; done
git add --all
git commit -q -m "Say hello"
until git push -q; do sleep 0.2; done
"#;
/// Lets it.
pub(crate) const GO: &str = "touch /tmp/go";

/// An engine, and one approved issue of a user who works with it.
fn lab(test: &str, live_restore: bool) -> Option<(OwnEngine, Lab)> {
    let setup = EngineSetup {
        live_restore,
        ..EngineSetup::default()
    };
    let engine = OwnEngine::start(test, setup)?;
    let mut lab = Lab::new();
    lab.scripted(HELD, &format!("{GREETED}gates: {{merge: auto}}\n"));
    engine.copy_image(&lab.image());
    lab.env("DOCKER_HOST", &engine.host());
    lab.approved("Greet people", "");
    Some((engine, lab))
}

/// Merged once; `runs` runs in all.
pub(crate) fn assert_merged(lab: &Lab, runs: u32) {
    let state = lab.state();
    assert!(state.issues.is_empty() && state.prs.is_empty() && state.jobs.is_empty());
    // Its number, where the state was restored, is 1,000 higher.
    let pr = state.meta.last_pr;
    assert!(pr == 1 || pr == 1001, "{pr}");
    let merged = format!("Merge pull request {pr} from factory/1-greet-people\nBegin");
    assert_eq!(subjects(lab), merged);
    assert_eq!(lab.git(&["show", "main:greeting.txt"]), "hello");
    let archive = lab.state_files("archive/runs/").unwrap();
    assert_eq!(archive.len(), runs as usize, "{:?}", archive.keys());
    lab.ok(&["state", "verify"]);
    lab.assert_at_rest();
}

#[test]
fn with_live_restore_the_agent_lives_on_and_nothing_is_repeated() {
    let Some((mut engine, lab)) = lab("engine restart with live-restore", true) else {
        return;
    };
    let mut start = lab.start(&["--until-idle"], &[]);
    start.line("run r1-1: running");
    let container = lab.container();
    let began = ["inspect", "--format", "{{.State.StartedAt}}", &container];
    let before = lab.docker(&began);

    engine.kill();
    let said = start.line("container engine: the Docker engine at ");
    assert!(said.contains("check that it runs"), "{said}");
    // Away for a while: it is tried again, and commands say so.
    start.line("tried again in 4 s");
    let status = lab.ok(&["status"]);
    assert!(
        status.contains("Held up (tried again by itself):\n  container engine: "),
        "{status}"
    );

    engine.come_back();
    start.line("container engine: all is well again");
    assert!(!lab.ok(&["status"]).contains("Held up"));
    assert_eq!(lab.docker(&began), before, "it lives on");
    lab.inside(GO);
    let ended = start.ended();
    assert_eq!(ended.code, 0, "{}", ended.text());
    assert_merged(&lab, 2);
}

#[test]
fn without_live_restore_the_run_is_resumed() {
    let Some((mut engine, lab)) = lab("engine restart without live-restore", false) else {
        return;
    };
    let mut start = lab.start(&["--until-idle"], &[]);
    start.line("run r1-1: saved its work in progress");
    engine.kill();
    start.line("container engine: the Docker engine at ");
    engine.come_back();
    start.line("r1-1 killed");
    start.line("(r1-2, resumes r1-1)");
    start.line("run r1-2: running");
    lab.inside(GO);
    let ended = start.ended();
    assert_eq!(ended.code, 0, "{}", ended.text());
    assert_merged(&lab, 3);
    assert_eq!(lab.git(&["show", "main:found.txt"]), "found");
}

#[test]
fn engine_and_factory_killed_at_once_go_on_together() {
    let Some((mut engine, lab)) = lab("engine and factory killed at once", false) else {
        return;
    };
    let mut start = lab.start(&["--until-idle"], &[]);
    start.line("run r1-1: saved its work in progress");
    engine.kill();
    start.kill_all();
    let said = lab.say(&["start"]);
    assert_eq!(said.code, 6, "{}", said.err);
    assert!(said.err.contains("docker info"), "{}", said.err);

    engine.come_back();
    let mut start = lab.start(&["--until-idle"], &[]);
    start.line("run r1-2: running");
    lab.inside(GO);
    let ended = start.ended();
    assert_eq!(ended.code, 0, "{}", ended.text());
    assert_merged(&lab, 3);
    assert_eq!(lab.git(&["show", "main:found.txt"]), "found");
}

#[test]
fn an_engine_that_is_away_does_not_hold_up_the_end() {
    let Some((mut engine, lab)) = lab("stop while the engine is away", true) else {
        return;
    };
    let mut start = lab.start(&["--until-idle"], &[]);
    start.line("run r1-1: running");
    engine.kill();
    start.line("container engine: the Docker engine at ");
    let said = lab.ok(&["stop", "--now"]);
    assert!(said.contains("1 job goes on"), "{said}");
    let ended = start.ended();
    assert_eq!(ended.code, 130);
    assert!(ended.text().contains("agents may live on"));

    engine.come_back();
    let mut start = lab.start(&["--until-idle"], &[]);
    start.line("adopted r1-1");
    let status = lab.ok(&["status"]);
    assert!(status.contains(", adopted"), "{status}");
    lab.inside(GO);
    assert_eq!(start.ended().code, 0);
    assert_merged(&lab, 2);
}
