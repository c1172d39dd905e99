//! What CI runs: evidence for people, and a guess where nothing else is.

use super::{
    Candidate,
    text::{Tree, line_of},
};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// How commands that test begin, and the packages they need.
const TESTS: [(&str, &[&str]); 14] = [
    ("cargo test", &["cargo"]),
    ("cargo clippy", &["cargo"]),
    ("go test", &["golang-go"]),
    ("go vet", &["golang-go"]),
    ("make test", &["make"]),
    ("make check", &["make"]),
    ("npm test", &["nodejs", "npm"]),
    ("npm run test", &["nodejs", "npm"]),
    ("pytest", &["python3", "python3-pytest"]),
    ("python -m pytest", &["python-is-python3", "python3-pytest"]),
    ("python3 -m pytest", &["python3", "python3-pytest"]),
    ("python -m unittest", &["python-is-python3"]),
    ("python3 -m unittest", &["python3"]),
    ("./test", &[]),
];

#[derive(Deserialize)]
struct Workflow {
    #[serde(default)]
    jobs: BTreeMap<String, Job>,
}

#[derive(Deserialize)]
struct Job {
    #[serde(default)]
    steps: Vec<Step>,
}

#[derive(Deserialize)]
struct Step {
    run: Option<String>,
}

/// The commands of GitHub's and GitLab's files that look like tests.
pub fn guess(tree: &Tree, skipped: &mut Vec<String>) -> Vec<Candidate> {
    let mut found = Vec::new();
    for (path, text) in tree.texts(".github/workflows/") {
        match serde_saphyr::from_str::<Workflow>(text) {
            Ok(workflow) => {
                let steps = workflow.jobs.into_values().flat_map(|job| job.steps);
                let runs = steps.filter_map(|step| step.run);
                found.extend(runs.flat_map(|run| tests(path, text, &run)));
            }
            Err(error) => skipped.push(unreadable(path, &error)),
        }
    }
    const GITLAB: &str = ".gitlab-ci.yml";
    if let Some(text) = tree.text(GITLAB) {
        match serde_saphyr::from_str::<BTreeMap<String, Value>>(text) {
            Ok(jobs) => {
                for script in jobs.values().map(|job| &job["script"]) {
                    let lines = script.as_array().into_iter().flatten().chain([script]);
                    let lines = lines.filter_map(Value::as_str);
                    found.extend(lines.flat_map(|line| tests(GITLAB, text, line)));
                }
            }
            Err(error) => skipped.push(unreadable(GITLAB, &error)),
        }
    }
    found
}

fn unreadable(path: &str, error: &serde_saphyr::Error) -> String {
    let line = error.location().map_or(1, |at| at.line());
    format!("{path}:{line}: no YAML of the usual shape")
}

fn tests(path: &str, text: &str, run: &str) -> Vec<Candidate> {
    let lines = run.lines().map(str::trim);
    lines
        // What CI fills in is not known here, and a line that goes on is half a command.
        .filter(|line| !line.contains("${{") && !line.ends_with('\\'))
        .filter_map(|line| {
            let known = TESTS.into_iter().find(|(start, _)| {
                let rest = line.strip_prefix(start);
                rest.is_some_and(|rest| {
                    rest.is_empty() || rest.starts_with([' ', '-', '.', '_', 's'])
                })
            });
            let (_, packages) = known?;
            let because = format!("{path}:{}: CI runs it", line_of(text, line));
            let mut found = Candidate::new(line, because, packages);
            // The plain form of it, guessed from the project's own files, is better known to work here.
            let fetches = ["cargo", "go", "npm"]
                .iter()
                .any(|tool| line.starts_with(tool));
            if fetches && !line.contains("--offline") {
                found
                    .lacks
                    .push("it may fetch, and checks run without a network".to_owned());
            }
            Some(found)
        })
        .collect()
}
