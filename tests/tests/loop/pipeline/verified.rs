//! After the merge: whether the target does what the issue asks for is looked at there.

use super::{cast, purposes, runs};
use crate::subjects;
use factory_core::{grant::Role, model::Purpose};
use factory_tests::{Lab, Model};

/// Two parts side by side, and one that waits for both.
const SPLITS: &str = r#"cat >/dev/null
echo '{"summary": "Three.", "issues": [
 {"key": "one", "title": "One", "body": "The word one.", "acceptance": ["it is there"], "complexity": "low"},
 {"key": "two", "title": "Two", "body": "The word two.", "acceptance": ["it is there", "it is told"], "complexity": "low"},
 {"key": "sum", "title": "Sum", "body": "The sum of both.", "acceptance": ["it is there"], "depends_on": ["one", "two"], "complexity": "low"}]}' >/factory/out/report.json
"#;

/// Writes its word into a file of its own; tells of it where it is asked to.
const WORDS: &str = r#"set -eu
cat >/tmp/brief
if grep -q 'The word one' /tmp/brief; then word=one; elif grep -q 'The word two' /tmp/brief; then word=two; else word=sum; fi
if grep -q 'Tell of it' /tmp/brief; then echo "one and two" >told.txt; fi
if [ $word = sum ]; then cat one.txt two.txt told.txt >sum.txt; else echo $word >$word.txt; fi
git add -A; git commit -qm "Word $word"; git push -q
"#;

/// Approves of changes; on the target it wants what beside the words is asked for.
const LOOKS: &str = r#"cat >/tmp/brief
if grep -q '^# What to look at' /tmp/brief && ! [ -f told.txt ]; then
test -s one.txt && test -s two.txt && grep -q '^+two' /run/factory/change.patch || exit 1
echo '{"verdict": "request_changes", "confidence": 1, "summary": "It is not told.", "comments": [{"path": "told.txt", "severity": "major", "text": "Tell of it."}]}' >/factory/out/report.json
else
echo '{"verdict": "approve", "confidence": 1, "summary": "It is as asked."}' >/factory/out/report.json
fi
"#;

/// Opens the merge gate of the newest pull request of an issue, and waits for what follows.
fn merges(lab: &Lab, issue: u64) {
    let state = lab.state();
    let mut prs = state.prs.values().filter(|pr| pr.issue.0 == issue);
    let pr = prs.next().unwrap().number.to_string();
    lab.ok(&["pr", "merge", &pr]);
    lab.until_idle_ok();
}

#[test]
fn what_lacks_on_the_target_is_written_before_the_issue_closes_and_others_go_on() {
    let stages = [("split", SPLITS), ("review", LOOKS)];
    let rest = "checks: [\"ls *.txt\"]\nslots: 2\ngates: {issues: auto}\n";
    let lab = cast(WORDS, &stages, rest);
    lab.ok(&["do", "Write two words and their sum"]);
    lab.until_idle_ok();
    // Both were written on the same target: what the second makes of it, nobody saw.
    merges(&lab, 2);
    merges(&lab, 3);
    assert!(runs(&lab, 4).is_empty(), "the sum waits for both");
    merges(&lab, 3);
    merges(&lab, 4);
    lab.assert_at_rest();
    assert!(lab.state().issues.is_empty());
    assert_eq!(lab.read("sum.txt"), "one\ntwo\none and two\n");
    let of_two = purposes(&lab, 3);
    let order: Vec<&str> = of_two.iter().map(String::as_str).collect();
    let [.., "verify", "code", "check", "review"] = order.as_slice() else {
        panic!("{order:?}");
    };
    assert_eq!(
        subjects(&lab).lines().filter(|s| s.contains("two")).count(),
        2,
        "two pull requests"
    );
    let all = runs(&lab, 3);
    let look = all
        .iter()
        .find(|run| run.purpose == Purpose::Verify)
        .unwrap();
    assert_eq!((look.grant.role, &look.grant.branch), (Role::Review, &None));
    let job = lab.ok(&["job", "show", "3"]);
    for told in [
        "looked at the target",
        "request_changes",
        "It is not told",
        "(`factory pr show 3`)",
    ] {
        assert!(job.contains(told), "no `{told}` in {job}");
    }
    let run = lab.ok(&["run", "show", &look.id.to_string()]);
    assert!(run.contains("verify"), "{run}");
}

/// Two parts side by side, in files of their own; the reviewer is asked for both changes, and
/// for the target with both.
const MODEL: &str = r##"
conversations:
  - name: the target
    when: {contains: "# What to look at", model: claude-haiku-4-5}
    steps:
      - text: What was merged.
        tool: Read
        input: {file_path: /run/factory/change.patch}
      - text: What is there now.
        tool: mcp__factory__files
        input: {}
      - text: All of it.
        tool: mcp__factory__report
        input: {verdict: approve, confidence: 0.97, summary: "one.txt and two.txt are there."}
      - text: Approved.
  - name: review
    when: {contains: "You are a reviewer of", model: claude-haiku-4-5}
    steps:
      - text: It is as it should be.
        tool: mcp__factory__report
        input: {verdict: approve, confidence: 0.97, summary: "As asked."}
      - text: Approved.
  - name: one
    when: {contains: "Write one.txt"}
    steps:
      - tool: Bash
        input: {command: "echo one >one.txt && git add -A && git commit -qm One && git push -q && echo '{\"summary\": \"One.\"}' | factory-agent report", description: work}
      - text: Done.
  - name: two
    when: {contains: "Write two.txt"}
    steps:
      - tool: Bash
        input: {command: "echo two >two.txt && git add -A && git commit -qm Two && git push -q && echo '{\"summary\": \"Two.\"}' | factory-agent report", description: work}
      - text: Done.
"##;

#[test]
fn claude_looks_at_the_target_by_tools_that_only_read() {
    let model = Model::yaml(MODEL);
    let mut lab = Lab::new();
    lab.env("TEST_API_KEY", "some-made-up-key");
    let rest = "checks: [\"ls *.txt\"]\nauto_merge: {min_confidence: 0.9}\nstages: {review: {model: claude-haiku-4-5}}\nslots: 2\ngates: {issues: auto}\n";
    lab.write("factory.yaml", &Lab::claude_config(&model, rest));
    lab.commit("Begin");
    for (title, file) in [("One", "one.txt"), ("Two", "two.txt")] {
        let body = format!("Write {file}.\n\n- [ ] {file} is there\n");
        lab.ok(&["issue", "new", "--title", title, "--body", &body]);
    }
    lab.until_idle_ok();
    // Both were written on the same target: what the second makes of it, nobody saw.
    lab.ok(&["pr", "merge", "1"]);
    let merged = lab.ok(&["pr", "merge", "2"]);
    assert!(merged.contains("a run looks at main"), "{merged}");
    lab.until_idle_ok();
    lab.assert_at_rest();
    assert!(lab.state().issues.is_empty());
    let looks = [1, 2].map(|issue| {
        let all = purposes(&lab, issue);
        all.iter().filter(|purpose| *purpose == "verify").count()
    });
    assert_eq!(
        looks.iter().sum::<usize>(),
        1,
        "{looks:?}: the second merge"
    );
    let looked = 1 + looks.iter().position(|n| *n == 1).unwrap();
    let shown = lab.ok(&["issue", "show", &looked.to_string()]);
    for told in [
        "found on",
        "all that is asked for",
        "one.txt and two.txt are there.",
    ] {
        assert!(shown.contains(told), "no `{told}` in {shown}");
    }
}
