//! Scenarios played to their end: by a small engine here, and by the real
//! Claude Code CLI where `FACTORY_CLAUDE_CLI` names it.

use crate::messages::{ask, body};
use factory_testkit::provider::Provider;
use factory_testkit::scenario::{Scenario, from_diff};

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../cli/demo");

/// A work tree that stands for `/workspace`, with a place for results.
struct Place {
    root: TempDir,
}

impl Place {
    /// A repository whose one commit holds the files of `from`.
    fn with(from: &Path) -> Self {
        let place = Self {
            root: tempfile::tempdir().unwrap(),
        };
        fs::create_dir(place.out()).unwrap();
        place.must(
            "cp",
            &["-R", from.to_str().unwrap(), place.work().to_str().unwrap()],
            Path::new("/"),
        );
        for arguments in [
            &["init", "-q", "."][..],
            &["add", "-A"],
            &["commit", "-q", "-m", "Start"],
        ] {
            place.must("git", arguments, &place.work());
        }
        place
    }

    fn work(&self) -> PathBuf {
        self.root.path().join("work")
    }

    fn out(&self) -> PathBuf {
        self.root.path().join("out")
    }

    /// The scenario with this place's paths.
    fn here(&self, yaml: &str) -> Scenario {
        let yaml = yaml
            .replace("/workspace", self.work().to_str().unwrap())
            .replace("/factory/out", self.out().to_str().unwrap());
        Scenario::parse(&yaml, "here").unwrap()
    }

    fn command(&self, program: &str, at: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(at)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap());
        command
            .env("HOME", self.root.path())
            .env("GIT_CONFIG_NOSYSTEM", "1");
        for who in ["AUTHOR", "COMMITTER"] {
            command
                .env(format!("GIT_{who}_NAME"), "Coder")
                .env(format!("GIT_{who}_EMAIL"), "coder@localhost");
        }
        command
    }

    fn must(&self, program: &str, arguments: &[&str], at: &Path) -> String {
        let output = self.command(program, at).args(arguments).output().unwrap();
        assert!(
            output.status.success(),
            "{program} {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// What the last commit holds: mode and content by path.
    fn committed(&self) -> BTreeMap<String, String> {
        assert_eq!(
            self.must("git", &["status", "--porcelain"], &self.work()),
            ""
        );
        let listed = self.must("git", &["ls-tree", "-r", "HEAD"], &self.work());
        let line = |line: &str| {
            line.split_once('\t')
                .map(|(object, path)| (path.to_owned(), object.to_owned()))
        };
        listed.lines().filter_map(line).collect()
    }
}

/// A loop as an engine runs it: asks, does what the tools say, until a text ends it.
async fn play(provider: &Provider, place: &Place, prompt: &str) -> (String, Vec<String>) {
    let mut messages = Vec::new();
    let mut results = Vec::new();
    loop {
        let answer = ask(&provider.base_url(), &body(prompt, &messages, false)).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let message = answer.json();
        let content = message["content"].as_array().unwrap();
        if message["stop_reason"] == "end_turn" {
            return (content[0]["text"].as_str().unwrap().to_owned(), results);
        }
        let calls = content.iter().filter(|block| block["type"] == "tool_use");
        let mut blocks = Vec::new();
        for call in calls {
            let result = apply(place, call["name"].as_str().unwrap(), &call["input"]);
            blocks
                .push(json!({"type": "tool_result", "tool_use_id": call["id"], "content": result}));
            results.push(result);
        }
        messages.push(json!({"role": "assistant", "content": content}));
        messages.push(json!({"role": "user", "content": blocks}));
    }
}

fn apply(place: &Place, tool: &str, input: &Value) -> String {
    let text = |name: &str| {
        input[name]
            .as_str()
            .unwrap_or_else(|| panic!("{tool} lacks {name}"))
    };
    match tool {
        "Read" => fs::read_to_string(text("file_path")).unwrap(),
        "Write" => {
            fs::create_dir_all(Path::new(text("file_path")).parent().unwrap()).unwrap();
            fs::write(text("file_path"), text("content")).unwrap();
            "written".to_owned()
        }
        "Edit" => {
            let before = fs::read_to_string(text("file_path")).unwrap();
            assert_eq!(before.matches(text("old_string")).count(), 1, "{input}");
            fs::write(
                text("file_path"),
                before.replacen(text("old_string"), text("new_string"), 1),
            )
            .unwrap();
            "edited".to_owned()
        }
        "Bash" => {
            assert!(!text("description").is_empty());
            let output = place
                .command("bash", &place.work())
                .args(["-c", text("command")])
                .output()
                .unwrap();
            let code = output.status.code().unwrap();
            format!("exit {code}\n{}", String::from_utf8(output.stdout).unwrap())
        }
        other => panic!("tool {other}"),
    }
}

/// The CLI's events of one run; none where there is no CLI.
async fn run_cli(
    provider: &Provider,
    place: &Place,
    prompt: &str,
    test: &str,
) -> Option<Vec<Value>> {
    let Some(cli) = std::env::var_os("FACTORY_CLAUDE_CLI") else {
        println!("skipped: {test}: FACTORY_CLAUDE_CLI names no Claude Code CLI");
        return None;
    };
    fs::write(place.root.path().join("brief.md"), prompt).unwrap();
    let mut command = place.command(cli.to_str().unwrap(), &place.work());
    command.args([
        "-p",
        "--output-format",
        "stream-json",
        "--verbose",
        "--dangerously-skip-permissions",
    ]);
    command.args([
        "--model",
        "claude-sonnet-4-5",
        "--tools",
        "Bash,Edit,Read,Write",
        "--setting-sources",
        "",
    ]);
    command.args(["--session-id", "6f6b6f0e-3f0c-4a51-9d3b-0c8f5a3d7a11"]);
    command.args([
        "--strict-mcp-config",
        "--disable-slash-commands",
        "--max-turns",
        "99",
    ]);
    command.args(["--settings", r#"{"attribution":{"commit":"","pr":""}}"#]);
    command
        .env("ANTHROPIC_BASE_URL", provider.base_url())
        .env("ANTHROPIC_API_KEY", "placeholder");
    command
        .env("CLAUDE_CONFIG_DIR", place.root.path().join("claude"))
        .env("IS_SANDBOX", "1");
    for name in [
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC",
        "DISABLE_AUTOUPDATER",
        "DISABLE_TELEMETRY",
    ] {
        command.env(name, "1");
    }
    command
        .env("DISABLE_ERROR_REPORTING", "1")
        .env("CLAUDE_CODE_RETRY_WATCHDOG", "1");
    command
        .stdin(fs::File::open(place.root.path().join("brief.md")).unwrap())
        .stderr(Stdio::inherit());
    // The provider lives on this thread's runtime, so waiting must not block it.
    let output = tokio::process::Command::from(command)
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let events: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let last = events.last().unwrap();
    assert_eq!(output.status.code(), Some(0), "{last}");
    assert_eq!(
        (&last["is_error"], &last["terminal_reason"]),
        (&json!(false), &json!("completed")),
        "{last}"
    );
    assert_eq!(last["permission_denials"], json!([]));
    Some(events)
}

fn demo() -> (Place, String, String) {
    let yaml = fs::read_to_string(format!("{DEMO}/scenario.yaml")).unwrap();
    let issue = fs::read_to_string(format!("{DEMO}/issue.md")).unwrap();
    (Place::with(Path::new(&format!("{DEMO}/repo"))), yaml, issue)
}

fn assert_demo_is_done(place: &Place) {
    assert!(
        place
            .must("sh", &["test.sh"], &place.work())
            .contains("ok      3600 -> 1h 0m 0s")
    );
    let report: Value =
        serde_json::from_str(&fs::read_to_string(place.out().join("report.json")).unwrap())
            .unwrap();
    assert!(report["summary"].as_str().unwrap().contains("full hour"));
    let subject = place.must("git", &["log", "-1", "--format=%s"], &place.work());
    assert_eq!(subject, "Print full hours and minutes in the larger unit\n");
    assert_eq!(place.committed().len(), 3);
}

#[tokio::test]
async fn the_demo_goes_from_red_to_green() {
    let (place, yaml, issue) = demo();
    assert!(
        place
            .must("sh", &["test.sh"], &place.work())
            .starts_with("ok"),
        "its own tests do not see the defect"
    );
    let provider = Provider::start(place.here(&yaml)).await.unwrap();
    let (said, results) = play(&provider, &place, &issue).await;
    assert!(said.contains("1h 0m 0s"), "{said}");
    let tests: Vec<&String> = results
        .iter()
        .filter(|result| result.contains("3600 ->"))
        .collect();
    assert!(
        tests[0].starts_with("exit 1") && tests[0].contains("FAILED  3600 -> 60m 0s"),
        "{}",
        tests[0]
    );
    assert!(tests[1].starts_with("exit 0"), "{}", tests[1]);
    assert_eq!(provider.requests().len(), 7);
    assert_demo_is_done(&place);
    provider.stop().await;
}

#[tokio::test]
async fn the_cli_plays_the_demo() {
    let (place, yaml, issue) = demo();
    let provider = Provider::start(place.here(&yaml)).await.unwrap();
    let Some(events) = run_cli(&provider, &place, &issue, "the_cli_plays_the_demo").await else {
        return;
    };
    assert_demo_is_done(&place);
    let usage = &events.last().unwrap()["usage"];
    assert_eq!(usage["input_tokens"], provider.usage().input_tokens);
    assert_eq!(usage["output_tokens"], provider.usage().output_tokens);
    provider.stop().await;
}

/// Two trees that differ in every way a change can.
fn trees() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = root.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    let long: String = (0..5000).map(|line| format!("line {line}\n")).collect();
    let repeated = "begin\n    same\nend\n".repeat(5);
    for (tree, word) in [("before", "old"), ("after", "new")] {
        write(&format!("{tree}/same.txt"), "the same\n");
        write(
            &format!("{tree}/a word.txt"),
            &format!("one\n{word} $HOME `x` \"q\" 'q'\nthree\n"),
        );
        write(
            &format!("{tree}/blanks.txt"),
            &format!("one  \n{word}   \n\n\tthree"),
        );
        write(
            &format!("{tree}/whole.txt"),
            &format!("{word}\n").repeat(100),
        );
        write(
            &format!("{tree}/repeated.txt"),
            &format!("{repeated}{word}\n{repeated}"),
        );
        write(
            &format!("{tree}/long.txt"),
            &long.replace("line 4000\n", &format!("line 4000 {word}\n")),
        );
        write(&format!("{tree}/run.sh"), "#!/bin/sh\n");
        write(&format!("{tree}/.git/HEAD"), word);
    }
    write("before/doc/gone 'quoted'.txt", "gone\n");
    write("after/doc/new/ümlaut.txt", "neu: äöü\n");
    write("after/empty.txt", "");
    write("before/inserted.txt", "a\nb\n");
    write("after/inserted.txt", "a\nx\nb\n");
    write("before/ends.txt", "a\n");
    write("after/ends.txt", "a");
    fs::set_permissions(
        root.path().join("after/run.sh"),
        fs::Permissions::from_mode(0o755),
    )
    .unwrap();
    root
}

/// The first tree as a repository, the change as a scenario, what it must leave.
fn change(trees: &TempDir) -> (Place, String, BTreeMap<String, String>) {
    let (before, after) = (trees.path().join("before"), trees.path().join("after"));
    let message = "Don't say \"old\"\n\nIt's new.";
    let scenario = from_diff(
        &before,
        &after,
        message,
        &["test -x run.sh", "echo checked"],
    )
    .unwrap();
    for tree in [&before, &after] {
        fs::remove_dir_all(tree.join(".git")).unwrap();
    }
    let expected = Place::with(&after).committed();
    (Place::with(&before), scenario.to_yaml().unwrap(), expected)
}

#[tokio::test]
async fn a_played_change_leaves_the_second_tree() {
    let trees = trees();
    let (place, yaml, expected) = change(&trees);
    let provider = Provider::start(place.here(&yaml)).await.unwrap();
    let (said, results) = play(&provider, &place, "x").await;
    assert_eq!(said, "Done: Don't say \"old\"");
    assert!(results.contains(&"exit 0\nchecked\n".to_owned()));
    assert_eq!(place.committed(), expected);
    let message = place.must("git", &["log", "-1", "--format=%B"], &place.work());
    assert_eq!(message.trim(), "Don't say \"old\"\n\nIt's new.");
    provider.stop().await;
}

#[tokio::test]
async fn the_cli_plays_a_change() {
    let trees = trees();
    let (place, yaml, expected) = change(&trees);
    let provider = Provider::start(place.here(&yaml)).await.unwrap();
    if run_cli(&provider, &place, "x", "the_cli_plays_a_change")
        .await
        .is_some()
    {
        assert_eq!(place.committed(), expected);
    }
    provider.stop().await;
}

#[tokio::test]
async fn the_cli_survives_each_fault_once() {
    let yaml = r"
conversations:
  - name: faults
    steps:
      - {status: 429, retry_after: 1}
      - {tool: Bash, input: {command: echo 1 >> turns, description: Count}}
      - {status: 500}
      - {tool: Bash, input: {command: echo 2 >> turns, description: Count}}
      - {status: 529}
      - {tool: Bash, input: {command: echo 3 >> turns, description: Count}}
      - {cut_after_events: 4}
      - {tool: Bash, input: {command: echo 4 >> turns, description: Count}}
      - {cut_after_events: 7}
      - text: A whole block comes before the tool call that is lost.
        tool: Bash
        input: {command: echo 5 >> turns, description: Count}
      - {error_event: overloaded_error}
      - {tool: Bash, input: {command: echo 6 >> turns, description: Count}}
      - {tool: Bash, input: {command: git add -A && git commit -q -m Turns, description: Commit}}
      - text: Done.
";
    let place = Place::with(Path::new(&format!("{DEMO}/repo")));
    let provider = Provider::start(place.here(yaml)).await.unwrap();
    let Some(events) = run_cli(&provider, &place, "x", "the_cli_survives_each_fault_once").await
    else {
        return;
    };
    assert_eq!(
        fs::read_to_string(place.work().join("turns")).unwrap(),
        "1\n2\n3\n4\n5\n6\n"
    );
    assert_eq!(events.last().unwrap()["result"], "Done.");
    assert!(place.committed().contains_key("turns"));
    let requests = provider.requests();
    assert!(
        (requests[1].at - requests[0].at).as_secs_f64() >= 1.0,
        "it waits as long as it was told"
    );
    provider.stop().await;
}

#[test]
fn what_cannot_be_played_is_named() {
    let root = tempfile::tempdir().unwrap();
    let (before, after) = (root.path().join("before"), root.path().join("after"));
    for tree in [&before, &after] {
        fs::create_dir(tree).unwrap();
        fs::write(tree.join("a"), "a").unwrap();
    }
    let play = || {
        from_diff(&before, &after, "x", &[])
            .unwrap_err()
            .to_string()
    };
    assert!(play().contains("do not differ"));
    fs::write(after.join("a"), [0xff, 0]).unwrap();
    assert!(play().contains("after/a is not a text file"));
    fs::remove_file(after.join("a")).unwrap();
    std::os::unix::fs::symlink("b", after.join("a")).unwrap();
    assert!(play().contains("after/a is not a text file"));
    fs::remove_dir_all(&after).unwrap();
    assert!(play().contains("cannot read"));
}
