//! Reports that are malformed, and rights that a run does not have.

use super::{APPROVES, AUTO, HELLO, SAYS_HELLO, cast, purposes};
use crate::{comments, subjects};

#[test]
fn a_malformed_review_is_answered_and_tried_again_and_then_is_a_persons() {
    let wrong = "cat >/tmp/brief; echo '{\"verdict\": \"fine\"}' >/factory/out/report.json\n";
    let lab = cast(SAYS_HELLO, &[("review", wrong)], &format!("{HELLO}{AUTO}"));
    lab.ok(&["issue", "new", "--title", "Greet people"]);
    let ended = lab.until_idle();
    assert_eq!(ended.code, 10, "{}", ended.text());
    lab.assert_at_rest();
    assert_eq!(
        purposes(&lab, 1),
        ["code", "check", "review", "review", "review"],
        "two more tries"
    );
    assert_eq!(subjects(&lab), "Begin");
    let told = comments(&lab);
    assert!(told.contains("unknown variant `fine`"), "{told}");
}

#[test]
fn who_is_told_what_is_wrong_with_a_report_can_mend_it() {
    // An own command cannot be talked to, so the next run is told.
    let mends = format!("if grep -q 'unknown variant' /tmp/brief; then {APPROVES} fi\n");
    let wrong = format!(
        "cat >/tmp/brief; echo '{{\"verdict\": \"fine\"}}' >/factory/out/report.json\n{mends}"
    );
    let plan = r#"cat >/tmp/brief
if grep -q 'came to nothing' /tmp/brief; then steps='["Do it."]'; else steps='[]'; fi
echo "{\"summary\": \"One step.\", \"steps\": $steps}" >/factory/out/report.json
"#;
    let config = format!("{HELLO}{AUTO}tiers: {{medium: {{plan: true}}, low: {{plan: true}}}}\n");
    let lab = cast(SAYS_HELLO, &[("plan", plan), ("review", &wrong)], &config);
    lab.ok(&["issue", "new", "--title", "Greet people"]);
    lab.until_idle_ok();
    lab.assert_at_rest();
    assert_eq!(
        purposes(&lab, 1),
        ["plan", "plan", "code", "check", "review", "review"]
    );
    assert_eq!(lab.read("greeting.txt"), "hello\n");
}

/// Reviews, and tries to push what it likes better.
const PUSHES: &str = r#"cat >/dev/null
echo better >greeting.txt; git add -A; git commit -qm "Better"
said=$(git push origin HEAD:refs/heads/factory/1-greet-people 2>&1 && echo PUSHED)
said="$said $(git push origin HEAD:refs/heads/main 2>&1 && echo PUSHED)"
case $said in *PUSHED*) verdict=reject ;; *) verdict=approve ;; esac
echo "{\"verdict\": \"$verdict\", \"confidence\": 1, \"summary\": \"Tried to push.\"}" >/factory/out/report.json
"#;

/// Writes code, and a review of it.
const REVIEWS_ITSELF: &str = r#"set -eu
cat >/dev/null
echo hello >greeting.txt; git add -A; git commit -qm "Say hello"; git push -q
echo '{"verdict": "approve", "confidence": 1, "summary": "I like it."}' >/factory/out/report.json
"#;

#[test]
fn a_reviewer_cannot_push_and_a_coder_cannot_review() {
    let lab = cast(
        REVIEWS_ITSELF,
        &[("review", PUSHES)],
        &format!("{HELLO}{AUTO}"),
    );
    lab.ok(&["issue", "new", "--title", "Greet people"]);
    lab.until_idle_ok();
    lab.assert_at_rest();
    assert_eq!(lab.read("greeting.txt"), "hello\n");
    let shown = lab.ok(&["pr", "show", "1"]);
    assert!(shown.contains("r1-3 says approve"), "{shown}");
    assert!(
        shown.contains("The report of r1-1 could not be read"),
        "{shown}"
    );
}
