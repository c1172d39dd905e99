//! Why a push is refused, in words for the agent that reads them.

use factory_core::brief::{AGENT_EMAIL, AGENT_NAME};
use factory_core::ids::Oid;

/// Why a push was refused. The text is the rule; [`PushRefusal::advice`] is the
/// next step for the agent that reads it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PushRefusal {
    /// The grant names no branch.
    #[error("this run may not push: its role has no branch")]
    NoBranch,
    /// The run has ended, or is ending.
    #[error("this run has ended and pushes nothing more")]
    Ended,
    /// A ref other than the run's own, or more than one. (Checkpoints are the
    /// agent's business; no engine needs to be told of them.)
    #[error("this run pushes exactly one ref, refs/heads/{branch}")]
    WrongRef {
        /// The branch of the grant, without `refs/heads/`.
        branch: String,
    },
    /// The run's branch or checkpoint was to be deleted.
    #[error("a ref is never deleted by a run")]
    Deletion,
    /// The new tip does not contain the old one (or the commit the run started from).
    #[error(
        "only fast-forward pushes are accepted: {new} does not contain {tip}, the branch's present tip"
    )]
    NotFastForward {
        /// Where the branch stands.
        tip: Oid,
        /// What was to replace it.
        new: Oid,
    },
    /// The client compared with a tip that another push replaced meanwhile.
    #[error("the branch moved to {tip} while this push was under way")]
    Moved {
        /// Where the branch stands.
        tip: Oid,
    },
    /// A checkpoint that another history than the run's leads to.
    #[error("a checkpoint's first parent contains {start}, the commit that the run started from")]
    ForeignCheckpoint {
        /// Where the run started.
        start: Oid,
    },
    /// More than the limit of one push.
    #[error("a push carries at most {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// A file, a commit or all of it is larger than may be.
    #[error("{rule}")]
    Bulk {
        /// The limit, and what is beyond it.
        rule: String,
    },
    /// A commit with more parents than are read.
    #[error("a commit has at most {limit} parents, and {commit} has more")]
    Parents {
        /// The commit.
        commit: Oid,
        /// The limit.
        limit: usize,
    },
    /// An object that is neither in the push nor in a history that the run may know.
    #[error(
        "a push brings what it names: {object}{} is not in it, nor in the history that this run began from", at(.path)
    )]
    Foreign {
        /// The object.
        object: String,
        /// Where it stands; empty where that is not told.
        path: String,
    },
    /// A commit by somebody else.
    #[error("a run's commits are by {AGENT_NAME} <{AGENT_EMAIL}>; the {part} of {commit} is {has}")]
    Identity {
        /// The commit.
        commit: Oid,
        /// Author or committer.
        part: &'static str,
        /// Who is named there.
        has: String,
        /// Where the branch stands, when it is not the newest commit that is meant.
        since: Option<Oid>,
    },
    /// What it changes breaks rules of the repository.
    #[error("what a push changes keeps the repository's rules")]
    Rules {
        /// Each with path, line, rule and what to do; a few.
        found: Vec<String>,
    },
    /// Our disk is full.
    #[error("the disk that the factory works on is full")]
    NoRoom,
    /// An object is malformed, or something that it names is missing.
    #[error("every pushed object must pass git's fsck")]
    Fsck {
        /// What git found, a few lines.
        found: Vec<String>,
    },
    /// The request or its pack could not be understood.
    #[error("this push cannot be read: {problem}")]
    Unreadable {
        /// What is wrong with it.
        problem: String,
    },
}

impl PushRefusal {
    /// A few words for git's `[remote rejected] … (reason)`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoBranch => "this run may not push",
            Self::Ended => "this run has ended",
            Self::WrongRef { .. } => "not this run's branch",
            Self::Deletion => "deletion refused",
            Self::NotFastForward { .. } => "not a fast-forward",
            Self::Moved { .. } => "the branch moved meanwhile",
            Self::ForeignCheckpoint { .. } => "not a checkpoint of this run",
            Self::TooLarge { .. } | Self::Bulk { .. } => "too large",
            Self::Parents { .. } => "too many parents",
            Self::Foreign { .. } => "it names what it does not bring",
            Self::Identity { .. } => "not this run's commits",
            Self::Rules { .. } => "rules of the repository",
            Self::NoRoom => "no space left on the factory's disk",
            Self::Fsck { .. } => "fsck failed",
            Self::Unreadable { .. } => "unreadable push",
        }
    }

    /// Further lines for the reader: what git said.
    pub fn details(&self) -> &[String] {
        match self {
            Self::Fsck { found } | Self::Rules { found } => found,
            Self::NoBranch
            | Self::Ended
            | Self::WrongRef { .. }
            | Self::Deletion
            | Self::NotFastForward { .. }
            | Self::Moved { .. }
            | Self::ForeignCheckpoint { .. }
            | Self::TooLarge { .. }
            | Self::Bulk { .. }
            | Self::Parents { .. }
            | Self::Foreign { .. }
            | Self::Identity { .. }
            | Self::NoRoom
            | Self::Unreadable { .. } => &[],
        }
    }

    /// What to do next.
    pub fn advice(&self) -> String {
        match self {
            Self::NoBranch => "leave the result in this run's report instead of a commit".to_owned(),
            Self::Ended => "nothing; what was pushed before is kept".to_owned(),
            Self::WrongRef { branch } => format!("git push origin HEAD:refs/heads/{branch}"),
            Self::Deletion => "leave the branch; push a commit that reverts what is unwanted".to_owned(),
            Self::NotFastForward { tip, .. } => {
                format!(
                    "add commits on top of {tip} instead of rewriting it (for example `git rebase {tip}`), then push without --force"
                )
            }
            Self::Moved { .. } => "push again".to_owned(),
            Self::ForeignCheckpoint { start } => {
                format!("commit the work on a history that goes on from {start}, then push again")
            }
            Self::Parents { .. } => {
                "merge the branches one after the other, or a few at a time, instead of in this commit, then push again".to_owned()
            }
            Self::Foreign { .. } => {
                "push again with a plain `git push` from this run's own repository".to_owned()
            }
            Self::Identity { since: None, .. } => {
                "git commit --amend --no-edit --reset-author, then push again".to_owned()
            }
            Self::Identity { since: Some(since), .. } => format!(
                "git rebase {since} --exec 'git commit --amend --no-edit --reset-author', then push again"
            ),
            Self::Rules { .. } => {
                "mend what is named in the commits since the last push (`git rebase`, `git commit --amend`): what a later commit takes away is pushed all the same; then push again".to_owned()
            }
            Self::TooLarge { .. } | Self::Bulk { .. } => {
                "remove large or generated files from the commits since the last push, then push again".to_owned()
            }
            Self::NoRoom => {
                "it is not the commits' fault: keep them, wait a minute, then push again".to_owned()
            }
            Self::Fsck { .. } => "make the named object again (for example amend the commit), then push again".to_owned(),
            Self::Unreadable { .. } => "push again with a plain `git push`".to_owned(),
        }
    }
}

/// ` at <path>`, where there is one.
fn at(path: &str) -> String {
    match path {
        "" => String::new(),
        path => format!(" at `{path}`"),
    }
}
