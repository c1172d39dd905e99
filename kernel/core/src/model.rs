//! What the state consists of: issues, pull requests, jobs, runs, effects.
//!
//! Each state is an enum whose variants hold just what that state has.

mod facts;
mod job;
mod pr;
mod stage;

pub use facts::{BaseChecked, Change, Checked, Conflict, Evidence, Fact, Holds, Merged, Review};
pub use job::{Job, Resume};
pub use pr::{Pr, PrState};
pub use stage::{IllegalTransition, Next, Stage, StageKind, Tests};

use crate::{
    breaker::{Breaker, Part},
    budget::{Spent, Today},
    config::{AgentType, Amounts, Config, EngineKind, Limits},
    engine,
    exit::ExitClass,
    grant::{Grant, Role},
    ids::{Epoch, IssueNo, Oid, PrNo, RunId},
    inbox::{RunEnd, Usage},
    report::Draft,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Seconds since 1970-01-01T00:00:00Z, as given by the shell.
pub type Seconds = i64;

/// Version of the layout of the state tree that this program reads and writes.
pub const FORMAT: u32 = 1;

/// `meta.yaml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Meta {
    /// [`FORMAT`]; a newer one is never written back.
    pub format: u32,
    /// Names this repository for ever; part of the home id.
    pub repository: String,
    /// Branch that work starts from and merges into.
    pub target: String,
    /// Rises with every kernel start.
    pub epoch: Epoch,
    /// Counts journalled steps.
    pub step: u64,
    /// Number of the newest issue.
    pub last_issue: u64,
    /// Number of the newest pull request.
    pub last_pr: u64,
    /// The kernel that runs, or ran last.
    pub kernel: Option<KernelId>,
    /// What the factory was told that runs, or ran last: to end, and how.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending: Option<Ending>,
    /// The emergency stop: no run begins and none goes on until a person lifts it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen: Option<Frozen>,
    /// What failed in a row.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub breakers: BTreeMap<Part, Breaker>,
    /// What was used on the newest day on which anything was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub today: Option<Today>,
    /// What was done so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<Done>,
    /// The machine whose state a shared remote takes; none while it was never synchronised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<Machine>,
}

/// Jobs that came to a merge, and what they cost: what others will cost is guessed from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Done {
    /// How many.
    pub jobs: u64,
    /// What their runs used.
    pub spent: Spent,
}

/// One machine's factory, as the others know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Name of its factory there; a copy of the repository has another.
    pub home: String,
    /// Host name.
    pub host: String,
    /// Since when it is the one that goes on.
    pub since: Seconds,
}

/// An emergency stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Frozen {
    /// Who ordered it.
    pub by: String,
    /// When.
    pub since: Seconds,
}

/// How a factory was told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// What runs is finished, and no new work is begun.
    Drain,
    /// What runs is stopped as well.
    AtOnce,
}

impl KernelId {
    /// True where both belong to one `factory start`: what one was told holds for the other.
    pub fn is_of_the_same_start(&self, other: &KernelId) -> bool {
        self.start.is_some() && self.start == other.start && self.boot == other.boot
    }
}

/// Which process is the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelId {
    /// Host name.
    pub host: String,
    /// Process id.
    pub pid: u32,
    /// Boot id of the host.
    pub boot: String,
    /// When it started.
    pub since: Seconds,
    /// Names the `factory start` that starts another kernel where this one dies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
    /// How many slots it was told to have, in place of those of `factory.yaml`.
    pub slots: Option<u32>,
    /// Memory and processors of its container engine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<Amounts>,
}

/// `config.yaml`: the configuration in force and where it came from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigInForce {
    /// Commit whose `factory.yaml` this is; none for built-in defaults or `--config`.
    pub commit: Option<Oid>,
    /// The configuration.
    pub config: Config,
}

/// Longest title that is kept, in bytes.
pub const TITLE_LIMIT: usize = 300;

/// Front matter of `issues/open/<n>.md`; the body follows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issue {
    /// Its number.
    pub number: IssueNo,
    /// One line.
    pub title: String,
    /// Open or closed.
    pub state: IssueState,
    /// Labels, sorted.
    pub labels: Vec<String>,
    /// Who filed it.
    pub author: String,
    /// The run whose agent filed it: then only a person approves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
    /// When it was filed.
    pub created: Seconds,
    /// How many comments it has; they are numbered from 1.
    pub comments: u32,
    /// How many runs its jobs had; names the next one, so that no name is given twice.
    pub runs: u32,
    /// Issues that must be done before, sorted. One that is done is taken out; one that is
    /// here and not open any more was given up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<IssueNo>,
    /// Paths that it says it will touch, sorted; `""` is the whole repository. None where
    /// it says nothing of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub touches: Vec<String>,
    /// The instruction that it is a part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<IssueNo>,
    /// It is an instruction: it becomes issues, and no code itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instruction: Option<Instruction>,
    /// What reached the target for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merged: Option<Merged>,
    /// What must be true when it is done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub acceptance: Vec<String>,
    /// What is asked for; Markdown.
    #[serde(skip)]
    pub body: String,
}

/// What is particular to an issue that is to become others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Instruction {
    /// Its issues are approved as soon as they are filed.
    pub auto_approve: bool,
    /// Issues that came of it, in the order in which they were asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<IssueNo>,
    /// Those that are over, in the order in which they were.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub done: Vec<PartDone>,
}

/// What came of one issue of an instruction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartDone {
    /// The issue.
    pub issue: IssueNo,
    /// Its title.
    pub title: String,
    /// The pull request that was merged for it; none where it was given up.
    pub pr: Option<PrNo>,
    /// Its code runs that came to an end of their own.
    pub rounds: u32,
    /// All its runs.
    pub runs: u32,
    /// What they used.
    #[serde(default, skip_serializing_if = "Spent::is_nothing")]
    pub spent: Spent,
}

/// Label of a pull request that changes more than an automatic gate lets through.
pub const OVERSIZED: &str = "oversized";

/// Label of work that a person must look at.
pub const NEEDS_HUMAN: &str = "needs-human";

/// Label of an issue whose pull request a person rejected: an automatic gate leaves it closed.
pub const REJECTED: &str = "rejected";

impl Issue {
    /// True where the label is there.
    pub fn has_label(&self, label: &str) -> bool {
        self.labels.iter().any(|l| l == label)
    }

    /// True where its work is on the target, and nothing is known to lack there.
    pub fn is_merged(&self) -> bool {
        self.merged.as_ref().is_some_and(|merged| !merged.lacks)
    }
}

/// Whether an issue is still to be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IssueState {
    /// Filed, waits at the gate.
    Proposed,
    /// A job works on it.
    Approved {
        /// Who opened the gate.
        by: String,
    },
    /// Done or given up.
    Closed {
        /// Who closed it.
        by: String,
        /// When.
        at: Seconds,
        /// The pull request that did it.
        pr: Option<PrNo>,
    },
}

/// Front matter of `issues/open/<n>.d/c-<k>.md`; the text follows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Comment {
    /// Who wrote it; `factory` for the kernel.
    pub author: String,
    /// The run whose agent wrote it, or whose words the factory quotes in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
    /// When.
    pub at: Seconds,
    /// Markdown.
    #[serde(skip)]
    pub text: String,
}

/// `drafts/<run>.yaml`: issues that a run asked for and that wait for a day with room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drafts {
    /// The run.
    pub run: RunId,
    /// When it asked; the oldest are filed first.
    pub since: Seconds,
    /// What is to be filed, in this order.
    pub issues: Vec<Draft>,
}

/// `runs/active/<run>.yaml`: one container, one agent, one task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Its name.
    pub id: RunId,
    /// What it is for.
    pub purpose: Purpose,
    /// What its agent is.
    #[serde(default)]
    pub agent: AgentType,
    /// What it may do.
    pub grant: Grant,
    /// Slot number from 0, the lowest that was free.
    pub slot: u32,
    /// Container name.
    pub container: String,
    /// Image id.
    pub image: String,
    /// The container engine's OCI runtime; its own default where none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    /// Hard limits.
    pub limits: Limits,
    /// What it was admitted with.
    #[serde(default)]
    pub requests: Amounts,
    /// Engine; for checks it is not used.
    pub engine: EngineKind,
    /// Model passed to the engine.
    pub model: String,
    /// Commands of a check run.
    pub checks: Vec<String>,
    /// Target commit whose intent layer the run was briefed with.
    pub intent: Oid,
    /// Target commit to merge into the start first.
    pub merge_target: Option<Oid>,
    /// Where the work branch was when the run was granted; none where it did not exist.
    pub branch_tip: Option<Oid>,
    /// What the run was told of the one before it.
    pub feedback: Option<String>,
    /// The engine's name of its session.
    pub session: String,
    /// What it goes on from.
    pub resume: Option<Resume>,
    /// Its newest checkpoint.
    pub checkpoint: Option<Oid>,
    /// Where it stands.
    pub state: RunState,
    /// The factory was told to stop at once while the run was open.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stop_ordered: bool,
    /// Its budget is used up.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub over_budget: bool,
    /// Its issue was edited since: it is ended, and the work begins anew from what it pushed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub outdated: bool,
    /// When it was granted.
    pub created: Seconds,
    /// The newest inbox entry that was consumed.
    pub inbox_seen: Option<Oid>,
    /// The newest commit it pushed.
    pub pushed: Option<Oid>,
    /// Its report, as validated JSON text.
    pub report: Option<String>,
    /// Its last word.
    pub end: Option<RunEnd>,
    /// Sum over its model calls.
    pub usage: UsageTotal,
    /// What they cost.
    #[serde(default, skip_serializing_if = "Spent::is_nothing")]
    pub spent: Spent,
}

/// Sum over the model calls of a run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UsageTotal {
    /// Calls.
    pub calls: u64,
    /// Input tokens, caches included.
    pub input_tokens: u64,
    /// Output tokens.
    pub output_tokens: u64,
    /// Status of the newest call.
    pub last_status: u16,
}

impl UsageTotal {
    /// Adds one call.
    pub fn add(&mut self, usage: &Usage) {
        self.calls += 1;
        let input = [
            usage.input_tokens,
            usage.cache_read_tokens,
            usage.cache_write_tokens,
        ];
        let sum = input
            .into_iter()
            .fold(self.input_tokens, u64::saturating_add);
        self.input_tokens = sum;
        self.output_tokens = self.output_tokens.saturating_add(usage.output_tokens);
        self.last_status = usage.status;
    }
}

/// What a run is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// Splits an instruction into issues.
    Split,
    /// Plans the work on an issue.
    Plan,
    /// Writes code.
    Code,
    /// Reviews the pushed commit.
    Review,
    /// Checks the pushed commit.
    Check,
    /// Checks the merge commit of a pull request.
    MergeTest {
        /// The pull request.
        pr: PrNo,
    },
    /// Looks whether the target, after the merge, does what the issue asks for.
    Verify,
}

impl Purpose {
    /// The role that a run of this purpose has.
    pub fn role(&self) -> Role {
        match self {
            Purpose::Split => Role::Split,
            Purpose::Plan => Role::Plan,
            Purpose::Code => Role::Code,
            Purpose::Review | Purpose::Verify => Role::Review,
            Purpose::Check | Purpose::MergeTest { .. } => Role::Check,
        }
    }
}

/// Where a run stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    /// Granted; its container may or may not exist.
    Starting,
    /// Its container was started.
    Running {
        /// When this was recorded.
        since: Seconds,
    },
    /// It is over; container, workspace and socket are to be removed.
    Ended {
        /// When this was recorded.
        at: Seconds,
        /// How it ended.
        class: ExitClass,
        /// What came of it, one line.
        outcome: String,
    },
}

impl Run {
    /// Runs whose checkpoints nobody needs once this run is collected: its own
    /// when its result is safe, and the one it resumed when there is a newer one.
    pub fn spent_checkpoints(&self) -> Vec<RunId> {
        let ok = matches!(
            &self.state,
            RunState::Ended {
                class: ExitClass::Ok,
                ..
            }
        );
        let safe = ok && !self.handed_nothing_in();
        let own = (safe && !self.keeps_its_session()).then_some(self.id);
        let resumed = self
            .resume
            .as_ref()
            .filter(|_| safe || self.checkpoint.is_some())
            .map(|resume| resume.run);
        own.into_iter().chain(resumed).collect()
    }

    /// True where another round may go on in the session of its engine: its newest checkpoint
    /// stays until that round has one, or the job is over.
    pub fn keeps_its_session(&self) -> bool {
        let resumes = self.purpose == Purpose::Code && engine::can_resume(&self.engine);
        resumes && self.checkpoint.is_some() && !self.handed_nothing_in()
    }

    /// True where none of its work could be handed in: what there is of it is its checkpoint.
    pub fn handed_nothing_in(&self) -> bool {
        let refused = |end: &RunEnd| end.push_problem.is_some();
        self.pushed.is_none() && self.end.as_ref().is_some_and(refused)
    }

    /// True while the gateway serves it.
    pub fn is_open(&self) -> bool {
        match self.state {
            RunState::Starting | RunState::Running { .. } => true,
            RunState::Ended { .. } => false,
        }
    }

    /// True while it is open and not recorded as one that the factory stops.
    pub fn lacks_stop_order(&self) -> bool {
        self.is_open() && !self.stop_ordered
    }
}

/// How a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerExit {
    /// Exit code of pid 1.
    pub code: i64,
    /// The kernel killed a process in it for lack of memory.
    pub oom: bool,
}

/// `effects/<key>.yaml`: something to be done outside `state.git`, recorded before it is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Effect {
    /// Names it: performing it twice under one key is the same as once.
    pub key: String,
    /// What is to be done.
    pub kind: EffectKind,
    /// When it was recorded.
    pub created: Seconds,
}

/// What is to be done outside `state.git`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EffectKind {
    /// Move a work branch in the user's repository, by swap.
    MoveBranch {
        /// The job.
        issue: IssueNo,
        /// The branch.
        branch: String,
        /// Where it must be; none: absent.
        old: Option<Oid>,
        /// Where it goes.
        new: Oid,
    },
    /// Move the target branch to a tested merge commit.
    AdvanceTarget {
        /// The pull request.
        pr: PrNo,
        /// The branch.
        branch: String,
        /// Where it must be.
        old: Oid,
        /// Where it goes.
        new: Oid,
        /// Work tree that had the branch checked out when this was recorded.
        worktree: Option<String>,
    },
}
