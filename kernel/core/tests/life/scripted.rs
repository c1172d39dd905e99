//! A job whose agents and checks do what a test says, and people who step in.

mod changed;
mod people;
mod remembered;
mod verified;

use crate::{
    given::{self, file},
    handed,
    pipeline::by_ann,
    world::World,
};
use factory_core::{
    config::{Config, EngineKind, Gate, Worked},
    event::{Command, Event, MergeResult},
    grant::Role,
    ids::{IssueNo, Oid, PrNo, RunId},
    inbox::{EngineExit, InboxEntry, RunEnd},
    model::{Change, ContainerExit, Fact, Holds, Job, Next, PrState, Purpose, Stage, StageKind},
    plan::{Action, Seen},
    report,
    route::Complexity,
};
use serde_json::{Value, json};

const ONE: IssueNo = IssueNo(1);
const PR: PrNo = PrNo(1);

/// Everything is planned, coded, checked and reviewed; people open the gates.
fn config() -> Config {
    let by = Some(Worked {
        engine: Some(EngineKind::Command(vec!["reader".into()])),
        model: None,
    });
    let mut config = given::config(false);
    config.stages.split = by.clone();
    config.stages.plan = by.clone();
    config.stages.review = by;
    config.auto_merge.review = true;
    config
}

fn with(config: Config) -> World {
    let mut world = World::new(9, false, config);
    file(&mut world, "One");
    world
}

fn approved(config: Config) -> World {
    let mut world = with(config);
    order(&mut world, Command::Approve(ONE));
    world
}

fn order(world: &mut World, command: Command) {
    let said = format!("{command:?}");
    assert!(world.journal(by_ann(command)), "{said} was refused");
}

fn says(world: &mut World, issue: IssueNo, text: &str) {
    let text = text.to_owned();
    order(world, Command::Comment { issue, text });
}

fn last_comment(world: &World, issue: IssueNo) -> String {
    let comments = world.state.comments_of(issue);
    comments.last().map_or(String::new(), |c| c.text.clone())
}

fn job(world: &World) -> &Job {
    &world.state.jobs[&ONE]
}

fn stage(world: &World) -> StageKind {
    job(world).stage().kind()
}

/// Does what is planned until a run is waited for; none where nothing is planned.
fn next_run(world: &mut World) -> Option<RunId> {
    loop {
        let action = world.plan().into_iter().next().or_else(|| {
            world.wait();
            world.plan().into_iter().next()
        })?;
        match action {
            Action::Await(run) => return Some(run),
            action => world.perform(action),
        }
    }
}

/// The next run, which is for this.
fn awaited(world: &mut World, purpose: Purpose) -> RunId {
    let run = next_run(world).unwrap_or_else(|| panic!("nothing runs: {:#?}", world.state.jobs));
    assert_eq!(world.state.runs[&run].purpose, purpose);
    run
}

fn exits(world: &mut World, run: RunId, code: i64) {
    let exit = ContainerExit { code, oom: false };
    world.containers.insert(run, Seen::Exited(exit));
    world.perform(Action::Conclude(run, Some(exit)));
}

fn ends(world: &mut World, run: RunId, problem: Option<&str>) {
    let end = RunEnd {
        exit: EngineExit::Code(0),
        last_output: "12 tests, 1 failed".into(),
        stderr_tail: String::new(),
        report_problem: problem.map(str::to_owned),
        push_problem: None,
    };
    world.push_inbox(run, InboxEntry::End(end));
    exits(world, run, 0);
}

fn codes(world: &mut World) {
    let run = awaited(world, Purpose::Code);
    world.live(run);
    world.perform(Action::Conclude(run, None));
}

fn checks(world: &mut World, code: i64) -> RunId {
    let run = awaited(world, Purpose::Check);
    exits(world, run, code);
    run
}

fn reviews(world: &mut World, verdict: &str, confidence: f64) {
    let run = awaited(world, Purpose::Review);
    let json = handed::review(verdict, confidence);
    world.push_inbox(run, InboxEntry::Report { json });
    ends(world, run, None);
}

fn verifies(world: &mut World, verdict: &str) {
    let run = awaited(world, Purpose::Verify);
    let json = handed::review(verdict, 0.9);
    world.push_inbox(run, InboxEntry::Report { json });
    ends(world, run, None);
}

fn splits(world: &mut World, issues: &[Value]) {
    let run = awaited(world, Purpose::Split);
    let text = json!({"summary": "In parts.", "issues": issues}).to_string();
    let json = report::validate(Role::Split, text.as_bytes()).unwrap();
    world.push_inbox(run, InboxEntry::Report { json });
    ends(world, run, None);
}

fn part(key: &str, title: &str, on: &[&str]) -> Value {
    json!({
        "key": key, "title": title, "body": "Do it.", "acceptance": ["It works."],
        "paths": [format!("src/{key}")], "depends_on": on, "complexity": "low",
    })
}

/// The change of what was pushed, with tests of the target to be laid over it.
fn touches_tests(world: &mut World) {
    let with_base_tests = Some(world.oid());
    world.every_change = Change {
        with_base_tests,
        ..Change::default()
    };
}

/// Up to its pull request.
/// The merge commit of a pull request is made, with the tree of its head or another; gives it.
fn merge_is_made(world: &mut World, pr: PrNo, tree_is_heads: bool) -> Oid {
    let merge = world.oid();
    let result = MergeResult::Clean {
        merge: merge.clone(),
        tree_is_heads,
        worktree: None,
        protected: Default::default(),
        change: Change::default(),
    };
    let target = world.target.clone();
    assert!(world.journal(Event::MergeMade { pr, target, result }));
    merge
}

fn proposed(world: &mut World) {
    codes(world);
    checks(world, 0);
    reviews(world, "approve", 0.95);
    world.until_idle();
    assert_eq!(world.state.prs[&PR].state, PrState::Ready);
}

// Checks

#[test]
fn a_red_check_is_run_once_more_and_green_then_is_flaky() {
    let mut world = approved(config());
    codes(&mut world);
    let first = checks(&mut world, 1);
    assert!(matches!(
        job(&world).stage(),
        Stage::CheckDue { rerun: true, .. }
    ));
    assert_eq!(job(&world).rounds, 1, "no round");
    let second = checks(&mut world, 0);
    assert_ne!(first, second);
    let checked = job(&world).checked.clone().unwrap();
    assert!(checked.flaky && checked.run == second);
    assert_eq!(stage(&world), StageKind::ReviewDue);
    reviews(&mut world, "approve", 0.95);
    world.until_idle();
    let checks = &world.state.prs[&PR].evidence[0];
    assert!(
        checks.fact == Fact::Checks && checks.why.contains("flaky"),
        "{checks:?}"
    );
    world.assert_replay();
}

#[test]
fn red_twice_or_too_late_goes_back_to_the_coder() {
    for codes_of in [[Some(1), Some(1)], [Some(124), None]] {
        let mut world = approved(config());
        codes(&mut world);
        for code in codes_of.into_iter().flatten() {
            checks(&mut world, code);
        }
        assert_eq!(stage(&world), StageKind::Queued);
        assert!(job(&world).checked.is_none());
        assert!(
            job(&world)
                .feedback
                .as_ref()
                .unwrap()
                .starts_with("The checks ")
        );
    }
}

#[test]
fn tests_that_were_changed_are_run_as_the_target_has_them_and_red_is_told() {
    for (codes_of, failed, flaky) in [
        (vec![0], false, false),
        (vec![1, 0], false, true),
        (vec![1, 1], true, false),
        (vec![124], true, false),
    ] {
        let mut world = approved(config());
        touches_tests(&mut world);
        codes(&mut world);
        checks(&mut world, 0);
        for code in codes_of {
            let run = checks(&mut world, code);
            assert_eq!(
                world.state.runs[&run].grant.start,
                world.every_change.with_base_tests.clone().unwrap()
            );
        }
        // It may be right: whoever reads it decides.
        assert_eq!(stage(&world), StageKind::ReviewDue);
        let base = job(&world)
            .checked
            .clone()
            .unwrap()
            .with_base_tests
            .unwrap();
        assert_eq!((base.failed.is_some(), base.flaky), (failed, flaky));
        reviews(&mut world, "approve", 0.95);
        world.until_idle();
        let evidence = &world.state.prs[&PR].evidence;
        let piece = evidence
            .iter()
            .find(|piece| piece.fact == Fact::BaseTests)
            .unwrap();
        assert_eq!(piece.holds == Holds::No, failed || flaky, "{piece:?}");
    }
}

#[test]
fn a_merge_that_is_red_is_tested_once_more() {
    for (second, lands) in [(0, true), (1, false)] {
        let mut world = approved(config());
        proposed(&mut world);
        order(&mut world, Command::MergePr(PR));
        let merge = world.oid();
        let target = world.target.clone();
        let result = MergeResult::Clean {
            merge: merge.clone(),
            tree_is_heads: false,
            worktree: None,
            protected: Default::default(),
            change: Change::default(),
        };
        assert!(world.journal(Event::MergeMade {
            pr: PR,
            target,
            result
        }));
        let run = awaited(&mut world, Purpose::MergeTest { pr: PR });
        exits(&mut world, run, 1);
        assert!(matches!(
            world.state.prs[&PR].state,
            PrState::Testing {
                rerun: true,
                run: None,
                ..
            }
        ));
        let run = awaited(&mut world, Purpose::MergeTest { pr: PR });
        exits(&mut world, run, second);
        match lands {
            true => {
                world.until_idle();
                assert_eq!(
                    (world.merged.as_slice(), &world.target),
                    ([1].as_slice(), &merge)
                );
            }
            false => {
                assert_eq!(stage(&world), StageKind::Queued);
                assert_eq!(world.state.prs[&PR].state, PrState::Reworking);
                assert!(
                    job(&world)
                        .feedback
                        .as_ref()
                        .unwrap()
                        .contains("the work is red")
                );
            }
        }
    }
}

// Rounds

#[test]
fn rounds_that_are_used_up_leave_what_passed_its_checks_to_a_person() {
    let mut world = approved(config());
    for _ in 0..3 {
        codes(&mut world);
        checks(&mut world, 0);
        reviews(&mut world, "request_changes", 0.9);
    }
    assert_eq!(stage(&world), StageKind::NeedsHuman);
    let pr = world.state.prs[&PR].clone();
    assert!(
        pr.note
            .as_ref()
            .unwrap()
            .contains("3 of 3 rounds are used up")
    );
    let piece = pr
        .evidence
        .iter()
        .find(|piece| piece.fact == Fact::Review)
        .unwrap();
    assert_eq!(piece.holds, Holds::No);
    let comments: Vec<&String> = world.state.comments_of(ONE).map(|c| &c.text).collect();
    let [.., told, opened] = comments.as_slice() else {
        panic!("{comments:?}")
    };
    assert!(
        told.contains("The draft of a postmortem") && told.contains("**What we learn:**"),
        "{told}"
    );
    assert!(opened.contains("is pull request 1"), "{opened}");
    // A person's word is enough.
    order(&mut world, Command::MergePr(PR));
    world.until_idle();
    assert_eq!(world.merged, [1]);
}

#[test]
fn rounds_that_are_used_up_on_red_checks_open_nothing() {
    let mut world = approved(config());
    for _ in 0..3 {
        codes(&mut world);
        checks(&mut world, 1);
        checks(&mut world, 1);
    }
    assert_eq!(stage(&world), StageKind::NeedsHuman);
    assert!(world.state.prs.is_empty());
}

#[test]
fn a_tier_that_escalates_gives_new_rounds_one_tier_up() {
    let mut config = config();
    config.tiers.medium.escalate = true;
    config.tiers.medium.rounds = Some(1);
    config.tiers.high.rounds = Some(2);
    let mut world = approved(config);
    for (tier, rounds) in [
        (Complexity::Medium, 1),
        (Complexity::High, 1),
        (Complexity::High, 2),
    ] {
        codes(&mut world);
        assert_eq!(job(&world).route.as_ref().unwrap().tier, tier);
        assert_eq!(job(&world).rounds, rounds);
        checks(&mut world, 1);
        checks(&mut world, 1);
    }
    assert_eq!(stage(&world), StageKind::NeedsHuman);
    let route = job(&world).route.clone().unwrap();
    assert!(
        route
            .reasons
            .last()
            .unwrap()
            .starts_with("one tier up: 1 rounds of tier medium")
    );
}

#[test]
fn a_large_change_is_given_back_once_and_then_labelled() {
    let mut world = approved(config());
    world.every_change = Change {
        files: 1,
        lines: 5000,
        ..Change::default()
    };
    codes(&mut world);
    checks(&mut world, 0);
    reviews(&mut world, "approve", 0.95);
    assert_eq!(stage(&world), StageKind::Queued);
    assert!(job(&world).asked_to_split);
    assert!(job(&world).feedback.as_ref().unwrap().contains("is large"));
    proposed(&mut world);
    assert_eq!(world.state.prs[&PR].labels, ["oversized"]);
}

// Reviews

#[test]
fn a_review_that_cannot_be_read_is_made_again_and_then_a_persons() {
    let mut world = approved(config());
    codes(&mut world);
    checks(&mut world, 0);
    for n in 0..3 {
        assert_eq!(stage(&world), StageKind::ReviewDue, "{n}");
        let run = awaited(&mut world, Purpose::Review);
        // An older one that could be read does not count.
        let json = handed::review("approve", 1.0);
        world.push_inbox(run, InboxEntry::Report { json });
        ends(&mut world, run, Some("line 1 column 1: expected a value"));
        assert!(job(&world).review.is_none());
    }
    assert_eq!(stage(&world), StageKind::NeedsHuman);
    assert!(world.state.prs[&PR].review.is_none());
}

#[test]
fn a_rejected_way_is_a_persons_at_once() {
    let mut world = approved(config());
    codes(&mut world);
    checks(&mut world, 0);
    reviews(&mut world, "reject", 1.0);
    assert_eq!(stage(&world), StageKind::NeedsHuman);
    assert_eq!(job(&world).rounds, 1);
}
