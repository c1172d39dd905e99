//! How the slots are shared out: by type of agent, by what jobs touch, and by what may be
//! opened in a day.

use crate::{
    given::config,
    queue::{approved, new, order, turns, waits},
    world::World,
};
use factory_core::{
    budget::DAY,
    config::{AgentType, Config, Quota, Slots, Types},
    event::{Command, Now},
    ids::{IssueNo, PrNo, RunId},
    plan::{Action, Observed},
    schedule,
};

fn types(slots: u32, text: &str) -> Config {
    let types = Config::parse(text).unwrap().types;
    Config {
        slots: Slots::Fixed(slots),
        types,
        ..config(true)
    }
}

/// Grants what may begin, and lets no agent come to its end.
fn begin(world: &mut World) {
    let begins = |a: &Action| !matches!(a, Action::Await(_));
    while let Some(action) = world.plan().into_iter().find(begins) {
        world.perform(action);
    }
}

#[test]
fn a_type_takes_no_more_than_its_share_and_what_is_kept_for_others_stays_free() {
    for (text, began, says) in [
        (
            "types: {worker: {max: 2}}",
            2,
            "waits for a worker slot: 2/2 used, 1st in line",
        ),
        (
            "types: {sensor: {min: 1}}",
            3,
            "waits for a slot: 1 free, kept for other types of agents, 1st in line",
        ),
        (
            "types: {worker: {min: 3}, sensor: {max: 4}}",
            4,
            "waits for a slot: 4/4 used, 1st in line",
        ),
    ] {
        let mut world = World::new(1, false, types(4, text));
        for _ in 0..6 {
            approved(&mut world, &[]);
        }
        begin(&mut world);
        assert_eq!(world.state.runs.len(), began, "{text}");
        let waits = waits(&world, &world.observed());
        assert_eq!(waits[&(began as u64 + 1)], says);
        world.until_idle();
        assert_eq!(world.merged.len(), 6, "{text}");
    }
}

#[test]
fn what_a_sensor_has_borrowed_comes_back_when_it_ends() {
    let mut world = World::new(
        1,
        false,
        types(3, "types: {sensor: {min: 1}, worker: {min: 1}}"),
    );
    for _ in 0..3 {
        approved(&mut world, &[]);
    }
    let observed = world.observed();
    let starts = |world: &World| schedule::decide(&world.state, &observed, Now(world.now)).len();
    assert_eq!(starts(&world), 2);
    begin(&mut world);
    let one = world.state.runs.values().next().unwrap().clone();
    let mut state = world.state.clone();
    state.runs.clear();
    // Two sensors, and the one slot that is left is kept for a worker.
    for slot in 0..2 {
        let mut sensor = one.clone();
        sensor.agent = AgentType::Sensor;
        sensor.slot = slot;
        sensor.id = RunId {
            job: IssueNo(90),
            k: slot,
        };
        state.runs.insert(sensor.id, sensor);
    }
    let slots: Vec<u32> = schedule::decide(&state, &observed, Now(world.now))
        .iter()
        .map(|start| start.slot)
        .collect();
    assert_eq!(slots, [2]);
    // One ends: of the two that are free, one is kept for it, where it has none.
    state.runs.pop_last();
    assert_eq!(schedule::decide(&state, &observed, Now(world.now)).len(), 1);
    state.runs.clear();
    assert_eq!(schedule::decide(&state, &observed, Now(world.now)).len(), 1);
}

#[test]
fn two_that_touch_the_same_are_not_under_way_together() {
    let mut world = World::new(
        1,
        false,
        Config {
            slots: Slots::Fixed(9),
            ..config(false)
        },
    );
    for body in [
        "Touches: src/auth",
        "Touches: docs, src",
        "Touches: docs/a.md",
        "Touches: x",
        "",
    ] {
        let number = new(&mut world, "Work", body, &[]).unwrap();
        order(&mut world, Command::Approve(number)).unwrap();
    }
    // Also before anything began: what is told is what happens.
    assert_eq!(turns(&world), [1, 3, 4, 5]);
    let told = |world: &World| waits(world, &world.observed())[&2].clone();
    assert_eq!(told(&world), "waits for #1, which touches src too");
    begin(&mut world);
    assert_eq!(world.state.runs.len(), 4);
    assert_eq!(told(&world), "waits for #1, which touches src too");
    // A pull request that waits for its merge is under way as well.
    world.until_idle();
    assert_eq!(world.state.prs.len(), 4);
    assert!(world.state.is_idle(), "only a person can go on");
    let pr_of = |world: &World, n| world.state.jobs[&IssueNo(n)].pr.unwrap();
    let first = pr_of(&world, 1);
    order(&mut world, Command::MergePr(first)).unwrap();
    world.until_idle();
    assert_eq!(told(&world), "waits for #3, which touches docs too");
    // What is given up keeps nobody waiting.
    order(&mut world, Command::CloseIssue(IssueNo(3))).unwrap();
    assert_eq!(turns(&world), [2]);
    world.until_idle();
    assert_eq!(world.state.prs.len(), 3);
    world.assert_replay();
}

#[test]
fn a_label_lets_two_overlap_and_what_goes_on_is_never_barred() {
    let mut world = World::new(
        1,
        false,
        Config {
            slots: Slots::Fixed(9),
            ..config(false)
        },
    );
    for label in ["ui", "may-overlap", "ui"] {
        let number = new(&mut world, "Work", "Touches: .", &[label]).unwrap();
        order(&mut world, Command::Approve(number)).unwrap();
    }
    assert_eq!(turns(&world), [1, 2]);
    begin(&mut world);
    let told = waits(&world, &world.observed())[&3].clone();
    assert_eq!(
        told,
        "waits for #1: one of them touches the whole repository"
    );
    // Without the label both are under way, and both go on.
    let off = Command::Label {
        issue: IssueNo(2),
        add: vec![],
        remove: vec!["may-overlap".into()],
    };
    order(&mut world, off).unwrap();
    world.until_idle();
    assert_eq!(world.state.prs.len(), 2);
    for pr in [1, 2] {
        order(&mut world, Command::MergePr(PrNo(pr))).unwrap();
    }
    world.until_idle();
    assert_eq!(world.state.prs.len(), 1, "the third");
    assert_eq!(world.merged.len(), 2);
}

#[test]
fn one_that_waits_for_another_does_not_keep_that_one_waiting() {
    let mut world = World::new(1, false, config(false));
    for _ in 0..2 {
        let number = new(&mut world, "Work", "Touches: src", &[]).unwrap();
        order(&mut world, Command::Approve(number)).unwrap();
    }
    begin(&mut world);
    let run = world.state.runs.values().next().unwrap().id;
    let (issue, on) = (IssueNo(1), vec![IssueNo(2)]);
    let off = vec![];
    order(&mut world, Command::Depend { issue, on, off }).unwrap();
    assert!(turns(&world).is_empty(), "its run lives");
    world.containers.remove(&run);
    world.until_idle();
    assert_eq!(world.state.jobs[&IssueNo(2)].pr, Some(PrNo(1)));
    order(&mut world, Command::MergePr(PrNo(1))).unwrap();
    world.until_idle();
    assert_eq!(world.state.jobs[&IssueNo(1)].pr, Some(PrNo(2)));
    world.assert_replay();
}

#[test]
fn no_more_pull_requests_are_opened_in_a_day_than_may_be() {
    let mut config = types(9, "types: {worker: {per_day: {pull_requests: 2}}}");
    config.gates = crate::given::config(false).gates;
    let mut world = World::new(1, false, config);
    world.now = DAY + 5;
    for _ in 0..5 {
        approved(&mut world, &[]);
    }
    assert_eq!(turns(&world), [1, 2]);
    let says =
        "the pull requests of the day (types.worker.per_day.pull_requests) are opened or under way";
    let grants = |a: &Action| matches!(a, Action::Grant { .. });
    for day in 1..=2 {
        // Until nothing begins any more on that day.
        while let Some(action) = {
            let mut actions = world.plan();
            (!actions.is_empty()).then(|| actions.swap_remove(0))
        } {
            world.perform(action);
        }
        assert!(world.now < (day + 1) * DAY);
        assert_eq!(world.state.prs.len() as i64, 2 * day);
        assert!(!world.state.is_idle(), "it goes on by itself");
        let waits = waits(&world, &world.observed());
        assert_eq!(waits[&(2 * day as u64 + 1)], says);
        // A fix of one that is open is none that is opened.
        assert_eq!(world.state.wakes_at(Now(world.now)), Some((day + 1) * DAY));
        // A clock that is put back opens nothing.
        world.now -= DAY / 2;
        assert!(!world.plan().iter().any(grants));
        world.now = (day + 1) * DAY;
    }
    world.until_idle();
    assert_eq!(world.state.prs.len(), 5);
    world.assert_replay();
}

#[test]
fn one_that_waits_for_another_gives_its_place_to_it() {
    let mut config = types(9, "types: {worker: {per_day: {pull_requests: 1}}}");
    config.gates = crate::given::config(false).gates;
    let mut world = World::new(1, false, config);
    world.now = DAY + 5;
    for _ in 0..2 {
        approved(&mut world, &[]);
    }
    begin(&mut world);
    let run = world.state.runs.values().next().unwrap().id;
    let (issue, on, off) = (IssueNo(1), vec![IssueNo(2)], vec![]);
    order(&mut world, Command::Depend { issue, on, off }).unwrap();
    world.containers.remove(&run);
    while !world.state.runs.is_empty() {
        let action = world.plan().remove(0);
        world.perform(action);
    }
    assert_eq!(turns(&world), [2], "the place is the other one's");
    while let Some(action) = world.plan().pop() {
        world.perform(action);
    }
    assert_eq!(world.state.jobs[&IssueNo(2)].pr, Some(PrNo(1)));
    // What went before may go on, and opens none on the same day.
    order(&mut world, Command::MergePr(PrNo(1))).unwrap();
    while let Some(action) = world.plan().pop() {
        world.perform(action);
    }
    assert!(world.state.jobs[&IssueNo(1)].pr.is_none());
    assert!(world.now < 2 * DAY);
    world.until_idle();
    assert_eq!(world.state.jobs[&IssueNo(1)].pr, Some(PrNo(2)));
    assert!(world.now > 2 * DAY);
    world.assert_replay();
}

#[test]
fn slots_are_at_least_as_many_as_are_kept() {
    let config = Config {
        slots: Slots::Auto,
        types: Types {
            sensor: Quota { min: 7, max: None },
            ..Types::default()
        },
        ..config(true)
    };
    let world = World::new(1, false, config);
    let observed = Observed {
        engine: factory_core::config::Amounts::default(),
        ..Observed::default()
    };
    assert_eq!(world.state.slots(&observed), 8, "and one for workers");
}
