//! What an issue asks for is looked at on the target, after the merge.

use super::*;
use factory_core::{model::IssueState, quantity::Confidence};

const TWO: IssueNo = IssueNo(2);
const THREE: IssueNo = IssueNo(3);

/// An instruction became two issues, of which the second waits for the first; each says what
/// must be true.
pub(super) fn split(config: Config) -> World {
    let mut world = World::new(9, false, config);
    let text = "Do both.".to_owned();
    order(
        &mut world,
        Command::Instruct {
            text,
            auto_approve: true,
        },
    );
    splits(&mut world, &[part("a", "A", &[]), part("b", "B", &["a"])]);
    world
}

pub(super) fn stage_of(world: &World, issue: IssueNo) -> StageKind {
    world.state.jobs[&issue].stage().kind()
}

/// Up to the pull request of the second issue, and its merge, whose tree is that of its head or
/// not; gives the merge commit.
pub(super) fn merges(world: &mut World, pr: PrNo, tree_is_heads: bool) -> Oid {
    codes(world);
    checks(world, 0);
    reviews(world, "approve", 0.95);
    world.until_idle();
    lands(world, pr, tree_is_heads)
}

pub(super) fn lands(world: &mut World, pr: PrNo, tree_is_heads: bool) -> Oid {
    order(world, Command::MergePr(pr));
    let merge = merge_is_made(world, pr, tree_is_heads);
    if !tree_is_heads {
        let run = awaited(world, Purpose::MergeTest { pr });
        exits(world, run, 0);
    }
    let key = world.state.effects.keys().next().unwrap().clone();
    world.perform(Action::Perform(key));
    assert_eq!(world.target, merge);
    merge
}

#[test]
fn an_issue_closes_and_others_go_on_once_somebody_saw_the_target() {
    let mut world = split(config());
    let before = world.target.clone();
    let merge = merges(&mut world, PR, false);
    assert_eq!(stage_of(&world, TWO), StageKind::VerifyDue);
    assert!(world.state.prs.is_empty(), "it is merged");
    let merged = world.state.issues[&TWO].merged.clone().unwrap();
    assert_eq!(
        (merged.before, merged.commit),
        (Some(before), merge.clone())
    );
    assert_eq!(world.state.issues[&THREE].depends_on, [TWO], "it waits");
    let run = awaited(&mut world, Purpose::Verify);
    let grant = &world.state.runs[&run].grant;
    assert_eq!((grant.role, &grant.start), (Role::Review, &merge));
    assert!(grant.branch.is_none());
    verifies(&mut world, "approve");
    assert!(!world.state.issues.contains_key(&TWO));
    assert!(world.state.issues[&THREE].depends_on.is_empty());
    // What an approving review saw just so is not looked at twice.
    merges(&mut world, PrNo(2), true);
    world.until_idle();
    assert!(world.state.issues.is_empty() && world.state.jobs.is_empty());
    assert_eq!(world.merged, [1, 2]);
    world.assert_replay();
}

#[test]
fn what_lacks_on_the_target_is_written_in_another_pull_request() {
    let mut world = split(config());
    merges(&mut world, PR, false);
    verifies(&mut world, "request_changes");
    let job = world.state.jobs[&TWO].clone();
    assert_eq!(job.stage().kind(), StageKind::Queued);
    let feedback = job.feedback.unwrap();
    assert!(
        feedback.starts_with("Pull request 1 is merged, and r2-5 says that the target"),
        "{feedback}"
    );
    assert!(feedback.contains("Why?"), "the remarks: {feedback}");
    assert_eq!(world.state.issues[&THREE].depends_on, [TWO]);
    merges(&mut world, PrNo(2), false);
    verifies(&mut world, "approve");
    assert_eq!(world.state.issues[&THREE].depends_on, []);
    let instruction = world.state.issues[&ONE].instruction.clone().unwrap();
    assert_eq!(instruction.done[0].pr, Some(PrNo(2)));
    world.assert_replay();
}

#[test]
fn what_lacks_again_and_again_is_a_persons_who_may_close_it_as_done() {
    let mut config = config();
    config.rounds = 1;
    let mut world = split(config);
    merges(&mut world, PR, false);
    verifies(&mut world, "request_changes");
    assert_eq!(stage_of(&world, TWO), StageKind::NeedsHuman);
    let told = last_comment(&world, TWO);
    for part in ["1 of 1 rounds are used up", "closes this as done"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(world.state.prs.is_empty(), "nothing is left to merge");
    order(&mut world, Command::CloseIssue(TWO));
    assert!(world.state.issues[&THREE].depends_on.is_empty());
    let instruction = world.state.issues[&ONE].instruction.clone().unwrap();
    assert_eq!(instruction.done[0].pr, Some(PR));
    world.assert_replay();
}

#[test]
fn approving_it_again_writes_what_lacks() {
    let mut config = config();
    config.rounds = 1;
    let mut world = split(config);
    merges(&mut world, PR, false);
    verifies(&mut world, "reject");
    assert_eq!(stage_of(&world, TWO), StageKind::NeedsHuman);
    order(&mut world, Command::Approve(TWO));
    assert_eq!(stage_of(&world, TWO), StageKind::Queued);
}

#[test]
fn a_look_that_comes_to_nothing_is_a_persons_and_is_taken_again() {
    let mut world = split(config());
    merges(&mut world, PR, false);
    for _ in 0..3 {
        let run = awaited(&mut world, Purpose::Verify);
        ends(&mut world, run, Some("line 1 column 1: expected a value"));
    }
    assert_eq!(stage_of(&world, TWO), StageKind::NeedsHuman);
    let told = last_comment(&world, TWO);
    assert!(told.contains("looks at the target again"), "{told}");
    assert!(world.state.prs.is_empty(), "nothing is left to merge");
    order(&mut world, Command::Approve(TWO));
    assert_eq!(stage_of(&world, TWO), StageKind::VerifyDue);
    // By who merged it, on the target as it is then.
    world.target = world.oid();
    let run = awaited(&mut world, Purpose::Verify);
    assert_eq!(world.state.runs[&run].grant.start, world.target);
    verifies(&mut world, "approve");
    assert!(!world.state.issues.contains_key(&TWO));
}

#[test]
fn an_edit_after_the_merge_begins_the_work_anew() {
    let mut world = split(config());
    merges(&mut world, PR, false);
    let run = awaited(&mut world, Purpose::Verify);
    order(
        &mut world,
        Command::EditIssue {
            issue: TWO,
            title: None,
            body: Some("And more.".into()),
        },
    );
    assert_eq!(stage_of(&world, TWO), StageKind::Queued);
    assert!(world.plan().contains(&Action::Kill(run)));
    assert!(world.state.issues[&TWO].merged.as_ref().unwrap().lacks);
    exits(&mut world, run, 137);
    merges(&mut world, PrNo(2), false);
    verifies(&mut world, "approve");
    assert!(!world.state.issues.contains_key(&TWO));
}

#[test]
fn nobody_looks_where_nothing_says_what_must_be_true_or_nobody_reviews() {
    let mut world = approved(config());
    merges(&mut world, PR, false);
    assert!(world.state.issues.is_empty(), "it says nothing of it");

    let mut world = split(config());
    codes(&mut world);
    checks(&mut world, 0);
    reviews(&mut world, "approve", 0.95);
    world.until_idle();
    world.journal(unreviewed());
    lands(&mut world, PR, false);
    assert!(!world.state.issues.contains_key(&TWO));
}

#[test]
fn what_is_held_is_not_closed_by_a_changed_configuration_before_it_is_released() {
    let mut world = split(config());
    merges(&mut world, PR, false);
    order(&mut world, Command::Hold(TWO));
    assert!(world.journal(unreviewed()));
    world.until_idle();
    assert_eq!(stage_of(&world, TWO), StageKind::VerifyDue);
    order(&mut world, Command::Release(TWO));
    assert!(!world.state.issues.contains_key(&TWO), "closed");
}

#[test]
fn an_edit_is_followed_from_whatever_waits_for_no_run() {
    let edited = |world: &mut World, issue: IssueNo| {
        let (title, body) = (None, Some("And more.".to_owned()));
        order(world, Command::EditIssue { issue, title, body });
        stage_of(world, issue)
    };
    for (plans, begins) in [(None, StageKind::Queued), (Some(true), StageKind::PlanDue)] {
        let mut config = config();
        let mut world = approved(config.clone());
        codes(&mut world);
        checks(&mut world, 0);
        reviews(&mut world, "approve", 0.95);
        assert_eq!(stage(&world), StageKind::Opening);
        config.tiers.medium.plan = plans;
        let loaded = |config: &Config| Event::ConfigLoaded {
            commit: None,
            config: Box::new(config.clone()),
        };
        if plans.is_some() {
            assert!(world.journal(loaded(&config)));
        }
        assert_eq!(edited(&mut world, ONE), begins);

        let mut world = split(super::config());
        merges(&mut world, PR, false);
        assert_eq!(stage_of(&world, TWO), StageKind::VerifyDue);
        if plans.is_some() {
            config.tiers.low.plan = plans;
            config.tiers.high.plan = plans;
            assert!(world.journal(loaded(&config)));
        }
        assert_eq!(edited(&mut world, TWO), begins);
    }
}

#[test]
fn the_merge_of_the_target_alone_is_proposed_to_nobody() {
    let mut world = split(config());
    merges(&mut world, PR, false);
    verifies(&mut world, "request_changes");
    let whole = std::mem::take(&mut world.every_change);
    // It pushes what brings the target in, and breaks off.
    let run = awaited(&mut world, Purpose::Code);
    let (old, new) = (world.state.runs[&run].grant.start.clone(), world.oid());
    world.push_inbox(run, InboxEntry::Push { old, new });
    exits(&mut world, run, 137);
    adds_nothing(&mut world);
    assert_eq!(stage_of(&world, TWO), StageKind::VerifyDue);
    assert!(world.state.prs.is_empty(), "there is nothing to merge");
    world.every_change = whole;
    verifies(&mut world, "approve");
    assert!(!world.state.issues.contains_key(&TWO));
}

#[test]
fn what_cannot_become_smaller_is_reviewed_where_anybody_reviews_by_then() {
    let mut unread = config();
    unread.stages.review = None;
    let mut world = approved(unread);
    world.every_change.lines = 5000;
    codes(&mut world);
    checks(&mut world, 0);
    assert!(world.state.jobs[&ONE].asked_to_split);
    assert!(world.journal(Event::ConfigLoaded {
        commit: None,
        config: Box::new(config()),
    }));
    adds_nothing(&mut world);
    assert_eq!(stage(&world), StageKind::ReviewDue);
    reviews(&mut world, "approve", 0.95);
    world.until_idle();
    assert_eq!(world.state.prs[&PR].state, PrState::Ready);
}

/// A configuration without a reviewer comes into force.
pub(super) fn unreviewed() -> Event {
    let mut config = config();
    config.stages.review = None;
    Event::ConfigLoaded {
        commit: None,
        config: Box::new(config),
    }
}

#[test]
fn who_waits_for_a_reader_that_is_not_asked_for_any_more_goes_on() {
    let mut world = split(config());
    merges(&mut world, PR, false);
    assert!(world.journal(unreviewed()));
    assert!(!world.state.issues.contains_key(&TWO));
    assert!(world.state.issues[&THREE].depends_on.is_empty());

    let mut world = split(config());
    codes(&mut world);
    checks(&mut world, 0);
    assert_eq!(stage_of(&world, TWO), StageKind::ReviewDue);
    assert!(world.journal(unreviewed()));
    assert_eq!(stage_of(&world, TWO), StageKind::Opening);

    let mut config = config();
    config.tiers.medium.plan = Some(true);
    let mut world = approved(config.clone());
    assert_eq!(stage(&world), StageKind::PlanDue);
    config.stages.plan = None;
    assert!(world.journal(Event::ConfigLoaded {
        commit: None,
        config: Box::new(config),
    }));
    assert_eq!(stage(&world), StageKind::Queued);
}

fn confidence(of: f64) -> Confidence {
    serde_json::from_value(json!(of)).unwrap()
}

#[test]
fn an_automatic_gate_judges_anew_what_it_left_to_a_person() {
    let mut config = config();
    config.gates.merge = Gate::Auto;
    config.auto_merge.min_confidence = confidence(0.99);
    let mut world = approved(config.clone());
    proposed(&mut world);
    assert!(
        world.state.prs[&PR]
            .note
            .as_ref()
            .unwrap()
            .contains("confidence")
    );
    config.auto_merge.min_confidence = confidence(0.98);
    let loaded = |config: &Config| Event::ConfigLoaded {
        commit: None,
        config: Box::new(config.clone()),
    };
    assert!(world.journal(loaded(&config)));
    assert!(world.state.prs[&PR].note.as_ref().unwrap().contains("0.98"));
    config.auto_merge.min_confidence = confidence(0.9);
    assert!(world.journal(loaded(&config)));
    assert_eq!(world.state.prs[&PR].note, None);
    world.until_idle();
    assert!(
        world
            .state
            .issues
            .get(&ONE)
            .is_none_or(|i| matches!(i.state, IssueState::Closed { .. }))
    );
    assert_eq!(world.merged, [1]);
}

#[test]
fn who_has_nothing_to_add_is_looked_at_once_more() {
    let mut world = split(config());
    merges(&mut world, PR, false);
    verifies(&mut world, "request_changes");
    let told = last_comment(&world, TWO);
    assert!(
        told.contains("does not do all that the issue asks for"),
        "{told}"
    );
    adds_nothing(&mut world);
    assert_eq!(stage_of(&world, TWO), StageKind::VerifyDue);
    verifies(&mut world, "approve");
    assert!(!world.state.issues.contains_key(&TWO));
}

#[test]
fn rounds_bound_how_often_it_is_sent_back() {
    let mut world = split(config());
    merges(&mut world, PR, false);
    for _ in 0..2 {
        verifies(&mut world, "request_changes");
        adds_nothing(&mut world);
    }
    verifies(&mut world, "request_changes");
    assert_eq!(stage_of(&world, TWO), StageKind::NeedsHuman);
}

#[test]
fn work_that_is_merged_is_not_forgotten_by_whoever_gives_the_job_up() {
    for order_of in [
        Command::Cancel(TWO),
        Command::Comment {
            issue: TWO,
            text: "/factory stop".into(),
        },
    ] {
        let mut world = split(config());
        merges(&mut world, PR, false);
        awaited(&mut world, Purpose::Verify);
        order(&mut world, order_of);
        assert!(!world.state.jobs.contains_key(&TWO));
        order(&mut world, Command::Approve(TWO));
        assert_eq!(stage_of(&world, TWO), StageKind::VerifyDue);
        order(&mut world, Command::Cancel(TWO));
        order(&mut world, Command::CloseIssue(TWO));
        assert!(
            world.state.issues[&THREE].depends_on.is_empty(),
            "it is done"
        );
    }
    let mut world = split(config());
    merges(&mut world, PR, false);
    verifies(&mut world, "request_changes");
    codes(&mut world);
    checks(&mut world, 0);
    reviews(&mut world, "approve", 0.95);
    world.until_idle();
    let reason = "No.".to_owned();
    order(
        &mut world,
        Command::RejectPr {
            pr: PrNo(2),
            reason,
        },
    );
    order(&mut world, Command::CloseIssue(TWO));
    assert!(world.state.issues[&THREE].depends_on.is_empty());
}

#[test]
fn a_review_of_the_old_text_is_none_of_the_new_one() {
    let mut world = split(config());
    codes(&mut world);
    checks(&mut world, 0);
    reviews(&mut world, "approve", 0.95);
    world.until_idle();
    let (title, body) = (None, Some("And more.".to_owned()));
    let edit = Command::EditIssue {
        issue: TWO,
        title,
        body,
    };
    order(&mut world, edit);
    for _ in 0..3 {
        let run = awaited(&mut world, Purpose::Code);
        exits(&mut world, run, 137);
    }
    assert_eq!(stage_of(&world, TWO), StageKind::NeedsHuman);
    lands(&mut world, PR, true);
    assert_eq!(stage_of(&world, TWO), StageKind::VerifyDue);
}

#[test]
fn nobody_looks_by_an_engine_that_nobody_named_for_that() {
    // It broke off after its reader was gone.
    let mut world = split(config());
    merges(&mut world, PR, false);
    let run = awaited(&mut world, Purpose::Verify);
    assert!(world.journal(unreviewed()));
    exits(&mut world, run, 137);
    assert!(!world.state.issues.contains_key(&TWO), "closed");
    // A person approves it after that.
    let mut world = split(config());
    merges(&mut world, PR, false);
    for _ in 0..3 {
        let run = awaited(&mut world, Purpose::Verify);
        exits(&mut world, run, 137);
    }
    assert_eq!(stage_of(&world, TWO), StageKind::NeedsHuman);
    assert!(world.journal(unreviewed()));
    order(&mut world, Command::Approve(TWO));
    assert!(!world.state.issues.contains_key(&TWO), "closed");
    let told = world.state.issues[&ONE].instruction.clone().unwrap();
    assert_eq!(told.done[0].pr, Some(PR));
}

#[test]
fn a_look_takes_no_place_of_the_day_and_keeps_nobody_waiting() {
    let mut config = config();
    config.types.worker.per_day.pull_requests = Some(1);
    let mut world = split(config);
    merges(&mut world, PR, false);
    assert_eq!(stage_of(&world, TWO), StageKind::VerifyDue);
    assert_eq!(world.state.queue.unproposed(), 0);
    verifies(&mut world, "approve");
}

#[test]
fn a_second_pull_request_counts_its_own_rounds_alone() {
    let mut world = split(config());
    merges(&mut world, PR, false);
    verifies(&mut world, "request_changes");
    merges(&mut world, PrNo(2), true);
    let went = world.state.history.of(["src/a"]);
    assert_eq!((went.merged, went.rounds), (1, 2));
}

pub(super) fn adds_nothing(world: &mut World) {
    let run = awaited(world, Purpose::Code);
    let json = json!({"summary": "It is there."}).to_string();
    world.push_inbox(run, InboxEntry::Report { json });
    ends(world, run, None);
}

#[test]
fn what_lacks_and_nobody_looks_at_is_not_closed_by_itself() {
    // Sent back, and then nobody reviews any more.
    let mut world = split(config());
    merges(&mut world, PR, false);
    verifies(&mut world, "request_changes");
    assert!(world.journal(unreviewed()));
    adds_nothing(&mut world);
    assert_eq!(stage_of(&world, TWO), StageKind::Queued, "another round");
    // Looked at again, and then nobody reviews any more.
    let mut world = split(config());
    merges(&mut world, PR, false);
    verifies(&mut world, "request_changes");
    adds_nothing(&mut world);
    assert_eq!(stage_of(&world, TWO), StageKind::VerifyDue);
    assert!(world.journal(unreviewed()));
    assert_eq!(stage_of(&world, TWO), StageKind::NeedsHuman);
    assert_eq!(world.state.issues[&THREE].depends_on, [TWO]);
}

#[test]
fn work_that_was_pushed_since_is_not_passed_over() {
    let mut config = config();
    config.rounds = 5;
    let mut world = split(config);
    merges(&mut world, PR, false);
    verifies(&mut world, "request_changes");
    codes(&mut world);
    checks(&mut world, 1);
    checks(&mut world, 1);
    adds_nothing(&mut world);
    assert_eq!(stage_of(&world, TWO), StageKind::Queued, "another round");
}

#[test]
fn an_instruction_whose_last_issue_closes_as_it_is_approved_is_over() {
    let mut world = split(config());
    order(&mut world, Command::CloseIssue(THREE));
    merges(&mut world, PR, false);
    order(&mut world, Command::Cancel(ONE));
    assert!(world.journal(unreviewed()));
    order(&mut world, Command::Approve(ONE));
    assert!(world.state.issues.is_empty(), "{:#?}", world.state.issues);
}
