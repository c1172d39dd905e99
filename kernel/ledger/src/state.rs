//! The state: ref `refs/state` of `state.git`, one commit per journalled step.

use crate::history::StepNo;
use crate::mark::TakenOver;
use crate::places::Places;
use crate::store::{Store, StoreError, SwapError};
use factory_core::change::FileChange;
use factory_core::ids::Oid;
use git2::{ObjectType, Repository, RepositoryInitMode, RepositoryInitOptions, Tree};
use std::collections::BTreeMap;
use std::path::Path;

/// The ref that holds the state.
pub const STATE_REF: &str = "refs/state";
/// A second way into the state's history: follows [`STATE_REF`] every
/// hundred steps, so that a lost or rewritten one is noticed and found again.
pub const ANCHOR_REF: &str = "refs/anchor";
/// How many steps the anchor stays behind at most.
const ANCHOR_EVERY: u64 = 100;
/// The directory of what is no longer live.
pub(crate) const ARCHIVE: &str = "archive";
/// Git's mode for a plain file.
const FILE: i32 = 0o100_644;
/// Git's mode for a directory.
const DIR: i32 = 0o040_000;

/// Proof that a step's commit landed: only then may its effects be performed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Landed(Oid);

impl Landed {
    /// The commit, now the state's tip.
    pub fn oid(&self) -> &Oid {
        &self.0
    }
}

/// A step that did not land; the state is what it was.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Somebody else's step landed first.
    #[error("the state moved while a step was made; read it again and repeat the step")]
    Moved {
        /// Where the state is now.
        now: Option<Oid>,
    },
    /// A change cannot be made.
    #[error("`{path}` cannot be a file of the state: {why}")]
    BadPath {
        /// The path, from the root of the state's tree.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Another machine goes on with the work: nothing is added here any more.
    #[error("{0} has taken this factory over; what is written here would be lost")]
    TakenOver(TakenOver),
    /// The repository could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// One step in the state's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// The commit.
    pub oid: Oid,
    /// When it was made, in unix seconds.
    pub seconds: i64,
    /// What happened, with its trailers.
    pub message: String,
}

/// One entry of a directory in the state's tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// Its name.
    pub name: String,
    /// True for a directory.
    pub is_dir: bool,
}

/// The database. May be shared between threads; calls block on the disk.
pub struct StateRepo {
    pub(crate) store: Store,
}

impl StateRepo {
    /// Makes `state.git` where it is missing, and opens it. The directories of
    /// `places` must exist. May be repeated, and survives being killed.
    pub fn init(places: &Places) -> Result<Self, StoreError> {
        let path = places.state_git();
        if !path.exists() {
            create(&path, places.root())?;
        }
        Self::open(places)
    }

    /// Opens `state.git`, which must exist.
    pub fn open(places: &Places) -> Result<Self, StoreError> {
        Ok(Self {
            store: Store::open(places.state_git())?,
        })
    }

    /// The newest state; none before the first step.
    pub fn head(&self) -> Result<Option<Oid>, StoreError> {
        self.store.with(|repo| self.store.tip(repo, STATE_REF))
    }

    /// True where `before` is the `steps`-th commit below `commit`.
    pub fn follows(&self, commit: &Oid, before: &Oid, steps: u64) -> Result<bool, StoreError> {
        self.store.with(|repo| {
            let mut at = self.store.git_oid(commit)?;
            for _ in 0..steps {
                let commit = repo.find_commit(at);
                let commit =
                    commit.map_err(|e| self.store.failed(format!("read commit {at}"), e))?;
                match commit.parent_ids().next() {
                    Some(parent) => at = parent,
                    None => return Ok(false),
                }
            }
            Ok(self.store.core_oid(at)? == *before)
        })
    }

    /// Every file of the state at `commit` that is not archived, by path.
    pub fn read_live(&self, commit: &Oid) -> Result<BTreeMap<String, Vec<u8>>, StoreError> {
        self.store.with(|repo| {
            let tree = self.tree(repo, commit)?;
            let mut files = BTreeMap::new();
            self.collect(repo, &tree, "", &mut files)?;
            Ok(files)
        })
    }

    /// One file of the state at `commit`; none where there is no such file.
    pub fn read_file(&self, commit: &Oid, path: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.with(|repo| {
            let Some(object) = self.lookup(repo, commit, path)? else {
                return Ok(None);
            };
            Ok(object.into_blob().ok().map(|blob| blob.content().to_vec()))
        })
    }

    /// What is in a directory of the state at `commit` (`""` is the root),
    /// sorted by name; nothing where there is no such directory.
    pub fn list(&self, commit: &Oid, dir: &str) -> Result<Vec<DirEntry>, StoreError> {
        self.store.with(|repo| {
            let object = self.lookup(repo, commit, dir)?;
            let tree = object.and_then(|object| object.into_tree().ok());
            let Some(tree) = tree else {
                return Ok(Vec::new());
            };
            let mut entries = Vec::new();
            for entry in tree.iter() {
                let name = entry
                    .name()
                    .map_err(|e| self.store.failed(format!("list {dir}"), e))?
                    .to_owned();
                entries.push(DirEntry {
                    name,
                    is_dir: entry.kind() == Some(ObjectType::Tree),
                });
            }
            entries.sort_by(|a, b| a.name.cmp(&b.name));
            Ok(entries)
        })
    }

    /// Commits `changes` on top of `parent`, if that is still the newest state.
    /// Later changes of one path win. On disk when this returns.
    pub fn commit(
        &self,
        parent: Option<&Oid>,
        changes: &[FileChange],
        message: &str,
        seconds: i64,
    ) -> Result<Landed, CommitError> {
        self.store.with(|repo| {
            if let Some(taken) = self.mark(repo)? {
                return Err(CommitError::TakenOver(taken));
            }
            // The swap decides; looking first saves writing what cannot land.
            let now = self.store.tip(repo, STATE_REF)?;
            if now.as_ref() != parent {
                return Err(CommitError::Moved { now });
            }
            let before = parent.map(|p| self.tree(repo, p)).transpose()?;
            let tree = self.write_tree(repo, before.as_ref(), changes)?;
            let new = self
                .store
                .write_commit(repo, tree, parent, message, seconds)?;
            match self.store.swap(repo, STATE_REF, parent, &new) {
                Ok(()) => {
                    if StepNo::of(message).is_some_and(|step| step.n.is_multiple_of(ANCHOR_EVERY)) {
                        self.move_anchor(repo, &new);
                    }
                    Ok(Landed(new))
                }
                Err(SwapError::Moved(now)) => Err(CommitError::Moved { now }),
                Err(SwapError::Store(e)) => Err(e.into()),
            }
        })
    }

    /// The newest `limit` steps, newest first.
    pub fn log(&self, limit: usize) -> Result<Vec<LogEntry>, StoreError> {
        self.store.with(|repo| {
            let mut entries = Vec::new();
            let mut next = self.store.tip(repo, STATE_REF)?;
            while let Some(oid) = next.take().filter(|_| entries.len() < limit) {
                let commit = self.store.find_commit(repo, &oid)?;
                next = commit
                    .parent_ids()
                    .next()
                    .map(|id| self.store.core_oid(id))
                    .transpose()?;
                let message = String::from_utf8_lossy(commit.message_bytes()).into_owned();
                entries.push(LogEntry {
                    oid,
                    seconds: commit.time().seconds(),
                    message,
                });
            }
            Ok(entries)
        })
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        self.store.path()
    }

    /// Brings the anchor to the newest step, besides every hundredth: a state that
    /// is set back later is noticed.
    pub fn anchor(&self, head: &Oid) -> Result<(), StoreError> {
        self.store.with(|repo| {
            self.move_anchor(repo, head);
            Ok(())
        })
    }

    /// Brings the anchor to a landed step.
    fn move_anchor(&self, repo: &Repository, landed: &Oid) {
        let moved = self
            .store
            .tip(repo, ANCHOR_REF)
            .map_err(SwapError::Store)
            .and_then(|at| self.store.swap(repo, ANCHOR_REF, at.as_ref(), landed));
        match moved {
            // Another writer was a hundred steps further: its anchor is as good.
            Ok(()) | Err(SwapError::Moved(_)) => {}
            // The step has landed all the same, and `factory state verify` names this.
            Err(SwapError::Store(error)) => {
                tracing::warn!(%error, "the anchor of the state was not moved");
            }
        }
    }

    /// Writes the tree that `changes` make of `before`.
    pub(crate) fn write_tree(
        &self,
        repo: &Repository,
        before: Option<&Tree<'_>>,
        changes: &[FileChange],
    ) -> Result<git2::Oid, CommitError> {
        match self.apply(repo, before, "", &ChangedDir::of(changes)?)? {
            Some(tree) => Ok(tree),
            None => Ok(self.written(repo.treebuilder(None).and_then(|empty| empty.write()))?),
        }
    }

    fn tree<'r>(&self, repo: &'r Repository, commit: &Oid) -> Result<Tree<'r>, StoreError> {
        let commit = self.store.find_commit(repo, commit)?;
        commit.tree().map_err(|e| {
            self.store
                .failed(format!("read the tree of commit {}", commit.id()), e)
        })
    }

    fn lookup<'r>(
        &self,
        repo: &'r Repository,
        commit: &Oid,
        path: &str,
    ) -> Result<Option<git2::Object<'r>>, StoreError> {
        let failed = |e| {
            self.store
                .failed(format!("read {path} of commit {commit}"), e)
        };
        let tree = self.tree(repo, commit)?;
        if path.is_empty() {
            return Ok(Some(tree.into_object()));
        }
        match tree.get_path(Path::new(path)) {
            Ok(entry) => entry.to_object(repo).map(Some).map_err(failed),
            Err(e) if e.code() == git2::ErrorCode::NotFound => Ok(None),
            Err(e) => Err(failed(e)),
        }
    }

    fn collect(
        &self,
        repo: &Repository,
        tree: &Tree<'_>,
        prefix: &str,
        files: &mut BTreeMap<String, Vec<u8>>,
    ) -> Result<(), StoreError> {
        for entry in tree.iter() {
            let failed = |e| {
                self.store
                    .failed(format!("read the files in `{prefix}`"), e)
            };
            let path = format!("{prefix}{}", entry.name().map_err(failed)?);
            match entry.kind() {
                Some(ObjectType::Tree) if path == ARCHIVE => {}
                Some(ObjectType::Tree) => {
                    let below = repo.find_tree(entry.id()).map_err(failed)?;
                    self.collect(repo, &below, &format!("{path}/"), files)?;
                }
                _ => {
                    let blob = repo.find_blob(entry.id()).map_err(failed)?;
                    files.insert(path, blob.content().to_vec());
                }
            }
        }
        Ok(())
    }

    /// Writes the tree that `changes` make of `before`, touching only the
    /// directories on the way to a change; none when nothing is left.
    fn apply(
        &self,
        repo: &Repository,
        before: Option<&Tree<'_>>,
        prefix: &str,
        changes: &ChangedDir<'_>,
    ) -> Result<Option<git2::Oid>, CommitError> {
        let failed = |e| {
            self.store
                .failed(format!("read the directory `{prefix}`"), e)
        };
        let mut builder = repo.treebuilder(before).map_err(failed)?;
        for (name, change) in &changes.0 {
            let path = format!("{prefix}{name}");
            let old = builder
                .get(*name)
                .map_err(failed)?
                .map(|entry| (entry.id(), entry.kind()));
            let old_dir = match old {
                Some((id, Some(ObjectType::Tree))) => Some(repo.find_tree(id).map_err(failed)?),
                _ => None,
            };
            let new = match (change, &old_dir) {
                (Changed::File(_), Some(_)) => {
                    return Err(CommitError::BadPath {
                        path,
                        why: "a directory has that name",
                    });
                }
                (Changed::Dir(_), None) if old.is_some() => {
                    return Err(CommitError::BadPath {
                        path,
                        why: "it is a file, so nothing can be below it",
                    });
                }
                (Changed::File(content), None) => content
                    .map(|bytes| self.written(repo.blob(bytes)).map(|id| (id, FILE)))
                    .transpose()?,
                (Changed::Dir(below), old_dir) => self
                    .apply(repo, old_dir.as_ref(), &format!("{path}/"), below)?
                    .map(|id| (id, DIR)),
            };
            match new {
                Some((id, mode)) => {
                    self.written(builder.insert(*name, id, mode).map(drop))?;
                }
                None if old.is_some() => self.written(builder.remove(*name))?,
                None => {}
            }
        }
        if builder.is_empty() {
            Ok(None)
        } else {
            Ok(Some(self.written(builder.write())?))
        }
    }

    fn written<T>(&self, result: Result<T, git2::Error>) -> Result<T, StoreError> {
        result.map_err(|e| self.store.not_written("write a step", e))
    }
}

/// What changes in one directory, by name.
struct ChangedDir<'a>(BTreeMap<&'a str, Changed<'a>>);

enum Changed<'a> {
    /// A file gets this content, or goes.
    File(Option<&'a [u8]>),
    /// Something below changes.
    Dir(ChangedDir<'a>),
}

impl<'a> ChangedDir<'a> {
    fn of(changes: &'a [FileChange]) -> Result<Self, CommitError> {
        let mut root = Self(BTreeMap::new());
        for change in changes {
            let bad = |why| CommitError::BadPath {
                path: change.path.clone(),
                why,
            };
            let (dirs, name) = match change.path.rsplit_once('/') {
                Some((dirs, name)) => (Some(dirs), name),
                None => (None, change.path.as_str()),
            };
            let names = dirs.into_iter().flat_map(|d| d.split('/'));
            for part in names.clone().chain([name]) {
                if part.is_empty()
                    || part == "."
                    || part == ".."
                    || part.eq_ignore_ascii_case(".git")
                    || part.contains('\0')
                {
                    return Err(bad("its parts may not be empty, `.`, `..` or `.git`"));
                }
            }
            let mut dir = &mut root;
            for part in names {
                match dir
                    .0
                    .entry(part)
                    .or_insert_with(|| Changed::Dir(Self(BTreeMap::new())))
                {
                    Changed::Dir(below) => dir = below,
                    Changed::File(_) => {
                        return Err(bad(
                            "the same step changes a file where it needs a directory",
                        ));
                    }
                }
            }
            let file = Changed::File(change.content.as_deref());
            if let Some(Changed::Dir(_)) = dir.0.insert(name, file) {
                return Err(bad("the same step changes files below it"));
            }
        }
        Ok(root)
    }
}

/// Makes `state.git` beside its place and moves it there when it is whole.
fn create(path: &Path, root: &Path) -> Result<(), StoreError> {
    let unwritable = |source| StoreError::Unwritable {
        path: root.to_owned(),
        source,
    };
    let git = |source| StoreError::Git {
        doing: "make the repository".to_owned(),
        path: path.to_owned(),
        source,
    };
    let new = tempfile::Builder::new()
        .prefix(".state.git-")
        .tempdir_in(root)
        .map_err(unwritable)?;
    let mut options = RepositoryInitOptions::new();
    // Neither templates nor `init.defaultBranch` of the user.
    options
        .bare(true)
        .external_template(false)
        .initial_head("main");
    options.mode(RepositoryInitMode::from_bits_retain(0o700));
    let repo = Repository::init_opts(new.path(), &options).map_err(git)?;
    let configure = || -> Result<(), git2::Error> {
        let mut config = repo.config()?.open_level(git2::ConfigLevel::Local)?;
        // Switches on libgit2's fsync, of objects and of refs.
        config.set_bool("core.fsyncObjectFiles", true)?;
        config.set_str("core.sharedRepository", "0600")?;
        config.set_bool("core.logAllRefUpdates", false)?;
        config.set_i32("gc.auto", 0)?;
        config.set_bool("maintenance.auto", false)
    };
    configure().map_err(git)?;
    // libgit2 does not fsync these two, and without them nothing else counts.
    for file in ["config", "HEAD"] {
        let synced = std::fs::File::open(new.path().join(file)).and_then(|f| f.sync_all());
        synced.map_err(unwritable)?;
    }
    match std::fs::rename(new.path(), path) {
        Ok(()) => {}
        // Somebody else was faster: theirs is as good.
        Err(_) if path.join("HEAD").exists() => return Ok(()),
        Err(source) => {
            return Err(StoreError::Unwritable {
                path: path.to_owned(),
                source,
            });
        }
    }
    std::fs::File::open(root)
        .and_then(|dir| dir.sync_all())
        .map_err(unwritable)
}
