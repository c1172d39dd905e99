//! Routing: how hard an issue is, by written rules, and what that means for its job.

use crate::{
    history::{History, Went},
    model::Issue,
};
use pulldown_cmark::{Event, Options, Parser};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt};

/// How hard an issue is; names a tier of `factory.yaml`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Complexity {
    /// A small change in a place that is known.
    Low,
    /// An ordinary issue.
    #[default]
    Medium,
    /// Large, or in many places, or in places where work failed before.
    High,
}

impl Complexity {
    /// All of them, the easiest first.
    pub const ALL: [Complexity; 3] = [Complexity::Low, Complexity::Medium, Complexity::High];

    /// What a label `complexity:high` names; none where it names nothing that is known.
    pub fn of_label(label: &str) -> Option<Self> {
        let word = label.strip_prefix(PREFIX)?;
        Self::ALL.into_iter().find(|tier| tier.as_str() == word)
    }

    /// The word used in files and for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Complexity::Low => "low",
            Complexity::Medium => "medium",
            Complexity::High => "high",
        }
    }

    /// One tier up; none above the highest.
    pub fn up(self) -> Option<Self> {
        match self {
            Complexity::Low => Some(Complexity::Medium),
            Complexity::Medium => Some(Complexity::High),
            Complexity::High => None,
        }
    }
}

impl fmt::Display for Complexity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a job's work is done, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// The tier.
    pub tier: Complexity,
    /// The sum of the points.
    pub score: u32,
    /// What gave how many points, a line each.
    pub reasons: Vec<String>,
}

/// Prefix of the label by which an author names the tier: `complexity:high`.
pub const PREFIX: &str = "complexity:";

/// From how many points on an issue is no small one any more.
pub const MEDIUM_FROM: u32 = 1;
/// From how many points on it is a hard one. No rule gives as many alone.
pub const HIGH_FROM: u32 = 5;

/// What labels give, by the word after their last `/` or `:`. Of several, the highest counts
/// and the lowest.
const LABELS: [(&str, i32); 10] = [
    ("security", 2),
    ("migration", 2),
    ("refactor", 2),
    ("breaking", 2),
    ("performance", 1),
    // Its cause has to be found first.
    ("bug", 1),
    ("docs", -2),
    ("documentation", -2),
    ("typo", -2),
    ("good-first-issue", -2),
];

/// Jobs that must have been merged at once before a place counts as one that is known.
const KNOWN_FROM: u32 = 3;

/// Routes an issue. An author's label decides; the points say what the rules would have.
pub fn route(issue: &Issue, history: &History) -> Route {
    let told = Told::of(issue);
    let rules = [
        size(&told),
        acceptance(&told),
        places(&told),
        most_of_labels(issue, |points| points > 0, i32::max),
        most_of_labels(issue, |points| points < 0, i32::min),
        rounds(history.of(told.paths.iter().map(String::as_str))),
        failures(history.of(told.paths.iter().map(String::as_str))),
    ];
    let mut sum = 0i32;
    let mut reasons = Vec::new();
    for (points, why) in rules.into_iter().flatten() {
        sum = sum.saturating_add(points);
        reasons.push(format!("{points:+}: {why}"));
    }
    let score = u32::try_from(sum).unwrap_or(0);
    let named = issue.labels.iter().filter_map(|l| Complexity::of_label(l));
    let tier = match named.max() {
        Some(tier) => {
            reasons.push(format!("the label {PREFIX}{tier} decides"));
            tier
        }
        None if score >= HIGH_FROM => Complexity::High,
        None if score >= MEDIUM_FROM => Complexity::Medium,
        None => Complexity::Low,
    };
    Route {
        tier,
        score,
        reasons,
    }
}

/// What an issue says of itself.
struct Told {
    /// Characters of its body.
    length: usize,
    /// Points that must be true when it is done.
    points: usize,
    /// It touches everything.
    is_everywhere: bool,
    /// Paths that it names, without `""`.
    paths: BTreeSet<String>,
}

/// How many points an issue says must be true when it is done: open boxes of its text, where it
/// names none.
pub fn points(issue: &Issue) -> usize {
    Told::of(issue).points
}

impl Told {
    fn of(issue: &Issue) -> Self {
        let mut open_points = 0;
        let mut paths: BTreeSet<String> = issue.touches.iter().cloned().collect();
        for event in Parser::new_ext(&issue.body, Options::ENABLE_TASKLISTS) {
            match event {
                Event::TaskListMarker(false) => open_points += 1,
                Event::Code(text) => paths.extend(written_path(&text)),
                _ => {}
            }
        }
        Self {
            length: issue.body.chars().count(),
            points: match issue.acceptance.len() {
                0 => open_points,
                points => points,
            },
            is_everywhere: paths.remove(""),
            paths,
        }
    }
}

/// The path that a code span names; none where it is something else. A name without a folder
/// may be anything.
fn written_path(text: &str) -> Option<String> {
    let text = text.strip_prefix("./").unwrap_or(text);
    let is_plain = |c: char| c.is_alphanumeric() || "-_./+@".contains(c);
    let text = text.strip_suffix('/').unwrap_or(text);
    let mut parts = text.split('/');
    let is_path = text.contains('/')
        && text.chars().all(is_plain)
        && parts.all(|part| !part.trim_matches('.').is_empty());
    is_path.then(|| text.to_owned())
}

/// What a rule gives, and why; none where it gives nothing.
type Points = Option<(i32, String)>;

fn size(told: &Told) -> Points {
    let points = match told.length {
        0..1500 => return None,
        1500..4000 => 1,
        _ => 2,
    };
    Some((points, format!("its text has {} characters", told.length)))
}

fn acceptance(told: &Told) -> Points {
    let points = match told.points {
        0..4 => return None,
        4..8 => 1,
        _ => 2,
    };
    Some((points, format!("has {} acceptance points", told.points)))
}

fn places(told: &Told) -> Points {
    if told.is_everywhere {
        return Some((2, "touches the whole repository".to_owned()));
    }
    let points = match told.paths.len() {
        0 => return Some((1, "names no path".to_owned())),
        1..3 => return None,
        3..5 => 1,
        _ => 2,
    };
    Some((points, format!("names {} paths", told.paths.len())))
}

/// What the label gives that is furthest from nothing.
fn most_of_labels(issue: &Issue, of: fn(i32) -> bool, more: fn(i32, i32) -> i32) -> Points {
    let given = issue.labels.iter().filter_map(|label| {
        let word = label.rsplit(['/', ':']).next()?;
        let (word, points) = LABELS.iter().find(|(l, _)| word.eq_ignore_ascii_case(l))?;
        of(*points).then_some((*points, *word))
    });
    let (points, word) = given.reduce(|a, b| match more(a.0, b.0) == a.0 {
        true => a,
        false => b,
    })?;
    Some((points, format!("label {word}")))
}

fn rounds(went: Went) -> Points {
    let Went {
        merged,
        rounds,
        failed,
    } = went;
    let points = match rounds.checked_div(merged)? {
        0 | 1 if merged >= KNOWN_FROM && rounds == merged && failed == 0 => -1,
        0 | 1 => return None,
        2 => 1,
        _ => 2,
    };
    let why = format!("{merged} jobs there were merged, after {rounds} code runs");
    Some((points, why))
}

fn failures(went: Went) -> Points {
    let points = match went.failed {
        0 => return None,
        failed if failed < went.merged => 1,
        _ => 2,
    };
    let (failed, merged) = (went.failed, went.merged);
    let why = format!("{failed} jobs there failed, {merged} were merged");
    Some((points, why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ids::IssueNo, model::IssueState};
    use proptest::prelude::*;

    fn issue(body: &str, labels: &[&str], touches: &[&str]) -> Issue {
        let owned = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        Issue {
            number: IssueNo(1),
            title: "T".to_owned(),
            state: IssueState::Proposed,
            labels: owned(labels),
            author: "Ann".to_owned(),
            run: None,
            created: 0,
            comments: 0,
            runs: 0,
            depends_on: Vec::new(),
            touches: owned(touches),
            parent: None,
            instruction: None,
            merged: None,
            acceptance: Vec::new(),
            body: body.to_owned(),
        }
    }

    #[track_caller]
    fn gives(issue: &Issue, history: &History, score: u32, tier: Complexity, reasons: &[&str]) {
        let routed = route(issue, history);
        let reasons = reasons.iter().map(|r| (*r).to_owned()).collect();
        assert_eq!(
            routed,
            Route {
                tier,
                score,
                reasons
            }
        );
    }

    #[track_caller]
    fn gives_of(body: &str, labels: &[&str], touches: &[&str], score: u32, reasons: &[&str]) {
        let issue = issue(body, labels, touches);
        let tier = match score {
            0 => Complexity::Low,
            1..5 => Complexity::Medium,
            _ => Complexity::High,
        };
        gives(&issue, &History::default(), score, tier, reasons);
    }

    #[test]
    fn an_ordinary_issue_is_never_hard() {
        gives_of("", &[], &[], 1, &["+1: names no path"]);
        gives_of("Fix it in `src/a.rs`.", &[], &[], 0, &[]);
        let bug = ["+1: names no path", "+1: label bug"];
        gives_of("It breaks.", &["bug"], &[], 2, &bug);
    }

    #[test]
    fn a_long_text_counts() {
        let text = |n: usize| "\u{e9}".repeat(n);
        gives_of(&text(1499), &[], &["a"], 0, &[]);
        let why = "+1: its text has 1500 characters";
        gives_of(&text(1500), &[], &["a"], 1, &[why]);
        let why = "+2: its text has 4000 characters";
        gives_of(&text(4000), &[], &["a"], 2, &[why]);
    }

    #[test]
    fn acceptance_points_count_and_open_boxes_where_there_are_none() {
        let boxes = |n: usize| "- [ ] a\n".repeat(n) + "- [x] done\n";
        gives_of(&boxes(3), &[], &["a"], 0, &[]);
        let why = "+1: has 4 acceptance points";
        gives_of(&boxes(4), &[], &["a"], 1, &[why]);
        let why = "+2: has 8 acceptance points";
        gives_of(&boxes(8), &[], &["a"], 2, &[why]);
        let mut with_points = issue(&boxes(8), &[], &["a"]);
        with_points.acceptance = vec!["p".to_owned(); 3];
        let none = History::default();
        gives(&with_points, &none, 0, Complexity::Low, &[]);
        with_points.acceptance = vec!["p".to_owned(); 5];
        let why = ["+1: has 5 acceptance points"];
        gives(&with_points, &none, 1, Complexity::Medium, &why);
    }

    #[test]
    fn paths_count_once_each_wherever_they_are_named() {
        let two = "`src/a.rs` and `./src/b/`, not `/api/x`, `a b/c`, `../x`, `x.py`, `f(a/b)`.\n\n```\nc/d\n```\n";
        gives_of(two, &[], &["src/a.rs"], 0, &[]);
        gives_of(two, &[], &["docs"], 1, &["+1: names 3 paths"]);
        let five = ["a", "b", "c", "d", "e"];
        gives_of("", &[], &five, 2, &["+2: names 5 paths"]);
        let everywhere = ["+2: touches the whole repository"];
        gives_of("", &[], &["", "a", "b", "c", "d", "e"], 2, &everywhere);
    }

    #[test]
    fn of_labels_the_highest_and_the_lowest_count() {
        gives_of("", &["area/x"], &["a"], 0, &[]);
        gives_of("", &["kind/Bug"], &["a"], 1, &["+1: label bug"]);
        let many = ["bug", "security", "type:refactor"];
        gives_of("", &many, &["a"], 2, &["+2: label security"]);
        let both = ["+2: label security", "-2: label docs"];
        gives_of("", &["bug", "docs", "security", "typo"], &["a"], 0, &both);
        let below = ["+1: names no path", "-2: label docs"];
        gives_of("", &["docs"], &[], 0, &below);
        for (label, points) in LABELS {
            let score = u32::try_from(points).unwrap_or(0);
            gives_of(
                "",
                &[label],
                &["a"],
                score,
                &[&format!("{points:+}: label {label}")],
            );
        }
    }

    #[test]
    fn what_came_of_work_there_counts() {
        let at = |merged, rounds, failed| {
            let mut history = History::default();
            let went = Went {
                merged,
                rounds,
                failed,
            };
            history.add(&["src".to_owned()], went);
            history
        };
        let low = Complexity::Low;
        let medium = Complexity::Medium;
        let there = issue("See `src/a.rs`.", &[], &[]);
        gives(&there, &at(2, 2, 0), 0, low, &[]);
        let why = ["-1: 3 jobs there were merged, after 3 code runs"];
        gives(&there, &at(3, 3, 0), 0, low, &why);
        let why = ["+1: 2 jobs there were merged, after 4 code runs"];
        gives(&there, &at(2, 4, 0), 1, medium, &why);
        let why = ["+2: 1 jobs there were merged, after 3 code runs"];
        gives(&there, &at(1, 3, 0), 2, medium, &why);
        let why = ["+1: 1 jobs there failed, 2 were merged"];
        gives(&there, &at(2, 2, 1), 1, medium, &why);
        let why = ["+2: 2 jobs there failed, 2 were merged"];
        gives(&there, &at(2, 2, 2), 2, medium, &why);
        let why = ["+2: 1 jobs there failed, 0 were merged"];
        gives(&there, &at(0, 0, 1), 2, medium, &why);
        // Not there.
        gives(&issue("", &[], &["docs"]), &at(0, 0, 9), 0, low, &[]);
    }

    #[test]
    fn an_authors_label_decides_and_the_points_are_told() {
        let hard = "- [ ] a\n".repeat(600);
        let reasons = [
            "+2: its text has 4800 characters",
            "+2: has 600 acceptance points",
            "+1: names no path",
        ];
        gives_of(&hard, &[], &[], 5, &reasons);
        let none = History::default();
        let mut reasons = reasons.to_vec();
        reasons.push("the label complexity:low decides");
        let named = issue(&hard, &["complexity:low"], &[]);
        gives(&named, &none, 5, Complexity::Low, &reasons);
        // One that is not known was put on by an older program.
        let unknown = issue("", &["complexity:huge"], &["a"]);
        gives(&unknown, &none, 0, Complexity::Low, &[]);
    }

    proptest! {
        #[test]
        fn whatever_is_written_is_scored_alike_and_within_bounds(
            body in "(?s)(.{0,40}|- \\[ \\] a\n|`[a-z./]{0,9}`|\n|```\n|x{300}){0,40}",
            labels in prop::collection::vec("complexity:(low|high|x)|(kind[/:])?(bug|docs|security|typo)|.{0,9}", 0..5),
            touches in prop::collection::vec("[a-c/]{0,4}", 0..9),
            points in 0usize..30,
            went in prop::collection::vec(("[a-c/]{0,4}", any::<u32>(), any::<u32>(), any::<u32>()), 0..9),
        ) {
            let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
            let touches: Vec<&str> = touches.iter().map(String::as_str).collect();
            let mut issue = issue(&body, &labels, &touches);
            issue.acceptance = vec!["p".to_owned(); points];
            let mut history = History::default();
            for (place, merged, rounds, failed) in went {
                history.add(&[place], Went { merged, rounds, failed });
            }
            let routed = route(&issue, &history);
            prop_assert_eq!(&route(&issue, &history), &routed);
            prop_assert!(routed.score <= 12, "{:?}", routed);
            prop_assert!(routed.reasons.len() <= 8, "{:?}", routed);
            let told: i64 = routed.reasons.iter().filter_map(|r| r.split_once(':')?.0.parse::<i64>().ok()).sum();
            prop_assert_eq!(i64::from(routed.score), told.max(0));
        }
    }
}
