//! What a merge is judged by: the target's prohibitions, and paths that only a person may merge.

use crate::{GREETED, GREETER, subjects};
use factory_core::{
    ids::PrNo,
    model::{PrState, Purpose, RunState},
};
use factory_tests::Lab;

/// Greets, and more politely once it is told that a rule forbids its word.
const LEARNER: &str = r#"set -eu
word=hello
if grep -q "breaks rules of the target"; then word="good day"; fi
echo "$word" >greeting.txt
git add greeting.txt
git commit -q -m "Say $word"
git push -q
"#;
const ANY: &str = "checks: [\"test -s greeting.txt\"]\n";
/// Forbids the greeter's word.
const NO_HELLO: &str =
    "---\nenforce:\n  - pattern: hello\n    in: [greeting.txt]\n---\n# No hello\n\nSay good day.\n";
const NO_HELLO_FILE: &str = "prohibitions/0001-no-hello.md";

#[test]
fn an_automatic_gate_leaves_protected_paths_to_a_person() {
    let lab = Lab::new();
    let agent = format!(
        "mkdir -p .github/workflows\necho 'on: push' >.github/workflows/ci.yml\ngit add .github\n{GREETER}"
    );
    lab.scripted(
        &agent,
        &format!("{GREETED}gates: {{issues: auto, merge: auto}}\n"),
    );
    lab.ok(&["issue", "new", "--title", "Greet people"]);
    lab.until_idle();
    lab.assert_at_rest();
    assert_eq!(subjects(&lab), "Begin");
    let pr = &lab.state().prs[&PrNo(1)];
    assert_eq!(pr.state, PrState::Ready);
    for command in [&["status"][..], &["pr", "show", "1"]] {
        let said = lab.ok(command);
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(said.contains("a person decides"), "{said}");
        assert!(said.contains(".github/workflows/ci.yml"), "{said}");
    }
    let shown = lab.ok(&["pr", "show", "1"]);
    assert!(shown.contains("It changes protected paths"), "{shown}");
    lab.ok(&["pr", "merge", "1"]);
    assert_eq!(lab.read(".github/workflows/ci.yml"), "on: push\n");
    lab.assert_at_rest();
}

#[test]
fn a_prohibition_that_came_meanwhile_stops_the_merge_and_a_worker_mends_it() {
    let lab = Lab::new();
    lab.scripted(LEARNER, ANY);
    lab.approved("Greet people", "");
    lab.until_idle_ok();
    lab.write(NO_HELLO_FILE, NO_HELLO);
    lab.commit("Forbid hello");
    let said = lab.say(&["pr", "merge", "1"]);
    assert_eq!(said.code, 5, "{said:?}");
    assert!(said.err.contains("breaks rules of"), "{said:?}");
    lab.until_idle_ok();
    assert_eq!(subjects(&lab), "Forbid hello\nBegin");
    lab.ok(&["pr", "merge", "1"]);
    assert_eq!(lab.read("greeting.txt"), "good day\n");
    lab.assert_at_rest();
}

#[test]
fn what_a_person_commits_is_judged_too_and_told_to_a_person() {
    let lab = Lab::new();
    lab.write(NO_HELLO_FILE, NO_HELLO);
    lab.scripted(&GREETER.replace("echo hello", "echo welcome"), ANY);
    lab.approved("Greet people", "");
    lab.until_idle_ok();
    lab.git(&["checkout", "--quiet", "factory/1-greet-people"]);
    lab.write("greeting.txt", "hello\n");
    lab.commit("Hello is shorter");
    lab.git(&["checkout", "--quiet", "main"]);
    // What nobody has checked goes to the checks first.
    assert_eq!(lab.say(&["pr", "merge", "1"]).code, 5);
    lab.until_idle_ok();
    let said = lab.say(&["pr", "merge", "1"]);
    assert_eq!(said.code, 5, "{said:?}");
    let err = said.err.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in ["its newest commit", "greeting.txt:1", NO_HELLO_FILE] {
        assert!(err.contains(part), "{part}: {err}");
    }
    assert_eq!(subjects(&lab), "Begin");
    lab.assert_at_rest();
}

#[test]
fn while_a_rule_cannot_be_read_nothing_begins() {
    let lab = Lab::new();
    lab.scripted(GREETER, GREETED);
    let mut start = lab.start(&[], &[]);
    start.line("kernel:running");
    lab.write(NO_HELLO_FILE, "---\nenforce:\n  - pattern: 'hel[lo'\n---\n");
    lab.commit("Forbid hello");
    lab.approved("Greet people", "");
    let place = format!("{NO_HELLO_FILE}:3");
    start.line(&place);
    assert!(lab.ok(&["status"]).contains(&place));
    lab.assert_no_run();
    let doctor = lab.say(&["doctor"]);
    let said = format!("{}{}", doctor.out, doctor.err);
    assert!(
        said.contains(&place) && said.contains("unclosed character class"),
        "{said}"
    );
    lab.write(NO_HELLO_FILE, "# No hello\n");
    lab.commit("Forbid it in words");
    start.until("the job is done", |state| {
        state.prs.values().any(|pr| pr.state == PrState::Ready) && state.runs.is_empty()
    });
    start.interrupt();
    assert_eq!(start.ended().code, 0);
    // A start says so at once.
    lab.write(NO_HELLO_FILE, "---\nenforce: [\n---\n");
    lab.commit("Forbid nothing");
    let ended = lab.until_idle();
    assert_eq!(ended.code, 4, "{}", ended.text());
    assert!(ended.text().contains(NO_HELLO_FILE), "{}", ended.text());
}

/// A check that works until it is let go.
const HELD: &str = "checks: [\"until test -e /tmp/go; do sleep 0.1; done\"]\n";

#[test]
fn what_is_protected_while_the_checks_work_waits_for_a_person() {
    let lab = Lab::new();
    let gates = "gates: {issues: auto, merge: auto}\n";
    lab.scripted(GREETER, &format!("{HELD}{gates}"));
    let mut start = lab.start(&[], &[]);
    lab.ok(&["issue", "new", "--title", "Greet people"]);
    start.until("the check works", |state| {
        let mut runs = state.runs.values();
        let works = |run: &factory_core::model::Run| {
            run.purpose == Purpose::Check && matches!(run.state, RunState::Running { .. })
        };
        state.runs.len() == 1 && runs.all(works)
    });
    let config = lab.read("factory.yaml");
    lab.write(
        "factory.yaml",
        &format!("{config}protected: [greeting.txt]\n"),
    );
    lab.commit("Protect the greeting");
    lab.inside("touch /tmp/go");
    start.until("the merge is judged", |state| {
        let judged = |pr: &factory_core::model::Pr| {
            pr.note.is_some() || matches!(pr.state, PrState::Testing { .. })
        };
        state.prs.values().any(judged)
    });
    let pr = &lab.state().prs[&PrNo(1)];
    assert_eq!(pr.state, PrState::Ready);
    let note = pr.note.as_ref().unwrap();
    assert!(note.contains("a person decides"), "{note}");
    // While nobody can read what is protected, a person's word is not enough either.
    lab.write("factory.yaml", "slotz: 3\n");
    lab.commit("Break it");
    let said = lab.say(&["pr", "merge", "1"]);
    assert_eq!(said.code, 5, "{said:?}");
    assert!(said.err.contains("unknown key `slotz`"), "{said:?}");
    assert_eq!(
        subjects(&lab),
        "Break it\nProtect the greeting\nBegin",
        "nothing was merged"
    );
    start.interrupt();
    assert_eq!(start.ended().code, 0);
}

/// Writes more into the intent layer than is read, and mends it once it is told.
const BREAKER: &str = r#"set -eu
cat >/tmp/brief
mkdir -p intent
if grep -q "is large: " /tmp/brief; then
  exit 0 # it stays so
elif grep -q "nothing could begin" /tmp/brief; then
  rm -r intent
  echo hello >greeting.txt
else
  head -c 5000000 /dev/zero | tr '\0' x >intent/large.md
fi
git add --all
git commit -q -m "Say hello"
git push -q
"#;

#[test]
fn a_merge_after_which_nothing_could_begin_is_not_made() {
    let lab = Lab::new();
    lab.scripted(BREAKER, "checks: [\"true\"]\nprotected: []\n");
    lab.approved("Greet people", "");
    lab.until_idle_ok();
    let said = lab.say(&["pr", "merge", "1"]);
    assert_eq!(said.code, 5, "{said:?}");
    let feedback = lab.state().jobs.values().next().unwrap().feedback.clone();
    let feedback = feedback.unwrap();
    assert!(feedback.contains("make the files of intent"), "{feedback}");
    lab.until_idle_ok();
    // A person may commit what no agent may push.
    lab.git(&["checkout", "--quiet", "factory/1-greet-people"]);
    assert_eq!(lab.read("greeting.txt"), "hello\n");
    lab.write(NO_HELLO_FILE, "---\nenforce:\n  - pattern: 'hel[lo'\n---\n");
    lab.commit("Forbid hello");
    lab.git(&["checkout", "--quiet", "main"]);
    assert_eq!(lab.say(&["pr", "merge", "1"]).code, 5);
    lab.until_idle_ok();
    let said = lab.say(&["pr", "merge", "1"]);
    assert_eq!(said.code, 5, "{said:?}");
    let err = said.err.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in ["its newest commit", &format!("{NO_HELLO_FILE}:3")] {
        assert!(err.contains(part), "{part}: {err}");
    }
    assert_eq!(subjects(&lab), "Begin");
    lab.assert_at_rest();
}

/// What a coder of the repository's own is told.
const OWN: &str = "---\nname: greeter\ntype: worker\njob: greets\nrole: code\n---\nYou greet as they do in the harbour.\n";
const OWN_FILE: &str = ".factory/agents/greeter.md";
/// Does what its own role says; brings another agent, which is wrong, where nothing tells it not to.
const OWN_CODER: &str = r#"set -eu
grep -q 'as they do in the harbour' /run/factory/system.md
if ! grep -q 'nothing could begin'; then
  mkdir -p .factory/agents
  printf -- '---\nname: judge\ntype: worker\njob: judges\nrole: judge\n---\nYou judge.\n' >.factory/agents/judge.md
else
  git rm -q .factory/agents/judge.md
fi
echo ahoy >greeting.txt
git add --all
git commit -q -m "Say ahoy"
git push -q
"#;

#[test]
fn agents_of_the_repository_work_and_wrong_ones_stop_what_would_need_them() {
    let lab = Lab::new();
    lab.scripted(OWN_CODER, "checks: [\"true\"]\nprotected: []\n");
    lab.write(OWN_FILE, &OWN.replace("role: code", "role: coder"));
    lab.commit("An agent of ours");
    lab.approved("Greet people", "");
    let ended = lab.until_idle();
    assert_eq!(ended.code, 4, "{}", ended.text());
    let place = format!("{OWN_FILE}:5");
    assert!(ended.text().contains(&place), "{}", ended.text());
    lab.assert_no_run();
    lab.write(OWN_FILE, OWN);
    lab.commit("Its role is code");
    lab.until_idle_ok();
    let said = lab.say(&["pr", "merge", "1"]);
    assert_eq!(said.code, 5, "{said:?}");
    let feedback = lab.state().jobs.values().next().unwrap().feedback.clone();
    let feedback = feedback.unwrap();
    for part in ["nothing could begin", ".factory/agents/judge.md:5"] {
        assert!(feedback.contains(part), "{part}: {feedback}");
    }
    lab.until_idle_ok();
    lab.ok(&["pr", "merge", "1"]);
    assert_eq!(lab.read("greeting.txt"), "ahoy\n");
    lab.assert_at_rest();
}
