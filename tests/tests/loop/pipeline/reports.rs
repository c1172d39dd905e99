//! Reports that are malformed, and rights that a run does not have.

use super::{APPROVES, AUTO, HELLO, SAYS_HELLO, cast, purposes};
use crate::{comments, subjects};
use factory_tests::{Lab, Model};

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

/// A reviewer that uses the report as a tool, wrongly at first.
const BY_TOOL: &str = r#"
conversations:
  - name: review
    when: {contains: "You are a reviewer of"}
    steps:
      - text: I report.
        tool: mcp__factory__report
        input: {verdict: fine, confidence: 1, summary: "As asked."}
      - text: Once more, as I was told.
        tool: mcp__factory__report
        input: {verdict: approve, confidence: 0.97, summary: "As asked, by tool."}
      - text: Approved.
  - name: code
    when: {contains: "Greet people"}
    steps:
      - tool: Bash
        input: {command: "echo hello >greeting.txt && git add -A && git commit -qm 'Say hello' && git push -q && echo '{\"summary\": 7}' | factory-agent report || echo '{\"summary\": \"Hello.\"}' | factory-agent report", description: work}
      - text: Done.
"#;

#[test]
fn a_report_can_be_handed_in_by_a_tool_that_says_what_is_wrong() {
    let model = Model::yaml(BY_TOOL);
    let mut lab = Lab::new();
    lab.env("TEST_API_KEY", "some-made-up-key");
    lab.write(
        "factory.yaml",
        &Lab::claude_config(
            &model,
            &format!("{HELLO}{AUTO}auto_merge: {{min_confidence: 0.9}}\n"),
        ),
    );
    lab.commit("Begin");
    lab.ok(&["issue", "new", "--title", "Greet people"]);
    lab.until_idle_ok();
    lab.assert_at_rest();
    assert_eq!(purposes(&lab, 1), ["code", "check", "review"]);
    let shown = lab.ok(&["pr", "show", "1"]);
    assert!(shown.contains("As asked, by tool."), "{shown}");
    // What was wrong came back to the model as the tool's answer.
    let asked = model.requests();
    let answered = |text: &str| {
        asked
            .iter()
            .any(|r| String::from_utf8_lossy(&r.body).contains(text))
    };
    assert!(answered("unknown variant `fine`"), "{}", asked.len());
    assert!(answered("handed in when you finish"), "{}", asked.len());
}
