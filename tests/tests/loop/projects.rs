//! The real engines, each with a real project.

use factory_core::model::PrState;
use factory_testkit::{
    project::{Project, ProjectError, Releases, of_csv, of_numbers, of_paths},
    scenario::from_diff,
};
use factory_tests::{Lab, Model};
use std::{
    panic::{catch_unwind, resume_unwind},
    path::Path,
    process::Command,
    time::Instant,
};

/// Copies the files of a release into the user's work tree.
fn copy(from: &Path, lab: &Lab, below: &str) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{below}{}", entry.file_name().to_str().unwrap());
        if entry.path().is_dir() {
            copy(&entry.path(), lab, &format!("{name}/"));
        } else {
            lab.write(&name, &std::fs::read_to_string(entry.path()).unwrap());
        }
    }
}

/// Each engine with its project.
fn played() -> [(&'static str, Project); 3] {
    [
        ("claude", of_paths()),
        ("codex", of_numbers()),
        ("mini", of_csv()),
    ]
}

/// As [`goes_from_red_to_green`], where the project's registry can be reached.
fn mends(engine: &str) {
    let (_, project) = played().into_iter().find(|(e, _)| *e == engine).unwrap();
    let cache = tempfile::tempdir().unwrap();
    match project.fetch(cache.path()) {
        Ok(releases) => goes_from_red_to_green(engine, &project, &releases),
        Err(error @ (ProjectError::NoProgram { .. } | ProjectError::Download { .. })) => {
            println!("skipped: a real project with {engine}: {error}");
        }
        Err(error) => panic!("{error}: {error:?}"),
    }
}

/// Red before, green after: the project's own fix, made by `engine`.
fn goes_from_red_to_green(engine: &str, project: &Project, releases: &Releases) {
    let (title, body) = project.issue;
    let scenario = from_diff(&releases.before, &releases.fixed, title, &[project.check]).unwrap();
    let model = Model::serve(scenario);
    let mut lab = Lab::new();
    lab.env("TEST_API_KEY", "some-made-up-key");
    copy(&releases.before, &lab, "");
    // What Python leaves is not of the change: a binary file counts by its bytes.
    if !lab.repo().join(".gitignore").exists() {
        lab.write(".gitignore", "__pycache__/\n");
    }
    lab.write(
        "factory.yaml",
        &Lab::engine_config(
            engine,
            &model,
            &format!(
                "image: {{packages: [{}]}}\nchecks: [\"{}\"]\n",
                project.package, project.check
            ),
        ),
    );
    lab.commit(project.before.version);
    let passes = || {
        lab.write(project.test_path, project.test_text);
        Command::new("sh")
            .args(["-c", project.check])
            .current_dir(lab.repo())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .output()
            .unwrap()
            .status
            .success()
    };
    assert!(!passes(), "the defect is there");
    std::fs::remove_file(lab.repo().join(project.test_path)).unwrap();

    lab.approved(title, body);
    lab.until_idle_ok();
    lab.assert_at_rest();
    let state = lab.state();
    let pr = state.prs.values().next().unwrap();
    assert_eq!(pr.state, PrState::Ready);
    let checked = pr.checked.as_ref().unwrap();
    assert_eq!(checked.commit, pr.head);
    let said = lab.ok(&["run", "logs", "r1-1"]);
    assert!(
        said.contains(&format!("Changing {}.", project.sources[0]))
            || said.contains(&format!("Writing {}.", project.sources[0])),
        "{said}"
    );

    lab.ok(&["pr", "merge", "1"]);
    lab.assert_at_rest();
    assert_eq!(lab.read(project.test_path), project.test_text);
    for source in project.sources {
        let fixed = std::fs::read_to_string(releases.after.join(source)).unwrap();
        assert_eq!(lab.read(source), fixed);
    }
    assert!(passes(), "the defect is gone");
    assert_eq!(lab.git(&["status", "--porcelain"]), "");
}

#[test]
fn claude_mends_a_real_project() {
    mends("claude");
}

#[test]
fn codex_mends_a_real_project() {
    mends("codex");
}

#[test]
fn mini_mends_a_real_project() {
    mends("mini");
}

/// Ends at the first failure; its last line says how far it came.
#[test]
#[ignore = "`make soak-engines` runs it, for a quarter of an hour"]
fn soak() {
    let count: usize = std::env::var("FACTORY_ROUNDS").unwrap().parse().unwrap();
    let began = Instant::now();
    let cache = tempfile::tempdir().unwrap();
    let played = played().map(|(engine, project)| {
        let releases = project.fetch(cache.path()).unwrap();
        (engine, project, releases)
    });
    let (mut rounds, mut projects, mut failure) = (0, 0, None);
    'rounds: for round in 1..=count {
        rounds = round;
        for (engine, project, releases) in &played {
            let one = Instant::now();
            let mended = catch_unwind(|| goes_from_red_to_green(engine, project, releases));
            projects += 1;
            println!(
                "round {round}: {engine}, {} {}: {}, {} s",
                project.name,
                project.before.version,
                if mended.is_ok() { "mended" } else { "failed" },
                one.elapsed().as_secs()
            );
            if let Err(panic) = mended {
                failure = Some(panic);
                break 'rounds;
            }
        }
    }
    println!("seconds={}", began.elapsed().as_secs());
    let failed = usize::from(failure.is_some());
    let line = format!("rounds={rounds} projects={projects} failed={failed}");
    println!("{line}");
    if let Some(result) = std::env::var_os("FACTORY_SOAK_RESULT") {
        std::fs::write(result, format!("{line}\n")).unwrap();
    }
    if let Some(panic) = failure {
        resume_unwind(panic);
    }
}
