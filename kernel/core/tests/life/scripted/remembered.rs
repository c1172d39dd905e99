//! What stays of a job when its runs are over: in the history of its places, and for the runs
//! that follow.

use super::*;
use factory_core::budget::Limit;

/// How often work on the only place is said to have failed.
fn failures(world: &World) -> u32 {
    world.state.history.of(["src/a"]).failed
}

fn red_until_its_rounds_are_used_up(world: &mut World) {
    while stage(world) != StageKind::NeedsHuman {
        codes(world);
        checks(world, 1);
        checks(world, 1);
    }
}

fn sent_back(world: &mut World) {
    let text = "Name it otherwise.".to_owned();
    order(world, Command::RequestChanges { pr: PR, text });
}

fn rejects(world: &mut World, pr: PrNo) {
    let reason = "Not so.".to_owned();
    order(world, Command::RejectPr { pr, reason });
}

#[test]
fn work_that_is_no_good_counts_as_failed_where_it_was() {
    let mut world = approved(config());
    red_until_its_rounds_are_used_up(&mut world);
    assert_eq!(failures(&world), 1);

    let mut world = approved(config());
    codes(&mut world);
    checks(&mut world, 0);
    reviews(&mut world, "reject", 1.0);
    assert_eq!(failures(&world), 1);

    let mut world = approved(config());
    proposed(&mut world);
    assert_eq!(failures(&world), 0);
    rejects(&mut world, PR);
    assert_eq!(failures(&world), 1);
    world.assert_replay();
}

#[test]
fn a_job_counts_as_failed_once() {
    let mut world = approved(config());
    red_until_its_rounds_are_used_up(&mut world);
    order(&mut world, Command::Approve(ONE));
    red_until_its_rounds_are_used_up(&mut world);
    order(&mut world, Command::Approve(ONE));
    proposed(&mut world);
    rejects(&mut world, PR);
    assert_eq!(failures(&world), 1);
    // Who begins again is another one.
    order(&mut world, Command::Approve(ONE));
    codes(&mut world);
    checks(&mut world, 0);
    reviews(&mut world, "approve", 0.95);
    world.until_idle();
    rejects(&mut world, PrNo(2));
    assert_eq!(failures(&world), 2);
}

type Happens<'a> = &'a dyn Fn(&mut World);

#[test]
fn what_is_not_the_fault_of_the_work_counts_nowhere() {
    let lost = |world: &mut World| {
        sent_back(world);
        for _ in 0..3 {
            let run = awaited(world, Purpose::Code);
            exits(world, run, 137);
        }
    };
    let refused = |world: &mut World| {
        sent_back(world);
        let run = awaited(world, Purpose::Code);
        let end = RunEnd {
            exit: EngineExit::NotStarted("there is none".to_owned()),
            last_output: String::new(),
            stderr_tail: String::new(),
            report_problem: None,
            push_problem: None,
        };
        world.push_inbox(run, InboxEntry::End(end));
        exits(world, run, 0);
    };
    let out_of_money = |world: &mut World| {
        let mut known = config();
        known.engine = EngineKind::default();
        let tokens = Some(0);
        known.budget.per_job = Limit { usd: None, tokens };
        let (commit, config) = (None, Box::new(known));
        assert!(world.journal(Event::ConfigLoaded { commit, config }));
        sent_back(world);
    };
    let given_up = |world: &mut World| order(world, Command::Cancel(ONE));
    let all: [(Happens<'_>, bool); 4] = [
        (&lost, true),
        (&refused, true),
        (&out_of_money, true),
        (&given_up, false),
    ];
    for (happens, needs_human) in all {
        let mut world = approved(config());
        proposed(&mut world);
        happens(&mut world);
        let job = world.state.jobs.get(&ONE);
        let at = job.map(|job| job.stage().kind());
        assert_eq!(at, needs_human.then_some(StageKind::NeedsHuman));
        assert_eq!(
            failures(&world),
            0,
            "{:?}",
            world.state.comments_of(ONE).last()
        );
    }
}

// Edits during a code run

fn edits(world: &mut World) {
    let (title, body) = (None, Some("Something else.".to_owned()));
    let issue = ONE;
    order(world, Command::EditIssue { issue, title, body });
}

/// A run that only reads, whose report cannot be read.
fn reports_nothing(world: &mut World, purpose: Purpose) -> RunId {
    let run = awaited(world, purpose);
    ends(world, run, Some("line 1 column 1: expected a value"));
    run
}

fn told(world: &World, run: RunId) -> String {
    world.state.runs[&run].feedback.clone().unwrap_or_default()
}

#[test]
fn what_the_coder_is_to_know_outlives_the_plan_and_its_repetitions() {
    let mut config = config();
    config.tiers.medium.plan = Some(true);
    config.tiers.low.plan = Some(true);
    let mut world = approved(config);
    edits(&mut world);
    reports_nothing(&mut world, Purpose::Plan);
    let again = awaited(&mut world, Purpose::Plan);
    assert!(told(&world, again).contains("came to nothing: it handed in no valid report"));
    world.live(again);
    world.perform(Action::Conclude(again, None));
    let run = awaited(&mut world, Purpose::Code);
    assert_eq!(
        told(&world, run),
        "The issue was edited since the work began: read it anew."
    );
}

#[test]
fn what_was_wrong_with_a_report_is_told_to_the_next_reader_only() {
    let mut world = approved(config());
    codes(&mut world);
    checks(&mut world, 0);
    reports_nothing(&mut world, Purpose::Review);
    let again = awaited(&mut world, Purpose::Review);
    assert!(told(&world, again).contains("handed in no valid report"));
    order(&mut world, Command::Hold(ONE));
    edits(&mut world);
    order(&mut world, Command::Release(ONE));
    let run = awaited(&mut world, Purpose::Code);
    assert!(!told(&world, run).contains("report"));
    exits(&mut world, run, 137);
    codes(&mut world);
    checks(&mut world, 0);
    let review = awaited(&mut world, Purpose::Review);
    assert_eq!(told(&world, review), "");
}

/// The agent in the container pushes; what its inbox holds is not read yet.
fn pushes(world: &mut World, run: RunId) -> Oid {
    let (old, new) = (world.state.runs[&run].grant.start.clone(), world.oid());
    let push = InboxEntry::Push {
        old,
        new: new.clone(),
    };
    world.push_inbox(run, push);
    new
}

fn is_told_to_end(world: &mut World, run: RunId) {
    let ends = [Action::Stop(run), Action::Kill(run)];
    let ends = world.plan().into_iter().find(|a| ends.contains(a)).unwrap();
    world.perform(ends);
}

/// What was pushed before the edit, after it, and after the order to end.
#[test]
fn what_a_run_pushed_is_what_the_next_one_starts_from_after_an_edit() {
    let pushes_at: [&[usize]; 6] = [&[0], &[1], &[2], &[3], &[0, 1, 2, 3], &[]];
    for planned in [false, true] {
        for at in pushes_at {
            let mut config = config();
            config.tiers.medium.plan = Some(planned);
            config.tiers.low.plan = Some(planned);
            let mut world = approved(config);
            let plans = |world: &mut World| {
                let run = awaited(world, Purpose::Plan);
                world.live(run);
                world.perform(Action::Conclude(run, None));
            };
            if planned {
                plans(&mut world);
            }
            let coding = awaited(&mut world, Purpose::Code);
            let mut pushed = None;
            let mut comes_to = |world: &mut World, point: usize| {
                if at.contains(&point) {
                    pushed = Some(pushes(world, coding));
                }
                // Whoever is the kernel then.
                world.kernel_starts();
            };
            comes_to(&mut world, 0);
            world.drain(coding);
            comes_to(&mut world, 1);
            edits(&mut world);
            comes_to(&mut world, 2);
            is_told_to_end(&mut world, coding);
            comes_to(&mut world, 3);
            let next = awaited(
                &mut world,
                match planned {
                    true => Purpose::Plan,
                    false => Purpose::Code,
                },
            );
            let start = pushed.clone().unwrap_or(world.target.clone());
            assert_eq!(world.state.runs[&next].grant.start, start, "{at:?}");
            if planned {
                world.live(next);
                world.perform(Action::Conclude(next, None));
                let next = awaited(&mut world, Purpose::Code);
                assert_eq!(world.state.runs[&next].grant.start, start);
            }
            assert!(job(&world).rounds == 0 && job(&world).breaks == 0);
            assert_eq!(world.branches.values().next(), pushed.as_ref());
            world.assert_replay();
        }
    }
}

#[test]
fn an_edit_is_not_passed_over_where_somebody_moved_the_branch() {
    let mut world = approved(config());
    proposed(&mut world);
    sent_back(&mut world);
    let coding = awaited(&mut world, Purpose::Code);
    pushes(&mut world, coding);
    let theirs = world.oid();
    let branch = job(&world).branch.clone();
    world.branches.insert(branch, theirs.clone());
    edits(&mut world);
    is_told_to_end(&mut world, coding);
    let next = awaited(&mut world, Purpose::Code);
    let run = &world.state.runs[&next];
    assert_eq!(run.grant.start, theirs);
    assert!(run.feedback.as_ref().unwrap().contains("issue was edited"));
    assert!(last_comment(&world, ONE).contains("Somebody moved the branch"));
}

#[test]
fn a_run_that_had_not_begun_does_not_begin_after_an_edit() {
    let mut world = approved(config());
    let grant = world.plan().into_iter().next().unwrap();
    assert!(matches!(grant, Action::Grant { .. }));
    world.perform(grant);
    edits(&mut world);
    let is_spawn = |action: &Action| matches!(action, Action::Spawn(_));
    assert!(!world.plan().iter().any(is_spawn));
    let run = awaited(&mut world, Purpose::Code);
    assert_eq!(run.k, 2);
}
