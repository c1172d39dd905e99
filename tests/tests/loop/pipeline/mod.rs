//! The pipeline: planned, written, checked, reviewed, mended, merged.

mod instruction;
mod people;
mod queue;
mod reports;
mod reviewers;
mod reviews;
mod verified;

use factory_core::model::Run;
use factory_tests::Lab;

/// Approves whatever it sees.
const APPROVES: &str = r#"cat >/dev/null
echo '{"verdict": "approve", "confidence": 0.95, "summary": "It does what was asked."}' >/factory/out/report.json
"#;

/// Gates that open by themselves.
const AUTO: &str = "gates: {issues: auto, plan: auto, merge: auto}\n";

/// Says hello in `greeting.txt`.
const SAYS_HELLO: &str = r#"set -eu
cat >/tmp/brief
echo hello >greeting.txt
git add greeting.txt
git commit -q -m "Say hello"
git push -q
echo '{"summary": "It says hello now."}' >/factory/out/report.json
"#;

/// The check that this passes.
const HELLO: &str = "checks: [\"grep -q hello greeting.txt\"]\n";

/// An own command that runs a script, as `factory.yaml` has it. It is not in the repository,
/// where a coder could change what its reviewer is.
fn command(script: &str) -> String {
    format!(
        "{{command: [sh, -c, {}]}}",
        serde_json::to_string(script).unwrap()
    )
}

/// A repository whose code is written by `coder`, and whose `stages` are done by the scripts
/// of these names.
fn cast(coder: &str, stages: &[(&str, &str)], rest: &str) -> Lab {
    let lab = Lab::new();
    let stages: Vec<String> = stages
        .iter()
        .map(|(stage, script)| format!("  {stage}: {{engine: {}}}\n", command(script)))
        .collect();
    let stages = match stages.is_empty() {
        true => String::new(),
        false => format!("stages:\n{}", stages.concat()),
    };
    lab.write(
        "factory.yaml",
        &format!("engine: {}\n{stages}{rest}", command(coder)),
    );
    lab.commit("Begin");
    lab
}

/// The runs of an issue that are over, in order.
fn runs(lab: &Lab, issue: u64) -> Vec<Run> {
    let files = lab.state_files("archive/runs/").unwrap_or_default();
    let runs = files.values().map(|bytes| {
        let text = String::from_utf8_lossy(bytes);
        factory_core::state::parse::<Run>("run", text.as_bytes()).unwrap()
    });
    let mut runs: Vec<Run> = runs.filter(|run| run.id.job.0 == issue).collect();
    runs.sort_by_key(|run| run.id.k);
    runs
}

/// What each of them was for.
fn purposes(lab: &Lab, issue: u64) -> Vec<String> {
    let purposes = runs(lab, issue).into_iter().map(|run| {
        let purpose = serde_json::to_string(&run.purpose).unwrap();
        purpose.trim_matches('"').to_owned()
    });
    purposes.collect()
}

/// Every commit that main was ever moved to, oldest first, is green by `check`.
fn assert_always_green(lab: &Lab, check: &str) {
    let commits = lab.git(&["rev-list", "--first-parent", "--reverse", "main"]);
    for commit in commits.lines().skip(1) {
        let dir = tempfile::tempdir().unwrap();
        let archive = dir.path().join("tree.tar");
        let tree = archive.to_str().unwrap();
        lab.git(&["archive", "--format=tar", "-o", tree, commit]);
        let script = format!("tar -xf tree.tar && {check}");
        let run = std::process::Command::new("sh")
            .args(["-c", &script])
            .current_dir(dir.path())
            .output()
            .unwrap();
        assert!(run.status.success(), "{commit} is red: {run:?}");
    }
}
