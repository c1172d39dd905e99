//! `state.git` as a store of objects and refs: what the state and the inboxes share.

use crate::lock::{LockError, RefTurn};
use factory_core::ids::Oid;
use git2::{ErrorCode, Repository, Signature, Time};
use rustix::fs::Access;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

/// `state.git` could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is none.
    #[error("{path} does not exist; run\n  factory init", path = path.display())]
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
    /// The disk is full, or the directory may not be written to.
    #[error("cannot write to {path}; free some space or make it writable", path = path.display())]
    Unwritable {
        /// The directory that does not take a file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Refs cannot be moved.
    #[error("cannot move refs in {path}", path = path.display())]
    Turn {
        /// The repository.
        path: PathBuf,
        /// Why.
        #[source]
        source: LockError,
    },
    /// Anything else that libgit2 says.
    #[error("cannot {doing} in {path}; see what is wrong with\n  factory state verify", path = path.display())]
    Git {
        /// What was being done.
        doing: String,
        /// The repository.
        path: PathBuf,
        /// What libgit2 said.
        #[source]
        source: git2::Error,
    },
}

/// A ref that was not moved.
#[derive(Debug)]
pub(crate) enum SwapError {
    /// It was not where it was expected, but here.
    Moved(Option<Oid>),
    /// It could not be written.
    Store(StoreError),
}

/// `state.git`, usable from many threads: libgit2's handle is for one thread at
/// a time, so each call borrows an idle handle or opens another.
pub(crate) struct Store {
    path: PathBuf,
    idle: Mutex<Vec<(Packs, Repository)>>,
}

/// When packs were last added or removed, as far as the system tells.
type Packs = Option<SystemTime>;

impl Store {
    pub(crate) fn open(path: PathBuf) -> Result<Self, StoreError> {
        let store = Self {
            path,
            idle: Mutex::default(),
        };
        store.with(|_| Ok(()))?;
        Ok(store)
    }

    /// Runs `work` with a handle of its own.
    pub(crate) fn with<T, E: From<StoreError>>(
        &self,
        work: impl FnOnce(&Repository) -> Result<T, E>,
    ) -> Result<T, E> {
        let packs = self.packs();
        let idle = {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            // libgit2 keeps packs open, also those that packing has replaced.
            idle.retain(|(seen, _)| *seen == packs);
            idle.pop()
        };
        let repo = match idle {
            Some((_, repo)) => repo,
            None => Repository::open_bare(&self.path).map_err(|source| match source.code() {
                ErrorCode::NotFound => StoreError::Missing {
                    path: self.path.clone(),
                },
                _ => self.failed("open the repository", source),
            })?,
        };
        let result = work(&repo);
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((packs, repo));
        result
    }

    fn packs(&self) -> Packs {
        let meta = std::fs::metadata(self.path.join("objects/pack"));
        meta.and_then(|meta| meta.modified()).ok()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The error of something that only reads.
    pub(crate) fn failed(&self, doing: impl Into<String>, source: git2::Error) -> StoreError {
        StoreError::Git {
            doing: doing.into(),
            path: self.path.clone(),
            source,
        }
    }

    /// The error of something that writes. libgit2 hides the system's error
    /// number, so a file is written to see whether the disk is to blame.
    pub(crate) fn not_written(&self, doing: impl Into<String>, source: git2::Error) -> StoreError {
        match unwritable(&self.path) {
            Some((path, system)) => StoreError::Unwritable {
                path,
                source: system,
            },
            // There is room again, or there was room for a file as small as ours.
            None if source.class() == git2::ErrorClass::Os => StoreError::Unwritable {
                path: self.path.clone(),
                source: std::io::Error::other(source),
            },
            None => self.failed(doing, source),
        }
    }

    /// Where `name` points to.
    pub(crate) fn tip(&self, repo: &Repository, name: &str) -> Result<Option<Oid>, StoreError> {
        match repo.refname_to_id(name) {
            Ok(id) => self.core_oid(id).map(Some),
            Err(e) if e.code() == ErrorCode::NotFound => Ok(None),
            Err(e) => Err(self.failed(format!("read {name}"), e)),
        }
    }

    /// Writes a commit that no ref points to yet.
    pub(crate) fn write_commit(
        &self,
        repo: &Repository,
        tree: git2::Oid,
        parent: Option<&Oid>,
        message: &str,
        seconds: i64,
    ) -> Result<Oid, StoreError> {
        let parent = parent.map(|p| self.find_commit(repo, p)).transpose()?;
        let written = || -> Result<git2::Oid, git2::Error> {
            let who = Signature::new("factory", "factory@localhost", &Time::new(seconds, 0))?;
            let tree = repo.find_tree(tree)?;
            repo.commit(None, &who, &who, message, &tree, parent.as_ref().as_slice())
        };
        self.core_oid(written().map_err(|e| self.not_written("write a commit", e))?)
    }

    /// Moves `name` to `new` if it is still at `expected`; none is "does not exist".
    pub(crate) fn swap(
        &self,
        repo: &Repository,
        name: &str,
        expected: Option<&Oid>,
        new: &Oid,
    ) -> Result<(), SwapError> {
        let store = SwapError::Store;
        let _turn = self.ref_turn().map_err(store)?;
        let to = self.git_oid(new).map_err(store)?;
        // To libgit2 the zero id means that the ref must not exist.
        let from = expected
            .map_or(Ok(git2::Oid::ZERO_SHA1), |e| self.git_oid(e))
            .map_err(store)?;
        let swap = || repo.reference_matching(name, to, true, from, "").map(drop);
        let result = match swap() {
            Err(e) if e.code() == ErrorCode::Locked => {
                // We have the turn, so the process that locked it is dead.
                let stale = self.path.join(format!("{name}.lock"));
                tracing::warn!(lock = %stale.display(), "removing the ref lock of a process that was killed");
                std::fs::remove_file(&stale).map_err(|source| {
                    store(StoreError::Unwritable {
                        path: stale,
                        source,
                    })
                })?;
                swap()
            }
            result => result,
        };
        match result {
            Ok(()) => Ok(()),
            Err(e) if matches!(e.code(), ErrorCode::Modified | ErrorCode::NotFound) => {
                Err(SwapError::Moved(self.tip(repo, name).map_err(store)?))
            }
            Err(e) => Err(store(self.not_written(format!("move {name}"), e))),
        }
    }

    /// Waits for the turn to move refs.
    pub(crate) fn ref_turn(&self) -> Result<RefTurn, StoreError> {
        RefTurn::wait(&self.path).map_err(|source| match source {
            LockError::File { path, source } => StoreError::Unwritable { path, source },
            source => StoreError::Turn {
                path: self.path.clone(),
                source,
            },
        })
    }

    pub(crate) fn find_commit<'r>(
        &self,
        repo: &'r Repository,
        oid: &Oid,
    ) -> Result<git2::Commit<'r>, StoreError> {
        repo.find_commit(self.git_oid(oid)?)
            .map_err(|e| self.failed(format!("read commit {oid}"), e))
    }

    pub(crate) fn git_oid(&self, oid: &Oid) -> Result<git2::Oid, StoreError> {
        git2::Oid::from_str(oid.as_str())
            .map_err(|e| self.failed(format!("read the object id {oid}"), e))
    }

    pub(crate) fn core_oid(&self, id: git2::Oid) -> Result<Oid, StoreError> {
        id.to_string().parse().map_err(|_| {
            let source = git2::Error::from_str("the repository does not use SHA-1");
            self.failed(format!("use the object id {id}"), source)
        })
    }
}

/// The first directory of the repository that does not take a file, and why.
fn unwritable(repository: &Path) -> Option<(PathBuf, std::io::Error)> {
    let objects = repository.join("objects");
    let refs = repository.join("refs");
    let mut dirs = vec![
        repository.to_owned(),
        objects.clone(),
        refs.join("inbox"),
        refs,
    ];
    for entry in std::fs::read_dir(&objects).into_iter().flatten().flatten() {
        dirs.push(entry.path());
    }
    for dir in dirs.into_iter().filter(|d| d.is_dir()) {
        if let Err(e) = rustix::fs::access(&dir, Access::WRITE_OK | Access::EXEC_OK) {
            return Some((dir, e.into()));
        }
    }
    // About what one step writes.
    let probe = || -> std::io::Result<()> {
        let mut file = tempfile::Builder::new()
            .prefix("tmp_probe_")
            .tempfile_in(&objects)?;
        file.write_all(&[0; 256 << 10])?;
        file.as_file().sync_all()
    };
    probe().err().map(|e| (objects.clone(), e))
}
