//! What models cost, and that nobody spends more than they may.

use crate::{
    given::{config, file},
    handed,
    world::World,
};
use factory_core::{
    budget::{DAY, Limit, Spent},
    config::{Budget, Config, EngineKind, Slots},
    event::{Command, Event, Now},
    ids::{IssueNo, RunId},
    inbox::{EngineExit, InboxEntry, RunEnd, Usage},
    model::{ContainerExit, PrState, RunState, Stage},
    plan::{Action, Seen},
    schedule::{self, Full, Standing, Wait},
};
use proptest::prelude::*;

/// Most tokens of one call.
const CALL: u64 = 60;

fn tokens(tokens: u64) -> Limit {
    let tokens = Some(tokens);
    Limit { usd: None, tokens }
}

fn world(seed: u64, run: u64, job: u64, day: u64) -> World {
    let budget = Budget {
        per_run: tokens(run),
        per_job: tokens(job),
        per_day: tokens(day),
    };
    let config = Config {
        engine: EngineKind::default(),
        slots: Slots::Fixed(3),
        budget,
        ..config(true)
    };
    World::new(seed, false, config)
}

/// An agent that calls its model so many times, as far as its door lets it.
fn works(world: &mut World, id: RunId, calls: u64) {
    let Some(models) = world.state.runs[&id].grant.models.clone() else {
        return world.live(id);
    };
    let mut spent = Spent::default();
    let mut exit = EngineExit::Code(0);
    for _ in 0..calls {
        if models.budget.is_reached(&spent) {
            world.push_inbox(id, InboxEntry::OverBudget);
            exit = EngineExit::Stopped;
            break;
        }
        let usage = Usage {
            output_tokens: 1 + world.dice.roll(CALL),
            ..Usage::default()
        };
        spent = spent.plus(models.spent(&usage));
        world.push_inbox(id, InboxEntry::Usage(usage));
    }
    if exit == EngineExit::Code(0) {
        let run = world.state.runs[&id].clone();
        if run.grant.role.only_reads() {
            let json = handed::report(world, &run, 9).unwrap();
            world.push_inbox(id, InboxEntry::Report { json });
        } else {
            let (old, new) = (run.grant.start, world.oid());
            world.push_inbox(id, InboxEntry::Push { old, new });
        }
    }
    let end = RunEnd {
        exit,
        last_output: r#"{"type":"result","subtype":"success","is_error":false,"result":"Done."}"#
            .into(),
        stderr_tail: String::new(),
        report_problem: None,
        push_problem: None,
    };
    world.push_inbox(id, InboxEntry::End(end));
    let exit = ContainerExit {
        code: 0,
        oom: false,
    };
    world.containers.insert(id, Seen::Exited(exit));
}

fn act(world: &mut World, action: Action, calls: u64) {
    match action {
        Action::Await(id) => works(world, id, calls),
        action => world.perform(action),
    }
}

/// Always what is planned first, until nothing is or `done`.
fn until(world: &mut World, calls: u64, done: impl Fn(&World) -> bool) {
    for _ in 0..2000 {
        let Some(action) = world.plan().into_iter().next() else {
            return;
        };
        act(world, action, calls);
        if done(world) {
            return;
        }
    }
    panic!("no end: {:#?}", world.state);
}

#[test]
fn a_run_at_its_limit_is_gone_on_with_until_the_job_has_nothing_left() {
    let mut world = world(1, 100, 250, 100_000);
    file(&mut world, "One");
    until(&mut world, 1000, |_| false);
    let job = world.state.jobs[&IssueNo(1)].clone();
    assert_eq!(*job.stage(), Stage::NeedsHuman, "{job:?}");
    assert!((250..250 + CALL).contains(&job.spent.tokens), "{job:?}");
    assert!(
        job.story
            .iter()
            .skip(1)
            .all(|line| line.contains("over budget")),
        "{:?}",
        job.story
    );
    assert_eq!(world.state.spent_today(Now(world.now)), job.spent);
    world.assert_replay();
}

#[test]
fn a_job_without_money_is_a_persons_however_it_came_to_that() {
    let mut world = world(1, 100, 30, 100_000);
    file(&mut world, "One");
    // It says that it is done, and its check is red, twice.
    let red = ContainerExit {
        code: 1,
        oom: false,
    };
    let checking = |again: bool| {
        move |world: &World| {
            let stage = world.state.jobs[&IssueNo(1)].stage();
            matches!(stage, Stage::Checking { rerun, .. } if *rerun == again)
        }
    };
    until(&mut world, 1, |world| {
        !world.state.jobs.is_empty() && checking(false)(world)
    });
    let run = world.state.jobs[&IssueNo(1)].stage().run().unwrap();
    world.containers.insert(run, Seen::Exited(red));
    let exit = Some(red);
    assert!(world.journal(Event::ContainerEnded { run, exit }));
    until(&mut world, 1, checking(true));
    let run = world.state.jobs[&IssueNo(1)].stage().run().unwrap();
    // One call more than it had.
    let spent = Usage {
        output_tokens: CALL,
        ..Usage::default()
    };
    let mut dear = world.state.jobs[&IssueNo(1)].clone();
    dear.spent.tokens += spent.output_tokens;
    world.state.jobs.insert(IssueNo(1), dear);
    world.containers.insert(run, Seen::Exited(red));
    assert!(world.journal(Event::ContainerEnded {
        run,
        exit: Some(red)
    }));
    let job = &world.state.jobs[&IssueNo(1)];
    assert_eq!(*job.stage(), Stage::NeedsHuman, "{job:?}");
    assert_eq!(
        world.state.needing_human().collect::<Vec<_>>(),
        [IssueNo(1)]
    );
    // A limit that is lowered while it waits leads there as well, and approving leads on.
    let by = || "ann".to_owned();
    let approve = || Event::Command {
        by: by(),
        command: Command::Approve(IssueNo(1)),
    };
    assert!(world.journal(approve()));
    assert!(world.state.needing_human().next().is_none());
    assert!(!world.journal(approve()), "it has money");
    let mut poor = world.state.jobs[&IssueNo(1)].clone();
    poor.spent.tokens = 30;
    world.state.jobs.insert(IssueNo(1), poor);
    assert_eq!(world.state.needing_human().count(), 1);
    assert!(world.journal(approve()), "as much once more");
    assert!(world.state.jobs[&IssueNo(1)].spent.is_nothing());
}

#[test]
fn a_used_up_day_lets_checks_and_merges_go_on_and_ends_at_midnight() {
    let mut world = world(1, 100, 1000, 30);
    for title in ["One", "Two"] {
        file(&mut world, title);
    }
    // The first run uses up the day; its work is checked and merged all the same.
    until(&mut world, 40, |world| {
        !world.merged.is_empty() || world.plan().is_empty()
    });
    world.now = world.now.div_euclid(DAY) * DAY + DAY - 10;
    let observed = world.observed();
    let standings = schedule::explain(&world.state, &observed, Now(world.now));
    let waiting: Vec<String> = standings
        .values()
        .filter_map(|standing| match standing {
            Standing::Waits(
                wait @ Wait::Room {
                    full: Full::Day, ..
                },
            ) => Some(wait.to_string()),
            _ => None,
        })
        .collect();
    let says = "day budget used up until 00:00 UTC, 1st in line";
    assert!(waiting.contains(&says.to_owned()), "{standings:?}");
    assert_eq!(world.state.wakes_at(Now(world.now)), Some(world.now + 10));
    assert!(!world.state.is_idle());
    let granted = |world: &World| {
        world
            .plan()
            .iter()
            .any(|a| matches!(a, Action::Grant { .. }))
    };
    assert!(!granted(&world));
    // A clock that is put back gives nobody the money again.
    world.now -= DAY / 2;
    assert!(!granted(&world));
    world.now += DAY / 2 + 10;
    assert!(granted(&world));
}

#[test]
fn what_live_runs_may_use_is_set_aside() {
    let mut world = world(1, 100, 1000, 150);
    for title in ["One", "Two", "Three"] {
        file(&mut world, title);
    }
    // Nobody's work ends.
    let begins = |action: &Action| !matches!(action, Action::Await(_));
    while let Some(action) = world.plan().into_iter().find(begins) {
        world.perform(action);
    }
    let budgets: Vec<Option<u64>> = world
        .state
        .runs
        .values()
        .map(|run| run.grant.models.as_ref().unwrap().budget.tokens)
        .collect();
    assert_eq!(budgets, [Some(100), Some(50)]);
    let observed = world.observed();
    let standing = &schedule::explain(&world.state, &observed, Now(world.now))[&IssueNo(3)];
    let Standing::Waits(wait) = standing else {
        panic!("{standing:?}")
    };
    assert_eq!(
        wait.to_string(),
        "waits for what live runs leave of the day's budget, 1st in line"
    );
}

#[test]
fn who_had_only_the_rest_of_the_day_is_charged_no_round() {
    let mut world = world(1, 100, 1000, 150);
    for title in ["One", "Two"] {
        file(&mut world, title);
    }
    let begins = |action: &Action| !matches!(action, Action::Await(_));
    while let Some(action) = world.plan().into_iter().find(begins) {
        world.perform(action);
    }
    let runs: Vec<RunId> = world.state.runs.keys().copied().collect();
    for run in runs {
        works(&mut world, run, 1000);
    }
    // It is another day when they end, so the day has money for both.
    world.now += DAY;
    let ends = |action: &Action| !matches!(action, Action::Grant { .. });
    while let Some(action) = world.plan().into_iter().find(ends) {
        world.perform(action);
    }
    let jobs = world.state.jobs.values();
    let rounds: Vec<u32> = jobs.map(|job| job.rounds).collect();
    assert_eq!(rounds, [1, 0], "{:#?}", world.state.jobs);
    world.assert_replay();
}

#[test]
fn what_was_done_tells_what_it_cost() {
    let mut world = world(1, 1000, 1000, 10_000);
    file(&mut world, "One");
    until(&mut world, 3, |_| false);
    assert_eq!(world.merged, [1]);
    let done = world.state.meta.done.unwrap();
    assert_eq!(done.jobs, 1);
    assert!(done.spent.tokens >= 3 && done.spent == world.state.spent_today(Now(world.now)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    /// However much agents ask for: no run, no job and no day goes beyond its limit by more
    /// than one call of each run, and every job ends.
    #[test]
    fn nobody_spends_more_than_one_call_too_much(
        seed in any::<u64>(), run in 1u64..200, job in 1u64..500, day in 1u64..800
    ) {
        let mut world = world(seed, run, job, day);
        for n in 0..4 {
            file(&mut world, &format!("Issue number {n}"));
        }
        for _ in 0..3000 {
            let actions = world.plan();
            if actions.is_empty() {
                match world.state.wakes_at(Now(world.now)) {
                    Some(at) => { world.now = at; continue }
                    None => break,
                }
            }
            let which = world.dice.roll(actions.len() as u64) as usize;
            let calls = 1 + world.dice.roll(8);
            act(&mut world, actions[which].clone(), calls);
            let state = &world.state;
            // Three slots: three calls may be under way.
            prop_assert!(state.spent_today(Now(world.now)).tokens < day + 3 * CALL);
            for one in state.jobs.values() {
                prop_assert!(one.spent.tokens < job + CALL, "{one:?}");
            }
            for one in state.runs.values().filter(|run| run.grant.models.is_some()) {
                prop_assert!(one.spent.tokens < run.min(job).min(day) + CALL, "{one:?}");
            }
        }
        prop_assert!(world.state.is_idle(), "{:#?}", world.state);
        prop_assert!(world.state.runs.values().all(|run| !matches!(run.state, RunState::Starting)));
        prop_assert!(world.state.prs.values().all(|pr| pr.state == PrState::Ready || pr.state == PrState::Reworking));
        world.assert_replay();
    }
}

#[test]
fn a_day_in_a_unit_of_its_own_is_shared_out_by_slots() {
    let config = Config {
        engine: EngineKind::default(),
        slots: Slots::Fixed(4),
        budget: Budget {
            per_day: tokens(1000),
            ..Budget::default()
        },
        ..config(true)
    };
    let mut world = World::new(1, false, config);
    for title in ["One", "Two", "Three"] {
        file(&mut world, title);
    }
    let begins = |action: &Action| !matches!(action, Action::Await(_));
    while let Some(action) = world.plan().into_iter().find(begins) {
        world.perform(action);
    }
    let runs = world.state.runs.values();
    let budgets: Vec<Option<u64>> = runs
        .map(|run| run.grant.models.as_ref().unwrap().budget.tokens)
        .collect();
    assert_eq!(budgets, [Some(250); 3]);
}
