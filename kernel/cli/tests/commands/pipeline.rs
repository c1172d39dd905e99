//! Instructions, edited issues, orders in comments, reviews of people, jobs that are over.

use crate::lab::{CONFIG, HOSTILE, Lab};
use factory_core::{
    event::Event,
    ids::IssueNo,
    inbox::{EngineExit, InboxEntry, RunEnd},
    model::{ContainerExit, Purpose},
};

/// A run splits the only instruction, and reports this.
fn split(lab: &Lab, json: &str) {
    lab.journal(Event::RunGranted {
        job: IssueNo(1),
        purpose: Purpose::Split,
        slot: 0,
        facts: lab.facts(),
    });
    let (_, _, state, _) = lab.ledger();
    let run = *state.runs.keys().next_back().unwrap();
    lab.journal(Event::RunRunning { run });
    let end = RunEnd {
        exit: EngineExit::Code(0),
        last_output: String::new(),
        stderr_tail: String::new(),
        report_problem: None,
        push_problem: None,
    };
    let json = json.to_owned();
    let entries = [InboxEntry::Report { json }, InboxEntry::End(end)];
    let tip = lab.tip("main");
    lab.journal(Event::Inbox {
        run,
        entries: entries.map(|entry| (tip.clone(), entry)).to_vec(),
    });
    let exit = Some(ContainerExit {
        code: 0,
        oom: false,
    });
    lab.journal(Event::ContainerEnded { run, exit });
    lab.journal(Event::RunCollected { run });
}

#[test]
fn an_instruction_needs_someone_who_splits_it() {
    let lab = Lab::new(CONFIG);
    lab.factory(&["do", "Build it"])
        .fails(5, &["stages: {split: {engine: claude}}"]);
    lab.factory(&["do", " "]).fails(5, &[]);
    lab.factory(&["issue", "show", "1"])
        .fails(5, &["there is no issue 1"]);
}

#[test]
fn an_instruction_shows_its_issues_and_each_of_them_where_it_is_from() {
    let lab = Lab::new(&format!(
        "{CONFIG}stages: {{split: {{engine: {{command: [split-it]}}}}}}\n"
    ));
    lab.factory_with(&["do"], &format!("Build it all\n\n{HOSTILE}"))
        .says(&["instruction filed as issue 1", "factory start"]);
    lab.factory(&["issue", "show", "1"]).says(&[
        "issue 1: Build it all",
        "split into issues",
        "second line",
    ]);
    let shown = lab.factory(&["issue", "show", "1", "--json"]).json();
    assert_eq!(shown["stage"], "split-due");
    assert_eq!(shown["children"], serde_json::json!([]));

    split(
        &lab,
        r#"{"summary": "Two.", "issues": [
            {"key": "a", "title": "The first", "body": "Do it.", "acceptance": ["It works.", "It is tested."], "paths": ["src/a"], "complexity": "low"},
            {"key": "b", "title": "The second", "body": "Do that.", "acceptance": ["It works too."], "depends_on": ["a"], "complexity": "high"}]}"#,
    );
    lab.factory(&["issue", "show", "1"]).says(&[
        "its issues wait for your approval",
        "Its issues:",
        "#2  proposed  The first",
        "#3  proposed  The second",
    ]);
    lab.factory(&["issue", "show", "2"]).says(&[
        "part of  #1 (`factory issue show 1`)",
        "What must be true then:",
        "- It works.",
        "- It is tested.",
    ]);
    lab.factory(&["issue", "approve", "1"]).ok();
    // One of them is over, and is told of all the same.
    lab.factory(&["issue", "close", "2"]).ok();
    let shown = lab.factory(&["issue", "show", "1", "--json"]).json();
    assert_eq!(
        shown["children"][0],
        serde_json::json!({"number": 2, "title": "The first", "standing": "closed"})
    );
    assert_eq!(shown["children"][1]["standing"], "queued");
    let child = lab.factory(&["issue", "show", "3", "--json"]).json();
    assert_eq!(child["parent"], 1);
    assert_eq!(child["acceptance"], serde_json::json!(["It works too."]));
    assert_eq!(child["children"], serde_json::Value::Null);
}

#[test]
fn an_issue_is_edited_and_its_job_begins_anew() {
    let lab = Lab::new(CONFIG);
    lab.factory(&["issue", "new", "-t", "Old", "-b", "old text"])
        .ok();
    lab.factory(&["issue", "edit", "1"]).fails(2, &["--title"]);
    lab.factory(&["issue", "edit", "2", "-t", "New"])
        .fails(5, &["there is no issue 2"]);
    lab.factory(&["issue", "edit", "1", "-t", " "])
        .fails(5, &["title"]);
    lab.factory_with(&["issue", "edit", "1", "-b", "-"], HOSTILE)
        .says(&["issue 1 edited", "before it is approved"]);
    let shown = lab.factory(&["issue", "show", "1", "--json"]).json();
    assert_eq!(
        (&shown["title"], &shown["body"]),
        (&"Old".into(), &HOSTILE.into())
    );
    lab.factory(&["issue", "approve", "1"]).ok();
    lab.factory(&["issue", "edit", "1", "-t", "New"])
        .says(&["its job begins anew"]);
    lab.factory(&["issue", "show", "1"])
        .says(&["issue 1: New", "issue edited by Ann: begun anew"]);
}

#[test]
fn the_first_line_of_a_comment_may_be_an_order() {
    let lab = Lab::new(CONFIG);
    lab.factory(&["issue", "new", "-t", "Work"]).ok();
    lab.factory(&["issue", "approve", "1"]).ok();
    let say = |text: &str| lab.factory(&["issue", "comment", "1", "--body", text]);
    say("/factory hold\n\nnot today").says(&["held"]);
    lab.factory(&["issue", "show", "1"])
        .says(&["held by Ann", "not today"]);
    say("/factory release").ok();
    say("/factory merge").says(&["not done", "has no open pull request"]);
    say("/factory dance\u{1b}[2J").says(&["not done", "orders are retry, hold"]);
    say("/factory explain").says(&["It stands at `queued`"]);
    // What only mentions an order is none.
    say("Say `/factory stop` to end it.").says(&["its next run reads it"]);
    say("/factoryhold").says(&["its next run reads it"]);
    let stage = lab.factory(&["issue", "show", "1", "--json"]).json()["stage"].clone();
    assert_eq!(stage, "queued");
    say("/factory stop").ok();
    lab.factory(&["job", "list"]).ok();
    assert!(lab.ledger().2.jobs.is_empty());
}

#[test]
fn a_pull_request_is_sent_back_with_what_is_to_be_changed() {
    let lab = Lab::new(CONFIG);
    lab.factory(&["issue", "new", "-t", "Work"]).ok();
    lab.factory(&["issue", "approve", "1"]).ok();
    let commit = lab.work("factory/1-work", "new.txt");
    lab.propose(1, &commit);
    let send = |text: &str| lab.factory(&["pr", "review", "1", "--request-changes", text]);
    send(" ").fails(5, &[]);
    send("Mind the edges").ok();
    lab.factory(&["issue", "show", "1"])
        .says(&["On pull request 1: Mind the edges"]);
    let shown = lab.factory(&["issue", "show", "1", "--json"]).json();
    assert_eq!(shown["stage"], "queued");
    let feedback = shown["job"]["feedback"].as_str().unwrap();
    assert!(feedback.contains("Mind the edges"), "{feedback}");
    send("And once more").fails(5, &["pull request 1"]);
    lab.factory(&["pr", "review", "2", "-c", "x"])
        .fails(5, &["pull request 2"]);
}

#[test]
fn a_job_that_is_over_tells_its_story() {
    let lab = Lab::new(CONFIG);
    lab.factory(&["issue", "new", "-t", "Work"]).ok();
    lab.factory(&["job", "show", "1"]).fails(5, &["has no job"]);
    lab.factory(&["issue", "approve", "1"]).ok();
    let commit = lab.work("factory/1-work", "new.txt");
    lab.propose(1, &commit);
    lab.factory(&["issue", "close", "1"]).ok();
    lab.factory(&["job", "show", "1"]).says(&[
        "job 1: over",
        "factory/1-work",
        "factory pr show 1",
        "What happened so far:",
        "r1-1",
    ]);
    let shown = lab.factory(&["job", "show", "1", "--json"]).json();
    assert_eq!(shown["branch"], "factory/1-work");
    assert_eq!(shown["pr"], 1);
    assert!(!shown["story"].as_array().unwrap().is_empty(), "{shown}");
}
