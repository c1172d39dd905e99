//! Failures in a row: nothing more is thrown after them until one run has tried again.

use crate::{
    given::{config, file},
    world::World,
};
use factory_core::{
    breaker::Part,
    config::{Config, Slots},
    event::{Command, Event, Now},
    ids::{IssueNo, RunId},
    inbox::{EngineExit, InboxEntry, RunEnd, Usage},
    model::{ContainerExit, Purpose},
    plan::{Action, Observed, Seen},
    schedule::{self, Standing},
};

fn world(issues: usize) -> World {
    let config = Config {
        slots: Slots::Fixed(1),
        ..config(true)
    };
    let mut world = World::new(1, false, config);
    for n in 0..issues {
        file(&mut world, &format!("Issue number {n}"));
    }
    world
}

/// What is planned, one action at a time, until a code run may be waited for.
fn next_code_run(world: &mut World) -> Option<RunId> {
    loop {
        let action = world.plan().into_iter().next()?;
        if let Action::Await(run) = action
            && world.state.runs[&run].purpose == Purpose::Code
        {
            return Some(run);
        }
        world.perform(action);
    }
}

/// Its model's provider answers with this status, and the engine ends.
fn ends(world: &mut World, run: RunId, status: u16) {
    let usage = Usage {
        status,
        ..Usage::default()
    };
    world.push_inbox(run, InboxEntry::Usage(usage));
    let end = RunEnd {
        exit: EngineExit::Code(1),
        last_output: String::new(),
        stderr_tail: String::new(),
        report_problem: None,
        push_problem: None,
    };
    world.push_inbox(run, InboxEntry::End(end));
    let exit = ContainerExit {
        code: 0,
        oom: false,
    };
    world.containers.insert(run, Seen::Exited(exit));
}

fn says(world: &World, issue: u64) -> String {
    // With a slot free.
    let observed = Observed {
        slots: Some(2),
        ..world.observed()
    };
    let standings = schedule::explain(&world.state, &observed, Now(world.now));
    match &standings[&IssueNo(issue)] {
        Standing::Waits(wait) => wait.to_string(),
        other => format!("{other:?}"),
    }
}

#[test]
fn three_jobs_that_fail_pause_the_rest_and_one_success_ends_it() {
    let mut world = world(6);
    for _ in 0..3 {
        let run = next_code_run(&mut world).unwrap();
        ends(&mut world, run, 402);
    }
    assert_eq!(next_code_run(&mut world), None);
    let breaker = &world.state.meta.breakers[&Part::Provider];
    assert!(breaker.why.contains("status 402"), "{breaker:?}");
    assert!(
        says(&world, 4).starts_with("paused after failures"),
        "{}",
        says(&world, 4)
    );
    let tries_at = |world: &World| world.state.meta.breakers[&Part::Provider].tries_at;
    assert_eq!(world.state.wakes_at(Now(world.now)), tries_at(&world));
    assert!(!world.state.is_idle());
    // One tries again, and fails: twice as long.
    world.now += 60;
    let run = next_code_run(&mut world).unwrap();
    assert!(
        says(&world, 5).starts_with("waits until one run"),
        "{}",
        says(&world, 5)
    );
    ends(&mut world, run, 402);
    assert_eq!(next_code_run(&mut world), None);
    assert!(tries_at(&world) > Some(world.now + 100));
    // A person paid in.
    let by = "ann".to_owned();
    let command = Command::Thaw;
    assert!(world.journal(Event::Command { by, command }));
    assert!(world.state.meta.breakers.is_empty());
    world.until_idle();
    assert_eq!(world.merged.len(), 2);
    world.assert_replay();
}

#[test]
fn one_job_that_fails_again_and_again_pauses_nobody() {
    let mut world = world(1);
    for _ in 0..3 {
        let run = next_code_run(&mut world).unwrap();
        assert_eq!(run.job, IssueNo(1));
        ends(&mut world, run, 529);
        // Its end is recorded, and it rests.
        while let Some(action) = world.plan().into_iter().next() {
            if matches!(action, Action::Grant { .. }) {
                break;
            }
            world.perform(action);
        }
        world.now += 10;
    }
    let breaker = &world.state.meta.breakers[&Part::Provider];
    assert_eq!((breaker.failures, breaker.tries_at), (1, None));
    file(&mut world, "Another one");
    world.until_idle();
    assert_eq!(world.merged, [1]);
}
