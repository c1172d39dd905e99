//! The gateway's failpoints: see [`factory_ledger::failpoint`].

use crate::stores::Timing;
use factory_core::inbox::InboxEntry;
use factory_ledger::failpoint;
pub(crate) use factory_ledger::failpoint::Process::{self, Gateway};

/// `timing`, with every wait for a provider as short as a test wants it
/// (`FAILPOINTS=gateway-waits=return(<milliseconds>)`).
pub(crate) fn waits(timing: Timing) -> Timing {
    let millis = failpoint::value("gateway-waits").and_then(|text| text.parse().ok());
    match millis.map(std::time::Duration::from_millis) {
        None => timing,
        Some(wait) => Timing {
            stream_silence: wait,
            header_wait: wait,
            first_backoff: wait / 20,
            ..timing
        },
    }
}

/// Writes `entry` to an inbox by `commit`, between the two failpoints of its kind.
pub(crate) fn around<T, E>(
    entry: &InboxEntry,
    commit: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    let kind = match entry {
        InboxEntry::Push { .. } => "push",
        InboxEntry::Usage(_) => "usage",
        InboxEntry::OverBudget => "over-budget",
        InboxEntry::Checkpoint { .. } => "checkpoint",
        InboxEntry::Report { .. } => "report",
        InboxEntry::End(_) => "end",
    };
    step(kind, commit)
}

/// Does `work` between the two failpoints of `what`.
pub(crate) fn step<T, E>(what: &str, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    failpoint::around(Gateway, what, work)
}
