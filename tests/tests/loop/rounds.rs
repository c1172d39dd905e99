//! Work that does not succeed at once, or at all.

use crate::{GREETED, GREETER, comments, on_branch};
use factory_core::model::{NEEDS_HUMAN, PrState, Stage};
use factory_tests::Lab;

/// The lab after a job that a person must look at, and its story.
fn given_up(lab: &Lab) -> String {
    let ended = lab.until_idle();
    assert_eq!(ended.code, 10, "{}", ended.text());
    lab.assert_at_rest();
    let state = lab.state();
    assert_eq!(
        *state.jobs.values().next().unwrap().stage(),
        Stage::NeedsHuman
    );
    assert!(state.issues.values().next().unwrap().has_label(NEEDS_HUMAN));
    assert!(state.prs.is_empty());
    comments(lab)
}

#[test]
fn a_red_check_goes_back_with_its_output_and_is_mended() {
    let lab = Lab::new();
    let agent = r#"set -eu
cat >/tmp/brief
if grep -q 'THE GREETING IS MISSING' /tmp/brief; then
  cp /tmp/brief brief.txt
  echo hello >greeting.txt
else
  echo goodbye >greeting.txt
fi
git add --all
git commit -q -m "Say something"
git push -q
"#;
    lab.scripted(
        agent,
        "checks: [\"grep -q hello greeting.txt || { echo THE GREETING IS MISSING; exit 1; }\"]\n",
    );
    lab.approved("Greet people", "There should be a greeting.");
    lab.until_idle_ok();
    lab.assert_at_rest();
    let state = lab.state();
    let (_, job) = state.jobs.first_key_value().unwrap();
    assert_eq!(job.rounds, 2, "{job:?}");
    let brief = on_branch(&lab, "brief.txt");
    assert!(brief.contains("# Issue 1: Greet people"), "{brief}");
    assert_eq!(on_branch(&lab, "greeting.txt"), "hello");
}

#[test]
fn rounds_used_up_need_a_human_who_reads_the_story() {
    let lab = Lab::new();
    let agent =
        "cat >/dev/null; date +%N >try.txt; git add try.txt; git commit -qm Try; git push -q\n";
    lab.scripted(agent, "rounds: 2\nchecks: [\"echo IT IS RED; false\"]\n");
    lab.approved("Impossible", "");
    let story = given_up(&lab);
    for said in ["r1-1", "r1-2", "r1-3", "r1-4", "r1-5", "r1-6", "IT IS RED"] {
        assert!(story.contains(said), "no `{said}` in {story}");
    }
    // The work so far is the user's to look at.
    let branch = &lab.state().jobs.values().next().unwrap().branch.clone();
    assert!(!lab.git(&["show", &format!("{branch}:try.txt")]).is_empty());

    // Approved again, it gets all its rounds again.
    lab.ok(&["issue", "approve", "1"]);
    assert_eq!(lab.until_idle().code, 10);
    assert_eq!(lab.state().issues.values().next().unwrap().runs, 12);
}

#[test]
fn a_run_that_pushes_nothing_needs_a_human() {
    let lab = Lab::new();
    lab.scripted("cat >/dev/null; echo I AM DONE\n", "rounds: 2\n");
    lab.approved("Do nothing", "");
    let story = given_up(&lab);
    assert!(story.contains("without pushing a commit"), "{story}");
}

#[test]
fn a_garbled_report_loses_no_work() {
    let lab = Lab::new();
    let agent = r#"cat >/dev/null
echo hello >greeting.txt
git add greeting.txt; git commit -qm "Say hello"; git push -q
echo 'I did { it' >/factory/out/report.json
"#;
    lab.scripted(agent, GREETED);
    lab.approved("Greet people", "");
    lab.until_idle_ok();
    lab.assert_at_rest();
    let state = lab.state();
    let pr = state.prs.values().next().unwrap();
    assert_eq!(pr.state, PrState::Ready);
    assert!(pr.body.contains("could not be read"), "{}", pr.body);
}

#[test]
fn a_push_elsewhere_is_refused_in_the_push_itself() {
    let lab = Lab::new();
    let agent = r#"cat >/dev/null
echo hello >greeting.txt
git add greeting.txt; git commit -qm "Say hello"
{
  git push origin HEAD:refs/heads/main; echo "main: $?"
  git push origin HEAD:refs/heads/factory/2-other; echo "other: $?"
  git push origin HEAD:refs/tags/v1; echo "tag: $?"
} >push.txt 2>&1
git add push.txt; git commit -qm "What git said"; git push -q
"#;
    lab.scripted(agent, GREETED);
    lab.approved("Greet people", "");
    lab.until_idle_ok();
    lab.assert_at_rest();
    let said = on_branch(&lab, "push.txt");
    for name in ["main", "other", "tag"] {
        assert!(said.contains(&format!("{name}: 1")), "{said}");
    }
    assert!(said.matches("[remote rejected]").count() == 3, "{said}");
    // The refusal names the one ref that may be pushed to.
    assert!(said.contains("refs/heads/factory/1-greet-people"), "{said}");
    assert_eq!(
        lab.git(&["for-each-ref", "--format=%(refname)"]),
        "refs/heads/factory/1-greet-people\nrefs/heads/main"
    );
}

/// The first run goes on after what it pushed, and that is refused.
const REWRITES: &str = r#"cat >brief
if grep -q 'later push' brief; then
  rm brief
  echo again >>greeting.txt; git commit -qam "The rest"; git push -q
  exit
fi
rm brief
echo hello >greeting.txt; git add greeting.txt; git commit -qm "Say hello"; git push -q
echo hello, again >greeting.txt; git commit -qa --amend -m "Say it well"
git push -q || true
"#;

#[test]
fn a_run_whose_last_push_was_refused_is_not_done() {
    let lab = Lab::new();
    lab.scripted(REWRITES, "checks: [\"grep -q again greeting.txt\"]\n");
    lab.approved("Greet people", "");
    lab.until_idle_ok();
    lab.assert_at_rest();
    let state = lab.state();
    assert_eq!(
        state.issues.values().next().unwrap().runs,
        3,
        "two code runs, one check"
    );
    let story = state.jobs.values().next().unwrap().story.join("\n");
    assert!(story.contains("a later push was refused"), "{story}");
    assert_eq!(on_branch(&lab, "greeting.txt"), "hello\nagain");
}

#[test]
fn a_branch_that_cannot_be_made_goes_to_a_human() {
    let lab = Lab::new();
    lab.scripted(GREETER, GREETED);
    lab.approved("Greet people", "");
    // Git keeps no branch below another.
    lab.git(&["branch", "factory/1-greet-people/in-the-way"]);
    let story = given_up(&lab);
    assert!(story.contains("could not be moved"), "{story}");
    assert!(story.contains("in-the-way"), "{story}");
}
