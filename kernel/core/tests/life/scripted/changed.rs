//! A configuration that changes, and branches that people move, while work is under way.

use super::{
    verified::{adds_nothing, lands, merges, split, stage_of, unreviewed},
    *,
};
use factory_core::{event::EffectResult, model::Evidence};

const TWO: IssueNo = IssueNo(2);
const THREE: IssueNo = IssueNo(3);

fn loaded(config: &Config) -> Event {
    Event::ConfigLoaded {
        commit: None,
        config: Box::new(config.clone()),
    }
}

/// The one effect that is recorded comes to this.
fn comes_to(world: &mut World, result: EffectResult) {
    let key = world.state.effects.keys().next().unwrap().clone();
    assert!(world.journal(Event::EffectDone { key, result }));
}

/// A code run pushes, and ends or is killed; the move of its branch is recorded.
fn pushes(world: &mut World, ends: bool) -> Oid {
    let run = awaited(world, Purpose::Code);
    let (old, new) = (world.state.runs[&run].grant.start.clone(), world.oid());
    let push = InboxEntry::Push {
        old,
        new: new.clone(),
    };
    world.push_inbox(run, push);
    match ends {
        true => super::ends(world, run, None),
        false => exits(world, run, 137),
    }
    assert_eq!(world.state.effects.len(), 1);
    new
}

/// Does what is planned until the job stands there.
fn reaches(world: &mut World, issue: IssueNo, kind: StageKind) {
    while stage_of(world, issue) != kind {
        let action = world.plan().into_iter().next().unwrap();
        world.perform(action);
    }
}

/// Up to the merge commit that the automatic gate asks for, which is to be tested.
fn is_merged_by_itself(world: &mut World) {
    let is_queued = |world: &World| {
        let mut pr = world.state.prs.get(&PR).into_iter();
        pr.any(|pr| matches!(pr.state, PrState::Queued { .. }))
    };
    while !is_queued(world) {
        let action = world.plan().into_iter().next().unwrap();
        world.perform(action);
    }
    merge_is_made(world, PR, false);
}

#[test]
fn two_that_close_in_one_step_and_wait_for_each_other_close() {
    let mut world = split(config());
    merges(&mut world, PR, false);
    // The first waits for the second now, which does not wait any more.
    let depend = |issue, on: &[IssueNo], off: &[IssueNo]| Command::Depend {
        issue,
        on: on.to_vec(),
        off: off.to_vec(),
    };
    order(&mut world, depend(THREE, &[], &[TWO]));
    order(&mut world, depend(TWO, &[THREE], &[]));
    codes(&mut world);
    checks(&mut world, 0);
    reviews(&mut world, "approve", 0.95);
    world.until_idle();
    lands(&mut world, PrNo(2), false);
    assert_eq!(stage_of(&world, TWO), StageKind::VerifyDue);
    assert_eq!(stage_of(&world, THREE), StageKind::VerifyDue);
    assert!(world.journal(unreviewed()), "it comes into force");
    assert!(world.state.issues.is_empty(), "{:#?}", world.state.issues);
}

#[test]
fn a_check_run_without_checks_says_nothing_of_a_commit() {
    let mut none = config();
    none.checks.clear();
    let mut world = approved(config());
    codes(&mut world);
    reaches(&mut world, ONE, StageKind::CheckDue);
    assert!(world.journal(loaded(&none)));
    let run = awaited(&mut world, Purpose::Check);
    assert!(world.state.runs[&run].checks.is_empty());
    assert!(world.journal(loaded(&config())));
    exits(&mut world, run, 0);
    assert_eq!(stage(&world), StageKind::CheckDue, "checked anew");
    assert_eq!(job(&world).checked, None);
    checks(&mut world, 0);
    assert!(job(&world).checked.is_some());
}

#[test]
fn a_merge_that_nothing_tested_reaches_no_target_by_itself() {
    let mut none = config();
    none.gates.merge = Gate::Auto;
    none.checks.clear();
    let mut all = config();
    all.gates.merge = Gate::Auto;
    let mut world = approved(all.clone());
    codes(&mut world);
    checks(&mut world, 0);
    reviews(&mut world, "approve", 0.95);
    is_merged_by_itself(&mut world);
    assert!(world.journal(loaded(&none)));
    let run = awaited(&mut world, Purpose::MergeTest { pr: PR });
    // There are checks again: they run.
    assert!(world.journal(loaded(&all)));
    exits(&mut world, run, 0);
    assert!(matches!(
        world.state.prs[&PR].state,
        PrState::Testing { run: None, .. }
    ));
    // There are still none: a person decides.
    assert!(world.journal(loaded(&none)));
    let run = awaited(&mut world, Purpose::MergeTest { pr: PR });
    exits(&mut world, run, 0);
    assert_eq!(merged_by(&world).holds, Holds::Open);
    let pr = &world.state.prs[&PR];
    assert_eq!(pr.state, PrState::Ready);
    assert!(pr.note.as_ref().unwrap().contains("nothing was checked"));
    assert!(world.state.effects.is_empty());
}

/// The evidence of the merge.
fn merged_by(world: &World) -> Evidence {
    let mut evidence = world.state.prs[&PR].evidence.iter();
    let of_it = evidence.find(|piece| piece.fact == Fact::Merged);
    of_it.unwrap().clone()
}

#[test]
fn what_failed_before_nothing_was_checked_is_not_forgotten() {
    let mut none = config();
    none.checks.clear();
    let mut world = approved(config());
    codes(&mut world);
    checks(&mut world, 1);
    assert!(world.journal(loaded(&none)));
    let run = awaited(&mut world, Purpose::Check);
    assert!(world.journal(loaded(&config())));
    exits(&mut world, run, 0);
    checks(&mut world, 0);
    assert!(job(&world).checked.as_ref().unwrap().flaky);

    let mut auto = config();
    auto.gates.merge = Gate::Auto;
    none.gates.merge = Gate::Auto;
    let mut world = approved(auto);
    codes(&mut world);
    checks(&mut world, 0);
    reviews(&mut world, "approve", 0.95);
    is_merged_by_itself(&mut world);
    let run = awaited(&mut world, Purpose::MergeTest { pr: PR });
    exits(&mut world, run, 1);
    assert!(world.journal(loaded(&none)));
    let run = awaited(&mut world, Purpose::MergeTest { pr: PR });
    exits(&mut world, run, 0);
    assert_eq!(world.state.prs[&PR].state, PrState::Ready);
    let piece = merged_by(&world);
    assert!(
        piece.holds == Holds::No && piece.why.starts_with("checks failed on"),
        "{piece:?}"
    );
}

#[test]
fn a_persons_merge_that_nothing_checked_says_so() {
    let mut none = config();
    none.checks.clear();
    let mut world = approved(config());
    proposed(&mut world);
    assert!(world.journal(loaded(&none)));
    order(&mut world, Command::MergePr(PR));
    merge_is_made(&mut world, PR, false);
    let piece = merged_by(&world);
    assert!(
        piece.holds == Holds::Open && piece.why.starts_with("nothing was checked"),
        "{piece:?}"
    );
}

#[test]
fn a_gate_that_is_shut_while_a_merge_is_tested_stays_shut() {
    let mut auto = config();
    auto.gates.merge = Gate::Auto;
    let mut world = approved(auto);
    codes(&mut world);
    checks(&mut world, 0);
    reviews(&mut world, "approve", 0.95);
    is_merged_by_itself(&mut world);
    let run = awaited(&mut world, Purpose::MergeTest { pr: PR });
    assert!(world.journal(loaded(&config())));
    exits(&mut world, run, 0);
    let pr = &world.state.prs[&PR];
    assert_eq!(pr.state, PrState::Ready);
    assert!(pr.note.as_ref().unwrap().contains("is `human` now"));
}

#[test]
fn what_could_not_be_put_on_the_branch_is_judged_by_no_older_change() {
    let branch_is = |result: EffectResult| {
        let mut world = approved(config());
        codes(&mut world);
        checks(&mut world, 0);
        reviews(&mut world, "request_changes", 0.95);
        assert!(job(&world).change.is_some());
        let pushed = pushes(&mut world, true);
        comes_to(&mut world, result);
        assert_eq!(stage(&world), StageKind::NeedsHuman);
        assert_eq!(job(&world).change, None);
        let comments = world.state.comments_of(ONE);
        let brings = comments
            .into_iter()
            .any(|c| c.text.contains(&format!("door.git\" {pushed}` brings it")));
        assert!(brings, "it says where the work is");
        // A person puts it there: that is what is checked.
        let branch = job(&world).branch.clone();
        world.branches.insert(branch, pushed.clone());
        order(&mut world, Command::Approve(ONE));
        adds_nothing(&mut world);
        assert_eq!(job(&world).stage().commit(), Some(&pushed));
        assert_eq!(stage(&world), StageKind::CheckDue);
    };
    branch_is(EffectResult::BranchTaken { found: None });
    branch_is(EffectResult::Failed {
        why: "a directory is in the way".into(),
    });
    branch_is(EffectResult::BranchCheckedOut {
        worktree: "/trees/other".into(),
    });
}

#[test]
fn an_empty_second_pull_request_opens_neither_without_a_reviewer() {
    let mut world = split(config());
    merges(&mut world, PR, false);
    verifies(&mut world, "request_changes");
    world.every_change = Change::default();
    pushes(&mut world, true);
    assert!(world.journal(unreviewed()));
    world.until_idle();
    assert!(world.state.prs.is_empty(), "{:#?}", world.state.prs);
    assert_eq!(stage_of(&world, TWO), StageKind::NeedsHuman);
    let told = last_comment(&world, TWO);
    assert!(told.contains("does not do all that is asked for"), "{told}");
}

#[test]
fn a_branch_that_somebody_set_to_the_target_adds_nothing() {
    let mut world = split(config());
    merges(&mut world, PR, false);
    verifies(&mut world, "request_changes");
    pushes(&mut world, true);
    let found = Some((world.target.clone(), Change::default()));
    comes_to(&mut world, EffectResult::BranchTaken { found });
    assert_eq!(stage_of(&world, TWO), StageKind::VerifyDue);
}

#[test]
fn that_nothing_lacks_may_be_said_again_and_again() {
    let mut config = config();
    config.rounds = 5;
    let mut world = split(config);
    merges(&mut world, PR, false);
    verifies(&mut world, "request_changes");
    world.every_change = Change::default();
    pushes(&mut world, false);
    for _ in 0..2 {
        reaches(&mut world, TWO, StageKind::Queued);
        adds_nothing(&mut world);
        assert_eq!(stage_of(&world, TWO), StageKind::VerifyDue);
        verifies(&mut world, "request_changes");
    }
}

#[test]
fn gates_that_become_automatic_let_through_what_waits_at_them() {
    let mut config = config();
    config.tiers.medium.plan = Some(true);
    config.gates.plan = Gate::Human;
    let mut world = approved(config.clone());
    let run = awaited(&mut world, Purpose::Plan);
    world.live(run);
    world.until_idle();
    assert_eq!(stage(&world), StageKind::PlanReady);
    config.gates.plan = Gate::Auto;
    assert!(world.journal(loaded(&config)));
    assert_eq!(stage(&world), StageKind::Queued);

    let mut config = super::config();
    let mut world = World::new(9, false, config.clone());
    let text = "Do both.".to_owned();
    let auto_approve = false;
    order(&mut world, Command::Instruct { text, auto_approve });
    splits(&mut world, &[part("a", "A", &[]), part("b", "B", &[])]);
    assert_eq!(stage(&world), StageKind::SplitReady);
    order(&mut world, Command::Approve(THREE));
    order(&mut world, Command::Cancel(THREE));
    config.gates.issues = Gate::Auto;
    assert!(world.journal(loaded(&config)));
    assert_eq!(stage(&world), StageKind::Children);
    assert_eq!(stage_of(&world, TWO), StageKind::Queued);
    assert!(
        !world.state.jobs.contains_key(&THREE),
        "a person sent it back"
    );
}

#[test]
fn nothing_opens_unreviewed_where_anybody_reviews_by_then() {
    let mut unread = config();
    unread.stages.review = None;
    unread.auto_merge.review = false;
    unread.gates.merge = Gate::Auto;
    let mut world = approved(unread);
    codes(&mut world);
    checks(&mut world, 0);
    assert_eq!(stage(&world), StageKind::Opening);
    let mut read = config();
    read.gates.merge = Gate::Auto;
    assert!(world.journal(loaded(&read)));
    let run = awaited(&mut world, Purpose::Review);
    assert!(world.state.prs.is_empty());
    let json = handed::review("approve", 0.95);
    world.push_inbox(run, InboxEntry::Report { json });
    ends(&mut world, run, None);
    world.until_idle();
    assert_eq!(world.merged, [1]);
}

#[test]
fn a_persons_commit_on_a_branch_that_added_nothing_is_not_passed_over() {
    let mut config = config();
    config.rounds = 5;
    let mut world = split(config);
    merges(&mut world, PR, false);
    verifies(&mut world, "request_changes");
    let whole = std::mem::take(&mut world.every_change);
    pushes(&mut world, false);
    reaches(&mut world, TWO, StageKind::Queued);
    adds_nothing(&mut world);
    verifies(&mut world, "request_changes");
    world.every_change = whole;
    let branch = world.state.jobs[&TWO].branch.clone();
    let theirs = world.oid();
    world.branches.insert(branch, theirs);
    adds_nothing(&mut world);
    assert_eq!(stage_of(&world, TWO), StageKind::Queued, "another round");
}

#[test]
fn an_edit_keeps_what_was_pushed_beyond_the_pull_request() {
    let mut world = approved(config());
    proposed(&mut world);
    order(
        &mut world,
        Command::RequestChanges {
            pr: PR,
            text: "Name it otherwise.".into(),
        },
    );
    let pushed = pushes(&mut world, false);
    reaches(&mut world, ONE, StageKind::Queued);
    let (title, body) = (None, Some("And more.".to_owned()));
    order(
        &mut world,
        Command::EditIssue {
            issue: ONE,
            title,
            body,
        },
    );
    adds_nothing(&mut world);
    assert_eq!(job(&world).stage().commit(), Some(&pushed));
}

#[test]
fn what_was_approved_is_not_reviewed_twice_where_there_are_no_checks() {
    let mut config = config();
    config.checks.clear();
    let mut world = approved(config);
    world.every_change.lines = 5000;
    codes(&mut world);
    reviews(&mut world, "approve", 0.95);
    assert!(job(&world).asked_to_split);
    adds_nothing(&mut world);
    assert_eq!(stage(&world), StageKind::Opening);
}
