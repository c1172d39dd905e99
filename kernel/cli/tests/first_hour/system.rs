//! What the system refuses: places that are gone, may not be written to, or are full.

use crate::lab::{Ended, FACTORY, KEY, Lab, NO_DOCKER, assert_bad};
use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

#[test]
fn a_directory_that_is_gone_is_named() {
    let lab = Lab::new();
    let dir = lab.repo("repo", &[]);
    let gone = "mkdir gone && cd gone && rmdir ../gone && exec \"$0\" \"$@\"";
    let run = |args: &[&str]| {
        let mut command = lab.command("sh", &dir);
        command.args(["-c", gone, FACTORY]).args(args);
        lab.run(command)
    };
    let parts = [
        "/repo/gone, cannot be used",
        "help: change into a directory",
    ];
    for args in [&["issue", "list"][..], &["-C", "below", "status"]] {
        assert_bad(&run(args), 3, &parts, "gone");
    }
    // Nobody needs the place where we stand then.
    let ended = run(&["-C", dir.to_str().unwrap(), "issue", "list"]);
    assert_eq!(ended.code, 0, "{ended:?}");
}

#[test]
fn a_configuration_that_is_no_text_or_too_long() {
    let lab = Lab::new();
    let dir = lab.repo("repo", &[]);
    fs::write(dir.join("latin.yaml"), b"slots: 2\n# caf\xe9\n").unwrap();
    fs::write(dir.join("long.yaml"), "# long\n".repeat(1 << 18)).unwrap();
    let start = |name: &str| lab.factory(&dir, &["start", "--config", name], &[KEY, NO_DOCKER]);
    let latin = ["/latin.yaml:2: this is not UTF-8", "save the file as UTF-8"];
    assert_bad(&start("latin.yaml"), 4, &latin, "latin");
    let long = ["/long.yaml has more than 1048576 bytes", "make it smaller"];
    assert_bad(&start("long.yaml"), 4, &long, "long");
    assert_bad(&start("."), 4, &["is not a regular file"], "a directory");

    // The same for what is committed.
    for (name, parts) in [
        ("latin", &latin[1..]),
        ("long", &["has more than 1048576 bytes"][..]),
    ] {
        fs::copy(dir.join(format!("{name}.yaml")), dir.join("factory.yaml")).unwrap();
        lab.git(&dir, &["add", "factory.yaml"]);
        lab.git(&dir, &["commit", "--quiet", "-m", name]);
        let ended = lab.factory(&dir, &["start"], &[KEY, NO_DOCKER]);
        assert_bad(
            &ended,
            4,
            &[&["factory.yaml (commit "], parts].concat(),
            name,
        );
    }
}

#[test]
fn what_is_wrong_is_said_before_an_engine_is_asked() {
    type Row<'a> = (&'a str, &'a [&'a str], &'a [&'a str]);
    let rows: &[Row] = &[
        (
            "version: 1\n",
            &["--config", "/dev/zero"],
            &["/dev/zero is not a regular file", "give `--config` a file"],
        ),
        (
            "checks: []\nimage: {base: \"a b\"}\n",
            &[],
            &["):2: image.base `a b` is not the name of an image"],
        ),
        (
            "branch_prefix: main\n",
            &[],
            &[
                "a branch `main` is there, so no branch can be main/…",
                "set branch_prefix in factory.yaml",
            ],
        ),
        (
            "branch_prefix: main/bots\n",
            &[],
            &["a branch `main` is there", "git branch -m main <name>"],
        ),
    ];
    for (config, options, parts) in rows {
        let lab = Lab::new();
        let dir = lab.repo("repo", &[("factory.yaml", config)]);
        let start = [&["start"], *options].concat();
        let ended = lab.factory(&dir, &start, &[KEY, NO_DOCKER]);
        assert_bad(&ended, 4, parts, config);
    }
}

/// Runs without root's right to write everywhere; none where that cannot be had.
fn without_privilege(lab: &Lab, dir: &Path, args: &[&str]) -> Option<Ended> {
    let root = rustix::process::geteuid().is_root();
    let mut command = lab.command(if root { "setpriv" } else { FACTORY }, dir);
    if root {
        let mut tried = Command::new("setpriv");
        tried.args(["--bounding-set", "-dac_override", "true"]);
        if !tried.status().is_ok_and(|status| status.success()) {
            return None;
        }
        let rights = "-dac_override,-dac_read_search";
        command.args(["--bounding-set", rights, FACTORY]);
    }
    command.args(args);
    Some(lab.run(command))
}

fn chmod(dir: &Path, mode: &str) {
    let mut command = Command::new("chmod");
    command.args(["-R", mode]).arg(dir);
    assert!(command.status().unwrap().success());
}

#[test]
fn a_repository_that_may_not_be_written_to_is_still_read() {
    let test = "a_repository_that_may_not_be_written_to_is_still_read";
    let lab = Lab::new();
    let dir = lab.repo("repo", &[]);
    let git = dir.join(".git");
    chmod(&git, "a-w");
    let words = ["Permission denied", "you may not write there"];
    for args in [&["issue", "list"][..], &["issue", "new", "-t", "x"]] {
        let Some(ended) = without_privilege(&lab, &dir, args) else {
            println!("skipped: {test}: root without setpriv");
            return;
        };
        let parts = [&words[..], &["/.git/factory"]].concat();
        assert_bad(&ended, 3, &parts, "nothing begun");
    }
    let ended = without_privilege(&lab, &dir, &["init"]).unwrap();
    let parts = ["index.lock", "Permission denied", "nothing was changed"];
    assert_bad(&ended, 3, &parts, "init");
    assert!(ended.err.starts_with("error: "), "{}", ended.err);
    assert!(!ended.err.contains("literal-pathspecs"), "{}", ended.err);

    chmod(&git, "u+w");
    let filed = lab.factory(&dir, &["issue", "new", "-t", "Read me"], &[]);
    assert_eq!(filed.code, 0, "{filed:?}");
    chmod(&git, "a-w");
    for args in [&["issue", "list"][..], &["status"], &["log"]] {
        let ended = without_privilege(&lab, &dir, args).unwrap();
        assert_eq!(ended.code, 0, "{ended:?}");
        assert!(ended.out.contains("Read me"), "{ended:?}");
    }
    let ended = without_privilege(&lab, &dir, &["issue", "new", "-t", "x"]).unwrap();
    assert_bad(&ended, 3, &["Permission denied"], "a write");
    chmod(&git, "u+w");
}

#[test]
fn an_order_whose_answer_cannot_be_written_is_done() {
    let lab = Lab::new();
    let dir = lab.repo("repo", &[]);
    let full = |args: &[&str]| {
        let mut command = lab.command(FACTORY, &dir);
        let nowhere = fs::File::options().write(true).open("/dev/full").unwrap();
        command
            .args(args)
            .stdout(Stdio::from(nowhere))
            .stderr(Stdio::piped());
        let ended = command.spawn().unwrap().wait_with_output().unwrap();
        Ended {
            code: ended.status.code().unwrap(),
            out: String::new(),
            err: String::from_utf8(ended.stderr).unwrap(),
        }
    };
    let cannot = "standard output cannot be written: No space left on device";
    let parts = [cannot, "do not repeat it, it is done: issue 1 filed"];
    assert_bad(&full(&["issue", "new", "-t", "Once"]), 13, &parts, "new");
    let parts = [cannot, "do not repeat it, it is done: issue 1 approved"];
    assert_bad(&full(&["issue", "approve", "1"]), 13, &parts, "approve");
    assert_bad(&full(&["issue", "list"]), 13, &[cannot], "list");
    let log = lab.factory(&dir, &["issue", "list"], &[]);
    assert!(
        log.out.contains("Once") && !log.out.contains("2  "),
        "{log:?}"
    );
}
