//! How runs end, and what each way of ending leads to.

use crate::{
    grant::Role,
    inbox::{EngineExit, RunEnd},
    model::{ContainerExit, Run},
};
use serde::{Deserialize, Serialize};
use std::fmt;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExitClass {
    /// It came to its own end; what it pushed, or its verdict, decides.
    Ok,
    /// The engine broke off.
    EngineError,
    /// The model provider refused, or the engine cannot run at all.
    Refused,
    /// The kernel killed a process of it for lack of memory.
    OutOfMemory,
    /// It took longer than `limits.wall`.
    TimedOut,
    /// Its engine was silent for longer than `limits.stall`.
    Stalled,
    /// Its workspace took more than `limits.disk`.
    OutOfDisk,
    /// It used up its budget.
    OverBudget,
    /// Somebody ended its container, or the factory was stopped.
    Killed,
    /// Its container vanished or could not be made, or it ended without a word.
    Lost,
}

/// What follows the end of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Nothing: the job goes on.
    None,
    /// Another round, which counts towards `rounds`.
    Round,
    /// The same again, at most [`MAX_LOSSES`] times in a row; not a round.
    Again,
    /// The same again with twice the memory, once; not a round.
    Doubled,
    /// A person.
    Human,
}

/// Longest wait between two tries, in seconds.
pub const LONGEST_BACKOFF: i64 = 300;

/// Runs lost in a row, by no fault of their own, until a person must look.
pub const MAX_LOSSES: u32 = 3;

impl ExitClass {
    /// The documented retry policy.
    pub fn retry(self) -> Retry {
        match self {
            ExitClass::Ok => Retry::None,
            ExitClass::EngineError
            | ExitClass::TimedOut
            | ExitClass::Stalled
            | ExitClass::OutOfDisk
            | ExitClass::OverBudget => Retry::Round,
            ExitClass::Refused => Retry::Human,
            ExitClass::OutOfMemory => Retry::Doubled,
            ExitClass::Killed | ExitClass::Lost => Retry::Again,
        }
    }

    /// Seconds to wait before the `n`-th try in a row (from 1) after this end:
    /// doubling from one second, at most five minutes.
    pub fn backoff(self, n: u32) -> i64 {
        match self.retry() {
            Retry::None | Retry::Human | Retry::Doubled => 0,
            Retry::Round | Retry::Again => 1_i64 << n.saturating_sub(1).min(9),
        }
        .min(LONGEST_BACKOFF)
    }

    /// The word used in files and for people.
    pub fn as_str(self) -> &'static str {
        match self {
            ExitClass::Ok => "ok",
            ExitClass::EngineError => "engine error",
            ExitClass::Refused => "refused",
            ExitClass::OutOfMemory => "out of memory",
            ExitClass::TimedOut => "timed out",
            ExitClass::Stalled => "stalled",
            ExitClass::OutOfDisk => "out of disk",
            ExitClass::OverBudget => "over budget",
            ExitClass::Killed => "killed",
            ExitClass::Lost => "lost",
        }
    }
}

impl fmt::Display for ExitClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The class of an end that the container and the agent's last word tell, before
/// the engine's own words are looked at.
pub fn outside(run: &Run, exit: Option<ContainerExit>) -> Option<ExitClass> {
    let killed_for_memory =
        |end: &RunEnd| matches!(end.exit, EngineExit::Signal(9) | EngineExit::Code(137));
    match (&run.end, exit) {
        // `oom` is sticky and may mean a child that the engine outlived.
        (Some(end), Some(ContainerExit { oom: true, .. })) if killed_for_memory(end) => {
            Some(ExitClass::OutOfMemory)
        }
        (None, Some(ContainerExit { oom: true, .. })) => Some(ExitClass::OutOfMemory),
        (Some(end), _) => match end.exit {
            EngineExit::Deadline => Some(ExitClass::TimedOut),
            EngineExit::Stalled => Some(ExitClass::Stalled),
            EngineExit::OutOfDisk => Some(ExitClass::OutOfDisk),
            EngineExit::Stopped => Some(ExitClass::Killed),
            EngineExit::Code(_)
            | EngineExit::Signal(_)
            | EngineExit::NotStarted(_)
            | EngineExit::NoWorkspace(_) => None,
        },
        // A check's verdict is its exit code; it needs no last word.
        (
            None,
            Some(ContainerExit {
                code: 0 | 1 | 124 | 125,
                ..
            }),
        ) if run.grant.role == Role::Check => None,
        (
            None,
            Some(ContainerExit {
                code: 137 | 143, ..
            }),
        ) => Some(ExitClass::Killed),
        (None, _) => Some(ExitClass::Lost),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_doubles_and_is_bounded() {
        let waits: Vec<i64> = (1..=12).map(|n| ExitClass::Lost.backoff(n)).collect();
        assert_eq!(waits[..4], [1, 2, 4, 8]);
        assert_eq!(waits[7..10], [128, 256, 300]);
        assert_eq!(waits[11], 300);
        assert_eq!(ExitClass::Refused.backoff(1), 0);
    }
}
