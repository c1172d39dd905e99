//! Several pull requests at once.

use super::{APPROVES, AUTO, assert_always_green, cast, purposes};
use crate::subjects;
use factory_core::model::PrState;

/// Two issues that are right alone: one renames what the other begins to use.
const RENAMES_OR_USES: &str = r#"set -eu
cat >/tmp/brief
if grep -q '^# Issue 1' /tmp/brief; then
  sed -i 's/greet/salute/' lib.sh main.sh
else
  name=$(sed -n 's/^\([a-z]*\)().*/\1/p' lib.sh)
  printf '. ./lib.sh\n%s\n' "$name" >extra.sh
fi
git add -A; git commit -qm "Work"; git push -q
"#;

const ALL_RUN: &str = "for f in main.sh extra.sh; do [ ! -e $f ] || sh $f || exit 1; done";

fn library(reviewer: &str, rest: &str) -> factory_tests::Lab {
    let checks = format!("checks: [\"{ALL_RUN}\"]\n{rest}");
    let lab = cast(RENAMES_OR_USES, &[("review", reviewer)], &checks);
    lab.write("lib.sh", "greet() { echo hello; }\n");
    lab.write("main.sh", ". ./lib.sh\ngreet\n");
    lab.commit("Greet");
    lab
}

#[test]
fn what_is_green_alone_and_red_together_is_caught_by_the_queue() {
    // One after the other: so the first issue has the first pull request.
    let lab = library(APPROVES, "slots: 1\n");
    lab.approved("Rename it", "");
    lab.approved("Use it", "");
    lab.until_idle_ok();
    let state = lab.state();
    assert!(
        state.prs.values().all(|pr| pr.state == PrState::Ready),
        "{state:?}"
    );
    lab.ok(&["pr", "merge", "1"]);
    let refused = lab.say(&["pr", "merge", "2"]);
    assert_eq!(refused.code, 5, "{refused:?}");
    assert_always_green(&lab, ALL_RUN);
    lab.until_idle_ok();
    lab.ok(&["pr", "merge", "2"]);
    lab.assert_at_rest();
    assert_always_green(&lab, ALL_RUN);
    assert!(lab.read("extra.sh").contains("salute"));
    let merged = "Merge pull request 2 from factory/2-use-it\nMerge pull request 1 from factory/1-rename-it\nGreet\nBegin";
    assert_eq!(subjects(&lab), merged);
}

/// The same in the other order, all by itself, with a reviewer that approves everything and
/// a single round: nothing red gets through, and what cannot be mended is a person's.
#[test]
fn in_another_order_with_one_round_the_target_is_never_red_and_nothing_goes_unreviewed() {
    let lab = library(APPROVES, &format!("{AUTO}slots: 2\nrounds: 1\n"));
    let titles = ["Rename it", "Use it"];
    for title in titles {
        lab.ok(&["issue", "new", "--title", title]);
    }
    let ended = lab.until_idle();
    assert!([0, 10].contains(&ended.code), "{}", ended.text());
    lab.assert_at_rest();
    assert_always_green(&lab, ALL_RUN);
    let merged = subjects(&lab)
        .lines()
        .filter(|l| l.starts_with("Merge"))
        .count();
    assert!(merged >= 1, "{}", subjects(&lab));
    for issue in [1, 2] {
        assert!(
            purposes(&lab, issue).contains(&"review".to_owned()),
            "issue {issue}"
        );
    }
}

#[test]
fn pull_requests_that_conflict_say_so_before_they_are_merged() {
    let coder = r#"set -eu
cat >/tmp/brief
head=$(git rev-parse -q --verify MERGE_HEAD || true)
if grep -q '^# Issue 1' /tmp/brief; then word=one; else word=two; fi
if [ -n "$head" ]; then printf 'one\ntwo\n' >words.txt; else echo $word >words.txt; fi
git add -A; git commit -qm "Word"; git push -q
"#;
    let lab = cast(
        coder,
        &[("review", APPROVES)],
        "checks: [\"test -s words.txt\"]\nslots: 1\n",
    );
    lab.approved("One", "");
    lab.approved("Two", "");
    lab.until_idle_ok();
    let shown = [lab.ok(&["pr", "show", "1"]), lab.ok(&["pr", "show", "2"])].concat();
    assert!(shown.contains("words.txt"), "one of them names it: {shown}");
    lab.ok(&["pr", "merge", "1"]);
    assert_eq!(lab.say(&["pr", "merge", "2"]).code, 5);
    lab.until_idle_ok();
    lab.ok(&["pr", "merge", "2"]);
    lab.assert_at_rest();
    assert_eq!(lab.read("words.txt"), "one\ntwo\n");
}
