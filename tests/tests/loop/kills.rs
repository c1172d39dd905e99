//! Killed with SIGKILL at the worst moments, the factory comes to the same end.

use crate::{GREETED, GREETER, subjects};
use factory_tests::{Lab, Leftovers, Model, docker};
use std::{collections::BTreeMap, sync::OnceLock};

/// What a user finds at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
struct End {
    tree: String,
    subjects: String,
    refs: String,
    /// Names of all that is kept, with the words of issues, comments and pull requests.
    kept: BTreeMap<String, String>,
}

/// Commit ids and times differ from one undisturbed run to the next as well.
fn words(text: &str) -> String {
    let varies = |word: &str| {
        let word = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
        word.len() >= 7 && word.bytes().all(|b| b.is_ascii_hexdigit())
    };
    text.split_whitespace()
        .map(|word| if varies(word) { "#" } else { word })
        .collect::<Vec<_>>()
        .join(" ")
}

fn end(lab: &Lab) -> End {
    let state = lab.state();
    assert!(state.issues.is_empty() && state.prs.is_empty() && state.jobs.is_empty());
    let archive = lab.state_files("archive/").unwrap();
    let kept = archive
        .into_iter()
        .map(|(name, bytes)| {
            let text = String::from_utf8(bytes).unwrap();
            let body = text.rsplit("\n---\n").next().unwrap();
            let of_words = name.ends_with(".md");
            (name, if of_words { words(body) } else { String::new() })
        })
        .collect();
    lab.assert_at_rest();
    End {
        tree: lab.git(&["rev-parse", "main^{tree}"]),
        subjects: subjects(lab),
        refs: lab.git(&["for-each-ref", "--format=%(refname)"]),
        kept,
    }
}

fn approved() -> Lab {
    let lab = Lab::new();
    lab.scripted(GREETER, &format!("{GREETED}gates: {{merge: auto}}\n"));
    lab.approved("Greet people", "There should be a greeting.");
    lab
}

/// The end when nobody is killed.
fn undisturbed() -> &'static End {
    static END: OnceLock<End> = OnceLock::new();
    END.get_or_init(|| {
        let lab = approved();
        lab.until_idle_ok();
        let end = end(&lab);
        assert_eq!(
            end.subjects,
            "Merge pull request 1 from factory/1-greet-people\nBegin"
        );
        end
    })
}

fn killed_at(failpoint: &str) {
    let lab = approved();
    let mut start = lab.start(
        &["--until-idle"],
        &[("FAILPOINTS", &format!("{failpoint}=return"))],
    );
    start.line(&format!("failpoint {failpoint} reached"));
    start.kill_launcher_and_kernel();
    lab.until_idle_ok();
    assert_eq!(&end(&lab), undisturbed(), "killed at {failpoint}");
}

#[test]
fn killed_after_the_grant() {
    killed_at("after-grant");
}

#[test]
fn killed_after_create() {
    killed_at("after-create");
}

#[test]
fn killed_after_start() {
    killed_at("after-start");
}

#[test]
fn killed_after_the_agents_push() {
    killed_at("after-push");
}

#[test]
fn killed_before_the_merge() {
    killed_at("before-merge");
}

const HELD: &str = r#"
conversations:
  - name: greet
    steps:
      - text: Let me look first.
        tool: Bash
        input: {command: "ls", description: look}
      - text: Now I write it.
        wait: killed meanwhile
        tool: Bash
        input: {command: "echo hello >greeting.txt && git add greeting.txt && git commit -qm Hello && git push -q", description: work}
      - text: Done.
"#;

#[test]
fn killed_while_claude_waits_for_a_streamed_answer() {
    let model = Model::yaml(HELD);
    let mut lab = Lab::new();
    lab.env("TEST_API_KEY", "some-made-up-key");
    lab.write("factory.yaml", &Lab::claude_config(&model, GREETED));
    lab.commit("Begin");
    lab.approved("Greet people", "");
    let start = lab.start(&["--until-idle"], &[]);
    model.reached("killed meanwhile");
    start.kill_launcher_and_kernel();
    let container = lab.on_engine().containers;
    assert_eq!(container.len(), 1, "the agent lives on: {container:?}");
    let began = docker(&["inspect", "--format", "{{.State.StartedAt}}", &container[0]]);

    let mut start = lab.start(&["--until-idle"], &[]);
    start.line("kernel");
    assert_eq!(
        docker(&["inspect", "--format", "{{.State.StartedAt}}", &container[0]]),
        began
    );
    model.release("killed meanwhile");
    let ended = start.ended();
    assert_eq!(ended.code, 0, "{}", ended.text());
    // A broken stream would have been asked for again.
    let asked: Vec<_> = model.requests().iter().map(|r| r.body.clone()).collect();
    for (index, body) in asked.iter().enumerate() {
        assert!(
            !asked[..index].contains(body),
            "request {index} is a repetition"
        );
    }
    let answers = model.requests().iter().filter(|r| is_answer(r)).count();
    assert_eq!(
        answers,
        3,
        "{:#?}",
        model
            .requests()
            .iter()
            .map(|r| &r.outcome)
            .collect::<Vec<_>>()
    );
    let state = lab.state();
    assert_eq!((state.prs.len(), state.meta.last_pr), (1, 1));
    assert_eq!(
        state.issues.values().next().unwrap().runs,
        2,
        "one code run, one check"
    );
    assert_eq!(lab.on_engine(), Leftovers::default());
    lab.assert_at_rest();
}

fn is_answer(request: &factory_testkit::provider::Recorded) -> bool {
    matches!(
        request.outcome,
        factory_testkit::provider::Outcome::Answer { .. }
    )
}
