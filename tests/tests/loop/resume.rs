//! Runs that do not come to their own end, and what the next run finds.

use crate::{GREETED, comments, subjects};
use factory_core::{
    model::{NEEDS_HUMAN, Run, RunState, Stage},
    state::State,
};
use factory_testkit::{
    anthropic::Request,
    provider::{Outcome, Recorded},
};
use factory_tests::{Lab, Model, docker};

const MERGED: &str = "Merge pull request 1 from factory/1-greet-people\nBegin";
const AUTO: &str = "gates: {merge: auto}\n";

/// Writes the greeting, and is held before it commits it.
const HELD: &str = r#"
conversations:
  - name: greet
    steps:
      - text: First I write it.
        tool: Bash
        input: {command: "echo hello >greeting.txt && echo IT IS WRITTEN", description: write}
      - text: Now I hand it in.
        wait: held
        tool: Bash
        input: {command: "git add greeting.txt && { git diff --cached --quiet || git commit -qm Hello; } && git push -q", description: hand in}
      - text: Done.
"#;

/// One approved issue, and claude with a model that is held in the middle.
fn held(model: &Model, engine: &str) -> Lab {
    let mut lab = Lab::new();
    lab.env("TEST_API_KEY", "some-made-up-key");
    let config = format!("{GREETED}{AUTO}");
    lab.write("factory.yaml", &Lab::engine_config(engine, model, &config));
    lab.commit("Begin");
    lab.approved("Greet people", "");
    lab
}

/// One approved issue, and the engine `sh ./agent.sh`.
fn scripted(agent: &str, config: &str) -> Lab {
    let lab = Lab::new();
    lab.scripted(agent, &format!("{GREETED}{config}"));
    lab.approved("Greet people", "");
    lab
}

/// True once a checkpoint of a live run holds `text` in its file `path`.
fn saved(lab: &Lab, state: &State, path: impl Fn(&Run) -> String, text: &str) -> bool {
    state.runs.values().any(|run| {
        let Some(checkpoint) = &run.checkpoint else {
            return false;
        };
        let file = format!("{checkpoint}:{}", path(run));
        lab.look(&lab.below("door.git"), &["show", &file], "")
            .is_some_and(|bytes| String::from_utf8_lossy(&bytes).contains(text))
    })
}

/// SIGKILL, by the container engine, to the one container there is.
fn kill_container(lab: &Lab) {
    let containers = lab.on_engine().containers;
    assert_eq!(containers.len(), 1, "{containers:?}");
    docker(&["kill", &containers[0]]);
}

/// The end of a job that went well: merged once, and nothing is left.
fn assert_merged(lab: &Lab) {
    let state = lab.state();
    assert!(state.issues.is_empty() && state.prs.is_empty() && state.jobs.is_empty());
    assert_eq!(state.meta.last_pr, 1);
    assert_eq!(subjects(lab), MERGED);
    assert_eq!(lab.git(&["show", "main:greeting.txt"]), "hello");
    let checkpoints = ["for-each-ref", "refs/keep/checkpoint", "refs/namespaces"];
    assert_eq!(lab.looked(&lab.below("door.git"), &checkpoints), "");
    lab.assert_at_rest();
}

/// What the engine asked of its model, without side requests.
fn asked(model: &Model) -> Vec<(Recorded, Request)> {
    let all = model.requests().into_iter();
    all.filter_map(|recorded| {
        let request = recorded.request()?;
        request.tools.then_some((recorded, request))
    })
    .collect()
}

/// The second run took up the conversation of the first, which had asked
/// `before` times, and asked for nothing that was answered already.
fn assert_old_conversation(model: &Model, before: usize) {
    let asked = asked(model);
    let (first, request) = &asked[before];
    let body = String::from_utf8_lossy(&first.body);
    assert!(request.turns.first() == Some(&true), "{:?}", request.turns);
    for said in ["IT IS WRITTEN", "Your run was interrupted"] {
        assert!(body.contains(said), "no `{said}` in {body}");
    }
    let answers: Vec<_> = asked[before..]
        .iter()
        .map(|(recorded, _)| match &recorded.outcome {
            Outcome::Answer { answer, .. } => *answer,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(answers, [1, 2]);
}

/// True once a checkpoint of a live run holds a session that `said` something.
fn session_saved(lab: &Lab, state: &State, said: &str) -> bool {
    state.runs.values().any(|run| {
        let Some(checkpoint) = &run.checkpoint else {
            return false;
        };
        let door = lab.below("door.git");
        let tree = format!("{checkpoint}:session");
        let Some(names) = lab.look(&door, &["ls-tree", "--name-only", &tree], "") else {
            return false;
        };
        String::from_utf8_lossy(&names).lines().any(|name| {
            let file = format!("{tree}/{name}");
            lab.look(&door, &["show", &file], "")
                .is_some_and(|bytes| String::from_utf8_lossy(&bytes).contains(said))
        })
    })
}

/// The container of an engine dies in the middle of a conversation, which the next
/// run goes on with.
fn goes_on_in_its_conversation(engine: &str) {
    let model = Model::yaml(HELD);
    let lab = held(&model, engine);
    let mut start = lab.start(&["--until-idle"], &[]);
    model.reached("held");
    start.until("work and session are saved", |state| {
        saved(&lab, state, |_| "work/greeting.txt".to_owned(), "hello")
            && session_saved(&lab, state, "IT IS WRITTEN")
    });
    let before = asked(&model).len();
    kill_container(&lab);
    start.line("r1-1 killed");
    start.line("job 1: queued -> coding (r1-2, resumes r1-1)");
    model.release("held");
    let ended = start.ended();
    assert_eq!(ended.code, 0, "{}", ended.text());
    assert_old_conversation(&model, before);
    assert_merged(&lab);
    let shown = lab.ok(&["run", "show", "r1-1"]);
    assert!(shown.contains("ended, killed"), "{shown}");
    let shown = lab.ok(&["run", "show", "r1-2", "--json"]);
    assert!(shown.contains(r#""resumes": "r1-1""#), "{shown}");
}

#[test]
fn claude_in_a_killed_container_goes_on_in_its_conversation() {
    goes_on_in_its_conversation("claude");
}

#[test]
fn codex_in_a_killed_container_goes_on_in_its_conversation() {
    goes_on_in_its_conversation("codex");
}

#[test]
fn a_factory_that_is_stopped_at_once_goes_on_where_it_was() {
    let model = Model::yaml(HELD);
    let lab = held(&model, "claude");
    let mut start = lab.start(&["--until-idle"], &[]);
    start.until("its run is running", |state| {
        let mut runs = state.runs.values();
        runs.any(|run| matches!(run.state, RunState::Running { .. }))
    });
    model.reached("held");
    let before = asked(&model).len();
    let said = lab.ok(&["stop", "--now"]);
    assert!(said.contains("1 job goes on with the next"), "{said}");
    assert_eq!(start.ended().code, 130);
    lab.assert_at_rest();
    let job = lab.state().jobs.values().next().unwrap().clone();
    assert_eq!((job.breaks, job.rounds), (0, 0), "it counts for nothing");
    // It came as far as its last word: nobody had to kill it.
    let shown = lab.ok(&["run", "show", "r1-1"]);
    assert!(
        shown.contains("ended, killed: the factory was stopped") && shown.contains("process "),
        "{shown}"
    );

    model.release("held");
    let mut start = lab.start(&["--until-idle"], &[]);
    start.line("(r1-2, resumes r1-1)");
    let ended = start.ended();
    assert_eq!(ended.code, 0, "{}", ended.text());
    assert_old_conversation(&model, before);
    assert_merged(&lab);
}

#[test]
fn an_engine_that_ignores_sigterm_is_ended_within_the_grace_and_its_work_is_kept() {
    let agent = r#"set -eu
cat >/dev/null
if [ -e greeting.txt ]; then
  git add --all
  git diff --cached --quiet || git commit -q -m "Say hello"
  git push -q
else
  trap '' TERM INT
  echo hello >greeting.txt
  echo ignoring
  while :; do sleep 600 || :; done
fi
"#;
    let lab = scripted(agent, AUTO);
    let mut start = lab.start(&["--until-idle"], &[]);
    start.until("its work is saved", |state| {
        saved(&lab, state, |_| "work/greeting.txt".to_owned(), "hello")
    });
    let asked = std::time::Instant::now();
    lab.ok(&["stop", "--now"]);
    assert_eq!(start.ended().code, 130);
    let took = asked.elapsed().as_secs();
    // The container engine kills what is left after 20 s.
    assert!(took < 30, "it took {took} s");
    let shown = lab.ok(&["run", "show", "r1-1"]);
    assert!(
        shown.contains("ended, killed: the factory was stopped"),
        "{shown}"
    );
    lab.assert_at_rest();

    let mut start = lab.start(&["--until-idle"], &[]);
    start.line("(r1-2, resumes r1-1)");
    let ended = start.ended();
    assert_eq!(ended.code, 0, "{}", ended.text());
    assert_merged(&lab);
}

#[test]
fn the_uncommitted_work_of_a_killed_command_is_there_for_the_next_run() {
    let agent = r#"set -eu
cat >/tmp/brief
if [ -e greeting.txt ]; then
  found=$(git status --porcelain)
  echo "$found" >found.txt
  grep -h 'broke off' /tmp/brief >>found.txt
  git add --all
  git commit -q -m "Say hello"
  git push -q
else
  echo hello >greeting.txt
  exec sleep 600
fi
"#;
    let lab = scripted(agent, AUTO);
    let mut start = lab.start(&["--until-idle"], &[]);
    start.until("its work is saved", |state| {
        saved(&lab, state, |_| "work/greeting.txt".to_owned(), "hello")
    });
    kill_container(&lab);
    start.line("(r1-2, resumes r1-1)");
    let ended = start.ended();
    assert_eq!(ended.code, 0, "{}", ended.text());
    assert_merged(&lab);
    let found = lab.git(&["show", "main:found.txt"]);
    assert!(found.starts_with("?? greeting.txt\n"), "{found}");
    assert!(found.contains("(r1-1) broke off"), "{found}");
}

#[test]
fn work_that_could_not_be_handed_in_is_there_for_the_next_run() {
    let agent = r#"set -eu
cat >/dev/null
if [ ! -e greeting.txt ]; then
  echo hello >greeting.txt
  git add greeting.txt
  git commit -q -m "Say hello"
  GIT_SEQUENCE_EDITOR='sed -i 1s/pick/edit/' git rebase -q -i HEAD^
fi
"#;
    let lab = scripted(agent, &format!("{AUTO}rounds: 2\n"));
    lab.until_idle_ok();
    assert_merged(&lab);
    let shown = lab.ok(&["run", "show", "r1-1"]);
    assert!(shown.contains("A rebase is in progress"), "{shown}");
    let shown = lab.ok(&["run", "show", "r1-2", "--json"]);
    assert!(shown.contains(r#""resumes": "r1-1""#), "{shown}");
}

#[test]
fn a_silent_engine_is_ended_and_the_next_round_is_told() {
    // Silence is short for this test: the second engine gives signs of life all the time.
    let agent = r#"set -eu
cat >/tmp/brief
if grep -h 'said nothing for longer' /tmp/brief >told.txt; then
  while :; do echo working; sleep 0.2; done &
  git add --all
  git commit -q -m "Say what I was told"
  git push -q
else
  rm told.txt
  echo hello >greeting.txt
  exec sleep 600
fi
"#;
    let lab = scripted(agent, &format!("{AUTO}limits: {{stall: 2s}}\n"));
    lab.until_idle_ok();
    assert_merged(&lab);
    let told = lab.git(&["show", "main:told.txt"]);
    assert!(
        told.contains("(r1-1) broke off") && told.contains("limit of 2s"),
        "{told}"
    );
    let shown = lab.ok(&["run", "show", "r1-1"]);
    assert!(
        shown.contains("ended, stalled") && shown.contains("want of a sign of life"),
        "{shown}"
    );
}

/// Holds `mebibytes` in memory at once, then does its work and says how much it may use.
fn eats(mebibytes: u32) -> String {
    format!(
        r#"set -eu
cat >/dev/null
head -c {mebibytes}M /dev/zero | tail >/dev/null
echo hello >greeting.txt
cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes >limit.txt 2>/dev/null || :
git add --all
git commit -q -m "Say hello"
git push -q
"#
    )
}

#[test]
fn a_run_out_of_memory_is_tried_again_with_twice_as_much() {
    let lab = scripted(&eats(100), &format!("{AUTO}limits: {{memory: 64MiB}}\n"));
    lab.until_idle_ok();
    assert_merged(&lab);
    assert_eq!(lab.git(&["show", "main:limit.txt"]), "134217728");
    let shown = lab.ok(&["run", "show", "r1-1"]);
    assert!(
        shown.contains("ended, out of memory: it ran out of memory (64MiB)"),
        "{shown}"
    );
}

#[test]
fn a_run_out_of_twice_the_memory_needs_a_human() {
    let lab = scripted(&eats(300), "limits: {memory: 64MiB}\n");
    let ended = lab.until_idle();
    assert_eq!(ended.code, 10, "{}", ended.text());
    let story = comments(&lab);
    assert!(story.contains("(128MiB). Raise `limits.memory`"), "{story}");
    for told in ["r1-1: out of memory", "r1-2: out of memory"] {
        assert!(story.contains(told), "{story}");
    }
    assert!(!story.contains("r1-3"), "{story}");
    assert_needs_human(&lab, "r1-2: out of memory");

    // Does as it was told.
    let config = lab.read("factory.yaml");
    lab.write("factory.yaml", &config.replace("64MiB", "512MiB"));
    lab.commit("Raise the limit");
    lab.ok(&["issue", "approve", "1"]);
    lab.until_idle_ok();
    assert_eq!(lab.state().meta.last_pr, 1);
    lab.assert_at_rest();
}

/// A person is asked, and `status` says so and why.
fn assert_needs_human(lab: &Lab, last: &str) {
    let state = lab.state();
    assert_eq!(
        *state.jobs.values().next().unwrap().stage(),
        Stage::NeedsHuman
    );
    assert!(state.issues.values().next().unwrap().has_label(NEEDS_HUMAN));
    let status = lab.ok(&["status"]);
    assert!(
        status.contains(&format!(
            "Issues that need you to look at them:\n  1  Greet people  ({last}: "
        )),
        "{status}"
    );
    lab.assert_at_rest();
}

#[test]
fn the_third_kill_in_a_row_needs_a_human_who_reads_the_story() {
    let lab = scripted("cat >/dev/null; exec sleep 600\n", "");
    let mut start = lab.start(&["--until-idle"], &[]);
    for run in ["r1-1", "r1-2", "r1-3"] {
        start.line(&format!("run {run}: running"));
        kill_container(&lab);
        start.line(&format!("{run} killed"));
        if run == "r1-1" {
            let status = lab.ok(&["status"]);
            assert!(
                status.contains("try 2") && status.contains("(r1-1: killed: "),
                "{status}"
            );
        }
    }
    let ended = start.ended();
    assert_eq!(ended.code, 10, "{}", ended.text());
    let story = comments(&lab);
    assert!(story.contains("3 runs in a row were lost"), "{story}");
    for run in ["r1-1", "r1-2", "r1-3"] {
        assert!(story.contains(&format!("- {run}: killed: ")), "{story}");
        let shown = lab.ok(&["run", "show", run]);
        assert!(shown.contains("ended, killed: "), "{shown}");
    }
    assert_needs_human(&lab, "r1-3: killed");
}
