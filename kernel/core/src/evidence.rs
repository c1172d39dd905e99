//! Evidence: what speaks for and against merging a pull request without a person.

use crate::ids::Oid;
use crate::{
    config::Config,
    history::{History, Went},
    model::{Change, Checked, Evidence, Fact, Holds, Review},
    report::ReviewVerdict,
    route::{Complexity, Route},
};

/// Times that work on the same paths must have failed, in every third job or more, to speak
/// against a merge.
const FAILED_OFTEN: u32 = 2;

/// What is known of a commit that is proposed.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// The commit.
    pub head: &'a Oid,
    /// What it changes.
    pub change: Option<&'a Change>,
    /// What its checks said.
    pub checked: Option<&'a Checked>,
    /// What its review says.
    pub review: Option<&'a Review>,
    /// How its job was routed.
    pub route: Option<&'a Route>,
}

fn piece(fact: Fact, holds: Holds, why: String) -> Evidence {
    Evidence { fact, holds, why }
}

/// Judges what is known, one piece for each fact. What is looked at on the merge commit is open.
pub fn judge(config: &Config, known: &Known<'_>, history: &History) -> Vec<Evidence> {
    let mut all = vec![checks(config, known)];
    all.extend(base_tests(known));
    all.push(review(config, known));
    all.push(size(config, known.change));
    all.push(tier(known.route));
    all.push(of_history(known.change, history));
    let later = "looked at on the merge commit".to_owned();
    all.push(piece(Fact::Rules, Holds::Open, later.clone()));
    all.push(piece(Fact::Merged, Holds::Open, later));
    all
}

/// True where nothing speaks against it.
pub fn nothing_against(evidence: &[Evidence]) -> bool {
    evidence.iter().all(|piece| piece.holds != Holds::No)
}

/// What speaks against it, for a sentence.
pub fn against(evidence: &[Evidence]) -> String {
    let against = evidence.iter().filter(|piece| piece.holds == Holds::No);
    let against: Vec<String> = against
        .map(|piece| format!("{}: {}", piece.fact.as_str(), piece.why))
        .collect();
    against.join("; ")
}

/// Puts what became known of a fact in the place of what was known.
pub fn put(evidence: &mut Vec<Evidence>, new: Evidence) {
    match evidence.iter_mut().find(|piece| piece.fact == new.fact) {
        Some(old) => *old = new,
        None => evidence.push(new),
    }
}

fn checks(config: &Config, known: &Known<'_>) -> Evidence {
    let (holds, why) = match known.checked {
        _ if config.checks.is_empty() => (Holds::No, "factory.yaml names no checks".to_owned()),
        // What passes now and then may break the target for everybody.
        Some(checked) if checked.commit == *known.head && checked.flaky => {
            let why = format!(
                "passed on the head only when run again ({}): they are flaky",
                checked.run
            );
            (Holds::No, why)
        }
        Some(checked) if checked.commit == *known.head => {
            (Holds::Yes, format!("passed on the head ({})", checked.run))
        }
        Some(checked) => {
            let short = checked.commit.short();
            (Holds::No, format!("passed on {short}, not on the head"))
        }
        None => (Holds::No, "did not run on the head".to_owned()),
    };
    piece(Fact::Checks, holds, why)
}

fn base_tests(known: &Known<'_>) -> Option<Evidence> {
    known.change?.with_base_tests.as_ref()?;
    let base = known
        .checked
        .filter(|checked| checked.commit == *known.head)
        .and_then(|checked| checked.with_base_tests.as_ref());
    let (holds, why) = match base {
        Some(base) if base.failed.is_none() && base.flaky => (
            Holds::No,
            format!(
                "it changes tests or build files, and passes with those of the target only when run again ({}): they are flaky",
                base.run
            ),
        ),
        Some(base) if base.failed.is_none() => (
            Holds::Yes,
            format!(
                "it changes tests or build files, and passes with those of the target too ({})",
                base.run
            ),
        ),
        Some(base) => (
            Holds::No,
            format!(
                "it changes tests or build files, and fails with those of the target ({})",
                base.run
            ),
        ),
        None => (
            Holds::No,
            "it changes tests or build files, and was not checked with those of the target"
                .to_owned(),
        ),
    };
    Some(piece(Fact::BaseTests, holds, why))
}

fn review(config: &Config, known: &Known<'_>) -> Evidence {
    let wanted = config.auto_merge;
    let of_head = known.review.filter(|review| review.commit == *known.head);
    let (holds, why) = match (of_head, known.review) {
        (Some(review), _) => {
            let said = format!(
                "{} says {}, with confidence {}",
                review.run, review.verdict, review.confidence
            );
            let min = wanted.min_confidence;
            match review.verdict {
                ReviewVerdict::Approve if !review.own_word => (
                    Holds::No,
                    format!(
                        "{said}, by an engine that may run the code it reviews, which could speak for it"
                    ),
                ),
                ReviewVerdict::Approve if review.confidence >= min => (Holds::Yes, said),
                ReviewVerdict::Approve => (Holds::No, format!("{said}; at least {min} is needed")),
                ReviewVerdict::RequestChanges | ReviewVerdict::Reject => (Holds::No, said),
            }
        }
        _ if !wanted.review => (
            Holds::Yes,
            "not needed (`auto_merge: {review: false}`)".to_owned(),
        ),
        (None, Some(review)) => {
            let short = review.commit.short();
            (
                Holds::No,
                format!("{} looked at {short}, not at the head", review.run),
            )
        }
        (None, None) => (Holds::No, "nobody reviewed it".to_owned()),
    };
    piece(Fact::Review, holds, why)
}

/// Judges how much is changed.
pub fn size(config: &Config, change: Option<&Change>) -> Evidence {
    let Some(change) = change else {
        let why = "what it changes is not known".to_owned();
        return piece(Fact::Size, Holds::No, why);
    };
    let (lines, files) = (
        config.auto_merge.max_changed_lines,
        config.auto_merge.max_files,
    );
    let fits = change.lines <= lines && change.files <= files;
    let holds = match fits && !change.too_large {
        true => Holds::Yes,
        false => Holds::No,
    };
    let mut why = format!("{}; at most {lines} in {files}", change.size());
    if change.too_large {
        why.push_str("; too large for a patch that shows all of it");
    }
    piece(Fact::Size, holds, why)
}

/// The tier speaks neither way: it says how much the others had to bear.
fn tier(route: Option<&Route>) -> Evidence {
    let why = match route {
        Some(route) => format!("{} (score {})", route.tier, route.score),
        None => format!("{}, without a score", Complexity::default()),
    };
    piece(Fact::Tier, Holds::Yes, why)
}

fn of_history(change: Option<&Change>, history: &History) -> Evidence {
    let places = change.into_iter().flat_map(|change| &change.places);
    let Went {
        merged,
        rounds,
        failed,
    } = history.of(places.map(String::as_str));
    let often = failed >= FAILED_OFTEN && failed.saturating_mul(2) >= merged;
    let holds = match often {
        true => Holds::No,
        false => Holds::Yes,
    };
    let why = match (merged, failed) {
        (0, 0) => "no job worked on these paths before".to_owned(),
        _ => format!(
            "{merged} jobs on these paths were merged, in {rounds} code runs, and {failed} failed"
        ),
    };
    piece(Fact::History, holds, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ids::RunId, model::BaseChecked, quantity::Confidence};

    fn oid(digit: char) -> Oid {
        digit.to_string().repeat(40).parse().unwrap()
    }

    fn run() -> RunId {
        "r1-2".parse().unwrap()
    }

    fn config() -> Config {
        Config {
            checks: vec!["make test".to_owned()],
            ..Config::default()
        }
    }

    /// All that is known of a good one.
    struct All {
        config: Config,
        head: Oid,
        change: Option<Change>,
        checked: Option<Checked>,
        review: Option<Review>,
        route: Option<Route>,
        history: History,
    }

    impl All {
        fn good() -> Self {
            Self {
                config: config(),
                head: oid('a'),
                change: Some(Change {
                    files: 30,
                    lines: 400,
                    places: vec!["src".to_owned()],
                    too_large: false,
                    with_base_tests: None,
                }),
                checked: Some(Checked {
                    commit: oid('a'),
                    run: run(),
                    flaky: false,
                    with_base_tests: None,
                }),
                review: Some(Review {
                    commit: oid('a'),
                    run: run(),
                    verdict: ReviewVerdict::Approve,
                    confidence: Confidence(900),
                    summary: "Good.".to_owned(),
                    own_word: true,
                }),
                route: None,
                history: History::default(),
            }
        }

        fn judged(&self) -> Vec<Evidence> {
            let known = Known {
                head: &self.head,
                change: self.change.as_ref(),
                checked: self.checked.as_ref(),
                review: self.review.as_ref(),
                route: self.route.as_ref(),
            };
            judge(&self.config, &known, &self.history)
        }
    }

    /// What is said of one fact once something was changed, all others being as they were.
    fn said(fact: Fact, change: impl FnOnce(&mut All)) -> (Option<Holds>, String) {
        let mut all = All::good();
        change(&mut all);
        let judged = all.judged();
        let others = judged.iter().filter(|piece| piece.fact != fact);
        let against: Vec<&Evidence> = others.filter(|piece| piece.holds == Holds::No).collect();
        assert!(against.is_empty(), "{fact:?}: {against:?}");
        let piece = judged.iter().find(|piece| piece.fact == fact);
        assert_eq!(
            nothing_against(&judged),
            piece.is_none_or(|piece| piece.holds != Holds::No)
        );
        let why = piece.map_or(String::new(), |piece| piece.why.clone());
        (piece.map(|piece| piece.holds), why)
    }

    const YES: Option<Holds> = Some(Holds::Yes);
    const NO: Option<Holds> = Some(Holds::No);

    #[test]
    fn nothing_speaks_against_a_good_one_and_the_merge_commit_is_open() {
        let judged = All::good().judged();
        assert!(nothing_against(&judged) && against(&judged).is_empty());
        let open = judged.iter().filter(|piece| piece.holds == Holds::Open);
        let open: Vec<Fact> = open.map(|piece| piece.fact).collect();
        assert_eq!(open, [Fact::Rules, Fact::Merged]);
    }

    #[test]
    fn checks_count_for_the_commit_that_they_ran_on() {
        let of = |change: fn(&mut All)| said(Fact::Checks, change);
        assert_eq!(of(|_| {}).0, YES);
        let (holds, why) = of(|all| all.checked.as_mut().unwrap().flaky = true);
        assert!(holds == NO && why.contains("they are flaky"), "{why}");
        let (holds, why) = of(|all| all.checked.as_mut().unwrap().commit = oid('b'));
        assert!(holds == NO && why.contains("not on the head"), "{why}");
        assert_eq!(of(|all| all.checked = None).0, NO);
        assert_eq!(of(|all| all.config.checks.clear()).0, NO);
    }

    #[test]
    fn changed_tests_have_to_pass_with_those_of_the_target() {
        let of = |failed: Option<Option<&str>>, commit: char| {
            said(Fact::BaseTests, |all| {
                all.change.as_mut().unwrap().with_base_tests = Some(oid(commit));
                all.checked.as_mut().unwrap().with_base_tests = failed.map(|failed| BaseChecked {
                    run: run(),
                    failed: failed.map(str::to_owned),
                    flaky: commit == 'f',
                });
            })
        };
        assert_eq!(said(Fact::BaseTests, |_| {}).0, None, "it changes none");
        assert_eq!(of(Some(None), 'c').0, YES);
        let (holds, why) = of(Some(None), 'f');
        assert!(holds == NO && why.contains("they are flaky"), "{why}");
        let (holds, why) = of(Some(Some("1 failed")), 'c');
        assert!(holds == NO && why.contains("fails with those"), "{why}");
        let (holds, why) = of(None, 'c');
        assert!(holds == NO && why.contains("was not checked"), "{why}");
    }

    #[test]
    fn a_review_counts_for_its_commit_and_only_where_it_is_sure() {
        let of = |change: fn(&mut All)| said(Fact::Review, change);
        let set = |verdict, confidence| {
            said(Fact::Review, |all| {
                let review = all.review.as_mut().unwrap();
                (review.verdict, review.confidence) = (verdict, Confidence(confidence));
            })
        };
        assert_eq!(set(ReviewVerdict::Approve, 900).0, YES);
        let (holds, why) = set(ReviewVerdict::Approve, 899);
        assert!(holds == NO && why.contains("at least 0.9"), "{why}");
        let (holds, why) = of(|all| all.review.as_mut().unwrap().own_word = false);
        assert!(holds == NO && why.contains("could speak for it"), "{why}");
        assert_eq!(set(ReviewVerdict::RequestChanges, 1000).0, NO);
        assert_eq!(set(ReviewVerdict::Reject, 1000).0, NO);
        let (holds, why) = of(|all| all.review.as_mut().unwrap().commit = oid('b'));
        assert!(holds == NO && why.contains("not at the head"), "{why}");
        let (holds, why) = of(|all| all.review = None);
        assert!(holds == NO && why == "nobody reviewed it", "{why}");
        let (holds, why) = of(|all| {
            all.review = None;
            all.config.auto_merge.review = false;
        });
        assert!(holds == YES && why.contains("not needed"), "{why}");
        // Not needed is not the same as not heard.
        let asked = of(|all| {
            all.review.as_mut().unwrap().verdict = ReviewVerdict::RequestChanges;
            all.config.auto_merge.review = false;
        });
        assert_eq!(asked.0, NO);
    }

    #[test]
    fn size_is_bounded_in_lines_and_in_files() {
        let of = |lines, files| {
            said(Fact::Size, |all| {
                let change = all.change.as_mut().unwrap();
                (change.lines, change.files) = (lines, files);
            })
        };
        assert_eq!(of(400, 30).0, YES);
        assert_eq!(of(401, 30).0, NO);
        let (holds, why) = of(1, 31);
        assert!(
            holds == NO && why == "1 line in 31 files; at most 400 in 30",
            "{why}"
        );
        // Whatever the bounds are: nobody was shown all of it.
        let (holds, why) = said(Fact::Size, |all| {
            let change = all.change.as_mut().unwrap();
            (change.lines, change.files, change.too_large) = (2, 1, true);
        });
        assert!(
            holds == NO && why.starts_with("2 lines in 1 file; at most 400 in 30; too large"),
            "{why}"
        );
        assert_eq!(said(Fact::Size, |all| all.change = None).0, NO);
    }

    #[test]
    fn a_place_where_work_failed_often_is_a_persons() {
        let of = |merged, failed| {
            said(Fact::History, |all| {
                let went = Went {
                    merged,
                    rounds: 9,
                    failed,
                };
                all.history.add(&["src".to_owned()], went);
            })
        };
        assert_eq!(
            said(Fact::History, |_| {}).1,
            "no job worked on these paths before"
        );
        assert_eq!(of(0, 1).0, YES, "once is not often");
        assert_eq!(of(0, 2).0, NO);
        assert_eq!(of(4, 2).0, NO);
        let (holds, why) = of(5, 2);
        assert!(holds == YES && why.contains("2 failed"), "{why}");
    }

    #[test]
    fn the_tier_is_told_and_speaks_neither_way() {
        let (holds, why) = said(Fact::Tier, |all| {
            all.route = Some(Route {
                tier: Complexity::High,
                score: 12,
                reasons: Vec::new(),
            });
        });
        assert_eq!((holds, why.as_str()), (YES, "high (score 12)"));
    }

    #[test]
    fn what_becomes_known_takes_the_place_of_what_was() {
        let mut judged = All::good().judged();
        let count = judged.len();
        let no = |fact| piece(fact, Holds::No, "red".to_owned());
        put(&mut judged, no(Fact::Merged));
        assert_eq!(judged.len(), count);
        assert_eq!(against(&judged), "merged result: red");
        put(&mut judged, no(Fact::BaseTests));
        assert_eq!(judged.len(), count + 1);
        assert_eq!(against(&judged), "merged result: red; base tests: red");
    }
}
