//! The whole way from an instruction to merged work, with people who step in anywhere.

use crate::{
    given::{self, Dice, file},
    world::World,
};
use factory_core::{
    config::{AutoMerge, Config, EngineKind, Gate, Worked},
    event::{Command, Event},
    ids::{IssueNo, PrNo},
    model::StageKind,
    plan::Action,
};
use proptest::prelude::*;
use std::collections::BTreeSet;

/// A configuration with a reviewer, a splitter and a planner, and gates at random.
pub fn config(dice: &mut Dice) -> Config {
    let mut config = given::config(true);
    config.auto_merge = AutoMerge {
        review: dice.roll(4) != 0,
        ..AutoMerge::default()
    };
    if dice.roll(3) == 0 {
        config.engine = EngineKind::default();
    } else {
        let by = || {
            Some(Worked {
                engine: Some(EngineKind::Command(vec!["reader".into()])),
                model: None,
            })
        };
        config.stages.split = by();
        config.stages.plan = by();
        config.stages.review = by();
    }
    config.tiers.medium.plan = (dice.roll(2) == 0).then_some(true);
    config.tiers.low.escalate = dice.roll(2) == 0;
    for gate in [
        &mut config.gates.issues,
        &mut config.gates.plan,
        &mut config.gates.merge,
    ] {
        if dice.roll(3) == 0 {
            *gate = Gate::Human;
        }
    }
    config
}

fn pick<T>(world: &mut World, mut of: Vec<T>) -> Option<T> {
    match of.len() as u64 {
        0 => None,
        n => Some(of.swap_remove(world.dice.roll(n) as usize)),
    }
}

/// Whatever comes into a person's head.
pub fn order(world: &mut World) -> Option<Command> {
    let issues = world.state.issues.keys().copied().collect();
    let issue: IssueNo = pick(world, issues)?;
    let prs = world.state.prs.keys().copied().collect();
    let pr: Option<PrNo> = pick(world, prs);
    let text = || "words\nof a person\n".to_owned();
    Some(match (world.dice.roll(22), pr) {
        (0, _) => Command::CloseIssue(issue),
        (1..5, _) => Command::Approve(issue),
        (5 | 6, Some(pr)) => Command::MergePr(pr),
        (7, Some(pr)) => Command::RejectPr { pr, reason: text() },
        (8, Some(pr)) => Command::RequestChanges { pr, text: text() },
        (9 | 10, _) => Command::Instruct {
            text: text(),
            auto_approve: world.dice.roll(2) == 0,
        },
        (11 | 12, _) => Command::EditIssue {
            issue,
            title: (world.dice.roll(2) == 0).then(|| format!("Another title of {issue}")),
            body: Some(text()),
        },
        (13, _) => Command::Hold(issue),
        (14, _) => Command::Release(issue),
        (15, _) => Command::Retry(issue),
        (16, _) => Command::Cancel(issue),
        (17, _) => {
            let others = world.state.issues.keys().copied().collect();
            let on = pick(world, others).into_iter().collect();
            let off = Vec::new();
            Command::Depend { issue, on, off }
        }
        (18, _) => Command::Bump(issue),
        (_, _) => {
            let orders = [
                "retry", "hold", "release", "approve", "merge", "stop", "explain", "dance", "",
            ];
            let which = world.dice.roll(orders.len() as u64) as usize;
            let text = format!("/factory {}\n\nplease", orders[which]);
            Command::Comment { issue, text }
        }
    })
}

pub fn by_ann(command: Command) -> Event {
    Event::Command {
        by: "ann".to_owned(),
        command,
    }
}

/// A world with some issues and an instruction.
fn world(seed: u64) -> World {
    let config = config(&mut Dice::new(seed));
    let mut world = World::new(seed, true, config);
    file(&mut world, "One");
    file(&mut world, "Two");
    let instruct = |auto_approve| Command::Instruct {
        text: "Make it fast, and test it.".to_owned(),
        auto_approve,
    };
    assert!(world.journal(by_ann(instruct(true))));
    assert!(world.journal(by_ann(instruct(false))));
    world
}

/// Somebody else's commit on a work branch or the target.
fn user_commits(world: &mut World) {
    let commit = world.oid();
    let branches = world.branches.keys().cloned().collect();
    match pick(world, branches) {
        Some(branch) if world.dice.roll(2) == 0 => {
            world.branches.insert(branch, commit);
        }
        _ => world.target = commit,
    }
}

/// Plays so many turns, and then to the end.
fn play(seed: u64, turns: usize, mut look: impl FnMut(&World)) -> World {
    let mut world = world(seed);
    for _ in 0..turns {
        match world.dice.roll(12) {
            0 => {
                if let Some(command) = order(&mut world) {
                    world.journal(by_ann(command));
                }
            }
            1 if world.dice.roll(4) == 0 => user_commits(&mut world),
            _ => {
                let actions: Vec<Action> = world.plan();
                match pick(&mut world, actions) {
                    Some(action) => world.perform(action),
                    None => world.wait(),
                }
            }
        }
        look(&world);
    }
    world.until_idle();
    look(&world);
    world.assert_told();
    world
}

#[test]
fn what_is_played_comes_through_every_stage() {
    let mut stages = BTreeSet::new();
    let (mut by_itself, mut told) = (0, 0);
    for seed in 1..50 {
        let world = play(seed * 7_777_777, 400, |world| {
            let jobs = world.state.jobs.values();
            stages.extend(jobs.map(|job| job.stage().kind()));
        });
        for (path, text) in &world.files {
            let text = String::from_utf8_lossy(text);
            let merged = text.contains("state: !merged") || text.contains("merged:");
            by_itself += usize::from(
                path.starts_with("archive/prs/") && merged && text.contains("by: factory.yaml"),
            );
            told += usize::from(text.contains("All issues of this instruction are over"));
        }
    }
    let all: BTreeSet<StageKind> = StageKind::ALL.into_iter().collect();
    let never: Vec<_> = all.difference(&stages).collect();
    assert!(never.is_empty(), "{never:?}");
    println!("{by_itself} merged by themselves, {told} instructions over");
    assert!(by_itself > 10 && told > 5, "{by_itself} {told}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]
    /// Whatever agents hand in and whoever steps in: every job ends or says for whom it
    /// waits, and nothing goes to the target that should not.
    #[test]
    fn every_job_ends_whoever_steps_in(seed in any::<u64>(), turns in 0usize..300) {
        play(seed, turns, |_| {}).assert_replay();
    }
}
