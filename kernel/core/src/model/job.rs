//! Jobs.

use super::{Change, Checked, IllegalTransition, Review, Seconds, Stage};
use crate::{
    budget::Spent,
    config::EngineKind,
    event::Now,
    exit::LONGEST_BACKOFF,
    ids::{IssueNo, Oid, PrNo, RunId},
    quantity::Bytes,
    route::Route,
};
use serde::{Deserialize, Serialize};

/// `jobs/active/<n>.yaml`: takes one issue from approved to done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// The issue, whose number is the job's.
    pub issue: IssueNo,
    /// Work branch.
    pub branch: String,
    /// Where the job stands; changed by [`Job::enter`] alone.
    stage: Stage,
    /// How its work is done, decided when it was approved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<Route>,
    /// The plan of its work, as validated JSON text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// What the newest commit on its branch changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<Change>,
    /// What the checks said of that commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checked: Option<Checked>,
    /// What the newest review says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub review: Option<Review>,
    /// It was asked once to become smaller.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub asked_to_split: bool,
    /// A run of it was granted since its last approval, and since it last waited for a
    /// person or another issue.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub begun: bool,
    /// Since when it is in the queue: its approval.
    #[serde(default)]
    pub since: Seconds,
    /// Who holds it back; nothing of it is begun until it is released.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_by: Option<String>,
    /// When a person put it in front of all others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bumped: Option<Seconds>,
    /// Code runs that came to an end of their own since the last approval.
    pub rounds: u32,
    /// Runs in a row that did not come to their own end; decides how long to wait.
    pub breaks: u32,
    /// Runs lost in a row, by no fault of their own; decides when to ask a person.
    pub losses: u32,
    /// No run is granted before this time.
    pub not_before: Option<Seconds>,
    /// Memory of the next runs, where the configured limit did not suffice.
    pub memory: Option<Bytes>,
    /// Its work failed, and `history.yaml` counts it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub failed: bool,
    /// What its runs used since the last approval.
    #[serde(default, skip_serializing_if = "Spent::is_nothing")]
    pub spent: Spent,
    /// What the next code run goes on from.
    pub resume: Option<Resume>,
    /// Tip of the work branch that a run pushed which did not come to its own
    /// end: nothing has checked it, and it may be all that there is to do.
    pub unchecked: Option<Oid>,
    /// The pull request, once opened.
    pub pr: Option<PrNo>,
    /// What the next code run must know.
    pub feedback: Option<String>,
    /// What was wrong with the last report of a run that only reads, for the one that takes
    /// its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report_problem: Option<String>,
    /// What the last code run said of its work; becomes the pull request's text.
    pub summary: Option<String>,
    /// One line per run: what came of it.
    pub story: Vec<String>,
}

/// Work in progress of a run that did not come to its own end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resume {
    /// The run.
    pub run: RunId,
    /// Its newest checkpoint.
    pub checkpoint: Oid,
    /// The engine that wrote the session in it.
    pub engine: EngineKind,
    /// Commit that the run started from, which the checkpoint descends from.
    pub start: Oid,
    /// The engine's name of that session; none where it cannot be gone on with.
    pub session: Option<String>,
    /// Target commit whose intent layer that session was briefed with.
    pub intent: Oid,
    /// The run came to its own end: its work is on the branch, and only its session is
    /// gone on with.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub finished: bool,
}

impl Job {
    /// A job that begins now.
    pub fn new(issue: IssueNo, branch: String, stage: Stage, now: Seconds) -> Self {
        Self {
            issue,
            branch,
            stage,
            route: None,
            plan: None,
            change: None,
            checked: None,
            review: None,
            asked_to_split: false,
            begun: false,
            since: now,
            held_by: None,
            bumped: None,
            rounds: 0,
            breaks: 0,
            losses: 0,
            not_before: None,
            memory: None,
            failed: false,
            spent: Spent::default(),
            resume: None,
            unchecked: None,
            pr: None,
            feedback: None,
            report_problem: None,
            summary: None,
            story: Vec::new(),
        }
    }

    /// Where the job stands.
    pub fn stage(&self) -> &Stage {
        &self.stage
    }

    /// Goes to another stage.
    ///
    /// # Errors
    /// Where that one cannot follow; the job stays where it is.
    pub fn enter(&mut self, stage: Stage) -> Result<(), IllegalTransition> {
        let (from, to) = (self.stage.kind(), stage.kind());
        if !from.followers().contains(&to) {
            return Err(IllegalTransition { from, to });
        }
        self.stage = stage;
        Ok(())
    }

    /// True from its first run on, until it is done or a person must look at what never
    /// became a pull request.
    pub fn is_under_way(&self) -> bool {
        match self.stage {
            Stage::PlanDue | Stage::Queued | Stage::CheckDue { .. } | Stage::ReviewDue { .. } => {
                self.begun || self.pr.is_some()
            }
            // What waits for a person keeps nobody waiting before it is proposed.
            Stage::NeedsHuman | Stage::PlanReady => self.pr.is_some(),
            // An instruction changes nothing itself.
            Stage::SplitDue | Stage::Splitting { .. } | Stage::SplitReady | Stage::Children => {
                false
            }
            // What was merged keeps nobody waiting.
            Stage::VerifyDue | Stage::Verifying { .. } => false,
            Stage::Planning { .. }
            | Stage::Coding { .. }
            | Stage::Publishing { .. }
            | Stage::Checking { .. }
            | Stage::Reviewing { .. }
            | Stage::Opening { .. }
            | Stage::Proposed => true,
        }
    }

    /// True where a review approved this very commit.
    pub fn is_approved(&self, commit: &Oid) -> bool {
        let review = self.review.as_ref();
        review.is_some_and(|review| review.approves(commit))
    }

    /// True where its work is merged, and a run looks at the target, or is to.
    pub fn is_looked_at(&self) -> bool {
        matches!(self.stage, Stage::VerifyDue | Stage::Verifying { .. })
    }

    /// Until when it waits before its next try. A time further away than the
    /// longest wait was set before the clock was put back: nobody waits for it.
    pub fn rests_until(&self, now: Now) -> Option<Seconds> {
        self.not_before
            .filter(|at| (1..=LONGEST_BACKOFF).contains(&at.saturating_sub(now.0)))
    }
}
