//! What agents file beside their work.

use crate::{GREETED, comments};
use factory_core::ids::IssueNo;
use factory_tests::{Lab, within_one_day};

/// Says hello, and has noticed two things that are wanted and one that is known.
const NOTICER: &str = r#"set -eu
cat >brief.txt
echo hello >greeting.txt
git add --all
git commit -q -m "Say hello"
git push -q
cat >/factory/out/report.json <<'END'
{
  "summary": "It says hello now.",
  "issues": [
    {"title": "Nobody says goodbye", "body": "Depends-on: #1\nThere is no farewell.txt."},
    {"title": "The greeting is not translated", "body": "It is English only."},
    {"title": "greet  PEOPLE", "body": "As I was told."}
  ],
  "comments": ["I chose `hello`: it is what the README says."]
}
END
"#;

#[test]
fn what_an_agent_notices_is_filed_as_far_as_the_day_has_room() {
    within_one_day();
    let lab = Lab::new();
    lab.scripted(
        NOTICER,
        &format!(
            "{GREETED}gates: {{issues: auto}}\ntypes: {{worker: {{per_day: {{issues: 1}}}}}}\n"
        ),
    );
    lab.ok(&["issue", "new", "--title", "Greet people"]);
    lab.until_idle_ok();
    lab.assert_at_rest();

    // One is filed and waits for a person, although the gate is open; one waits for a day.
    let list = lab.ok(&["issue", "list"]);
    let line = |title: &str| {
        let line = list.lines().find(|line| line.ends_with(title));
        let words = line.unwrap_or_else(|| panic!("no {title}: {list}"));
        words
            .split_whitespace()
            .take(3)
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(line("Nobody says goodbye"), "2 proposed r1-1");
    assert_eq!(list.lines().count(), 3, "{list}");
    let state = lab.state();
    assert!(state.issues[&IssueNo(2)].depends_on.is_empty());
    assert_eq!(state.jobs.len(), 1);

    let shown = lab.ok(&["issue", "show", "2"]);
    for words in [
        "waits for approval",
        "by r1-1 (an agent, on issue 1)",
        "There is no farewell.txt.",
        "factory issue approve 2",
    ] {
        assert!(shown.contains(words), "no {words}: {shown}");
    }
    let shown = lab.ok(&["issue", "show", "1"]);
    for words in [
        "r1-1: filed #2, 1 to be filed on another day",
        "Comment by r1-1",
        "it is what the README says",
        "Comment by factory",
        "“The greeting is not translated” waits for another day: agents file 1 a day",
        "“greet PEOPLE” is open already, as #1.",
        "Issues of its agents that are not filed yet (1/1 of the day (types.worker.per_day.issues) are filed, until 00:00 UTC):\n    r1-1  The greeting is not translated\n",
    ] {
        assert!(shown.contains(words), "no {words}: {shown}");
    }
    assert!(comments(&lab).contains("run: r1-1"), "{shown}");
    let waits = "1 issue of an agent is not filed yet: 1/1 of the day (types.worker.per_day.issues) are filed, until 00:00 UTC";
    for command in ["plan", "status"] {
        let said = lab.ok(&[command]);
        assert!(said.contains(waits), "{said}");
    }
    let run = lab.ok(&["run", "show", "r1-1"]);
    assert!(
        run.contains(
            "It asked for the issue “The greeting is not translated”:\n    It is English only."
        ),
        "{run}"
    );

    // With more room it is filed at once.
    let config = lab.read("factory.yaml").replace("issues: 1}", "issues: 2}");
    lab.write("factory.yaml", &config);
    lab.commit("More room");
    lab.until_idle_ok();
    let list = lab.ok(&["issue", "list", "--json"]);
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    let third = &list[2];
    assert_eq!(
        (&third["title"], &third["run"], &third["state"]),
        (
            &"The greeting is not translated".into(),
            &"r1-1".into(),
            &"proposed".into()
        )
    );
    assert!(lab.state().drafts.is_empty());

    // A person's approval has it built; its run reads what the issue says.
    lab.ok(&["issue", "approve", "2"]);
    lab.until_idle_ok();
    let brief = lab.git(&["show", "factory/2-nobody-says-goodbye:brief.txt"]);
    assert!(brief.contains("# Issue 2: Nobody says goodbye"), "{brief}");
    lab.assert_at_rest();
}
