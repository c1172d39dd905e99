//! The repository's own rules, and secrets: judged at the door by what the target has.

use crate::lab::{Lab, Served, Workspace, ok};
use crate::{BRANCH, RUN, noise};
use factory_core::grant::PushRules;
use factory_core::rules::Globs;

/// One word is forbidden, and everything below `vendor`.
const PROHIBITION: &str =
    "---\nenforce:\n  - pattern: 'FORBIDDEN'\n  - paths: [\"vendor/**\"]\n---\n# No\n\nNever.\n";

/// What looks like a token; put together, so that no scan of this file finds it.
fn token() -> String {
    format!("ghp_{}", "aB3dE6gH9jK2".repeat(3))
}

/// A run whose target has a prohibition with rules.
fn ruled(rules: impl Fn(&Lab) -> Option<PushRules>) -> (Lab, Served, Workspace) {
    let mut lab = Lab::new();
    for dir in ["prohibitions", "vendor"] {
        std::fs::create_dir(lab.user().join(dir)).unwrap();
    }
    std::fs::write(lab.user().join("prohibitions/0001-no.md"), PROHIBITION).unwrap();
    std::fs::write(lab.user().join("vendor/x"), "x").unwrap();
    std::fs::write(
        lab.user().join("old"),
        format!("a\nFORBIDDEN\n{}\n", token()),
    )
    .unwrap();
    ok(&lab.user(), &["add", "-A"]);
    ok(&lab.user(), &["commit", "-q", "-m", "rules"]);
    lab.start = lab.target_moved();
    let mut grant = lab.grant(RUN, Some(BRANCH));
    grant.rules = rules(&lab);
    let served = Served::start(lab.open_as(grant));
    let workspace = lab.workspace(&served, BRANCH);
    (lab, served, workspace)
}

#[test]
fn what_breaks_a_rule_is_refused_with_rule_file_and_line() {
    let (lab, _served, workspace) = ruled(|_| None);
    let start = lab.start.as_str();
    let token = token();
    let short = format!("x\n\n{token}\n");
    let long = [noise(20 << 20), format!("\n{token}\n").into_bytes()].concat();
    let rows: [(&str, &[u8], &str); 6] = [
        ("new", b"a\nb FORBIDDEN\n", "new:2: "),
        (
            "vendor/y",
            b"y",
            "vendor/y: `vendor/**` may not be changed (prohibitions/0001-no.md)",
        ),
        ("a", short.as_bytes(), "a:3: "),
        ("large", &long, "large:"),
        (
            "prohibitions/0002-x.md",
            b"---\nenforce:\n  - patern: x\n---\n",
            "prohibitions/0002-x.md:3: ",
        ),
        (
            "vendor/x",
            b"other",
            "vendor/x: `vendor/**` may not be changed",
        ),
    ];
    for (name, content, word) in rows {
        workspace.commit(name, content);
        workspace.refused(&["push"], &["rules of the repository", word]);
        // What is taken away by a later commit is pushed all the same.
        workspace.ok(&["revert", "--no-edit", "HEAD"]);
        workspace.refused(&["push"], &["rules of the repository", word]);
        let said = workspace.git(&["push"]).text;
        assert!(!said.contains(&token), "{said}");
        workspace.ok(&["reset", "-q", "--hard", start]);
    }
    workspace.ok(&["rm", "-q", "vendor/x"]);
    workspace.ok(&["commit", "-q", "-m", "removed"]);
    workspace.refused(&["push"], &["vendor/x: `vendor/**` may not be changed"]);
    workspace.ok(&["reset", "-q", "--hard", start]);
    workspace.ok(&[
        "commit",
        "-q",
        "--allow-empty",
        "-m",
        &format!("the token {token}"),
    ]);
    let words = ["a secret stands in its message or its header (no secret: "];
    workspace.refused(&["push"], &words);
    workspace.ok(&["reset", "-q", "--hard", start]);
    let text = workspace.fed(&["cat-file", "commit", start], b"");
    let text = String::from_utf8(text).unwrap();
    let text = text.replacen("\n\n", &format!("\nnote {token}\n\n"), 1);
    let lines = text.lines().filter(|line| !line.starts_with("parent "));
    let lines: Vec<_> = lines.collect();
    let text = format!("{}\nparent {start}\n{}\n", lines[0], lines[1..].join("\n"));
    let new = workspace.object("commit", text.as_bytes());
    let push = format!("{new}:refs/heads/{BRANCH}");
    workspace.refused(&["push", "origin", &push], &words);
    assert!(lab.pushes(RUN).is_empty());

    // What was there before is nobody's to mend: other lines, and the same under another name.
    workspace.commit("old", format!("b\nFORBIDDEN\n{token}\n").as_bytes());
    workspace.ok(&["mv", "old", "renamed"]);
    workspace.ok(&["commit", "-q", "-m", "renamed"]);
    workspace.ok(&["push"]);
    // A checkpoint holds what is not ready; the branch does not follow.
    let bad = workspace.commit("bad", format!("{token}\n").as_bytes());
    let saved = crate::checkpoints::checkpoint(&workspace, &[bad.as_str()], b"half");
    workspace.ok(&[
        "push",
        "-q",
        "origin",
        &format!("+{saved}:refs/factory/checkpoint"),
    ]);
    workspace.refused(&["push"], &["rules of the repository", "bad:1: "]);
    workspace.ok(&["rm", "-q", "bad"]);
    workspace.ok(&["commit", "-q", "-m", "hidden"]);
    workspace.refused(&["push"], &["rules of the repository", "bad:1: "]);
    lab.assert_no_leftovers();
}

#[test]
fn the_grant_says_by_which_commit_and_what_a_person_decides_on() {
    let (lab, _served, workspace) = ruled(|lab| {
        // As the target was before it had rules.
        let target = ok(&lab.user(), &["rev-parse", "HEAD^"]).parse().unwrap();
        Some(PushRules {
            target,
            allow_secrets_in: Globs::new(["fixtures/**"]).unwrap(),
            protected: Globs::new(["file", "prohibitions/**"]).unwrap(),
        })
    });
    std::fs::create_dir(workspace.path.join("fixtures")).unwrap();
    workspace.commit(
        "fixtures/token",
        format!("{}\nFORBIDDEN\n", token()).as_bytes(),
    );
    let said = workspace.git(&["push"]);
    assert!(said.ok && !said.text.contains("A person"), "{}", said.text);
    workspace.commit("file", b"three\n");
    let said = workspace.git(&["push"]);
    let told = said
        .text
        .contains("remote: A person decides on this before it is merged");
    assert!(
        said.ok && told && said.text.contains("remote:   file"),
        "{}",
        said.text
    );
    assert_eq!(lab.pushes(RUN).len(), 2);
}

#[test]
fn rules_that_cannot_be_read_let_nothing_through() {
    let (lab, _served, workspace) = ruled(|_| None);
    let file = lab.user().join("prohibitions/0001-no.md");
    std::fs::write(file, "---\nenforce: {}\n---\n").unwrap();
    ok(&lab.user(), &["commit", "-q", "-a", "-m", "broken"]);
    lab.target_moved();
    workspace.commit("x", b"x");
    let words = [
        "on the target branch: prohibitions/0001-no.md:2: ",
        "a person has to mend it",
    ];
    workspace.refused(&["push"], &words);
    assert!(lab.pushes(RUN).is_empty());
}
