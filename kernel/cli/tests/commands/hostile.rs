//! Text of others on its way to a person: whatever is in it, no command writes anything that
//! a terminal would obey or nobody would see. `Lab::factory` looks at all that is written.

use crate::lab::{CONFIG, Lab, assert_shown};
use factory_core::{
    event::{Command, Event},
    ids::{Oid, PrNo, RunId},
    inbox::{EngineExit, InboxEntry, RunEnd},
    model::ContainerExit,
};
use serde_json::json;
use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

/// Commands to a terminal, and what is not seen.
const EVIL: &str = "evil\u{1b}]0;title\u{7}\u{1b}[2J\u{9b}31m\u{8}\rover\u{202e}\u{2066}\u{200b}\u{e0041}\u{ad}\u{2028}\u{3164}\u{fe0f}\u{feff}end";
/// How its beginning is shown.
const SHOWN: &str = "evil\\u{1b}]0;title\\u{7}\\u{1b}[2J\\u{9b}31m\\u{8}";

fn evil_end(exit: EngineExit) -> RunEnd {
    RunEnd {
        exit,
        last_output: format!("last {EVIL}"),
        stderr_tail: format!("err {EVIL}"),
        report_problem: Some(format!("report {EVIL}")),
        push_problem: Some(format!("push {EVIL}")),
    }
}

fn conclude(lab: &Lab, run: RunId, commit: &Oid, entries: Vec<InboxEntry>) {
    let entries = entries.into_iter().map(|entry| (commit.clone(), entry));
    lab.journal(Event::Inbox {
        run,
        entries: entries.collect(),
    });
    let exit = Some(ContainerExit {
        code: 0,
        oom: false,
    });
    lab.journal(Event::ContainerEnded { run, exit });
    lab.journal(Event::RunCollected { run });
}

/// A factory whose every text is hostile.
fn besieged() -> Lab {
    let lab = Lab::new(CONFIG);
    lab.git(&[
        "config",
        "user.name",
        &format!("Ann {}", EVIL.replace('\u{0}', "")),
    ]);
    lab.git(&["commit", "-q", "--allow-empty", "-m", EVIL]);
    for title in ["One", "Two", "Three", "Four"] {
        let title = format!("{title} {EVIL}");
        lab.factory_with(&["issue", "new", "--title", &title, "--body", "-"], EVIL)
            .ok();
    }
    lab.factory(&["issue", "comment", "1", "--body", EVIL]).ok();
    lab.factory(&["issue", "approve", "1"]).ok();
    let run = lab.grant(1);
    let commit = lab.work(&branch_of(&lab, 1), "a.txt");
    let json = json!({"summary": format!("did {EVIL}"), "notes": EVIL}).to_string();
    let push = InboxEntry::Push {
        old: Oid::zero(),
        new: commit.clone(),
    };
    let end = InboxEntry::End(RunEnd {
        push_problem: None,
        ..evil_end(EngineExit::Code(0))
    });
    conclude(
        &lab,
        run,
        &commit,
        vec![push, InboxEntry::Report { json }, end],
    );
    lab.opened(run, &commit);
    lab.journal(Event::Command {
        by: EVIL.to_owned(),
        command: Command::MergePr(PrNo(1)),
    });
    lab.journal(Event::MergeFailed {
        pr: PrNo(1),
        why: EVIL.to_owned(),
    });
    // One that broke off, and one that is still at work.
    lab.factory(&["issue", "approve", "2"]).ok();
    let run = lab.grant(2);
    let end = evil_end(EngineExit::NotStarted(EVIL.to_owned()));
    conclude(&lab, run, &commit, vec![InboxEntry::End(end)]);
    lab.factory(&["issue", "approve", "3"]).ok();
    let run = lab.grant(3);
    let event = |line: serde_json::Value| json!({"t": 1_795_226_401, "line": line.to_string()});
    let lines = [
        json!({"t": 1_795_226_401, "line": EVIL}).to_string(),
        event(
            json!({"type": "assistant", "message": {"content": [{"type": "text", "text": EVIL}]}}),
        )
        .to_string(),
        event(json!({"type": "item.completed", "item": {"type": "agent_message", "text": EVIL}}))
            .to_string(),
        event(
            json!({"type": "mini.message", "role": "assistant", "text": EVIL, "commands": [EVIL]}),
        )
        .to_string(),
        event(json!({"type": EVIL})).to_string(),
        json!({"t": 1_795_226_401, "cut": EVIL}).to_string(),
        EVIL.replace(['\r', '\u{2028}'], ""),
    ];
    let (places, ..) = lab.ledger();
    std::fs::write(places.transcript(run), format!("{}\n", lines.join("\n"))).unwrap();
    lab.factory(&["job", "hold", "3"]).ok();
    lab
}

fn branch_of(lab: &Lab, issue: u64) -> String {
    let (_, _, state, _) = lab.ledger();
    let mut jobs = state.jobs.values();
    let job = jobs.find(|job| job.issue.0 == issue).unwrap();
    job.branch.clone()
}

#[test]
fn no_command_lets_it_through() {
    let lab = besieged();
    let table: &[&[&str]] = &[
        &["issue", "list", "--all"],
        &["issue", "show", "1"],
        &["issue", "show", "2"],
        &["issue", "show", "3"],
        &["pr", "list", "--all"],
        &["pr", "show", "1"],
        &["job", "list"],
        &["job", "show", "2"],
        &["job", "show", "3"],
        &["run", "list", "--all"],
        &["run", "show", "r1-1"],
        &["run", "show", "r2-1"],
        &["run", "show", "r3-1"],
        &["run", "logs", "r3-1"],
        &["status"],
        &["log"],
        &["plan"],
    ];
    let quiet: &[&[&str]] = &[&["run", "list", "--all"], &["run", "show", "r3-1"]];
    for args in table {
        let text = lab.factory(args);
        if !quiet.contains(args) {
            assert!(text.ok().contains(SHOWN), "{args:?}: {}", text.stdout);
        }
        let json = lab.factory(&[args, &["--json"][..]].concat());
        assert_eq!(json.code, 0, "{args:?}: {}", json.stderr);
    }
    lab.factory(&["state", "verify"])
        .says(&["The state is whole"]);
    // JSON says what is there, escaped.
    let issue = lab.factory(&["issue", "show", "1", "--json"]).json();
    assert_eq!(issue["body"], EVIL);
    assert_eq!(issue["comments"][0]["text"], EVIL);
    // The state's history is read with git, too.
    let (places, ..) = lab.ledger();
    let state = places.state_git();
    let log = [
        "-C",
        state.to_str().unwrap(),
        "log",
        "--format=%s",
        "refs/state",
    ];
    let log = lab.git(&log);
    assert!(log.contains(SHOWN), "{log}");
    assert_shown("subjects of the state", &log);
}

#[test]
fn logs_that_are_followed_let_nothing_through() {
    let lab = besieged();
    let mut child = lab
        .command(env!("CARGO_BIN_EXE_factory"))
        .args(["run", "logs", "-f", "r3-1"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let seen: Vec<String> = lines.take(7).map(Result::unwrap).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_shown("run logs -f", &seen.join("\n"));
    assert!(seen[0].contains(SHOWN), "{seen:?}");
}

#[test]
fn errors_let_nothing_through() {
    let lab = besieged();
    let long = format!("{EVIL}{}", "x".repeat(400));
    let table: &[(&[&str], i32)] = &[
        (&["issue", "show", EVIL], 2),
        (&["run", "show", EVIL], 2),
        (&[EVIL], 2),
        (&["issue", "list", &long], 2),
        (&["issue", "new", "-t", &long], 5),
        (&["issue", "new", "-t", "x", "-l", EVIL], 5),
        (
            &[
                "issue",
                "new",
                "-t",
                "x",
                "-b",
                &format!("Touches: `../{EVIL}`"),
            ],
            5,
        ),
        (
            &[
                "issue",
                "new",
                "-t",
                "x",
                "-b",
                &format!("Depends-on: #{EVIL}"),
            ],
            5,
        ),
        (&["-C", EVIL, "status"], 3),
        (&["sync", "--remote", EVIL], 5),
        (&["start", "--config", EVIL], 4),
        (&["start", "--target", EVIL], 3),
        (&["pr", "merge", "1"], 6),
    ];
    for (args, code) in table {
        let out = lab.factory(args);
        assert_eq!(out.code, *code, "{args:?}: {}", out.stderr);
        assert!(!out.stderr.is_empty(), "{args:?}");
    }
    // What the target's configuration says is quoted.
    let wrong = "slots: 1\n\"slo\\u202e\\e[2Jtz\": 2\n";
    std::fs::write(lab.repo().join("factory.yaml"), wrong).unwrap();
    lab.git(&["add", "."]);
    lab.git(&["commit", "-q", "-m", "Wrong"]);
    lab.factory(&["issue", "approve", "4"])
        .fails(4, &["slo\\u{202e}\\u{1b}[2Jtz"]);
}
