//! The whole life of issues against a small random world: agents that push, push
//! nothing, break off, get lost; checks that are red or green; conflicts, moved
//! targets, refusals; and crashes at every point.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends at what it did not expect, its helpers too"
)]

mod agent;
mod breaker;
mod budget;
mod crash;
mod filing;
mod given;
mod handed;
mod moved;
mod pipeline;
mod queue;
mod rules;
mod scripted;
mod share;
mod sim;
mod untrusted;
mod world;

use factory_core::{
    event::{Command, Event, MergeResult, Now},
    ids::{IssueNo, PrNo},
    model::{IssueState, PrState},
    plan::{Action, Observed, plan},
};
use given::{config, file};
use proptest::prelude::*;
use world::World;

#[test]
fn an_undisturbed_issue_is_merged_and_closed() {
    let mut world = World::new(7, false, config(true));
    file(&mut world, "Add a thing: with # odd \"characters\"");
    world.until_idle();
    assert_eq!(world.merged, [1]);
    assert!(
        world.state.issues.is_empty() && world.state.prs.is_empty() && world.state.jobs.is_empty()
    );
    let issue = String::from_utf8(world.files["archive/issues/0/1.md"].clone()).unwrap();
    assert!(issue.contains("pr: 1"), "{issue}");
    let comment = String::from_utf8(world.files["archive/issues/0/1.d/c-1.md"].clone()).unwrap();
    assert!(
        comment.contains("pull request 1 was merged into main"),
        "{comment}"
    );
}

#[test]
fn human_gates_hold_and_open() {
    let mut world = World::new(7, false, config(false));
    file(&mut world, "One");
    world.until_idle();
    assert_eq!(world.state.issues[&IssueNo(1)].state, IssueState::Proposed);
    let by = |command| Event::Command {
        by: "ann".into(),
        command,
    };
    assert!(world.journal(by(Command::Approve(IssueNo(1)))));
    assert!(
        !world.journal(by(Command::Approve(IssueNo(1)))),
        "approved twice"
    );
    world.until_idle();
    let pr = world.state.prs.values().next().unwrap().clone();
    assert_eq!(pr.state, PrState::Ready);
    assert!(world.journal(by(Command::RejectPr {
        pr: pr.number,
        reason: "too\nlong".into()
    })));
    world.until_idle();
    assert!(world.state.prs.is_empty() && world.state.jobs.is_empty());
    assert!(world.journal(by(Command::Approve(IssueNo(1)))));
    world.until_idle();
    let pr = world.state.prs.values().next().unwrap().number;
    assert_eq!(pr.0, 2, "pull request numbers are never given again");
    assert!(world.journal(by(Command::MergePr(pr))));
    world.until_idle();
    assert_eq!(world.merged, [2]);
}

#[test]
fn what_needed_a_person_is_merged_when_one_says_so() {
    let mut world = World::new(7, false, config(false));
    file(&mut world, "One");
    let by = |command| Event::Command {
        by: "ann".into(),
        command,
    };
    assert!(world.journal(by(Command::Approve(IssueNo(1)))));
    // It conflicts until its rounds are used up.
    loop {
        world.until_idle();
        if world.state.needing_human().next().is_some() {
            break;
        }
        assert!(world.journal(by(Command::MergePr(PrNo(1)))));
        let target = world.target.clone();
        let result = MergeResult::Conflict {
            paths: vec!["a.txt".into()],
        };
        let pr = PrNo(1);
        assert!(world.journal(Event::MergeMade { pr, target, result }));
    }
    assert_eq!(world.state.prs[&PrNo(1)].state, PrState::Ready);
    assert!(world.journal(by(Command::MergePr(PrNo(1)))));
    assert!(
        !world.journal(by(Command::Approve(IssueNo(1)))),
        "under way"
    );
    assert!(!world.state.issues[&IssueNo(1)].has_label("needs-human"));
    world.until_idle();
    assert_eq!(world.merged, [1]);
    world.assert_replay();
}

#[test]
fn closing_an_issue_ends_its_run() {
    let mut world = World::new(3, false, config(true));
    file(&mut world, "One");
    while world.state.runs.is_empty() {
        let observed = Observed {
            engine: given::engine(),
            ..Observed::default()
        };
        let action = plan(&world.state, &observed, Now(0)).remove(0);
        world.perform(action);
    }
    let run = *world.state.runs.keys().next().unwrap();
    world.perform(Action::Spawn(run));
    assert!(world.journal(Event::Command {
        by: "ann".into(),
        command: Command::CloseIssue(IssueNo(1))
    }));
    let observed = Observed {
        containers: world.containers.clone(),
        engine: given::engine(),
        ..Observed::default()
    };
    assert!(plan(&world.state, &observed, Now(0)).contains(&Action::Kill(run)));
    world.until_idle();
    assert!(world.merged.is_empty());
    let run =
        String::from_utf8(world.files[&format!("archive/runs/0/{run}.yaml")].clone()).unwrap();
    assert!(run.contains("cancelled"), "{run}");
}

#[test]
fn stopping_at_once_ends_every_run_and_counts_against_nobody() {
    for seed in 1..40 {
        let mut world = World::new(seed, false, config(true));
        file(&mut world, "One");
        file(&mut world, "Two");
        // So far, and no further.
        for _ in 0..world.dice.roll(9) {
            let observed = world.observed();
            let actions = plan(&world.state, &observed, Now(world.now));
            let which = world.dice.roll(actions.len() as u64) as usize;
            if !matches!(actions[which], Action::Await(_)) {
                world.perform(actions[which].clone());
            }
        }
        world.stopping = true;
        for _ in 0..100 {
            let actions = plan(&world.state, &world.observed(), Now(world.now));
            let ends =
                |a: &Action| !matches!(a, Action::Await(_) | Action::Perform(_) | Action::Merge(_));
            let Some(action) = actions.into_iter().find(ends) else {
                break;
            };
            assert!(
                !matches!(action, Action::Spawn(_) | Action::Grant { .. }),
                "begun while stopping"
            );
            world.perform(action);
        }
        assert!(
            world.state.runs.is_empty() && world.containers.is_empty(),
            "{:#?}",
            world.state.runs
        );
        assert!(
            world
                .state
                .jobs
                .values()
                .all(|job| job.losses == 0 && job.rounds <= 1)
        );
        world.stopping = false;
        world.until_idle();
        assert_eq!(world.merged.len(), 2);
    }
}

#[test]
fn a_run_that_was_told_to_stop_blames_nobody_also_when_the_next_kernel_concludes_it() {
    let mut world = World::new(3, false, config(true));
    file(&mut world, "One");
    let mut stops = 0;
    while stops < 5 {
        // The first kernel dies between the agent's end and its record of it.
        let actions = plan(&world.state, &world.observed(), Now(world.now));
        world.stopping = actions.iter().any(|a| matches!(a, Action::Await(_)));
        let actions = plan(&world.state, &world.observed(), Now(world.now));
        let does = |a: &Action| !matches!(a, Action::Await(_));
        let action = actions.into_iter().find(does).unwrap();
        stops += usize::from(matches!(action, Action::Stop(_)));
        world.perform(action);
        world.stopping = false;
        let job = &world.state.jobs.values().next();
        assert!(job.is_none_or(|job| job.losses + job.breaks + job.rounds == 0));
    }
    world.until_idle();
    assert_eq!(world.merged, [1]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]
    /// Whatever happens, every job ends, every merge happens once, and nothing is left.
    #[test]
    fn every_job_ends(seed in any::<u64>(), issues in 1usize..5) {
        let mut world = World::new(seed, true, config(true));
        for n in 0..issues {
            file(&mut world, &format!("Issue number {n}"));
        }
        world.until_idle();
        world.assert_told();
        let open = world.state.issues.len();
        let merged_by_us = world.files.keys().filter(|p| p.starts_with("archive/issues/") && !p.contains(".d/")).count();
        prop_assert_eq!(open + merged_by_us, issues);
        world.assert_replay();
    }
}
