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
        Some(checked) if checked.commit == *known.head => {
            let flaky = match checked.flaky {
                true => ", at the second try: they are flaky",
                false => "",
            };
            (
                Holds::Yes,
                format!("passed on the head ({}){flaky}", checked.run),
            )
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
    let holds = match change.lines <= lines && change.files <= files {
        true => Holds::Yes,
        false => Holds::No,
    };
    let why = format!(
        "{} lines in {} files; at most {lines} in {files}",
        change.lines, change.files
    );
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
            "{merged} jobs on these paths were merged, in {rounds} code runs, and {failed} needed a person"
        ),
    };
    piece(Fact::History, holds, why)
}
