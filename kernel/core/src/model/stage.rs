//! The stages of a job, and which may follow which.

use super::Purpose;
use crate::ids::{Oid, RunId};
use serde::{Deserialize, Serialize};

/// Where a job stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// An instruction that waits for a slot for the run that splits it into issues.
    SplitDue,
    /// A run splits the instruction.
    Splitting {
        /// The run.
        run: RunId,
    },
    /// The instruction's issues are filed and wait for a person's approval.
    SplitReady,
    /// The instruction's issues are being worked on.
    Children,
    /// Waits for a slot for the run that plans its work.
    PlanDue,
    /// A run plans the work.
    Planning {
        /// The run.
        run: RunId,
    },
    /// The plan waits for a person's approval.
    PlanReady,
    /// Waits for a slot for its next code run.
    Queued,
    /// A code run lives.
    Coding {
        /// The run.
        run: RunId,
    },
    /// The work branch is being moved to what was pushed.
    Publishing {
        /// The pushed commit.
        commit: Oid,
        /// What follows.
        then: Next,
    },
    /// Waits for a slot for its check run.
    CheckDue {
        /// The commit to check.
        commit: Oid,
        /// With whose tests.
        #[serde(default, skip_serializing_if = "Tests::are_its_own")]
        tests: Tests,
        /// They failed once: whether they do again is looked at.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        rerun: bool,
    },
    /// A check run lives.
    Checking {
        /// The commit.
        commit: Oid,
        /// The run.
        run: RunId,
        /// With whose tests.
        #[serde(default, skip_serializing_if = "Tests::are_its_own")]
        tests: Tests,
        /// They failed once before.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        rerun: bool,
    },
    /// Waits for a slot for its review.
    ReviewDue {
        /// The commit to review.
        commit: Oid,
    },
    /// A review run lives.
    Reviewing {
        /// The commit.
        commit: Oid,
        /// The run.
        run: RunId,
    },
    /// Its merge with every open pull request is being tried, before its own one opens.
    Opening {
        /// The commit that is to be proposed.
        commit: Oid,
    },
    /// The pull request is open.
    Proposed,
    /// It is merged, and waits for a slot for the run that looks at the target.
    VerifyDue,
    /// A run looks at the target.
    Verifying {
        /// The run.
        run: RunId,
    },
    /// A person must look at it.
    NeedsHuman,
}

/// Whose tests and build files a check runs with.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tests {
    /// Those of the commit itself.
    #[default]
    Own,
    /// Those of the target, laid over the commit: what it changed of them proves nothing.
    Base {
        /// The commit made of both, which is what the run checks out.
        commit: Oid,
    },
}

impl Tests {
    fn are_its_own(&self) -> bool {
        *self == Tests::Own
    }
}

/// What follows when the work branch was moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Next {
    /// The checks.
    Check,
    /// Another code run: this one left unfinished work.
    Code,
    /// The plan, or another code run: the issue was edited.
    Anew,
    /// A person: another run would fail the same way.
    Human {
        /// What is wrong and what to do.
        why: String,
    },
}

/// A [`Stage`] without what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StageKind {
    /// [`Stage::SplitDue`].
    SplitDue,
    /// [`Stage::Splitting`].
    Splitting,
    /// [`Stage::SplitReady`].
    SplitReady,
    /// [`Stage::Children`].
    Children,
    /// [`Stage::PlanDue`].
    PlanDue,
    /// [`Stage::Planning`].
    Planning,
    /// [`Stage::PlanReady`].
    PlanReady,
    /// [`Stage::Queued`].
    Queued,
    /// [`Stage::Coding`].
    Coding,
    /// [`Stage::Publishing`].
    Publishing,
    /// [`Stage::CheckDue`].
    CheckDue,
    /// [`Stage::Checking`].
    Checking,
    /// [`Stage::ReviewDue`].
    ReviewDue,
    /// [`Stage::Reviewing`].
    Reviewing,
    /// [`Stage::Opening`].
    Opening,
    /// [`Stage::Proposed`].
    Proposed,
    /// [`Stage::VerifyDue`].
    VerifyDue,
    /// [`Stage::Verifying`].
    Verifying,
    /// [`Stage::NeedsHuman`].
    NeedsHuman,
}

/// A stage that cannot follow another: whoever asked for it looked at an older state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a job does not go from {} to {}", .from.as_str(), .to.as_str())]
pub struct IllegalTransition {
    /// Where the job stands.
    pub from: StageKind,
    /// Where it was to go.
    pub to: StageKind,
}

impl StageKind {
    /// All of them, in the order in which a job comes through them.
    pub const ALL: [StageKind; 19] = {
        use StageKind::*;
        [
            SplitDue, Splitting, SplitReady, Children, PlanDue, Planning, PlanReady, Queued,
            Coding, Publishing, CheckDue, Checking, ReviewDue, Reviewing, Opening, Proposed,
            VerifyDue, Verifying, NeedsHuman,
        ]
    };

    /// The word used for people and programs.
    pub fn as_str(self) -> &'static str {
        match self {
            StageKind::SplitDue => "split-due",
            StageKind::Splitting => "splitting",
            StageKind::SplitReady => "split-ready",
            StageKind::Children => "children",
            StageKind::PlanDue => "plan-due",
            StageKind::Planning => "planning",
            StageKind::PlanReady => "plan-ready",
            StageKind::Queued => "queued",
            StageKind::Coding => "coding",
            StageKind::Publishing => "publishing",
            StageKind::CheckDue => "check-due",
            StageKind::Checking => "checking",
            StageKind::ReviewDue => "review-due",
            StageKind::Reviewing => "reviewing",
            StageKind::Opening => "opening",
            StageKind::Proposed => "proposed",
            StageKind::VerifyDue => "verify-due",
            StageKind::Verifying => "verifying",
            StageKind::NeedsHuman => "needs-human",
        }
    }

    /// What a job that stands here may go to.
    pub fn followers(self) -> &'static [StageKind] {
        use StageKind::*;
        match self {
            SplitDue => &[Splitting, NeedsHuman],
            Splitting => &[SplitDue, SplitReady, Children, NeedsHuman],
            SplitReady => &[SplitDue, Children],
            Children => &[],
            PlanDue => &[Planning, Queued],
            Planning => &[PlanDue, PlanReady, Queued, NeedsHuman],
            PlanReady => &[PlanDue, Queued],
            // Who edits the issue is followed from wherever it is.
            Queued => &[PlanDue, Coding],
            Coding => &[
                PlanDue, Queued, Publishing, CheckDue, ReviewDue, Opening, VerifyDue, NeedsHuman,
            ],
            Publishing => &[
                PlanDue, Queued, Publishing, CheckDue, ReviewDue, Opening, VerifyDue, NeedsHuman,
            ],
            CheckDue => &[PlanDue, Queued, Checking],
            Checking => &[PlanDue, Queued, CheckDue, ReviewDue, Opening, NeedsHuman],
            // Straight to its pull request, where the configuration asks for no review any more.
            ReviewDue => &[PlanDue, Queued, Reviewing, Opening, NeedsHuman],
            Reviewing => &[PlanDue, Queued, ReviewDue, Opening, NeedsHuman],
            // Back to a review where the configuration asks for one meanwhile.
            Opening => &[PlanDue, Queued, ReviewDue, Proposed],
            Proposed => &[
                PlanDue, Queued, CheckDue, ReviewDue, Opening, Proposed, VerifyDue, NeedsHuman,
            ],
            VerifyDue => &[PlanDue, Queued, Verifying, NeedsHuman],
            Verifying => &[PlanDue, Queued, VerifyDue, NeedsHuman],
            NeedsHuman => &[SplitDue, PlanDue, Queued, Proposed, VerifyDue, NeedsHuman],
        }
    }
}

impl Stage {
    /// Which one it is.
    pub fn kind(&self) -> StageKind {
        match self {
            Stage::SplitDue => StageKind::SplitDue,
            Stage::Splitting { .. } => StageKind::Splitting,
            Stage::SplitReady => StageKind::SplitReady,
            Stage::Children => StageKind::Children,
            Stage::PlanDue => StageKind::PlanDue,
            Stage::Planning { .. } => StageKind::Planning,
            Stage::PlanReady => StageKind::PlanReady,
            Stage::Queued => StageKind::Queued,
            Stage::Coding { .. } => StageKind::Coding,
            Stage::Publishing { .. } => StageKind::Publishing,
            Stage::CheckDue { .. } => StageKind::CheckDue,
            Stage::Checking { .. } => StageKind::Checking,
            Stage::ReviewDue { .. } => StageKind::ReviewDue,
            Stage::Reviewing { .. } => StageKind::Reviewing,
            Stage::Opening { .. } => StageKind::Opening,
            Stage::Proposed => StageKind::Proposed,
            Stage::VerifyDue => StageKind::VerifyDue,
            Stage::Verifying { .. } => StageKind::Verifying,
            Stage::NeedsHuman => StageKind::NeedsHuman,
        }
    }

    /// The commit that is looked at, or is on its way to that.
    pub fn commit(&self) -> Option<&Oid> {
        match self {
            Stage::Publishing { commit, .. }
            | Stage::CheckDue { commit, .. }
            | Stage::Checking { commit, .. }
            | Stage::ReviewDue { commit }
            | Stage::Reviewing { commit, .. }
            | Stage::Opening { commit } => Some(commit),
            Stage::SplitDue
            | Stage::Splitting { .. }
            | Stage::SplitReady
            | Stage::Children
            | Stage::PlanDue
            | Stage::Planning { .. }
            | Stage::PlanReady
            | Stage::Queued
            | Stage::Coding { .. }
            | Stage::Proposed
            | Stage::VerifyDue
            | Stage::Verifying { .. }
            | Stage::NeedsHuman => None,
        }
    }

    /// The run that it waits for.
    pub fn run(&self) -> Option<RunId> {
        match self {
            Stage::Splitting { run }
            | Stage::Planning { run }
            | Stage::Coding { run }
            | Stage::Checking { run, .. }
            | Stage::Reviewing { run, .. }
            | Stage::Verifying { run } => Some(*run),
            Stage::SplitDue
            | Stage::SplitReady
            | Stage::Children
            | Stage::PlanDue
            | Stage::PlanReady
            | Stage::Queued
            | Stage::Publishing { .. }
            | Stage::CheckDue { .. }
            | Stage::ReviewDue { .. }
            | Stage::Opening { .. }
            | Stage::Proposed
            | Stage::VerifyDue
            | Stage::NeedsHuman => None,
        }
    }

    /// What the run is for that it waits for, or that lives.
    pub fn purpose(&self) -> Option<Purpose> {
        match self {
            Stage::SplitDue | Stage::Splitting { .. } => Some(Purpose::Split),
            Stage::PlanDue | Stage::Planning { .. } => Some(Purpose::Plan),
            Stage::Queued | Stage::Coding { .. } => Some(Purpose::Code),
            Stage::CheckDue { .. } | Stage::Checking { .. } => Some(Purpose::Check),
            Stage::ReviewDue { .. } | Stage::Reviewing { .. } => Some(Purpose::Review),
            Stage::VerifyDue | Stage::Verifying { .. } => Some(Purpose::Verify),
            Stage::SplitReady
            | Stage::Children
            | Stage::PlanReady
            | Stage::Publishing { .. }
            | Stage::Opening { .. }
            | Stage::Proposed
            | Stage::NeedsHuman => None,
        }
    }

    /// True where nothing goes on before a person, or the work on other issues, does.
    pub fn waits_for_a_person(&self) -> bool {
        match self {
            Stage::SplitReady
            | Stage::Children
            | Stage::PlanReady
            | Stage::Proposed
            | Stage::NeedsHuman => true,
            Stage::SplitDue
            | Stage::Splitting { .. }
            | Stage::PlanDue
            | Stage::Planning { .. }
            | Stage::Queued
            | Stage::Coding { .. }
            | Stage::Publishing { .. }
            | Stage::CheckDue { .. }
            | Stage::Checking { .. }
            | Stage::ReviewDue { .. }
            | Stage::Reviewing { .. }
            | Stage::Opening { .. }
            | Stage::VerifyDue
            | Stage::Verifying { .. } => false,
        }
    }

    /// True while nothing but a slot is lacking for its next run.
    pub fn is_due(&self) -> bool {
        match self {
            Stage::SplitDue
            | Stage::PlanDue
            | Stage::Queued
            | Stage::CheckDue { .. }
            | Stage::ReviewDue { .. }
            | Stage::VerifyDue => true,
            Stage::Splitting { .. }
            | Stage::SplitReady
            | Stage::Children
            | Stage::Planning { .. }
            | Stage::PlanReady
            | Stage::Coding { .. }
            | Stage::Publishing { .. }
            | Stage::Checking { .. }
            | Stage::Reviewing { .. }
            | Stage::Opening { .. }
            | Stage::Proposed
            | Stage::Verifying { .. }
            | Stage::NeedsHuman => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Everything that can be reached from a stage.
    fn reached(from: StageKind) -> BTreeSet<StageKind> {
        let mut seen = BTreeSet::new();
        let mut open = vec![from];
        while let Some(at) = open.pop() {
            open.extend(at.followers().iter().filter(|to| seen.insert(**to)));
        }
        seen
    }

    #[test]
    fn every_stage_leads_to_an_end() {
        for from in StageKind::ALL {
            let ends = [
                StageKind::Proposed,
                StageKind::Children,
                StageKind::NeedsHuman,
            ];
            let at_an_end = ends.contains(&from);
            let reached = reached(from);
            assert!(
                at_an_end || ends.iter().any(|end| reached.contains(end)),
                "{from:?}"
            );
        }
    }

    #[test]
    fn nothing_is_proposed_that_did_not_pass_its_checks_and_review() {
        // The only way to a pull request leads through `Opening`, where a person had not
        // one already, and there from what checks and reviews say.
        for from in StageKind::ALL {
            let leads = from.followers().contains(&StageKind::Proposed);
            let may = [
                StageKind::Opening,
                StageKind::Proposed,
                StageKind::NeedsHuman,
            ];
            assert_eq!(leads, may.contains(&from), "{from:?}");
        }
        assert!(!StageKind::Queued.followers().contains(&StageKind::Opening));
        assert!(
            !StageKind::CheckDue
                .followers()
                .contains(&StageKind::Opening)
        );
    }
}
