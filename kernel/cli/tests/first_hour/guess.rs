//! What `factory init` guesses, and `factory init --try`.

use crate::{
    OWN_COMMAND, has_agent, has_docker,
    lab::{FACTORY, KEY, Lab, NO_DOCKER, assert_bad},
    network,
};
use std::{
    fs,
    io::{BufRead, BufReader},
    process::Stdio,
};

const WORKFLOW: &str =
    "on: push\njobs:\n  a:\n    steps:\n      - run: make check\n      - run: cargo clippy\n";

#[test]
fn init_says_what_it_guessed_and_why_and_writes_it() {
    let lab = Lab::new();
    let files = [
        ("Makefile", "all:\ntest: all\n\tcargo test\n"),
        ("Cargo.toml", "[package]\nname = \"x\"\n"),
        ("package.json", "{broken"),
        (".github/workflows/ci.yml", WORKFLOW),
    ];
    let dir = lab.repo("repo", &files);
    // What is not committed is not what agents start from.
    fs::write(dir.join("go.mod"), "module x\n").unwrap();
    let ended = lab.factory(&dir, &["init"], &[]);
    assert_eq!(ended.code, 0, "{ended:?}");
    for part in [
        "guessed check     make test  (Makefile:2: the target `test`)",
        "guessed packages  cargo, make",
        "also found        cargo test --offline  (Cargo.toml:1: a Rust package)",
        "also found        make check  (.github/workflows/ci.yml:5: CI runs it)",
        "skipped           package.json:1: no JSON",
        "factory init --try",
    ] {
        assert!(
            ended.out.contains(part),
            "`{part}` is not in\n{}",
            ended.out
        );
    }
    assert!(!ended.out.contains("go.mod"), "{}", ended.out);
    let text = fs::read_to_string(dir.join("factory.yaml")).unwrap();
    for part in [
        "checks:\n  - \"make test\" # Makefile:2: the target `test`\n",
        "#  - \"cargo test --offline\" # Cargo.toml:1: a Rust package\n",
        "packages: [cargo, make]}\n",
    ] {
        assert!(text.contains(part), "`{part}` is not in\n{text}");
    }
    assert!(lab.status(&dir).contains("A  factory.yaml\n"));

    lab.git(&dir, &["commit", "--quiet", "-m", "Add factory"]);
    let doctor = lab.factory(&dir, &["doctor"], &[KEY, NO_DOCKER]);
    assert!(
        doctor.out.contains("ok       checks        make test"),
        "{}",
        doctor.out
    );

    // One that is there is left alone, and nothing is said of guesses.
    let ended = lab.factory(&dir, &["init"], &[]);
    assert!(!ended.out.contains("guessed"), "{}", ended.out);
    assert_eq!(fs::read_to_string(dir.join("factory.yaml")).unwrap(), text);
}

#[test]
fn a_try_that_cannot_be_made_leaves_what_was_written() {
    let lab = Lab::new();
    let dir = lab.repo("repo", &[]);
    let ended = lab.factory(&dir, &["init", "--try"], &[NO_DOCKER]);
    assert_bad(
        &ended,
        5,
        &["no checks to try", "`checks` in factory.yaml"],
        "no checks",
    );
    assert!(lab.status(&dir).contains("A  factory.yaml\n"));
    fs::write(dir.join("factory.yaml"), OWN_COMMAND).unwrap();
    let ended = lab.factory(&dir, &["init", "--try"], &[NO_DOCKER]);
    assert_bad(&ended, 6, &["no Docker engine found"], "no engine");
    fs::write(dir.join("factory.yaml"), "checks: 3\n").unwrap();
    let ended = lab.factory(&dir, &["init", "--try"], &[NO_DOCKER]);
    assert_bad(&ended, 4, &["factory.yaml:1:"], "broken");
}

fn with_checks(checks: &str) -> String {
    format!("engine: {{command: [\"true\"]}}\nchecks: [{checks}]\n")
}

#[test]
fn a_try_shows_a_green_and_a_red_start() {
    let test = "a_try_shows_a_green_and_a_red_start";
    if !has_docker(test) || !has_agent(test) {
        return;
    }
    let lab = Lab::new();
    let dir = lab.repo("repo", &[("sub/a", "tracked")]);
    fs::write(dir.join("sub/a"), "changed").unwrap();
    fs::write(dir.join("untracked"), "").unwrap();
    let tried = |checks: &str| {
        // Not committed: it is tried before.
        fs::write(dir.join("factory.yaml"), with_checks(checks)).unwrap();
        let ended = lab.factory(&dir.join("sub"), &["init", "--try"], &network());
        lab.nothing_half_made(&dir.join(".git"));
        ended
    };
    // The commit and nothing else, without a network, as a check would run.
    let ended = tried(
        "\"grep -qx tracked sub/a && ! test -e untracked && echo the commit is here\", \
         \"test \\\"$(ls /sys/class/net)\\\" = lo && ! touch /x 2>/dev/null && id -u\"",
    );
    assert_eq!(ended.code, 0, "{ended:?}");
    for part in ["the commit is here\n", "green: all checks passed\n"] {
        assert!(
            ended.out.contains(part),
            "`{part}` is not in\n{}",
            ended.out
        );
    }
    let ended = tried("\"echo one\", \"echo it is broken >&2; exit 3\", \"echo never\"");
    let parts = [
        "one\n",
        "it is broken\n",
        "red: `echo it is broken >&2; exit 3` ended with exit code 3\n",
        "Mend it before an agent works",
    ];
    assert_bad(&ended, 12, &parts, "red");
    assert!(!ended.out.contains("\nnever\n"), "{}", ended.out);
}

#[test]
fn a_try_that_is_interrupted_leaves_nothing() {
    let test = "a_try_that_is_interrupted_leaves_nothing";
    if !has_docker(test) || !has_agent(test) {
        return;
    }
    let lab = Lab::new();
    let dir = lab.repo(
        "repo",
        &[("factory.yaml", &with_checks("\"echo begun; sleep 1000\""))],
    );
    let built = lab.factory(&dir, &["image", "build"], &network());
    assert_eq!(built.code, 0, "{built:?}");
    let mut call = lab.command(FACTORY, &dir);
    let mut child = call
        .args(["init", "--try"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // It is shown while it runs.
    assert!(lines.any(|line| line.unwrap() == "begun"));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let rest: Vec<String> = lines.map(|line| line.unwrap()).collect();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest:?}");
    lab.nothing_half_made(&dir.join(".git"));
}
