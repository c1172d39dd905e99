//! The examples of `docs/`, carried out as they are written there.

use factory_core::model::PrState;
use factory_tests::Lab;

const OWN_ENGINE: &str = include_str!("../../../docs/own-engine.md");

/// The first fenced block of a page in a language.
fn block<'a>(page: &'a str, language: &str) -> &'a str {
    let (_, rest) = page.split_once(&format!("\n```{language}\n")).unwrap();
    rest.split_once("```\n").unwrap().0
}

/// The command of a page that begins like this, as arguments.
fn command(page: &str, begin: &str) -> Vec<String> {
    let line = page.lines().find(|line| line.starts_with(begin)).unwrap();
    let mut arguments = Vec::new();
    // Every second piece was between quotes.
    for (k, piece) in line.split('"').enumerate() {
        match k % 2 {
            0 => arguments.extend(piece.split_whitespace().map(str::to_owned)),
            _ => arguments.push(piece.to_owned()),
        }
    }
    arguments.split_off(1)
}

#[test]
fn the_engine_of_the_page_on_own_engines_works() {
    let lab = Lab::new();
    lab.write("factory.yaml", block(OWN_ENGINE, "yaml"));
    lab.write("rename.sh", block(OWN_ENGINE, "sh"));
    lab.write(
        "sum.sh",
        "total=$(( $1 + $2 ))\necho \"$total in total, totally\"\n",
    );
    lab.write(
        "test.sh",
        "test \"$(sh sum.sh 3 4)\" = \"7 in sum, totally\"\n",
    );
    lab.commit("Begin");
    let ok = |begin: &str| {
        let arguments = command(OWN_ENGINE, begin);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        lab.ok(&arguments)
    };
    lab.ok(&["image", "build"]);
    ok("factory issue new ");
    ok("factory issue approve ");
    ok("factory start ");
    lab.assert_at_rest();
    let state = lab.state();
    let pr = state.prs.values().next().unwrap();
    assert_eq!(pr.state, PrState::Ready);
    assert!(
        pr.body.contains("`total` is called `sum` everywhere now."),
        "{}",
        pr.body
    );
    ok("factory pr merge ");
    assert_eq!(
        lab.read("sum.sh"),
        "sum=$(( $1 + $2 ))\necho \"$sum in sum, totally\"\n"
    );
    assert_eq!(
        lab.git(&["log", "-1", "--format=%an: %s", "HEAD^2"]),
        "factory worker: Rename total to sum"
    );
    let logs = lab.ok(&["run", "logs", "r1-1"]);
    assert!(logs.contains("renaming total to sum"), "{logs}");

    // What it cannot do is a person's at once, with its own words.
    lab.approved("Make it nicer", "All of it.");
    let ended = lab.until_idle();
    assert_eq!(ended.code, 10, "{}", ended.text());
    let shown = lab.ok(&["issue", "show", "2"]);
    for said in [
        "needs-human",
        "exit code 1",
        "the issue has no line `rename: OLD NEW`",
    ] {
        assert!(shown.contains(said), "no `{said}` in {shown}");
    }
}
