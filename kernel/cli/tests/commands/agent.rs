//! `factory agent`, and what a repository's own agents stop.

use crate::lab::{CONFIG, Lab};

const JUDGE: &str = "---\nname: judge\ntype: worker\njob: judges\nrole: review\n---\nYou judge.\n";

fn put(lab: &Lab, file: &str, text: &str) {
    let file = lab.repo().join(".factory/agents").join(file);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(file, text).unwrap();
}

fn commit(lab: &Lab) {
    lab.git(&["add", "-A"]);
    lab.git(&["commit", "-q", "-m", "Agents"]);
}

#[test]
fn an_own_agent_works_once_it_is_committed() {
    let lab = Lab::new(CONFIG);
    let builtin = ["splitter", "planner", "worker", "reviewer", "built in"];
    lab.factory(&["agent", "list"]).says(&builtin);
    lab.factory(&["agent", "lint"]).ok();
    put(&lab, "judge.md", JUDGE);
    lab.factory(&["agent", "list"]).says(&builtin);
    lab.factory(&["agent", "show", "judge"])
        .fails(5, &["no agent `judge`", "factory agent list"]);
    assert_eq!(
        lab.factory(&["agent", "lint", "--json"]).json(),
        serde_json::json!([])
    );
    commit(&lab);
    let all = lab.factory(&["agent", "list", "--json"]).json();
    assert_eq!(all[3]["name"], "judge");
    assert_eq!(all[3]["role"], "review");
    assert_eq!(all[3]["file"], ".factory/agents/judge.md");
    assert_eq!(all[2]["name"], "worker");
    assert!(all[2]["file"].is_null());
    assert_eq!(lab.factory(&["agent", "show", "judge"]).ok(), JUDGE);
    let shown = lab.factory(&["agent", "show", "judge", "--json"]).json();
    assert_eq!(shown["text"], JUDGE);
    // What another takes the place of is a beginning for it.
    lab.factory(&["agent", "show", "reviewer"])
        .says(&["role: review", "You are a reviewer"]);
}

#[test]
fn lint_names_all_that_is_wrong_at_once() {
    let lab = Lab::new(CONFIG);
    put(&lab, "judge.md", JUDGE);
    put(&lab, "a/b.md", JUDGE);
    put(&lab, "notes.txt", "x");
    put(&lab, "other.md", &JUDGE.replace("judge\n", "other\n"));
    put(&lab, "third.md", &JUDGE.replace("job:", "model:\u{1b}[31m"));
    std::os::unix::fs::symlink("judge.md", lab.repo().join(".factory/agents/link.md")).unwrap();
    let wrong = lab.factory(&["agent", "lint"]);
    assert_eq!(wrong.code, 4, "{}{}", wrong.stdout, wrong.stderr);
    for says in [
        ".factory/agents/a/b.md: this is no agent",
        ".factory/agents/link.md: this is no file",
        ".factory/agents/notes.txt: this is no agent",
        ".factory/agents/other.md: its role is `review`, as is that of .factory/agents/judge.md",
        ".factory/agents/third.md:4: ",
    ] {
        assert!(wrong.stdout.contains(says), "{says}: {}", wrong.stdout);
    }
    let json = lab.factory(&["agent", "lint", "--json"]);
    assert_eq!(json.code, 4);
    let all: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(all.as_array().unwrap().len(), 5);
    assert_eq!(all[4]["line"], 4);
}

#[test]
fn a_wrong_agent_stops_what_would_begin() {
    let lab = Lab::new(CONFIG);
    lab.factory(&["issue", "new", "-t", "One"]).ok();
    put(&lab, "judge.md", &JUDGE.replace("review", "judge"));
    put(&lab, "other.md", "x");
    commit(&lab);
    let says = [
        ".factory/agents/judge.md:5 (commit ",
        "`judge` is no role of an agent",
        "known here: split, plan, code, review",
        "`factory agent lint` names all 2",
    ];
    lab.factory(&["agent", "list"]).fails(4, &says);
    lab.factory(&["start"]).fails(4, &says);
    let doctor = lab.factory(&["doctor"]);
    assert!(doctor.stdout.contains(says[1]), "{}", doctor.stdout);
}
