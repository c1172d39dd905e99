//! The disk that holds the repository, and with it everything of the factory, is
//! full for a while; and runs that would fill it.

use crate::{
    GREETED,
    engine_restart::{GO, HELD, assert_merged},
};
use factory_tests::Lab;

/// Holds all that a test writes, and is filled quickly.
const DISK: u64 = 64 << 20;

fn lab(test: &str, agent: &str) -> Option<Lab> {
    let lab = Lab::on_small_disk(test, DISK)?;
    lab.scripted(agent, &format!("{GREETED}gates: {{merge: auto}}\n"));
    lab.approved("Greet people", "");
    Some(lab)
}

#[test]
fn an_agent_that_pushes_into_a_full_disk_is_told_and_pushes_later() {
    let agent = HELD.replace("until git push -q", "until git push -q 2>>/tmp/said");
    let Some(lab) = lab("push into a full disk", &agent) else {
        return;
    };
    let mut start = lab.start(&["--until-idle"], &[]);
    start.line("run r1-1: saved its work in progress");
    lab.inside("git commit -q --allow-empty -m Early");
    let filler = lab.fill_disk();
    let told = lab.inside("git push 2>&1 && echo pushed || :");
    println!("{told}");
    assert!(
        told.contains("the disk that the factory works on is full"),
        "{told}"
    );
    assert!(told.contains("wait a minute, then push again"), "{told}");
    drop(filler);
    lab.inside(GO);
    let ended = start.ended();
    assert_eq!(ended.code, 0, "{}", ended.text());
    assert_merged(&lab, 2);
}

#[test]
fn a_factory_on_a_full_disk_says_so_waits_and_goes_on() {
    let Some(lab) = lab("factory on a full disk", HELD) else {
        return;
    };
    let mut start = lab.start(&["--until-idle"], &[]);
    start.line("run r1-1: saved its work in progress");
    let filler = lab.fill_disk();
    let container = lab.container();
    lab.docker(&["kill", &container]);
    let said = start.line("cannot write to ");
    for part in [
        "state.git",
        "free some space",
        "No space left",
        "tried again in",
    ] {
        assert!(said.contains(part), "{said}");
    }
    let status = lab.ok(&["status"]);
    assert!(
        status.contains("Held up (tried again by itself):") && status.contains("cannot write to"),
        "{status}"
    );
    let said = lab.say(&["issue", "new", "--title", "No room for this"]);
    assert_eq!(said.code, 1);
    assert!(said.err.contains("cannot write to") && said.err.contains("free some space"));

    drop(filler);
    start.line("(r1-2, resumes r1-1)");
    start.line("run r1-2: running");
    assert!(!lab.ok(&["status"]).contains("Held up"));
    lab.inside(GO);
    let ended = start.ended();
    assert_eq!(ended.code, 0, "{}", ended.text());
    assert_eq!(lab.git(&["show", "main:found.txt"]), "found");
    assert_merged(&lab, 3);

    // It does not even begin, and says why.
    let filler = lab.fill_disk();
    let said = lab.say(&["start", "--until-idle"]);
    assert_eq!(said.code, 1, "{}", said.err);
    assert!(said.err.contains("No space left"), "{}", said.err);
    drop(filler);
    lab.until_idle_ok();
}

/// Tries one file beyond the limit, elsewhere, then many in its work tree; the run after it reads why it is there, and
/// leaves the junk out.
const FILLS: &str = r#"set -u
cat >/tmp/brief
if grep -q 'limits.disk' /tmp/brief; then
  cp /tmp/brief told.txt
  [ -e kept.txt ] && [ -e half.txt ] && echo hello >greeting.txt
  rm -rf junk
  git add --all && git commit -q -m "Say hello" && git push -q
  exit
fi
trap '' TERM
echo kept >kept.txt; git add kept.txt; git commit -q -m Keep
echo half >half.txt
(trap '' XFSZ; head -c 100M /dev/zero >/tmp/one; stat -c 'one: %s' /tmp/one; rm /tmp/one)
mkdir junk
i=0; while :; do i=$((i + 1)); head -c 20M /dev/zero >junk/$i; done
"#;

#[test]
fn a_run_that_fills_its_work_tree_is_ended_and_the_next_one_is_told() {
    let lab = Lab::new();
    lab.scripted(
        FILLS,
        &format!("{GREETED}limits: {{disk: 64MiB}}\ngates: {{issues: auto, merge: auto}}\n"),
    );
    lab.ok(&["issue", "new", "--title", "Greet people"]);
    lab.until_idle_ok();
    assert_merged(&lab, 3);
    let shown = lab.ok(&["run", "show", "r1-1"]);
    assert!(
        shown.contains("ended, out of disk") && shown.contains("ended beyond its limit of disk"),
        "{shown}"
    );
    // One write goes no further than the limit, whoever looks.
    let said = lab.ok(&["run", "logs", "r1-1"]);
    assert!(said.contains("one: 67108864"), "{said}");
    let told = lab.git(&["show", "main:told.txt"]);
    let why = "(r1-1) broke off: its work tree took more of the disk than the limit of 64MiB (limits.disk)";
    assert!(told.contains(why), "{told}");
    assert_eq!(lab.git(&["show", "main:kept.txt"]), "kept");
}

#[test]
fn checks_that_fill_their_work_tree_are_red() {
    let lab = Lab::new();
    let fills = "checks: [\"mkdir junk && for i in 1 2 3 4 5; do head -c 20M /dev/zero >junk/$i; done; sleep 600\"]\n";
    lab.scripted(
        crate::GREETER,
        &format!("{fills}rounds: 1\nlimits: {{disk: 64MiB}}\n"),
    );
    lab.approved("Greet people", "");
    let ended = lab.until_idle();
    assert_eq!(ended.code, 10, "{}", ended.text());
    let story = crate::comments(&lab);
    assert!(
        story.contains("The checks failed on") && story.contains("its limit (limits.disk)]"),
        "{story}"
    );
}
