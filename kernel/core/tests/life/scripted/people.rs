//! People step in: orders, edits, and instructions that become issues.

use super::*;
use factory_core::budget::Limit;

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
    refused(&mut world, "merge", "has no open pull request");
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
    assert!(job(&world).plan.is_none());
    assert!(world.plan().contains(&Action::Stop(coding)));
    world.perform(Action::Stop(coding));
    plans(&mut world);
    // While its work is on the way to the branch, that comes first.
    order(&mut world, Command::Approve(ONE));
    codes(&mut world);
    assert_eq!(stage(&world), StageKind::Publishing);
    order(&mut world, edit());
    assert!(matches!(
        job(&world).stage(),
        Stage::Publishing {
            then: Next::Anew,
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
        part("d", "Make it fast", &["b"]),
    ];
    splits(&mut world, &parts);
    let instruction = world.state.issues[&WHOLE].instruction.clone().unwrap();
    assert_eq!(instruction.children, [IssueNo(3), IssueNo(4)]);
    // The one that is open is waited for in its place.
    assert_eq!(world.state.issues[&IssueNo(3)].depends_on, [ONE]);
    assert_eq!(world.state.issues[&IssueNo(4)].depends_on, [IssueNo(3)]);
    let told = last_comment(&world, WHOLE);
    assert!(told.contains("#1 is open already"), "{told}");
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

#[test]
fn an_order_that_is_refused_halfway_leaves_nothing_half_done() {
    let mut world = instructed(config());
    splits(&mut world, &[part("a", "Measure", &[])]);
    order(&mut world, Command::Approve(WHOLE));
    codes(&mut world);
    checks(&mut world, 0);
    reviews(&mut world, "approve", 0.95);
    world.until_idle();
    order(&mut world, Command::MergePr(PR));
    merge_is_made(&mut world, PR, true);
    // Its part is being merged, so the whole cannot be stopped now.
    says(&mut world, WHOLE, "/factory stop");
    assert!(last_comment(&world, WHOLE).contains("was not done: pull request 1"));
    assert_eq!(*world.state.jobs[&WHOLE].stage(), Stage::Children);
    assert!(!world.state.issues[&WHOLE].has_label("rejected"));
    world.until_idle();
    assert_eq!(world.merged, [1]);
}

fn loads(world: &mut World, config: Config) {
    let (commit, config) = (None, Box::new(config));
    assert!(world.journal(Event::ConfigLoaded { commit, config }));
}

#[test]
fn a_gate_that_becomes_automatic_asks_for_evidence_of_what_waits_at_it() {
    let mut world = approved(config());
    codes(&mut world);
    checks(&mut world, 0);
    reviews(&mut world, "approve", 0.4);
    world.until_idle();
    assert_eq!(world.state.prs[&PR].note, None);
    let mut auto = config();
    auto.gates.merge = Gate::Auto;
    loads(&mut world, auto);
    world.until_idle();
    assert!(world.merged.is_empty());
    let note = world.state.prs[&PR].note.clone().unwrap();
    assert!(note.contains("a person decides: review: "), "{note}");
}

#[test]
fn an_edited_issue_goes_to_its_code_where_nobody_plans_any_more() {
    let mut planned = config();
    planned.tiers.medium.plan = Some(true);
    let mut world = approved(planned);
    assert_eq!(stage(&world), StageKind::PlanDue);
    loads(&mut world, config());
    let title = Some("Two".to_owned());
    order(
        &mut world,
        Command::EditIssue {
            issue: ONE,
            title,
            body: None,
        },
    );
    assert_eq!(stage(&world), StageKind::Queued);
}

#[test]
fn changes_asked_of_who_may_spend_nothing_are_a_persons_again() {
    let mut known = config();
    known.engine = EngineKind::default();
    let mut world = approved(known.clone());
    codes(&mut world);
    checks(&mut world, 0);
    reviews(&mut world, "reject", 1.0);
    let tokens = Some(0);
    known.budget.per_job = Limit { usd: None, tokens };
    loads(&mut world, known);
    let text = "Another way.".to_owned();
    order(&mut world, Command::RequestChanges { pr: PR, text });
    assert_eq!(stage(&world), StageKind::NeedsHuman);
    assert!(last_comment(&world, ONE).contains("budget of 0 tokens is used up"));
}

#[test]
fn an_edit_while_a_person_is_needed_makes_the_old_plan_void() {
    let mut config = config();
    config.tiers.low.plan = Some(true);
    config.tiers.medium.plan = Some(true);
    config.rounds = 1;
    let mut world = approved(config);
    let run = awaited(&mut world, Purpose::Plan);
    let json = json!({"summary": "One way.", "steps": ["Do it."]}).to_string();
    world.push_inbox(run, InboxEntry::Report { json });
    ends(&mut world, run, None);
    codes(&mut world);
    checks(&mut world, 1);
    checks(&mut world, 1);
    assert_eq!(stage(&world), StageKind::NeedsHuman);
    order(
        &mut world,
        Command::EditIssue {
            issue: ONE,
            title: None,
            body: Some("Do something else.".to_owned()),
        },
    );
    assert_eq!(stage(&world), StageKind::NeedsHuman);
    order(&mut world, Command::Approve(ONE));
    assert_eq!(stage(&world), StageKind::PlanDue);
}
