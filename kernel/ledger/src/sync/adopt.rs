//! Going on with what another machine synchronised.

use super::exchange::BROUGHT;
use super::{Exchange, Found, SyncError};
use crate::base::BaseRepo;
use crate::door::DoorRepo;
use crate::git::Git;
use crate::inbox::Inbox;
use crate::places::Places;
use crate::repo::doing;
use crate::state::{ANCHOR_REF, STATE_REF, StateRepo};
use crate::store::{StoreError, SwapError};
use crate::user::{Move, UserRepo};
use factory_core::event::{Event, Now, Refusal};
use factory_core::ids::{Oid, RunId};
use factory_core::model::Machine;
use factory_core::state::{State, StateError};
use factory_core::step::step;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// The work was not taken up here. What is on the remote stays, so it can be tried again.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// A call to git, a file, or the state.
    #[error(transparent)]
    Sync(#[from] SyncError),
    /// The state cannot be decoded.
    #[error(transparent)]
    State(#[from] StateError),
    /// The state does not take the step.
    #[error("the state does not take the step: {0}")]
    Refused(#[from] Refusal),
    /// Somebody wrote to the state here meanwhile.
    #[error("the state here moved meanwhile; try again")]
    Moved,
    /// A work branch is not where it was a moment ago.
    #[error("the branch `{0}` was moved or checked out meanwhile; try again")]
    Branch(String),
}

macro_rules! through_sync {
    ($($error:ty),*) => {
        $(impl From<$error> for AdoptError {
            fn from(error: $error) -> Self {
                Self::Sync(error.into())
            }
        })*
    };
}

through_sync! {
    StoreError,
    crate::repo::RepoError,
    crate::git::GitError,
    crate::inbox::InboxError,
    crate::state::CommitError,
    crate::places::PlaceError
}

/// A work branch of the other machine beside the one of that name here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Branch {
    /// Nothing to do: it is there, perhaps with commits that were added here.
    Fine,
    /// It is made or moved forward.
    Comes {
        /// Where it is here; none where it is not.
        from: Option<Oid>,
        /// Where it goes.
        to: Oid,
    },
    /// It has other commits here.
    Parted,
    /// It would be moved, but this work tree has it checked out.
    CheckedOut(PathBuf),
}

/// How the other machine's branches named in `work` stand to those here, by name.
/// Everything must have been brought before.
pub fn branches(
    exchange: &Exchange,
    user: &UserRepo,
    work: &BTreeSet<String>,
) -> Result<BTreeMap<String, Branch>, SyncError> {
    let mut found = BTreeMap::new();
    for (name, to) in exchange.brought("branch/")? {
        if !work.contains(&name) {
            continue;
        }
        let from = user.tip(&name)?;
        let standing = match &from {
            Some(from) if exchange.is_ancestor(&to, from)? => Branch::Fine,
            Some(from) if !exchange.is_ancestor(from, &to)? => Branch::Parted,
            _ => match user.holders(&name)?.into_iter().next() {
                Some((tree, _)) => Branch::CheckedOut(tree.path),
                None => Branch::Comes { from, to },
            },
        };
        found.insert(name, standing);
    }
    Ok(found)
}

/// A take-over under way.
pub struct TakeOver<'a> {
    /// Where everything lies here.
    pub places: &'a Places,
    /// The user's repository here.
    pub user: &'a UserRepo,
    /// The remote; everything was brought from it.
    pub exchange: &'a Exchange,
    /// Its state.
    pub found: &'a Found,
    /// The state to go on from.
    pub base: Oid,
    /// The state here, which is replaced.
    pub old: Option<Oid>,
    /// `base` is that one, and all that belongs to it is here.
    pub all_here: bool,
}

/// What became of what was here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Adopted {
    /// The ref of `state.git` that keeps the state that was here, where not all
    /// of it is in the new one's history.
    pub kept: Option<String>,
    /// Work branches that were made or moved forward.
    pub branches: Vec<String>,
}

impl TakeOver<'_> {
    /// Makes, in the scratch repository, the step by which `machine` takes over;
    /// gives the new state.
    pub fn step_in(&self, machine: &Machine, now: Now) -> Result<Oid, AdoptError> {
        let store = StateRepo::open(self.exchange.places())?;
        store.set_ref(STATE_REF, &self.base)?;
        let mut head = self.base.clone();
        let mut state = State::decode(&store.read_live(&head)?)?;
        let inbox = Inbox::open(match self.all_here {
            true => self.places,
            false => self.exchange.places(),
        })?;
        let mut events = Vec::new();
        for run in state.runs.values().filter(|run| run.is_open()) {
            // What never said anything has no inbox.
            if inbox.tip(run.id)?.is_none() {
                continue;
            }
            let entries = inbox.read_after(run.id, run.inbox_seen.as_ref())?;
            if !entries.is_empty() {
                let run = run.id;
                events.push(Event::Inbox { run, entries });
            }
        }
        let machine = machine.clone();
        events.push(Event::TakenOver { machine });
        for event in events {
            let made = step(&state, event, now)?;
            let landed = store.commit(Some(&head), &made.delta.files(), &made.message(), now.0)?;
            head = landed.oid().clone();
            state.apply(made.delta);
        }
        Ok(head)
    }

    /// Makes `head`, which is on the remote now, the state of this machine. No
    /// kernel and no container of this factory lives. May be repeated.
    pub fn adopt(&self, head: &Oid, seconds: i64) -> Result<Adopted, AdoptError> {
        let (places, exchange, old) = (self.places, self.exchange, self.old.as_ref());
        let store = StateRepo::init(places)?;
        let base = BaseRepo::init(places.base_git())?;
        let door = DoorRepo::init(places.door_git(), &base)?;
        let scratch = StateRepo::open(exchange.places())?;
        let state = State::decode(&scratch.read_live(head)?)?;
        base.fetch_target(self.user, &state.meta.target)?;
        let mut adopted = Adopted::default();
        let mut objects = vec![head.clone()];
        let mut inboxes = Vec::new();
        if !self.all_here {
            let theirs = Inbox::open(exchange.places())?;
            for run in theirs.runs()? {
                if let Some(tip) = theirs.tip(run)? {
                    objects.push(tip.clone());
                    inboxes.push((run, tip));
                }
            }
        }
        copy(
            exchange,
            &Git::isolated(places.state_git()),
            &objects.iter().map(Oid::as_str).collect::<Vec<_>>(),
        )
        .map_err(SyncError::from)?;
        let parted = match old {
            Some(old) if !exchange.is_ancestor(old, head)? => Some(old),
            _ => None,
        };
        if let Some(old) = parted {
            let kept = format!("refs/factory-lost/{seconds}");
            store.set_ref(&kept, old)?;
            set_aside(places, &store, &state, seconds)?;
            adopted.kept = Some(kept);
        }
        // What is open here belongs to runs that are over now.
        for run in door.open_runs()? {
            door.close_run(run)?;
        }
        if !self.all_here {
            let refspecs = [
                format!("+{BROUGHT}keep/*:refs/keep/*"),
                format!("+{BROUGHT}branch/*:refs/keep/branch/*"),
                format!("+{BROUGHT}transcripts/*:refs/transcripts/*"),
            ];
            let refspecs: Vec<_> = refspecs.iter().map(String::as_str).collect();
            copy(exchange, door.git(), &refspecs).map_err(SyncError::from)?;
            for (name, standing) in branches(exchange, self.user, &self.found.work)? {
                let Branch::Comes { from, to } = standing else {
                    continue;
                };
                match self.user.move_branch(&name, from.as_ref(), &to, &door)? {
                    Move::Moved | Move::AlreadyThere => adopted.branches.push(name),
                    Move::Diverged { .. } | Move::CheckedOut { .. } => {
                        return Err(AdoptError::Branch(name));
                    }
                }
            }
        }
        for (run, tip) in inboxes {
            store.set_ref(&format!("refs/inbox/{run}"), &tip)?;
        }
        store
            .store
            .with(|repo| match store.store.swap(repo, STATE_REF, old, head) {
                Ok(()) => Ok(()),
                Err(SwapError::Moved(_)) => Err(AdoptError::Moved),
                Err(SwapError::Store(e)) => Err(e.into()),
            })?;
        store.set_ref(ANCHOR_REF, head)?;
        // Last: until then nothing is written to the state here.
        store.clear_mark()?;
        Ok(adopted)
    }
}

/// Brings objects out of the scratch repository into one of ours.
fn copy(exchange: &Exchange, to: &Git, refspecs: &[&str]) -> Result<(), crate::repo::RepoError> {
    to.call(["-c", "protocol.version=2", "-c", "core.fsync=all"])
        .args(["-c", "fetch.fsckObjects=false", "fetch", "--quiet"])
        .args(["--no-tags", "--no-write-fetch-head", "--no-prune"])
        .args(["--no-auto-maintenance", "--no-recurse-submodules", "--"])
        .arg(exchange.dir())
        .args(refspecs)
        .run()
        .map_err(doing("take over what was fetched"))?;
    Ok(())
}

/// Puts aside what runs said here whose names will be given again.
fn set_aside(
    places: &Places,
    store: &StateRepo,
    state: &State,
    seconds: i64,
) -> Result<(), AdoptError> {
    let comes = |run: RunId| match state.issues.get(&run.job) {
        Some(issue) => run.k > issue.runs,
        None => run.job.0 > state.meta.last_issue,
    };
    let inbox = Inbox::open(places)?;
    for run in inbox.runs()?.into_iter().filter(|run| comes(*run)) {
        if let Some(tip) = inbox.tip(run)? {
            store.set_ref(&format!("refs/factory-lost/{seconds}-inbox/{run}"), &tip)?;
            store.remove_ref(&format!("refs/inbox/{run}"))?;
        }
    }
    let io = |path: PathBuf| {
        move |source| SyncError::Io {
            doing: "put aside",
            path,
            source,
        }
    };
    let dir = places.transcripts();
    for entry in std::fs::read_dir(&dir).map_err(io(dir.clone()))? {
        let path = entry.map_err(io(dir.clone()))?.path();
        let run = path
            .file_stem()
            .and_then(|name| name.to_str()?.parse().ok());
        if run.is_some_and(comes) {
            let aside = path.with_extension(format!("lost-{seconds}.jsonl"));
            std::fs::rename(&path, aside).map_err(io(path.clone()))?;
        }
    }
    Ok(())
}
