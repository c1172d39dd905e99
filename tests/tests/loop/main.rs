//! The whole loop: from an approved issue to a merged commit, with the
//! installed program, the real container engine and real engines.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends at what it did not expect, its helpers too"
)]

mod between;
mod damage;
mod demo;
mod disk;
mod documents;
mod engine_restart;
mod engines;
mod filing;
mod freeze;
mod gates;
mod happy;
mod kills;
mod merging;
mod pipeline;
mod processes;
mod projects;
mod provider;
mod queue;
mod recording;
mod resume;
mod rounds;
mod rules;
mod secrets;
mod suspend;
mod sync;
mod words;

use factory_tests::Lab;

/// Writes greeting.txt, commits, pushes, reports.
const GREETER: &str = r#"set -eu
cat >/dev/null
echo hello >greeting.txt
git add greeting.txt
git commit -q -m "Say hello"
git push -q
echo '{"summary": "It says hello now."}' >/factory/out/report.json
"#;
/// The check that the greeter's work passes.
const GREETED: &str = "checks: [\"grep -q hello greeting.txt\"]\n";

/// A file of a job's branch, pull request 1's by default.
fn on_branch(lab: &Lab, path: &str) -> String {
    let state = lab.state();
    let pr = &state.prs.first_key_value().unwrap().1;
    lab.git(&["show", &format!("{}:{path}", pr.branch)])
}

/// First-parent subjects of main, newest first.
fn subjects(lab: &Lab) -> String {
    lab.git(&["log", "--format=%s", "--first-parent", "main"])
}

/// All comments of the first issue, open or closed.
fn comments(lab: &Lab) -> String {
    let open = lab.state_files("issues/open/1.d/").unwrap();
    let closed = lab.state_files("archive/issues/0/1.d/").unwrap();
    open.values()
        .chain(closed.values())
        .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
        .collect()
}
