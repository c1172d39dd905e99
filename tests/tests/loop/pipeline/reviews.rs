//! What checks and reviews lead to.

use super::{APPROVES, AUTO, HELLO, SAYS_HELLO, cast, command, purposes, runs};
use crate::{comments, subjects};
use factory_core::model::{PrState, Purpose, Stage};

/// Plans, for a coder who does what the plan says.
const PLANS: &str = r#"cat >/dev/null
echo '{"summary": "One file.", "steps": ["Write hello into greeting.txt."], "paths": ["greeting.txt"], "tests": ["grep"]}' >/factory/out/report.json
"#;

#[test]
fn an_issue_is_planned_written_checked_reviewed_and_merged_without_a_person() {
    let planned = format!("{SAYS_HELLO}grep -q 'Write hello into greeting.txt' /tmp/brief\n");
    let config = format!("{HELLO}{AUTO}tiers: {{medium: {{plan: true}}, low: {{plan: true}}}}\n");
    let lab = cast(&planned, &[("plan", PLANS), ("review", APPROVES)], &config);
    lab.ok(&["issue", "new", "--title", "Greet people"]);
    lab.until_idle_ok();
    lab.assert_at_rest();
    assert_eq!(purposes(&lab, 1), ["plan", "code", "check", "review"]);
    assert_eq!(lab.read("greeting.txt"), "hello\n");
    let shown = lab.ok(&["pr", "show", "1"]);
    assert!(
        shown.contains("r1-4 says approve, with confidence 0.95"),
        "{shown}"
    );
    let job = lab.ok(&["job", "show", "1"]);
    for said in ["planned", "checks passed", "reviewed", "tier "] {
        assert!(job.contains(said), "no `{said}` in {job}");
    }
}

/// Hello at last, as the reviews ask for it.
const LEARNS: &str = r#"set -eu
cat >/tmp/brief
if grep -q 'With a full stop' /tmp/brief; then echo hello. >greeting.txt
elif grep -q 'Say hello' /tmp/brief; then echo hello >greeting.txt
else echo hi, hello later >greeting.txt; fi
git add greeting.txt; git commit -qm "Greet"; git push -q
"#;

/// Asks twice for something else.
const ASKS: &str = r#"cat >/tmp/brief
says() { echo "{\"verdict\": \"$1\", \"confidence\": 0.92, \"summary\": \"$2\", \"comments\": [$3]}" >/factory/out/report.json; }
test -s /run/factory/change.patch || exit 1
case $(cat greeting.txt) in
  hello.) says approve "Well said." "" ;;
  hello) says request_changes "Nearly." '{"path": "greeting.txt", "line": 1, "severity": "minor", "text": "With a full stop."}' ;;
  *) says request_changes "Not yet." '{"path": "greeting.txt", "line": 1, "severity": "major", "text": "Say hello and nothing else."}' ;;
esac
"#;

#[test]
fn two_reviews_ask_for_changes_and_the_third_approves() {
    let lab = cast(LEARNS, &[("review", ASKS)], &format!("{HELLO}{AUTO}"));
    lab.ok(&["issue", "new", "--title", "Greet people"]);
    lab.until_idle_ok();
    lab.assert_at_rest();
    let round = ["code", "check", "review"];
    assert_eq!(purposes(&lab, 1), [round; 3].concat());
    assert_eq!(lab.read("greeting.txt"), "hello.\n");
    let job = lab.ok(&["job", "show", "1"]);
    assert_eq!(job.matches("request_changes").count(), 2, "{job}");
}

/// Is never content.
const NEVER: &str = r#"cat >/dev/null
echo '{"verdict": "request_changes", "confidence": 0.9, "summary": "Never good enough.", "comments": [{"path": "greeting.txt", "severity": "major", "text": "Better."}]}' >/factory/out/report.json
"#;

/// Something else each time.
const TRIES: &str = r#"cat >/dev/null
echo "hello $(date +%N)" >greeting.txt
git add greeting.txt; git commit -qm Try; git push -q
"#;

#[test]
fn rounds_used_up_leave_a_pull_request_and_a_story_for_a_person() {
    let lab = cast(
        TRIES,
        &[("review", NEVER)],
        &format!("{HELLO}{AUTO}rounds: 2\n"),
    );
    lab.ok(&["issue", "new", "--title", "Greet people"]);
    let ended = lab.until_idle();
    assert_eq!(ended.code, 10, "{}", ended.text());
    lab.assert_at_rest();
    let state = lab.state();
    assert_eq!(
        *state.jobs.values().next().unwrap().stage(),
        Stage::NeedsHuman
    );
    let pr = state.prs.values().next().unwrap();
    assert_eq!(pr.state, PrState::Ready);
    assert!(
        pr.note.as_ref().unwrap().contains("needs a person"),
        "{pr:?}"
    );
    assert_eq!(subjects(&lab), "Begin");
    let told = comments(&lab);
    for said in [
        "2 of 2 rounds are used up",
        "Never good enough.",
        "ostmortem",
    ] {
        assert!(told.contains(said), "no `{said}` in {told}");
    }
    // A person may merge it all the same.
    lab.ok(&["pr", "merge", "1"]);
    lab.assert_at_rest();
    assert!(lab.read("greeting.txt").starts_with("hello "));
}

#[test]
fn what_a_review_is_not_sure_of_waits_for_a_person() {
    let unsure = APPROVES.replace("0.95", "0.6");
    let lab = cast(
        SAYS_HELLO,
        &[("review", &unsure)],
        &format!("{HELLO}{AUTO}"),
    );
    lab.ok(&["issue", "new", "--title", "Greet people"]);
    assert_eq!(lab.until_idle().code, 10, "a person has to decide");
    lab.assert_at_rest();
    assert_eq!(subjects(&lab), "Begin");
    let shown = lab.ok(&["pr", "show", "1"]);
    assert!(shown.contains("at least 0.9 is needed"), "{shown}");
}

#[test]
fn a_reviewer_that_approves_everything_opens_no_way_for_what_is_forbidden() {
    // Forbidden only after it was pushed: so the door let it through.
    let lab = cast(
        SAYS_HELLO,
        &[("review", APPROVES)],
        &format!("{HELLO}gates: {{issues: auto, merge: human}}\nrounds: 1\n"),
    );
    lab.ok(&["issue", "new", "--title", "Greet people"]);
    lab.until_idle_ok();
    lab.write(
        "prohibitions/0001-no-greetings.md",
        "---\nenforce:\n  - {pattern: \"hello\"}\n---\n# No greetings\n\nNever.\n",
    );
    let yaml = lab
        .read("factory.yaml")
        .replace("merge: human", "merge: auto");
    lab.write("factory.yaml", &yaml);
    lab.commit("Forbid it");
    let ended = lab.until_idle();
    assert_eq!(ended.code, 10, "{}", ended.text());
    lab.assert_at_rest();
    assert_eq!(subjects(&lab), "Forbid it\nBegin");
}

/// Breaks the program and bends its test.
const BENDS: &str = r#"set -eu
cat >/dev/null
echo 'echo nothing' >greet.sh
mkdir -p tests; echo 'test "$(sh greet.sh)" = nothing' >tests/greet.sh
git add -A; git commit -qm "Make it pass"; git push -q
"#;

#[test]
fn a_coder_that_edits_the_tests_is_found_out_by_those_of_the_target() {
    let checks = "checks: [\"sh tests/greet.sh\"]\n";
    let lab = cast(BENDS, &[("review", APPROVES)], &format!("{checks}{AUTO}"));
    lab.write("greet.sh", "echo hello\n");
    lab.write("tests/greet.sh", "test \"$(sh greet.sh)\" = hello\n");
    lab.commit("Greet");
    lab.ok(&["issue", "new", "--title", "Tidy up"]);
    assert_eq!(lab.until_idle().code, 10, "a person has to decide");
    lab.assert_at_rest();
    assert_eq!(subjects(&lab), "Greet\nBegin");
    assert_eq!(
        purposes(&lab, 1),
        ["code", "check", "check", "check", "review"],
        "its own tests, then those of the target, twice"
    );
    let shown = lab.ok(&["pr", "show", "1"]);
    assert!(shown.contains("fails with those of the target"), "{shown}");
}

#[test]
fn checks_that_pass_when_run_again_are_told_to_be_flaky() {
    // Red in even runs, green in odd ones: the second is the first check.
    let flaky = "checks: [\"grep -q '^run: r1-[13579]' /run/factory/run.yaml\"]\n";
    let lab = cast(SAYS_HELLO, &[("review", APPROVES)], flaky);
    lab.approved("Greet people", "");
    lab.until_idle_ok();
    lab.assert_at_rest();
    assert_eq!(purposes(&lab, 1), ["code", "check", "check", "review"]);
    let shown = lab.ok(&["pr", "show", "1"]);
    assert!(shown.contains("flaky"), "{shown}");
}

/// Writes more than is let through, and splits it when asked.
const LARGE: &str = r#"set -eu
cat >/tmp/brief
if grep -q 'is large' /tmp/brief; then git rm -q large.txt; echo hello >greeting.txt
else echo hello >greeting.txt; seq 50 >large.txt; fi
git add -A; git commit -qm "Greet"; git push -q
"#;

#[test]
fn a_large_change_is_asked_once_to_become_smaller() {
    let config = format!("{HELLO}gates: {{issues: auto}}\nauto_merge: {{max_changed_lines: 20}}\n");
    let lab = cast(LARGE, &[("review", APPROVES)], &config);
    lab.ok(&["issue", "new", "--title", "Greet people"]);
    lab.until_idle_ok();
    lab.assert_at_rest();
    let round = ["code", "check", "review"];
    assert_eq!(purposes(&lab, 1), [round; 2].concat());
    assert!(lab.state().prs.values().next().unwrap().labels.is_empty());

    let stays = LARGE.replace("is large", "never said");
    let lab = cast(&stays, &[("review", APPROVES)], &config);
    lab.ok(&["issue", "new", "--title", "Greet people"]);
    lab.until_idle();
    let state = lab.state();
    let pr = state.prs.values().next().unwrap();
    assert_eq!(pr.labels, ["oversized"], "{pr:?}");
    assert_eq!(pr.state, PrState::Ready);
}

#[test]
fn who_comes_to_nothing_is_followed_by_the_tier_above_with_its_limits() {
    let rough =
        "cat >/dev/null; echo hi >greeting.txt; git add -A; git commit -qm Try; git push -q";
    let tiers = format!(
        "tiers:\n  low: {{engine: {}, rounds: 1, escalate: true, limits: {{wall: 3m}}}}\n  medium: {{limits: {{wall: 7m}}}}\n",
        command(rough)
    );
    let lab = cast(
        SAYS_HELLO,
        &[("review", APPROVES)],
        &format!("{HELLO}{AUTO}{tiers}"),
    );
    lab.ok(&[
        "issue",
        "new",
        "--title",
        "Greet people",
        "--label",
        "complexity:low",
    ]);
    lab.until_idle_ok();
    lab.assert_at_rest();
    assert_eq!(
        purposes(&lab, 1),
        ["code", "check", "check", "code", "check", "review"],
        "red checks are run again"
    );
    assert_eq!(lab.read("greeting.txt"), "hello\n");
    let limits: Vec<u64> = runs(&lab, 1)
        .iter()
        .filter(|run| run.purpose == Purpose::Code)
        .map(|run| run.limits.wall.0)
        .collect();
    assert_eq!(limits, [180, 420]);
    let job = lab.ok(&["job", "show", "1"]);
    assert!(job.contains("one tier up"), "{job}");
}
