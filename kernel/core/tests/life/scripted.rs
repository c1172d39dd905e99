//! A job whose agents and checks do what a test says, and people who step in.

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
    ids::{IssueNo, PrNo, RunId},
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
    for (codes_of, failed) in [
        (vec![0], false),
        (vec![1, 0], false),
        (vec![1, 1], true),
        (vec![124], true),
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
        assert_eq!(base.failed.is_some(), failed);
        reviews(&mut world, "approve", 0.95);
        world.until_idle();
        let evidence = &world.state.prs[&PR].evidence;
        let piece = evidence
            .iter()
            .find(|piece| piece.fact == Fact::BaseTests)
            .unwrap();
        assert_eq!(piece.holds == Holds::No, failed, "{piece:?}");
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

// People

#[test]
fn orders_in_comments_do_what_the_commands_do() {
    let mut world = with(config());
    says(&mut world, ONE, "/factory approve\n\nplease");
    assert_eq!(stage(&world), StageKind::Queued);
    says(&mut world, ONE, "  /factory   hold");
    assert_eq!(job(&world).held_by.as_deref(), Some("ann"));
    assert!(world.plan().is_empty());
    says(&mut world, ONE, "/factory release");
    proposed(&mut world);
    let count = world.state.issues[&ONE].comments;
    says(&mut world, ONE, "/factory explain");
    assert_eq!(world.state.issues[&ONE].comments, count + 2);
    let told = last_comment(&world, ONE);
    for part in [
        "It stands at `proposed`, after 1 code runs.",
        "Tier medium",
        "- review (for):",
        "What happened so far:",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    says(&mut world, ONE, "/factory retry\nand mind the tests");
    assert_eq!(stage(&world), StageKind::Queued);
    assert_eq!(world.state.prs[&PR].state, PrState::Reworking);
    proposed(&mut world);
    says(&mut world, ONE, "/factory merge");
    assert!(matches!(world.state.prs[&PR].state, PrState::Queued { .. }));
    says(&mut world, ONE, "/factory stop");
    assert!(world.state.jobs.is_empty() && world.state.prs.is_empty());
    assert!(world.state.issues[&ONE].has_label("rejected"));
    world.assert_replay();
}

#[test]
fn an_order_that_is_refused_is_answered_and_changes_nothing() {
    let mut world = with(config());
    let refused = |world: &mut World, order: &str, why: &str| {
        let before = world.state.clone();
        says(world, ONE, &format!("/factory {order}"));
        let told = last_comment(world, ONE);
        assert!(
            told.contains("was not done: ") && told.contains(why),
            "{told}"
        );
        assert_eq!(
            (&world.state.jobs, &world.state.prs),
            (&before.jobs, &before.prs)
        );
        let number = |of: &factory_core::state::State| of.issues[&ONE].comments;
        assert_eq!(number(&world.state), number(&before) + 2);
    };
    for order in ["retry", "hold", "release", "merge", "stop", "explain"] {
        refused(&mut world, order, "issue 1 has no job");
    }
    refused(&mut world, "dance", "orders are retry, hold");
    refused(&mut world, "", "orders are");
    says(&mut world, ONE, "/factory approve");
    refused(&mut world, "approve", "approved already");
    refused(&mut world, "merge", "has no pull request yet");
    refused(&mut world, "release", "is not held");
    refused(&mut world, "retry", "neither rests nor needs a person");
    // What only looks like one is a comment.
    let count = world.state.issues[&ONE].comments;
    says(&mut world, ONE, "Try `/factory stop`.\n/factory stop");
    assert_eq!(world.state.issues[&ONE].comments, count + 1);
    assert_eq!(stage(&world), StageKind::Queued);
}

#[test]
fn changes_that_a_person_asks_for_begin_a_new_round() {
    let mut world = approved(config());
    proposed(&mut world);
    let text = "Name it otherwise.".to_owned();
    order(&mut world, Command::RequestChanges { pr: PR, text });
    assert_eq!(job(&world).rounds, 0);
    let run = awaited(&mut world, Purpose::Code);
    let told = world.state.runs[&run].feedback.clone().unwrap();
    assert!(
        told.contains("ann read your work") && told.contains("Name it otherwise."),
        "{told}"
    );
    assert!(last_comment(&world, ONE).contains("On pull request 1: Name it"));
}

#[test]
fn an_edited_issue_is_planned_anew_and_its_run_is_ended() {
    let mut config = config();
    config.tiers.medium.plan = Some(true);
    config.gates.plan = Gate::Human;
    let mut world = approved(config);
    let plans = |world: &mut World| {
        let run = awaited(world, Purpose::Plan);
        world.live(run);
        world.until_idle();
        assert_eq!(stage(world), StageKind::PlanReady);
    };
    plans(&mut world);
    order(&mut world, Command::Approve(ONE));
    let coding = awaited(&mut world, Purpose::Code);
    let edit = || Command::EditIssue {
        issue: ONE,
        title: None,
        body: Some("Something else.".to_owned()),
    };
    order(&mut world, edit());
    assert_eq!(stage(&world), StageKind::PlanDue);
    assert!(job(&world).plan.is_none());
    assert!(world.plan().contains(&Action::Kill(coding)));
    world.perform(Action::Kill(coding));
    plans(&mut world);
    // While its work is on the way to the branch, that comes first.
    order(&mut world, Command::Approve(ONE));
    codes(&mut world);
    assert_eq!(stage(&world), StageKind::Publishing);
    order(&mut world, edit());
    assert!(matches!(
        job(&world).stage(),
        Stage::Publishing {
            then: Next::Code,
            ..
        }
    ));
    world.perform(
        world
            .plan()
            .into_iter()
            .find(|a| matches!(a, Action::Perform(_)))
            .unwrap(),
    );
    assert_eq!(stage(&world), StageKind::PlanDue);
    assert_eq!(world.branches.len(), 1, "what was pushed is not lost");
    world.assert_replay();
}

// Instructions

fn instructed(config: Config) -> World {
    let mut world = with(config);
    order(
        &mut world,
        Command::Instruct {
            text: "Make it fast\nand tested".to_owned(),
            auto_approve: false,
        },
    );
    world
}

const WHOLE: IssueNo = IssueNo(2);

#[test]
fn what_is_open_already_is_not_filed_again() {
    let mut world = instructed(config());
    let parts = [
        part("a", " ONE ", &[]),
        part("b", "Measure", &["a"]),
        part("c", "measure", &["b"]),
        part("d", "Make it fast", &["c"]),
    ];
    splits(&mut world, &parts);
    let instruction = world.state.issues[&WHOLE].instruction.clone().unwrap();
    assert_eq!(instruction.children, [IssueNo(3), IssueNo(4)]);
    // The one that is open is waited for in its place.
    assert_eq!(world.state.issues[&IssueNo(3)].depends_on, [ONE]);
    assert_eq!(world.state.issues[&IssueNo(4)].depends_on, [IssueNo(3)]);
    let told = last_comment(&world, WHOLE);
    assert!(
        told.contains("#1 is open already") && told.contains("#3 is open already"),
        "{told}"
    );
    assert!(
        told.contains("`factory issue approve 2` approves them all"),
        "{told}"
    );
    world.until_idle();
    order(&mut world, Command::Approve(WHOLE));
    let is_approved = |n: u64| world.state.jobs.contains_key(&IssueNo(n));
    assert!(is_approved(3) && is_approved(4) && !is_approved(1));
}

#[test]
fn an_instruction_that_asks_for_nothing_new_is_a_persons() {
    let mut world = instructed(config());
    splits(&mut world, &[part("a", "One", &[])]);
    assert_eq!(*world.state.jobs[&WHOLE].stage(), Stage::NeedsHuman);
    let told = last_comment(&world, WHOLE);
    assert!(!told.contains("The work is on the branch"), "{told}");
}

#[test]
fn nobody_waits_for_what_waits_for_the_instruction() {
    let mut world = instructed(config());
    order(
        &mut world,
        Command::Depend {
            issue: ONE,
            on: vec![WHOLE],
            off: Vec::new(),
        },
    );
    splits(
        &mut world,
        &[part("a", "One", &[]), part("b", "Measure", &["a"])],
    );
    assert!(world.state.issues[&IssueNo(3)].depends_on.is_empty());
    // Nor may a person make it so.
    let wait = Command::Depend {
        issue: IssueNo(3),
        on: vec![WHOLE],
        off: Vec::new(),
    };
    assert!(!world.journal(by_ann(wait)));
}

#[test]
fn an_instruction_that_is_edited_before_its_approval_is_split_anew() {
    let mut world = instructed(config());
    splits(
        &mut world,
        &[part("a", "Measure", &[]), part("b", "Mend", &[])],
    );
    // One of them was approved by itself, and is kept.
    order(&mut world, Command::Approve(IssueNo(4)));
    let body = Some("Make it small.".to_owned());
    order(
        &mut world,
        Command::EditIssue {
            issue: WHOLE,
            title: None,
            body,
        },
    );
    assert!(!world.state.issues.contains_key(&IssueNo(3)));
    assert_eq!(*world.state.jobs[&WHOLE].stage(), Stage::SplitDue);
    order(&mut world, Command::Hold(IssueNo(4)));
    splits(&mut world, &[part("a", "Measure", &[])]);
    let instruction = world.state.issues[&WHOLE].instruction.clone().unwrap();
    assert_eq!(instruction.children, [IssueNo(4), IssueNo(5)]);
    assert!(instruction.done.is_empty());
}

#[test]
fn an_instruction_that_was_cancelled_goes_on_with_its_issues() {
    let mut world = instructed(config());
    splits(
        &mut world,
        &[part("a", "Measure", &[]), part("b", "Mend", &["a"])],
    );
    order(&mut world, Command::Approve(WHOLE));
    order(&mut world, Command::Cancel(WHOLE));
    assert!(world.state.jobs.is_empty());
    order(&mut world, Command::Approve(WHOLE));
    assert_eq!(*world.state.jobs[&WHOLE].stage(), Stage::Children);
    let of = |n: u64| world.state.jobs[&IssueNo(n)].branch.clone();
    assert!(of(2).is_empty() && !of(3).is_empty() && !of(4).is_empty());
    // Each is given up: so is the whole.
    order(&mut world, Command::CloseIssue(IssueNo(3)));
    order(&mut world, Command::CloseIssue(IssueNo(4)));
    assert!(!world.state.issues.contains_key(&WHOLE));
}

#[test]
fn issues_that_were_approved_one_by_one_end_their_instruction() {
    let mut world = instructed(config());
    splits(&mut world, &[part("a", "Measure", &[])]);
    order(&mut world, Command::Approve(IssueNo(3)));
    codes(&mut world);
    checks(&mut world, 0);
    reviews(&mut world, "approve", 0.95);
    world.until_idle();
    assert_eq!(*world.state.jobs[&WHOLE].stage(), Stage::SplitReady);
    order(&mut world, Command::MergePr(PR));
    world.until_idle();
    assert!(!world.state.issues.contains_key(&WHOLE));
    let path = "archive/issues/0/2.d/c-2.md";
    let summary = String::from_utf8(world.files[path].clone()).unwrap();
    assert!(
        summary.contains("1 merged, 0 given up")
            && summary.contains("| #3 Measure | pull request 1 |"),
        "{summary}"
    );
}
