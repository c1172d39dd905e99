//! One factory on two machines, by way of a shared remote; and a copied one.

use crate::{GREETED, subjects};
use factory_core::{model::Run, state::State};
use factory_tests::{EngineSetup, Lab, OwnEngine, Start, docker};
use std::{path::Path, process::Command};
use tempfile::TempDir;

/// Begins, and is cut off; whoever finds that begun finishes it.
const TWO_HALVES: &str = r#"set -eu
cat >/tmp/brief
if [ -e greeting.txt ]; then
  found=$(git status --porcelain)
  echo "$found" >found.txt
  git add --all
  git commit -q -m "Say hello"
  git push -q
else
  echo hello >greeting.txt
  exec sleep 600
fi
"#;
const MERGED: &str = "Merge pull request 1 from factory/1-greet-people\nBegin";

/// A machine with one approved issue and the shared remote of its repository.
fn first() -> (Lab, TempDir) {
    let remote = tempfile::Builder::new()
        .prefix("factory-remote-")
        .tempdir()
        .unwrap();
    let lab = Lab::new();
    lab.scripted(TWO_HALVES, &format!("{GREETED}gates: {{merge: auto}}\n"));
    let path = remote.path().to_str().unwrap();
    lab.git(&["init", "--quiet", "--bare", path]);
    lab.git(&["remote", "add", "origin", path]);
    lab.git(&["push", "--quiet", "origin", "main"]);
    lab.approved("Greet people", "");
    (lab, remote)
}

/// A second clone of the remote, which never saw a factory.
fn second(remote: &TempDir) -> Lab {
    let lab = Lab::new();
    lab.git(&["remote", "add", "origin", remote.path().to_str().unwrap()]);
    lab.git(&["fetch", "--quiet", "origin"]);
    lab.git(&["checkout", "--quiet", "-B", "main", "origin/main"]);
    lab
}

/// Waits until a checkpoint of a live run holds the greeting.
fn until_saved(lab: &Lab, start: &mut Start<'_>) {
    let saved = |run: &Run| {
        let file = format!("{}:work/greeting.txt", run.checkpoint.as_ref()?);
        lab.look(&lab.below("door.git"), &["show", &file], "")
    };
    start.until("its work is saved", |state: &State| {
        state.runs.values().any(|run| saved(run).is_some())
    });
}

fn refs(remote: &Path) -> String {
    let out = Command::new("git")
        .args(["-C", remote.to_str().unwrap(), "for-each-ref"])
        .output()
        .unwrap();
    String::from_utf8(out.stdout).unwrap()
}

/// What the second machine has done: once, from what the first had saved.
fn assert_finished(lab: &Lab) {
    assert_eq!(subjects(lab), MERGED);
    assert_eq!(lab.git(&["show", "main:found.txt"]), "?? greeting.txt");
    let state = lab.state();
    assert!(state.issues.is_empty() && state.prs.is_empty() && state.jobs.is_empty());
    assert_eq!(state.meta.last_pr, 1);
    let shown = lab.ok(&["run", "show", "r1-1"]);
    assert!(shown.contains("ended, lost: the work moved to"), "{shown}");
    let shown = lab.ok(&["run", "show", "r1-2", "--json"]);
    assert!(shown.contains(r#""resumes": "r1-1""#), "{shown}");
    lab.assert_at_rest();
}

#[test]
fn a_second_machine_goes_on_after_the_first_one_died() {
    let test = "a_second_machine_goes_on_after_the_first_one_died";
    let (one, remote) = first();
    let mut start = one.start(&["--until-idle"], &[]);
    until_saved(&one, &mut start);
    let said = one.ok(&["sync", "--yes"]);
    assert!(said.contains("brought to origin: "), "{said}");
    let gateway = start.process("gateway");
    start.kill_launcher_and_kernel();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(gateway.pid as i32).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    assert_eq!(one.on_engine().containers.len(), 1);

    // An engine of its own where that is possible; homes differ in any case.
    // It outlives what uses it.
    let engine = OwnEngine::start(test, EngineSetup::default());
    let mut two = second(&remote);
    if let Some(engine) = &engine {
        let id = one.image();
        let tag = docker(&["inspect", "--format", "{{index .RepoTags 0}}", &id]);
        engine.copy_image(tag.trim());
        two.env("DOCKER_HOST", &engine.host());
    }
    let ended = two.begin(&["--take-over", "--until-idle"], &[]).ended();
    assert_eq!(ended.code, 0, "{}", ended.text());
    for told in ["ago): ", "taken over from", "left behind r1-1"] {
        assert!(
            ended.text().contains(told) || two.ok(&["log"]).contains(told),
            "no `{told}` in {}",
            ended.text()
        );
    }
    assert_finished(&two);
    two.git(&["push", "--quiet", "origin", "main"]);
    two.ok(&["sync"]);
    let shared = refs(remote.path());

    // The first one is started again, and learns it before it does anything.
    let before = (one.git(&["for-each-ref"]), one.state());
    let ended = one.begin(&["--until-idle"], &[]).ended();
    assert_eq!(ended.code, 11, "{}", ended.text());
    assert!(ended.text().contains("goes on with this factory"));
    assert_eq!((one.git(&["for-each-ref"]), one.state()), before);
    one.assert_at_rest();
    let said = one.say(&["sync"]);
    assert_eq!(said.code, 11);
    let said = one.say(&["issue", "new", "--title", "Too late"]);
    assert_eq!(said.code, 11);
    assert_eq!(refs(remote.path()), shared, "nothing is doubled");

    // Back again: first it lacks the merge that the other machine made.
    let said = one.begin(&["--take-over", "--until-idle"], &[]).ended();
    assert_eq!(said.code, 5, "{}", said.text());
    assert!(said.text().contains("lacks 2 commits"), "{}", said.text());
    one.git(&["pull", "--quiet", "--ff-only", "origin", "main"]);
    let ended = one.begin(&["--take-over", "--until-idle"], &[]).ended();
    assert_eq!(ended.code, 0, "{}", ended.text());
    assert_finished(&one);
    one.ok(&["issue", "new", "--title", "Next"]);
    one.ok(&["sync"]);
    assert_eq!(two.say(&["sync"]).code, 11);
    for lab in [&one, &two] {
        lab.ok(&["state", "verify"]);
    }
}

#[test]
fn a_factory_that_runs_ends_when_it_learns_that_it_was_taken_over() {
    let (one, remote) = first();
    let mut start = one.start(&["--until-idle"], &[]);
    until_saved(&one, &mut start);
    one.ok(&["sync", "--yes"]);
    let two = second(&remote);
    let ended = two.begin(&["--take-over", "--until-idle"], &[]).ended();
    assert_eq!(ended.code, 0, "{}", ended.text());
    assert_finished(&two);
    // Same engine, two homes: nobody took the other's container away.
    assert_eq!(one.on_engine().containers.len(), 1);

    one.ok(&["issue", "comment", "1", "--body", "not yet brought there"]);
    let said = one.say(&["sync"]);
    assert_eq!(said.code, 11);
    for told in [
        "is not carried over",
        "not carried over: issue 1",
        "goes on with this factory, since",
        "origin has the state of",
    ] {
        assert!(
            said.err.replace("are not", "is not").contains(told),
            "no `{told}` in {}",
            said.err
        );
    }
    let ended = start.ended();
    assert_eq!(ended.code, 11, "{}", ended.text());
    assert_eq!(subjects(&one), "Begin");
    assert_eq!(one.git(&["branch", "--format=%(refname:short)"]), "main");
    one.assert_at_rest();
    let status = one.ok(&["status"]);
    let told = ["another machine goes on", "left behind: its work goes on"];
    assert!(told.iter().all(|told| status.contains(told)), "{status}");

    // Back again, without what only this machine had.
    two.git(&["push", "--quiet", "origin", "main"]);
    two.ok(&["sync"]);
    one.git(&["pull", "--quiet", "--ff-only", "origin", "main"]);
    let ended = one.begin(&["--take-over", "--until-idle"], &[]).ended();
    assert_eq!(ended.code, 0, "{}", ended.text());
    let kept = "what was here before is kept at refs/factory-lost/";
    assert!(ended.text().contains(kept), "{}", ended.text());
    assert_finished(&one);
    one.ok(&["state", "verify"]);
}

#[test]
fn a_copied_repository_is_another_factory_and_touches_nothing_of_the_first() {
    let (one, _remote) = first();
    let mut start = one.start(&["--until-idle"], &[]);
    until_saved(&one, &mut start);
    let before = one.on_engine().containers;
    let began = |name: &str| docker(&["inspect", "--format", "{{.State.StartedAt}}", name]);
    let since = began(&before[0]);

    let copy = Lab::new();
    std::fs::remove_dir_all(copy.repo()).unwrap();
    let copied = Command::new("cp")
        .args(["-a", one.repo().to_str().unwrap()])
        .arg(copy.repo())
        .status()
        .unwrap();
    assert!(copied.success());
    assert_ne!(one.home(), copy.home());
    let status = copy.ok(&["status"]);
    assert!(status.contains("that this is a copy of"), "{status}");
    let ended = copy.until_idle_ok();
    let told = "r1-1 done again here";
    assert!(ended.text().contains(told), "{}", ended.text());
    assert_eq!(subjects(&copy), MERGED);
    copy.assert_at_rest();

    assert_eq!(one.on_engine().containers, before);
    assert_eq!(began(&before[0]), since);
    let state = one.state();
    assert!(state.runs.len() == 1 && state.issues.len() == 1);
    assert_eq!(subjects(&one), "Begin");
    one.ok(&["stop", "--now"]);
    assert_eq!(start.ended().code, 130);
    one.until_idle_ok();
    assert_eq!(subjects(&one), MERGED);
    one.assert_at_rest();
}

#[test]
fn a_second_start_is_refused_and_told_who_runs() {
    let (one, _remote) = first();
    let mut start = one.start(&["--until-idle"], &[]);
    until_saved(&one, &mut start);
    let both = |start: &mut Start<'_>| ["kernel", "gateway"].map(|role| start.process(role).pid);
    let there = both(&mut start);
    let [kernel, _] = there;
    for arguments in [&["--until-idle"][..], &["--until-idle", "--take-over"]] {
        let ended = one.begin(arguments, &[]).ended();
        assert_eq!(ended.code, 9, "{}", ended.text());
        let told = format!("another factory runs in this repository (pid {kernel}, since 20");
        assert!(ended.text().contains(&told), "{}", ended.text());
    }
    assert_eq!(both(&mut start), there, "the first one is left alone");
    one.ok(&["stop", "--now"]);
    assert_eq!(start.ended().code, 130);
    one.assert_at_rest();
}
