//! What agents file: never more in a day than may be, nothing twice, nothing lost, and
//! nothing that a person has not approved is worked on.

use crate::{
    given::{Dice, config, file},
    queue::{order, waits},
    world::World,
};
use factory_core::{
    budget::DAY,
    config::Config,
    event::{Command, Event, Now},
    exit::ExitClass,
    ids::{IssueNo, RunId},
    model::{Comment, IssueState, Run, RunState},
    plan::Action,
    report::{self, CodeReport, Draft},
    state::{self, Delta, Put, State},
};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// What agents filed so far, as the steps tell it.
#[derive(Default)]
pub struct Filed {
    /// How many issues and comments there were on each day.
    days: BTreeMap<i64, (u32, u32)>,
    titles: BTreeSet<String>,
    /// The latest time so far.
    latest: i64,
    /// The clock was put back at some time: a day may have come twice.
    is_astray: bool,
}

impl Filed {
    /// Holds a step against the laws; `state` is the one before it.
    pub fn take(&mut self, state: &State, delta: &Delta, now: Now) {
        self.is_astray |= now.0 < self.latest;
        self.latest = self.latest.max(now.0);
        let (issues, comments) = self.days.entry(now.0.div_euclid(DAY)).or_default();
        for (number, put) in &delta.issues {
            let (Put::Live(issue), false) = (put, state.issues.contains_key(number)) else {
                continue;
            };
            let Some(run) = issue.run else { continue };
            let is_open = |open: &&_| {
                Some(**open) != issue.parent && is_same(&issue.title, &state.issues[*open].title)
            };
            assert_eq!(state.issues.keys().find(is_open), None, "{}", issue.title);
            // What an instruction becomes is what a person asked for.
            if let Some(parent) = issue.parent {
                assert_eq!(parent, run.job);
                continue;
            }
            *issues += 1;
            assert_eq!(issue.author, run.to_string());
            assert_eq!(issue.state, IssueState::Proposed, "nobody approved it");
            assert!(issue.labels.is_empty() && issue.depends_on.is_empty());
            assert!(issue.touches.is_empty());
            if issue.title.starts_with('r') {
                let is_new = self.titles.insert(issue.title.clone());
                assert!(is_new, "{} was filed twice", issue.title);
            }
        }
        for (key, put) in &delta.comments {
            let is_new = !state.comments.contains_key(key);
            let by_agent = |comment: &Comment| comment.run.is_some() && comment.author != "factory";
            if matches!(put, Put::Live(comment) if is_new && by_agent(comment)) {
                *comments += 1;
            }
        }
        let per_day = &state.config.config.types.worker.per_day;
        let fits = *issues <= per_day.issues && *comments <= per_day.comments;
        assert!(fits || self.is_astray, "{issues} {comments}: {per_day:?}");
    }
}

fn is_same(one: &str, other: &str) -> bool {
    one.trim().to_lowercase() == other.trim().to_lowercase()
}

fn reported(titles: &[String], comments: &[&str]) -> String {
    let report = CodeReport {
        summary: "Done.".into(),
        notes: None,
        issues: titles
            .iter()
            .map(|title| Draft {
                title: title.clone(),
                body: format!("Depends-on: #1\nTouches: .\n---\n{title}"),
            })
            .collect(),
        comments: comments.iter().map(|&text| text.to_owned()).collect(),
    };
    let text = serde_json::to_vec(&report).unwrap();
    report::validate(factory_core::grant::Role::Code, &text).unwrap()
}

/// Now and then two reports, of which the last one counts; some titles that others have, too.
pub fn random(run: RunId, dice: &mut Dice) -> Vec<String> {
    let mut reports = Vec::new();
    if dice.roll(4) == 0 {
        let draft = format!("r changed its mind in {run}");
        reports.push(reported(&[draft], &["not this one"]));
    }
    let mut titles: Vec<String> = (0..dice.roll(4))
        .map(|n| format!("{run} sees {n}"))
        .collect();
    if dice.roll(2) == 0 {
        let n = dice.roll(3);
        titles.push(match dice.roll(2) {
            0 => format!("All see {n}"),
            _ => format!(" all SEE {n} "),
        });
    }
    let comments = ["One: # word", "Two\nlines\n"];
    reports.push(reported(&titles, &comments[..dice.roll(3) as usize]));
    reports
}

/// A world whose first agent, and no other, reports three issues and two comments.
fn world(issues: u32, comments: u32) -> World {
    let mut config = config(true);
    config.types.worker.per_day.issues = issues;
    config.types.worker.per_day.comments = comments;
    let mut world = World::new(7, false, config);
    world.now = DAY + 5;
    world.reports = |run, _| match run.job {
        IssueNo(1) => {
            let titles = ["Login is slow", "Crash on empty input", "Typo in the help"];
            let titles = titles.map(str::to_owned);
            vec![reported(&titles, &["I chose the old format.", "See a.rs."])]
        }
        _ => Vec::new(),
    };
    file(&mut world, "One");
    world
}

/// Does what is planned, and waits for no other day.
fn today(world: &mut World) {
    while let Some(action) = world.plan().into_iter().next() {
        world.perform(action);
    }
}

fn titles(world: &World) -> Vec<String> {
    let issues = world.state.issues.values();
    issues.map(|issue| issue.title.clone()).collect()
}

/// Comments of an archived issue, each with who wrote it.
fn comments(world: &World, issue: u64) -> Vec<(String, String)> {
    let prefix = format!("archive/issues/0/{issue}.d/");
    let files = world.files.range(prefix.clone()..);
    let files = files.take_while(|(path, _)| path.starts_with(&prefix));
    files
        .map(|(path, bytes)| {
            let comment = state::parse_comment(path, bytes).unwrap();
            (comment.author, comment.text)
        })
        .collect()
}

#[test]
fn what_an_agent_files_waits_for_a_person_also_at_an_open_gate() {
    let mut world = world(20, 50);
    world.until_idle();
    assert_eq!(world.merged, [1]);
    let found = ["Login is slow", "Crash on empty input", "Typo in the help"];
    assert_eq!(titles(&world), found);
    for issue in world.state.issues.values() {
        assert_eq!(issue.author, "r1-1");
        assert!(issue.body.ends_with(&issue.title), "{}", issue.body);
    }
    let observed = world.observed();
    let told = waits(&world, &observed);
    assert!(told.values().all(|told| told == "waits for your approval"));
    let said = comments(&world, 1);
    assert_eq!(
        said[0],
        ("r1-1".into(), "I chose the old format.".to_owned())
    );
    assert_eq!(said[1].0, "r1-1");
    assert_eq!(said.len(), 3, "and one of the merge: {said:?}");
    let job = String::from_utf8(world.files["archive/jobs/0/1.yaml"].clone()).unwrap();
    assert!(job.contains("r1-1: filed #2, #3, #4"), "{job}");
    order(&mut world, Command::Approve(IssueNo(3))).unwrap();
    world.until_idle();
    assert_eq!(world.merged, [1, 2]);
    assert_eq!(titles(&world), ["Login is slow", "Typo in the help"]);
    world.assert_replay();
}

#[test]
fn what_an_agent_writes_tells_nobody_and_points_at_nothing() {
    let mut world = world(20, 50);
    world.reports = |run, _| match run.job {
        IssueNo(1) => {
            let titles = ["Ask @bob", "ask `@bob`"].map(str::to_owned);
            let report = reported(&titles, &["See o/r#7, @org/team. `@kept`"]);
            vec![report.replace("Done.", "As @ann said.")]
        }
        _ => Vec::new(),
    };
    world.until_idle();
    // Compared as it is filed, so it is not filed a second time.
    assert_eq!(titles(&world), ["Ask `@bob`"]);
    let body = &world.state.issues[&IssueNo(2)].body;
    assert_eq!(body, "Depends-on: `#1`\nTouches: .\n---\nAsk `@bob`");
    let said = comments(&world, 1);
    assert_eq!(said[0].1, "See ``o/r#7``, ``@org/team``. `@kept`");
    let told = "“ask `@bob`” is open already, as #2.";
    assert!(said.iter().any(|(_, text)| text.contains(told)), "{said:?}");
    let pr = String::from_utf8(world.files["archive/prs/0/1.md"].clone()).unwrap();
    assert!(pr.contains("As `@ann` said."), "{pr}");
    // What it handed in is kept as it was.
    let run = &archived_runs(&world)[&RunId {
        job: IssueNo(1),
        k: 1,
    }];
    assert!(run.report.as_ref().unwrap().contains("As @ann said."));
}

#[test]
fn beyond_the_day_it_waits_and_is_told_and_filed_on_the_next() {
    let mut world = world(1, 1);
    today(&mut world);
    assert_eq!(titles(&world), ["Login is slow"]);
    let run = RunId {
        job: IssueNo(1),
        k: 1,
    };
    assert_eq!(world.state.drafts[&run].issues.len(), 2);
    let said = comments(&world, 1);
    assert_eq!(said[0].1, "I chose the old format.");
    let (by, text) = &said[1];
    assert_eq!(by, "factory");
    for line in [
        "- “Crash on empty input” waits for another day: agents file 1 a day (`types.worker.per_day.issues`).\n",
        "- “Typo in the help” waits for another day",
        "- 1 of its 2 comments are not here: agents write 1 a day (`types.worker.per_day.comments`).\n",
        "`factory run show r1-1` has the whole of it.",
    ] {
        assert!(text.contains(line), "{text}");
    }
    assert!(world.state.is_idle(), "only a number waits");
    assert_eq!(world.state.wakes_at(Now(world.now)), Some(2 * DAY));
    // Nothing is filed while all are stopped, and by a factory that ends.
    world.now = 2 * DAY + 1;
    world.stopping = true;
    assert!(!world.plan().contains(&Action::Journal(Event::DraftsDue)));
    world.stopping = false;
    order(&mut world, Command::Freeze).unwrap();
    assert!(world.plan().is_empty());
    order(&mut world, Command::Thaw).unwrap();
    world.kernel_starts();
    today(&mut world);
    assert_eq!(titles(&world), ["Login is slow", "Crash on empty input"]);
    assert_eq!(world.state.issues[&IssueNo(3)].run, Some(run));
    // A clock that is put back files nothing, and none is filed again.
    world.now -= DAY / 2;
    assert!(world.plan().is_empty());
    assert!(!world.journal(Event::DraftsDue));
    world.until_idle();
    assert_eq!(titles(&world).len(), 3);
    assert!(world.now > 3 * DAY && world.state.drafts.is_empty());
    world.assert_replay();
}

#[test]
fn what_is_open_already_is_not_filed_again() {
    let mut world = world(2, 50);
    world.reports = |run, _| match run.job {
        IssueNo(1) => {
            let titles = ["  LOGIN is   slow", "Äh", "äH", "Typo", "More", "more"];
            vec![reported(&titles.map(str::to_owned), &[])]
        }
        _ => Vec::new(),
    };
    let mut gates = world.state.config.config.clone();
    gates.gates = config(false).gates;
    assert!(world.journal(Event::ConfigLoaded {
        commit: None,
        config: Box::new(gates),
    }));
    file(&mut world, "Login is slow");
    order(&mut world, Command::Approve(IssueNo(1))).unwrap();
    today(&mut world);
    assert_eq!(titles(&world), ["One", "Login is slow", "Äh", "Typo"]);
    let told = world.state.comments_of(IssueNo(1)).next().unwrap();
    for line in [
        "- “LOGIN is slow” is open already, as #2.",
        "- “äH” is open already, as #3.",
        "- “More” waits for another day",
        "- “more” waits to be filed already.",
    ] {
        assert!(told.text.contains(line), "{}", told.text);
    }
    // Somebody else was faster.
    file(&mut world, "MORE");
    world.until_idle();
    assert_eq!(titles(&world).last().unwrap(), "MORE");
    assert!(world.state.drafts.is_empty());
    world.assert_replay();
}

#[test]
fn none_may_be_filed_and_too_many_do_not_wait() {
    let mut world = self::world(0, 0);
    world.until_idle();
    assert!(titles(&world).is_empty() && world.state.drafts.is_empty());
    let (by, text) = comments(&world, 1)[0].clone();
    assert_eq!(by, "factory");
    let none = "“Typo in the help” is not filed: `types.worker.per_day.issues` is 0.";
    assert!(text.contains(none), "{text}");
    assert!(text.contains("2 of its 2 comments are not here"), "{text}");

    let mut world = self::world(1, 50);
    world.reports = |run, _| {
        let titles: Vec<String> = (0..10).map(|n| format!("{run} sees {n}")).collect();
        vec![reported(&titles, &[])]
    };
    for n in 0..12 {
        file(&mut world, &format!("Another {n}"));
    }
    today(&mut world);
    let waiting = world
        .state
        .drafts
        .values()
        .map(|drafts| drafts.issues.len());
    assert_eq!(waiting.sum::<usize>(), 100);
    let told = (1..=13).flat_map(|issue| comments(&world, issue));
    let told: String = told.map(|(_, text)| text).collect();
    let lost = told.matches("is not filed: 100 others wait for a day with room.");
    assert_eq!(lost.count(), 13 * 10 - 100 - 1);
    world.assert_replay();
}

#[test]
fn only_the_last_report_counts_and_only_that_of_a_run_that_came_to_its_end() {
    let mut world = world(20, 50);
    world.reports = |_, _| {
        let of = |title: &str| reported(&[title.to_owned()], &[title]);
        vec![of("First thought"), of("Second thought")]
    };
    // It is killed after its report, and done again.
    let is_await = |a: &Action| matches!(a, Action::Await(_));
    while !world.plan().iter().any(is_await) {
        let action = world.plan().remove(0);
        world.perform(action);
    }
    let run = *world.state.runs.keys().next().unwrap();
    world.push_inbox(
        run,
        factory_core::inbox::InboxEntry::Report {
            json: reported(&["Broken off".to_owned()], &["Broken off"]),
        },
    );
    world.drain(run);
    world.containers.remove(&run);
    world.until_idle();
    assert_eq!(titles(&world), ["Second thought"]);
    assert_eq!(world.state.issues[&IssueNo(2)].author, "r1-2");
    let said = comments(&world, 1);
    assert_eq!(said[0], ("r1-2".into(), "Second thought".to_owned()));
    assert_eq!(said.len(), 2, "{said:?}");
}

/// What is archived of the runs.
fn archived_runs(world: &World) -> BTreeMap<RunId, Run> {
    let files = world.files.range("archive/runs/".to_owned()..);
    let files = files.take_while(|(path, _)| path.starts_with("archive/runs/"));
    files
        .map(|(path, bytes)| {
            let run: Run = state::parse(path, bytes).unwrap();
            (run.id, run)
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, ..ProptestConfig::default() })]
    /// Whatever happens to runs and kernels: what a run asked for that came to its end is
    /// filed once, or said not to be; and what another one asked for is not there.
    #[test]
    fn nothing_that_agents_report_is_lost(seed in any::<u64>(), issues in 1usize..5, most in 0u32..4) {
        let mut config: Config = config(true);
        config.types.worker.per_day.issues = most;
        config.types.worker.per_day.comments = most;
        let mut world = World::new(seed, true, config);
        world.reports = random;
        for n in 0..issues {
            file(&mut world, &format!("Issue number {n}"));
        }
        world.until_idle();
        world.assert_told();
        world.assert_replay();
        prop_assert!(world.state.drafts.is_empty());
        let filed: BTreeMap<String, Option<RunId>> = {
            let issues = world.state.issues.values();
            issues.map(|issue| (issue.title.to_lowercase(), issue.run)).collect()
        };
        let mut said: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for issue in 1..=issues as u64 {
            let open = world.state.comments_of(IssueNo(issue));
            let open = open.map(|comment| (comment.author.clone(), comment.text.clone()));
            for (by, text) in comments(&world, issue).into_iter().chain(open) {
                said.entry(by).or_default().push(text);
            }
        }
        let by_factory = said.remove("factory").unwrap_or_default();
        for (id, run) in archived_runs(&world) {
            let RunState::Ended { class, .. } = run.state else { panic!("{run:?}") };
            let report = run.report.as_deref().and_then(report::parse);
            let Some(report) = report else { continue };
            let told = |what: &str| {
                by_factory.iter().any(|text| text.contains(&format!("that {id} reported")) && text.contains(what))
            };
            let written = said.get(&id.to_string()).map_or(0, Vec::len);
            if class != ExitClass::Ok {
                prop_assert!(!filed.values().any(|run| *run == Some(id)), "{id} broke off");
                prop_assert_eq!(written, 0);
                continue;
            }
            for draft in &report.issues {
                let title = draft.title.trim();
                let is_open = filed.contains_key(&title.to_lowercase());
                prop_assert!(is_open || told(&format!("“{title}” is not filed")), "{id}: {title} is lost");
            }
            let (all, left) = (report.comments.len(), report.comments.len() - written);
            prop_assert!(left == 0 || told(&format!("{left} of its {all} comments")), "{id}: {written} of {all}");
        }
    }
}
