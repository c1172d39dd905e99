//! Inbox entries: what the gateway writes to `refs/inbox/<run>` in `state.git`,
//! one fsynced commit each, before the agent gets its answer.

use crate::ids::Oid;
use serde::{Deserialize, Serialize};

/// One thing that a run did, in the order in which it happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum InboxEntry {
    /// An accepted push to the run's own branch; `old` is the grant's start for a
    /// first push.
    Push {
        /// Tip before.
        old: Oid,
        /// Tip after.
        new: Oid,
    },
    /// One call of a model.
    Usage(Usage),
    /// The run's budget is used up: a call was not forwarded.
    OverBudget,
    /// Work in progress was saved: a commit whose tree holds `work` (the work
    /// tree) and, where the engine has one, `session`; its parent is the run's
    /// HEAD at that moment.
    Checkpoint {
        /// The commit, in `door.git`.
        commit: Oid,
    },
    /// A report that passed the schema of the run's role, as JSON text.
    Report {
        /// The validated JSON text.
        json: String,
    },
    /// The run's last word; nothing is accepted afterwards.
    End(RunEnd),
}

/// What one model call used, as the provider counted it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Usage {
    /// Model named in the answer, or in the request where no answer came.
    pub model: String,
    /// HTTP status given to the engine.
    pub status: u16,
    /// Milliseconds from request to last byte.
    pub millis: u64,
    /// Input tokens, not from a cache.
    pub input_tokens: u64,
    /// Output tokens.
    pub output_tokens: u64,
    /// Input tokens written to the provider's cache.
    pub cache_write_tokens: u64,
    /// Input tokens read from the provider's cache.
    pub cache_read_tokens: u64,
    /// The answer's stream broke before its end; the counts are what was seen.
    pub cut: bool,
}

/// How a run ended, told by `factory-agent`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunEnd {
    /// How the engine (or the last check command) ended.
    pub exit: EngineExit,
    /// Last line the engine wrote to standard output, at most 64 KiB; for a
    /// check run the trimmed output of the failing command, at most 16 KiB.
    pub last_output: String,
    /// Tail of standard error, at most 4 KiB.
    pub stderr_tail: String,
    /// What is wrong with the run's report, where it left an unreadable one.
    pub report_problem: Option<String>,
    /// Why the last push was refused, where it was.
    pub push_problem: Option<String>,
}

/// How the engine process ended, as its parent saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EngineExit {
    /// It exited with this code.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
    /// The agent ended it at the deadline.
    Deadline,
    /// The agent ended it since it said nothing for longer than it may.
    Stalled,
    /// The agent ended it since its workspace took more than it may.
    OutOfDisk,
    /// Somebody told the agent to stop, and it did not end well by itself.
    Stopped,
    /// It never started; the text says why.
    NotStarted(String),
    /// The workspace could not be prepared; the text says why.
    NoWorkspace(String),
}
