//! What a merge is judged by: rules of the target, and paths that only a person may merge.

use crate::{
    given::{config, engine, file},
    world::World,
};
use factory_core::{
    config::{Config, Secrets},
    event::{Command, Event, MergeResult, Now},
    ids::{IssueNo, Oid, PrNo},
    model::{Change, PrState, Stage},
    plan::{Observed, plan},
    rules::{Globs, ToldPaths},
    state::State,
};

const PR: PrNo = PrNo(1);

/// A world whose pull request 1 is queued, since a person or `factory.yaml` opened the gate.
fn queued(auto: bool) -> World {
    let mut world = World::new(11, false, config(auto));
    file(&mut world, "One");
    if !auto {
        assert!(world.journal(by_ann(Command::Approve(IssueNo(1)))));
        world.until_idle();
        assert!(world.journal(by_ann(Command::MergePr(PR))));
    } else {
        let is_queued = |state: &State| {
            let pr = state.prs.get(&PR);
            pr.is_some_and(|pr| matches!(pr.state, PrState::Queued { .. }))
        };
        until(&mut world, is_queued);
    }
    world
}

/// Performs what is planned until something is so.
fn until(world: &mut World, is_so: impl Fn(&State) -> bool) {
    while !is_so(&world.state) {
        let observed = Observed {
            containers: world.containers.clone(),
            engine: engine(),
            ..Observed::default()
        };
        let action = plan(&world.state, &observed, Now(0)).remove(0);
        world.perform(action);
    }
}

fn by_ann(command: Command) -> Event {
    Event::Command {
        by: "ann".into(),
        command,
    }
}

fn made(world: &World, result: MergeResult) -> Event {
    Event::MergeMade {
        pr: PR,
        target: world.target.clone(),
        result,
    }
}

fn clean(protected: &[&str]) -> MergeResult {
    MergeResult::Clean {
        merge: Oid::zero(),
        tree_is_heads: true,
        worktree: None,
        protected: ToldPaths::from_iter(protected),
        change: Change::default(),
    }
}

#[test]
fn no_evidence_merges_a_protected_path() {
    let mut world = queued(true);
    let paths: Vec<String> = (0..22).map(|n| format!("principles/{n}.md")).collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    assert!(world.journal(made(&world, clean(&paths))));
    let pr = &world.state.prs[&PR];
    assert_eq!(pr.state, PrState::Ready);
    let note = pr.note.clone().unwrap();
    assert!(
        note.contains("a person decides") && note.contains("principles/0.md, principles/1.md"),
        "{note}"
    );
    assert!(note.ends_with("principles/19.md, and 2 more"), "{note}");
    world.until_idle();
    assert!(world.merged.is_empty(), "the gate stays closed");
    // A person's word is enough.
    assert!(world.journal(by_ann(Command::MergePr(PR))));
    assert!(world.journal(made(&world, clean(&["factory.yaml"]))));
    assert!(matches!(
        world.state.prs[&PR].state,
        PrState::Advancing { .. }
    ));
}

#[test]
fn nothing_protected_goes_through_an_automatic_gate() {
    let mut world = queued(true);
    assert!(world.journal(made(&world, clean(&[]))));
    assert!(matches!(
        world.state.prs[&PR].state,
        PrState::Advancing { .. }
    ));
}

#[test]
fn what_breaks_a_rule_goes_back_to_a_worker_with_the_findings() {
    let mut world = queued(false);
    let findings = "src/a.rs:7: an added line matches `unsafe` (prohibitions/0001-x.md). Write it another way.";
    let forbidden = MergeResult::Forbidden {
        findings: findings.into(),
        person: None,
    };
    assert!(world.journal(made(&world, forbidden)));
    let job = &world.state.jobs[&IssueNo(1)];
    assert_eq!(*job.stage(), Stage::Queued);
    assert!(job.feedback.as_ref().unwrap().contains(findings));
    assert_eq!(world.state.prs[&PR].state, PrState::Reworking);
    world.until_idle();
    assert_eq!(world.state.prs[&PR].state, PrState::Ready);
    assert!(world.journal(by_ann(Command::MergePr(PR))));
    world.until_idle();
    assert_eq!(world.merged, [1]);
}

#[test]
fn what_a_person_broke_is_told_to_a_person() {
    let mut world = queued(false);
    let forbidden = MergeResult::Forbidden {
        findings: "a.txt:1: an added line matches `x`".into(),
        person: Some("Ann".into()),
    };
    assert!(world.journal(made(&world, forbidden)));
    let pr = &world.state.prs[&PR];
    assert_eq!(pr.state, PrState::Ready);
    let note = pr.note.as_ref().unwrap();
    assert!(
        note.contains("is by Ann") && note.contains("a.txt:1"),
        "{note}"
    );
    assert_eq!(*world.state.jobs[&IssueNo(1)].stage(), Stage::Proposed);
}

#[test]
fn a_code_run_is_granted_what_its_pushes_are_judged_by() {
    let config = Config {
        secrets: Secrets {
            allow_in: Globs::new(["fixtures"]).unwrap(),
        },
        ..config(true)
    };
    let mut world = World::new(12, false, config.clone());
    file(&mut world, "One");
    until(&mut world, |state| !state.runs.is_empty());
    let run = world.state.runs.values().next().unwrap();
    let rules = run.grant.rules.as_ref().unwrap();
    assert_eq!(rules.target, run.intent);
    assert_eq!(rules.allow_secrets_in, config.secrets.allow_in);
    assert_eq!(rules.protected, config.protected);
    world.until_idle();
    world.assert_replay();
}
