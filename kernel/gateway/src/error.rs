//! What can go wrong in the gateway itself.

use factory_core::ids::RunId;
use factory_ledger::git::GitError;
use std::path::PathBuf;

/// Why the gateway, or one call to it, failed. Refusals of what a run asks for
/// are answers, not errors.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GatewayError {
    /// `door.git` could not be used.
    #[error("door.git could not be used; `git fsck` in it says more")]
    Door {
        /// Why.
        #[source]
        source: factory_ledger::repo::RepoError,
    },
    /// A transcript could not be kept in `door.git`.
    #[error("the transcript of run {run} could not be kept in door.git; its file is still there")]
    Transcript {
        /// The run.
        run: RunId,
        /// Why.
        #[source]
        source: GitError,
    },
    /// The directories could not be made.
    #[error("the factory's directories could not be used")]
    Places {
        /// Why.
        #[source]
        source: factory_ledger::places::PlaceError,
    },
    /// `state.git` could not be made.
    #[error("state.git could not be opened; is the disk full?")]
    State {
        /// Why.
        #[source]
        source: factory_ledger::store::StoreError,
    },
    /// An inbox could not be read or written.
    #[error("the inbox in state.git could not be used; is the disk full?")]
    Inbox {
        /// Why.
        #[source]
        source: factory_ledger::inbox::InboxError,
    },
    /// The grants could not be read from the state.
    #[error("the grants could not be read from state.git; `factory state verify` says more")]
    Grants {
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file or socket could not be used.
    #[error("{path} could not be {what}; check the folder's owner and free space", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was to be done with it.
        what: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A socket could not be bound.
    #[error("the socket {path} could not be bound; check the folder's owner and free space", path = path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The gateway cannot hear SIGTERM.
    #[error("the handler of SIGTERM could not be set")]
    Signal {
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The lock of the gateway could not be used.
    #[error("the gateway's lock could not be taken; check the owner of state.git")]
    Lock {
        /// Why.
        #[source]
        source: factory_ledger::lock::LockError,
    },
    /// Another gateway holds the lock and did not give way.
    #[error("another gateway holds {path} and did not give way; end it, then start again", path = lock.display())]
    Busy {
        /// The lock.
        lock: PathBuf,
    },
    /// The keys on standard input could not be read.
    #[error(
        "the model keys on standard input are no JSON object of names and values; start with `factory start`"
    )]
    Keys {
        /// Why. Names no value.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A worker thread ended before its work.
    #[error("a worker of the gateway ended before its work")]
    Worker {
        /// Why.
        #[source]
        source: tokio::task::JoinError,
    },
}

/// The error and everything below it, for a log line or a status.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut below = error.source();
    while let Some(source) = below {
        text.push_str(": ");
        text.push_str(&source.to_string());
        below = source.source();
    }
    text
}
