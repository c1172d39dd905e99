//! What providers do wrong, through the real engines in their containers: each
//! ends in the right class, is tried again as it should be, and loses no commit.

use crate::{GREETED, comments, subjects};
use factory_core::model::Stage;
use factory_testkit::{
    provider::Outcome,
    scenario::{Fault, Scenario, Step},
};
use factory_tests::{Ended, Lab, Model};

/// Hands work in before anything goes wrong.
const BEGINS: &str = r#"
conversations:
  - name: greet
    steps:
      - text: I write it.
        tool: Bash
        input: {command: "echo hello >greeting.txt && git add greeting.txt && { git diff --cached --quiet || git commit -qm Hello; } && git push -q", description: hand in}
"#;

/// What passes: each fault strikes once or twice, between two steps of the work.
const PASSES: &str = r#"
      - {status: 429, retry_after: 1, times: 2}
      - {text: One., tool: Bash, input: {command: "echo 1", description: one}}
      - {status: 429, times: 2}
      - {text: Two., tool: Bash, input: {command: "echo 2", description: two}}
      - {status: 500, times: 2}
      - {text: Three., tool: Bash, input: {command: "echo 3", description: three}}
      - {status: 529, times: 2}
      - {text: Four., tool: Bash, input: {command: "echo 4", description: four}}
      - {cut_after_events: 3}
      - {text: Five., tool: Bash, input: {command: "echo 5", description: five}}
      - {silent_after_events: 3}
      - {text: Six., tool: Bash, input: {command: "echo 6", description: six}}
      - {hang: true}
      - {text: Seven., tool: Bash, input: {command: "echo 7", description: seven}}
      - {bad_call: true}
      - text: Done.
"#;

/// The waits of the gateway, so that silence ends while a test can wait for it.
const WAITS: (&str, &str) = ("FAILPOINTS", "gateway-waits=return(1500)");

/// One approved issue for `engine`, whose model follows the steps after [`BEGINS`].
fn lab(engine: &str, steps: &str) -> (Model, Lab) {
    lab_with(engine, steps, "gates: {merge: auto}\n")
}

fn lab_with(engine: &str, steps: &str, rest: &str) -> (Model, Lab) {
    println!("== {engine}: {steps}");
    let model = Model::serve(scenario(steps));
    let mut lab = Lab::new();
    lab.env("TEST_API_KEY", "some-made-up-key");
    let config = format!("{GREETED}{rest}");
    lab.write("factory.yaml", &Lab::engine_config(engine, &model, &config));
    lab.commit("Begin");
    lab.approved("Greet people", "");
    (model, lab)
}

fn scenario(steps: &str) -> Scenario {
    Scenario::parse(
        &format!("{BEGINS}{}", steps.trim_start_matches('\n')),
        "test",
    )
    .unwrap()
}

/// The job ended well, with its first run as `first` and so many code runs.
fn assert_merged(lab: &Lab, ended: &Ended, first: &str, code_runs: usize) {
    assert_eq!(ended.code, 0, "{}", ended.text());
    assert_eq!(lab.git(&["show", "main:greeting.txt"]), "hello");
    let merged = "Merge pull request 1 from factory/1-greet-people\nBegin";
    assert_eq!(subjects(lab), merged);
    let shown = lab.ok(&["run", "show", "r1-1"]);
    assert!(shown.contains(first), "no `{first}` in {shown}");
    let runs = lab.ok(&["run", "list", "--all"]);
    assert_eq!(runs.matches("  code  ").count(), code_runs, "{runs}");
    lab.assert_at_rest();
}

/// Failures that pass are gone through within one run.
fn passes(engine: &str) {
    let (model, lab) = lab(engine, PASSES);
    let ended = lab.start(&["--until-idle"], &[WAITS]).ended();
    assert_merged(&lab, &ended, "ended: pushed", 1);
    let struck: Vec<Fault> = model
        .requests()
        .into_iter()
        .filter_map(|request| match request.outcome {
            Outcome::Fault { fault, .. } => Some(fault),
            Outcome::Answer { .. } | Outcome::SideRequest { .. } => None,
            Outcome::Refused { message, .. } => panic!("{message}"),
        })
        .collect();
    for step in &scenario(PASSES).conversations[0].steps {
        if let Step::Fault { fault, .. } = step {
            // One that hung was answered after all, and is not recorded as such.
            assert!(
                *fault == Fault::Hang || struck.contains(fault),
                "{fault:?} in {struck:?}"
            );
        }
    }
    let shown = lab.ok(&["run", "logs", "r1-1"]);
    assert!(
        shown.contains("Seven.") && shown.contains("broke off"),
        "{shown}"
    );
}

/// What is refused is a person's at once, and what was pushed is published.
fn is_refused(engine: &str, fault: &str) {
    let steps = format!("      - {{{fault}, times: always}}\n      - text: Done.\n");
    let (_model, lab) = lab(engine, &steps);
    let ended = lab.start(&["--until-idle"], &[WAITS]).ended();
    assert_eq!(ended.code, 10, "{}", ended.text());
    let job = lab.state().jobs.values().next().unwrap().clone();
    assert_eq!(*job.stage(), Stage::NeedsHuman);
    assert_eq!(
        lab.git(&["show", "factory/1-greet-people:greeting.txt"]),
        "hello"
    );
    let shown = lab.ok(&["run", "show", "r1-1"]);
    assert!(shown.contains("ended, refused"), "{shown}");
    let story = comments(&lab);
    assert!(story.contains("TEST_API_KEY"), "{story}");
    let runs = lab.ok(&["run", "list", "--all"]);
    assert_eq!(runs.matches("  code  ").count(), 1, "{runs}");
    lab.assert_at_rest();
}

/// The conversation becomes longer than the model can read.
fn becomes_too_long(engine: &str, first: &str, code_runs: usize) {
    let (_model, lab) = lab(engine, "      - {too_long: true}\n      - text: Done.\n");
    let ended = lab.start(&["--until-idle"], &[WAITS]).ended();
    assert_merged(&lab, &ended, first, code_runs);
}

/// The gateway is killed in the middle of an answer; the launcher starts another.
fn outlives_its_gateway(engine: &str) {
    let (model, lab) = lab(engine, "      - {text: Done., wait: held}\n");
    let mut start = lab.start(&["--until-idle"], &[]);
    model.reached("held");
    start.until("its push is known", |state| {
        state.runs.values().any(|run| run.pushed.is_some())
    });
    start.kill("gateway");
    model.release("held");
    let ended = start.ended();
    assert_merged(&lab, &ended, "ended: pushed", 1);
}

/// It compacts what was said, and goes on.
#[test]
fn claude_meets_a_provider_that_fails() {
    passes("claude");
    is_refused("claude", "status: 401");
    is_refused("claude", "status: 403");
    becomes_too_long("claude", "ended: pushed", 1);
    outlives_its_gateway("claude");
}

#[test]
fn codex_meets_a_provider_that_fails() {
    passes("codex");
    is_refused("codex", "status: 401");
    is_refused("codex", "status: 403");
    becomes_too_long("codex", "ended, engine error", 2);
    outlives_its_gateway("codex");
}

#[test]
fn mini_meets_a_provider_that_fails() {
    passes("mini");
    is_refused("mini", "status: 401");
    is_refused("mini", "status: 403");
    becomes_too_long("mini", "ended, engine error", 2);
    outlives_its_gateway("mini");
}

#[test]
fn claude_meets_an_account_without_credit() {
    is_refused("claude", "status: 402");
    is_refused("claude", "no_credit: true");
    is_refused("claude", "error_event: billing_error");
}

#[test]
fn codex_meets_an_account_without_credit() {
    is_refused("codex", "status: 402");
    is_refused("codex", "no_credit: true");
    is_refused("codex", "error_event: insufficient_quota");
}

#[test]
fn mini_meets_an_account_without_credit() {
    is_refused("mini", "status: 402");
    is_refused("mini", "no_credit: true");
}

/// A run ends at its budget with all that it has, and another one goes on.
fn goes_on_after_its_budget(engine: &str) {
    let config = "gates: {merge: auto}\nbudget: {per_run: {tokens: 1}}\n";
    let (_model, lab) = lab_with(engine, "      - text: Done.\n", config);
    let ended = lab.start(&["--until-idle"], &[]).ended();
    assert_merged(&lab, &ended, "ended, over budget", 2);
    let plan = lab.ok(&["plan", "--json"]);
    assert!(plan.contains("\"done\": 1"), "{plan}");
}

/// A job without money is a person's, and what was pushed is published.
fn is_held_to_its_jobs_budget(engine: &str) {
    let config = "gates: {merge: auto}\nbudget: {per_job: {tokens: 1}}\n";
    let (model, lab) = lab_with(engine, "      - text: Done.\n", config);
    let ended = lab.start(&["--until-idle"], &[]).ended();
    assert_eq!(ended.code, 10, "{}", ended.text());
    assert_eq!(
        lab.git(&["show", "factory/1-greet-people:greeting.txt"]),
        "hello"
    );
    let answers = |request: &factory_testkit::provider::Recorded| {
        matches!(request.outcome, Outcome::Answer { .. })
    };
    let requests = model.requests();
    assert_eq!(requests.iter().filter(|r| answers(r)).count(), 1);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    for request in &requests {
        let asked = String::from_utf8_lossy(&request.body);
        assert!(!asked.contains(kernel.trim()), "the host's kernel: {asked}");
    }
    let shown = lab.ok(&["run", "show", "r1-1"]);
    assert!(shown.contains("ended, over budget"), "{shown}");
    let story = comments(&lab);
    assert!(story.contains("budget.per_job"), "{story}");
    lab.assert_at_rest();
}

#[test]
fn claude_is_held_to_its_budget() {
    goes_on_after_its_budget("claude");
    is_held_to_its_jobs_budget("claude");
}

#[test]
fn codex_is_held_to_its_budget() {
    goes_on_after_its_budget("codex");
    is_held_to_its_jobs_budget("codex");
}

#[test]
fn mini_is_held_to_its_budget() {
    is_held_to_its_jobs_budget("mini");
}
