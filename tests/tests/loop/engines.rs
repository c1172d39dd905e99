//! The other real engines, each from an issue to a merged commit.

use crate::{comments, subjects};
use factory_core::model::PrState;
use factory_testkit::provider::Outcome;
use factory_tests::{Lab, Model};

/// Finds the defect, mends it in two files, tries it, hands it in.
const MENDS: &str = r#"
conversations:
  - name: mend
    when: {contains: "Sums are wrong"}
    steps:
      - text: Let me look.
        tool: Read
        input: {file_path: /workspace/calc.sh}
      - text: It subtracts.
        tool: Edit
        input: {file_path: /workspace/calc.sh, old_string: "$1 - $2", new_string: "$1 + $2"}
      - text: A test was missing.
        tools:
          - {tool: Write, input: {file_path: /workspace/notes/sum.md, content: "It adds now.\n"}}
          - {tool: Bash, input: {command: "sh test.sh", description: Run the test}}
      - text: Handing in.
        tool: Bash
        input: {command: "git add -A && git commit -qm 'Add, not subtract' && git push -q && printf '%s' '{\"summary\": \"Sums are right now.\"}' >/factory/out/report.json", description: Hand in}
      - text: Done.
"#;

/// An issue about a real defect, with a check that is red before and green after.
fn mends(engine: &str, said_at_start: &str) {
    let model = Model::yaml(MENDS);
    let mut lab = Lab::new();
    lab.env("TEST_API_KEY", "some-made-up-key");
    lab.write("calc.sh", "echo $(( $1 - $2 ))\n");
    lab.write("test.sh", "test \"$(sh calc.sh 3 4)\" = 7\n");
    lab.write(
        "principles/0001-small.md",
        "# Keep it small\n\nTouch \"one\" thing at a time: {{ x }} {% y %}.\n",
    );
    let config = Lab::engine_config(engine, &model, "checks: [\"sh test.sh\"]\n");
    lab.write("factory.yaml", &config);
    lab.commit("Begin");
    let red = || {
        let test = std::process::Command::new("sh")
            .arg("test.sh")
            .current_dir(lab.repo())
            .status();
        !test.unwrap().success()
    };
    assert!(red(), "the defect is there");
    lab.approved("Sums are wrong", "`sh calc.sh 3 4` should say 7.");
    lab.until_idle_ok();
    lab.assert_at_rest();
    let state = lab.state();
    let pr = state.prs.values().next().unwrap();
    assert_eq!(pr.state, PrState::Ready);
    assert!(pr.body.contains("Sums are right now."), "{}", pr.body);
    assert!(pr.checked.is_some());
    assert_eq!(comments(&lab), "", "nothing had to be told");

    // Each request got its answer, with the rules of the repository in it, and was counted.
    let requests = model.requests();
    let answers: Vec<usize> = requests
        .iter()
        .map(|request| match &request.outcome {
            Outcome::Answer { answer, .. } => *answer,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(answers, [0, 1, 2, 3, 4]);
    for request in &requests {
        let asked = request.request().unwrap();
        assert!(
            asked
                .system
                .contains("Touch \"one\" thing at a time: {{ x }} {% y %}."),
            "{}",
            asked.system
        );
        assert_eq!(
            request.header("authorization"),
            Some("Bearer some-made-up-key")
        );
        assert!(!String::from_utf8_lossy(&request.body).contains("some-made-up-key"));
    }
    let run = lab.ok(&["run", "show", "r1-1"]);
    assert!(
        run.contains("5 model calls") && run.contains(engine),
        "{run}"
    );
    let logs = lab.ok(&["run", "logs", "r1-1"]);
    for said in [said_at_start, "It subtracts.", "sh test.sh", "ended"] {
        assert!(logs.contains(said), "no `{said}` in {logs}");
    }

    lab.ok(&["pr", "merge", "1"]);
    lab.assert_at_rest();
    assert!(!red(), "the defect is gone");
    assert_eq!(lab.read("notes/sum.md"), "It adds now.\n");
    let branch = "factory/1-sums-are-wrong";
    assert_eq!(
        subjects(&lab),
        format!("Merge pull request 1 from {branch}\nBegin")
    );
}

#[test]
fn codex_goes_from_an_issue_to_a_merged_commit() {
    mends("codex", "started as ");
}

#[test]
fn mini_goes_from_an_issue_to_a_merged_commit() {
    mends("mini", "> bash cat '/workspace/calc.sh'");
}
