//! One factory on several machines: what `refs/factory/*` of a shared remote
//! holds, who goes on from it, and how another machine takes it over.
//!
//! Only one machine goes on at a time. The remote's state names it
//! ([`Meta::holder`](factory_core::model::Meta::holder)), and the remote's state
//! ref is only ever moved by compare-and-swap, so who was taken over cannot
//! overwrite what came after.

mod adopt;
mod exchange;
mod share;

pub use adopt::{AdoptError, Adopted, Branch, TakeOver, branches};
pub use exchange::{Exchange, Found, Pushed, Remote, listed};
pub use share::{changes, wanted};

use crate::git::GitError;
use crate::history::StepNo;
use crate::inbox::InboxError;
use crate::pack::PackError;
use crate::places::PlaceError;
use crate::repo::RepoError;
use crate::state::CommitError;
use crate::store::StoreError;
use factory_core::ids::Oid;
use factory_core::model::{Machine, Meta};
use std::path::PathBuf;

/// Everything of ours on a remote is below this.
pub const PREFIX: &str = "refs/factory/";
/// The state there: it decides who goes on, and is moved by swap.
pub const STATE: &str = "refs/factory/state";
/// The target branch as it was on the machine that synchronised last.
pub const TARGET: &str = "refs/factory/target";

/// Synchronising did not work. Neither side was changed, unless it says so.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The remote cannot be reached, or refuses.
    #[error(
        "cannot {doing} the remote `{remote}`: {said}; see whether this works, then try again\n  git ls-remote {remote}"
    )]
    Remote {
        /// The remote's name.
        remote: String,
        /// What was being done, to continue "cannot".
        doing: &'static str,
        /// What git said, without the remote's address.
        said: String,
    },
    /// What is there is no state of a factory.
    #[error(
        "{STATE} of the remote `{remote}` (commit {oid}) is no state that can be read: {what}; nothing was changed. If nobody goes on from it, remove it, then synchronise again\n  git push {remote} --delete {STATE}"
    )]
    Garbage {
        /// The remote's name.
        remote: String,
        /// Where it is.
        oid: Oid,
        /// What is wrong with it.
        what: String,
    },
    /// A directory or file of ours.
    #[error("cannot {doing} {path}; make it accessible to you and free some space", path = path.display())]
    Io {
        /// What was being done with it.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A call of git in a repository of ours.
    #[error(transparent)]
    Git(#[from] GitError),
    /// Our places.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// Our repositories or the user's.
    #[error(transparent)]
    Repo(#[from] RepoError),
    /// The state.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A step of the state.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// Refs of ours.
    #[error(transparent)]
    Refs(#[from] PackError),
    /// Inboxes.
    #[error(transparent)]
    Inbox(#[from] InboxError),
}

/// How the state here stands to the one on the remote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// This machine goes on: its state belongs there.
    Ours,
    /// This machine went on before; the remote says that another one does now.
    TakenOver(Machine),
    /// This is a copy of the machine that goes on, or its folder was moved to another file system.
    Copy(Machine),
    /// The state here never was on the remote; another machine's is.
    Taken(Option<Machine>),
    /// Another repository's factory is there.
    Foreign,
    /// This machine goes on, but its state is older than what it synchronised.
    Behind,
}

/// Judges the remote's state by the one here, of the factory `home`.
/// `contains`: the remote's newest step is in the history of the state here.
pub fn judge(here: &Meta, home: &str, there: Option<&Found>, contains: bool) -> Standing {
    let Some(there) = there else {
        return Standing::Ours;
    };
    if there.meta.repository != here.repository {
        return Standing::Foreign;
    }
    match (&there.meta.holder, &here.holder) {
        (Some(holder), _) if holder.home == home => {
            let step = |meta: &Meta| StepNo {
                epoch: meta.epoch.0,
                n: meta.step,
            };
            // A state that was restored has a higher epoch, and perhaps another history.
            match contains || step(here) > step(&there.meta) {
                true => Standing::Ours,
                false => Standing::Behind,
            }
        }
        (Some(holder), Some(before)) if before.home == home => Standing::TakenOver(holder.clone()),
        (Some(holder), Some(_)) => Standing::Copy(holder.clone()),
        (holder, _) => Standing::Taken(holder.clone()),
    }
}
