//! The real projects are what they are said to be.

#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

use factory_testkit::project::{
    Project, ProjectError, Registry, Release, Releases, of_csv, of_numbers, of_paths,
};
use factory_testkit::scenario::{Answer, Step, from_diff};
use std::path::Path;
use std::process::Command;

fn passes(root: &Path, check: &str) -> bool {
    // No .pyc files: the releases are shared.
    let output = Command::new("sh")
        .args(["-c", check])
        .current_dir(root)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    println!(
        "{}: {}",
        root.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    output.status.success()
}

#[test]
fn the_defects_are_in_the_first_releases_and_not_in_the_second() {
    for project in [of_paths(), of_numbers(), of_csv()] {
        let cache = tempfile::tempdir().unwrap();
        let Some(releases) = fetched(&project, cache.path()) else {
            continue;
        };
        assert_in_the_first_only(&project, &releases);
        let again = project.fetch(cache.path()).unwrap();
        assert_eq!(again.fixed, releases.fixed);
    }
}

fn fetched(project: &Project, cache: &Path) -> Option<Releases> {
    match project.fetch(cache) {
        Ok(releases) => Some(releases),
        Err(error @ (ProjectError::NoProgram { .. } | ProjectError::Download { .. })) => {
            println!("skipped: {}: {error}", project.name);
            None
        }
        Err(error) => panic!("{error}: {error:?}"),
    }
}

fn assert_in_the_first_only(project: &Project, releases: &Releases) {
    assert!(passes(&releases.before, project.check));
    assert!(passes(&releases.after, project.check));
    assert!(passes(&releases.fixed, project.check));
    for (root, expected) in [(&releases.before, false), (&releases.after, true)] {
        let test = root.join(project.test_path);
        std::fs::create_dir_all(test.parent().unwrap()).unwrap();
        std::fs::write(&test, project.test_text).unwrap();
        assert_eq!(passes(root, project.check), expected, "{}", root.display());
        std::fs::remove_file(&test).unwrap();
    }
    for archived in ["PKG-INFO", "Cargo.toml.orig", ".cargo-checksum.json"] {
        assert!(!releases.before.join(archived).exists(), "{archived}");
    }
}

#[test]
fn a_crate_that_is_not_pinned_is_refused() {
    let Registry::Crates { needs } = of_csv().registry else {
        panic!("it is a crate");
    };
    let mut other = needs.to_vec();
    other[0].1.sha256 = "0000";
    // Another archive than the pinned one; and one that nothing names.
    let wrong: [&'static [(&str, Release)]; 2] = [other.leak(), &needs[..1]];
    for (needs, name) in wrong.into_iter().zip(["arrayvec", "memchr"]) {
        let project = Project {
            registry: Registry::Crates { needs },
            ..of_csv()
        };
        let cache = tempfile::tempdir().unwrap();
        match project.fetch(cache.path()) {
            Err(ProjectError::NotPinned { found, .. }) => {
                assert!(found.starts_with(&format!("{name} ")), "{found}");
            }
            Err(error @ ProjectError::Download { .. }) => println!("skipped: {error}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_fix_becomes_an_engines_tool_calls() {
    let cache = tempfile::tempdir().unwrap();
    let project = of_paths();
    let Some(releases) = fetched(&project, cache.path()) else {
        return;
    };
    let scenario = from_diff(
        &releases.before,
        &releases.fixed,
        "Return a bool",
        &[project.check],
    )
    .unwrap();
    let used = |step: &Step| match step {
        Step::Answer(Answer { tools, .. }) => tools.first().map(|call| call.tool.clone()),
        Step::Fault { .. } => None,
    };
    let tools: Vec<String> = scenario.conversations[0]
        .steps
        .iter()
        .filter_map(used)
        .collect();
    assert_eq!(tools, ["Read", "Edit", "Write", "Bash", "Bash"]);
}
