//! What `state.git` keeps of this machine alone: that another one has taken
//! over, and the remote that is synchronised with.

use crate::state::StateRepo;
use crate::store::{StoreError, SwapError};
use factory_core::ids::Oid;
use factory_core::model::{Machine, Seconds};
use git2::Repository;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Its file says who took over. While it is there, nothing is added to the state.
const TAKEN_OVER_REF: &str = "refs/taken-over";
/// The key of `state.git`'s configuration that names the remote.
const REMOTE_KEY: &str = "factory.remote";

/// Another machine goes on with the work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenOver {
    /// That machine.
    pub by: Machine,
    /// The remote over which this was learned.
    pub remote: String,
    /// Time of the remote's newest step when it was learned.
    pub newest: Seconds,
    /// Steps made here that the other machine does not have.
    pub left: u64,
}

impl fmt::Display for TakenOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.by.host)
    }
}

impl StateRepo {
    /// Who has taken this factory over, as far as this machine knows.
    pub fn taken_over(&self) -> Result<Option<TakenOver>, StoreError> {
        self.store.with(|repo| self.mark(repo))
    }

    pub(crate) fn mark(&self, repo: &Repository) -> Result<Option<TakenOver>, StoreError> {
        let Some(oid) = self.store.tip(repo, TAKEN_OVER_REF)? else {
            return Ok(None);
        };
        let failed = |e| self.store.failed(format!("read {TAKEN_OVER_REF}"), e);
        let id = self.store.git_oid(&oid)?;
        let blob = repo.find_blob(id).map_err(failed)?;
        serde_json::from_slice(blob.content())
            .map(Some)
            .map_err(|e| failed(git2::Error::from_str(&e.to_string())))
    }

    /// Records that another machine has taken over. From now on no step lands here.
    pub fn mark_taken_over(&self, taken: &TakenOver) -> Result<(), StoreError> {
        let store = &self.store;
        store.with(|repo| {
            let written = || -> Result<git2::Oid, git2::Error> {
                // Plain data with string keys is always JSON; the error is for the type checker.
                let json =
                    serde_json::to_vec(taken).map_err(|e| git2::Error::from_str(&e.to_string()))?;
                repo.blob(&json)
            };
            let id = written().map_err(|e| store.not_written("write who took over", e))?;
            let new = store.core_oid(id)?;
            loop {
                let at = store.tip(repo, TAKEN_OVER_REF)?;
                match store.swap(repo, TAKEN_OVER_REF, at.as_ref(), &new) {
                    Ok(()) => return Ok(()),
                    Err(SwapError::Moved(_)) => {}
                    Err(SwapError::Store(e)) => return Err(e),
                }
            }
        })
    }

    /// This machine goes on again.
    pub fn clear_mark(&self) -> Result<(), StoreError> {
        self.remove_ref(TAKEN_OVER_REF)
    }

    /// Removes a ref; absent is fine.
    pub(crate) fn remove_ref(&self, name: &str) -> Result<(), StoreError> {
        let store = &self.store;
        store.with(|repo| {
            let _turn = store.ref_turn()?;
            let removed = repo.find_reference(name).and_then(|mut r| r.delete());
            match removed {
                Err(e) if e.code() != git2::ErrorCode::NotFound => {
                    Err(store.not_written(format!("remove {name}"), e))
                }
                _ => Ok(()),
            }
        })
    }

    /// Sets a ref to an object that is here, wherever it was.
    pub(crate) fn set_ref(&self, name: &str, to: &Oid) -> Result<(), StoreError> {
        let store = &self.store;
        store.with(|repo| {
            loop {
                let at = store.tip(repo, name)?;
                match store.swap(repo, name, at.as_ref(), to) {
                    Ok(()) => return Ok(()),
                    Err(SwapError::Moved(_)) => {}
                    Err(SwapError::Store(e)) => return Err(e),
                }
            }
        })
    }

    /// The remote of the user's repository that this machine synchronises with.
    pub fn remote(&self) -> Result<Option<String>, StoreError> {
        self.store.with(|repo| {
            let local = repo
                .config()
                .and_then(|config| config.open_level(git2::ConfigLevel::Local));
            let found = local.and_then(|config| config.get_string(REMOTE_KEY));
            match found {
                Ok(name) => Ok(Some(name)),
                Err(e) if e.code() == git2::ErrorCode::NotFound => Ok(None),
                Err(e) => Err(self.store.failed(format!("read {REMOTE_KEY}"), e)),
            }
        })
    }

    /// Remembers the remote.
    pub fn set_remote(&self, name: &str) -> Result<(), StoreError> {
        self.store.with(|repo| {
            let set = || {
                let mut config = repo.config()?.open_level(git2::ConfigLevel::Local)?;
                config.set_str(REMOTE_KEY, name)
            };
            let failed = |e| self.store.not_written(format!("write {REMOTE_KEY}"), e);
            set().map_err(failed)
        })
    }
}
