//! Guesses at a repository's checks and packages, from what its files say. Pure:
//! names and texts in, guesses out. Few and sure ones: what is found beside the
//! best is shown, and what cannot work without a network says so.

mod ci;
mod make;
mod node;
mod python;
mod text;
mod toolchains;
mod written;

#[cfg(test)]
mod tests;

pub use text::{Tree, wanted};
pub use written::{fill, told};

use std::collections::BTreeSet;

/// Candidates that are shown beside the best one.
const MOST_OTHERS: usize = 6;
/// A longer command is nobody's usual check.
const MOST_BYTES: usize = 200;

/// A command that may be the repository's check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// For a shell at the top of the repository.
    pub command: String,
    /// File, line and what stands there.
    pub because: String,
    /// Debian packages that it needs.
    pub packages: BTreeSet<&'static str>,
    /// Why it will not work as things are, and what mends that.
    pub lacks: Vec<String>,
}

impl Candidate {
    fn new(command: impl Into<String>, because: String, packages: &[&'static str]) -> Self {
        Self {
            command: command.into(),
            because,
            packages: packages.iter().copied().collect(),
            lacks: Vec::new(),
        }
    }
}

/// What was found out.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Guesses {
    /// The check, where there is one to name.
    pub check: Option<Candidate>,
    /// What else was found, best first.
    pub others: Vec<Candidate>,
    /// Files that were passed over, and why.
    pub skipped: Vec<String>,
}

/// Guesses. The best is the first that lacks nothing, in this order: what the
/// project itself calls its tests, then what its languages usually do, then
/// what its CI runs, then a script by its name.
pub fn guess(tree: &Tree) -> Guesses {
    let mut skipped = tree.skipped().to_vec();
    let mut languages: Vec<Candidate> = Vec::new();
    let found = [
        toolchains::rust(tree),
        toolchains::go(tree),
        python::guess(tree),
        node::guess(tree),
    ];
    for found in found {
        match found {
            Ok(found) => languages.extend(found),
            Err(why) => skipped.push(why),
        }
    }
    let mut all = make::guess(tree, &languages);
    all.extend(languages);
    all.extend(ci::guess(tree, &mut skipped));
    all.extend(script(tree));

    let mut seen = BTreeSet::new();
    all.retain(|candidate| is_plain(&candidate.command) && seen.insert(candidate.command.clone()));
    let best = all.iter().position(|candidate| candidate.lacks.is_empty());
    let check = (!all.is_empty()).then(|| all.remove(best.unwrap_or(0)));
    all.truncate(MOST_OTHERS);
    Guesses {
        check,
        others: all,
        skipped,
    }
}

/// It comes from the repository, and is shown and written into a file.
fn is_plain(command: &str) -> bool {
    command.len() <= MOST_BYTES
        && !command.contains(|c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}'))
}

/// A shell script that is called like a test.
fn script(tree: &Tree) -> Option<Candidate> {
    const NAMES: [&str; 6] = [
        "test.sh",
        "tests.sh",
        "run-tests.sh",
        "run_tests.sh",
        "runtests.sh",
        "tests/run.sh",
    ];
    let name = NAMES.into_iter().find(|name| tree.has(name))?;
    // Every image has bash, and a script may need it.
    Some(Candidate::new(
        format!("bash ./{name}"),
        format!("{name}: a script called like a test"),
        &[],
    ))
}
