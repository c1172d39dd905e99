//! `factory init`.

use crate::lab::{KEY, Lab, NO_DOCKER, assert_bad, listing};
use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};

const WRITTEN: [&str; 5] = [
    "factory.yaml",
    "intent/README.md",
    "postmortems/README.md",
    "principles/0001-a-change-comes-with-its-test.md",
    "prohibitions/0001-no-secret-in-the-repository.md",
];

fn staged(paths: &[&str]) -> String {
    paths.iter().map(|path| format!("A  {path}\n")).collect()
}

#[test]
fn init_writes_stages_and_is_read_back() {
    let lab = Lab::new();
    let dir = lab.repo(
        "repo",
        &[(".gitignore", "*.yaml\nintent/\n"), ("sub/a", "a")],
    );
    // Other staged work stays as it is; hooks do not run.
    fs::write(dir.join("mine"), "mine").unwrap();
    lab.git(&dir, &["add", "mine"]);
    let hook = dir.join(".git/hooks/post-index-change");
    fs::write(&hook, "#!/bin/sh\ntouch ran\n").unwrap();
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    let ended = lab.factory(&dir.join("sub"), &["init"], &[]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(!dir.join("ran").exists(), "a hook ran");
    fs::remove_file(&hook).unwrap();
    for part in [
        "git commit -m",
        "factory doctor",
        "factory issue new",
        "factory start",
    ] {
        assert!(ended.out.contains(part), "{part}: {}", ended.out);
    }
    let mut expected = staged(&WRITTEN);
    expected.insert_str(expected.find("A  postmortems").unwrap(), "A  mine\n");
    assert_eq!(lab.status(&dir), expected);
    lab.nothing_half_made(&dir.join(".git"));

    // Again: nothing to do, nothing changed.
    let text = fs::read_to_string(dir.join("factory.yaml")).unwrap();
    let ended = lab.factory(&dir, &["init"], &[]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.out.contains("kept    factory.yaml") && !ended.out.contains("wrote"));
    assert_eq!(fs::read_to_string(dir.join("factory.yaml")).unwrap(), text);
    assert_eq!(lab.status(&dir), expected);

    lab.git(&dir, &["commit", "--quiet", "-m", "Add factory"]);
    let doctor = lab.factory(&dir, &["doctor"], &[KEY, NO_DOCKER]);
    assert!(
        doctor.out.contains("ok       factory.yaml"),
        "{}",
        doctor.out
    );
    assert!(!doctor.out.contains("differs"), "{}", doctor.out);
}

#[test]
fn init_keeps_what_is_there_and_avoids_a_branch_in_the_way() {
    let lab = Lab::new();
    let files = [
        ("principles/0001-ours.md", "# Ours\n"),
        ("intent/README.md", "# What for\n"),
        ("prohibitions/notes.txt", "no Markdown\n"),
    ];
    let dir = lab.repo("repo", &files);
    lab.git(&dir, &["branch", "factory"]);
    lab.git(&dir, &["branch", "factory-work"]);
    let ended = lab.factory(&dir, &["init"], &[]);
    assert_eq!(ended.code, 0, "{ended:?}");
    for part in [
        "kept    principles/",
        "kept    intent/",
        "called factory-work-2/",
    ] {
        assert!(ended.out.contains(part), "{part}: {}", ended.out);
    }
    assert_eq!(
        lab.status(&dir),
        staged(&[WRITTEN[0], WRITTEN[2], WRITTEN[4]])
    );
    let text = fs::read_to_string(dir.join("factory.yaml")).unwrap();
    assert!(text.contains("\nbranch_prefix: factory-work-2\n"), "{text}");
    lab.git(&dir, &["commit", "--quiet", "-m", "Add factory"]);
    let doctor = lab.factory(&dir, &["doctor"], &[KEY, NO_DOCKER]);
    assert!(
        doctor.out.contains("factory-work-2/<issue>"),
        "{}",
        doctor.out
    );

    // A linked worktree shares the factory, and keeps its target.
    lab.git(
        &dir,
        &[
            "worktree", "add", "--quiet", "-b", "side", "../side", "HEAD~1",
        ],
    );
    let ended = lab.factory(&lab.path("side"), &["init"], &[]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.out.contains("target  main"), "{}", ended.out);
    assert!(ended.out.contains("You are on side"), "{}", ended.out);
    assert_eq!(lab.status(&dir), "");
}

#[test]
fn an_init_that_fails_leaves_nothing() {
    type Obstacle = fn(&Lab, &Path);
    let cases: [(&str, Obstacle, &str); 3] = [
        (
            "the index is locked",
            |_, dir| fs::write(dir.join(".git/index.lock"), "").unwrap(),
            "index.lock",
        ),
        (
            "a folder is a file",
            |lab, dir| {
                fs::write(dir.join("prohibitions"), "a file").unwrap();
                lab.git(dir, &["add", "prohibitions"]);
                lab.git(dir, &["commit", "--quiet", "-m", "File"]);
            },
            "prohibitions",
        ),
        (
            "a folder is a link",
            |lab, dir| {
                fs::create_dir(lab.path("elsewhere")).unwrap();
                symlink("../elsewhere", dir.join("postmortems")).unwrap();
                lab.git(dir, &["add", "postmortems"]);
                lab.git(dir, &["commit", "--quiet", "-m", "Link"]);
            },
            "beyond a symbolic link",
        ),
    ];
    for (name, obstacle, part) in cases {
        let lab = Lab::new();
        let dir = lab.repo("repo", &[]);
        obstacle(&lab, &dir);
        let before = listing(&dir);
        let ended = lab.factory(&dir, &["init"], &[]);
        assert_bad(&ended, 3, &[part, "run `factory init` again"], name);
        assert_eq!(listing(&dir), before, "{name}");
        assert_eq!(lab.status(&dir), "", "{name}");
        if name == "a folder is a link" {
            assert_eq!(fs::read_dir(lab.path("elsewhere")).unwrap().count(), 0);
        }
    }
}

#[test]
fn the_engine_is_the_one_whose_key_is_set() {
    const OPENAI: (&str, &str) = ("OPENAI_API_KEY", "sk-not-a-key");
    const EMPTY: (&str, &str) = ("ANTHROPIC_API_KEY", "");
    type Case = (
        &'static [(&'static str, &'static str)],
        Option<&'static str>,
        &'static str,
    );
    let cases: [Case; 4] = [
        (
            &[],
            None,
            "engine  claude  (`factory start` will need ANTHROPIC_API_KEY; with codex or mini as `engine` in factory.yaml it needs OPENAI_API_KEY)",
        ),
        (&[KEY], None, "engine  claude  (ANTHROPIC_API_KEY is set;"),
        (
            &[KEY, OPENAI],
            None,
            "engine  claude  (ANTHROPIC_API_KEY is set;",
        ),
        (
            &[EMPTY, OPENAI],
            Some("codex"),
            "engine  codex  (OPENAI_API_KEY is set;",
        ),
    ];
    for (env, written, says) in cases {
        let lab = Lab::new();
        let dir = lab.repo("repo", &[]);
        let ended = lab.factory(&dir, &["init"], env);
        assert_eq!(ended.code, 0, "{ended:?}");
        assert!(ended.out.contains(says), "{says}: {}", ended.out);
        let text = fs::read_to_string(dir.join("factory.yaml")).unwrap();
        let engine = text.lines().find_map(|line| line.strip_prefix("engine: "));
        assert_eq!(engine, written, "{text}");
        assert!(!text.contains("not-a-key"));
        if written.is_some() {
            assert!(text.contains("\n#model: gpt-5.5\n"), "{text}");
            // Also before it is committed; what is looked for next is the container engine.
            let note = "the engine is codex, as OPENAI_API_KEY is set";
            let start = lab.factory(&dir, &["start"], &[OPENAI, NO_DOCKER]);
            let parts = ["factory.yaml is not in force", note];
            assert_bad(&start, 6, &parts, "not committed");
            let doctor = lab.factory(&dir, &["doctor"], &[OPENAI, NO_DOCKER]);
            assert!(doctor.out.contains(note), "{}", doctor.out);
            let start = lab.factory(&dir, &["start"], &[NO_DOCKER]);
            assert_bad(&start, 8, &["ANTHROPIC_API_KEY is not set"], "no key");
            lab.git(&dir, &["commit", "--quiet", "-m", "Add factory"]);
            let doctor = lab.factory(&dir, &["doctor"], &[OPENAI, NO_DOCKER]);
            let said = "ok       model key     OPENAI_API_KEY is set";
            assert!(doctor.out.contains(said), "{}", doctor.out);
            // The key is at hand, so the engine is what is looked for next.
            let start = lab.factory(&dir, &["start"], &[OPENAI, NO_DOCKER]);
            assert_bad(&start, 6, &[], "committed");
        }
    }
}
