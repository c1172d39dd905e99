//! Inboxes: ref `refs/inbox/<run>` of `state.git`, one commit per thing that a
//! run did. Written by the gateway only, each entry before the agent gets its answer.

use crate::places::Places;
use crate::store::{Store, StoreError, SwapError};
use factory_core::ids::{Oid, RunId};
use factory_core::inbox::{EngineExit, InboxEntry};
use git2::Repository;

/// The one file of an entry's tree.
const ENTRY: &str = "entry.json";
const PREFIX: &str = "refs/inbox/";
/// Each lost swap means that another gateway wrote an entry, and there are
/// never more than a few.
const MOST_SWAPS: usize = 64;

/// An inbox that could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum InboxError {
    /// The inbox is not where the writer expected it.
    #[error("the inbox of {run} moved while an entry was written; read it again")]
    Moved {
        /// The run.
        run: RunId,
        /// Its newest entry.
        now: Option<Oid>,
    },
    /// An entry does not have the form of one.
    #[error(
        "entry {oid} of the inbox of {run} is no entry this program knows; use the factory that wrote it"
    )]
    Corrupt {
        /// The run.
        run: RunId,
        /// The entry's commit.
        oid: Oid,
        /// What the parser said.
        #[source]
        source: serde_json::Error,
    },
    /// An entry's commit holds no entry.
    #[error(
        "commit {oid} in the inbox of {run} has no file `{ENTRY}`; was refs/inbox written by hand?"
    )]
    NoEntry {
        /// The run.
        run: RunId,
        /// The commit.
        oid: Oid,
    },
    /// What was read up to is not in the inbox.
    #[error("the inbox of {run} does not contain {oid}; was refs/inbox changed by hand?")]
    NotInInbox {
        /// The run.
        run: RunId,
        /// The commit looked for.
        oid: Oid,
    },
    /// `state.git` could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The inboxes of all runs. May be shared between threads; calls block on the disk.
pub struct Inbox {
    store: Store,
}

impl Inbox {
    /// Opens the inboxes in `state.git`, which must exist.
    pub fn open(places: &Places) -> Result<Self, InboxError> {
        Ok(Self {
            store: Store::open(places.state_git())?,
        })
    }

    /// Appends an entry. On disk when this returns.
    pub fn append(&self, run: RunId, entry: &InboxEntry, seconds: i64) -> Result<Oid, InboxError> {
        let mut tip = self.tip(run)?;
        for _ in 1..MOST_SWAPS {
            match self.append_at(run, tip.as_ref(), entry, seconds) {
                Err(InboxError::Moved { now, .. }) => tip = now,
                result => return result,
            }
        }
        self.append_at(run, tip.as_ref(), entry, seconds)
    }

    /// Appends an entry if the newest one is still `tip`: for a writer that
    /// decided by what it had read.
    pub fn append_at(
        &self,
        run: RunId,
        tip: Option<&Oid>,
        entry: &InboxEntry,
        seconds: i64,
    ) -> Result<Oid, InboxError> {
        self.store.with(|repo| {
            let tree = self.write_tree(repo, entry)?;
            let message = summary(run, entry);
            let new = self
                .store
                .write_commit(repo, tree, tip, &message, seconds)?;
            match self.store.swap(repo, &ref_name(run), tip, &new) {
                Ok(()) => Ok(new),
                Err(SwapError::Moved(now)) => Err(InboxError::Moved { run, now }),
                Err(SwapError::Store(e)) => Err(e.into()),
            }
        })
    }

    /// The entries after `after` (all without it), oldest first. Reading does
    /// not consume: the reader remembers how far it came.
    pub fn read_after(
        &self,
        run: RunId,
        after: Option<&Oid>,
    ) -> Result<Vec<(Oid, InboxEntry)>, InboxError> {
        let mut entries = Vec::new();
        let end = self.walk_back(run, |oid, read| {
            if Some(oid) == after {
                return Ok(false);
            }
            entries.push((oid.clone(), read()?));
            Ok(true)
        })?;
        match (end, after) {
            (WalkEnd::Root, Some(oid)) => Err(InboxError::NotInInbox {
                run,
                oid: oid.clone(),
            }),
            _ => {
                entries.reverse();
                Ok(entries)
            }
        }
    }

    /// The newest entry of a run.
    pub fn tip(&self, run: RunId) -> Result<Option<Oid>, InboxError> {
        self.store
            .with(|repo| Ok(self.store.tip(repo, &ref_name(run))?))
    }

    /// All runs that have an inbox, sorted.
    pub fn runs(&self) -> Result<Vec<RunId>, InboxError> {
        self.store.with(|repo| {
            let failed = |e| self.store.failed("list the inboxes", e);
            let mut runs = Vec::new();
            for reference in repo
                .references_glob(&format!("{PREFIX}*"))
                .map_err(failed)?
            {
                let reference = reference.map_err(failed)?;
                let name = String::from_utf8_lossy(reference.name_bytes()).into_owned();
                match name.strip_prefix(PREFIX).unwrap_or(&name).parse() {
                    Ok(run) => runs.push(run),
                    Err(error) => tracing::warn!(%name, %error, "a ref among the inboxes is none"),
                }
            }
            runs.sort();
            Ok(runs)
        })
    }

    /// Shows `visit` each entry from the newest on, until it says `false`.
    fn walk_back(
        &self,
        run: RunId,
        mut visit: impl FnMut(
            &Oid,
            &dyn Fn() -> Result<InboxEntry, InboxError>,
        ) -> Result<bool, InboxError>,
    ) -> Result<WalkEnd, InboxError> {
        self.store.with(|repo| {
            let mut next = self.store.tip(repo, &ref_name(run))?;
            while let Some(oid) = next {
                let commit = self.store.find_commit(repo, &oid)?;
                if !visit(&oid, &|| self.read_entry(repo, run, &oid, &commit))? {
                    return Ok(WalkEnd::Stopped);
                }
                next = commit
                    .parent_ids()
                    .next()
                    .map(|id| self.store.core_oid(id))
                    .transpose()?;
            }
            Ok(WalkEnd::Root)
        })
    }

    fn read_entry(
        &self,
        repo: &Repository,
        run: RunId,
        oid: &Oid,
        commit: &git2::Commit<'_>,
    ) -> Result<InboxEntry, InboxError> {
        let failed = |e| {
            self.store
                .failed(format!("read entry {oid} of the inbox of {run}"), e)
        };
        let tree = commit.tree().map_err(failed)?;
        let Some(entry) = tree.get_name(ENTRY) else {
            return Err(InboxError::NoEntry {
                run,
                oid: oid.clone(),
            });
        };
        let blob = repo.find_blob(entry.id()).map_err(failed)?;
        serde_json::from_slice(blob.content()).map_err(|source| InboxError::Corrupt {
            run,
            oid: oid.clone(),
            source,
        })
    }

    fn write_tree(&self, repo: &Repository, entry: &InboxEntry) -> Result<git2::Oid, StoreError> {
        let write = || -> Result<git2::Oid, git2::Error> {
            // Plain data with string keys is always JSON; the error is for the type checker.
            let json =
                serde_json::to_vec(entry).map_err(|e| git2::Error::from_str(&e.to_string()))?;
            let mut builder = repo.treebuilder(None)?;
            builder.insert(ENTRY, repo.blob(&json)?, 0o100_644)?;
            builder.write()
        };
        write().map_err(|e| self.store.not_written("write an inbox entry", e))
    }
}

enum WalkEnd {
    /// The visitor had enough.
    Stopped,
    /// There are no older entries.
    Root,
}

fn ref_name(run: RunId) -> String {
    format!("{PREFIX}{run}")
}

/// One line about an entry, for `git log`.
fn summary(run: RunId, entry: &InboxEntry) -> String {
    let what = match entry {
        InboxEntry::Push { new, .. } => format!("push {}", new.short()),
        InboxEntry::Usage(u) => {
            // The model's name came over the network.
            let model: String = u
                .model
                .chars()
                .filter(|c| !c.is_control())
                .take(80)
                .collect();
            format!(
                "model call {model} ({}), {} tokens out",
                u.status, u.output_tokens
            )
        }
        InboxEntry::OverBudget => "the budget is used up".to_owned(),
        InboxEntry::Checkpoint { commit } => format!("checkpoint {}", commit.short()),
        InboxEntry::Report { json } => format!("report, {} bytes", json.len()),
        InboxEntry::End(end) => match &end.exit {
            EngineExit::Code(code) => format!("end, exit code {code}"),
            EngineExit::Signal(signal) => format!("end, signal {signal}"),
            EngineExit::Deadline => "end at the deadline".to_owned(),
            EngineExit::Stalled => "end, no sign of life".to_owned(),
            EngineExit::OutOfDisk => "end, more disk than its limit".to_owned(),
            EngineExit::Stopped => "end, told to stop".to_owned(),
            EngineExit::NotStarted(_) => "end, the engine did not start".to_owned(),
            EngineExit::NoWorkspace(_) => "end, no workspace".to_owned(),
        },
    };
    format!("{run}: {what}")
}
