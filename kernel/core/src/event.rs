//! What can happen, and why it may be refused.

use crate::{
    config::Config,
    ids::{IssueNo, Oid, PrNo, RunId},
    inbox::InboxEntry,
    model::{
        Change, Conflict, ContainerExit, Ending, IllegalTransition, KernelId, Machine, PrState,
        Purpose, Seconds,
    },
    rules::ToldPaths,
};

/// The time of an event: UTC, given by the shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now(pub Seconds);

/// Everything that is journalled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A kernel took the lock.
    KernelStarted {
        /// Who it is.
        kernel: KernelId,
        /// Runs whose containers live on from before.
        adopted: Vec<RunId>,
    },
    /// Another configuration is in force.
    ConfigLoaded {
        /// Commit it came from.
        commit: Option<Oid>,
        /// The configuration.
        config: Box<Config>,
    },
    /// Work starts from and merges into another branch from now on.
    TargetChanged {
        /// The branch.
        branch: String,
    },
    /// The state is synchronised with a remote from now on.
    Shared {
        /// This machine.
        machine: Machine,
    },
    /// Another machine goes on with the work. What ran on the one before is not
    /// here; its inboxes, as far as they were synchronised, were read before.
    TakenOver {
        /// The machine that goes on.
        machine: Machine,
    },
    /// Runs of the repository that this one is a copy of. They go on there, and
    /// are done again here; their inboxes, as far as they were copied, were read before.
    RunsElsewhere {
        /// The runs.
        runs: Vec<RunId>,
    },
    /// Somebody asked for something.
    Command {
        /// Who: a person, or `factory.yaml` for an automatic gate.
        by: String,
        /// What.
        command: Command,
    },
    /// A slot was given to a run.
    RunGranted {
        /// The job.
        job: IssueNo,
        /// What the run is for.
        purpose: Purpose,
        /// The slot.
        slot: u32,
        /// What the shell looked up for it.
        facts: GrantFacts,
    },
    /// The run's container was started.
    RunRunning {
        /// The run.
        run: RunId,
    },
    /// The run's container could not be made.
    SpawnFailed {
        /// The run.
        run: RunId,
        /// What is wrong and what to do.
        why: String,
    },
    /// The next entries of the run's inbox, in order.
    Inbox {
        /// The run.
        run: RunId,
        /// The entries with their commits.
        entries: Vec<(Oid, InboxEntry)>,
    },
    /// The run's container ended; its inbox was read to the end before.
    ContainerEnded {
        /// The run.
        run: RunId,
        /// How; none where the container vanished.
        exit: Option<ContainerExit>,
    },
    /// The factory was told to end. Where that is at once, the end of a run that is open
    /// now counts for nothing; it is journalled before any container is told.
    EndOrdered {
        /// How.
        how: Ending,
    },
    /// The factory ends as it was told.
    EndReached,
    /// Container, workspace and socket of an ended run are gone.
    RunCollected {
        /// The run.
        run: RunId,
    },
    /// An effect was performed, or cannot be.
    EffectDone {
        /// Its key.
        key: String,
        /// What came of it.
        result: EffectResult,
    },
    /// The day has room for drafts.
    DraftsDue,
    /// A pull request was merged with the target in our own repository.
    MergeMade {
        /// The pull request.
        pr: PrNo,
        /// Target commit it was merged with.
        target: Oid,
        /// What came of it.
        result: MergeResult,
    },
    /// The merge of a job's work with every open pull request was tried.
    Compared {
        /// The job.
        job: IssueNo,
        /// The commit that is to be proposed.
        commit: Oid,
        /// What it conflicts with.
        conflicts: Vec<Conflict>,
    },
    /// Merging a pull request in our own repository failed again and again: it is given up.
    MergeFailed {
        /// The pull request.
        pr: PrNo,
        /// What is wrong.
        why: String,
    },
}

impl Event {
    /// One word for what kind of event it is. Of several inbox entries the one that decides most.
    pub fn kind(&self) -> &'static str {
        match self {
            Event::KernelStarted { .. } => "kernel-started",
            Event::ConfigLoaded { .. } => "config",
            Event::TargetChanged { .. } => "target",
            Event::Command { command, .. } => match command {
                Command::NewIssue { .. } => "new-issue",
                Command::Instruct { .. } => "instruct",
                Command::EditIssue { .. } => "edit-issue",
                Command::RequestChanges { .. } => "request-changes",
                Command::Approve(_) => "approve",
                Command::CloseIssue(_) => "close-issue",
                Command::Comment { .. } => "comment",
                Command::MergePr(_) => "merge-pr",
                Command::RejectPr { .. } => "reject-pr",
                Command::Label { .. } => "label",
                Command::Depend { .. } => "depend",
                Command::Hold(_) => "hold",
                Command::Release(_) => "release",
                Command::Bump(_) => "bump",
                Command::Retry(_) => "retry",
                Command::Cancel(_) => "cancel-job",
                Command::Freeze => "freeze",
                Command::Thaw => "thaw",
            },
            Event::RunGranted { .. } => "grant",
            Event::RunRunning { .. } => "running",
            Event::SpawnFailed { .. } => "spawn-failed",
            Event::Inbox { entries, .. } => {
                let of = |entry: &InboxEntry| match entry {
                    InboxEntry::Push { .. } => (4, "push"),
                    InboxEntry::End(_) => (3, "end"),
                    InboxEntry::Report { .. } => (2, "report"),
                    InboxEntry::Checkpoint { .. } => (1, "checkpoint"),
                    InboxEntry::OverBudget => (1, "over-budget"),
                    InboxEntry::Usage(_) => (0, "usage"),
                };
                let most = entries.iter().map(|(_, entry)| of(entry)).max();
                most.map_or("inbox", |(_, kind)| kind)
            }
            Event::ContainerEnded { .. } => "ended",
            Event::EndOrdered { .. } => "end-ordered",
            Event::EndReached => "end-reached",
            Event::RunCollected { .. } => "collected",
            Event::EffectDone { .. } => "effect-done",
            Event::DraftsDue => "drafts-due",
            Event::MergeMade { .. } => "merge-made",
            Event::Compared { .. } => "compared",
            Event::MergeFailed { .. } => "merge-failed",
            Event::Shared { .. } => "shared",
            Event::TakenOver { .. } => "taken-over",
            Event::RunsElsewhere { .. } => "runs-elsewhere",
        }
    }
}

/// What a person (or an automatic gate) asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// File an issue.
    NewIssue {
        /// One line.
        title: String,
        /// Markdown.
        body: String,
        /// Labels.
        labels: Vec<String>,
        /// Of the issues that the body says it depends on, those that are done.
        done: Vec<IssueNo>,
    },
    /// Have an instruction split into issues, and those worked on.
    Instruct {
        /// What is wanted; its first line is the title.
        text: String,
        /// Its issues are approved as soon as they are filed.
        auto_approve: bool,
    },
    /// Change what an issue asks for; its job begins again with its plan.
    EditIssue {
        /// The issue.
        issue: IssueNo,
        /// One line; none leaves it.
        title: Option<String>,
        /// Markdown; none leaves it.
        body: Option<String>,
    },
    /// Open the gate from issue to job, from plan to code, or from an instruction to its issues; also tries again what needed a person.
    Approve(IssueNo),
    /// Give an issue up; ends its runs and closes its pull request.
    CloseIssue(IssueNo),
    /// Comment on an issue.
    Comment {
        /// The issue.
        issue: IssueNo,
        /// Markdown.
        text: String,
    },
    /// Change the labels of an issue.
    Label {
        /// The issue.
        issue: IssueNo,
        /// Labels to put on. A priority takes the place of another.
        add: Vec<String>,
        /// Labels to take off.
        remove: Vec<String>,
    },
    /// Change what must be done before an issue.
    Depend {
        /// The issue.
        issue: IssueNo,
        /// What must be done before.
        on: Vec<IssueNo>,
        /// What need not be any more.
        off: Vec<IssueNo>,
    },
    /// Begin nothing of a job until it is released.
    Hold(IssueNo),
    /// Let a held job go on.
    Release(IssueNo),
    /// Put a job in front of all others.
    Bump(IssueNo),
    /// Try again now what rests, or what needed a person.
    Retry(IssueNo),
    /// End a job; its issue waits at its gate again.
    Cancel(IssueNo),
    /// Stop all agents, and begin nothing until [`Command::Thaw`].
    Freeze,
    /// Lift the emergency stop, and end the pauses after failures.
    Thaw,
    /// Open the gate from pull request to merge.
    MergePr(PrNo),
    /// Send a pull request back to its job.
    RequestChanges {
        /// The pull request.
        pr: PrNo,
        /// What is to be changed; becomes a comment that the next run reads.
        text: String,
    },
    /// Close a pull request; its issue waits at the gate again.
    RejectPr {
        /// The pull request.
        pr: PrNo,
        /// Why; becomes a comment that the next run reads.
        reason: String,
    },
}

/// What the shell looked up before a run is granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantFacts {
    /// Name of this factory on this host.
    pub home: String,
    /// Commit the run starts from.
    pub start: Oid,
    /// Target commit to merge first, where the start lacks it.
    pub merge_target: Option<Oid>,
    /// Where the work branch is; none where it does not exist.
    pub branch_tip: Option<Oid>,
    /// Target commit whose intent layer is used.
    pub intent: Oid,
    /// Image id.
    pub image: String,
    /// An old session would have to be told too much: begin a new one.
    pub fresh_session: bool,
}

/// What came of an effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EffectResult {
    /// The target is moved, now or before.
    Done,
    /// The work branch is moved, now or before.
    Moved {
        /// What the commit changes.
        change: Change,
    },
    /// The work branch holds somebody else's commit, which is never replaced.
    BranchTaken {
        /// The commit found, and what it changes; none where the branch was deleted.
        found: Option<(Oid, Change)>,
    },
    /// The work branch is checked out in a work tree of the user.
    BranchCheckedOut {
        /// That work tree.
        worktree: String,
    },
    /// The target branch moved since the merge commit was made.
    TargetMoved,
    /// Another work tree has the target checked out than the one that was recorded.
    WorktreeChanged {
        /// That work tree; none where no work tree has it.
        worktree: Option<String>,
    },
    /// The target's work tree is in the way.
    TargetRefused {
        /// What is in the way and what to do.
        why: String,
    },
    /// It failed again and again: it is given up.
    Failed {
        /// What is wrong.
        why: String,
    },
}

/// What came of merging a pull request with the target in our own repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MergeResult {
    /// The merge commit exists.
    Clean {
        /// The merge commit.
        merge: Oid,
        /// Its tree is that of the pull request's head.
        tree_is_heads: bool,
        /// Work tree that has the target checked out.
        worktree: Option<String>,
        /// Changed paths that only a person may merge.
        protected: ToldPaths,
        /// What the merge changes of the target.
        change: Change,
    },
    /// It breaks rules that the target enforces.
    Forbidden {
        /// What breaks which rule, a line each.
        findings: String,
        /// Who made the newest commit, where that was no run.
        person: Option<String>,
    },
    /// The target's work tree is in the way, so the merge could not be completed.
    Blocked {
        /// What is in the way and what to do.
        why: String,
    },
    /// The changes contradict each other.
    Conflict {
        /// Files in conflict.
        paths: Vec<String>,
    },
    /// The target holds the head already.
    AlreadyMerged,
    /// The work branch is not at the head any more: somebody worked on it.
    BranchMoved {
        /// Where it is.
        found: Oid,
        /// What that commit changes.
        change: Change,
    },
}

/// Why an event changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A job would go where it cannot go from where it stands.
    #[error(transparent)]
    Illegal(#[from] IllegalTransition),
    /// There is no such open issue.
    #[error("there is no open issue {0}")]
    NoSuchIssue(IssueNo),
    /// There is no such open pull request.
    #[error("there is no open pull request {0}")]
    NoSuchPr(PrNo),
    /// The issue's job is under way.
    #[error("issue {0} is approved already")]
    AlreadyApproved(IssueNo),
    /// Nobody can split instructions.
    #[error(
        "nothing splits instructions into issues here: factory.yaml names an own command as `engine`. Name one that can with `stages: {{split: {{engine: claude}}}}`, or file issues with `factory issue new`"
    )]
    NoSplitter,
    /// The issue cannot be edited now.
    #[error("issue {0} cannot be edited now: its pull request is being merged")]
    Merging(IssueNo),
    /// The issue's job has no open pull request.
    #[error("issue {0} has no open pull request")]
    NoOpenPr(IssueNo),
    /// What follows `/factory` in a comment is no order.
    #[error("orders are {0}")]
    NoSuchOrder(&'static str),
    /// No job works on the issue.
    #[error("issue {0} has no job: it is not approved, or it is done")]
    NoSuchJob(IssueNo),
    /// The job is not where the command could do anything.
    #[error("job {job} {why}")]
    Job {
        /// The job.
        job: IssueNo,
        /// What keeps it from that, as the rest of a sentence.
        why: String,
    },
    /// All agents are stopped already.
    #[error("all agents are stopped already, by {0}")]
    Frozen(String),
    /// There is no emergency stop to lift, and no pause.
    #[error("nothing is stopped or paused")]
    NotFrozen,
    /// A label cannot be put on or taken off.
    #[error("label `{label}` {why}")]
    Label {
        /// The label.
        label: String,
        /// Why not, as the rest of a sentence.
        why: String,
    },
    /// An issue would have to be done before itself.
    #[error("issue {0} cannot depend on itself")]
    DependsOnItself(IssueNo),
    /// Issues would wait for each other.
    #[error("that would make a cycle: {}", cycle(.0))]
    Cycle(Vec<IssueNo>),
    /// The issue does not depend on that one.
    #[error("issue {issue} does not depend on #{on}")]
    DoesNotDepend {
        /// The issue.
        issue: IssueNo,
        /// The other.
        on: IssueNo,
    },
    /// What is written after `Depends-on:` names no issue.
    #[error("`Depends-on: {0}` names no issue; write `Depends-on: #3, #4`")]
    Dependency(String),
    /// What is written after `Touches:` is not in the repository.
    #[error(
        "`Touches:`: `{0}` leads out of the repository; write paths from its top, like `Touches: src/auth, docs`"
    )]
    Touches(String),
    /// The pull request is not at the merge gate.
    #[error("pull request {pr} {}", describe(.state))]
    NotAtGate {
        /// The pull request.
        pr: PrNo,
        /// Where it stands instead.
        state: Box<PrState>,
    },
    /// A text that must be there is empty.
    #[error("the {0} is empty")]
    Empty(&'static str),
    /// A text is too long.
    #[error("the {what} has {bytes} bytes; at most {limit} are kept")]
    TooLong {
        /// Which text.
        what: &'static str,
        /// How long it is.
        bytes: usize,
        /// How long it may be.
        limit: usize,
    },
    /// The event belongs to something that is over; it is dropped.
    #[error("{0} has moved on")]
    Stale(String),
}

fn cycle(issues: &[IssueNo]) -> String {
    let names: Vec<String> = issues.iter().map(|issue| format!("#{issue}")).collect();
    names.join(" waits for ")
}

/// A pull request's state as the rest of a sentence.
pub fn describe(state: &PrState) -> String {
    match state {
        PrState::Ready => "waits at the merge gate".to_owned(),
        PrState::Reworking => "is being worked on again; wait for its next version".to_owned(),
        PrState::Queued { by, .. } => format!("is already queued for merging (by {by})"),
        PrState::Testing { by, .. } => format!("is already being tested for merging (by {by})"),
        PrState::Advancing { by, .. } => format!("is already being merged (by {by})"),
        PrState::Merged { merge, .. } => format!("was merged as {}", merge.short()),
        PrState::Closed { reason, .. } => format!("was closed: {reason}"),
    }
}
