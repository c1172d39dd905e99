//! The commands of the real binary, in temporary repositories, without Docker:
//! what a kernel would journal is journalled by the test.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod agent;
mod database;
mod hostile;
mod lab;
mod merge;
mod pipeline;
mod plan;
mod stop;
mod sync;

use factory_core::event::Event;
use lab::{CONFIG, HOSTILE, Lab};
use serde_json::Value;
use std::{
    io::{BufRead, BufReader, Read, Write},
    process::Stdio,
};

#[test]
fn issues_are_filed_listed_approved_commented_and_closed() {
    let lab = Lab::new(CONFIG);
    let none = lab.factory(&["issue", "list"]);
    assert_eq!(none.ok(), "");
    assert!(none.stderr.contains("factory issue new"), "{}", none.stderr);
    assert_eq!(
        lab.factory(&["issue", "list", "--json"]).json(),
        Value::Array(vec![])
    );

    let new = [
        "issue",
        "new",
        "--title",
        "A \u{1b}[31mred\u{7} bug\nhere",
        "--body",
        "-",
    ];
    lab.factory_with(&new, HOSTILE)
        .says(&["issue 1 filed", "factory issue approve 1"]);
    lab.factory(&["issue", "list"])
        .says(&["proposed", "A \\u{1b}[31mred\\u{7} bug here"]);
    lab.factory(&["issue", "show", "1"]).says(&[
        "waits for approval",
        "by Ann",
        "look:",
        "second line",
        "factory issue approve 1",
    ]);
    let shown = lab.factory(&["issue", "show", "#1", "--json"]).json();
    assert_eq!(shown["body"], HOSTILE);
    assert_eq!(
        (&shown["state"], &shown["author"], &shown["stage"]),
        (&"proposed".into(), &"Ann".into(), &Value::Null)
    );

    lab.factory(&["issue", "comment", "1", "--body", "mind\u{9b} this"])
        .says(&["its next run reads it"]);
    lab.factory(&["issue", "approve", "1"])
        .says(&["issue 1 approved", "factory start"]);
    lab.factory(&["issue", "approve", "1"])
        .fails(5, &["approved already", "factory issue show 1"]);
    lab.factory(&["issue", "show", "1"]).says(&[
        "approved by Ann; waits for its turn",
        "Comment by Ann",
        "mind\\u{9b} this",
    ]);
    lab.factory(&["issue", "close", "1"])
        .says(&["issue 1 closed", "factory/1-a-u-1b-31mred-u-7-bug-here"]);

    assert_eq!(lab.factory(&["issue", "list"]).ok(), "");
    lab.factory(&["issue", "list", "--all"])
        .says(&["closed", "A \\u{1b}[31mred\\u{7} bug here"]);
    let all = lab.factory(&["issue", "list", "--all", "--json"]).json();
    assert_eq!(
        (&all[0]["number"], &all[0]["state"]),
        (&1.into(), &"closed".into())
    );
    let closed = lab.factory(&["issue", "show", "1", "--json"]).json();
    assert_eq!(closed["comments"][0]["text"], "mind\u{9b} this");
    assert_eq!(
        closed["job"]["branch"],
        "factory/1-a-u-1b-31mred-u-7-bug-here"
    );
    for order in ["approve", "close"] {
        lab.factory(&["issue", order, "1"])
            .fails(5, &["issue 1 is closed", "factory issue list"]);
    }
}

#[test]
fn wrong_numbers_and_texts_are_refused_with_the_next_step() {
    let lab = Lab::new("");
    let table: &[(&[&str], i32, &[&str])] = &[
        (
            &["issue", "show", "7"],
            5,
            &["no issue 7", "factory issue list"],
        ),
        (
            &["issue", "approve", "7"],
            5,
            &["no issue 7", "factory issue list"],
        ),
        (&["issue", "comment", "7", "-b", "x"], 5, &["no issue 7"]),
        (
            &["issue", "show", "seven"],
            2,
            &["`seven` is not an issue number"],
        ),
        (&["issue", "new", "-t", " \n"], 5, &["the title is empty"]),
        (
            &["pr", "show", "7"],
            5,
            &["no pull request 7", "factory pr list"],
        ),
        (&["pr", "diff", "7"], 5, &["no pull request 7"]),
        (&["pr", "merge", "7"], 5, &["no pull request 7"]),
        (&["pr", "reject", "7", "-r", "x"], 5, &["no pull request 7"]),
        (
            &["run", "show", "r1-1"],
            5,
            &["no run r1-1", "factory run list --all"],
        ),
        (&["run", "logs", "r1-1"], 5, &["no run r1-1"]),
        (&["run", "logs", "1"], 2, &["a run such as r7-1"]),
        (&["-C", "/", "status"], 3, &["error:"]),
    ];
    for (args, code, words) in table {
        lab.factory(args).fails(*code, words);
    }
    // How much there is to come, nobody knows before its end.
    let long = "x".repeat(3 << 20);
    lab.factory_with(&["issue", "new", "-t", "x", "-b", "-"], &long)
        .fails(5, &["has more than 1048576 bytes", "make it shorter"]);
    // Nothing of it was journalled.
    assert_eq!(lab.factory(&["log"]).ok().lines().count(), 1);
}

#[test]
fn texts_may_begin_with_a_hyphen() {
    let lab = Lab::new(CONFIG);
    let new = ["issue", "new", "--title", "-v is broken", "--body"];
    lab.factory(&[&new[..], &["- one\n- two"]].concat()).ok();
    let issue = lab.factory(&["issue", "show", "1", "--json"]).json();
    assert_eq!(
        (&issue["title"], &issue["body"]),
        (&"-v is broken".into(), &"- one\n- two".into())
    );
    for body in ["--- x", "-"] {
        let comment = ["issue", "comment", "1", "--body", body];
        lab.factory_with(&comment, "from standard input").ok();
    }
    let issue = lab.factory(&["issue", "show", "1", "--json"]).json();
    assert_eq!(issue["comments"][0]["text"], "--- x");
    assert_eq!(issue["comments"][1]["text"], "from standard input");

    lab.factory(&["issue", "approve", "1"]).ok();
    lab.propose(1, &lab.work("factory/1-v-is-broken", "a.txt"));
    lab.factory(&["pr", "reject", "1", "--reason", "- no"]).ok();
    lab.factory(&["pr", "show", "1"])
        .says(&["was closed: - no"]);
}

#[test]
fn what_comes_next_follows_factory_yaml() {
    let lab = Lab::new("gates: {issues: auto}\nbranch_prefix: bots\n");
    lab.factory(&["issue", "new", "-t", "One"])
        .says(&["issue 1 filed; to have it built, start the factory: `factory start`"]);
    lab.factory(&["issue", "approve", "1"]).ok();
    let job = lab.factory(&["issue", "show", "1", "--json"]).json();
    assert_eq!(job["job"]["branch"], "bots/1-one");

    // Git has no branch below a branch.
    lab.factory(&["issue", "new", "-t", "Below"]).ok();
    lab.git(&["branch", "-m", "bots"]);
    lab.factory(&["start", "--target", "bots"])
        .fails(4, &["a branch `bots` is there"]);
    lab.git(&["branch", "-m", "main"]);
    lab.git(&["branch", "bots"]);
    for issue in ["1", "2"] {
        lab.factory(&["issue", "approve", issue]).fails(
            4,
            &[
                "a branch `bots` is there, so no branch can be bots/…",
                "git branch -m bots",
            ],
        );
    }
    lab.git(&["branch", "-D", "bots"]);

    std::fs::write(lab.repo().join("factory.yaml"), "slots: 9\n").unwrap();
    let note = lab.factory(&["status"]);
    let first = note.ok().lines().next().unwrap().to_owned();
    assert!(
        first.contains("factory.yaml here differs from the one in force"),
        "{first}"
    );

    std::fs::write(lab.repo().join("factory.yaml"), "slotz: 9\n").unwrap();
    lab.git(&["commit", "-q", "-am", "wrong"]);
    lab.factory(&["issue", "new", "-t", "Three"])
        .says(&["issue 3 filed"]);
    lab.factory(&["issue", "approve", "3"])
        .fails(4, &["factory.yaml (commit ", ":1:1: ", "slots"]);
}

#[test]
fn a_run_is_shown_and_its_transcript_followed() {
    let lab = Lab::new(CONFIG);
    lab.factory(&["issue", "new", "-t", "One"]).ok();
    lab.factory(&["issue", "approve", "1"]).ok();
    let run = lab.grant(1);
    lab.factory(&["run", "list"])
        .says(&["r1-1", "code", "running"]);
    lab.factory(&["status"])
        .says(&["slots: 1/3", "r1-1", "coding (r1-1)", "not running"]);
    let quiet = lab.factory(&["run", "logs", "r1-1"]);
    assert_eq!(quiet.ok(), "");
    assert!(
        quiet.stderr.contains("has said nothing yet"),
        "{}",
        quiet.stderr
    );

    let (places, ..) = lab.ledger();
    let first = serde_json::json!({"t": 1_795_226_401, "line": format!("hello {HOSTILE}")});
    let second = serde_json::json!({"t": 1_795_226_402, "line": "bye"});
    std::fs::write(places.transcript(run), format!("{first}\n")).unwrap();
    let mut child = lab
        .command(env!("CARGO_BIN_EXE_factory"))
        .args(["run", "logs", "-f", "r1-1"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = lines.next().unwrap().unwrap();
    assert!(
        line.ends_with("hello look:\\u{1b}[31mred\\u{9b}2J\\u{202e}"),
        "{line:?}"
    );
    assert!(lines.next().unwrap().unwrap().ends_with("  second line"));
    // Half a line is shown when it is whole.
    let mut file = std::fs::File::options()
        .append(true)
        .open(places.transcript(run))
        .unwrap();
    let whole = second.to_string();
    let (begin, end) = whole.split_at(9);
    file.write_all(begin.as_bytes()).unwrap();
    file.write_all(format!("{end}\n").as_bytes()).unwrap();
    assert!(lines.next().unwrap().unwrap().ends_with("  bye"));
    lab.journal(Event::ContainerEnded { run, exit: None });
    assert!(lines.next().is_none());
    assert_eq!(child.wait().unwrap().code(), Some(0));

    let raw = lab.factory(&["run", "logs", "--json", "r1-1"]);
    let raw: Vec<Value> = raw
        .ok()
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(raw, [first, second]);
}

#[test]
fn transcripts_of_ended_runs_come_from_door_git() {
    let lab = Lab::new(CONFIG);
    lab.factory(&["issue", "new", "-t", "One"]).ok();
    lab.factory(&["issue", "approve", "1"]).ok();
    lab.propose(1, &lab.work("w", "a.txt"));
    let (places, ..) = lab.ledger();
    let door = places.door_git();
    let door = door.to_str().unwrap();
    lab.git(&["init", "-q", "--bare", door]);
    let text = lab.dir.path().join("t");
    std::fs::write(&text, "{\"t\":0,\"line\":\"kept\"}\n").unwrap();
    let blob = lab.git(&["-C", door, "hash-object", "-w", text.to_str().unwrap()]);
    let entry = lab.dir.path().join("entry");
    std::fs::write(&entry, format!("100644 blob {blob}\ttranscript.jsonl\n")).unwrap();
    let tree = lab
        .command("git")
        .args(["-C", door, "mktree"])
        .stdin(std::fs::File::open(entry).unwrap())
        .output()
        .unwrap();
    let tree = String::from_utf8(tree.stdout).unwrap();
    lab.git(&[
        "-C",
        door,
        "update-ref",
        "refs/transcripts/r1-1",
        tree.trim(),
    ]);
    lab.factory(&["run", "logs", "r1-1"]).says(&["kept\n"]);
    // Nothing more can come: following ends at once.
    lab.factory(&["run", "logs", "-f", "r1-1"])
        .says(&["kept\n"]);
}

#[test]
fn pull_requests_are_listed_shown_compared_and_rejected() {
    let lab = Lab::new(CONFIG);
    lab.factory(&["issue", "new", "-t", "One"]).ok();
    lab.factory(&["issue", "approve", "1"]).ok();
    let commit = lab.work("factory/1-one", "a.txt");
    lab.propose(1, &commit);

    lab.factory(&["pr", "list"])
        .says(&["ready", "nothing was checked", "One"]);
    lab.factory(&["pr", "show", "1"]).says(&[
        "it waits at the merge gate",
        commit.as_str(),
        "I did it.",
        "factory pr merge 1",
    ]);
    let shown = lab.factory(&["pr", "show", "1", "--json"]).json();
    assert_eq!(
        (&shown["state"], &shown["checked"]),
        (&"ready".into(), &Value::Null)
    );
    lab.factory(&["status"])
        .says(&["Pull requests that wait", "factory pr merge 1"]);
    let status = lab.factory(&["status", "--json"]).json();
    assert_eq!(status["waiting"]["pull_requests"][0]["number"], 1);
    assert_eq!(status["kernel"], Value::Null);
    lab.factory(&["run", "show", "r1-1"])
        .says(&["ended: pushed", "I did it.", "1 model call"]);
    let run = lab.factory(&["run", "list", "--all", "--json"]).json();
    assert_eq!(
        (&run[0]["run"], &run[0]["usage"]["input_tokens"]),
        (&"r1-1".into(), &10.into())
    );

    // Also from below a directory, and after the target moved, it is what the branch adds.
    std::fs::write(lab.repo().join("other.txt"), "x").unwrap();
    lab.git(&["add", "."]);
    lab.git(&["commit", "-q", "-m", "Other"]);
    lab.git(&["config", "diff.noprefix", "true"]);
    lab.git(&["config", "diff.external", "false"]);
    let patch = lab.factory(&["pr", "diff", "1"]);
    assert_eq!(patch.code, 0, "{}", patch.stderr);
    assert!(!patch.stdout.contains("other.txt"), "{}", patch.stdout);
    let file = lab.dir.path().join("patch");
    std::fs::write(&file, &patch.stdout).unwrap();
    lab.git(&["apply", file.to_str().unwrap()]);
    let applied = std::fs::read_to_string(lab.repo().join("a.txt")).unwrap();
    assert_eq!(applied, "new\n\u{1b}[2Jline\n");

    lab.factory(&["pr", "reject", "1", "--reason", "not\u{1b}[0m so"])
        .says(&["pull request 1 closed", "factory issue approve 1"]);
    lab.factory(&["pr", "merge", "1"])
        .fails(5, &["pull request 1 was closed: not"]);
    lab.factory(&["pr", "list", "--all"]).says(&["closed"]);
    lab.factory(&["pr", "show", "1"])
        .says(&["was closed: not\\u{1b}[0m so"]);
    lab.factory(&["issue", "list"])
        .says(&["proposed", "rejected"]);
    let issue = lab.factory(&["issue", "show", "1", "--json"]).json();
    assert_eq!(issue["runs"][0]["run"], "r1-1");
}

#[test]
fn the_log_reads_like_a_diary_and_ends_with_its_reader() {
    let lab = Lab::new("");
    for k in 0..5 {
        let body = "x".repeat(200);
        lab.factory(&["issue", "new", "-t", &format!("t{k} {body}")])
            .ok();
    }
    let log = lab.factory(&["log"]);
    let lines: Vec<&str> = log.ok().lines().collect();
    assert_eq!(lines.len(), 6);
    assert!(lines[0].contains("begun for branch main"), "{}", lines[0]);
    assert!(lines[5].contains("0.5") && lines[5].contains("issue 5: filed by Ann: t4"));
    assert_eq!(lab.factory(&["log"]).stdout, log.stdout);
    let newest = lab.factory(&["log", "-n", "2", "--json"]).json();
    assert_eq!(
        (&newest[0]["step"], &newest[1]["step"]),
        (&"0.4".into(), &"0.5".into())
    );

    let mut child = lab
        .command(env!("CARGO_BIN_EXE_factory"))
        .arg("log")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut stderr = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut stderr)
        .unwrap();
    assert_eq!(
        (child.wait().unwrap().code(), stderr.as_str()),
        (Some(0), "")
    );
}
