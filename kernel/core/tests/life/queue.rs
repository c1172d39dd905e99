//! What begins next: priorities that age, dependencies, what people hold and bump, and room.

use crate::{
    given::{config, engine},
    world::World,
};
use factory_core::{
    config::{Amounts, Config, Given, Slots},
    event::{Command, Event, MergeResult, Now, Refusal},
    ids::{IssueNo, PrNo},
    model::{Issue, PrState, Purpose, RunState, Stage},
    plan::{Action, Observed, plan},
    quantity::{Bytes, Milli},
    schedule::{self, Full, Standing, Wait},
    state::State,
    step::step,
};
use proptest::prelude::*;
use std::collections::BTreeMap;

const HOUR: i64 = 3600;

pub fn order(world: &mut World, command: Command) -> Result<(), Refusal> {
    let event = Event::Command {
        by: "ann".into(),
        command,
    };
    let now = Now(world.now);
    step(&world.state, event.clone(), now)?;
    assert!(world.journal(event));
    Ok(())
}

pub fn new(
    world: &mut World,
    title: &str,
    body: &str,
    labels: &[&str],
) -> Result<IssueNo, Refusal> {
    let command = Command::NewIssue {
        title: title.into(),
        body: body.into(),
        labels: labels.iter().map(|l| (*l).to_owned()).collect(),
        done: Vec::new(),
    };
    order(world, command)?;
    Ok(IssueNo(world.state.meta.last_issue))
}

pub fn approved(world: &mut World, labels: &[&str]) -> IssueNo {
    let number = new(world, "Work", "", labels).unwrap();
    order(world, Command::Approve(number)).unwrap();
    number
}

/// Who would begin with one slot free after the other.
pub fn turns(world: &World) -> Vec<u64> {
    let observed = Observed {
        slots: Some(1000),
        engine: Amounts {
            memory: Bytes(1 << 50),
            cpus: Milli(1 << 40),
        },
        ..Observed::default()
    };
    let starts = schedule::decide(&world.state, &observed, Now(world.now));
    starts.iter().map(|start| start.job.0).collect()
}

pub fn waits(world: &World, observed: &Observed) -> BTreeMap<u64, String> {
    let standings = schedule::explain(&world.state, observed, Now(world.now));
    let said = |standing: Standing| match standing {
        Standing::Waits(wait) => wait.to_string(),
        other => format!("{other:?}"),
    };
    standings.into_iter().map(|(n, s)| (n.0, said(s))).collect()
}

#[test]
fn priorities_go_first_and_age() {
    let mut world = World::new(1, false, config(false));
    let low = approved(&mut world, &["priority/low"]);
    let normal = approved(&mut world, &[]);
    let critical = approved(&mut world, &["priority/critical"]);
    let high = approved(&mut world, &["ui", "priority/high"]);
    let all = [critical, high, normal, low].map(|issue| issue.0);
    assert_eq!(turns(&world), all);
    // The lowest has waited 17 h longer than a high one that comes now.
    world.now += 17 * HOUR;
    let late = approved(&mut world, &["priority/high"]);
    assert_eq!(turns(&world), [critical.0, high.0, normal.0, low.0, late.0]);
    order(&mut world, Command::Bump(late)).unwrap();
    assert_eq!(turns(&world)[0], late.0);
    world.now += 1;
    order(&mut world, Command::Bump(low)).unwrap();
    assert_eq!(turns(&world)[..2], [low.0, late.0]);
    world.assert_replay();
}

#[test]
fn a_label_is_taken_or_refused_with_what_is_known() {
    let mut world = World::new(1, false, config(false));
    let issue = approved(&mut world, &["priority/low"]);
    let mut label = |add: &str, remove: &str| {
        let list = |text: &str| text.split_whitespace().map(str::to_owned).collect();
        let (add, remove) = (list(add), list(remove));
        let done = order(&mut world, Command::Label { issue, add, remove });
        done.map(|()| world.state.issues[&issue].labels.join(" "))
            .map_err(|refusal| refusal.to_string())
    };
    assert_eq!(label("ui priority/high", "").unwrap(), "priority/high ui");
    assert_eq!(label("", "ui").unwrap(), "priority/high");
    let both = "complexity:low priority/high";
    assert_eq!(label("complexity:high complexity:low", "").unwrap(), both);
    for (add, remove, says) in [
        (
            "priority/urgent",
            "",
            "known are priority/critical, priority/high",
        ),
        (
            "complexity:huge",
            "",
            "known are complexity:low, complexity:medium",
        ),
        ("needs-human", "", "the factory's own"),
        ("", "rejected", "the factory's own"),
        ("", "ui", "is not on issue 1"),
        ("a,b", "", "without spaces"),
    ] {
        let refused = label(add, remove).unwrap_err();
        assert!(refused.contains(says), "{refused}");
    }
}

#[test]
fn what_depends_on_another_waits_until_it_is_done() {
    let mut world = World::new(5, false, config(true));
    let first = new(&mut world, "First", "", &[]).unwrap();
    let body = "Do it.\n\nDepends-on: #1\n";
    let second = new(&mut world, "Second", body, &[]).unwrap();
    order(&mut world, Command::Approve(second)).unwrap();
    assert_eq!(
        waits(&world, &world.observed())[&2],
        "waits until #1 is done"
    );
    assert!(turns(&world).is_empty());
    world.until_idle();
    assert_eq!(world.merged, [1, 2], "{first} before {second}");
    world.assert_replay();
}

#[test]
fn what_depends_on_what_was_given_up_says_so_until_a_person_decides() {
    let mut world = World::new(5, false, config(false));
    let first = new(&mut world, "First", "", &[]).unwrap();
    let second = new(&mut world, "Second", "depends-ON: #1", &[]).unwrap();
    order(&mut world, Command::Approve(second)).unwrap();
    order(&mut world, Command::CloseIssue(first)).unwrap();
    let told = &waits(&world, &world.observed())[&2];
    assert_eq!(told, "depends on #1, which was closed without being done");
    assert!(turns(&world).is_empty());
    assert!(world.state.is_idle(), "only a person can go on");
    assert_eq!(world.state.needing_human().collect::<Vec<_>>(), [second]);
    let off = Command::Depend {
        issue: second,
        on: vec![],
        off: vec![first],
    };
    order(&mut world, off).unwrap();
    assert_eq!(turns(&world), [2]);
}

#[test]
fn a_cycle_is_refused_and_named() {
    let mut world = World::new(5, false, config(false));
    for title in ["One", "Two", "Three"] {
        new(&mut world, title, "", &[]).unwrap();
    }
    let mut depend = |issue, on| {
        let (issue, on) = (IssueNo(issue), vec![IssueNo(on)]);
        let off = Vec::new();
        order(&mut world, Command::Depend { issue, on, off }).map_err(|r| r.to_string())
    };
    depend(1, 2).unwrap();
    depend(2, 3).unwrap();
    assert_eq!(
        depend(3, 1).unwrap_err(),
        "that would make a cycle: #3 waits for #1 waits for #2 waits for #3"
    );
    assert_eq!(depend(2, 2).unwrap_err(), "issue 2 cannot depend on itself");
    assert_eq!(depend(2, 9).unwrap_err(), "there is no open issue 9");
    new(&mut world, "Prose", "Depends-on: the weather", &[]).unwrap();
    let written = new(&mut world, "Four", "Depends-on: 3", &[]).unwrap_err();
    assert!(written.to_string().contains("write `Depends-on: #3, #4`"));
}

#[test]
fn a_held_job_begins_nothing_until_it_is_released() {
    let mut world = World::new(5, false, config(false));
    let one = approved(&mut world, &[]);
    order(&mut world, Command::Hold(one)).unwrap();
    assert!(order(&mut world, Command::Hold(one)).is_err());
    assert_eq!(waits(&world, &world.observed())[&1], "held by ann");
    assert!(turns(&world).is_empty());
    assert!(world.state.is_idle(), "only a person can go on");
    order(&mut world, Command::Release(one)).unwrap();
    assert_eq!(turns(&world), [1]);
    assert!(order(&mut world, Command::Release(one)).is_err());
    assert!(order(&mut world, Command::Retry(one)).is_err());
}

#[test]
fn a_held_pull_request_keeps_no_other_from_being_merged() {
    let mut world = World::new(5, false, config(false));
    for _ in 0..2 {
        approved(&mut world, &[]);
    }
    world.until_idle();
    order(&mut world, Command::Hold(IssueNo(1))).unwrap();
    for pr in [1, 2] {
        order(&mut world, Command::MergePr(PrNo(pr))).unwrap();
    }
    let held = world.state.prs.values().find(|pr| pr.issue == IssueNo(1));
    let held = held.unwrap().number.0;
    world.until_idle();
    assert_eq!(world.merged, [3 - held], "the other one");
    assert_eq!(waits(&world, &world.observed())[&1], "held by ann");
    order(&mut world, Command::Release(IssueNo(1))).unwrap();
    world.until_idle();
    assert_eq!(world.merged.len(), 2);
    world.assert_replay();
}

#[test]
fn a_cancelled_job_ends_and_its_issue_waits_at_its_gate() {
    let mut world = World::new(5, false, config(true));
    let one = new(&mut world, "One", "", &[]).unwrap();
    while !world
        .state
        .runs
        .values()
        .any(|r| r.state != RunState::Starting)
    {
        let actions = world.plan();
        let does = |a: &&Action| !matches!(a, Action::Await(_));
        world.perform(actions.iter().find(does).unwrap().clone());
    }
    order(&mut world, Command::Cancel(one)).unwrap();
    world.until_idle();
    assert!(world.merged.is_empty() && world.state.jobs.is_empty());
    let told = &waits(&world, &world.observed())[&1];
    assert!(told.contains("waits for your approval"), "{told}");
    order(&mut world, Command::Approve(one)).unwrap();
    world.until_idle();
    assert_eq!(world.merged.len(), 1);
}

#[test]
fn every_wait_for_room_has_its_one_reason() {
    let room = |slots, memory: u64, cpus| {
        let config = Config {
            slots: Slots::Fixed(slots),
            requests: Given {
                memory: Some(Bytes(1 << 30)),
                cpus: Some(Milli(500)),
            },
            capacity: Given {
                memory: Some(Bytes(memory << 29)),
                cpus: Some(Milli(cpus)),
            },
            ..config(true)
        };
        let mut world = World::new(1, false, config);
        for _ in 0..4 {
            approved(&mut world, &[]);
        }
        world
    };
    let engine = Amounts {
        cpus: Milli(1000),
        ..engine()
    };
    let observed = Observed {
        engine,
        ..Observed::default()
    };
    for (world, says) in [
        (room(1, 99, 9000), "waits for a slot: 1/1 used"),
        (room(9, 3, 9000), "waits for 512MiB of memory"),
        (room(9, 99, 750), "waits for 0.25 of a processor core"),
        (room(9, 99, 9000), "waits for others to start: 2 at a time"),
    ] {
        let waits = waits(&world, &observed);
        let started = waits.values().filter(|w| w.starts_with("Starts")).count();
        let place = ["1st", "2nd", "3rd"];
        for (n, (_, wait)) in waits.iter().skip(started).enumerate() {
            assert_eq!(*wait, format!("{says}, {} in line", place[n]));
        }
        assert!(started == 1 || says.contains("2 at a time"), "{waits:?}");
    }
}

#[test]
fn a_machine_smaller_than_one_request_works_on_one_thing_at_a_time() {
    let mut world = World::new(1, false, config(true));
    approved(&mut world, &[]);
    approved(&mut world, &[]);
    let observed = Observed {
        engine: Amounts {
            memory: Bytes(1 << 30),
            cpus: Milli(1000),
        },
        ..Observed::default()
    };
    let starts = schedule::decide(&world.state, &observed, Now(0));
    assert_eq!(starts.len(), 1);
}

/// A grant as it was planned; what happens before it is journalled is up to the test.
fn planned(world: &mut World) -> Event {
    let actions = world.plan();
    let grant = actions.iter().find(|a| matches!(a, Action::Grant { .. }));
    let event = world.act(grant.unwrap()).pop();
    event.unwrap()
}

#[test]
fn nothing_begins_that_was_held_back_while_it_was_prepared() {
    let mut world = World::new(1, false, config(false));
    let first = approved(&mut world, &[]);
    let second = approved(&mut world, &[]);
    let late = planned(&mut world);
    order(&mut world, Command::Hold(first)).unwrap();
    assert!(!world.journal(late), "a held job began");
    order(&mut world, Command::Release(first)).unwrap();
    let late = planned(&mut world);
    let on = Command::Depend {
        issue: first,
        on: vec![second],
        off: vec![],
    };
    order(&mut world, on).unwrap();
    assert!(!world.journal(late), "a dependent began too early");
    world.until_idle();
    assert_eq!(world.state.prs.len(), 1);
}

#[test]
fn fewer_slots_count_for_what_began_in_more() {
    let mut world = World::new(1, false, config(true));
    for _ in 0..4 {
        approved(&mut world, &[]);
    }
    for _ in 0..2 {
        let grant = planned(&mut world);
        assert!(world.journal(grant));
    }
    let first = world.state.runs.values().find(|run| run.slot == 0);
    let first = first.unwrap().id;
    // The run in the second slot goes on, though there is only one slot any more.
    world.thorough = false;
    let config = Config {
        slots: Slots::Fixed(1),
        ..config(true)
    };
    let (commit, config) = (None, Box::new(config));
    assert!(world.journal(Event::ConfigLoaded { commit, config }));
    world.journal(Event::ContainerEnded {
        run: first,
        exit: None,
    });
    world.journal(Event::RunCollected { run: first });
    assert_eq!(world.state.runs.len(), 1);
    let observed = world.observed();
    let starts = schedule::decide(&world.state, &observed, Now(world.now + 10));
    assert_eq!(starts, [], "two at a time in one slot");
}

#[test]
fn a_job_that_is_approved_again_begins_when_its_cancelled_run_is_over() {
    let mut world = World::new(5, false, config(false));
    let one = approved(&mut world, &[]);
    while world.containers.is_empty() {
        let action = world.plan().remove(0);
        world.perform(action);
    }
    order(&mut world, Command::Cancel(one)).unwrap();
    order(&mut world, Command::Approve(one)).unwrap();
    assert_eq!(world.state.runs.len(), 1);
    assert!(turns(&world).is_empty(), "two runs of one job");
    world.until_idle();
    assert_eq!(world.state.prs.len(), 1);
}

#[test]
fn a_pull_request_whose_rework_waits_for_a_person_keeps_nobody_busy() {
    let mut world = World::new(5, false, config(false));
    let one = approved(&mut world, &[]);
    let other = new(&mut world, "Other", "", &[]).unwrap();
    world.until_idle();
    order(&mut world, Command::MergePr(PrNo(1))).unwrap();
    let (target, paths) = (world.target.clone(), vec!["a.txt".into()]);
    assert!(world.journal(Event::MergeMade {
        pr: PrNo(1),
        target,
        result: MergeResult::Conflict { paths },
    }));
    let on = Command::Depend {
        issue: one,
        on: vec![other],
        off: vec![],
    };
    order(&mut world, on).unwrap();
    assert_eq!(world.state.prs[&PrNo(1)].state, PrState::Reworking);
    assert!(world.plan().is_empty());
    assert!(world.state.is_idle(), "only a person can go on");
}

/// True where a job touches what another one does that is under way.
pub fn overlaps(state: &State, one: IssueNo, other: IssueNo) -> bool {
    let beside = &state.jobs[&other];
    let (mine, its) = (&state.issues[&one], &state.issues[&other]);
    let waits = beside.stage().is_due();
    let is_held_up = waits && !its.depends_on.is_empty();
    let is_beside = one != other && beside.is_under_way() && !is_held_up;
    is_beside && share_a_path(mine, its)
}

fn share_a_path(one: &Issue, other: &Issue) -> bool {
    let within = |one: &str, other: &str| one == other || one.starts_with(&format!("{other}/"));
    let same = |a: &String| other.touches.iter().any(|b| within(a, b) || within(b, a));
    one.touches.iter().any(same)
}

/// What must hold after every step, whatever was ordered and whatever happened.
fn holds(world: &World, observed: &Observed) -> Result<(), TestCaseError> {
    let state = &world.state;
    let slots = state.slots(observed) as usize;
    prop_assert!(state.runs.len() <= slots, "above the slots");
    let capacity = state.config.config.capacity(&observed.engine);
    let sum = |of: fn(&Amounts) -> u64| state.runs.values().map(|r| of(&r.requests)).sum::<u64>();
    if state.runs.len() > 1 {
        prop_assert!(sum(|a| a.memory.0) <= capacity.memory.0, "above the memory");
        prop_assert!(sum(|a| a.cpus.0) <= capacity.cpus.0, "above the cpus");
    }
    if let Some(most) = state.config.config.types.worker.per_day.pull_requests {
        let opened = state.meta.today.unwrap_or_default().pull_requests;
        prop_assert!(opened <= u64::from(most), "{opened} opened of {most}");
    }
    // What is explained is what happens.
    let now = Now(world.now);
    let starts = schedule::decide(state, observed, now);
    let explained = schedule::explain(state, observed, now);
    for start in &starts {
        let slot = start.slot;
        prop_assert_eq!(&explained[&start.job], &Standing::Starts { slot });
        let job = &state.jobs[&start.job];
        // A merge that is made goes on: others wait behind it.
        let is_merge = matches!(start.purpose, Purpose::MergeTest { .. });
        prop_assert!(is_merge || job.held_by.is_none(), "a held job starts");
        let free = state.issues[&start.job].depends_on.is_empty();
        prop_assert!(is_merge || free, "a dependent starts too early");
        for other in state.jobs.keys() {
            let fresh = !job.is_under_way();
            let overlap = fresh && overlaps(state, start.job, *other);
            prop_assert!(!overlap, "{} starts beside {other}", start.job);
        }
        for other in starts.iter().filter(|other| other.job < start.job) {
            let (one, other) = (start.job, other.job);
            let fresh = [one, other].iter().all(|n| !state.jobs[n].is_under_way());
            let both = share_a_path(&state.issues[&one], &state.issues[&other]);
            prop_assert!(!fresh || !both, "{one} starts together with {other}");
        }
    }
    let told = explained.values();
    let told = told
        .filter(|s| matches!(s, Standing::Starts { .. }))
        .count();
    prop_assert_eq!(told, starts.len());
    for (issue, standing) in &explained {
        let open = |pr: &factory_core::model::Pr| {
            pr.issue == *issue && !matches!(pr.state, PrState::Ready | PrState::Reworking)
        };
        let busy = state.runs.values().any(|r| r.id.job == *issue)
            || state.prs.values().any(open)
            || !state.effects.is_empty()
            || state
                .jobs
                .get(issue)
                .is_some_and(|job| matches!(job.stage(), Stage::Opening { .. }));
        prop_assert!(
            *standing != Standing::UnderWay || busy,
            "{issue} waits for nothing"
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]
    /// Whatever people order while agents work and fail: never above a limit, nothing
    /// too early, and all that nobody holds comes to its end.
    #[test]
    fn no_order_breaks_a_limit_or_stops_the_rest(seed in any::<u64>(), slots in 1u32..4, memory in 1u64..5) {
        let mut config = Config {
            slots: Slots::Fixed(slots),
            capacity: Given { memory: Some(Bytes(memory << 30)), cpus: None },
            ..config(true)
        };
        let per_day = (seed % 2 == 0).then_some(memory as u32);
        config.types.worker.per_day.pull_requests = per_day;
        let mut world = World::new(seed, true, config);
        let labels = ["priority/low", "priority/high", "priority/critical", "ui"];
        let bodies = ["", "Touches: src", "Touches: src/a, docs", "Touches: docs/b"];
        let observed = world.observed();
        for _ in 0..150 {
            let n = IssueNo(world.dice.roll(8) + 1);
            let other = IssueNo(world.dice.roll(8) + 1);
            let label = labels[world.dice.roll(4) as usize];
            let command = match world.dice.roll(24) {
                0 => {
                    let body = bodies[world.dice.roll(4) as usize];
                    new(&mut world, "Work", body, &[label]).unwrap();
                    continue
                }
                1 => Command::Depend { issue: n, on: vec![other], off: vec![] },
                2 => Command::Hold(n),
                3 | 4 => Command::Release(n),
                5 => Command::Bump(n),
                6 => Command::Cancel(n),
                7 => Command::Retry(n),
                8 => Command::CloseIssue(n),
                9 => Command::Approve(n),
                10 => Command::Label { issue: n, add: vec![label.into()], remove: vec![] },
                _ => {
                    let actions = world.plan();
                    if !actions.is_empty() {
                        let which = world.dice.roll(actions.len() as u64) as usize;
                        world.perform(actions[which].clone());
                    }
                    world.now += 1;
                    let observed = Observed { containers: world.containers.clone(), ..observed.clone() };
                    holds(&world, &observed)?;
                    continue;
                }
            };
            // Refused or not: what must hold holds.
            order(&mut world, command).ok();
            holds(&world, &observed)?;
        }
        for n in 1..=world.state.meta.last_issue {
            order(&mut world, Command::Release(IssueNo(n))).ok();
            let Some(issue) = world.state.issues.get(&IssueNo(n)) else { continue };
            let off = issue.depends_on.clone();
            order(&mut world, Command::Depend { issue: IssueNo(n), on: vec![], off }).ok();
        }
        world.until_idle();
        world.assert_told();
        world.assert_replay();
    }

    /// Nobody waits for ever behind others that keep coming.
    #[test]
    fn everybodys_turn_comes(gap in 60i64..4 * HOUR, label in 0usize..3) {
        let mut world = World::new(1, false, config(false));
        let last = approved(&mut world, &["priority/low"]);
        let label = ["priority/critical", "priority/high", "priority/low"][label];
        let mut waited = 0;
        loop {
            approved(&mut world, &[label]);
            let next = IssueNo(turns(&world)[0]);
            if next == last { break }
            order(&mut world, Command::Cancel(next)).unwrap();
            world.now += gap;
            waited += gap;
            prop_assert!(waited <= 8 * 24 * HOUR, "it waits for ever");
        }
    }
}

#[test]
fn the_first_that_has_no_room_is_not_overtaken() {
    let mut world = World::new(1, false, config(true));
    approved(&mut world, &[]);
    let observed = Observed {
        slots: Some(0),
        ..world.observed()
    };
    let standing = schedule::explain(&world.state, &observed, Now(0))[&IssueNo(1)].clone();
    let full = Full::Slots { slots: 0 };
    assert_eq!(standing, Standing::Waits(Wait::Room { full, place: 1 }));
    let grants = |a: &Action| matches!(a, Action::Grant { .. });
    assert!(!plan(&world.state, &observed, Now(0)).iter().any(grants));
}
