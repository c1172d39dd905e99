//! `factory do`: one instruction becomes merged work.

use super::{APPROVES, AUTO, assert_always_green, cast, command, purposes};
use crate::subjects;
use factory_core::model::{PrState, Stage};
use factory_tests::{Lab, Model};
use std::process::Stdio;

/// The project: a calculator with its tests.
const CALC: &str = "def add(a, b):\n    return a + b\n";
const TESTS: &str = "import unittest\n\nfrom calc import add\n\n\nclass AddTest(unittest.TestCase):\n    def test_it_adds(self):\n        self.assertEqual(add(1, 2), 3)\n";
const CHECK: &str = "python3 -m unittest";
const INSTRUCTION: &str =
    "Teach the calculator to subtract and to multiply, and give it a command line";

/// Splits into three issues in a row; the second is asked to do better once.
const MODEL: &str = r#"
conversations:
  - name: split
    when: {contains: "You are a splitter of", model: claude-opus-4-5}
    steps:
      - text: I look at what there is.
        tool: Bash
        input: {command: "ls && cat calc.py", description: look}
      - text: Three issues in a row.
        tool: Write
        input:
          file_path: /factory/out/report.json
          content: >-
            {"summary": "One after the other.", "issues": [
            {"key": "sub", "title": "Subtract", "body": "Add sub(a, b).", "acceptance": ["sub(3, 1) is 2"], "paths": ["calc.py", "test_sub.py"], "complexity": "low"},
            {"key": "mul", "title": "Multiply", "body": "Add mul(a, b).", "acceptance": ["mul(3, 2) is 6"], "paths": ["calc.py", "test_mul.py"], "depends_on": ["sub"], "complexity": "low"},
            {"key": "cli", "title": "Give it a command line", "body": "python3 cli.py add 1 2 prints 3.", "acceptance": ["It prints 3"], "paths": ["cli.py", "test_cli.py"], "depends_on": ["mul"], "complexity": "medium"}]}
      - text: Done.
  - name: second review
    when: {contains: "The review before, of", model: claude-haiku-4-5}
    steps: &approves
      - text: I read the change.
        tool: Read
        input: {file_path: /run/factory/change.patch}
      - text: It is as it should be.
        tool: mcp__factory__report
        input: {verdict: approve, confidence: 0.97, summary: "As asked."}
      - text: Approved.
  - name: first review of Multiply
    when: {contains: "Add mul(a, b).", model: claude-haiku-4-5}
    steps:
      - text: Zero is not tested.
        tool: mcp__factory__report
        input: {verdict: request_changes, confidence: 0.9, summary: "Zero is not tested.", comments: [{path: test_mul.py, line: 1, severity: major, text: "Test a factor of zero."}]}
      - text: Changes requested.
  - name: review
    when: {contains: "You are a reviewer of", model: claude-haiku-4-5}
    steps: *approves
  - name: multiply again
    when: {contains: "Test a factor of zero."}
    steps:
      - tool: Bash
        input: {command: "sed -i 's/mul(3, 2), 6)/mul(3, 2), 6)\\n        self.assertEqual(mul(3, 0), 0)/' test_mul.py && python3 -m unittest && git commit -qam 'Test zero' && git push -q && echo '{\"summary\": \"Zero is tested.\"}' | factory-agent report", description: mend}
      - text: Done.
  - name: subtract
    when: {contains: "Add sub(a, b)."}
    steps:
      - text: A function and its test.
        tool: Bash
        input: {command: "printf '\\n\\ndef sub(a, b):\\n    return a - b\\n' >>calc.py && printf 'import unittest\\n\\nfrom calc import sub\\n\\n\\nclass SubTest(unittest.TestCase):\\n    def test_it(self):\\n        self.assertEqual(sub(3, 1), 2)\\n' >test_sub.py && python3 -m unittest && git add -A && git commit -qm 'Subtract' && git push -q && echo '{\"summary\": \"It subtracts.\"}' | factory-agent report", description: work}
      - text: Done.
  - name: multiply
    when: {contains: "Add mul(a, b)."}
    steps:
      - tool: Bash
        input: {command: "grep -q sub calc.py && printf '\\n\\ndef mul(a, b):\\n    return a * b\\n' >>calc.py && printf 'import unittest\\n\\nfrom calc import mul\\n\\n\\nclass MulTest(unittest.TestCase):\\n    def test_it(self):\\n        self.assertEqual(mul(3, 2), 6)\\n' >test_mul.py && python3 -m unittest && git add -A && git commit -qm 'Multiply' && git push -q && echo '{\"summary\": \"It multiplies.\"}' | factory-agent report", description: work}
      - text: Done.
      - tool: Bash
        input: {command: "sed -i 's/mul(3, 2), 6)/mul(3, 2), 6)\\n        self.assertEqual(mul(3, 0), 0)/' test_mul.py && python3 -m unittest && git commit -qam 'Test zero' && git push -q && echo '{\"summary\": \"Zero is tested.\"}' | factory-agent report", description: mend}
      - text: Done again.
  - name: command line
    when: {contains: "python3 cli.py add 1 2 prints 3."}
    steps:
      - tool: Bash
        input: {command: "printf 'import sys\\n\\nimport calc\\n\\nname, a, b = sys.argv[1:]\\nprint(getattr(calc, name)(int(a), int(b)))\\n' >cli.py && printf 'import subprocess\\nimport sys\\nimport unittest\\n\\n\\nclass CliTest(unittest.TestCase):\\n    def test_it(self):\\n        said = subprocess.check_output([sys.executable, \"cli.py\", \"mul\", \"3\", \"2\"])\\n        self.assertEqual(said, b\"6\\\\n\")\\n' >test_cli.py && python3 -m unittest && git add -A && git commit -qm 'A command line' && git push -q && echo '{\"summary\": \"It has a command line.\"}' | factory-agent report", description: work}
      - text: Done.
"#;

#[test]
fn one_command_without_a_person_becomes_three_merged_pull_requests() {
    let model = Model::yaml(MODEL);
    let mut lab = Lab::new();
    lab.env("TEST_API_KEY", "some-made-up-key");
    lab.write("calc.py", CALC);
    lab.write("test_calc.py", TESTS);
    lab.write(
        "factory.yaml",
        &Lab::claude_config(
            &model,
            &format!(
                "image: {{packages: [python3]}}\nchecks: [\"{CHECK}\"]\nauto_merge: {{min_confidence: 0.9}}\nstages: {{split: {{model: claude-opus-4-5}}, review: {{model: claude-haiku-4-5}}}}\n{AUTO}"
            ),
        ),
    );
    lab.commit("Begin");
    let start = lab.start(&[], &[]);
    let said = lab.say(&["do", INSTRUCTION, "--wait"]);
    assert_eq!(said.code, 0, "{said:?}");
    start.interrupt();
    assert_eq!(start.ended().code, 0);
    lab.assert_at_rest();
    assert_eq!(
        subjects(&lab),
        "Merge pull request 3 from factory/4-give-it-a-command-line\nMerge pull request 2 from factory/3-multiply\nMerge pull request 1 from factory/2-subtract\nBegin"
    );
    let state = lab.state();
    assert!(state.issues.is_empty() && state.jobs.is_empty() && state.prs.is_empty());
    assert_eq!(purposes(&lab, 1), ["split"]);
    assert_eq!(
        purposes(&lab, 3).iter().filter(|p| *p == "code").count(),
        2,
        "a fix round"
    );
    assert_always_green(&lab, &format!("PYTHONDONTWRITEBYTECODE=1 {CHECK}"));
    let parent = lab.ok(&["issue", "show", "1"]);
    for told in ["3 merged, 0 given up", "pull request 3", "$"] {
        assert!(parent.contains(told), "no `{told}` in {parent}");
    }
    let job = lab.ok(&["job", "show", "3"]);
    for told in ["request_changes", "approve", "checks passed", "tier low"] {
        assert!(job.contains(told), "no `{told}` in {job}");
    }
}

/// Two parts that write the same file at the same time.
const SPLITS: &str = r#"cat >/dev/null
echo '{"summary": "Two.", "issues": [
 {"key": "one", "title": "One", "body": "The word one.", "acceptance": ["it is there"], "complexity": "low"},
 {"key": "two", "title": "Two", "body": "The word two.", "acceptance": ["it is there"], "complexity": "low"}]}' >/factory/out/report.json
"#;

/// Its own word, or both where it has to merge.
const WORDS: &str = r#"set -eu
cat >/tmp/brief
if grep -q 'The word one' /tmp/brief; then word=one; else word=two; fi
if git rev-parse -q --verify MERGE_HEAD; then printf 'one\ntwo\n' >words.txt; else echo $word >words.txt; fi
git add -A; git commit -qm "Word $word"; git push -q
"#;

#[test]
fn parts_of_an_instruction_that_conflict_are_mended_and_merged() {
    let stages = [("split", SPLITS), ("review", APPROVES)];
    let check = "test -s words.txt";
    let lab = cast(
        WORDS,
        &stages,
        &format!("checks: [\"{check}\"]\nslots: 2\n{AUTO}"),
    );
    lab.ok(&["do", "Write two words"]);
    lab.until_idle_ok();
    lab.assert_at_rest();
    assert_eq!(lab.read("words.txt"), "one\ntwo\n");
    assert_eq!(subjects(&lab).lines().count(), 3);
    assert!(lab.state().issues.is_empty());
    let rounds = [2, 3].map(|issue| {
        purposes(&lab, issue)
            .iter()
            .filter(|p| *p == "code")
            .count()
    });
    assert_eq!(
        rounds.iter().sum::<usize>(),
        3,
        "{rounds:?}: one of them mended it"
    );
}

#[test]
fn with_human_gates_an_instruction_waits_at_each_of_them_with_nothing_running() {
    let stages = [("split", SPLITS), ("review", APPROVES)];
    let lab = cast(
        WORDS,
        &stages,
        "checks: [\"test -s words.txt\"]\nslots: 1\n",
    );
    let mut start = lab.start(&[], &[]);
    lab.ok(&["do", "Write two words"]);
    start.until("its issues wait, nothing runs", |state| {
        let job = state.jobs.values().next();
        state.runs.is_empty() && job.is_some_and(|job| *job.stage() == Stage::SplitReady)
    });
    lab.assert_no_run();
    assert!(lab.state().jobs.len() == 1, "nothing is begun");
    lab.ok(&["issue", "approve", "1"]);
    start.until("both pull requests wait", |state| {
        state.runs.is_empty()
            && state.prs.len() == 2
            && state.prs.values().all(|pr| pr.state == PrState::Ready)
    });
    lab.assert_no_run();
    lab.ok(&["pr", "merge", "1"]);
    lab.ok(&["issue", "close", "3"]);
    start.interrupt();
    assert_eq!(start.ended().code, 0);
    lab.assert_at_rest();
    let shown = lab.ok(&["issue", "show", "1"]);
    assert!(shown.contains("1 merged, 1 given up"), "{shown}");
}

#[test]
fn whoever_waits_for_an_instruction_waits_while_a_gate_does_and_is_told_the_end() {
    let stages = [("split", SPLITS), ("review", APPROVES)];
    let lab = cast(
        WORDS,
        &stages,
        "checks: [\"test -s words.txt\"]\nslots: 1\ngates: {merge: auto}\n",
    );
    let mut start = lab.start(&[], &[]);
    let mut waits = lab
        .factory()
        .args(["do", "Write two words", "--wait"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    start.until("its issues wait, nothing runs", |state| {
        let job = state.jobs.values().next();
        state.runs.is_empty() && job.is_some_and(|job| *job.stage() == Stage::SplitReady)
    });
    assert_eq!(waits.try_wait().unwrap(), None, "it waits");
    lab.ok(&["issue", "approve", "1"]);
    assert_eq!(waits.wait().unwrap().code(), Some(0));
    assert!(lab.state().jobs.is_empty());
    start.interrupt();
    assert_eq!(start.ended().code, 0);
    lab.assert_at_rest();
    assert_eq!(lab.read("words.txt"), "one\ntwo\n");
}

#[test]
fn a_malformed_split_is_a_persons_after_three_tries_and_files_nothing() {
    let cycle = r#"cat >/dev/null
echo '{"summary": "A circle.", "issues": [
 {"key": "a", "title": "A", "body": "a", "acceptance": ["a"], "depends_on": ["b"], "complexity": "low"},
 {"key": "b", "title": "B", "body": "b", "acceptance": ["b"], "depends_on": ["a"], "complexity": "low"}]}' >/factory/out/report.json
"#;
    let lab = cast(WORDS, &[("split", cycle)], AUTO);
    lab.ok(&["do", "Go round in circles"]);
    let ended = lab.until_idle();
    assert_eq!(ended.code, 10, "{}", ended.text());
    lab.assert_at_rest();
    assert_eq!(purposes(&lab, 1), ["split"; 3]);
    assert_eq!(lab.state().issues.len(), 1);
    let shown = lab.ok(&["issue", "show", "1"]);
    assert!(shown.contains("depends_on"), "{shown}");
}

#[test]
fn without_anybody_who_splits_an_instruction_is_refused_with_the_next_step() {
    let lab = Lab::new();
    lab.write("factory.yaml", &format!("engine: {}\n", command(WORDS)));
    lab.commit("Begin");
    lab.ok(&["issue", "list"]);
    let said = lab.say(&["do", "Something"]);
    assert_eq!(said.code, 5, "{said:?}");
    assert!(said.err.contains("stages: {split:"), "{}", said.err);
}
