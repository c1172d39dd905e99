//! The work goes on on another machine, from whatever it was at on the first.

use crate::{
    given::{config, file},
    world::World,
};
use factory_core::{
    event::{Command, Event, Now},
    ids::IssueNo,
    inbox::{EngineExit, InboxEntry, RunEnd},
    model::{Effect, EffectKind, Machine, Purpose, RunState, Stage},
    plan::{Action, Observed, plan},
};
use std::collections::BTreeSet;

/// The work goes on elsewhere: nothing of what ran is there, all that was said is.
fn take_over(world: &mut World) {
    let open = world.state.runs.values().filter(|run| run.is_open());
    for run in open.map(|run| run.id).collect::<Vec<_>>() {
        world.drain(run);
    }
    world.containers.clear();
    let epoch = world.state.meta.epoch;
    let machine = Machine {
        home: "87654321".into(),
        host: "desk".into(),
        since: world.now,
    };
    assert!(world.journal(Event::TakenOver { machine }));
    assert_eq!(world.state.meta.epoch.0, epoch.0 + 1);
    assert!(world.state.runs.values().all(|run| !run.is_open()));
    let moves = |e: &Effect| matches!(e.kind, EffectKind::MoveBranch { .. });
    assert!(world.state.effects.values().all(moves));
}

#[test]
fn another_machine_goes_on_from_anywhere_and_counts_against_nobody() {
    for seed in 1..60 {
        let mut world = World::new(seed, false, config(true));
        file(&mut world, "One");
        file(&mut world, "Two");
        for _ in 0..world.dice.roll(30) {
            let actions = plan(&world.state, &world.observed(), Now(world.now));
            if actions.is_empty() {
                break;
            }
            let which = world.dice.roll(actions.len() as u64) as usize;
            world.perform(actions[which].clone());
        }
        let before: u32 = world.state.jobs.values().map(|job| job.losses).sum();
        take_over(&mut world);
        let after: u32 = world.state.jobs.values().map(|job| job.losses).sum();
        assert!(after <= before, "{after} losses instead of {before}");
        world.until_idle();
        let unique: BTreeSet<_> = world.merged.iter().collect();
        assert_eq!(unique.len(), world.merged.len(), "{:?}", world.merged);
        let open = world
            .state
            .issues
            .values()
            .all(|i| i.has_label("needs-human"));
        assert!(open, "{:#?}", world.state.issues);
    }
}

#[test]
fn what_runs_in_the_original_is_done_again_in_a_copy() {
    let mut world = World::new(5, false, config(true));
    file(&mut world, "One");
    world.perform(Action::Journal(Event::Command {
        by: "a".into(),
        command: Command::Approve(IssueNo(1)),
    }));
    world.perform(Action::Grant {
        job: IssueNo(1),
        purpose: Purpose::Code,
        slot: 0,
    });
    let run = *world.state.runs.keys().next().unwrap();
    assert!(world.journal(Event::RunsElsewhere { runs: vec![run] }));
    let job = &world.state.jobs[&IssueNo(1)];
    assert_eq!((job.losses, job.breaks), (0, 0));
    assert!(job.story[1].contains("copy"), "{:?}", job.story);
    world.until_idle();
    assert_eq!(world.merged, [1]);
}

#[test]
fn a_run_that_had_said_its_last_word_elsewhere_is_not_done_again() {
    let mut world = World::new(3, false, config(true));
    file(&mut world, "One");
    world.perform(Action::Journal(Event::Command {
        by: "a".into(),
        command: Command::Approve(IssueNo(1)),
    }));
    world.perform(Action::Grant {
        job: IssueNo(1),
        purpose: Purpose::Code,
        slot: 0,
    });
    let run = *world.state.runs.keys().next().unwrap();
    world.perform(Action::Spawn(run));
    let (old, new) = (world.target.clone(), world.oid());
    world.push_inbox(run, InboxEntry::Push { old, new });
    world.push_inbox(
        run,
        InboxEntry::End(RunEnd {
            exit: EngineExit::Code(0),
            last_output: String::new(),
            stderr_tail: String::new(),
            report_problem: None,
            push_problem: None,
        }),
    );
    take_over(&mut world);
    let job = &world.state.jobs[&IssueNo(1)];
    assert!(
        matches!(job.stage(), Stage::Publishing { .. }),
        "{:?}",
        job.stage()
    );
}

#[test]
fn a_running_run_without_a_container_is_not_made_again() {
    let mut world = World::new(3, false, config(true));
    file(&mut world, "One");
    world.perform(Action::Journal(Event::Command {
        by: "a".into(),
        command: Command::Approve(IssueNo(1)),
    }));
    world.perform(Action::Grant {
        job: IssueNo(1),
        purpose: Purpose::Code,
        slot: 0,
    });
    let run = *world.state.runs.keys().next().unwrap();
    world.perform(Action::Spawn(run));
    assert!(matches!(
        world.state.runs[&run].state,
        RunState::Running { .. }
    ));
    world.containers.clear();
    let actions = plan(&world.state, &Observed::default(), Now(0));
    assert_eq!(actions[0], Action::Conclude(run, None));
}
