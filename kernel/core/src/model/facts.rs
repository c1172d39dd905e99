//! What is known of work: what it changes, what checks and reviews say, and what follows for
//! its merge.

use crate::{
    ids::{Oid, PrNo, RunId},
    quantity::Confidence,
    report::ReviewVerdict,
};
use serde::{Deserialize, Serialize};

/// What a commit changes, seen from the target.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// Files.
    pub files: u64,
    /// Lines added and removed, in pieces of at most 200 bytes; of a binary file, all of it.
    pub lines: u64,
    /// Folders and files at the top, at most two levels deep, sorted; at most 32.
    pub places: Vec<String>,
    /// No patch that a review is handed shows all of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub too_large: bool,
    /// The commit with the target's tests and build files in place of its own; none where
    /// it changes none of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub with_base_tests: Option<Oid>,
}

impl Change {
    /// `1 line in 2 files`.
    pub fn size(&self) -> String {
        let count = |n: u64, what: &str| match n {
            1 => format!("1 {what}"),
            _ => format!("{n} {what}s"),
        };
        let (lines, files) = (count(self.lines, "line"), count(self.files, "file"));
        format!("{lines} in {files}")
    }
}

/// Evidence that checks passed on a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checked {
    /// The commit.
    pub commit: Oid,
    /// The check run.
    pub run: RunId,
    /// They failed first, and passed when they were run again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub flaky: bool,
    /// What came of the checks with the target's tests; none where it changes no tests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub with_base_tests: Option<BaseChecked>,
}

/// What came of the checks with the target's tests in place of the commit's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseChecked {
    /// The check run.
    pub run: RunId,
    /// What they printed where they failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    /// They failed first, and passed when they were run again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub flaky: bool,
}

/// What a review says of a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Review {
    /// The commit.
    pub commit: Oid,
    /// The run.
    pub run: RunId,
    /// What it comes to.
    pub verdict: ReviewVerdict,
    /// How sure it is, from 0 to 1.
    pub confidence: Confidence,
    /// In a few sentences.
    pub summary: String,
    /// Its engine was kept from running the code that it is about, or is a command that somebody
    /// answers for: nothing else spoke for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub own_word: bool,
}

impl Review {
    /// True where it approves of this very commit.
    pub fn approves(&self, commit: &Oid) -> bool {
        self.commit == *commit && self.verdict == ReviewVerdict::Approve
    }
}

/// Work that is merged, and whose issue is open until somebody saw that it does what that asks
/// for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Merged {
    /// The pull request.
    pub pr: PrNo,
    /// Who opened its gate.
    pub by: String,
    /// Its commit.
    pub head: Oid,
    /// Where the target was; none where it was not the factory that merged it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Oid>,
    /// The target's commit with it.
    pub commit: Oid,
    /// Code runs that `history.yaml` counts.
    pub rounds: u32,
    /// It does not do all that the issue asks for now: there is more to write.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lacks: bool,
}

/// Two pull requests that cannot both be merged as they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conflict {
    /// The other one.
    pub pr: PrNo,
    /// Files in conflict.
    pub files: String,
}

/// One thing that speaks for or against merging a pull request without a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// What is looked at.
    pub fact: Fact,
    /// Whether it speaks for it.
    pub holds: Holds,
    /// Why, one line.
    pub why: String,
}

/// What is looked at before a merge without a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fact {
    /// The checks on the proposed commit.
    Checks,
    /// The checks with the target's tests.
    BaseTests,
    /// The review.
    Review,
    /// How much it changes.
    Size,
    /// The tier that its job was routed to.
    Tier,
    /// How work on the same paths went before.
    History,
    /// Prohibitions and protected paths, on the merge commit.
    Rules,
    /// The checks on the merge commit.
    Merged,
}

/// Whether a piece of evidence speaks for a merge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Holds {
    /// It does.
    Yes,
    /// It speaks against it: a person decides.
    No,
    /// It is not known yet.
    Open,
}

impl Fact {
    /// The word used for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Fact::Checks => "checks",
            Fact::BaseTests => "base tests",
            Fact::Review => "review",
            Fact::Size => "size",
            Fact::Tier => "tier",
            Fact::History => "history",
            Fact::Rules => "rules",
            Fact::Merged => "merged result",
        }
    }
}
