//! Pull requests.

use super::{Checked, Conflict, Evidence, Review, Seconds};
use crate::ids::{IssueNo, Oid, PrNo, RunId};
use serde::{Deserialize, Serialize};

/// Front matter of `prs/open/<n>.md`; the body follows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pr {
    /// Its number.
    pub number: PrNo,
    /// The issue it resolves.
    pub issue: IssueNo,
    /// One line.
    pub title: String,
    /// Work branch.
    pub branch: String,
    /// Commit proposed for merging.
    pub head: Oid,
    /// Where it stands.
    pub state: PrState,
    /// The commit whose checks passed, with the run that shows it.
    pub checked: Option<Checked>,
    /// What its newest review says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub review: Option<Review>,
    /// Its merge, as it was last made, holds just what its head does.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub merges_as_it_is: bool,
    /// What speaks for and against merging it without a person, as it was last judged.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<Evidence>,
    /// Labels, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// Open pull requests that it conflicts with, as they were when it was opened.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<Conflict>,
    /// When it was opened.
    pub created: Seconds,
    /// Why the last attempt to merge did not go through.
    pub note: Option<String>,
    /// What was done; Markdown.
    #[serde(skip)]
    pub body: String,
}

/// Where a pull request stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PrState {
    /// Waits at the merge gate.
    Ready,
    /// Its job works on it again.
    Reworking,
    /// The gate is open; waits for its turn.
    Queued {
        /// Who opened the gate.
        by: String,
        /// When; also the date of the merge commit, so that it is the same when made again.
        at: Seconds,
    },
    /// The merge commit exists and is checked.
    Testing {
        /// Who opened the gate.
        by: String,
        /// When.
        at: Seconds,
        /// Target commit merged into.
        target: Oid,
        /// The merge commit.
        merge: Oid,
        /// Work tree that had the target checked out when the merge was made.
        worktree: Option<String>,
        /// The check run, once granted.
        run: Option<RunId>,
        /// The checks failed once: whether they do again is looked at.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        rerun: bool,
    },
    /// The target branch is being moved; the effect says from where to where.
    Advancing {
        /// Who opened the gate.
        by: String,
        /// When.
        at: Seconds,
        /// The merge commit.
        merge: Oid,
    },
    /// Done.
    Merged {
        /// Who opened the gate.
        by: String,
        /// When.
        at: Seconds,
        /// The merge commit.
        merge: Oid,
    },
    /// Given up.
    Closed {
        /// Who closed it.
        by: String,
        /// When.
        at: Seconds,
        /// Why.
        reason: String,
    },
}

impl PrState {
    /// True on the way from the merge gate to the target.
    pub fn is_merging(&self) -> bool {
        match self {
            PrState::Queued { .. } | PrState::Testing { .. } | PrState::Advancing { .. } => true,
            PrState::Ready
            | PrState::Reworking
            | PrState::Merged { .. }
            | PrState::Closed { .. } => false,
        }
    }
}
